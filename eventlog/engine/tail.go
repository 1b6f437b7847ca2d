package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// tail follows partitions through the ring. A partition whose place is not in the ring (any more) is behind: it is read until
// its place is, while the others go on from the ring.
type tail struct {
	e    *Engine
	wake chan struct{}

	parts  map[*partition]*tailPart
	behind []*tailPart // to be read, in turn
	cursor uint64      // sequence number of the next ring entry to look at
	gone   uint64      // the ring's, when topics were last looked at
	looked []ringEntry
	closed bool
}

type tailPart struct {
	p      *partition
	next   int64
	behind bool
}

// tailRead is how much of a partition is read at a time, so that those behind take turns.
const tailRead = 256 << 10

// tailRetry is when a tail that could not read is woken to try again.
const tailRetry = 100 * time.Millisecond

// Tail implements eventlog.Driver.
func (e *Engine) Tail(from eventlog.Vector) (eventlog.Tail, error) {
	if err := e.open(); err != nil {
		return nil, fmt.Errorf("tail: %w", err)
	}
	t := &tail{e: e, wake: make(chan struct{}, 1), parts: map[*partition]*tailPart{}}
	for at := range from {
		if _, err := e.partition(at); err != nil {
			return nil, fmt.Errorf("tail: %w", err)
		}
	}
	e.ring.mu.Lock()
	t.cursor, t.gone = e.ring.end(), e.ring.gone
	if !e.ring.closed {
		e.ring.tails[t] = struct{}{}
	}
	e.ring.mu.Unlock()
	for at, offset := range from {
		if err := t.Add(at, offset); err != nil {
			t.Close()
			return nil, err
		}
	}
	signal(t.wake)
	return t, nil
}

func (t *tail) Wake() <-chan struct{} { return t.wake }

// Poke implements eventlog.Tail.
func (t *tail) Poke() { signal(t.wake) }

// Add implements eventlog.Tail.
func (t *tail) Add(at eventlog.Part, from int64) error {
	if t.closed {
		return fmt.Errorf("tail: %w", eventlog.ErrClosed)
	}
	p, err := t.e.partition(at)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	if t.parts[p] != nil {
		return fmt.Errorf("tail: %w: %v is followed already", eventlog.ErrInvalid, at)
	}
	tp := &tailPart{p: p, next: from}
	t.parts[p] = tp
	if from < p.stable.Load() {
		t.fallBehind(tp)
		signal(t.wake)
	}
	return nil
}

func (t *tail) fallBehind(tp *tailPart) {
	if !tp.behind {
		tp.behind = true
		t.behind = append(t.behind, tp)
	}
}

// Close implements eventlog.Tail.
func (t *tail) Close() {
	t.closed = true
	t.e.ring.mu.Lock()
	defer t.e.ring.mu.Unlock()
	delete(t.e.ring.tails, t)
	t.e.ring.evict()
}

// Poll implements eventlog.Tail.
func (t *tail) Poll(into []eventlog.Event, maxBytes int) ([]eventlog.Event, error) {
	if t.closed {
		return into, fmt.Errorf("tail: %w", eventlog.ErrClosed)
	}
	if err := t.e.open(); err != nil {
		signal(t.wake)
		return into, fmt.Errorf("tail: %w", err)
	}
	share := maxBytes
	if len(t.behind) > 0 { // what streams in shall not starve those that catch up
		share /= 2
	}
	into, left := t.pollRing(into, share)
	into, err := t.pollBehind(into, maxBytes-share+left)
	if err != nil {
		time.AfterFunc(tailRetry, func() { signal(t.wake) })
		return into, err
	}
	return t.endGone(into), nil
}

// pollRing delivers from memory what comes next in each partition.
func (t *tail) pollRing(into []eventlog.Event, left int) ([]eventlog.Event, int) {
	for left > 0 && t.look(left) {
		for i := range t.looked {
			entry := &t.looked[i]
			tp := t.parts[entry.p]
			if tp == nil || entry.batch.Next() <= tp.next {
				continue
			}
			if start := tp.p.start.Load(); start > tp.next && start >= entry.batch.Next() {
				into = append(into, tp.gap(start))
				continue
			}
			if tp.behind || entry.batch.Base() > tp.next {
				t.fallBehind(tp)
				continue
			}
			if entry.batch.Next() > tp.p.stable.Load() { // of a transaction, or after one: its marker comes through here, too
				continue
			}
			b := entry.batch
			seen := tp.p.visible(b.Raw())
			if seen && b.Base() < tp.p.forgotten.Load() { // it may be of an aborted transaction: the segments know
				t.fallBehind(tp)
				continue
			}
			if tp.next = b.Next(); !seen {
				b = nothing(tp.p.part, tp.next)
			}
			into = append(into, eventlog.Event{Kind: eventlog.Records, Part: tp.p.part, Next: tp.next, Batch: b})
			left -= entry.batch.Size()
		}
		clear(t.looked)
	}
	return into, left
}

