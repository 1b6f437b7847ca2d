package session

import (
	"cmp"
	"maps"
	"slices"
)

// taken is a position of QoS 2 that belongs to a session for good.
type taken struct {
	lane  *lane // with key and id: of the out/id that says so
	key   Key
	id    uint16
	over  bool   // the delivery is complete, or its session has ended
	cover uint64 // the checkpoint that covers the position, once it is over
}

// limbo is a position whose out/id is being removed, since the PUBLISH has not left.
type limbo struct {
	saved bool // the out/id is in the log
}

// leased tells whether a delivery holds a position that goes back to its group if it does not come about.
func (d *flown) leased() bool {
	return d.lease != nil && !d.lease.group.ended && (d.qos == 1 || !d.published) && !mutant("keep-lease") ||
		d.lease != nil && !d.lease.group.ended && mutant("redispatch-qos2")
}

// leaseSaved is the outcome of the out/id of a lease of QoS 2. It may have ended meanwhile.
func (c *Core) leaseSaved(g *group, sp spot, t taken, err error) {
	if lb := g.limbo[sp]; lb != nil {
		lb.saved = err == nil
	} else if err == nil && !g.buried {
		g.taken[sp] = &t
	}
}

// stray is a lease of a group that is gone.
func stray(inc Incarnation) *member {
	m := &member{group: &group{buried: true}}
	m.group.inc, m.group.ended = inc, true
	return m
}

// applies is what a member's subscription amounts to, or did when it left.
func (m *member) applies() applies { return applies{options: options{rap: m.rap}, ids: m.ids} }

// returnAll gives the leases back that a session holds, after its connection was lost.
func (c *Core) returnAll(s *session) (groups []*group) {
	type from struct {
		group *group
		place int32
	}
	var order []from
	back := map[from][]run{}
	f := &s.flight
	kept := f.items[:f.head]
	for _, e := range f.all() {
		if !e.leased() {
			kept = append(kept, e)
			continue
		}
		g := e.lease.group
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
		c.unlease(&e)
		switch {
		case e.settled: // the client could not have it, and that is counted
			continue
		case e.qos == 2 && e.state != unsaved:
			c.untake(s, &e)
			continue
		}
		k := from{g, e.place}
		if back[k] == nil {
			order = append(order, k)
		}
		back[k] = append(back[k], run{e.offset, e.offset + 1})
	}
	clear(f.items[len(kept):])
	f.items = kept
	for _, k := range order {
		c.giveBack(k.group, k.place, back[k])
	}
	return groups
}

// giveBack puts positions back into the queue.
func (c *Core) giveBack(g *group, place int32, runs []run) {
	if c.places[place].dead {
		c.gone(place, int64(len(runs)), DropTopicDeleted)
		return
	}
	set := g.queue.set(place)
	set.runs.set(append(set.runs.list(), runs...))
	g.aside, g.reads.live = nil, false
	c.touch(&g.session)
}

// yield takes a delivery that has not left back from a session that is connected: it may not have the message any more.
func (c *Core) yield(s *session, e *flown) {
	g, own := e.lease.group, *e
	c.unlease(e)
	c.land(s, e)
	if own.qos == 2 {
		c.untake(s, &own)
		return
	}
	c.giveBack(g, own.place, []run{{own.offset, own.offset + 1}})
	c.dispatch(g)
}

// unlease: a member has one lease less.
func (c *Core) unlease(e *flown) {
	e.lease.leases--
	e.lease.group.prune(e.lease)
	c.touch(&e.lease.group.session)
}

// untake brings a position of QoS 2 back whose out/id is in the log, or on its way there. Until the removal of that is in the log
// the position is in limbo, and the id is not used for another.
func (c *Core) untake(s *session, e *flown) {
	g, sp := e.lease.group, spot{e.place, e.offset}
	delete(g.taken, sp)
	g.limbo[sp] = &limbo{saved: e.state == ready}
	s.flight.done = append(s.flight.done, doneID{offset: e.offset, place: e.place, id: e.id, shared: true})
	c.removeOut(g, sp, s.key, s.shard.lane, e.id)
}

