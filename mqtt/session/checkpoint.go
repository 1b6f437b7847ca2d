package session

import (
	"math"
	"slices"
)

// shard is one sessions partition, with its checkpoint.
//
// A checkpoint writes begin k with the frontier F_k, then the queues whose state below F_k changed, tagged k, then done k. A
// crash leaves one of these:
//   - no begin k: the queues in the log are as of the last done checkpoint's frontier, and replay from there;
//   - begin k without done k: a queue tagged k is as of F_k; every other is as the last done checkpoint left it;
//   - done k: every queue is as of F_k. One that was not written had nothing below F_k that its record does not say.
//
// A queue may be written later than begin k: its state below F_k can only have shrunk. What depends on a position being below the
// frontier (the ids of QoS 2, in and out) is removed only after done k.
type shard struct {
	*lane
	phase    phase
	number   uint64 // of the last checkpoint begun
	goal     vector // its frontier
	f        vector // of the last one done
	dirty    []*session
	todo     []*session // to be written by this checkpoint
	wrote    []*session // looked at by this checkpoint
	settled  []start    // subscriptions whose retained messages were all queued when their session was looked at
	starts   []start    // subscriptions that begin above a frontier, perhaps
	old      []start    // those of them that will not, once this checkpoint is done
	over     []over     // histories of which nothing was left when their session was looked at
	waits    int
	refused  bool
	replayed struct{ begun, done checkpointValue } // as restored
	begun    vector                                // replayed.begun, once asked for
}

type phase uint8

const (
	atRest phase = iota
	savingQueues
	savingEnd
)

type start struct {
	session *session
	sub     *sub
}

const chunkBytes = 64 << 10 // of queues written at a time; the next follow when these are durable

// soonAfterRestore is how many times sooner than CheckpointEvery the first checkpoint after a restore comes; each that follows takes twice as long,
// until it is that. What is replayed to QoS 1 subscribers is delivered to them again, and a node that is killed again before it has noted their
// acknowledgements delivers it once more: in a run of kills, all of it each time.
const soonAfterRestore = 32

// checkpointDue begins a checkpoint when one is due, and returns when to ask again. It is due after some time or some bytes of
// log, but costs at most a twentieth of those bytes, unless a replay would grow too long.
func (c *Core) checkpointDue() int64 {
	if c.checkpointing() {
		return math.MaxInt64
	}
	changed := c.since.start != 0
	for _, sh := range c.shards {
		changed = changed || len(sh.dirty) > 0
	}
	if !changed && !c.hurry {
		return math.MaxInt64
	}
	if c.since.start == 0 {
		c.since.start = c.now
	}
	every := max(c.every.Milliseconds(), 1)
	cheap := c.since.cost*20 <= c.since.bytes
	switch {
	case c.hurry,
		c.since.bytes >= c.o.CheckpointBytes && (cheap || c.since.bytes >= 8*c.o.CheckpointBytes),
		c.now >= c.since.start+every && (cheap || c.now >= c.since.start+30*every):
		c.beginCheckpoint()
		return math.MaxInt64
	}
	if c.now < c.since.start+every {
		return c.since.start + every
	}
	return min(c.now+every, c.since.start+30*every)
}

// Checkpoint begins one now, for a clean stop. It is complete when Busy is false.
func (c *Core) Checkpoint(now int64) {
	if !c.enter(now) || c.replaying {
		return
	}
	if c.hurry = c.checkpointing(); !c.hurry {
		c.beginCheckpoint()
	}
	c.leave()
}

func (c *Core) checkpointing() bool {
	return slices.ContainsFunc(c.shards, func(s *shard) bool { return s.phase != atRest }) ||
		slices.ContainsFunc(c.stores, func(s *retainedStore) bool { return s.moving })
}

func (c *Core) beginCheckpoint() {
	c.hurry = false
	c.every = min(2*c.every, c.o.CheckpointEvery)
	c.since.bytes, c.since.start, c.since.cost = 0, 0, 0
	for _, st := range c.stores {
		c.beginFrontier(st)
	}
	for _, sh := range c.shards {
		c.beginShard(sh)
	}
}

func (c *Core) beginShard(sh *shard) {
	sh.number++
	sh.goal, sh.phase, sh.refused = c.next(), savingQueues, false
	sh.todo, sh.dirty, sh.wrote, sh.settled, sh.over = sh.dirty, nil, nil, nil, nil
	sh.old = c.old(sh, sh.goal)
	for _, s := range sh.todo {
		s.dirty = false
		c.coverDone(s, sh)
	}
	v := checkpointValue{sh.number, c.positions(sh.goal)}
	c.saveRecords(sh, nil, StateRecord{plainKey(kindBegin), v.append(nil)})
	c.saveSome(sh)
}

