package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// gate stands before a routed topic. As a rule it is open, and counts. When the topic is found to be gone it is shut: what was on its way comes
// back, what is published is kept, and its publishers are read no further, without an answer to anybody, until the topic is there again. So
// what waits is bounded by what clients may have unanswered.
//
// The order is that of before. What came back was sent before anything was kept, and is numbered. The gate opens only when nothing is on its way
// to the old topic, and when all that waited is on its way to the new one.
type gate struct {
	sent, answered atomic.Int64 // batches
	shut           atomic.Bool

	releasing sync.Mutex

	mu    sync.Mutex
	gone  eventlog.TopicID // why it is shut: only who has replaced this one may open it
	since time.Time
	open  chan struct{} // while it is shut; closed when it is open again
	back  []*outgoing   // that the log did not take
	kept  []*outgoing   // that were never sent
	ended bool          // the store is closed: whatever comes is answered so
}

// hand gives a batch to the log, unless its topic is gone. After the count is raised either we see that the gate is shut, or who shuts it sees the count.
func (s *Store) hand(g *gate, o *outgoing, b *eventlog.Batch) {
	o.gate, o.batch, o.number = g, b, g.sent.Add(1)
	if !g.shut.Load() && s.places.Load().topics[o.topic].ID == b.Part.Topic {
		s.log.Append(b, o.answer)
		return
	}
	g.answered.Add(1)
	g.mu.Lock()
	switch {
	case g.ended:
		g.mu.Unlock()
		go o.close()
	case g.shut.Load():
		g.kept = append(g.kept, o)
		g.mu.Unlock()
	default: // it was planned for a topic that has been made again meanwhile
		g.mu.Unlock()
		s.resend(o, s.places.Load(), func(m *outgoing, b *eventlog.Batch) { s.hand(g, m, b) })
	}
}

// comeBack takes a batch that the log did not take because its topic is gone. The log may have had it before that: then it went with the topic.
func (s *Store) comeBack(o *outgoing) {
	g, id := o.gate, o.batch.Part.Topic
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		g.answered.Add(1)
		o.close()
		return
	}
	g.back = append(g.back, o)
	s.closeGate(g, o.topic, id)
	g.answered.Add(1)
	g.mu.Unlock()
	s.topicGone(id)
}

// idle tells whether the log has answered everything.
func (g *gate) idle() bool {
	answered := g.answered.Load() // first: neither ever falls
	return answered == g.sent.Load()
}

// closeGate shuts the gate of a topic that is gone, unless that has been replaced by now: then whoever did so opens it when nothing is on its way to the old
// one. The caller has the gate's lock.
func (s *Store) closeGate(g *gate, topic int, id eventlog.TopicID) {
	if s.places.Load().topics[topic].ID != id {
		return
	}
	g.gone = id
	if !g.shut.Load() {
		g.since, g.open = time.Now(), make(chan struct{})
		g.shut.Store(true)
	}
}

