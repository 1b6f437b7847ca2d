package bridge

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// sender reads the log from the bridge's positions on and sends what is for the remote, in one goroutine. While there is no connection
// it waits, with what one poll brought in hand: what else waits is in the log, and stays there.
type sender struct {
	b    *bridge
	tail broker.Tail
	into []broker.TailEvent
	held []outgoing // begun, to be sent together

	passed atomic.Int64 // bytes for the remote that it has come by, of what the backlog counts
}

// outgoing is a message for the remote, before it is sent.
type outgoing struct {
	msg   *session.Message
	topic *Topic
	name  string // there
	f     *flight
	pub   *packet.Publish // nil: it is dropped
}

const (
	pollBytes = 256 << 10
	tailRetry = time.Second
)

func (s *sender) run(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := s.tail.Poll(s.into[:0], pollBytes)
		for i := range events {
			if !s.event(ctx, &events[i]) {
				return
			}
		}
		if !s.flush(ctx) {
			return
		}
		busy := len(events) > 0
		clear(events)
		s.into = events
		var again <-chan time.Time
		if err != nil {
			s.b.failed("read the log", err)
			again = time.After(tailRetry)
		} else if busy {
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.tail.Wake():
		case <-again:
		}
	}
}

// event takes one step of the tail; false: ctx is done.
func (s *sender) event(ctx context.Context, e *broker.TailEvent) bool {
	switch {
	case e.Batch != nil:
		for i := range e.Batch.Msgs {
			if !s.message(ctx, e.Part, &e.Batch.Msgs[i]) {
				return false
			}
		}
	case e.Gap:
		s.gap(e)
	case e.Deleted:
		s.b.books.drop(e.Part)
		return true
	}
	s.b.books.read(e.Part, e.Next)
	return true
}

// gap counts the records that retention has taken before they were looked at.
func (s *sender) gap(e *broker.TailEvent) {
	at, _ := s.b.books.place(e.Part)
	if e.Next <= at {
		return
	}
	s.b.counters.drop(DropGap, uint64(e.Next-at))
	s.b.log.Warn("the log's retention has passed a bridge: records are gone that it had not looked at", "records", e.Next-at, "from", at, "to", e.Next)
	if s.b.backlog != nil {
		s.b.backlog.restart()
	}
}

// message begins a message, if it is for the remote; false: ctx is done.
func (s *sender) message(ctx context.Context, part session.Part, m *session.Message) bool {
	b := s.b
	if next, _ := b.books.place(part); m.Offset < next {
		return true
	}
	t, name, loop := b.wanted(m)
	if t == nil {
		if loop {
			b.counters.drop(DropLoop, 1)
		}
		return true
	}
	if b.books.known(part, m.Offset) {
		s.passed.Add(int64(len(m.Payload)))
		return true
	}
	b.books.read(part, m.Offset)
	if b.books.full() {
		if !s.flush(ctx) || b.books.wait(ctx) != nil {
			return false
		}
	}
	f := b.books.begin(part, m.Offset, m.Time)
	s.held = append(s.held, outgoing{msg: m, topic: t, name: name, f: f})
	return true
}

// wanted tells whether a message is for the remote, and as what; loop: it would be, had it not been there or here before.
func (b *bridge) wanted(m *session.Message) (t *Topic, name string, loop bool) {
	if t, name = outTopic(b.spec.Out, m.Topic); t == nil {
		return nil, "", false
	}
	if !mutant("bridge-no-loop-guard") && (m.Client == b.client && b.set.tookIn(m) || b.set.returned(m)) {
		return nil, "", true
	}
	return t, name, false
}

// flush sends what is held; false: ctx is done. What has become too old meanwhile is dropped.
func (s *sender) flush(ctx context.Context) bool {
	if len(s.held) == 0 {
		return true
	}
	defer func() {
		clear(s.held)
		s.held = s.held[:0]
	}()
	b := s.b
	limits, ok := b.online(ctx)
	if !ok {
		return false
	}
	exact := false
	for i := range s.held {
		o := &s.held[i]
		why := s.judge(o)
		s.passed.Add(int64(len(o.msg.Payload)))
		if why == "" {
			why = s.encode(o, limits)
		}
		if why != "" {
			b.counters.drop(why, 1)
			b.books.finish(o.f)
			continue
		}
		if o.pub.QoS == 2 {
			b.books.assign(o.f)
			o.pub.PacketID, exact = o.f.id, true
		}
	}
	// What is sent with QoS 2 is written down before: after a crash it must be sent again under the same packet id, or not at all.
	if exact && b.keeper.save(ctx) != nil {
		return false
	}
	if mutant("bridge-reorder") {
		slices.Reverse(s.held)
	}
	for i := range s.held {
		if o := &s.held[i]; o.pub != nil && !b.send(ctx, o.f, o.pub) {
			return false
		}
	}
	return true
}

