package session

import (
	"slices"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// link is a session's connection, and what delivery keeps only while there is one. Deliveries go out in this order: those that
// were in flight when an earlier connection was lost, retained messages that were asked for, then the set, merged across
// partitions by message time. When nothing of it is left the link is live: messages go straight from the match to the
// connection. QoS 0 keeps its place: it never overtakes what is queued before it.
type link struct {
	conn      Conn
	session   *session
	version   packet.Version
	window    int    // of deliveries on the wire
	maxPacket uint32 // 0: no limit
	room      bool
	live      bool
	used      int    // deliveries on the wire
	resend    int    // deliveries in flight that this connection has dealt with, from the oldest
	held      []held // deliveries behind one whose out/id is being written, in order
	heldBytes int
	bufs      map[int32]*buffer // by place
	waiting   bool              // in Core.readers
	stuck     bool              // in Core.cursors
	paced     bool              // in Core.paced
	asking    uint64            // a SUBSCRIBE waits for the Core.HistoryDone of this token; 0: none
	yields    bool              // the session's groups had the first turn last time
	later     later             // behind it
	turn      bool              // of what no history holds up
	lacking   []*member         // that are offered the next room, in turn
	lacked    int               // of them that have been

	last struct { // topic that target looked at
		name   string
		epoch  uint64
		target target
	}
}

type held struct {
	msg    Message
	qos    byte
	retain bool
	id     uint16
	ids    []uint32
	policy uint64 // as of which it was allowed
	place  int32  // of the message
	by     askers
}

func (h *held) size() int { return len(h.msg.Payload) + len(h.msg.Topic) + 128 }

// deliver0 sends a message of effective QoS 0 if there is room.
func (c *Core) deliver0(l *link, m *Message, place int32, a *applies, retain bool, by askers) {
	switch {
	case len(l.held) > 0 && l.heldBytes < c.o.ReadBytes:
		c.keep(l, held{msg: *m, retain: retain, ids: a.ids, place: place, by: by})
	case len(l.held) > 0 || !l.room:
		c.drop(m.Tally, place, DropQoS0Full)
	default:
		c.send(l, m, place, 0, retain, false, 0, a.ids, by)
	}
}

// open tells whether the next delivery of QoS 1 or 2 may go out.
func (l *link) open(c *Core) bool {
	return l.room && l.used < l.window && l.heldBytes < c.o.ReadBytes
}

// emit starts a delivery of QoS 1 or 2. It is false if there is no packet id; a checkpoint then frees some.
func (c *Core) emit(l *link, m *Message, place int32, a *applies, retain bool, by askers) bool {
	return c.launch(l, m, place, a, retain, by, nil)
}

// launch is emit for a position that may be a group's. A lease of QoS 2 is written whether the session persists or not: a crash
// must not hand it to another.
func (c *Core) launch(l *link, m *Message, place int32, a *applies, retain bool, by askers, lease *member) bool {
	s := l.session
	id := s.flight.nextID()
	if id == 0 {
		c.hurry = true
		return false
	}
	// It goes before what is still to be sent again: that is how it must be should the connection be lost now.
	e := s.flight.insert(l.resend, flown{offset: m.Offset, place: place, id: id, qos: a.qos, wire: true, tally: m.Tally, by: by, lease: lease})
	l.resend++
	l.used++
	c.touch(s)
	if lease != nil {
		lease.leases++
	}
	if a.qos == 2 && (s.durable || lease != nil) {
		c.saveOut(s, e)
	}
	if len(l.held) > 0 || e.state == saving {
		c.keep(l, held{msg: *m, qos: a.qos, retain: retain, id: id, ids: a.ids, place: place, by: by})
		return true
	}
	e.published = true
	c.send(l, m, place, a.qos, retain, false, id, a.ids, by)
	return true
}

func (c *Core) keep(l *link, h held) {
	h.policy = c.policy
	l.held = append(l.held, h)
	l.heldBytes += h.size()
}

func (c *Core) send(l *link, m *Message, place int32, qos byte, retain, dup bool, id uint16, ids []uint32, by askers) {
	c.out = Delivery{Msg: m, QoS: qos, Retain: retain, Dup: dup, PacketID: id, SubIDs: ids, Expiry: m.left(c.now)}
	if by > byQueue {
		c.out.Replayed = by&^tells > byQueue
		c.out.Gap = l.session.gapFor(by, m, place)
	}
	if !c.deliver(l) {
		l.room = false
	}
	c.out.Msg = nil
	switch reason := c.out.Dropped; {
	case qos == 0 && reason == "":
		c.delivered(m.Tally, place)
	case qos == 0:
		c.dropped(m.Tally, place, reason)
	case reason != "":
		if e := l.session.flight.find(id); e != nil {
			c.settle(e, reason)
		}
	}
}

// settle counts what became of a delivery in flight that the client will not have; it may still take steps until it is complete.
func (c *Core) settle(e *flown, reason string) {
	if !e.settled {
		e.settled = true
		c.dropped(e.tally, e.place, reason)
	}
}

// saveOut writes which position an outbound QoS 2 id stands for. The PUBLISH leaves once that is durable.
func (c *Core) saveOut(s *session, e *flown) {
	e.state, e.since = saving, uint32(c.now/1000)
	id, off, l := e.id, e.offset, s.link
	v := c.outOf(s, e)
	lease, sp := e.lease, spot{e.place, off}
	c.write(s.shard.lane, func(err error) {
		if lease != nil {
			c.leaseSaved(lease.group, sp, taken{lane: s.shard.lane, key: s.key, id: id}, err)
		}
		e := s.flight.find(id)
		if e == nil || e.offset != off || e.state != saving {
			return
		}
		if e.state = ready; err != nil {
			e.state = unsaved
			if s.link == l {
				c.kick(s)
				return
			}
		} else {
			c.age(s)
		}
		c.pump(s)
	}, StateRecord{idKey(kindOut, s.key, id), v.append(nil)})
}

// pump delivers what may be delivered. Whatever ends it is followed by another call: room by Writable, an ack by ack, a write
// by its outcome, a read by ReadDone.
func (c *Core) pump(s *session) {
	l := s.link
	if l == nil || s.ended {
		return
	}
	if s.group != nil {
		c.dispatch(s.group)
		return
	}
	if l.yields = !l.yields && len(s.shares) > 0; l.yields { // neither its own queue nor its groups go without
		c.spare(s)
	}
	for s.link == l && c.step(s, l) {
	}
	if s.link == l {
		c.spare(s)
	}
	if s.link == l && !l.live && c.buffered > maxBuffered && !l.awaits() {
		c.dropBuffers(l)
	}
}

// step makes one step of delivery; false when there is nothing to do, or nothing that can be done now.
func (c *Core) step(s *session, l *link) bool {
	if !c.flushHeld(s, l) {
		return false
	}
	if l.resend < s.flight.len() {
		return c.resendOne(s, l)
	}
	l.settle()
	if l.live || !l.room {
		return false
	}
	if set, more := c.retainedNext(s, l); set != nil || more {
		if set == nil {
			return false // the cursor waits
		}
		return c.drainOne(s, l, set)
	}
	return c.drain(s, l)
}

// settle notes that nothing of an earlier connection is left to send again.
func (l *link) settle() { l.resend = l.session.flight.len() }

// flushHeld sends held deliveries up to the first whose out/id is not durable. It is false if delivery cannot go on.
func (c *Core) flushHeld(s *session, l *link) bool {
	n := 0
	for ; n < len(l.held) && l.room; n++ {
		h := &l.held[n]
		e := s.flight.find(h.id)
		if e != nil && e.state == saving {
			break
		}
		l.heldBytes -= h.size()
		switch reason := c.overtaken(s, h); {
		case h.id != 0 && e == nil:
		case reason == DropDenied && e != nil && e.leased():
			c.yield(s, e)
		case reason != "" && e != nil:
			c.giveUp(s, l, e, reason)
		case reason != "":
			c.drop(h.msg.Tally, h.place, reason)
		default:
			if e != nil {
				e.published = true
			}
			c.send(l, &h.msg, h.place, h.qos, h.retain, false, h.id, h.ids, h.by)
		}
	}
	if n > 0 {
		l.held = slices.Delete(l.held, 0, n)
	}
	return l.room && l.heldBytes < c.o.ReadBytes
}

// overtaken tells why a held delivery, decided on before, must not go out any more.
func (c *Core) overtaken(s *session, h *held) string {
	switch {
	case h.policy != c.policy && !c.host.Allowed(s.key, false, h.msg.Topic) && !spared(DropDenied, "held"):
		return DropDenied
	case h.msg.expired(c.now):
		return DropExpired
	}
	return ""
}

// resendOne deals with the oldest delivery in flight that this connection has not dealt with.
func (c *Core) resendOne(s *session, l *link) bool {
	e := &s.flight.all()[l.resend]
	switch {
	case e.wire, e.state == releasing:
		l.resend++
		return true
	case e.state == released:
		l.resend++
		l.conn.Send(&packet.Ack{Kind: packet.PUBREL, PacketID: e.id})
		return true
	case c.places[e.place].dead:
		c.giveUp(s, l, e, DropTopicDeleted)
		return true
	case e.state == unsaved:
		c.saveOut(s, e)
		return false
	case e.state == saving, len(l.held) > 0:
		return false
	}
	// After a crash deliveries of QoS 1 are positions again; they keep their place before later ones of QoS 2.
	if set := s.queue.find(e.place); set != nil && !c.places[e.place].retained && set.headOf(set.before(e)) < e.offset {
		by := set.before(e)
		m, wait := c.head(s, l, set, by)
		if wait {
			return false
		}
		if m != nil && m.Offset < e.offset {
			return c.deliverQueued(s, l, set, m, by)
		}
	}
	if !l.room || l.used >= l.window {
		return false
	}
	place, off := c.source(s, e)
	m, _, ok := c.fetch(l, place, off)
	if !ok {
		return false
	}
	if m == nil || m.Offset != off {
		if s.flight.gone(e.id) {
			return true
		}
		c.giveUp(s, l, e, c.reasonGone(e.place))
		return true
	}
	if place != e.place { // a copy
		own := *m
		own.Offset = e.offset
		m = &own
	}
	c.resendMessage(s, l, e, m)
	return true
}

func (c *Core) resendMessage(s *session, l *link, e *flown, m *Message) {
	if e.tally == nil {
		e.tally = m.Tally // it was in flight before a crash
	}
	a := applies{}
	if e.lease != nil {
		a = e.lease.applies()
	} else if t := c.target(s, m.Topic); t != nil {
		a = c.amounts(t, m, e.place, e.offset, e.by)
	}
	switch {
	case !c.host.Allowed(s.key, false, m.Topic) && !spared(DropDenied, "resend"):
		c.giveUp(s, l, e, DropDenied)
	case !e.published && m.expired(c.now):
		c.giveUp(s, l, e, DropExpired)
	case l.maxPacket > 0 && publishSize(m, a.ids, l.version) > uint64(l.maxPacket):
		c.giveUp(s, l, e, DropTooLarge)
	default:
		dup := e.published
		e.published, e.wire = true, true
		l.used++
		l.resend++
		c.send(l, m, e.place, e.qos, c.places[e.place].retained || m.Retain && a.rap, dup, e.id, a.ids, e.by)
	}
}

// giveUp ends a delivery whose message can no longer be sent. The client may hold the id of one of QoS 2: a PUBREL clears it.
func (c *Core) giveUp(s *session, l *link, e *flown, reason string) {
	c.host.Count(reason, 1)
	c.settle(e, reason)
	if e.qos == 2 && e.published {
		l.resend++
		c.releaseOut(s, l, e)
		return
	}
	c.complete(s, e)
}

// Reading.
