package session

import (
	"math"
	"slices"
	"strings"
)

// retained is the retained message of one topic, or the mark that it was removed. The payload is in memory only until its
// record in the retained topic is stable; then it is read from there.
type retained struct {
	topic   string
	store   *retainedStore
	time    int64 // with place and offset: of the message it came from; see wins
	place   int32
	offset  int64
	qos     byte
	cleared bool // with size: of the index
	size    int32
	expires int64    // milliseconds; 0: never
	msg     *Message // until stable
	at      int64    // offset of its record, -1 while there is none
	version uint32   // counts changes
	queued  bool     // in store.dirty
	stored  bool     // the log has, or may have, a record of this topic
	// The frontier that waits for it, and the version it waits for.
	round        uint64
	roundVersion uint32
}

// retainedStore is one partition of the retained topic.
type retainedStore struct {
	*lane
	unstable map[*retained]struct{} // their newest version is not in the log
	dirty    []*retained            // those of them that are not being written
	since    int64                  // when the first of dirty came
	bytes    int
	moving   bool // a frontier is being moved
	round    uint64
	waits    int // retained messages that must be in the log first
	f, goal  vector
	restored []Position  // f as restored
	cleared  []*retained // to be removed once the frontier has passed them
}

const (
	retainedDelay = 100 // milliseconds that a retained message may wait for others
	retainedBatch = 64 << 10
	retainedPage  = 128  // positions that a cursor queues at a time
	retainedLook  = 4096 // names that all cursors together look at in one call of the core
)

// retain takes a message with the retain flag into the view.
func (c *Core) retain(m *Message, place int32) {
	r, ok := c.retained.get(m.Topic)
	time := m.when(c.now)
	if ok && !c.wins(time, place, m.Offset, r) {
		return
	}
	if !ok {
		name := strings.Clone(m.Topic)
		r = &retained{topic: name, store: c.stores[hash(name)%uint32(len(c.stores))], at: -1}
	}
	r.version++
	r.time, r.place, r.offset = time, place, m.Offset
	r.qos, r.expires = m.QoS, 0
	c.retained.put(r, retainedSize(r.topic, len(m.Payload)), m.Clear)
	if m.Props != nil && m.Props.HasExpiry {
		r.expires = m.Time + int64(m.Props.Expiry)*1000
	}
	msg := *m
	r.msg, r.at = &msg, -1
	if m.Clear {
		r.store.cleared = append(r.store.cleared, r)
		if !r.stored { // nothing to remove from the log; the mark is for a replay of other partitions
			r.msg = nil
			return
		}
	}
	c.storeRetained(r)
}

// wins tells whether a message beats the one that r came from: of two in one partition the later one, else the one with the higher
// time. Times only decide between nodes' own records, which go forward, or where nothing else does.
func (c *Core) wins(time int64, place int32, offset int64, r *retained) bool {
	if place == r.place {
		return offset > r.offset
	}
	if time != r.time {
		return time > r.time
	}
	return comparePart(c.places[place].part, c.places[r.place].part) > 0
}

// current tells whether a record of the retained topic still is the retained message of its topic.
func (c *Core) current(topic string, place int32, offset int64) bool {
	r, ok := c.retained.get(topic)
	return ok && !r.cleared && r.store.place == place && r.at == offset
}

func (c *Core) storeRetained(r *retained) {
	st := r.store
	r.stored = true
	st.unstable[r] = struct{}{}
	if r.queued {
		return
	}
	if len(st.dirty) == 0 {
		st.since = c.now
	}
	r.queued = true
	st.dirty = append(st.dirty, r)
	if st.bytes += len(r.msg.Payload) + len(r.topic); st.bytes >= retainedBatch && !c.replaying {
		c.writeRetained(st)
	}
}

// flushRetained writes what has waited long enough, or everything, and returns when the next is due.
func (c *Core) flushRetained(all bool) (next int64) {
	next = math.MaxInt64
	for _, st := range c.stores {
		if len(st.dirty) == 0 {
			continue
		}
		if due := st.since + retainedDelay; !all && due > c.now {
			next = min(next, due)
			continue
		}
		c.writeRetained(st)
	}
	return next
}

func (c *Core) writeRetained(st *retainedStore) {
	list := st.dirty
	st.dirty, st.bytes = nil, 0
	for _, r := range list {
		r.queued = false
		version := r.version
		v := retainedValue{c.position(r.place, r.offset), *r.msg}
		c.append(st.lane, func(results []Result, err error) {
			if err == nil {
				c.wrote(r, version, results[0].Pos.Offset)
			} else if r.version == version {
				r.queued = true
				st.dirty = append(st.dirty, r)
				st.since = c.now + redoEvery
			}
		}, StateRecord{retainedKey(r.topic), v.append(nil)})
	}
}

// wrote: a version of a retained message is in the log.
func (c *Core) wrote(r *retained, version uint32, at int64) {
	st := r.store
	if r.version == version {
		r.msg, r.at = nil, at
		delete(st.unstable, r)
	}
	if st.moving && r.round == st.round && version >= r.roundVersion {
		r.round = 0
		st.waits--
		c.moveFrontier(st)
	}
	list := c.cursors
	c.cursors = nil
	for _, s := range list {
		if s.link != nil {
			s.link.stuck = false
		}
		c.pump(s)
	}
}

