package client

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/mqtt/packet"
)

func (c *Client) handle(l *link, p packet.Packet) error {
	switch p := p.(type) {
	case *packet.Publish:
		return c.receive(l, p)
	case *packet.Ack:
		c.acked(p)
	case *packet.Suback:
		c.mu.Lock()
		answer := c.requests[p.PacketID]
		delete(c.requests, p.PacketID)
		c.mu.Unlock()
		if answer != nil {
			answer <- p
		}
	case *packet.Disconnect:
		return &Refused{p.Code}
	}
	return nil
}

// receive delivers a message and acknowledges it.
func (c *Client) receive(l *link, p *packet.Publish) error {
	if p.Props.Has&packet.PTopicAlias != 0 {
		if err := l.alias(p, &c.o.Connect.Props); err != nil {
			return err
		}
	}
	c.mu.Lock()
	repeated := p.QoS == 2 && c.inbound[p.PacketID]
	switch {
	case repeated:
		c.stats.Duplicates++
	case p.QoS == 2:
		c.inbound[p.PacketID] = true
		fallthrough
	default:
		if l.discarded {
			c.stats.Discarded++
			break
		}
		c.stats.Received++
		if c.o.OnMessage == nil {
			c.inbox = append(c.inbox, Clone(p))
			c.wake()
		}
	}
	c.mu.Unlock()
	switch {
	case repeated:
	case l.discarded:
		if c.o.OnDiscarded != nil {
			c.o.OnDiscarded(p)
		}
	case c.o.OnMessage != nil:
		c.o.OnMessage(p)
	}
	switch {
	case repeated && c.o.OnRepeated != nil:
		c.o.OnRepeated(p)
		if c.o.ManualAcks {
			return nil
		}
		fallthrough
	case repeated, !c.o.ManualAcks:
		c.Ack(p)
	}
	return nil
}

// alias resolves a topic alias.
func (l *link) alias(p *packet.Publish, mine *packet.Properties) error {
	id := p.Props.TopicAlias
	if id > mine.TopicAliasMax {
		return fmt.Errorf("mqtt: topic alias %d beyond the maximum of %d", id, mine.TopicAliasMax)
	}
	if len(p.Topic) > 0 {
		l.aliases[id] = bytes.Clone(p.Topic)
		return nil
	}
	topic, ok := l.aliases[id]
	if !ok {
		return fmt.Errorf("mqtt: topic alias %d was never set", id)
	}
	p.Topic = topic
	return nil
}

// Clone copies a message that is valid during a call only.
func Clone(p *packet.Publish) *packet.Publish {
	q := *p
	q.Topic, q.Payload = bytes.Clone(p.Topic), bytes.Clone(p.Payload)
	q.Props.Correlation = bytes.Clone(p.Props.Correlation)
	q.Props.SubscriptionIDs = slices.Clone(p.Props.SubscriptionIDs)
	q.Props.User = slices.Clone(p.Props.User)
	return &q
}

// Receive returns the next message, of a client without OnMessage. The caller owns it.
func (c *Client) Receive(ctx context.Context) (*packet.Publish, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.inbox) == 0 {
		if err := c.wait(ctx); err != nil {
			return nil, err
		}
	}
	p := c.inbox[0]
	c.inbox = c.inbox[1:]
	return p, nil
}

// Ack acknowledges a message received under ManualAcks: PUBACK, or PUBREC. Only QoS and PacketID of p matter.
func (c *Client) Ack(p *packet.Publish) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ack(p.QoS, p.PacketID)
}

func (c *Client) ack(qos byte, id uint16) {
	switch qos {
	case 1:
		c.send(&packet.Ack{Kind: packet.PUBACK, PacketID: id})
	case 2:
		c.send(&packet.Ack{Kind: packet.PUBREC, PacketID: id})
	}
}

// Answer acknowledges a message received under ManualAcks on a given connection (Stats.Connects at that time), if that is still the
// present one: on a later one its packet id may be another message's. A code that is a failure refuses it, where MQTT 5 lets it.
func (c *Client) Answer(connection int, qos byte, id uint16, code packet.Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil || c.stats.Connects != connection {
		return
	}
	a := packet.Ack{Kind: packet.PUBACK, PacketID: id}
	if c.link.version == packet.V5 {
		a.Code = code
	}
	switch qos {
	case 0:
		return
	case 2:
		a.Kind = packet.PUBREC
		if a.Code.Failed() {
			delete(c.inbound, id)
		}
	}
	c.send(&a)
}
