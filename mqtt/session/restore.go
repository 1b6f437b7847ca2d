package session

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Restore visits every record of a claimed partition, in order, before the first other call. at is the target's place in the
// log (positions of retained messages are in it); epoch is that of the claim. recs is the function that Store.Claim returned.
func (c *Core) Restore(t Target, at Part, epoch int64, recs func(visit func(offset int64, r StateRecord) error) error) error {
	l := c.lanes[t]
	if l == nil {
		return fmt.Errorf("restore session state: %+v is no target of this core", t)
	}
	l.part, l.place = at, c.place(at)
	c.epoch = max(c.epoch, uint64(epoch))
	visit := c.visitSession(c.shardOf(l))
	if t.Retained {
		c.places[l.place].retained = true
		visit = c.visitRetained(c.storeOf(l))
	}
	err := recs(func(offset int64, r StateRecord) error {
		k, err := decodeKey(r.Key)
		if err != nil || !visit(offset, k, r.Value) {
			c.host.Count(DropBadRecord, 1)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("restore session state of %+v: %w", t, err)
	}
	return nil
}

func (c *Core) shardOf(l *lane) *shard {
	if i := slices.IndexFunc(c.shards, func(s *shard) bool { return s.lane == l }); i >= 0 {
		return c.shards[i]
	}
	return nil
}

func (c *Core) storeOf(l *lane) *retainedStore {
	return c.stores[slices.IndexFunc(c.stores, func(s *retainedStore) bool { return s.lane == l })]
}

// Restored ends the restore. ends and starts are those of the data partitions. It returns the vector to tail them from; a
// partition that no checkpoint knows starts where starts says.
func (c *Core) Restored(now int64, ends, starts Vector) Vector {
	c.now = now
	for _, p := range slices.SortedFunc(maps.Keys(ends), comparePart) {
		i := c.place(p)
		c.places[i].tailed, c.places[i].ready = true, ends[p]
	}
	for _, sh := range c.shards {
		sh.number = max(sh.replayed.begun.number, sh.replayed.done.number)
		var whole bool
		if sh.f, whole = c.frontier(sh.replayed.done.at, starts); !whole {
			// Of the number that is done: queues that a later one has written are as of its frontier, not this one.
			v := checkpointValue{sh.replayed.done.number, c.positions(sh.f)}
			c.anchor(sh.lane, StateRecord{plainKey(kindDone), v.append(nil)})
		}
	}
	for _, st := range c.stores {
		var whole bool
		if st.f, whole = c.frontier(st.restored, starts); !whole {
			v := checkpointValue{at: c.positions(st.f)}
			c.anchor(st.lane, StateRecord{plainKey(kindFrontier), v.append(nil)})
		}
		st.restored = nil
	}
	c.restoreSessions()
	from := Vector{}
	for i := range c.places {
		p := &c.places[i]
		if !p.tailed {
			continue
		}
		at := int64(-1)
		for _, sh := range c.shards {
			at = lower(at, sh.f.at(int32(i)))
		}
		for _, st := range c.stores {
			at = lower(at, st.f.at(int32(i)))
		}
		p.next = max(at, 0)
		from[p.part] = p.next
	}
	c.snapshot = nil
	c.tryReady()
	c.leave()
	return from
}

func lower(a, b int64) int64 {
	if a < 0 {
		return b
	}
	return min(a, b)
}

// frontier is a frontier as it was written, with the partitions that it does not know at their starts. whole tells that it
// knows all.
func (c *Core) frontier(at []Position, starts Vector) (f vector, whole bool) {
	f, whole = c.vector(at), true
	known := map[Part]bool{}
	for _, p := range at {
		known[p.Part] = true
	}
	for i := range c.places {
		if p := &c.places[i]; p.tailed && !known[p.part] {
			for i >= len(f) {
				f = append(f, 0)
			}
			f[i] = starts[p.part]
			whole = false
		}
	}
	return f, whole
}

// anchor writes a frontier that knows every partition, before anything depends on where a partition starts: another restore
// must not take a later start for the same partition. If it is refused the next checkpoint does it.
func (c *Core) anchor(l *lane, recs ...StateRecord) {
	c.anchors++
	c.write(l, func(error) {
		c.anchors--
		c.tryReady()
	}, recs...)
}

func (c *Core) restoreSessions() {
	keys := slices.SortedFunc(maps.Keys(c.restoring), compareKey)
	for _, k := range keys {
		c.restoreSession(k, c.restoring[k])
	}
	c.restoreGroups()
	c.restoring, c.refilling, c.leases = nil, nil, nil
}

func (c *Core) restoreSession(k Key, sv *saved) {
	sh := c.shard(k)
	if sv.session == nil {
		if sv.will != nil {
			w := &will{key: k, lane: sh.lane, inc: sv.will.inc, id: sv.will.id, delay: sv.will.delay, msg: sv.will.msg}
			c.armed[w.id] = w
			c.keepWill(w)
			c.orphans = append(c.orphans, w)
		}
		c.discard(sh, k, sv, 0)
		return
	}
	s := c.create(k, sv.session.inc)
	s.expiry, s.offline, s.offlineSaved = sv.session.expiry, sv.session.offline, sv.session.offline != 0
	if w := sv.will; w != nil && w.inc == s.inc {
		s.will = &will{key: k, lane: sh.lane, inc: w.inc, id: w.id, delay: w.delay, msg: w.msg}
		c.armed[w.id] = s.will
		c.keepWill(s.will)
	}
	for _, filter := range slices.Sorted(maps.Keys(sv.subs)) {
		if v := sv.subs[filter]; v.inc == s.inc {
			b := &sub{filter: filter, opts: v.opts, start: c.vector(v.start), owes: v.owes}
			if v.owes {
				b.asOf = c.vector(v.owed)
			}
			if _, shared, err := sharedKey(k.Tenant, filter); shared || v.group != 0 {
				if !shared || err != nil || v.group == 0 {
					c.host.Count(DropBadRecord, 1)
					continue
				}
				b.start = nil
				s.queue.subs.set(b)
				c.rejoin(s, b, v.group, c.vector(v.start))
				continue
			}
			s.queue.subs.set(b)
			c.plant(s, b)
			sh.starts = append(sh.starts, start{s, b})
			if v.history != nil {
				c.restoreHistory(s, b, v.history, sv.queue)
			}
		}
	}
	c.restoreQueue(s, sv)
	c.restoreOut(s, sv.out)
	c.discard(sh, k, sv, s.inc)
}

// restoreQueue restores the set and the inbound ids. What lies at or above the queue's frontier comes from the replay.
func (c *Core) restoreQueue(s *session, sv *saved) {
	q := sv.queue
	if q != nil && q.inc != s.inc {
		q = nil
	}
	s.queue.f = s.shard.f
	released := map[uint16]uint32{}
	for id, v := range sv.in {
		if v.inc == s.inc {
			released[id] = v.used
		}
	}
	if q != nil {
		s.saved = true
		r := &s.shard.replayed
		exact := q.tag <= r.done.number
		if q.tag == r.begun.number && !exact {
			s.queue.f, exact = s.shard.begunAt(c), true
		}
		for _, sv := range q.sets {
			c.restoreSet(s, sv)
		}
		s.inbound.base = q.base
		for _, in := range q.inbound {
			used, stored := released[in.id]
			delete(released, in.id)
			in.released = max(in.released, used)
			s.inbound.restore(in, stored, exact)
		}
	}
	for id, used := range released {
		s.inbound.restore(inboundValue{id: id, released: used}, true, false)
	}
}

// begunAt is the frontier of a checkpoint that was begun and not done.
func (sh *shard) begunAt(c *Core) vector {
	if sh.begun == nil {
		sh.begun, _ = c.frontier(sh.replayed.begun.at, nil)
		for i := range sh.begun { // a partition that it did not know
			sh.begun[i] = max(sh.begun[i], sh.f.at(int32(i)))
		}
	}
	return sh.begun
}

func (c *Core) restoreSet(s *session, v setValue) {
	i, ok := c.index[v.part]
	if !ok || !c.places[i].tailed && !c.places[i].retained {
		n := int64(0)
		for _, r := range v.runs {
			n += r.to - r.from
		}
		c.host.Count(DropTopicDeleted, int(n))
		return
	}
	set := s.queue.set(i)
	set.runs.set(v.runs)
	set.merged = v.merged
}

// restoreOut restores the outbound QoS 2 ids. Their positions belong to them, not to the set.
func (c *Core) restoreOut(s *session, out map[uint16]outValue) {
	var list []flown
	for id, v := range out {
		if v.inc != s.inc {
			continue
		}
		d := flown{offset: v.pos.Offset, place: c.place(v.pos.Part), id: id, qos: 2, published: true, since: uint32(c.now / 1000),
			by: s.askersOf(&v)}
		if v.group != 0 {
			d.by, d.lease = 0, stray(v.group)
			c.leases = append(c.leases, savedLease{s, s.key, id, v})
		} else if d.by&byQueue == 0 {
			d.tally = &c.unrowed
		}
		if v.released {
			d.state = released
		}
		if p := &c.places[d.place]; !p.tailed && !p.retained {
			p.dead = true
		}
		if v.copied {
			s.flight.copies = append(s.flight.copies, copied{id: id, at: v.at})
		}
		list = append(list, d)
	}
	slices.SortFunc(s.flight.copies, func(a, b copied) int { return cmp.Compare(a.id, b.id) })
	slices.SortFunc(list, func(a, b flown) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.offset, b.offset))
	})
	for _, d := range list {
		s.flight.push(d)
		if set := s.queue.find(d.place); set != nil {
			c.own(s, set, &d)
		}
	}
}