// beginFrontier moves a store's frontier to where the matcher is, once everything before is stable.
func (c *Core) beginFrontier(st *retainedStore) {
	st.moving, st.goal = true, c.next()
	st.round++
	st.waits = len(st.unstable)
	for r := range st.unstable {
		r.round, r.roundVersion = st.round, r.version
	}
	c.writeRetained(st)
	c.moveFrontier(st)
}

func (c *Core) moveFrontier(st *retainedStore) {
	if st.waits > 0 {
		return
	}
	v := checkpointValue{at: c.positions(st.goal)}
	c.write(st.lane, func(err error) {
		st.moving = false
		if err == nil {
			st.f = st.goal
			c.removeCleared(st)
		}
	}, StateRecord{plainKey(kindFrontier), v.append(nil)})
}

// removeCleared forgets the marks of removed messages that no replay can bring back.
func (c *Core) removeCleared(st *retainedStore) {
	kept := st.cleared[:0]
	for _, r := range st.cleared {
		now, _ := c.retained.get(r.topic)
		switch {
		case now != r || !r.cleared: // there is a message again
		case r.offset >= st.f.at(r.place) || r.msg != nil:
			kept = append(kept, r)
		default:
			c.retained.delete(r.topic)
			if r.stored {
				c.write(st.lane, nil, StateRecord{Key: retainedKey(r.topic)})
			}
		}
	}
	clear(st.cleared[len(kept):])
	st.cleared = kept
}

// Cursors.

// cursor walks over the retained messages that one subscription is owed, a page at a time: it queues their positions, and goes
// on when those are delivered. It skips what came to its subscription as a live message.
type cursor struct {
	sub      *sub
	asOf     vector
	after    string
	restored bool // it may have begun before a crash: positions in flight are not queued again
}

func (s *session) scan(cur cursor) {
	s.unscan(cur.sub.filter)
	s.cursors = append(s.cursors, cur)
	if s.link != nil {
		s.link.live = false
	}
}

func (s *session) scans(b *sub) bool {
	return slices.ContainsFunc(s.cursors, func(cur cursor) bool { return cur.sub == b })
}

func (s *session) unscan(filter string) {
	s.cursors = slices.DeleteFunc(s.cursors, func(cur cursor) bool { return cur.sub.filter == filter })
}

// retainedNext returns the set of retained positions to deliver from. If there is none, more tells that a cursor waits.
func (c *Core) retainedNext(s *session, l *link) (next *set, more bool) {
	for {
		for i := range s.queue.sets {
			if set := &s.queue.sets[i]; c.places[set.place].retained && !set.none() {
				return set, true
			}
		}
		if len(s.cursors) == 0 {
			return nil, false
		}
		cur := &s.cursors[0]
		finished, stuck := c.page(s, cur)
		switch {
		case c.looks <= 0 && !finished && !stuck:
			c.park(s, l)
			return nil, true
		case finished:
			cur.sub.queued = true
			s.cursors = slices.Delete(s.cursors, 0, 1)
			c.touch(s)
		case stuck && !l.stuck:
			l.stuck = true
			c.cursors = append(c.cursors, s)
			c.flushRetained(true)
			return nil, true
		case stuck:
			return nil, true
		}
	}
}

// park has a session go on in another call.
func (c *Core) park(s *session, l *link) {
	if !l.paced {
		l.paced = true
		c.paced = append(c.paced, s)
	}
}

// pace lets those go on that have looked at as many retained names, or as much history, as one call may, and returns when to ask again.
func (c *Core) pace() int64 {
	list := c.paced
	c.paced = nil
	for len(list) > 0 && c.looks > 0 && c.pastLeft > 0 {
		s := list[0]
		list = list[1:]
		if s.link != nil {
			s.link.paced = false
		}
		c.pump(s)
	}
	c.paced = append(list, c.paced...)
	if len(c.paced) > 0 {
		return c.now
	}
	return math.MaxInt64
}

// page queues the next page of a cursor. stuck: a message that it comes to is not stable yet, and nothing was queued. Neither
// finished nor stuck: the page is full, or this call has looked at enough names.
func (c *Core) page(s *session, cur *cursor) (finished, stuck bool) {
	queued, stopped := 0, false
	if c.looks--; c.looks < 0 { // to begin is work, too
		return false, false
	}
	last, finished := c.retained.names.ScanN(cur.sub.filter, cur.after, &c.looks, func(_ string, r *retained) bool {
		if queued >= retainedPage {
			stopped = true
			return false
		}
		if c.wanted(s, cur, r) {
			if r.at < 0 {
				stopped, stuck = true, queued == 0
				return false
			}
			set := s.queue.set(r.store.place)
			if min(r.qos, cur.sub.opts.qos) > 0 {
				set.runs.add(run{r.at, r.at + 1})
			} else {
				set.fleeting.add(run{r.at, r.at + 1})
			}
			queued++
		}
		cur.after = r.topic
		return true
	})
	if !finished && !stopped {
		cur.after = last
	}
	if queued > 0 {
		c.touch(s)
	}
	return finished, stuck
}

// wanted tells whether a cursor's subscription is owed a retained message.
func (c *Core) wanted(s *session, cur *cursor, r *retained) bool {
	switch {
	case r.cleared, r.expires > 0 && r.expires <= c.now:
		return false
	case r.offset >= cur.asOf.at(r.place) && c.places[r.place].tailed:
		return false
	case cur.restored && r.at >= 0 && s.flight.owns(r.store.place, r.at):
		return false
	}
	return true
}
