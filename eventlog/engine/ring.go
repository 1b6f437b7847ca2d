package engine

import (
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// ring is what is committed and in memory, in the order of commits: at its end what is not in segments yet, before that what
// some tail has not seen, as much as the budget leaves. The committer adds, the applier advances, tails look.
type ring struct {
	keep     int64         // bytes held at most, but for what is not applied
	progress chan struct{} // one token: something was applied, or the log failed

	mu        sync.Mutex
	entries   []ringEntry // from sequence number first on
	head      int         // entries before it are gone already
	first     uint64      // sequence number of entries[head]
	applied   uint64      // sequence number of the first entry not applied
	bytes     int64
	unapplied int64
	tails     map[*tail]struct{}
	gone      uint64 // counts topics that went
	closed    bool
}

type ringEntry struct {
	p      *partition
	batch  *eventlog.Batch
	memory *Memory // that the batch lies in; nil: its own
	commit uint64
}

// Memory is what the batches of one request lie in. As long as one of them is held all of it is, whatever became of the others: so the ring counts
// all of it, once.
type Memory struct {
	size    int64
	entries [2]int // of the ring, by what they count for; the ring's lock guards them
}

// NewMemory is memory of n bytes.
func NewMemory(n int) *Memory { return &Memory{size: int64(n)} }

// sum is one of what the ring adds up.
type sum int

const (
	sumHeld sum = iota
	sumUnapplied
)

// batchOverhead is what a batch costs beside its bytes, in memory, roughly.
const batchOverhead = 256

// own is what an entry costs, but for memory that it shares.
func (e *ringEntry) own() int64 {
	n := int64(e.batch.SideBytes) + batchOverhead
	if e.memory == nil {
		n += int64(e.batch.Size())
	}
	return n
}

// enters counts an entry in: what it adds to a sum.
func (e *ringEntry) enters(s sum) int64 {
	n := e.own()
	if m := e.memory; m != nil {
		if m.entries[s]++; m.entries[s] == 1 {
			n += m.size
		}
	}
	return n
}

// leaves counts it out again: what it takes off the sum.
func (e *ringEntry) leaves(s sum) int64 {
	n := e.own()
	if m := e.memory; m != nil {
		if m.entries[s]--; m.entries[s] == 0 {
			n += m.size
		}
	}
	return n
}

func newRing(keep int64) *ring {
	return &ring{keep: keep, progress: make(chan struct{}, 1), tails: map[*tail]struct{}{}}
}

// end is the sequence number of the next entry.
func (r *ring) end() uint64 { return r.first + uint64(len(r.entries)-r.head) }

func (r *ring) add(fresh []published, commit uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range fresh {
		e := ringEntry{fresh[i].p, fresh[i].batch, fresh[i].memory, commit}
		r.entries = append(r.entries, e)
		r.bytes += e.enters(sumHeld)
		r.unapplied += e.enters(sumUnapplied)
	}
	r.evict()
	for t := range r.tails {
		signal(t.wake)
	}
}

// evict lets go of what is applied and seen by every tail, and of what is applied while more is held than shall be.
func (r *ring) evict() {
	unseen := r.end()
	for t := range r.tails {
		unseen = min(unseen, t.cursor)
	}
	for r.first < r.applied && (r.first < unseen || r.bytes > r.keep) {
		e := &r.entries[r.head]
		r.bytes -= e.leaves(sumHeld)
		*e = ringEntry{}
		r.head++
		r.first++
	}
	if r.head > 64 && r.head > len(r.entries)/2 {
		n := copy(r.entries, r.entries[r.head:])
		clear(r.entries[n:])
		r.entries, r.head = r.entries[:n], 0
	}
}

// toApply returns entries that are not applied yet, about limit bytes of them, without taking them.
func (r *ring) toApply(into []ringEntry, limit int64) []ringEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := r.head + int(r.applied-r.first); i < len(r.entries) && limit > 0; i++ {
		into = append(into, r.entries[i])
		limit -= int64(r.entries[i].batch.Size()) + batchOverhead
	}
	return into
}

// advance notes that n more entries are applied.
func (r *ring) advance(n int) {
	r.mu.Lock()
	for i := range n {
		r.unapplied -= r.entries[r.head+int(r.applied-r.first)+i].leaves(sumUnapplied)
	}
	r.applied += uint64(n)
	r.evict()
	r.mu.Unlock()
	signal(r.progress)
}

func (r *ring) unappliedBytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unapplied
}

func (r *ring) heldBytes() (held, unapplied int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes, r.unapplied
}

// topicGone has every tail look whether a topic of its went.
func (r *ring) topicGone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone++
	for t := range r.tails {
		signal(t.wake)
	}
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for t := range r.tails {
		signal(t.wake)
	}
}