// coverDone marks the outbound QoS 2 ids that are done and that nothing will need once this checkpoint is done: no replay will
// come to their position, and the queue does not hold it.
func (c *Core) coverDone(s *session, sh *shard) {
	if s.group != nil {
		c.coverTaken(s.group, sh)
		return
	}
	if len(s.flight.done) == 0 {
		return
	}
	for i := range s.flight.done {
		d := &s.flight.done[i]
		set := s.queue.find(d.place)
		switch {
		case d.shared:
		case set != nil && set.holds(d.offset, d.by):
		case !c.places[d.place].retained && d.offset >= sh.goal.at(d.place):
		default:
			d.cover = sh.number
		}
	}
}

// saveRecords writes records of a checkpoint; the next ones go out when these are durable.
func (c *Core) saveRecords(sh *shard, s *session, recs ...StateRecord) {
	sh.waits++
	for _, r := range recs {
		c.since.cost += int64(len(r.Key) + len(r.Value))
	}
	c.write(sh.lane, func(err error) {
		sh.waits--
		if err != nil {
			sh.refused = true
			if s != nil && s.offlineSaved {
				s.offlineDirty = s.offline != 0
			}
		}
		c.saveSome(sh)
	}, recs...)
}

// saveSome goes on with a checkpoint: the next queues, or its end.
func (c *Core) saveSome(sh *shard) {
	if sh.waits > 0 || sh.phase != savingQueues {
		return
	}
	if sh.refused {
		c.abandon(sh)
		return
	}
	bytes := 0
	for len(sh.todo) > 0 && bytes < chunkBytes {
		s := sh.todo[0]
		sh.todo = sh.todo[1:]
		if s.ended {
			continue
		}
		sh.wrote = append(sh.wrote, s)
		for _, r := range c.queueRecords(s, sh) {
			bytes += len(r.Key) + len(r.Value)
			c.saveRecords(sh, s, r)
		}
	}
	if len(sh.todo) > 0 || sh.waits > 0 || sh.removals > 0 {
		return
	}
	for _, l := range c.stale {
		if l == sh.lane { // the frontier must not pass a fired will or an ended session whose key is still there: nothing more is written of it
			c.abandon(sh)
			return
		}
	}
	c.finishCheckpoint(sh)
}

// abandon gives a checkpoint up after a refused write. What it would have written is written by the next one.
func (c *Core) abandon(sh *shard) {
	sh.phase = atRest
	for _, s := range append(sh.wrote, sh.todo...) {
		c.touch(s)
	}
	sh.todo, sh.wrote, sh.settled, sh.over = nil, nil, nil, nil
	c.since.start = c.now + redoEvery
}

// queueRecords are what a checkpoint writes of one session.
func (c *Core) queueRecords(s *session, sh *shard) (recs []StateRecord) {
	for _, b := range s.queue.subs.list {
		if b.owes && b.queued {
			sh.settled = append(sh.settled, start{s, b})
		}
	}
	v, key := queueValue{inc: s.inc, tag: sh.number, sets: c.setValues(s, sh.goal)}, sessionKey(kindQueue, s.key)
	if s.group != nil {
		key = sessionKey(kindGroup, s.key)
	}
	v.base, v.inbound = s.inbound.checkpoint(sh.number)
	var done []*history
	v.histories, done = c.historyValues(s)
	for _, h := range done {
		sh.over = append(sh.over, over{s, h})
	}
	switch empty := v.base == 0 && len(v.inbound) == 0 && len(v.sets) == 0 && len(v.histories) == 0; {
	case !empty:
		s.saved = true
		recs = append(recs, StateRecord{key, v.append(nil)})
	case s.saved:
		s.saved = false
		recs = append(recs, StateRecord{Key: key})
	}
	switch {
	case s.offlineDirty && c.turns[s.key] != nil: // perhaps a CONNECT is writing the session's record
		c.touch(s)
	case s.offlineDirty:
		s.offlineDirty, s.offlineSaved = false, true
		recs = append(recs, sessionRecord(s.key, sessionValue{inc: s.inc, expiry: s.expiry, offline: s.offline}))
	}
	return recs
}

