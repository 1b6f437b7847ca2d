package session

// drain delivers the next position of the set, the oldest message first; partitions are merged by time.
func (c *Core) drain(s *session, l *link) bool {
	var first *set
	var time int64
	wait, any := false, false
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		if c.places[set.place].retained || set.none() {
			continue
		}
		if set.timed != set.head()+1 {
			m, waits := c.head(s, l, set)
			wait, any = wait || waits, any || waits
			if m == nil {
				continue
			}
			set.timed, set.time = m.Offset+1, m.when(c.now)
		}
		if any = true; first == nil || set.time < time {
			first, time = set, set.time
		}
	}
	switch {
	case wait:
		return false
	case any:
		return c.drainOne(s, l, first)
	}
	if len(l.held) > 0 {
		l.live = true // what comes is held behind them
		return false
	}
	c.dropBuffers(l)
	s.queue.dropFleeting() // and empty sets
	l.live = true
	return false
}

func (c *Core) drainOne(s *session, l *link, set *set) bool {
	m, wait := c.head(s, l, set)
	if wait {
		return false
	}
	if m == nil {
		return true // nothing was left of it
	}
	return c.deliverQueued(s, l, set, m)
}

// head returns the message at the head of a set, dropping positions that turn out to be no message. nil and wait: it is being
// read; nil otherwise: the set is empty.
func (c *Core) head(s *session, l *link, set *set) (m *Message, wait bool) {
	for !set.none() {
		off := set.head()
		m, next, ok := c.fetch(l, set.place, off)
		switch {
		case !ok:
			return nil, true
		case m == nil:
			c.skip(s, set, next)
		case m.Offset > off:
			c.skip(s, set, m.Offset)
		default:
			return m, false
		}
	}
	return nil, false
}

// skip removes positions at which there is no message.
func (c *Core) skip(s *session, set *set, to int64) {
	exact := !set.merged
	switch n := set.cut(to); {
	case exact:
		c.gone(set.place, n, c.reasonGone(set.place))
	default:
		c.places[set.place].book.lose(n)
	}
	c.touch(s)
}

// deliverQueued delivers the message at the head of a set, if it is still wanted. It is false if that must wait.
func (c *Core) deliverQueued(s *session, l *link, set *set, m *Message) bool {
	t := c.target(s, m.Topic)
	retained := c.places[set.place].retained
	owed := !set.runs.empty() && set.runs.min() == m.Offset // else it is of QoS 0, which is owed once its turn has come
	var a applies
	drop := ""
	switch {
	case retained && !c.current(m.Topic, set.place, m.Offset):
		drop = DropSuperseded
	case !retained && m.Offset < c.floor.at(set.place) && s.flight.owns(set.place, m.Offset):
		set.cut(m.Offset + 1) // in flight, or done before a crash: a merge has brought it back
		return true
	case t == nil:
		drop = DropUnmatched
	default:
		if a = c.effective(t, m, set.place, m.Offset); a.none {
			drop = DropUnmatched
		} else if a.pending {
			return false
		} else if a.qos == 0 && set.merged && !set.fleeting.has(m.Offset) {
			drop = DropUnmatched // never owed: it lies between two positions that are
		}
	}
	if drop != "" {
		switch {
		case set.merged:
			c.places[set.place].book.lose(1)
		case owed:
			c.drop(m.Tally, set.place, drop)
		default:
			c.host.Count(drop, 1)
		}
		set.cut(m.Offset + 1)
		c.touch(s)
		return true
	}
	if reason := c.barred(t, m, l); reason != "" && !spared(reason, way(retained)) {
		if !owed {
			c.owe(m.Tally, set.place)
		}
		c.drop(m.Tally, set.place, reason)
		set.cut(m.Offset + 1)
		c.touch(s)
		return true
	}
	retain := retained || m.Retain && a.rap
	if a.qos == 0 {
		if !l.room || l.heldBytes >= c.o.ReadBytes {
			return false
		}
		if !owed {
			c.owe(m.Tally, set.place)
		}
		c.deliver0(l, m, set.place, a.ids, retain)
	} else if !l.open(c) || !c.emit(l, m, set.place, a, retain) {
		return false
	} else if !owed {
		c.owe(m.Tally, set.place) // the subscription has changed meanwhile
	}
	set.cut(m.Offset + 1)
	c.touch(s)
	return true
}

// way is what tests call the way of a message that was queued.
func way(retained bool) string {
	if retained {
		return "retained"
	}
	return "queued"
}

func (c *Core) reasonGone(place int32) string {
	if c.places[place].retained {
		return DropSuperseded
	}
	return DropGap
}
