package route

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/session"
)

// maxBatch is how large a batch of messages grows, in bytes; a message larger than that is a batch of its own.
const maxBatch = 64 << 10

// call is one call of Append while its batches are on their way. It is used again once it is answered.
type call struct {
	done    func([]session.Result)
	results []session.Result
	left    atomic.Int32 // batches not answered, and one for Append itself until it returns
}

var calls = sync.Pool{New: func() any { return new(call) }}

// keptResults is the largest call whose results are used again.
const keptResults = 4096

func newCall(n int, done func([]session.Result)) *call {
	c := calls.Get().(*call)
	c.done = done
	c.results = slices.Grow(c.results, n)[:n]
	c.left.Store(1)
	return c
}

// answered counts one batch off; the last one answers the caller.
func (c *call) answered() {
	if c.left.Add(-1) == 0 {
		c.answer()
	}
}

func (c *call) answer() {
	c.done(c.results)
	if cap(c.results) > keptResults {
		return
	}
	clear(c.results)
	c.done, c.results = nil, c.results[:0]
	calls.Put(c)
}

// side travels with a batch through the log, so that the tail finds our messages without parsing them.
type side struct {
	once  sync.Once
	batch session.Batch
}

// plan is a batch of a call before it is encoded: how many messages, and roughly how many bytes.
type plan struct {
	part  eventlog.Part
	codec eventlog.Codec
	early bool
	dead  bool // for dead letters
	spill bool
	topic int  // of the table
	full  bool // a later plan has taken over
	count int
	size  int

	counter *meter.Part // nil without a meter
}

// step is what is to be done with one message of a call.
type step struct {
	to   *resolved
	plan int32 // index of its batch; -1: it is dealt with

	digest uint32
	cell   *meter.Cell // nil without a meter
	wrong  error       // with the payload: it becomes a dead letter
}

// appender is the scratch of one call of Append.
type appender struct {
	encoder  encoder
	steps    []step
	plans    []plan
	last     int // the plan that took the last message
	builders []eventlog.Builder
	out      []*outgoing
	lane     uint32 // of the meter
}

var appenders = sync.Pool{New: func() any { return &appender{lane: lanes.Add(1)} }}

var lanes atomic.Uint32

// free gives the scratch back; the buffer that a large message took is not kept.
func (a *appender) free() {
	for i := range a.plans {
		if a.plans[i].size > 2*maxBatch {
			a.builders[i] = eventlog.Builder{Stamped: true}
		}
	}
	clear(a.steps)
	clear(a.out)
	a.steps, a.plans, a.out = a.steps[:0], a.plans[:0], a.out[:0]
	appenders.Put(a)
}

// outgoing is a batch of a call on its way. Nobody has it once it is answered, and it is used again: what stays in memory with the
// batch is the side only.
type outgoing struct {
	store  *Store
	call   *call
	part   session.Part
	from   []origin
	side   *side
	dead   bool // for dead letters, which nobody in MQTT sees
	answer func(eventlog.Outcome)

	topic  int             // of the table
	gate   *gate           // nil: it has gone through none
	batch  *eventlog.Batch // for the gate
	number int64

	spilled bool
	counter *meter.Part // nil without a meter
	runs    []run
}

var outgoings sync.Pool

func newOutgoing() *outgoing {
	o, _ := outgoings.Get().(*outgoing)
	if o == nil {
		o = new(outgoing)
		o.answer = o.answered
	}
	return o
}

func (o *outgoing) free() {
	clear(o.runs)
	o.spilled, o.gate, o.batch = false, nil, nil
	o.store, o.call, o.side, o.counter, o.from, o.runs, o.dead = nil, nil, nil, nil, o.from[:0], o.runs[:0], false
	outgoings.Put(o)
}

// origin tells where a batch's message comes from: its index in the call, and where its payload begins in the batch.
type origin struct {
	index, at int32
	digest    uint32 // of the payload
}

// Append implements broker.Store. One batch is built per partition that the call touches, more if it is large.
func (s *Store) Append(msgs []session.Message, done func(results []session.Result)) (wait <-chan struct{}) {
	c := newCall(len(msgs), done)
	a := appenders.Get().(*appender)
	now := s.now()
	e := s.count.enter(a.lane, now)
	s.encode(c, a, now, msgs, s.plan(c, a, now, msgs, &e), &e)
	e.leave()
	for i, o := range a.out {
		s.send(&a.plans[i], &a.builders[i], o)
	}
	for i := range a.plans {
		if wait = s.room(&a.plans[i]); wait != nil {
			break
		}
	}
	a.free()
	if c.left.Add(-1) == 0 { // everything is decided: the answer still comes from a goroutine that is not the caller's
		go c.answer()
	}
	return wait
}

