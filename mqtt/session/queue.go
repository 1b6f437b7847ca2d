package session

import (
	"math"
	"slices"
)

// queue is filters with options and start vectors, and the positions that are still to be delivered. It belongs to a session or
// to a group; nothing in it knows of one.
type queue struct {
	subs subs
	sets []set
	// f is where the positions of the restored sets end and those of the replay begin, while the core replays.
	f vector
}

// set is the positions of one place.
type set struct {
	place    int32
	runs          // owed
	fleeting runs // of effective QoS 0: they keep their place behind positions that are owed, and end with the connection
	past     []past
	// The time of the message at timed-1, for the merge: there may be a thousand sets. apart: it does not wait for history.
	timed, time int64
	apart       bool
}

// askers are those in a session for whom a position is to be delivered: the queue itself, because subscriptions match it, and the
// histories of the session, by their bits.
type askers uint32

const (
	byQueue askers = 1
	byAny          = ^askers(0)
	wasPast        = askers(1 << 30) // a history that has ended meanwhile
	tells          = askers(1 << 31) // nobody: the delivery tells of a gap
)

// headNone is the head of what is empty.
const headNone = math.MaxInt64

func (s *set) none() bool { return s.head() == headNone }

// head is the first position.
func (s *set) head() int64 { return s.headOf(byAny) }

// headOf is the first position for some askers.
func (s *set) headOf(by askers) int64 {
	first := int64(headNone)
	if by&byQueue != 0 {
		if !s.runs.empty() {
			first = s.runs.min()
		}
		if !s.fleeting.empty() {
			first = min(first, s.fleeting.min())
		}
	}
	for i := range s.past {
		if p := &s.past[i]; p.history.bit&by != 0 && !p.runs.empty() {
			first = min(first, p.runs.min())
		}
	}
	return first
}

// cutOf removes everything below off for some askers, and returns how much of it the queue owed.
func (s *set) cutOf(off int64, by askers) (owed int64) {
	if by&byQueue != 0 {
		s.fleeting.cut(off)
		owed = s.runs.cut(off)
	}
	for i := range s.past {
		if p := &s.past[i]; p.history.bit&by != 0 {
			p.runs.cut(off)
		}
	}
	return owed
}

// next is the first position at or after one; false if there is none.
func (s *set) next(off int64) (int64, bool) {
	a, ok := s.runs.next(off)
	if b, also := s.fleeting.next(off); also && (!ok || b < a) {
		return b, true
	}
	return a, ok
}

// clear takes the positions of n out and returns how many were owed.
func (s *set) clear(n run) int64 {
	s.fleeting.clear(n)
	return s.runs.clear(n)
}

// find returns the set of a place, nil if there is none.
func (q *queue) find(place int32) *set {
	for i := range q.sets {
		if q.sets[i].place == place {
			return &q.sets[i]
		}
	}
	return nil
}

// set returns the set of a place, made if there is none.
func (q *queue) set(place int32) *set {
	if s := q.find(place); s != nil {
		return s
	}
	q.sets = append(q.sets, set{place: place})
	return &q.sets[len(q.sets)-1]
}

// empty tells whether nothing is queued.
func (q *queue) empty() bool {
	for i := range q.sets {
		if !q.sets[i].none() {
			return false
		}
	}
	return true
}

// owed is how many positions are queued.
func (q *queue) owed() (n int64) {
	for i := range q.sets {
		n += q.sets[i].offsets
	}
	return n
}

// bytes is the memory that the sets take beyond their fixed part.
func (q *queue) bytes() (n int) {
	for i := range q.sets {
		n += len(q.sets[i].mid) + len(q.sets[i].fleeting.mid)
	}
	return n
}

// add puts a position behind all others of its place. Past limit bytes neighbouring runs merge; floor says from where in each
// place they may. It returns the place where some have, -1 if none.
func (q *queue) add(place int32, off int64, limit int, floor vector) (squeezed int32) {
	s := q.set(place)
	before := len(s.mid)
	s.add(run{off, off + 1})
	if len(s.mid) == before || q.bytes() <= limit {
		return -1
	}
	widest := s
	for i := range q.sets {
		if len(q.sets[i].mid) > len(widest.mid) {
			widest = &q.sets[i]
		}
	}
	widest.squeeze(floor.at(widest.place))
	return widest.place
}

// dropFleeting forgets the positions of effective QoS 0, and sets that are empty.
func (q *queue) dropFleeting() {
	kept := q.sets[:0]
	for i := range q.sets {
		q.sets[i].fleeting = runs{}
		if !q.sets[i].runs.empty() || len(q.sets[i].past) > 0 {
			kept = append(kept, q.sets[i])
		}
	}
	clear(q.sets[len(kept):])
	if q.sets = kept; len(kept) == 0 {
		q.sets = nil
	}
}

// options are those of one subscription.
type options struct {
	qos     byte
	noLocal bool
	rap     bool // retain as published
	id      uint32
}

// sub is one subscription. The tree and the queue point to the same one.
type sub struct {
	filter string
	opts   options
	// start is where the subscription begins, nil when nothing that could still be met lies below: neither in the sets, nor
	// above the frontier that a crash would replay from.
	start vector
	// pending: its record is not durable yet. Positions collect, nothing is delivered for it alone.
	pending bool
	// writes are the outstanding writes that would make it durable.
	writes int
	// ending is how many writes that remove it are outstanding. A SUBSCRIBE then makes a new one.
	ending int
	// old is the one that it took the place of while that was ending: if neither is written, the old one is what there is. gone: it is
	// surely not in the log, so nothing falls back on it. heir is the one that is there in its place, since it was refused.
	old  *sub
	gone bool
	heir *sub
	// owes: the record says that retained messages as of asOf are owed.
	owes bool
	asOf vector
	// queued: the cursor has passed all of them, but the record still says owed.
	queued bool
	// history is what it asks for of the past, nil when it has all of that; coming, what the last of the changes asks for that are being
	// written; asking, how many changes ask that are not committed.
	history *history
	coming  *history
	asking  int
	gap     gap
	// member: of a shared subscription. The tree has its group instead, and it has no start of its own.
	member *member
}

// subs are the subscriptions of one queue by filter. Most have one or two.
type subs struct {
	weight int
	list   []*sub
	index  map[string]*sub // of long lists
}

const shortSubs = 12

// subWeight is what a subscription counts towards the limits: filters are up to 64 KiB long.
func subWeight(filter string) int { return 1 + len(filter)/filterBytes }

const filterBytes = 256

func (s *subs) get(filter string) *sub {
	if s.index != nil {
		return s.index[filter]
	}
	for _, b := range s.list {
		if b.filter == filter {
			return b
		}
	}
	return nil
}

// set puts b in, in the place of another with its filter.
func (s *subs) set(b *sub) {
	s.weight += subWeight(b.filter)
	if old := s.get(b.filter); old != nil {
		s.weight -= subWeight(b.filter)
		s.list[slices.Index(s.list, old)] = b
		if s.index != nil {
			s.index[b.filter] = b
		}
		return
	}
	s.list = append(s.list, b)
	if s.index != nil {
		s.index[b.filter] = b
	} else if len(s.list) > shortSubs {
		s.index = make(map[string]*sub, 2*shortSubs)
		for _, b := range s.list {
			s.index[b.filter] = b
		}
	}
}

func (s *subs) delete(b *sub) {
	if i := slices.Index(s.list, b); i >= 0 {
		s.list = slices.Delete(s.list, i, i+1)
		s.weight -= subWeight(b.filter)
		delete(s.index, b.filter)
	}
}
