package broker

import (
	"context"
	"encoding/base32"
	"io"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// hello is what CONNACK has to say beside what the session says; kept until then.
type hello struct {
	assigned  string // client id
	keepAlive uint16 // ours, if it is not the client's
	own       bool
	asked     uint32 // session expiry
	limit     time.Duration
}

const never = 0xFFFFFFFF // a session expiry that is none

// open answers a CONNECT; false: the connection is over.
func (c *conn) open(p *packet.Connect) bool {
	c.b.roster.limit(c, 0) // from here on the client waits for us, and each wait has its own limit
	c.mu.Lock()
	c.maxPacket = p.Props.MaximumPacket // a refusal too must fit [MQTT-3.2.2-19]
	c.mu.Unlock()
	c.bridge = p.Bridge
	req, h, f := c.admit(p)
	c.leaveHalfOpen()
	if f != nil {
		c.turnAway(f)
		return false
	}
	c.mu.Lock()
	c.hello = h
	c.mu.Unlock()
	c.asked = h.asked
	c.named = newOutAliases(p.Props.TopicAliasMax, c.lis.limits.TopicAliases)
	c.joined = true
	o := c.join()
	o.post(func(now int64) { o.core.Connect(now, c, req) })
	patience, cancel := context.WithTimeout(c.b.ctx, c.b.o.Limits.AcceptTimeout)
	defer cancel()
	c.await(func() bool { return c.hello == nil }, patience.Done(), c.b.stop)
	c.mu.Lock()
	c.hello = nil // from now on Accept comes too late
	accepted := c.accepted
	c.mu.Unlock()
	if accepted {
		c.followOn()
		c.b.roster.await(c)
		switch { // what came while the session was on its way has not seen the connection
		case c.bannedSince():
			c.endBanned()
		default:
			if f := c.b.away.Load(); f != nil {
				c.dismiss(f)
			}
		}
		return true
	}
	c.turnAway(&fault{packet.ServerUnavailable, "the session is not there yet"})
	return false
}

// join makes the present owner the connection's. Who joined one that was just giving way may have been missed when its connections
// were ended, and joins the next.
func (c *conn) join() *owner {
	for {
		o := c.b.owner.Load()
		c.mu.Lock()
		c.owner = o
		c.mu.Unlock()
		if c.b.owner.Load() == o {
			return o
		}
	}
}

// followOn waits until the connection that had the session before appends nothing any more: what the client sent on it comes
// first in the log, or not at all. That one is at its end and waits for nobody; this one waits even if it has been overtaken itself,
// for the next one in the row waits for this one only.
func (c *conn) followOn() {
	if c.after != nil {
		<-c.after
	}
	c.inherited = c.inbound.Outstanding()
}

// admit checks a CONNECT and finds out who it is from.
func (c *conn) admit(p *packet.Connect) (*session.Connect, *hello, *fault) {
	l := &c.lis.limits
	c.quiet = p.Props.Has&packet.PRequestProblem != 0 && p.Props.RequestProblem == 0
	if p.Props.Has&packet.PAuthMethod != 0 {
		return nil, nil, &fault{packet.BadAuthenticationMethod, "no authentication method is supported"}
	}
	if f := c.b.away.Load(); f != nil {
		return nil, nil, f.refusal()
	}
	h := &hello{}
	if err := c.clientID(p, h); err != nil {
		return nil, nil, err
	}
	if c.bannedBefore(p.ClientID) {
		return nil, nil, faultBanned
	}
	who, code := c.authenticate(p)
	if code.Failed() {
		return nil, nil, &fault{code, "not authenticated"}
	}
	if f := c.admitAs(&who); f != nil {
		return nil, nil, f
	}
	if f := c.bind(p, h, &who); f != nil {
		return nil, nil, f
	}
	if c.b.bans.principal(c.b.o.Now(), who.Name, p.ClientID) {
		return nil, nil, faultBanned
	}
	c.key = session.Key{Tenant: who.Tenant, Principal: who.Name, ClientID: p.ClientID}
	if f := c.admitWill(p.Will); f != nil {
		return nil, nil, f
	}
	h.asked = p.Props.SessionExpiry
	if p.Version < packet.V5 && !p.CleanStart {
		h.asked = never
	}
	req := &session.Connect{
		Key: c.key, Version: p.Version, CleanStart: p.CleanStart, Expiry: h.asked,
		ReceiveMaximum: 65535, MaximumPacket: p.Props.MaximumPacket, Will: p.Will,
	}
	if p.Props.Has&packet.PReceiveMaximum != 0 {
		req.ReceiveMaximum = p.Props.ReceiveMaximum
	}
	h.keepAlive = p.KeepAlive
	if l.KeepAlive > 0 && (p.KeepAlive == 0 || p.KeepAlive > l.KeepAlive) {
		h.keepAlive, h.own = l.KeepAlive, true
	}
	c.keepAlive, c.cleanStart = h.keepAlive, p.CleanStart
	h.limit = time.Duration(h.keepAlive) * time.Second * 3 / 2
	return req, h, nil
}

// clientID checks the client id, or assigns one.
func (c *conn) clientID(p *packet.Connect, h *hello) *fault {
	if p.ClientID == "" {
		var b [15]byte
		if _, err := io.ReadFull(c.b.o.Rand, b[:]); err != nil {
			return &fault{packet.ServerUnavailable, "no randomness for a client identifier"}
		}
		p.ClientID = "auto-" + base32.StdEncoding.EncodeToString(b[:])
		h.assigned = p.ClientID
	}
	if len(p.ClientID) > c.b.o.Limits.ClientIDBytes {
		return &fault{packet.ClientIDNotValid, "client identifier too long"}
	}
	for _, r := range p.ClientID {
		if r < 0x20 || r >= 0x7F && r <= 0x9F {
			return &fault{packet.ClientIDNotValid, "control character in the client identifier"}
		}
	}
	return nil
}

func (c *conn) admitWill(w *packet.Will) *fault {
	switch {
	case w == nil:
		return nil
	case topic.ValidateName([]byte(w.Topic)) != nil || w.Topic[0] == '$':
		return &fault{packet.TopicNameInvalid, "will topic not accepted"}
	case reserved(w.Props.User):
		return &fault{packet.ImplementationSpecificError, textReserved}
	case !c.mayWill(w.Topic):
		return &fault{packet.NotAuthorized, "will topic not authorized"}
	}
	return nil
}

// turnAway answers a CONNECT with a failure and ends the connection. What cannot have been a CONNECT gets no answer.
func (c *conn) turnAway(f *fault) {
	if !answered(c.version, f.code) {
		c.cut(label(f.code))
		return
	}
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	if c.version == 0 {
		c.version = packet.V311 // what a client of any version is answered in (MQTT 5.0, 3.1.2.2)
	}
	c.refuse(f.code, f.text)
}

// answered tells whether a failed CONNECT has a CONNACK: in 3.1.1 one that is malformed has none [MQTT-3.1.4-1 of 3.1.1].
func answered(v packet.Version, code packet.Code) bool {
	switch {
	case v == 0:
		return code == packet.UnsupportedProtocolVersion
	case v == packet.V5:
		return true
	}
	switch code {
	case packet.MalformedPacket, packet.ProtocolError, packet.PacketTooLarge:
		return false
	}
	return true
}

// refuse queues the CONNACK of a failure and ends the connection; it releases c.mu.
func (c *conn) refuse(code packet.Code, text string) {
	c.hello = nil
	ack := &packet.Connack{Code: code}
	if c.version == packet.V5 && text != "" {
		ack.Props.Has, ack.Props.ReasonString = packet.PReasonString, text
	}
	c.b.away.Load().refer(code, &ack.Props)
	c.answer(ack)
	c.endLocked(label(code))
}

// Accept is the owner's: the session is there.
func (c *conn) Accept(a session.Accepted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hello
	if c.closing || h == nil {
		return
	}
	c.hello = nil
	c.answer(c.connack(h, &a))
	c.inbound = a.Inbound
	c.accepted = true
	c.since = c.owner.clock
	c.after = c.owner.predecessor(c)
	c.b.roster.limit(c, h.limit)
	c.wakeReader()
	c.b.stats.connects.Add(1)
	c.b.tell(c.key, EventConnected, c.describe(a.SessionPresent))
	c.owner.flushLater(c)
}

func (c *conn) connack(h *hello, a *session.Accepted) *packet.Connack {
	ack := &packet.Connack{SessionPresent: a.SessionPresent}
	if c.version < packet.V5 {
		return ack
	}
	l := &c.lis.limits
	p := &ack.Props
	p.Has = packet.PReceiveMaximum | packet.PMaximumPacket | packet.PTopicAliasMax
	p.ReceiveMaximum, p.MaximumPacket, p.TopicAliasMax = l.ReceiveMaximum, uint32(l.PacketBytes), l.TopicAliases
	if a.Expiry != h.asked {
		p.Has |= packet.PSessionExpiry
		p.SessionExpiry = a.Expiry
	}
	if h.assigned != "" {
		p.Has |= packet.PAssignedClientID
		p.AssignedClientID = h.assigned
	}
	if h.own {
		p.Has |= packet.PServerKeepAlive
		p.ServerKeepAlive = h.keepAlive
	}
	return ack
}

// Refuse is the owner's: there will be no session.
func (c *conn) Refuse(code packet.Code, reason string) {
	c.mu.Lock()
	if c.closing || c.hello == nil {
		c.mu.Unlock()
		return
	}
	c.refuse(code, reason)
}