// discard notes the records of a key that belong to no session, for removal after the replay.
func (c *Core) discard(sh *shard, k Key, sv *saved, inc Incarnation) {
	dead := func(key []byte) { c.garbage = append(c.garbage, deadKey{sh.lane, key}) }
	for filter, v := range sv.subs {
		if v.inc != inc || inc == 0 {
			dead(subKey(k, filter))
		}
	}
	for id, v := range sv.in {
		if v.inc != inc || inc == 0 {
			dead(idKey(kindIn, k, id))
		}
	}
	for id, v := range sv.out {
		if v.inc == inc && inc != 0 {
			continue
		}
		if v.group != 0 { // whether anybody else may have it, its group says
			c.leases = append(c.leases, savedLease{nil, k, id, v})
		} else {
			dead(idKey(kindOut, k, id))
		}
	}
	if sv.queue != nil && (sv.queue.inc != inc || inc == 0) {
		dead(sessionKey(kindQueue, k))
	}
	if sv.will != nil && inc != 0 && sv.will.inc != inc {
		dead(sessionKey(kindWill, k))
	}
}

// tryReady ends the replay when every partition has reached its end.
func (c *Core) tryReady() {
	if !c.replaying || c.anchors > 0 || c.restoring != nil {
		return
	}
	for i := range c.places {
		if p := &c.places[i]; p.tailed && !p.dead && p.next < p.ready {
			return
		}
	}
	c.replaying = false
	c.floor = c.next()
	c.openBooks()
	for _, s := range c.ordered() {
		c.wake(s)
	}
	for _, g := range c.groups {
		g.queue.f, g.floor = nil, slices.Clone(c.floor)
	}
	for _, sh := range c.shards {
		sh.begun, sh.replayed.begun, sh.replayed.done = nil, checkpointValue{}, checkpointValue{}
		c.trimStarts(sh, c.old(sh, sh.f))
	}
	for _, w := range c.orphans {
		if c.armed[w.id] == w { // not fired before the crash
			c.fire(w, nil)
		}
	}
	slices.SortFunc(c.garbage, func(a, b deadKey) int { return slices.Compare(a.key, b.key) })
	for _, d := range c.garbage {
		c.write(d.lane, nil, StateRecord{Key: d.key})
	}
	early := c.early
	c.orphans, c.garbage, c.early, c.triples = nil, nil, nil, nil
	for _, a := range early {
		c.begin(a)
	}
}

// wake ends the replay for one session. Its timers run from when it was lost, if that is known, else from now.
func (c *Core) wake(s *session) {
	s.queue.f = nil
	s.inbound.settle()
	if s.offline == 0 {
		s.offline, s.offlineDirty = c.now, true
	}
	s.willAt, s.expireAt = 0, 0
	if s.will != nil {
		s.willAt = s.offline + int64(s.will.delay)*1000
	}
	if s.expiry != never {
		s.expireAt = s.offline + int64(s.expiry)*1000
	}
	c.schedule(s)
	c.touch(s)
	if s.flight.unreceived() {
		c.age(s)
	}
	for _, b := range s.queue.subs.list {
		if b.owes {
			s.scan(cursor{sub: b, asOf: b.asOf, restored: true})
		}
	}
}
