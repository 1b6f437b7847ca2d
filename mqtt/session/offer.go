package session

// offer hands a message that the matcher has just met to a session that it matches.
func (c *Core) offer(t *target, m *Message, place int32) {
	s, l := t.session, t.session.link
	if s.group != nil {
		c.offerGroup(t, m, place)
		return
	}
	a := c.effective(t, m, place, m.Offset)
	switch {
	case a.none:
	case c.replaying:
		if a.qos > 0 && m.Offset >= s.queue.f.at(place) && !s.flight.owns(place, m.Offset) {
			c.enqueue(s, m, place)
		}
	case l == nil:
		if a.qos > 0 {
			c.enqueue(s, m, place)
		}
	case a.qos == 0 && (!l.live || a.pending):
		c.trail(s, m, place)
	case !l.live || a.pending:
		c.enqueue(s, m, place)
	default:
		c.deliverLive(t, m, place, a)
	}
}

// deliverLive delivers a message straight from the match.
func (c *Core) deliverLive(t *target, m *Message, place int32, a applies) {
	l := t.session.link
	retain := m.Retain && a.rap
	switch reason := c.barred(t, m, l); {
	case reason != "" && !spared(reason, "live"):
		c.owe(m.Tally, place)
		c.drop(m.Tally, place, reason)
	case a.qos == 0:
		c.owe(m.Tally, place)
		c.deliver0(l, m, place, &a, retain, a.by())
	case !l.open(c) || !c.emit(l, m, place, &a, retain, a.by()):
		c.enqueue(t.session, m, place)
	default:
		c.owe(m.Tally, place)
	}
}

// offerUnlogged hands over a message that is not in the log.
func (c *Core) offerUnlogged(t *target, m *Message) {
	l := t.session.link
	if l == nil || c.replaying {
		return
	}
	if t.session.group != nil {
		c.shareUnlogged(t, m)
		return
	}
	a := c.effective(t, m, 0, -1)
	if a.none || a.pending {
		return
	}
	c.owe(m.Tally, unplaced)
	if reason := c.barred(t, m, l); reason != "" && !spared(reason, "unlogged") {
		c.drop(m.Tally, unplaced, reason)
		return
	}
	c.deliver0(l, m, unplaced, &a, m.Retain && a.rap, a.by())
}

// by is who asked for a message that the matcher has met.
func (a *applies) by() askers {
	if a.tells {
		return byQueue | tells
	}
	return byQueue
}

// enqueue adds a position that is owed to the set.
func (c *Core) enqueue(s *session, m *Message, place int32) {
	c.owe(m.Tally, place)
	floor := c.floor
	switch {
	case c.replaying:
		floor = s.queue.f
	case s.group != nil:
		floor = s.group.floor
	}
	if p := s.queue.add(place, m.Offset, c.o.MaxQueueBytes, floor); p >= 0 {
		c.places[p].book.merged = true
	}
	if s.link != nil {
		s.link.live = false
	}
	c.touch(s)
}

// trail adds a position of effective QoS 0 to a queue that it must not overtake. It becomes owed when its turn comes.
func (c *Core) trail(s *session, m *Message, place int32) {
	set := s.queue.set(place)
	if len(set.fleeting.mid) > fleetingBytes && len(set.past) > 0 {
		set.fleeting.squeeze(0) // what is live waits for history as long as that takes: it is matched again
	}
	if len(set.fleeting.mid) > fleetingBytes {
		c.owe(m.Tally, place)
		c.drop(m.Tally, place, DropQoS0Full)
		return
	}
	set.fleeting.add(run{m.Offset, m.Offset + 1})
	s.link.live = false
}

// barred decides what is decided at every delivery: policy, expiry, size. It returns why a client may not have a message, or "".
func (c *Core) barred(t *target, m *Message, l *link) (reason string) {
	switch {
	case !c.allowed(t, m.Topic):
		return DropDenied
	case m.expired(c.now):
		return DropExpired
	case l.maxPacket > 0 && publishSize(m, t.ids, l.version) > uint64(l.maxPacket):
		return DropTooLarge
	}
	return ""
}

// expired tells whether the message's expiry interval is over.
func (m *Message) expired(now int64) bool {
	return m.Props != nil && m.Props.HasExpiry && now >= m.Time+int64(m.Props.Expiry)*1000
}

// when is the message's time where times of several partitions are compared. A Kafka client may write any on its record: one in the future
// counts as now, lest it hold up what comes after it, or beat it.
func (m *Message) when(now int64) int64 {
	if m.Client == "" {
		return min(m.Time, now)
	}
	return m.Time
}

// left is how many seconds of the expiry interval are left, at least 1.
func (m *Message) left(now int64) uint32 {
	if m.Props == nil || !m.Props.HasExpiry {
		return 0
	}
	ms := m.Time + int64(m.Props.Expiry)*1000 - now
	return uint32(min(max((ms+999)/1000, 1), int64(m.Props.Expiry)))
}
