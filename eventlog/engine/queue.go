package engine

import (
	"slices"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// item is one thing that waits for a commit: a batch, several that go together, a transaction's end, or an operation.
type item struct {
	p      *partition      // of the batch
	batch  *eventlog.Batch // or nil
	writer int64           // the claim its appender holds; 0: none
	early  bool            // answer after the WAL write already
	atomic *atomicAppend
	op     *operation
	end    *endOf
	fresh  bool    // see Producing
	memory *Memory // that the batch lies in; nil: its own
	size   int     // bytes it adds to a frame, at most

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

// heavy tells whether an item may be a part of somebody's bulk.
func (it *item) heavy() bool { return it.size > lightItem }

// deliver tells the appender what became of the item.
func (it *item) deliver() {
	switch {
	case it.op != nil:
		it.op.done(it.err)
	case it.atomic != nil:
		it.atomic.deliver(it.err)
	case it.end != nil:
		it.end.done(it.err)
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

	// While the committer rests.
	ring func() // ends the rest; nil: there is none, or it has been called
	size int    // bytes of items

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
	var ring func()
	if q.ring != nil {
		if q.size += it.size; q.enough() {
			ring, q.ring = q.ring, nil
		}
	}
	q.mu.Unlock()
	if ring != nil {
		ring()
	}
	if first {
		signal(q.wake)
	}
	return true
}

func (q *queue) enough() bool { return len(q.items) >= gatherItems || q.size >= gatherBytes }

// gather begins a rest: ring is called when there are enough items. False: there is no reason for one.
func (q *queue) gather(ring func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.size = 0
	for _, it := range q.items {
		q.size += it.size
	}
	if q.closed || len(q.items) == 0 || q.enough() {
		return false
	}
	q.ring = ring
	return true
}

// gathered ends it.
func (q *queue) gathered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ring = nil
}

func (q *queue) swap(empty []*item) (items []*item, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	items, q.items = q.items, empty
	return items, q.closed
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
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

// fifo is a queue of items.
type fifo struct {
	items []*item
	head  int // those before it are taken
}

func (f *fifo) len() int          { return len(f.items) - f.head }
func (f *fifo) waiting() []*item  { return f.items[f.head:] }
func (f *fifo) push(its ...*item) { f.items = append(f.items, its...) }

// bytes is the size of the items, or of some of them that have more than most.
func (f *fifo) bytes(most int) (n int) {
	for _, it := range f.waiting() {
		if n += it.size; n > most {
			break
		}
	}
	return n
}

// drop takes the first n items away.
func (f *fifo) drop(n int) {
	clear(f.items[f.head : f.head+n])
	if f.head += n; f.head > len(f.items)/2 {
		k := copy(f.items, f.items[f.head:])
		clear(f.items[k:])
		f.items, f.head = f.items[:k], 0
	}
}

const (
	// turn is how many bytes a partition gets into a commit before the next one's turn, when not all that waits fits.
	turn = 64 << 10

	// A light item is a device's, most likely, and a heavy one a part of somebody's bulk. While both come, commits are small: the light ones
	// wait for the one that is on the disk, whoever's it is.
	lightItem   = 4 << 10
	heavyItem   = 8 << 10
	mixedCommit = 1 << 20
	mixedFor    = 64 // refills without any of the one kind, and there are only others

	// lightLane is what may wait of a partition that goes before the others. They get a quarter of a commit, so nobody starves.
	lightLane = 16 << 10
)

// backlog is what the committer took off the queue and has not committed yet. While everything fits into the next commit the
// order is the queue's. When it does not, partitions of which little waits go first, and the others take turns, so that one producer's
// bulk, however many partitions it is for, does not hold up the others; within a partition the order stays, and an item without a
// partition keeps its place among all.
type backlog struct {
	waiting fifo // in the queue's order, not yet in lanes
	size    int  // bytes of waiting
	lanes   []*partition
	next    int // the lane whose turn it is
	spare   []*item

	light, heavy int // refills for which one of that kind counts yet
	bulk         int // heavy items that wait

	large bool // the next item in turn has no room behind what is light: it begins the next commit
}

// mixed tells whether bulk comes beside what is light.
func (b *backlog) mixed() bool { return b.light > 0 && b.heavy > 0 }

// refill takes what waits in the queue.
func (b *backlog) refill(q *queue) (closed bool) {
	b.light, b.heavy = max(b.light-1, 0), max(b.heavy-1, 0)
	return b.more(q)
}

// more is refill between two commits.
func (b *backlog) more(q *queue) (closed bool) {
	fresh, closed := q.swap(b.spare[:0])
	for _, it := range fresh {
		if b.size += it.size; it.size >= heavyItem {
			b.heavy = mixedFor
			b.bulk++
		} else if it.size <= lightItem && it.err == nil && it.p != nil {
			b.light = mixedFor
		}
	}
	b.waiting.push(fresh...)
	clear(fresh)
	b.spare = fresh
	return closed
}

func (b *backlog) empty() bool { return b.waiting.len() == 0 && len(b.lanes) == 0 }

// commitment is the items of one commit as they are chosen.
type commitment struct {
	items []*item
	size  int
	limit int
	bulk  int // heavy ones among them
}

// add takes an item in, unless it makes the commit too large. The first one always fits.
func (c *commitment) add(it *item) bool {
	if len(c.items) > 0 && c.size+it.size > c.limit {
		return false
	}
	c.items = append(c.items, it)
	if c.size += it.size; it.size >= heavyItem {
		c.bulk++
	}
	return true
}

// take returns the items of the next commit, of at most limit bytes, or one item that is larger. They go into a slice that is
// the caller's.
func (b *backlog) take(into []*item, limit int) (items []*item, size int) {
	if b.mixed() {
		limit = min(limit, mixedCommit)
	}
	if len(b.lanes) == 0 && b.size <= limit {
		items, size = append(into, b.waiting.waiting()...), b.size
		b.waiting.drop(b.waiting.len())
		b.size, b.bulk = 0, 0
		return items, size
	}
	c := commitment{items: into, limit: limit}
	defer func() { b.bulk -= c.bulk }()
	large := b.large
	b.large = false
	for {
		b.fillLanes()
		switch {
		case !b.mixed():
		case !large:
			b.takeLight(&c, false)
		case len(b.lanes) > 0:
			b.takeTurn(&c)
		}
		for len(b.lanes) > 0 {
			if !b.takeTurn(&c) {
				b.large = b.large && !large // every other commit is for what is light
				return c.items, c.size
			}
		}
		// A barrier, and all before it is taken.
		if b.waiting.len() == 0 || !c.add(b.waiting.waiting()[0]) {
			return c.items, c.size
		}
		b.drop(1)
	}
}

// fillLanes sorts the items before the first barrier into their partitions' lanes.
func (b *backlog) fillLanes() {
	n := 0
	for _, it := range b.waiting.waiting() {
		if it.barrier() {
			break
		}
		if it.p.head.lane.len() == 0 {
			b.lanes = append(b.lanes, it.p)
		}
		it.p.head.lane.push(it)
		n++
	}
	b.drop(n)
}

func (b *backlog) drop(n int) {
	for _, it := range b.waiting.waiting()[:n] {
		b.size -= it.size
	}
	b.waiting.drop(n)
}

// lightOnly is take of nothing but light items, for as much as they get of a commit. There may be none.
func (b *backlog) lightOnly(into []*item, limit int) (items []*item, size int) {
	b.fillLanes()
	c := commitment{items: into, limit: min(limit, mixedCommit)}
	b.takeLight(&c, true)
	return c.items, c.size
}

// takeLight takes the lanes in which little waits, as far as a quarter of the commit goes; if only is set, of those whose items are all light.
func (b *backlog) takeLight(c *commitment, only bool) {
	lanes, next := b.lanes[:0], b.next
	for i, p := range b.lanes {
		lane := &p.head.lane
		size := lane.bytes(lightLane)
		if size > lightLane || c.size+size > c.limit/4 || only && slices.ContainsFunc(lane.waiting(), (*item).heavy) {
			lanes = append(lanes, p)
			continue
		}
		for _, it := range lane.waiting() {
			c.add(it)
		}
		if lane.drop(lane.len()); i < b.next {
			next--
		}
	}
	clear(b.lanes[len(lanes):])
	b.lanes, b.next = lanes, next
}

// takeTurn gives the next lane its turn; false if the commit is full. A lane that gets nothing of it is the first one in the next.
func (b *backlog) takeTurn(c *commitment) (more bool) {
	if b.next >= len(b.lanes) {
		b.next = 0
	}
	lane := &b.lanes[b.next].head.lane
	n, more := 0, true
	for given := 0; n < lane.len() && given < turn; n++ {
		it := lane.waiting()[n]
		if more = c.add(it); !more {
			b.large = n == 0 && it.size > c.limit-c.limit/4
			break
		}
		given += it.size
	}
	lane.drop(n)
	switch {
	case lane.len() == 0:
		b.lanes = append(b.lanes[:b.next], b.lanes[b.next+1:]...)
	case n > 0:
		b.next++
	}
	return more
}
