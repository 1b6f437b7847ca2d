package broker

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Deliver queues a PUBLISH; the owner's. The flush comes when the owner has handled the batch, so that a client gets what a
// batch has for it in one write.
func (c *conn) Deliver(d *session.Delivery) (room bool) {
	room = c.deliver(d)
	if list := c.b.traces.now.Load(); list != nil {
		c.traceDelivery(*list, d)
	}
	return room
}

func (c *conn) deliver(d *session.Delivery) (room bool) {
	o := c.owner
	alias, how := c.named.name(d.Msg.Topic)
	e := o.encoder.encode(d, c.version, how)
	if how == withAlias && !c.takes(e) {
		how = byTopic
		e = o.encoder.encode(d, c.version, how)
	}
	if !c.takes(e) {
		o.cannotSend(c, d)
		d.Dropped = session.DropTooLarge
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		if d.QoS == 0 {
			o.Count(session.DropOffline, 1)
			d.Dropped = session.DropOffline
		}
		return true
	}
	l := &c.b.o.Limits
	if d.QoS == 0 && c.out.full {
		o.Count(session.DropQoS0Full, 1)
		d.Dropped = session.DropQoS0Full
		return false
	}
	q := c.queue()
	q.add(e, d, alias)
	if how == withAlias {
		c.named.queued(d.Msg.Topic, alias)
	}
	if l, ok := o.lagOf(c, d); ok {
		q.note(l)
	}
	q.size += len(e.b)
	q.packets++
	c.out.bytes += len(e.b)
	total, ofOne := c.b.stats.outWait.Add(int64(len(e.b))), c.lis.waitsMore(len(e.b))
	c.b.stats.delivered[d.QoS].Add(1)
	c.out.delivered++
	o.flushLater(c)
	if c.out.bytes < l.OutboundBytes && (total < l.OutboundTotal && ofOne || c.out.bytes < fairShare) {
		return true
	}
	c.out.full = true
	c.b.tell(c.key, EventSlow, "")
	return false
}

// takes tells whether a packet may be sent to the client as far as its size goes; nil: there is none.
func (c *conn) takes(e *encoded) bool {
	return e != nil && (c.maxPacket == 0 || len(e.b) <= int(c.maxPacket))
}

// fairShare is what a connection may have waiting even when slow ones have used up OutboundTotal: they must not starve the others.
const fairShare = 32 << 10

// add appends an encoded PUBLISH, with the packet id and DUP of the delivery, and the client's alias.
func (q *outQueue) add(e *encoded, d *session.Delivery, alias uint16) {
	at := len(q.own)
	head := e.b
	if e.shared {
		head = e.b[:e.head]
		q.own = append(q.own, head...)
		q.shared = append(q.shared, piece{len(q.own), e.b[e.head:]})
	} else {
		q.own = append(q.own, head...)
	}
	if e.idAt >= 0 {
		binary.BigEndian.PutUint16(q.own[at+e.idAt:], d.PacketID)
		if d.Dup {
			q.own[at] |= dupBit
		}
	}
	if e.how != byTopic {
		binary.BigEndian.PutUint16(q.own[at+e.aliasAt:], alias)
	}
}

const dupBit = 0x08

// encoded is a PUBLISH as all receivers of one layout get it, but for packet id, DUP and the number of an alias.
type encoded struct {
	layout
	b       []byte
	idAt    int // of the packet id in b; -1: none
	aliasAt int // of the alias in b, if there is one
	head    int // how much of b is each receiver's own, if the rest is shared
	shared  bool
}

// layout is what makes two encodings of one message differ.
type layout struct {
	version packet.Version
	qos     byte
	retain  bool
	how     naming
	expiry  uint32
	subIDs  []uint32
	since   int64 // of history: the message's time, milliseconds since 1970; else 0
	gap     int64 // Delivery.Gap
}

func (l *layout) equal(m *layout) bool {
	return l.version == m.version && l.qos == m.qos && l.retain == m.retain && l.how == m.how && l.expiry == m.expiry && slices.Equal(l.subIDs, m.subIDs) &&
		l.since == m.since && l.gap == m.gap
}

// encoder remembers the encodings of the message that was delivered last: a fan-out encodes once per layout.
type encoder struct {
	msg     *session.Message
	was     session.Message // what it was
	layouts []encoded
	pub     packet.Publish
}

// forget must be called before a *Message can come again with other contents, that is, before every call of the core.
func (e *encoder) forget() { e.msg, e.was = nil, session.Message{} }

func (e *encoder) same(m *session.Message) bool {
	return e.msg == m && e.was.Offset == m.Offset && e.was.Topic == m.Topic && e.was.Props == m.Props &&
		len(e.was.Payload) == len(m.Payload) && unsafe.SliceData(e.was.Payload) == unsafe.SliceData(m.Payload)
}