func (c *Core) removeOut(g *group, sp spot, k Key, l *lane, id uint16) {
	c.write(l, func(err error) {
		lb := g.limbo[sp]
		if err != nil && lb.saved {
			if len(c.stale)+len(c.redo) == 0 {
				c.staleAt = c.now + redoEvery
			}
			c.redo = append(c.redo, func() { c.removeOut(g, sp, k, l, id) })
			return
		}
		delete(g.limbo, sp)
		c.freeID(k, id)
		if !g.ended {
			c.giveBack(g, sp.place, []run{{sp.offset, sp.offset + 1}})
			c.dispatch(g)
		}
	}, StateRecord{Key: idKey(kindOut, k, id)})
}

// endLease: a delivery of a group is complete. The out/id of one of QoS 2 stays until a checkpoint of the group covers the position.
func (c *Core) endLease(s *session, e *flown) {
	g := e.lease.group
	c.unlease(e)
	switch t := g.taken[spot{e.place, e.offset}]; {
	case e.qos < 2:
	case t != nil:
		t.over = true
		s.flight.done = append(s.flight.done, doneID{offset: e.offset, place: e.place, id: e.id, shared: true})
	default: // the group is gone
		c.write(s.shard.lane, nil, StateRecord{Key: idKey(kindOut, s.key, e.id)})
	}
}

// endLeases: a session has ended, and what it has taken ends with it.
func (c *Core) endLeases(s *session) {
	for _, e := range s.flight.all() {
		if e.lease == nil {
			continue
		}
		c.unlease(&e)
		if t := e.lease.group.taken[spot{e.place, e.offset}]; e.qos == 2 && t != nil {
			t.over = true
			s.flight.done = append(s.flight.done, doneID{offset: e.offset, place: e.place, id: e.id, shared: true})
		}
	}
	for _, d := range s.flight.done {
		if d.shared {
			c.spent[s.key] = append(c.spent[s.key], d)
		}
	}
}

// reserve keeps a session from using an id.
func (c *Core) reserve(k Key, d doneID) {
	if s := c.sessions[k]; s != nil {
		s.flight.done = append(s.flight.done, d)
	} else {
		c.spent[k] = append(c.spent[k], d)
	}
}

// freeID lets a session use an id again that stood for a position of a group.
func (c *Core) freeID(k Key, id uint16) {
	is := func(d doneID) bool { return d.shared && d.id == id }
	if s := c.sessions[k]; s != nil {
		s.flight.done = slices.DeleteFunc(s.flight.done, is)
		c.pump(s)
	}
	if list := slices.DeleteFunc(c.spent[k], is); len(list) > 0 {
		c.spent[k] = list
	} else {
		delete(c.spent, k)
	}
}

// coverTaken marks the positions that nothing will bring back once this checkpoint is done.
func (c *Core) coverTaken(g *group, sh *shard) {
	for sp, t := range g.taken {
		set := g.queue.find(sp.place)
		passed := sp.offset < sh.goal.at(sp.place) || c.places[sp.place].dead
		if t.over && passed && (set == nil || !set.runs.has(sp.offset)) {
			t.cover = sh.number
		}
	}
}

// dropTaken forgets what a checkpoint that is done covers.
func (c *Core) dropTaken(g *group, number uint64) {
	c.dropOuts(g, func(t *taken) bool { return t.over && t.cover == number })
	for _, t := range g.taken {
		if t.over {
			c.touch(&g.session)
			return
		}
	}
}

// dropOuts removes the out/ids of positions that were taken.
func (c *Core) dropOuts(g *group, which func(*taken) bool) {
	for _, sp := range sortedSpots(g.taken) {
		if t := g.taken[sp]; which(t) {
			delete(g.taken, sp)
			c.write(t.lane, nil, StateRecord{Key: idKey(kindOut, t.key, t.id)})
			c.freeID(t.key, t.id)
		}
	}
}

func sortedSpots[V any](m map[spot]V) []spot {
	return slices.SortedFunc(maps.Keys(m), func(a, b spot) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.offset, b.offset))
	})
}

func sortedGroups[V any](m map[Key]V) []Key { return slices.SortedFunc(maps.Keys(m), compareKey) }

// groupRuns are the positions of a group that are not in its queue, and that a crash would put there.
func (g *group) groupRuns(yield func(place int32, off int64)) {
	for _, m := range g.members {
		if m.leases == 0 {
			continue
		}
		for _, e := range m.session.flight.all() {
			if e.lease == m && (e.qos == 1 || !e.published) {
				yield(e.place, e.offset)
			}
		}
	}
	for sp := range g.limbo {
		yield(sp.place, sp.offset)
	}
}