// setValues are the positions below a frontier that are owed: the sets, and what is in flight without an out/id.
func (c *Core) setValues(s *session, f vector) (list []setValue) {
	limit := func(place int32) int64 {
		if c.places[place].retained {
			return math.MaxInt64
		}
		return f.at(place)
	}
	byPlace := map[int32][]run{}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		if end := limit(set.place); !set.runs.empty() && set.runs.min() < end {
			for n := range set.runs.all {
				if n.from < end {
					byPlace[set.place] = append(byPlace[set.place], run{n.from, min(n.to, end)})
				}
			}
		}
	}
	also := func(place int32, off int64) {
		if off < limit(place) {
			byPlace[place] = append(byPlace[place], run{off, off + 1})
		}
	}
	for _, d := range s.flight.all() {
		if d.unwritten() && d.by&byQueue != 0 {
			also(d.place, d.offset)
		}
	}
	if s.group != nil {
		s.group.groupRuns(also)
	}
	for place := range int32(len(c.places)) {
		if runs := byPlace[place]; runs != nil && !c.places[place].dead {
			set := s.queue.find(place)
			list = append(list, setValue{c.places[place].part, set != nil && set.merged, normal(runs)})
		}
	}
	return list
}

func (c *Core) finishCheckpoint(sh *shard) {
	sh.phase = savingEnd
	for _, st := range sh.settled {
		s, b := st.session, st.sub
		if s.ended || !b.queued || !b.owes || b.writes > 0 || b.ending > 0 || s.queue.subs.get(b.filter) != b {
			c.touch(s)
			continue
		}
		c.write(sh.lane, func(err error) {
			if err == nil && b.queued {
				b.owes = false
			}
			c.touch(s)
		}, c.record(s, b, b.opts, false))
	}
	c.forgetOver(sh)
	v := checkpointValue{sh.number, c.positions(sh.goal)}
	c.write(sh.lane, func(err error) {
		if err != nil {
			c.abandon(sh)
			return
		}
		c.checkpointDone(sh)
	}, StateRecord{plainKey(kindDone), v.append(nil)})
}

// checkpointDone removes what no replay needs any more.
func (c *Core) checkpointDone(sh *shard) {
	sh.phase, sh.f = atRest, sh.goal
	for _, s := range sh.wrote {
		if s.ended {
			continue
		}
		if s.group != nil {
			c.dropTaken(s.group, sh.number)
			c.pump(s)
			continue
		}
		// While a record still says that retained messages are owed, a crash begins with them anew.
		owed := slices.ContainsFunc(s.queue.subs.list, (*sub).owesAny)
		kept := s.flight.done[:0]
		for _, d := range s.flight.done {
			if !d.shared && d.cover == sh.number && !(owed && c.places[d.place].retained) {
				c.write(sh.lane, nil, StateRecord{Key: idKey(kindOut, s.key, d.id)})
			} else {
				kept = append(kept, d)
			}
		}
		if s.flight.done = kept; len(kept) > 0 {
			c.touch(s)
		}
		for _, id := range s.inbound.covered(sh.number) {
			c.write(sh.lane, nil, StateRecord{Key: idKey(kindIn, s.key, id)})
		}
		c.pump(s)
	}
	sh.wrote, sh.settled = nil, nil
	c.trimStarts(sh, sh.old)
	sh.old = nil
	if c.hurry && !c.checkpointing() {
		c.beginCheckpoint()
	}
}

// owesAny tells whether a record of a subscription, or of one whose place it took, may say that retained messages are owed.
func (b *sub) owesAny() bool { return b.owes || b.old != nil && b.old.owesAny() }

// old are the subscriptions that begin below a frontier and have nothing older in their queue. Once a checkpoint with that
// frontier is done no crash can bring anything older back.
func (c *Core) old(sh *shard, f vector) (list []start) {
	for _, st := range sh.starts {
		if !st.session.ended && st.sub.start != nil && c.passed(st.session, st.sub, f) {
			list = append(list, st)
		}
	}
	return list
}

// trimStarts forgets the starts of subscriptions that no longer need one.
func (c *Core) trimStarts(sh *shard, old []start) {
	for _, st := range old {
		st.sub.start = nil
	}
	n := len(sh.starts)
	sh.starts = slices.DeleteFunc(sh.starts, func(st start) bool { return st.session.ended || st.sub.start == nil })
	if len(sh.starts) < n {
		c.cache = newMatchCache()
	}
}

func (c *Core) passed(s *session, b *sub, f vector) bool {
	for i := range b.start {
		if p := &c.places[i]; p.tailed && !p.dead && f.at(int32(i)) < b.start[i] {
			return false
		}
	}
	for i := range s.queue.sets {
		if set := &s.queue.sets[i]; !c.places[set.place].retained && set.headOf(byQueue) < b.start.at(set.place) {
			return false
		}
	}
	for _, d := range s.flight.all() { // after a crash those are positions again
		if !c.places[d.place].retained && d.offset < b.start.at(d.place) {
			return false
		}
	}
	return true
}