const maxLayouts = 16 // of one message; with more, subscription identifiers are many and sharing is not worth a search

// encode returns d's message as version v has it, valid until the next message; nil: it cannot be encoded.
func (e *encoder) encode(d *session.Delivery, v packet.Version, how naming) *encoded {
	if !e.same(d.Msg) {
		e.msg, e.was, e.layouts = d.Msg, *d.Msg, e.layouts[:0]
	}
	want := layout{version: v, qos: d.QoS, retain: d.Retain, how: how}
	if v >= packet.V5 {
		if want.expiry, want.subIDs, want.gap = d.Expiry, d.SubIDs, d.Gap; d.Replayed {
			want.since = max(d.Msg.Time, 1)
		}
	} else {
		want.version = packet.V311 // 3.1 has the same
	}
	for i := range e.layouts {
		if e.layouts[i].equal(&want) {
			return &e.layouts[i]
		}
	}
	if len(e.layouts) >= maxLayouts {
		e.layouts = e.layouts[:0]
	}
	if len(e.layouts) == cap(e.layouts) {
		e.layouts = slices.Grow(e.layouts, 1)
	}
	e.layouts = e.layouts[:len(e.layouts)+1]
	enc := &e.layouts[len(e.layouts)-1]
	if !enc.make(&e.pub, d, want) {
		e.layouts = e.layouts[:len(e.layouts)-1]
		return nil
	}
	return enc
}

// make encodes. A small message is built in the buffer of an older one, since everybody copies it; a large one gets memory of
// its own, which the queues share until they have written it.
func (enc *encoded) make(p *packet.Publish, d *session.Delivery, l layout) bool {
	m := d.Msg
	fill(p, d, l.version)
	if l.how != byTopic {
		p.Props.Has |= packet.PTopicAlias
		p.Props.TopicAlias = 1 // patched for each receiver
	}
	if l.how == byAlias {
		p.Topic = p.Topic[:0]
	}
	dst, large := enc.b[:0], len(m.Payload) > shareAbove
	if large || enc.shared {
		dst = nil
	}
	if large {
		dst = make([]byte, 0, len(m.Payload)+len(m.Topic)+64)
	}
	b, idAt, err := packet.AppendPublish(dst, p, l.version)
	if err != nil {
		return false
	}
	l.subIDs = append(enc.subIDs[:0], l.subIDs...)
	*enc = encoded{layout: l, b: b, idAt: idAt, shared: large, head: len(b) - len(m.Payload)}
	if l.how != byTopic {
		enc.aliasAt = aliasPlace(b, p)
	}
	return true
}

// fill makes the packet of a delivery.
func fill(p *packet.Publish, d *session.Delivery, v packet.Version) {
	m := d.Msg
	p.QoS, p.Retain, p.Topic, p.Payload = d.QoS, d.Retain, append(p.Topic[:0], m.Topic...), m.Payload
	p.PacketID = 1 // patched for each receiver
	p.Props = packet.Properties{}
	if v < packet.V5 {
		return
	}
	p.Props.SubscriptionIDs = d.SubIDs
	if d.Replayed || d.Gap != 0 {
		defer func() { p.Props.User = withHistory(p.Props.User, d) }()
	}
	x := m.Props
	if x == nil {
		return
	}
	has := func(bit packet.PropSet, there bool) {
		if there {
			p.Props.Has |= bit
		}
	}
	has(packet.PMessageExpiry, x.HasExpiry)
	has(packet.PPayloadFormat, x.PayloadFormat != 0)
	has(packet.PContentType, x.ContentType != "")
	has(packet.PResponseTopic, x.ResponseTopic != "")
	has(packet.PCorrelation, x.Correlation != nil)
	p.Props.MessageExpiry, p.Props.PayloadFormat, p.Props.ContentType = d.Expiry, x.PayloadFormat, x.ContentType
	p.Props.ResponseTopic, p.Props.Correlation, p.Props.User = x.ResponseTopic, x.Correlation, x.User
}

// Send queues an answer of the owner's.
func (c *conn) Send(p packet.Packet) {
	c.sendNow(p)
	if s, ok := p.(*packet.Suback); ok && len(c.owner.sysOwed) > 0 {
		c.owner.sysNow(c, s)
	}
}

func (c *conn) sendNow(p packet.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer(p)
	c.owner.flushLater(c)
}

// Close is the owner's end of the connection.
func (c *conn) Close(code packet.Code, reason string) {
	c.owner.leaves(c)
	if code == packet.Success { // it was the client who disconnected, and what that had to remove is removed
		c.mu.Lock()
		if c.closing {
			c.mu.Unlock()
			return
		}
		c.endLocked("client_disconnect")
		return
	}
	c.end(code, reason)
}