// plan finds out where each message goes, and deals with those that go nowhere. It returns how many go to the log.
func (s *Store) plan(c *call, a *appender, now int64, msgs []session.Message, e *entry) (planned int) {
	at := s.places.Load()
	var r *resolved
	for i := range msgs {
		m := &msgs[i]
		if r == nil || r.name != m.Topic { // a device mostly repeats itself
			r = s.cache.get(m.Topic, s.resolve)
		}
		a.steps = append(a.steps, step{to: r, plan: -1})
		err := s.refuse(r, m)
		var wrong error
		if err == nil && r.route.Payloads != nil {
			wrong, err = s.examine(r, m)
		}
		switch {
		case err != nil:
			c.results[i].Err = err
			s.stats.refused.add(reason(err), 1)
			e.refused(s.cell(r, m.Client, e), reason(err))
		case r.route.Discard:
			v := *m
			v.Topic, v.Time = r.name, now
			s.stats.unlogged.Add(1)
			v.Tally = e.unlogged(s.cell(r, m.Client, e))
			s.unlogged(&v)
		case wrong != nil:
			a.planLetter(at, r, m, wrong)
			a.steps[i].cell = s.cell(r, m.Client, e)
			planned++
		default:
			to := s.topicOf(at, r.route)
			part := eventlog.Part{Topic: to.ID, Index: r.part}
			switch {
			case r.key == nil:
				part.Index = partition(bytesOf(m.Client), to.Partitions)
			case r.parts != to.Partitions: // the topic came back with others
				part.Index = partition(r.key, to.Partitions)
			}
			st := &a.steps[i]
			st.plan = a.planFor(part, r.route, estimate(r, m))
			a.plans[st.plan].topic = r.route.topic
			if planned++; r.route.Spill { // counted when it comes to the log
				continue
			}
			st.cell, st.digest = s.cell(r, m.Client, e), s.count.digest(m.Payload)
			e.published(st.cell)
			a.plans[st.plan].counter = at.counter(r.route.topic, part.Index)
		}
	}
	e.planned(a.plans)
	return planned
}

// refuse says why a message cannot be taken, or nil.
func (s *Store) refuse(r *resolved, m *session.Message) error {
	switch {
	case r.route == nil:
		return errNoRoute
	case r.route.Spill && s.spill.Full():
		s.spill.Reject()
		return errSpillFull
	case r.route.Discard && m.Retain:
		return errRetain
	}
	if m.Props != nil {
		for i := range m.Props.User {
			if reserved(m.Props.User[i].Name) {
				return errReservedName
			}
		}
	}
	return nil
}

// estimate is at least the bytes of a message's record.
func estimate(r *resolved, m *session.Message) int {
	n := 128 + len(r.name) + len(r.key) + 2*len(m.Client) + len(m.Payload)
	if p := m.Props; p != nil {
		n += 160 + len(p.ContentType) + len(p.ResponseTopic) + len(p.Correlation)
		for i := range p.User {
			n += 8 + len(p.User[i].Name) + len(p.User[i].Value)
		}
	}
	return n
}

// planFor finds the batch of a partition that has room for size more bytes, or plans one. Batches go to the log in the order
// in which they were planned, so messages of one partition and route keep theirs.
func (a *appender) planFor(p eventlog.Part, r *route, size int) int32 {
	for n := range a.plans {
		i := (a.last + n) % len(a.plans)
		if b := &a.plans[i]; !b.full && b.part == p && b.codec == r.Compression && b.early == r.AckMemory {
			if b.full = b.size+size > maxBatch; b.full {
				break
			}
			b.count, b.size, a.last = b.count+1, b.size+size, i
			return int32(i)
		}
	}
	a.plans = append(a.plans, plan{part: p, codec: r.Compression, early: r.AckMemory, spill: r.Spill, count: 1, size: size})
	a.last = len(a.plans) - 1
	return int32(a.last)
}

