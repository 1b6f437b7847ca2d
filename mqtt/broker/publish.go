package broker

import (
	"errors"
	"strings"
	"unsafe"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

const textReserved = "user property names that begin with mqtt. or mr- are reserved"

// reserved tells whether a device uses a property name that is ours in the log.
func reserved(user []packet.UserProperty) bool {
	for i := range user {
		if n := user[i].Name; strings.HasPrefix(n, "mqtt.") || strings.HasPrefix(n, "mr-") {
			return true
		}
	}
	return false
}

// Refusals of a publish. The client hears the code where its version and QoS let it.
var (
	refuseTopic    = &packet.Error{Code: packet.TopicNameInvalid, Text: "clients may not publish to $ topics"}
	refuseReserved = &packet.Error{Code: packet.ImplementationSpecificError, Text: textReserved}
	refuseRetained = &packet.Error{Code: packet.QuotaExceeded, Text: "there are as many retained messages as the server takes"}
	refuseDenied   = &packet.Error{Code: packet.NotAuthorized, Text: "not authorized to publish to the topic"}
)

// publish handles one PUBLISH: checks it and adds it to the burst. Nothing of p is copied; the store does that.
func (c *conn) publish(s *burst, p *packet.Publish) *fault {
	s.received[p.QoS]++
	if f := c.withinReceiveMaximum(p); f != nil {
		s.broken++
		return f
	}
	if err := validate(p.Topic); errors.Is(err, topic.ErrWildcard) {
		s.broken++
		return &fault{packet.MalformedPacket, err.Error()} // MQTT-3.3.2-2
	} else if err != nil {
		return c.refusePublish(s, p, &packet.Error{Code: packet.TopicNameInvalid, Text: err.Error()})
	}
	name, f := c.topicOf(p)
	if f != nil {
		s.broken++
		return f
	}
	var triple session.Triple
	if p.QoS == 2 {
		c.qos2 = true
		t, state := c.inbound.Begin(p.PacketID)
		switch state {
		case session.Pending:
			s.repeated++
			c.pending(s, p.PacketID)
			return nil
		case session.Open:
			s.repeated++
			c.expect(s, receipt{kind: packet.PUBREC, id: p.PacketID, msg: noMessage})
			return nil
		}
		triple = t
	}
	// Only a message that is not in the log yet can be refused: a failure would free the id of one that is, and the next message
	// with that id would pass for a duplicate.
	if r := c.refusal(p, name); r != nil {
		if p.QoS == 2 {
			c.inbound.Refused(p.PacketID, triple)
		}
		return c.refusePublish(s, p, r)
	}
	switch p.QoS {
	case 1:
		c.sent++
		c.expect(s, receipt{kind: packet.PUBACK, id: p.PacketID, msg: int32(len(s.msgs))})
	case 2:
		c.expect(s, receipt{kind: packet.PUBREC, id: p.PacketID, msg: int32(len(s.msgs)), triple: triple})
	}
	s.stamp(c.b)
	s.size += messageOverhead + len(name) + len(p.Payload)
	s.msgs = append(s.msgs, session.Message{
		Offset: -1, Time: s.now, Topic: name, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain,
		Clear: p.Retain && len(p.Payload) == 0, Client: c.key.ClientID, Props: s.propsOf(&p.Props), QoS2: triple,
		Received: s.clock,
	})
	return nil
}

// What is counted of a message that the log has not answered, beside its topic and payload: what it takes itself, and what each append
// takes, however many messages are in it. A message that comes alone costs a kilobyte, most of which is not its own.
const (
	messageOverhead = 384
	appendOverhead  = 640
)

// validate checks a topic; there is none if the packet has an alias instead.
func validate(name []byte) error {
	if len(name) == 0 {
		return nil
	}
	return topic.ValidateName(name)
}

// topicOf is the topic, through an alias if there is one. It may alias the burst.
func (c *conn) topicOf(p *packet.Publish) (string, *fault) {
	if p.Props.Has&packet.PTopicAlias == 0 {
		return unsafe.String(unsafe.SliceData(p.Topic), len(p.Topic)), nil
	}
	alias := int(p.Props.TopicAlias)
	if alias > int(c.lis.limits.TopicAliases) {
		return "", &fault{packet.TopicAliasInvalid, "topic alias above the maximum"} // MQTT-3.3.2-9
	}
	if len(p.Topic) > 0 {
		if len(c.aliases) <= alias {
			c.aliases = append(c.aliases, make([]string, alias+1-len(c.aliases))...)
		}
		if old := c.aliases[alias]; old != string(p.Topic) {
			if c.aliasBytes += int32(len(p.Topic) - len(old)); int(c.aliasBytes) > c.b.o.Limits.AliasBytes {
				return "", &fault{packet.QuotaExceeded, "the topics of the topic aliases are too long together"}
			}
			c.aliases[alias] = string(p.Topic)
		}
	}
	if alias >= len(c.aliases) || c.aliases[alias] == "" {
		return "", &fault{packet.ProtocolError, "topic alias was never set"}
	}
	return c.aliases[alias], nil
}

// withinReceiveMaximum enforces the Receive Maximum of our CONNACK [MQTT-3.3.4-9]. It begins anew with each connection: ids that
// were open before do not count, or a client that lost a connection with all of them open could never send again.
func (c *conn) withinReceiveMaximum(p *packet.Publish) *fault {
	if p.QoS == 0 || c.version < packet.V5 {
		return nil
	}
	under := int(c.sent - c.acked.Load())
	if c.qos2 || p.QoS == 2 {
		under += max(c.inbound.Outstanding()-c.inherited, 0)
	}
	if under < int(c.lis.limits.ReceiveMaximum) {
		return nil
	}
	if c.lis.o.Lenient {
		c.b.stats.refused.add("receive_maximum_exceeded_tolerated", 1)
		return nil
	}
	return &fault{packet.ReceiveMaximumExceeded, "more publishes under way than the Receive Maximum"}
}

// refusal is why a well-formed PUBLISH is not accepted, or nil.
func (c *conn) refusal(p *packet.Publish, name string) *packet.Error {
	switch {
	case name[0] == '$':
		return refuseTopic
	case len(p.Props.User) > 0 && reserved(p.Props.User):
		return refuseReserved
	case !c.mayPublish(name):
		c.b.stats.denied.add(deniedPublish, 1)
		return refuseDenied
	case p.Retain && len(p.Payload) > 0 && !c.owner.core.Retained().Admits(name, len(p.Payload)):
		return refuseRetained
	}
	return nil
}

// refusePublish counts a refusal and answers it. Before 5.0 no ack can say no, and an ack that we send is a receipt: the
// connection ends instead [MQTT-3.3.5-2 of 3.1.1].
func (c *conn) refusePublish(s *burst, p *packet.Publish, r *packet.Error) *fault {
	c.b.refused(c, label(r.Code))
	if list := c.b.traces.now.Load(); list != nil {
		c.traceRefused(*list, p, r)
	}
	switch {
	case p.QoS == 0:
		return nil
	case c.version < packet.V5:
		return &fault{r.Code, r.Text}
	case p.QoS == 1:
		c.sent++
		c.expect(s, receipt{kind: packet.PUBACK, id: p.PacketID, msg: noMessage, refused: r})
	default:
		c.expect(s, receipt{kind: packet.PUBREC, id: p.PacketID, msg: noMessage, refused: r})
	}
	return nil
}

const inProps = packet.PMessageExpiry | packet.PPayloadFormat | packet.PContentType | packet.PResponseTopic | packet.PCorrelation

// propsOf is the part of a PUBLISH's properties that goes with the message, in memory of the burst; nil: none.
func (s *burst) propsOf(p *packet.Properties) *session.Props {
	if p.Has&inProps == 0 && len(p.User) == 0 {
		return nil
	}
	s.props = append(s.props, session.Props{
		HasExpiry: p.Has&packet.PMessageExpiry != 0, Expiry: p.MessageExpiry, PayloadFormat: p.PayloadFormat,
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, Correlation: p.Correlation,
		// The decoder uses its slice again for the next packet.
		User: append([]packet.UserProperty(nil), p.User...),
	})
	return &s.props[len(s.props)-1]
}
