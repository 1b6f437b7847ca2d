package broker_test

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"sync"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// memStore is a broker.Store in memory. Topics are spread over a few partitions; those that begin with "raw/" are a
// `store: false` route. It outlives brokers, so a broker on the same memStore is a restart. Its knobs hold appends back, refuse
// them, land them in any order, make a claim fail, and trim partitions.
type memStore struct {
	unlogged func(*session.Message)

	mu      sync.Mutex
	wake    *sync.Cond
	data    [memParts][]session.Message // by offset
	starts  [memParts]int64
	state   map[session.Target]*memState
	tails   []*memTail
	queue   []*memAppend // not committed
	holding bool         // appends of messages stay in the queue
	refuse  func(m *session.Message) error
	room    chan struct{} // not nil: there is no room
	reads   int
	lost    bool // nothing can be claimed
	closed  bool
	ended   chan struct{}
}

const memParts = 4

type memState struct {
	recs  []session.StateRecord
	epoch int64
}

// memAppend is one call of Append, of messages or of state records.
type memAppend struct {
	msgs   []session.Message
	state  *memState
	target session.Target
	epoch  int64
	recs   []session.StateRecord
	done   func([]session.Result)
}

func newMemStore() *memStore {
	s := &memStore{state: map[session.Target]*memState{}, ended: make(chan struct{})}
	s.wake = sync.NewCond(&s.mu)
	for _, t := range s.Targets() {
		s.state[t] = &memState{}
	}
	go s.commit()
	return s
}

func (s *memStore) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wake.Broadcast()
	<-s.ended
}

func dataPart(i int) session.Part { return session.Part{Topic: [16]byte{'d'}, Index: int32(i)} }

func (s *memStore) Append(msgs []session.Message, done func([]session.Result)) <-chan struct{} {
	own := make([]session.Message, len(msgs))
	for i := range msgs {
		own[i] = copyMessage(&msgs[i])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, &memAppend{msgs: own, done: done})
	s.wake.Broadcast()
	return s.room
}

func copyMessage(m *session.Message) session.Message {
	c := *m
	c.Topic, c.Payload, c.Client = strings.Clone(m.Topic), slices.Clone(m.Payload), strings.Clone(m.Client)
	if m.Props != nil {
		p := *m.Props
		p.Correlation, p.User = slices.Clone(p.Correlation), slices.Clone(p.User)
		c.Props = &p
	}
	return c
}

// commit is the store's goroutine.
func (s *memStore) commit() {
	defer close(s.ended)
	for {
		s.mu.Lock()
		a := s.next()
		for a == nil && !s.closed {
			s.wake.Wait()
			a = s.next()
		}
		if a == nil {
			s.mu.Unlock()
			return
		}
		results := s.apply(a)
		s.mu.Unlock()
		a.done(results)
	}
}

// next takes the first append that may be committed. Under mu.
func (s *memStore) next() *memAppend {
	for i, a := range s.queue {
		if a.state != nil || !s.holding {
			s.queue = slices.Delete(s.queue, i, i+1)
			return a
		}
	}
	return nil
}

func (s *memStore) apply(a *memAppend) []session.Result {
	if a.state != nil {
		return s.applyState(a)
	}
	results := make([]session.Result, len(a.msgs))
	touched := map[int]bool{}
	for i := range a.msgs {
		m := &a.msgs[i]
		if s.refuse != nil {
			if err := s.refuse(m); err != nil {
				results[i].Err = err
				continue
			}
		}
		if strings.HasPrefix(m.Topic, "raw/") {
			s.unlogged(m)
			continue
		}
		h := fnv.New32a()
		h.Write([]byte(m.Topic))
		p := int(h.Sum32() % memParts)
		m.Offset = int64(len(s.data[p]))
		s.data[p] = append(s.data[p], *m)
		results[i].Pos = session.Position{Part: dataPart(p), Offset: m.Offset}
		touched[p] = true
	}
	if len(touched) > 0 {
		s.wakeTails()
	}
	return results
}

func (s *memStore) applyState(a *memAppend) []session.Result {
	results := make([]session.Result, len(a.recs))
	for i, r := range a.recs {
		if a.epoch != a.state.epoch {
			results[i].Err = session.ErrFenced
			continue
		}
		results[i].Pos = session.Position{Part: s.TargetPart(a.target), Offset: int64(len(a.state.recs))}
		a.state.recs = append(a.state.recs, r)
	}
	return results
}

// hold keeps appends of messages back until release.
func (s *memStore) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
}

func (s *memStore) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = false
	s.wake.Broadcast()
}

// land commits the i-th of the appends that are held back, and returns when it is done.
func (s *memStore) land(i int) {
	s.mu.Lock()
	a := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	results := s.apply(a)
	s.mu.Unlock()
	a.done(results)
}

// held is how many appends, and messages in them, are held back.
func (s *memStore) held() (appends, msgs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.queue {
		msgs += len(a.msgs)
	}
	return len(s.queue), msgs
}

// full makes Append ask for a pause, until the returned function is called.
func (s *memStore) full() (room func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan struct{})
	s.room = ch
	return func() {
		s.mu.Lock()
		s.room = nil
		s.mu.Unlock()
		close(ch)
	}
}