func (tp *tailPart) gap(to int64) eventlog.Event {
	tp.next = to
	return eventlog.Event{Kind: eventlog.Gap, Part: tp.p.part, Next: to}
}

// nothing is a batch that says that there is nothing to see before next.
func nothing(p eventlog.Part, next int64) *eventlog.Batch {
	return eventlog.NewRecordBatch(p, nil, next)
}

// look copies the next ring entries, about limit bytes of them; false if there are none. A cursor that the ring has left behind
// jumps to what is there, and whoever may have missed something is behind.
func (t *tail) look(limit int) bool {
	r := t.e.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.cursor < r.first {
		t.cursor = r.first
		for _, tp := range t.parts {
			if tp.next < tp.p.stable.Load() {
				t.fallBehind(tp)
			}
		}
	}
	t.looked = t.looked[:0]
	for i := r.head + int(t.cursor-r.first); i < len(r.entries) && limit > 0; i++ {
		t.looked = append(t.looked, r.entries[i])
		limit -= r.entries[i].batch.Size()
		t.cursor++
	}
	if t.cursor < r.end() {
		signal(t.wake)
	}
	r.evict()
	return len(t.looked) > 0
}

// pollBehind reads for the partitions that are behind, in turn, until each has reached the ring or left is used up.
func (t *tail) pollBehind(into []eventlog.Event, left int) ([]eventlog.Event, error) {
	for left > 0 && len(t.behind) > 0 {
		tp := t.behind[0]
		t.behind = t.behind[1:]
		batches, next, err := t.e.read(tp.p, tp.next, min(left, tailRead))
		var out *eventlog.OutOfRangeError
		var damage *segment.Damage
		switch {
		case errors.As(err, &out) && tp.next < out.Start:
			into = append(into, tp.gap(out.Start))
		case errors.As(err, &out) || errors.Is(err, eventlog.ErrUnknownTopic): // beyond the end, or gone: see endGone
			tp.behind = false
			continue
		case errors.As(err, &damage) && damage.Next > tp.next: // nobody waits for what cannot be read; everybody is told
			t.e.o.Logger.Error("damaged records are passed over", "topic", tp.p.topic.name, "partition", tp.p.part.Index,
				"from", tp.next, "to", damage.Next, "error", err)
			t.e.counters.damaged.Add(uint64(damage.Next - tp.next))
			into = append(into, tp.gap(damage.Next))
		case err != nil:
			t.behind = append(t.behind, tp)
			return into, fmt.Errorf("tail: %w", err)
		}
		told := tp.next
		for _, b := range batches {
			told = b.Next()
			into = append(into, eventlog.Event{Kind: eventlog.Records, Part: tp.p.part, Next: told, Batch: b})
			left -= b.Size()
		}
		if err == nil {
			if tp.next = next; told < next {
				into = append(into, eventlog.Event{Kind: eventlog.Records, Part: tp.p.part, Next: next, Batch: nothing(tp.p.part, next)})
				left -= tailRead // it was read, though there is nothing to see
			}
		}
		if tp.next >= tp.p.stable.Load() {
			tp.behind = false
		} else {
			t.behind = append(t.behind, tp)
		}
	}
	if len(t.behind) > 0 {
		signal(t.wake)
	} else {
		t.behind = nil
	}
	return into, nil
}

// endGone ends the partitions of topics that are no more. What of them was in the ring has been delivered.
func (t *tail) endGone(into []eventlog.Event) []eventlog.Event {
	r := t.e.ring
	r.mu.Lock()
	gone, caughtUp := r.gone, t.cursor == r.end()
	r.mu.Unlock()
	if gone == t.gone || !caughtUp {
		return into
	}
	t.gone = gone
	for p, tp := range t.parts {
		if !p.topic.gone.Load() {
			continue
		}
		kind := eventlog.Deleted
		if t.e.topicByName(p.topic.name) != nil {
			kind = eventlog.Recreated
		}
		into = append(into, eventlog.Event{Kind: kind, Part: p.part, Next: tp.next})
		delete(t.parts, p)
		t.behind = slices.DeleteFunc(t.behind, func(b *tailPart) bool { return b == tp })
	}
	return into
}
