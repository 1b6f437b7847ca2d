package engine

import (
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// item is one thing that waits for a commit: a batch, several that go together, or an operation.
type item struct {
	p      *partition      // of the batch
	batch  *eventlog.Batch // or nil
	writer int64           // the claim its appender holds; 0: none
	early  bool            // answer after the WAL write already
	atomic *atomicAppend
	op     *operation
	size   int // bytes it adds to a frame, at most

	done   func(eventlog.Outcome) // one of these two, for a batch
	answer func(Produced)

	// What became of it. err set before it was queued: refused at once, it only waits for its turn to hear so.
	taken bool // its entries are in the frame
	dup   bool
	base  int64
	time  int64 // LogAppendTime, or -1
	err   error
}

// atomicAppend is several batches that become durable together or not at all.
type atomicAppend struct {
	parts   []*partition
	batches []*eventlog.Batch
	bases   []int64
	done    func([]eventlog.Outcome)
}

// operation is anything else that goes through the queue.
type operation struct {
	// run decides, in queue order, on the committer: the entries that change the state, and what else to change once they are
	// durable. Without entries nothing is written.
	run func(s *state) (entries []entry, publish func(), err error)
	// done hears once the entries are durable.
	done    func(error)
	publish func()
}

var itemPool = sync.Pool{New: func() any { return new(item) }}

func (it *item) release() {
	*it = item{}
	itemPool.Put(it)
}

// barrier tells whether an item must keep its place among all others, not only among those of its partition.
func (it *item) barrier() bool { return it.p == nil }

// deliver tells the appender what became of the item.
func (it *item) deliver() {
	switch {
	case it.op != nil:
		it.op.done(it.err)
	case it.atomic != nil:
		it.atomic.deliver(it.err)
	case it.answer != nil:
		r := Produced{Base: it.base, LogAppendTime: it.time, LogStart: -1, Err: it.err, Duplicate: it.dup}
		if it.p != nil {
			r.LogStart = it.p.start.Load()
		}
		if it.err != nil {
			r.Base = -1
		}
		it.answer(r)
	case it.err != nil:
		it.done(eventlog.Outcome{Base: -1, Err: it.err})
	default:
		it.done(eventlog.Outcome{Base: it.base})
	}
}

func (a *atomicAppend) deliver(err error) {
	out := make([]eventlog.Outcome, len(a.batches))
	for i := range out {
		if out[i] = (eventlog.Outcome{Base: -1, Err: err}); err == nil {
			out[i].Base = a.bases[i]
		}
	}
	a.done(out)
}

// queue is where every connection's appends meet. Whoever enqueues never waits; the committer swaps the slice.
type queue struct {
	mu     sync.Mutex
	items  []*item
	closed bool
	wake   chan struct{} // one token: there is something to take

	rooms []roomWaiter
}

type roomWaiter struct {
	p  *partition
	ch chan struct{}
}

// put enqueues an item; false if the queue is closed.
func (q *queue) put(it *item) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.items = append(q.items, it)
	first := len(q.items) == 1
	q.mu.Unlock()
	if first {
		signal(q.wake)
	}
	return true
}

func (q *queue) swap(empty []*item) (items []*item, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	items, q.items = q.items, empty
	return items, q.closed
}

func (q *queue) close() (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first = !q.closed
	q.closed = true
	signal(q.wake)
	return first
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// turn is how many bytes a partition gets into a commit before the next one's turn, when not all that waits fits.
const turn = 64 << 10

// backlog is what the committer took off the queue and has not committed yet. While everything fits into the next commit the
// order is the queue's. When it does not, partitions take turns, so that one producer's bulk does not hold up the others;
// within a partition the order stays, and an item without a partition keeps its place among all.
type backlog struct {
	items []*item // in the queue's order, not yet in lanes
	size  int     // bytes of items
	lanes []*partition
	next  int // the lane whose turn it is
	out   []*item
	spare []*item
}

// refill takes what waits in the queue.
func (b *backlog) refill(q *queue) (closed bool) {
	fresh, closed := q.swap(b.spare[:0])
	for _, it := range fresh {
		b.size += it.size
	}
	if len(b.items) == 0 {
		b.items, b.spare = fresh, b.items
		return closed
	}
	b.items = append(b.items, fresh...)
	clear(fresh)
	b.spare = fresh
	return closed
}

func (b *backlog) empty() bool { return len(b.items) == 0 && len(b.lanes) == 0 }

// take returns the items of the next commit, of at most limit bytes, or one item that is larger. They are the caller's; into
// is where they go.
func (b *backlog) take(into []*item, limit int) (out []*item, size int) {
	if len(b.lanes) == 0 && b.size <= limit {
		out, size = append(into, b.items...), b.size
		clear(b.items)
		b.items, b.size = b.items[:0], 0
		return out, size
	}
	b.out = into
	full := false
	for !full {
		b.fillLanes()
		for len(b.lanes) > 0 && !full {
			size, full = b.takeTurn(size, limit)
		}
		if full || len(b.items) == 0 {
			break
		}
		it := b.items[0] // a barrier, and all before it is taken
		if full = len(b.out) > 0 && size+it.size > limit; !full {
			b.drop(1)
			b.out = append(b.out, it)
			size += it.size
		}
	}
	out, b.out = b.out, nil
	return out, size
}

// fillLanes sorts the items before the first barrier into their partitions' lanes.
func (b *backlog) fillLanes() {
	n := 0
	for _, it := range b.items {
		if it.barrier() {
			break
		}
		if len(it.p.head.lane) == 0 {
			b.lanes = append(b.lanes, it.p)
		}
		it.p.head.lane = append(it.p.head.lane, it)
		n++
	}
	b.drop(n)
}

func (b *backlog) drop(n int) {
	for _, it := range b.items[:n] {
		b.size -= it.size
	}
	k := copy(b.items, b.items[n:])
	clear(b.items[k:])
	b.items = b.items[:k]
}

// takeTurn gives the next lane its turn.
func (b *backlog) takeTurn(size, limit int) (newSize int, full bool) {
	if b.next >= len(b.lanes) {
		b.next = 0
	}
	p := b.lanes[b.next]
	lane, n := p.head.lane, 0
	for given := 0; n < len(lane) && given < turn; n++ {
		it := lane[n]
		if len(b.out) > 0 && size+it.size > limit {
			full = true
			break
		}
		b.out = append(b.out, it)
		size += it.size
		given += it.size
	}
	k := copy(lane, lane[n:])
	clear(lane[k:])
	p.head.lane = lane[:k]
	if k == 0 {
		b.lanes = append(b.lanes[:b.next], b.lanes[b.next+1:]...)
	} else {
		b.next++
	}
	return size, full
}