func (s *memStore) refusing(f func(m *session.Message) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// logged lists the payloads on a topic, in the order of the log.
func (s *memStore) logged(topic string) (payloads []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.data {
		for i := range s.data[p] {
			if s.data[p][i].Topic == topic {
				payloads = append(payloads, string(s.data[p][i].Payload))
			}
		}
	}
	return payloads
}

// fence lets somebody else claim every target.
func (s *memStore) fence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.state {
		st.epoch++
	}
}

// unclaimable makes claims fail.
func (s *memStore) unclaimable(lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = lost
}

func (s *memStore) Data(context.Context) (starts, ends session.Vector, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	starts, ends = session.Vector{}, session.Vector{}
	for p := range s.data {
		starts[dataPart(p)], ends[dataPart(p)] = s.starts[p], int64(len(s.data[p]))
	}
	return starts, ends, nil
}

func (s *memStore) Targets() []session.Target {
	return []session.Target{{Partition: 0}, {Partition: 1}, {Retained: true, Partition: 0}, {Retained: true, Partition: 1}}
}

func (s *memStore) TargetPart(t session.Target) session.Part {
	if t.Retained {
		return session.Part{Topic: [16]byte{'r'}, Index: t.Partition}
	}
	return session.Part{Topic: [16]byte{'s'}, Index: t.Partition}
}

func (s *memStore) Claim(_ context.Context, t session.Target) (broker.StateWriter, func(func(int64, session.StateRecord) error) error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return nil, nil, errors.New("no log")
	}
	st := s.state[t]
	st.epoch++
	recs := slices.Clone(st.recs)
	return &memWriter{s, t, st.epoch}, func(visit func(int64, session.StateRecord) error) error {
		for i, r := range recs {
			if err := visit(int64(i), r); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

type memWriter struct {
	s     *memStore
	t     session.Target
	epoch int64
}

func (w *memWriter) Epoch() int64 { return w.epoch }

func (w *memWriter) Append(recs []session.StateRecord, done func([]session.Result)) {
	own := make([]session.StateRecord, len(recs))
	for i, r := range recs {
		own[i] = session.StateRecord{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.queue = append(w.s.queue, &memAppend{state: w.s.state[w.t], target: w.t, epoch: w.epoch, recs: own, done: done})
	w.s.wake.Broadcast()
}

func (s *memStore) Read(_ context.Context, pos session.Position, maxBytes int) (session.Batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	b := session.Batch{Part: pos.Part, Base: pos.Offset, Next: pos.Offset}
	switch pos.Topic[0] {
	case 'd':
		msgs := s.data[pos.Index]
		if start := s.starts[pos.Index]; pos.Offset < start {
			return b, &session.GapError{Next: start}
		}
		for size := 0; b.Next < int64(len(msgs)) && size < maxBytes; b.Next++ {
			m := msgs[b.Next]
			m.Received = 0 // the log does not know
			b.Msgs = append(b.Msgs, m)
			size += len(msgs[b.Next].Payload) + len(msgs[b.Next].Topic)
		}
	case 'r':
		recs := s.state[session.Target{Retained: true, Partition: pos.Index}].recs
		for size := 0; b.Next < int64(len(recs)) && size < maxBytes; b.Next++ {
			if m, ok := session.StoredMessage(b.Next, recs[b.Next]); ok {
				b.Msgs = append(b.Msgs, m)
				size += len(m.Payload)
			}
		}
	default:
		return b, errors.New("no such partition")
	}
	return b, nil
}

func (s *memStore) Tail(from session.Vector) (broker.Tail, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &memTail{s: s, wake: make(chan struct{}, 1)}
	for p := range t.next {
		t.next[p] = from[dataPart(p)]
	}
	s.tails = append(s.tails, t)
	t.wake <- struct{}{}
	return t, nil
}

type memTail struct {
	s    *memStore
	wake chan struct{}
	next [memParts]int64
}

func (s *memStore) wakeTails() {
	for _, t := range s.tails {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *memTail) Wake() <-chan struct{} { return t.wake }

func (t *memTail) Poll(into []broker.TailEvent, maxBytes int) ([]broker.TailEvent, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	for p := range t.next {
		if start := t.s.starts[p]; t.next[p] < start {
			into = append(into, broker.TailEvent{Part: dataPart(p), Next: start, Gap: true})
			t.next[p] = start
		}
		if end := int64(len(t.s.data[p])); t.next[p] < end {
			b := &session.Batch{Part: dataPart(p), Base: t.next[p], Next: end, Msgs: t.s.data[p][t.next[p]:end:end]}
			into = append(into, broker.TailEvent{Batch: b, Part: b.Part, Next: end})
			t.next[p] = end
		}
	}
	return into, nil
}

func (t *memTail) Close() {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.tails = slices.DeleteFunc(t.s.tails, func(x *memTail) bool { return x == t })
}

// refusal makes an error as route makes it, for a message that will never be in the log.
func refusal(code packet.Code, text string) error { return &packet.Error{Code: code, Text: text} }
