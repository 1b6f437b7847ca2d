package session

import (
	"slices"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// drain delivers the next position of the set, the oldest message first; partitions are merged by time.
func (c *Core) drain(s *session, l *link) bool {
	var first, other *set // other: which no history holds up
	var time, otherTime int64
	wait, any := false, false
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		if c.places[set.place].retained || set.none() {
			continue
		}
		if set.timed != set.head()+1 {
			m, waits := c.head(s, l, set, byAny)
			wait, any = wait || waits, any || waits
			if m == nil {
				continue
			}
			set.timed, set.time = m.Offset+1, m.when(c.now)
			set.apart = len(s.histories) > 0 && c.apart(s, set, m)
		}
		if any = true; set.apart {
			if other == nil || set.time < otherTime {
				other, otherTime = set, set.time
			}
		} else if first == nil || set.time < time {
			first, time = set, set.time
		}
	}
	if l.turn = !l.turn; other != nil && (first == nil || wait || l.turn) {
		return c.drainOne(s, l, other)
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
	m, wait := c.head(s, l, set, byAny)
	if wait {
		return false
	}
	if m == nil {
		return true // nothing was left of it
	}
	return c.deliverQueued(s, l, set, m, byAny)
}

// apart tells whether the message at the head of a set is of no subscription that waits for history, nor of a partition with history: it
// need not wait for messages of other partitions that are older only because they are history.
func (c *Core) apart(s *session, set *set, m *Message) bool {
	return len(set.past) == 0 && !slices.ContainsFunc(s.histories, func(h *history) bool {
		return h.left > 0 && topic.Match(h.sub.filter, m.Topic)
	})
}

// head returns the message at the head of a set, as far as some askers want it, dropping positions that turn out to be no message. nil
// and wait: it is being read; nil otherwise: the set is empty.
func (c *Core) head(s *session, l *link, set *set, by askers) (m *Message, wait bool) {
	for {
		off := set.headOf(by)
		if off == headNone {
			return nil, false
		}
		m, next, ok := c.fetch(l, set.place, off)
		switch {
		case !ok:
			return nil, true
		case m == nil:
			c.skip(s, set, next, by, l.bufs[set.place].gap)
		case m.Offset > off:
			c.skip(s, set, m.Offset, by, false)
		default:
			return m, false
		}
	}
}

// skip removes positions at which there is no message. gap: not any more.
func (c *Core) skip(s *session, set *set, to int64, by askers, gap bool) {
	if gap {
		c.miss(s, set, to, by, DropReplayGap)
	}
	exact := !set.merged
	n := set.cutOf(to, by)
	c.tidy(s, set)
	switch {
	case exact:
		c.gone(set.place, n, c.reasonGone(set.place))
	default:
		c.places[set.place].book.lose(n)
	}
	c.touch(s)
}

// deliverQueued delivers the message at the head of a set, as far as some askers want it, if it is still wanted. It is false if that
// must wait.
func (c *Core) deliverQueued(s *session, l *link, set *set, m *Message, by askers) bool {
	t := c.target(s, m.Topic)
	retained := c.places[set.place].retained
	owed := by&byQueue != 0 && !set.runs.empty() && set.runs.min() == m.Offset // else it is owed once its turn has come
	if by &= set.asked(m.Offset); by > byQueue {
		if owed && m.Offset < c.floor.at(set.place) && s.flight.owns(set.place, m.Offset) {
			c.take(s, set, m.Offset+1, byQueue) // as below
			return true
		}
		return c.deliverPast(s, l, set, m, t, by, owed)
	}
	var a applies
	drop := ""
	switch {
	case retained && !c.current(m.Topic, set.place, m.Offset):
		drop = DropSuperseded
	case !retained && m.Offset < c.floor.at(set.place) && s.flight.owns(set.place, m.Offset):
		c.take(s, set, m.Offset+1, by) // in flight, or done before a crash: a merge has brought it back
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
		c.take(s, set, m.Offset+1, by)
		return true
	}
	return c.handOver(s, l, set, m, t, &a, retained || m.Retain && a.rap, by, owed)
}

// deliverPast delivers the message at the head of a set that histories want, and perhaps the queue. What no history's filter matches
// was never asked for. Deliveries of history are in the books, but in no row of the meter: its minute may be long over, and there would
// be a row for every minute of the past that somebody looks at.
func (c *Core) deliverPast(s *session, l *link, set *set, m *Message, t *target, by askers, owed bool) bool {
	if c.pastLeft--; c.pastLeft < 0 {
		c.park(s, l)
		return false
	}
	a := applies{none: true}
	if t != nil {
		a = c.pastSum(t, m, set.place, m.Offset, by)
	}
	switch {
	case a.pending:
		return false
	case a.none && owed && set.merged:
		c.places[set.place].book.lose(1)
	case a.none && owed:
		c.drop(m.Tally, set.place, DropUnmatched)
	}
	if a.none {
		c.take(s, set, m.Offset+1, by)
		return true
	}
	if !owed && a.who&byQueue == 0 {
		c.scratch = *m
		c.scratch.Tally = &c.unrowed
		m = &c.scratch
	}
	return c.handOver(s, l, set, m, t, &a, m.Retain && a.rap, by, owed)
}

// take removes what lies below off for some askers: it is dealt with.
func (c *Core) take(s *session, set *set, off int64, by askers) {
	set.cutOf(off, by)
	c.tidy(s, set)
	c.touch(s)
}

// handOver delivers the message at the head of a set, or gives it up. It is false if that must wait.
func (c *Core) handOver(s *session, l *link, set *set, m *Message, t *target, a *applies, retain bool, by askers, owed bool) bool {
	if reason := c.barred(t, m, l); reason != "" && !spared(reason, way(c.places[set.place].retained, a.who)) {
		if !owed {
			c.owe(m.Tally, set.place)
		}
		c.drop(m.Tally, set.place, reason)
		c.take(s, set, m.Offset+1, by)
		return true
	}
	who := a.who
	if who == 0 {
		who = a.by()
	}
	if a.qos == 0 {
		if !l.room || l.heldBytes >= c.o.ReadBytes || who&^tells > byQueue && len(l.held) > 0 { // what is held is lost with the connection
			return false
		}
		if !owed {
			c.owe(m.Tally, set.place)
		}
		c.deliver0(l, m, set.place, a, retain, who)
	} else if !l.open(c) || !c.emit(l, m, set.place, a, retain, who) {
		return false
	} else if !owed {
		c.owe(m.Tally, set.place) // the subscription has changed meanwhile, or it is history
	}
	c.take(s, set, m.Offset+1, by)
	return true
}

// way is what tests call the way of a message that was queued.
func way(retained bool, by askers) string {
	switch {
	case retained:
		return "retained"
	case by > byQueue:
		return "replayed"
	}
	return "queued"
}

func (c *Core) reasonGone(place int32) string {
	if c.places[place].retained {
		return DropSuperseded
	}
	return DropGap
}
