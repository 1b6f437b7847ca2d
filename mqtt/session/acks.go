package session

import "github.com/millrace-io/millrace/mqtt/packet"

// ack is a PUBACK, PUBREC or PUBCOMP for what we sent, or the PUBREL of what we got.
func (c *Core) ack(l *link, p *packet.Ack) {
	s := l.session
	switch p.Kind {
	case packet.PUBACK:
		if e := s.flight.find(p.PacketID); e != nil && e.qos == 1 && e.published && e.wire {
			c.refusal(e, p.Code)
			c.complete(s, e)
		}
	case packet.PUBREC:
		c.pubrec(s, l, p)
	case packet.PUBCOMP:
		if e := s.flight.find(p.PacketID); e != nil && e.state == released {
			c.complete(s, e)
		}
	case packet.PUBREL:
		c.pubrel(s, l, p.PacketID)
	}
	c.pump(s)
}

func (c *Core) pubrec(s *session, l *link, p *packet.Ack) {
	e := s.flight.find(p.PacketID)
	switch {
	case e == nil && p.Code.Failed():
	case e == nil:
		rel := &packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID}
		if !s.flight.isDone(p.PacketID) {
			rel.Code = packet.PacketIDNotFound
		}
		l.conn.Send(rel)
	case e.qos != 2 || !e.published:
	case e.state == released:
		l.conn.Send(&packet.Ack{Kind: packet.PUBREL, PacketID: e.id})
	case e.state == ready && p.Code.Failed():
		c.refusal(e, p.Code)
		c.complete(s, e)
	case e.state == ready:
		c.releaseOut(s, l, e)
	}
}

// releaseOut writes that an outbound QoS 2 id was released; then PUBREL goes out. Whatever becomes of the message, it is never
// published again.
func (c *Core) releaseOut(s *session, l *link, e *flown) {
	if !s.durable {
		e.state = released
		l.conn.Send(&packet.Ack{Kind: packet.PUBREL, PacketID: e.id})
		return
	}
	e.state = releasing
	id, off := e.id, e.offset
	v := c.outOf(s, e)
	v.released = true
	c.write(s.shard.lane, func(err error) {
		e := s.flight.find(id)
		if e == nil || e.offset != off || e.state != releasing {
			return
		}
		if err != nil {
			e.state = ready
			c.kick(s)
			return
		}
		e.state = released
		if l := s.link; l != nil && !s.ended {
			l.conn.Send(&packet.Ack{Kind: packet.PUBREL, PacketID: id})
			c.pump(s)
		}
	}, StateRecord{idKey(kindOut, s.key, id), v.append(nil)})
}

// refusal counts a message that a client answers with a failure. That ends it: it is not sent again, nor to another member of a group.
func (c *Core) refusal(e *flown, code packet.Code) {
	if code.Failed() && !e.settled {
		c.host.Count(DropRefused, 1)
		c.settle(e, DropRefused)
	}
}

// complete ends a delivery. A persistent session keeps the id of one of QoS 2 until a checkpoint covers its position.
func (c *Core) complete(s *session, e *flown) {
	if !e.settled {
		c.delivered(e.tally, e.place)
	}
	switch {
	case e.lease != nil:
		c.endLease(s, e)
	case e.qos < 2 || !s.durable || e.state == unsaved:
	case e.published:
		s.flight.done = append(s.flight.done, doneID{offset: e.offset, place: e.place, id: e.id, by: e.by})
	default: // given up before it left: should a replay come to it again, it is decided on again
		c.write(s.shard.lane, nil, StateRecord{Key: idKey(kindOut, s.key, e.id)})
	}
	c.land(s, e)
	c.touch(s)
}

// land takes a delivery out of the flight.
func (c *Core) land(s *session, e *flown) {
	l := s.link
	if e.wire {
		l.used--
	}
	if at := s.flight.remove(e); l != nil && at < l.resend {
		l.resend--
	}
}

// pubrel is the release of an inbound QoS 2 message: written, then answered.
func (c *Core) pubrel(s *session, l *link, id uint16) {
	use, open := s.inbound.releasing(id)
	comp := &packet.Ack{Kind: packet.PUBCOMP, PacketID: id}
	switch {
	case !open:
		comp.Code = packet.PacketIDNotFound
	case s.durable && !mutant("forget-release"):
		v := inValue{s.inc, use}
		c.write(s.shard.lane, func(err error) {
			if err != nil {
				c.kick(s)
				return
			}
			s.inbound.release(id, use)
			c.touch(s)
			if s.link == l && !s.ended {
				l.conn.Send(comp)
			}
		}, StateRecord{idKey(kindIn, s.key, id), v.append(nil)})
		return
	default:
		s.inbound.release(id, use)
	}
	l.conn.Send(comp)
}
