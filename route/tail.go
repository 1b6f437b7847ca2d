package route

import (
	"errors"
	"fmt"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
)

// maxHeld bounds what a tail holds back while dead letters are written, bytes; past it, it stops polling the log.
const maxHeld = 4 << 20

// Tail implements broker.Store.
func (s *Store) Tail(from session.Vector) (broker.Tail, error) { return s.tail(from, false) }

// Follow is Tail for who only looks on: what MQTT cannot have is passed over, and neither counted nor dead-lettered, which the broker's tail does.
func (s *Store) Follow(from session.Vector) (broker.Tail, error) { return s.tail(from, true) }

func (s *Store) tail(from session.Vector, looksOn bool) (broker.Tail, error) {
	v := eventlog.Vector{}
	for p, o := range from {
		v[logPart(p)] = o
	}
	inner, err := s.log.Tail(v)
	if err != nil {
		return nil, fmt.Errorf("tail the routed topics: %w", err)
	}
	t := &tail{store: s, inner: inner, looksOn: looksOn, place: v, held: map[eventlog.Part]*heldPart{}}
	s.dead.attach(t)
	return t, nil
}

// tail is a broker.Tail. A batch with records that must be dead-lettered is held back, and with it its partition, until its
// dead letters are durable: the frontier of the sessions never passes a record that is not accounted for.
type tail struct {
	store   *Store
	inner   eventlog.Tail
	looksOn bool // counts nothing, writes no dead letters
	closing sync.Once

	place     map[eventlog.Part]int64 // the next offset wanted
	events    []eventlog.Event        // polled, and not passed on yet
	scratch   []eventlog.Event        // where they were polled into
	decoded   int                     // bytes that this Poll decoded
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
	for _, p := range released {
		into = t.resume(into, p)
	}
	for _, topic := range moved {
		t.add(topic)
	}
	var err error
	if len(t.events) == 0 && t.heldBytes <= maxHeld { // else release wakes us
		if t.scratch, err = t.inner.Poll(t.scratch[:0], maxBytes); err != nil {
			err = fmt.Errorf("tail the routed topics: %w", err)
		}
		t.events = t.scratch // with an error too: the log's tail is past them
	}
	for t.decoded = 0; len(t.events) > 0 && t.decoded < maxBytes; {
		ev := t.events[0]
		t.events[0] = eventlog.Event{}
		t.events = t.events[1:]
		into = t.event(into, ev)
	}
	if len(t.events) > 0 {
		t.inner.Poke()
	}
	return into, err
}

// add follows a topic that was made again.
func (t *tail) add(topic eventlog.Topic) {
	for i := range topic.Partitions {
		p := eventlog.Part{Topic: topic.ID, Index: i}
		switch err := t.inner.Add(p, 0); {
		case errors.Is(err, eventlog.ErrUnknownTopic): // and deleted again
			t.store.topicGone(topic.ID)
			return
		case err != nil:
			t.store.logger.Error("a topic that was made again is not followed", "topic", topic.Name, "err", err)
			return
		}
		t.place[p] = 0
	}
}

// resume passes on the batch that a partition held back, and puts what came after it first in line.
func (t *tail) resume(into []broker.TailEvent, p eventlog.Part) []broker.TailEvent {
	h := t.held[p]
	if h == nil {
		return into
	}
	delete(t.held, p)
	t.heldBytes -= h.bytes
	t.events = append(h.later, t.events...)
	return append(into, h.first)
}

// event turns one step of the log's tail into one of ours, or holds it back.
func (t *tail) event(into []broker.TailEvent, ev eventlog.Event) []broker.TailEvent {
	if h := t.held[ev.Part]; h != nil {
		h.later = append(h.later, ev)
		if ev.Batch != nil {
			h.bytes += ev.Batch.Size()
			t.heldBytes += ev.Batch.Size()
		}
		return into
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
		dead := t.records(&out, ev)
		t.place[ev.Part] = ev.Next
		if len(dead) > 0 {
			h := &heldPart{first: out, bytes: ev.Batch.Size()}
			t.held[ev.Part] = h
			t.heldBytes += h.bytes
			t.store.dead.write(t, ev.Part, dead)
			return into
		}
	}
	return append(into, out)
}

// records fills in the batch of an event and returns what of it must be dead-lettered.
func (t *tail) records(out *broker.TailEvent, ev eventlog.Event) (dead []deadLetter) {
	b, place := ev.Batch, t.place[ev.Part]
	if out.Batch = prepared(ev, place); out.Batch != nil {
		return nil
	}
	v := t.store.viewOf(b, !t.looksOn)
	t.decoded += v.decoded
	if t.looksOn {
		v.dead, v.skip = nil, nil
	}
	if v.skip[undecodable] > 0 {
		t.store.logger.Warn("a batch that cannot be decoded is passed over", "part", ev.Part.String(), "offset", b.Base(), "ours", b.Own)
	}
	for len(v.msgs) > 0 && v.msgs[0].Offset < place {
		v.msgs = v.msgs[1:]
	}
	for len(v.dead) > 0 && v.dead[0].offset < place {
		v.dead = v.dead[1:]
	}
	t.store.count.leaveOut(ev.Part, v.msgs)
	for why, n := range v.skip {
		t.store.stats.skipped.add(why, n)
	}
	if !b.Own && !t.looksOn {
		t.store.stats.foreign.Add(uint64(len(v.msgs)))
	}
	out.Batch = &session.Batch{Part: out.Part, Base: place, Next: ev.Next, Msgs: v.msgs}
	return v.dead
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
