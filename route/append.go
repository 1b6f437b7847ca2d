package route

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// maxBatch is how large a batch of messages grows, in bytes; a message larger than that is a batch of its own.
const maxBatch = 64 << 10

// call is one call of Append while its batches are on their way.
type call struct {
	done    func([]session.Result)
	results []session.Result
	left    atomic.Int32 // batches not answered, and one for Append itself until it returns
}

// answered counts one batch off; the last one answers the caller.
func (c *call) answered() {
	if c.left.Add(-1) == 0 {
		c.done(c.results)
	}
}

// side travels with a batch through the log, so that the tail finds our messages without parsing them.
type side struct {
	once  sync.Once
	batch session.Batch
}

// batching is one batch of a call while it is filled.
type batching struct {
	part    eventlog.Part
	codec   eventlog.Codec
	early   bool
	builder *eventlog.Builder
	msgs    []session.Message // views; payloads are the caller's until the batch is built
	from    []origin
}

// origin tells where a batch's message comes from: its index in the call, and where its payload begins in the batch.
type origin struct{ index, at int32 }

// appender is the scratch of one call of Append.
type appender struct {
	encoder encoder
	open    []*batching
	parts   []eventlog.Part // touched, for Room
}

var appenders = sync.Pool{New: func() any { return new(appender) }}

// builders are lent to batches while they are filled: growing a buffer anew for each would be most of the cost of encoding.
var builders = sync.Pool{New: func() any { return new(eventlog.Builder) }}

func newBatching(p eventlog.Part, r *route) *batching {
	return &batching{part: p, codec: r.Compression, early: r.AckMemory, builder: builders.Get().(*eventlog.Builder)}
}

// Append implements broker.Store. One batch is built per partition that the call touches. results is the callee's to keep.
func (s *Store) Append(msgs []session.Message, done func(results []session.Result)) (wait <-chan struct{}) {
	c := &call{done: done, results: make([]session.Result, len(msgs))}
	c.left.Store(1)
	a := appenders.Get().(*appender)
	now := s.now()
	for i := range msgs {
		if err := s.add(c, a, now, i, &msgs[i]); err != nil {
			c.results[i].Err = err
			s.stats.refused.add(reason(err), 1)
		}
	}
	for _, b := range a.open {
		s.flush(c, b)
	}
	for _, p := range a.parts {
		if wait = s.log.Room(p); wait != nil {
			break
		}
	}
	clear(a.open)
	a.open, a.parts = a.open[:0], a.parts[:0]
	appenders.Put(a)
	if c.left.Add(-1) == 0 { // everything is decided: the answer still comes from a goroutine that is not the caller's
		go done(c.results)
	}
	return wait
}

// add puts one message where it belongs.
func (s *Store) add(c *call, a *appender, now int64, i int, m *session.Message) error {
	r := s.cache.get(m.Topic, s.resolve)
	switch {
	case r.route == nil:
		return errNoRoute
	case r.route.Discard && m.Retain:
		return errRetain
	}
	headers, err := a.encoder.encode(r.name, m)
	if err != nil {
		return err
	}
	if r.route.Discard {
		s.stats.unlogged.Add(1)
		v := *m
		v.Topic, v.Time = r.name, now
		s.unlogged(&v)
		return nil
	}
	key, to := r.key, s.places.Load().topics[r.route.topic]
	part := eventlog.Part{Topic: to.ID, Index: r.part}
	if key == nil {
		key = bytesOf(m.Client)
		part.Index = partition(key, to.Partitions)
	}
	value := m.Payload
	if value == nil {
		value = empty
	}
	b := s.batchFor(c, a, part, r.route, len(value)+len(r.name)+len(key))
	b.msgs = append(b.msgs, view(m, r.name, now))
	b.from = append(b.from, origin{index: int32(i), at: int32(b.builder.Add(now, key, value, headers))})
	return nil
}

// view is the message as subscribers see it. It shares with m the payload, for the caller to replace, and the client id.
func view(m *session.Message, name string, now int64) session.Message {
	return session.Message{Offset: -1, Time: now, Topic: name, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain,
		Clear: m.Retain && len(m.Payload) == 0, Client: m.Client, Props: clonedProps(m.Props), QoS2: m.QoS2, Will: m.Will}
}

// batchFor finds the open batch of a partition, or begins one. A batch that size more bytes would make too large goes first.
func (s *Store) batchFor(c *call, a *appender, p eventlog.Part, r *route, size int) *batching {
	for i, b := range a.open {
		if b.part != p || b.codec != r.Compression || b.early != r.AckMemory {
			continue
		}
		if b.builder.Size()+size <= maxBatch {
			return b
		}
		s.flush(c, b)
		a.open[i] = newBatching(p, r)
		return a.open[i]
	}
	b := newBatching(p, r)
	a.open, a.parts = append(a.open, b), append(a.parts, p)
	return b
}

// flush hands a batch to the log.
func (s *Store) flush(c *call, b *batching) {
	c.left.Add(1)
	batch, plain, err := b.builder.Batch(b.part, b.codec)
	builders.Put(b.builder)
	b.builder = nil
	if err != nil {
		go s.answer(c, b, &eventlog.Outcome{Err: err})
		return
	}
	for i, from := range b.from {
		m := &b.msgs[i]
		end := int(from.at) + len(m.Payload)
		m.Payload = plain[from.at:end:end]
	}
	batch.Early = b.early
	batch.Side = &side{batch: session.Batch{Part: sessionPart(b.part), Msgs: b.msgs}}
	batch.SideBytes = cap(b.msgs) * int(unsafe.Sizeof(session.Message{}))
	b.msgs = nil
	s.log.Append(batch, func(o eventlog.Outcome) { s.answer(c, b, &o) })
}

// answer maps what became of a batch to the messages of its call.
func (s *Store) answer(c *call, b *batching, o *eventlog.Outcome) {
	ok := 0
	for i, from := range b.from {
		r, to := o.At(i), &c.results[from.index]
		if to.Pos = (session.Position{Part: sessionPart(b.part), Offset: r.Offset}); r.Err == nil {
			ok++
			continue
		}
		to.Pos, to.Err = session.Position{}, refusal(r.Err)
		s.stats.refused.add(reason(r.Err), 1)
	}
	s.stats.appended.Add(uint64(ok))
	c.answered()
}
