package session

import "slices"

// What checkpoints and records say of histories, and how they come back after a crash.

// historyValues are what a checkpoint says of a session's histories. over are those that have nothing left: their subscriptions'
// records may say so once this is durable.
func (c *Core) historyValues(s *session) (list []historyValue, over []*history) {
	for _, h := range s.histories {
		v := historyValue{number: h.number, lost: h.sub.gap.untold()}
		byPlace := map[int32][]run{}
		for i := range s.queue.sets {
			set := &s.queue.sets[i]
			for j := range set.past {
				if p := &set.past[j]; p.history == h {
					byPlace[set.place] = p.runs.list()
				}
			}
		}
		for _, d := range s.flight.all() {
			if d.by&h.bit != 0 && d.unwritten() && !mutant("replay-forgets-flight") {
				byPlace[d.place] = append(byPlace[d.place], run{d.offset, d.offset + 1})
			}
		}
		for place := range int32(len(c.places)) {
			if runs := byPlace[place]; len(runs) > 0 && !c.places[place].dead {
				v.sets = append(v.sets, setValue{part: c.places[place].part, runs: normal(runs)})
			}
		}
		if len(v.sets) == 0 {
			over = append(over, h)
		}
		list = append(list, v)
	}
	return list, over
}

// forgetOver has the records of subscriptions say that nothing of their history is left.
func (c *Core) forgetOver(sh *shard) {
	for _, o := range sh.over {
		s, h := o.session, o.history
		b := h.sub
		if s.ended || b.history != h {
			continue
		}
		if b.owes || b.writes > 0 || b.ending > 0 || s.queue.subs.get(b.filter) != b {
			c.touch(s) // another record of it is being written, or about to
			continue
		}
		c.write(sh.lane, func(err error) {
			if err == nil && !s.ended && b.history == h && b.writes == 0 { // else a later record says that there is history
				c.endHistory(s, h)
			}
			c.touch(s)
		}, c.recordOf(s, b, b.opts, false, nil))
	}
	sh.over = nil
}

type over struct {
	session *session
	history *history
}

// value is a history as the record of its subscription has it.
func (h *history) value(c *Core) *historyOf {
	v := &historyOf{number: h.number, lost: h.lost}
	for _, sp := range h.spans {
		p := &c.places[sp.place]
		if p.dead {
			continue
		}
		v.from = append(v.from, Position{p.part, sp.from})
		v.to = append(v.to, Position{p.part, sp.to})
	}
	return v
}

// restoreHistory restores the history of a subscription: what the last checkpoint that knew it has left of it, or all.
func (c *Core) restoreHistory(s *session, b *sub, v *historyOf, q *queueValue) {
	if len(s.histories) >= maxHistories {
		return
	}
	h := &history{sub: b, number: v.number, lost: v.lost}
	byPart := map[Part][]run{}
	for i, from := range v.from {
		if place, known := c.index[from.Part]; known && c.places[place].tailed {
			sp := span{place, run{from.Offset, v.to[i].Offset}}
			h.spans = append(h.spans, sp)
			byPart[from.Part] = []run{sp.run}
		}
	}
	lost := v.lost
	if q != nil && q.inc == s.inc {
		if i := slices.IndexFunc(q.histories, func(o historyValue) bool { return o.number == v.number }); i >= 0 {
			lost = q.histories[i].lost
			clear(byPart)
			for _, set := range q.histories[i].sets {
				byPart[set.part] = set.runs
			}
		}
	}
	h.lost = lost
	c.addHistory(s, h)
	h.lost = v.lost
	for i := range c.places {
		if list := byPart[c.places[i].part]; len(list) > 0 && c.places[i].tailed {
			c.addPast(s, h, int32(i), list)
		}
	}
	if h.left == 0 {
		c.uncount(s, h)
	}
}

// before tells whose positions in a set go before a delivery in flight: those of who asked for it, and history that it was live after.
func (s *set) before(e *flown) askers {
	by := e.by
	for i := range s.past {
		if e.by&byQueue == 0 {
			break
		}
		h := s.past[i].history
		if k := slices.IndexFunc(h.spans, func(sp span) bool { return sp.place == s.place }); k >= 0 && h.spans[k].to <= e.offset {
			by |= h.bit
		}
	}
	return by
}

// own takes a position that an out/id stands for out of a set.
func (c *Core) own(s *session, set *set, d *flown) {
	if d.by&byQueue != 0 {
		set.runs.remove(d.offset)
	}
	for i := range set.past {
		if p := &set.past[i]; p.history.bit&d.by != 0 && !mutant("replay-twice") {
			p.runs.remove(d.offset)
		}
	}
	c.tidy(s, set)
}

// askersOf are those that an out/id names, as far as they are there.
func (s *session) askersOf(v *outValue) (by askers) {
	if !v.past {
		return byQueue
	}
	by = wasPast
	if v.queued {
		by |= byQueue
	}
	for _, h := range s.histories {
		if slices.Contains(v.histories, h.number) {
			by |= h.bit
		}
	}
	return by
}

// outOf is what an out/id says of a delivery.
func (c *Core) outOf(s *session, e *flown) outValue {
	v := outValue{inc: s.inc, pos: c.position(e.place, e.offset), past: e.by&^tells > byQueue, queued: e.by&byQueue != 0}
	if e.lease != nil {
		v.group = e.lease.group.inc
	}
	for _, h := range s.histories {
		if e.by&h.bit != 0 {
			v.histories = append(v.histories, h.number)
		}
	}
	return v
}
