package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// tail is a reader's place in the live log. Where it is at the end of a partition it has joined the partition's stream (see live).
// Where it is not, it goes on by fetches of its own: one goroutine per broker that leads any of those partitions, and one more while leaders
// are looked for. What they fetch waits in a bounded buffer: while it is full nothing is fetched.
type tail struct {
	d      *Driver
	l      *live
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	busy   sync.WaitGroup // the goroutines

	mu      *sync.Mutex // the live log's
	room    *sync.Cond  // the buffer has room, or the tail is closed
	parts   map[eventlog.Part]*followed
	loops   map[int32]bool // brokers with a goroutine
	finding bool
	events  []eventlog.Event // of its own, polled before what is in the ring
	bytes   int
	cursor  uint64 // in the ring
	err     error  // why the tail ended
}

// followed is one partition of a tail.
type followed struct {
	part    eventlog.Part
	topic   *topic  // of the name that its events speak of
	next    int64   // to fetch, or to come from the ring
	stream  *stream // nil: the tail goes on by itself
	leader  int32   // -1: looked for
	missing time.Time
	tries   int
	not     time.Time // not before
}

// Tail implements eventlog.Driver.
func (d *Driver) Tail(from eventlog.Vector) (eventlog.Tail, error) {
	if err := d.begin(d.ctx); err != nil {
		return nil, eventlog.ErrClosed
	}
	l := d.live
	t := &tail{d: d, l: l, mu: &l.mu, wake: make(chan struct{}, 1), parts: map[eventlog.Part]*followed{}, loops: map[int32]bool{}}
	t.room = sync.NewCond(t.mu)
	t.ctx, t.cancel = context.WithCancel(d.ctx)
	if err := l.refresh(t.ctx); err != nil {
		t.cancel()
		return nil, d.fail(err, "tail")
	}
	l.mu.Lock()
	t.cursor = l.last()
	l.tails[t] = struct{}{}
	l.mu.Unlock()
	for p, at := range from {
		if err := t.Add(p, at); err != nil {
			t.Close()
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		go t.Close()
		return nil, eventlog.ErrClosed
	}
	d.tails[t] = struct{}{}
	return t, nil
}

// Add implements eventlog.Tail.
func (t *tail) Add(p eventlog.Part, from int64) error {
	of, err := t.d.topics.partition(t.ctx, p)
	if err != nil && t.ctx.Err() == nil {
		return t.d.fail(err, "tail %v", p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	if t.parts[p] != nil {
		return fmt.Errorf("%w: the tail follows %v already", eventlog.ErrInvalid, p)
	}
	f := &followed{part: p, topic: of, next: from, leader: of.leader(p.Index)}
	t.parts[p] = f
	t.follow(f)
	return nil
}

// follow makes sure that somebody fetches a partition, or looks for its leader.
func (t *tail) follow(f *followed) {
	switch {
	case t.err != nil:
	case f.leader < 0:
		if !t.finding {
			t.finding = true
			t.busy.Go(t.find)
		}
	case !t.loops[f.leader]:
		t.loops[f.leader] = true
		leader := f.leader
		t.busy.Go(func() { t.loop(leader) })
	}
}

// alone takes a partition out of its stream: the tail goes on by itself.
func (t *tail) alone(f *followed) {
	t.l.leave(f)
	t.follow(f)
}

// fell tells the tail that the ring has let go of something that it had not come to.
func (t *tail) fell(e *entry) {
	if f := t.parts[e.event.Part]; f != nil && f.stream == e.of && f.next < e.event.Next {
		t.alone(f)
	}
}

// Wake implements eventlog.Tail.
func (t *tail) Wake() <-chan struct{} { return t.wake }

// Poke implements eventlog.Tail.
func (t *tail) Poke() { t.notify() }

func (t *tail) notify() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Poll implements eventlog.Tail.
func (t *tail) Poll(into []eventlog.Event, maxBytes int) ([]eventlog.Event, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	had, n := len(into), 0
	for n < len(t.events) && maxBytes > 0 {
		e := t.events[n]
		if e.Batch != nil {
			maxBytes -= e.Batch.Size()
			t.bytes -= e.Batch.Size()
		}
		into = append(into, e)
		n++
	}
	clear(t.events[:n])
	t.events = t.events[n:]
	if n > 0 {
		t.room.Broadcast()
	}
	if len(t.events) == 0 && t.err == nil {
		t.events = nil
		into = t.walk(into, maxBytes)
	}
	if len(t.events) > 0 || t.err == nil && t.cursor < t.l.last() {
		t.notify()
	}
	if len(into) > had {
		return into, nil
	}
	return into, t.err
}

// walk takes from the ring what is the tail's.
func (t *tail) walk(into []eventlog.Event, maxBytes int) []eventlog.Event {
	for l := t.l; t.cursor < l.last() && maxBytes > 0; t.cursor++ {
		e := &l.entries[l.head+int(t.cursor-l.first)]
		f := t.parts[e.event.Part]
		if f == nil || f.stream != e.of || e.event.Next <= f.next {
			continue
		}
		f.next = e.event.Next
		into = append(into, e.event)
		maxBytes -= e.event.Batch.Size()
	}
	return into
}

// Close implements eventlog.Tail.
func (t *tail) Close() {
	t.end(eventlog.ErrClosed)
	t.mu.Lock()
	t.events, t.bytes = nil, 0
	delete(t.l.tails, t)
	for _, f := range t.parts {
		if f.stream != nil {
			t.l.leave(f)
		}
	}
	t.l.evict()
	t.mu.Unlock()
	t.busy.Wait()
	for _, f := range t.parts {
		t.d.trouble.end(true, f, false)
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	delete(t.d.tails, t)
}

// end stops the tail: what is in its buffer can still be polled.
func (t *tail) end(err error) {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil || errors.Is(err, eventlog.ErrClosed) {
		t.err = err
	}
	t.room.Broadcast()
	t.notify()
}

// loop fetches what one broker leads and the tail goes on with by itself, until there is nothing of it.
func (t *tail) loop(leader int32) {
	wait := int32(0) // nothing came, and no stream could be joined: what is next is not stable yet, or was compacted away up to there
	for {
		wants, pause, on := t.wanted(leader)
		if !on {
			return
		}
		if len(wants) == 0 {
			_ = sleep(t.ctx, pause)
			continue
		}
		got, err := t.d.fetch(t.ctx, t.d.cl, leader, wants, fetchBytes, wait)
		if t.ctx.Err() != nil {
			continue
		}
		wait = idleMillis
		t.mu.Lock()
		for i, w := range wants {
			f := w.who.(*followed)
			switch {
			case t.parts[f.part] != f:
			case err != nil:
				t.d.o.Logger.Debug("fetch failed", "broker", leader, "error", err)
				t.d.trouble.add(true, f, err)
				t.lose(f)
			default:
				at := f.next
				if t.took(f, got[i]); f.next != at || f.stream != nil {
					wait = 0
				}
			}
		}
		t.mu.Unlock()
	}
}

// idleMillis is how long such a fetch waits for something to come.
const idleMillis = 100

// wanted waits for room and lists what to fetch from a broker; if everything is to be left alone for a while, how long. on is
// false when the goroutine has nothing to do any more.
func (t *tail) wanted(leader int32) (wants []want, pause time.Duration, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil && t.bytes >= t.d.o.TailBytes {
		t.room.Wait()
	}
	now := time.Now()
	pause = time.Second
	led := false
	for _, f := range t.parts {
		if f.leader != leader || f.stream != nil || t.err != nil {
			continue
		}
		led = true
		if d := f.not.Sub(now); d > 0 {
			pause = min(pause, d)
			continue
		}
		wants = append(wants, want{f.part, f.topic, f.next, f})
	}
	if !led {
		delete(t.loops, leader)
	}
	return wants, pause, led
}

// took deals with what a fetch says about one partition.
func (t *tail) took(f *followed, got found) {
	if t.err != nil {
		return
	}
	for _, b := range got.batches {
		t.push(f, eventlog.Event{Kind: eventlog.Records, Part: f.part, Next: b.Next(), Batch: b})
	}
	if got.next > f.next { // what came after was not for anybody's eyes
		t.push(f, eventlog.Event{Kind: eventlog.Records, Part: f.part, Next: got.next,
			Batch: eventlog.NewRecordBatch(f.part, nil, got.next)})
	}
	switch {
	case got.err == nil:
		f.tries, f.missing = 0, time.Time{}
		t.d.trouble.end(true, f, true)
		t.l.join(t, f, got.next >= got.end)
	case isDone(got.err):
	case errors.Is(got.err, eventlog.ErrCorrupt):
		t.fail(fmt.Errorf("tail %v: %w", f.part, got.err))
	default:
		t.d.o.Logger.Debug("fetch failed", "partition", f.part, "error", got.err)
		t.d.trouble.add(true, f, got.err)
		t.lose(f)
	}
}

func (t *tail) fail(err error) { go t.end(err) }

func (t *tail) push(f *followed, e eventlog.Event) {
	f.next = e.Next
	t.events = append(t.events, e)
	if e.Batch != nil {
		t.bytes += e.Batch.Size()
	}
	t.notify()
}

// lose has the partition looked after: its leader, its topic, its start.
func (t *tail) lose(f *followed) {
	f.leader = -1
	f.not = time.Now().Add(backoff(t.d.o.Backoff, f.tries))
	f.tries++
	t.follow(f)
}

// find looks after partitions that could not be fetched, until there are none.
func (t *tail) find() {
	for t.ctx.Err() == nil {
		t.mu.Lock()
		var lost []*followed
		pause := time.Duration(0)
		now := time.Now()
		for _, f := range t.parts {
			if f.leader < 0 {
				lost = append(lost, f)
				pause = max(pause, f.not.Sub(now))
			}
		}
		if len(lost) == 0 {
			t.finding = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-t.ctx.Done():
			return
		}
		if err := t.d.topics.refresh(t.ctx); err != nil {
			t.d.o.Logger.Debug("no metadata from the cluster", "error", err)
		}
		for _, f := range lost {
			t.look(f)
		}
	}
}

// look decides about one lost partition, whose fields nobody else touches meanwhile.
func (t *tail) look(f *followed) {
	of := t.d.topics.cached(f.part.Topic)
	if !of.has(f.part.Index) {
		t.maybeGone(f)
		return
	}
	f.missing = time.Time{}
	f.topic = of
	gapTo := int64(-1)
	err := t.d.outOfRange(t.ctx, eventlog.Position{Part: f.part, Offset: f.next})
	var out *eventlog.OutOfRangeError
	if errors.As(err, &out) {
		if f.next < out.Start {
			gapTo = out.Start
		} else if high, err := t.d.highWatermark(t.ctx, f.part); err == nil && f.next > high && f.tries > 8 {
			t.end(fmt.Errorf("tail %v: the log lost what was read of it: %w", f.part, out))
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if gapTo >= 0 {
		t.push(f, eventlog.Event{Kind: eventlog.Gap, Part: f.part, Next: gapTo})
		f.not = time.Time{}
	}
	if leader := of.leader(f.part.Index); leader >= 0 {
		f.leader = leader
		t.follow(f)
		return
	}
	f.not = time.Now().Add(backoff(t.d.o.Backoff, f.tries))
	f.tries++
}

// maybeGone ends a partition whose topic was missing for long enough.
func (t *tail) maybeGone(f *followed) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.missing.IsZero() {
		f.missing = now
	}
	if now.Sub(f.missing) < t.d.o.Grace {
		f.not = now.Add(backoff(t.d.o.Backoff, f.tries))
		f.tries++
		return
	}
	kind := eventlog.Deleted
	if f.topic != nil && t.d.topics.named(f.topic.name) != nil {
		kind = eventlog.Recreated
	}
	t.events = append(t.events, eventlog.Event{Kind: kind, Part: f.part, Next: f.next})
	t.d.trouble.end(true, f, false)
	delete(t.parts, f.part)
	t.notify()
}