// judge says why a message is not to be sent any more, or "".
func (s *sender) judge(o *outgoing) string {
	b, m := s.b, o.msg
	age := b.set.o.Now().UnixMilli() - m.Time
	switch {
	case b.spec.MaxAge > 0 && age > b.spec.MaxAge.Milliseconds():
		return DropAge
	case m.Props != nil && m.Props.HasExpiry && age >= int64(m.Props.Expiry)*1000:
		return DropExpired
	case b.backlog != nil && b.backlog.waiting(s.passed.Load()) > b.spec.MaxBytes:
		return DropBytes
	}
	return ""
}

// encode makes the PUBLISH, as the remote takes it, or says why it cannot.
func (s *sender) encode(o *outgoing, l limits) (why string) {
	m := o.msg
	p := &packet.Publish{QoS: min(m.QoS, o.topic.QoS, l.qos), Topic: []byte(o.name), Payload: m.Payload, Retain: m.Retain && o.topic.Retain && l.retain}
	if s.b.spec.Version == packet.V5 {
		properties(&p.Props, m, s.b.set.o.Now().UnixMilli())
		p.Props.User = s.b.set.marked(p.Props.User)
	}
	wire, _, err := packet.AppendPublish(s.b.scratch[:0], p, s.b.spec.Version)
	s.b.scratch = wire[:0]
	switch {
	case err != nil:
		return DropInvalid
	case l.packet > 0 && len(wire) > l.packet:
		return DropTooLarge
	}
	o.pub = p
	return ""
}

// properties are a message's, on MQTT 5.
func properties(to *packet.Properties, m *session.Message, now int64) {
	if p := m.Props; p != nil {
		if p.HasExpiry {
			to.Has |= packet.PMessageExpiry
			to.MessageExpiry = uint32(max(1, int64(p.Expiry)-max(0, now-m.Time)/1000))
		}
		if p.PayloadFormat != 0 {
			to.Has |= packet.PPayloadFormat
			to.PayloadFormat = p.PayloadFormat
		}
		if p.ContentType != "" {
			to.Has |= packet.PContentType
			to.ContentType = p.ContentType
		}
		if p.ResponseTopic != "" {
			to.Has |= packet.PResponseTopic
			to.ResponseTopic = p.ResponseTopic
		}
		if p.Correlation != nil {
			to.Has |= packet.PCorrelation
			to.Correlation = p.Correlation
		}
		to.User = append(to.User, p.User...)
	}
}

// send hands a message to the client; false: ctx is done.
func (b *bridge) send(ctx context.Context, f *flight, p *packet.Publish) bool {
	if p.QoS == 0 {
		if err := b.mqtt.Publish(ctx, p, nil); err != nil {
			return b.unsent(ctx, f, err)
		}
		b.counters.sent.Add(1)
		b.complete(f, packet.Success)
		return true
	}
	err := b.mqtt.Deliver(ctx, p, func(step client.Step, code packet.Code) { b.step(f, p, step, code) })
	if err != nil {
		return b.unsent(ctx, f, err)
	}
	b.books.sent(f, p.PacketID)
	b.counters.sent.Add(1)
	return true
}

// unsent deals with a message that the client did not take.
func (b *bridge) unsent(ctx context.Context, f *flight, err error) bool {
	if ctx.Err() != nil || errors.Is(err, client.ErrOffline) {
		return false
	}
	b.failed("send a message", err)
	b.counters.drop(DropInvalid, 1)
	b.books.finish(f)
	return true
}

// step hears how far a message has come, from the client's goroutine that reads.
func (b *bridge) step(f *flight, p *packet.Publish, step client.Step, code packet.Code) {
	if step == client.Received {
		b.books.receive(f)
		b.keeper.kick() // its PUBREL leaves once that is written down
		return
	}
	if !code.Failed() {
		b.complete(f, code)
		return
	}
	b.failed("publish to the remote", refusal(string(p.Topic), code))
	if !b.spec.Retry {
		b.counters.drop(DropRefused, 1)
		b.books.finish(f)
		return
	}
	b.again(f, p)
}

// complete enters that the remote has a message.
func (b *bridge) complete(f *flight, code packet.Code) {
	if b.books.finish(f) && !code.Failed() {
		b.counters.acked.Add(1)
	}
	if window := int64(b.spec.Window); b.quota.Swap(window) != window { // the suspect is through
		b.mqtt.Widen()
	}
}

// again sends a message later that the remote has refused. It keeps its place in the window, and so the bridge waits for it sooner or
// later.
func (b *bridge) again(f *flight, p *packet.Publish) {
	b.work.Go(func() {
		select {
		case <-b.ctx.Done():
			return
		case <-time.After(b.spec.RetryMax):
		}
		q := *p
		q.PacketID = f.id
		b.send(b.ctx, f, &q)
	})
}