// encode makes the records of all planned messages, and the views that the tail will find.
func (s *Store) encode(c *call, a *appender, now int64, msgs []session.Message, planned int, e *entry) {
	if planned == 0 {
		return
	}
	sides, views := make([]side, len(a.plans)), make([]session.Message, planned)
	for len(a.builders) < len(a.plans) {
		a.builders = append(a.builders, eventlog.Builder{Stamped: true})
	}
	for i := range a.plans {
		p, o := &a.plans[i], newOutgoing()
		a.builders[i].Grow(p.size)
		sides[i].batch.Msgs, views = views[:0:p.count], views[p.count:]
		o.store, o.call, o.part, o.side, o.counter, o.dead = s, c, sessionPart(p.part), &sides[i], p.counter, p.dead
		o.topic = p.topic
		a.out = append(a.out, o)
	}
	for i := range a.steps {
		st := &a.steps[i]
		if st.plan < 0 {
			continue
		}
		m, o := &msgs[i], a.out[st.plan]
		if mutantDrops(a.plans[st.plan].count) {
			continue
		}
		key, value := st.to.key, m.Payload
		if key == nil {
			key = bytesOf(m.Client)
		}
		if value == nil {
			value = empty
		}
		if st.wrong != nil {
			a.builders[st.plan].AddEncoded(now, key, value, a.encoder.letter(st.to, m, st.wrong))
			o.from = append(o.from, origin{index: int32(i)})
			o.runOf(st)
			continue
		}
		at := a.builders[st.plan].AddEncoded(now, key, value, a.encoder.encode(st.to.name, m))
		o.from = append(o.from, origin{index: int32(i), at: int32(at), digest: st.digest})
		o.runOf(st)
		o.view(m, st, now)
	}
	e.sent(a.out)
}

// view adds what the tail will find of a message. The fields are set one by one, in memory that is zero: whole messages would be copied.
func (o *outgoing) view(m *session.Message, st *step, now int64) {
	list := &o.side.batch.Msgs
	*list = (*list)[:len(*list)+1]
	v := &(*list)[len(*list)-1]
	v.Offset, v.Time, v.Topic, v.Payload = -1, now, st.to.name, m.Payload
	v.QoS, v.Retain, v.Clear = m.QoS, m.Retain, m.Retain && len(m.Payload) == 0
	v.Client, v.Props, v.QoS2, v.Will = m.Client, clonedProps(m.Props), m.QoS2, m.Will
	v.Received, v.Tally = m.Received, tallyOf(st.cell)
}

// send hands a batch to the log.
func (s *Store) send(p *plan, builder *eventlog.Builder, o *outgoing) {
	o.call.left.Add(1)
	batch, plain, err := builder.Batch(p.part, p.codec)
	if err != nil {
		go o.answered(eventlog.Outcome{Err: err})
		return
	}
	if o.dead {
		batch.Early = p.early
		s.log.Append(batch, o.answer)
		return
	}
	b := &o.side.batch
	b.Part = o.part
	for i, from := range o.from {
		m := &b.Msgs[i] // its payload is the caller's until here
		end := int(from.at) + len(m.Payload)
		m.Payload = plain[from.at:end:end]
	}
	if batch.Early = p.early; p.spill {
		o.spilled, o.side = true, nil
		s.spill.Append(batch, o.answer)
		return
	}
	batch.Side = o.side
	batch.SideBytes = int(unsafe.Sizeof(side{})) + len(b.Msgs)*int(unsafe.Sizeof(session.Message{}))
	if p.codec != eventlog.None { // the payloads stay beside what they were compressed to
		batch.SideBytes += len(plain)
	}
	s.hand(&s.gates[p.topic], o, batch)
}

// answered maps what became of a batch to the messages of its call.
func (o *outgoing) answered(outcome eventlog.Outcome) {
	if o.gate != nil {
		if gone(&outcome) {
			o.store.comeBack(o)
			return
		}
		o.gate.answered.Add(1)
	}
	if o.dead {
		o.countLetters(&outcome)
	} else {
		o.count(&outcome)
	}
	ok, call := 0, o.call
	if outcome.Err == nil && outcome.Each == nil {
		for i, from := range o.from {
			call.results[from.index].Pos = session.Position{Part: o.part, Offset: outcome.Base + int64(i)}
		}
		o.finish(len(o.from))
		return
	}
	for i, from := range o.from {
		r, to := outcome.At(i), &call.results[from.index]
		if r.Err == nil {
			to.Pos = session.Position{Part: o.part, Offset: r.Offset}
			ok++
			continue
		}
		to.Err = refusal(r.Err)
		o.store.stats.refused.add(reason(r.Err), 1)
	}
	o.finish(ok)
}

// finish counts what is in the log and answers.
func (o *outgoing) finish(logged int) {
	switch {
	case o.spilled:
		o.store.stats.spilled.Add(uint64(logged))
	case !o.dead:
		o.store.stats.appended.Add(uint64(logged))
	}
	call := o.call
	o.free()
	call.answered()
}
