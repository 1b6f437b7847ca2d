package route

import (
	"fmt"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
)

// maxHeld bounds what a tail holds back while dead letters are written, bytes; past it, it stops polling the log.
const maxHeld = 4 << 20

// Tail implements broker.Store.
func (s *Store) Tail(from session.Vector) (broker.Tail, error) {
	v := eventlog.Vector{}
	for p, o := range from {
		v[logPart(p)] = o
	}
	inner, err := s.log.Tail(v)
	if err != nil {
		return nil, fmt.Errorf("tail the routed topics: %w", err)
	}
	t := &tail{store: s, inner: inner, place: v, held: map[eventlog.Part]*heldPart{}}
	s.dead.attach(t)
	return t, nil
}

// tail is a broker.Tail. A batch with records that must be dead-lettered is held back, and with it its partition, until its
// dead letters are durable: the frontier of the sessions never passes a record that is not accounted for.
type tail struct {
	store   *Store
	inner   eventlog.Tail
	closing sync.Once

	place     map[eventlog.Part]int64 // the next offset wanted
	events    []eventlog.Event        // scratch
	held      map[eventlog.Part]*heldPart
	heldBytes int

	mu       sync.Mutex
	released []eventlog.Part  // their dead letters are durable
	moved    []eventlog.Topic // topics made again, to be followed from their start
}

// heldPart is what waits in one partition: the batch with the dead letters, and what came after it.
type heldPart struct {
	first broker.TailEvent
	later []eventlog.Event
	bytes int
}

// Wake is the log's, which the store pokes for what it does itself.
func (t *tail) Wake() <-chan struct{} { return t.inner.Wake() }

func (t *tail) Close() {
	t.closing.Do(func() {
		t.store.dead.detach(t)
		t.inner.Close()
	})
}

// release lets a partition go on: its dead letters are durable.
func (t *tail) release(p eventlog.Part) {
	t.mu.Lock()
	t.released = append(t.released, p)
	t.mu.Unlock()
	t.inner.Poke()
}

// follow adds a topic that was made again.
func (t *tail) follow(topic eventlog.Topic) {
	t.mu.Lock()
	t.moved = append(t.moved, topic)
	t.mu.Unlock()
	t.inner.Poke()
}

func (t *tail) Poll(into []broker.TailEvent, maxBytes int) ([]broker.TailEvent, error) {
	t.mu.Lock()
	released, moved := t.released, t.moved
	t.released, t.moved = nil, nil
	t.mu.Unlock()
	var err error
	for _, p := range released {
		if into, err = t.resume(into, p); err != nil {
			return into, err
		}
	}
	for _, topic := range moved {
		for i := range topic.Partitions {
			p := eventlog.Part{Topic: topic.ID, Index: i}
			if err := t.inner.Add(p, 0); err != nil {
				return into, fmt.Errorf("tail topic %q: %w", topic.Name, err)
			}
			t.place[p] = 0
		}
	}
	if t.heldBytes > maxHeld {
		return into, nil // release wakes us
	}
	if t.events, err = t.inner.Poll(t.events[:0], maxBytes); err != nil {
		return into, fmt.Errorf("tail the routed topics: %w", err)
	}
	for i := range t.events {
		if into, err = t.event(into, t.events[i]); err != nil {
			return into, err
		}
	}
	clear(t.events)
	return into, nil
}

// resume passes on what a partition held back, up to the next batch with dead letters.
func (t *tail) resume(into []broker.TailEvent, p eventlog.Part) ([]broker.TailEvent, error) {
	h := t.held[p]
	if h == nil {
		return into, nil
	}
	delete(t.held, p)
	t.heldBytes -= h.bytes
	into = append(into, h.first)
	var err error
	for _, ev := range h.later {
		if into, err = t.event(into, ev); err != nil {
			return into, err
		}
	}
	return into, nil
}

// event turns one step of the log's tail into one of ours, or holds it back.
func (t *tail) event(into []broker.TailEvent, ev eventlog.Event) ([]broker.TailEvent, error) {
	if h := t.held[ev.Part]; h != nil {
		h.later = append(h.later, ev)
		if ev.Batch != nil {
			h.bytes += ev.Batch.Size()
			t.heldBytes += ev.Batch.Size()
		}
		return into, nil
	}
	out := broker.TailEvent{Part: sessionPart(ev.Part), Next: ev.Next}
	switch ev.Kind {
	case eventlog.Gap:
		out.Gap = true
		t.place[ev.Part] = ev.Next
	case eventlog.Deleted, eventlog.Recreated:
		out.Deleted = true
		delete(t.place, ev.Part)
		t.store.topicGone(ev.Part.Topic)
	case eventlog.Records:
		dead, err := t.records(&out, ev)
		if err != nil {
			return into, err
		}
		t.place[ev.Part] = ev.Next
		if len(dead) > 0 {
			h := &heldPart{first: out, bytes: ev.Batch.Size()}
			t.held[ev.Part] = h
			t.heldBytes += h.bytes
			t.store.dead.write(t, ev.Part, dead)
			return into, nil
		}
	}
	return append(into, out), nil
}

// records fills in the batch of an event and returns what of it must be dead-lettered.
func (t *tail) records(out *broker.TailEvent, ev eventlog.Event) (dead []deadLetter, err error) {
	b, place := ev.Batch, t.place[ev.Part]
	if out.Batch = prepared(ev, place); out.Batch != nil {
		return nil, nil
	}
	v := t.store.viewOf(b)
	if v.err != nil {
		return nil, fmt.Errorf("batch of %v at %d: %w", ev.Part, b.Base(), v.err)
	}
	for len(v.msgs) > 0 && v.msgs[0].Offset < place {
		v.msgs = v.msgs[1:]
	}
	for len(v.dead) > 0 && v.dead[0].offset < place {
		v.dead = v.dead[1:]
	}
	for why, n := range v.skip {
		t.store.stats.skipped.add(why, n)
	}
	if !b.Own {
		t.store.stats.foreign.Add(uint64(len(v.msgs)))
	}
	out.Batch = &session.Batch{Part: out.Part, Base: place, Next: ev.Next, Msgs: v.msgs}
	return v.dead, nil
}

// prepared returns what Append made of a batch, if it came through whole and the tail is not beyond its base.
func prepared(ev eventlog.Event, place int64) *session.Batch {
	b := messagesOf(ev.Batch)
	switch {
	case b == nil || b.Base < place:
		return nil
	case place == b.Base && ev.Next == b.Next:
		return b
	}
	return &session.Batch{Part: b.Part, Base: place, Next: ev.Next, Msgs: b.Msgs} // offsets jumped
}

// messagesOf returns the messages that Append made of a batch; nil: the batch must be taken apart, since it comes from a file, from
// another node or from a Kafka client.
func messagesOf(b *eventlog.Batch) *session.Batch {
	sd, ok := b.Side.(*side)
	if !ok || b.Len() != len(sd.batch.Msgs) || b.Next()-b.Base() != int64(b.Len()) {
		return nil
	}
	sd.once.Do(func() {
		sd.batch.Base, sd.batch.Next = b.Base(), b.Next()
		for i := range sd.batch.Msgs {
			sd.batch.Msgs[i].Offset = b.Base() + int64(i)
		}
	})
	return &sd.batch
}