// room is closed when the gate is open; nil: it is.
func (g *gate) room() <-chan struct{} {
	if !g.shut.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// release sends what waits to what is in the place of a topic that is gone, and opens the gate; unless that is gone too.
func (s *Store) release(ctx context.Context, g *gate, old eventlog.TopicID) {
	g.releasing.Lock()
	defer g.releasing.Unlock()
	for !g.idle() && g.isGone(old) && !mutantHurries() { // what is on its way to the old topic comes first
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
	for {
		list, at, over := s.next(g, old)
		if over {
			return
		}
		for _, o := range list {
			s.resend(o, at, func(m *outgoing, b *eventlog.Batch) {
				m.gate, m.batch, m.number = g, b, g.sent.Add(1)
				s.log.Append(b, m.answer)
			})
		}
	}
}

func (g *gate) isGone(id eventlog.TopicID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut.Load() && g.gone == id
}

// next takes what waits, and says where all of it goes, though that may be gone too by now. over: it is not ours to send, or there was nothing more
// and the gate is open.
func (s *Store) next(g *gate, old eventlog.TopicID) (list []*outgoing, at *places, over bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut.Load() || g.gone != old {
		return nil, nil, true
	}
	slices.SortFunc(g.back, func(a, b *outgoing) int { return cmp.Compare(a.number, b.number) })
	list = append(g.back, g.kept...)
	g.back, g.kept = nil, nil
	if over = len(list) == 0; over {
		g.shut.Store(false)
		close(g.open)
		g.open = nil
	}
	return list, s.places.Load(), over
}

// end answers all that waits, and whatever comes: nobody knows what becomes of it.
func (g *gate) end() {
	g.mu.Lock()
	list := append(g.back, g.kept...)
	g.back, g.kept, g.ended = nil, nil, true
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
	g.mu.Unlock()
	for _, o := range list {
		o.close()
	}
}

func (o *outgoing) close() {
	o.gate = nil
	o.answered(eventlog.Outcome{Err: eventlog.ErrClosed})
}

// resend makes of a batch the same for the topic that is in the place of the one that is gone; it may have other partitions.
func (s *Store) resend(o *outgoing, at *places, send func(*outgoing, *eventlog.Batch)) {
	to := at.topics[o.topic]
	type moved struct {
		*outgoing
		eventlog.Builder
	}
	var list []*moved
	of := map[int32]*moved{}
	runs, left, i := o.runs, 0, 0
	err := o.batch.Each(func(r *eventlog.Record) error {
		index := partition(r.Key, to.Partitions)
		m := of[index]
		if m == nil {
			part := eventlog.Part{Topic: to.ID, Index: index}
			m = &moved{outgoing: newOutgoing()}
			m.store, m.call, m.part, m.topic, m.counter = s, o.call, sessionPart(part), o.topic, at.counter(o.topic, index)
			of[index], list = m, append(list, m)
		}
		m.Add(r.Timestamp, r.Key, r.Value, r.Headers)
		m.from = append(m.from, origin{index: o.from[i].index, digest: o.from[i].digest})
		if len(runs) > 0 {
			m.runOf(&step{cell: runs[0].cell, digest: o.from[i].digest})
			if left++; left == runs[0].n {
				runs, left = runs[1:], 0
			}
		}
		i++
		return nil
	})
	if err != nil { // it is our own
		o.gate = nil
		o.answered(eventlog.Outcome{Err: fmt.Errorf("%w: take a batch apart: %w", eventlog.ErrInvalid, err)})
		return
	}
	if o.counter != nil {
		e := entry{Entry: s.count.meter.EnterAnswer(), on: true}
		o.counter.Refused(e.Entry, len(o.from))
		for _, m := range list {
			m.counter.Published(e.Entry, len(m.from))
			m.counter.Sent(e.Entry, len(m.from))
		}
		e.leave()
	}
	early, codec := o.batch.Early, o.batch.Raw().Codec()
	o.call.left.Add(int32(len(list)))
	for _, m := range list {
		part := logPart(m.part)
		b, _, err := m.Batch(part, codec)
		if err != nil {
			go m.answered(eventlog.Outcome{Err: err})
			continue
		}
		b.Early = early
		send(m.outgoing, b)
	}
	call := o.call
	o.free()
	call.answered()
}

// Absence is a routed topic that is not there.
type Absence struct {
	Topic string
	Since time.Time
	Err   error // why it cannot be made again; nil: it is being made
}

// Absent lists the routed topics that were deleted and are not there again: what is published to them waits. all: there is no other.
func (s *Store) Absent() (list []Absence, all bool) {
	at := s.places.Load()
	for i := range s.gates {
		g := &s.gates[i]
		if !g.shut.Load() {
			continue
		}
		g.mu.Lock()
		a := Absence{Topic: at.topics[i].Name, Since: g.since}
		g.mu.Unlock()
		s.absent.mu.Lock()
		a.Err = s.absent.of[at.topics[i].ID]
		s.absent.mu.Unlock()
		list = append(list, a)
	}
	return list, len(list) > 0 && len(list) == len(s.gates)
}

// gone tells of an outcome that the topic is not there.
func gone(o *eventlog.Outcome) bool {
	return o.Err != nil && errors.Is(o.Err, eventlog.ErrUnknownTopic)
}
