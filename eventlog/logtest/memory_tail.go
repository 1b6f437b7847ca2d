package logtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
)

// Tail implements eventlog.Driver.
func (m *Memory) Tail(from eventlog.Vector) (eventlog.Tail, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(context.Background()); err != nil {
		return nil, err
	}
	t := &memTail{m: m, wake: make(chan struct{}, 1)}
	parts := slices.SortedFunc(maps.Keys(from), func(a, b eventlog.Part) int {
		return cmp.Or(slices.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Index, b.Index))
	})
	for _, p := range parts {
		if err := t.add(p, from[p]); err != nil {
			return nil, err
		}
	}
	m.tails = append(m.tails, t)
	t.notify()
	return t, nil
}

type memTail struct {
	m    *Memory
	wake chan struct{}

	// Guarded by c.mu.
	parts []*tailPart
	turn  int // where the next Poll begins, so that no partition starves
	dead  bool
}

// tailPart is a tail's place in one partition: it has polled up to next and may see up to shown.
type tailPart struct {
	mp          *memPart
	next, shown int64
	ended       bool
}

func (t *memTail) notify() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *memTail) Wake() <-chan struct{} { return t.wake }

func (t *memTail) Poke() { t.notify() }

func (t *memTail) Add(p eventlog.Part, from int64) error {
	t.m.c.mu.Lock()
	defer t.m.c.mu.Unlock()
	if t.dead {
		return eventlog.ErrClosed
	}
	return t.add(p, from)
}

func (t *memTail) add(p eventlog.Part, from int64) error {
	mp, err := t.m.c.part(p)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(t.parts, func(tp *tailPart) bool { return tp.mp == mp }) {
		return fmt.Errorf("%w: the tail follows %v already", eventlog.ErrInvalid, p)
	}
	tp := &tailPart{mp: mp, next: from, shown: mp.stable()}
	if t.m.c.chance(t.m.c.h.TailDelay) {
		tp.shown = min(from, tp.shown)
	}
	t.parts = append(t.parts, tp)
	t.notify()
	t.m.c.kick()
	return nil
}

func (t *memTail) Close() {
	t.m.c.mu.Lock()
	defer t.m.c.mu.Unlock()
	t.dead = true
	t.m.tails = slices.DeleteFunc(t.m.tails, func(o *memTail) bool { return o == t })
}

func (t *memTail) Poll(into []eventlog.Event, maxBytes int) ([]eventlog.Event, error) {
	t.m.c.mu.Lock()
	defer t.m.c.mu.Unlock()
	if t.dead {
		return into, eventlog.ErrClosed
	}
	for i := range t.parts {
		if maxBytes <= 0 {
			t.notify()
			break
		}
		tp := t.parts[(t.turn+i)%len(t.parts)]
		into, maxBytes = t.poll(tp, into, maxBytes)
	}
	t.turn++
	return into, nil
}

func (t *memTail) poll(tp *tailPart, into []eventlog.Event, maxBytes int) ([]eventlog.Event, int) {
	c, mp := t.m.c, tp.mp
	if tp.ended {
		return into, maxBytes
	}
	if c.byID[mp.part.Topic] == nil {
		tp.ended = true
		kind := eventlog.Deleted
		if c.byName[mp.topic.Name] != nil {
			kind = eventlog.Recreated
		}
		return append(into, eventlog.Event{Kind: kind, Part: mp.part, Next: tp.next}), maxBytes
	}
	if tp.next < mp.start {
		tp.next = mp.start
		tp.shown = max(tp.shown, mp.start)
		into = append(into, eventlog.Event{Kind: eventlog.Gap, Part: mp.part, Next: tp.next})
	}
	if tp.next >= tp.shown {
		return into, maxBytes
	}
	told := tp.next
	tp.next = mp.scan(tp.next, tp.shown, func(e *entry) bool {
		b := c.view(mp, e, true)
		told = b.Next()
		into = append(into, eventlog.Event{Kind: eventlog.Records, Part: mp.part, Next: told, Batch: b})
		maxBytes -= e.batch.Size()
		return maxBytes > 0
	})
	if told < tp.next {
		into = append(into, eventlog.Event{Kind: eventlog.Records, Part: mp.part, Next: tp.next,
			Batch: eventlog.NewRecordBatch(mp.part, nil, tp.next)})
	}
	return into, maxBytes
}
