package broker

import (
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// receipt is a PUBACK or PUBREC that a client is owed. It leaves when its message is durable, and not before those of the
// publishes that came before it [MQTT-4.6.0-2, -3].
type receipt struct {
	refused *packet.Error // nil: success
	triple  session.Triple
	msg     int32 // of the append, or noMessage
	id      uint16
	kind    packet.Type
}

const noMessage = -1

// flight is one append on its way to the log, with the receipts that wait for it; or a packet that waits behind the appends
// before it. The flights of a connection are a list in the order in which they began, and land in that order.
type flight struct {
	c        *conn
	next     *flight
	receipts []receipt
	held     packet.Packet
	landed   bool
	size     int           // of its messages
	taken    int           // of budgets, for them
	received time.Duration // they were
	done     func([]session.Result)
}

var flights sync.Pool

func newFlight() *flight {
	f, _ := flights.Get().(*flight)
	if f == nil {
		f = &flight{}
		f.done = f.complete
	}
	return f
}

func (f *flight) free() {
	if cap(f.receipts) > 4096 {
		return
	}
	f.c, f.next, f.held, f.landed, f.size, f.taken, f.receipts = nil, nil, nil, false, 0, 0, f.receipts[:0]
	flights.Put(f)
}

// expect adds a receipt to the burst's next append.
func (c *conn) expect(s *burst, r receipt) {
	if s.flight == nil {
		s.flight = newFlight()
	}
	s.flight.receipts = append(s.flight.receipts, r)
}

// mutantAckBeforeDone is a bug planted under the build tag mutants, to show that a test would see it (MILLRACE_MUTANT chooses it):
// PUBACK leaves before the store has said that the message is durable.
const mutantAckBeforeDone = "ack-before-done"

// append sends what the burst has gathered to the log.
func (c *conn) append(s *burst) {
	if n := s.received[0] + s.received[1] + s.received[2]; n > 0 {
		c.messagesIn.Add(n)
	}
	c.b.stats.enter(s)
	f := s.flight
	s.flight = nil
	if f == nil {
		if len(s.msgs) == 0 {
			return
		}
		f = newFlight()
	}
	f.c, f.received, f.size = c, s.clock, s.size
	if len(s.msgs) > 0 {
		f.size += appendOverhead
	}
	s.size = 0
	c.mu.Lock()
	c.launch(f)
	c.inflight += f.size
	c.mu.Unlock()
	f.taken = f.size
	c.b.inbound.take(f.taken)
	c.lis.inbound.take(f.taken)
	if len(s.msgs) == 0 {
		f.land()
		return
	}
	if mutant(mutantAckBeforeDone) {
		c.giveBack(f)
		f.land()
		f = &flight{c: c}
		f.done = func([]session.Result) {}
	}
	s.sending = f
	if wait := c.b.store.Append(s.msgs, f.done); wait != nil {
		s.wait = wait
	}
	s.sending = nil
	clear(s.msgs)
	clear(s.props)
	s.msgs, s.props = s.msgs[:0], s.props[:0]
}

// launch puts f behind the connection's other flights. Under c.mu.
func (c *conn) launch(f *flight) {
	if c.last == nil {
		c.first = f
	} else {
		c.last.next = f
	}
	c.last = f
}

// complete is the store's callback: what became of the messages. It is called by a goroutine that others need, so nothing that it does
// may end that.
func (f *flight) complete(results []session.Result) {
	c := f.c
	defer func() {
		if r := recover(); r != nil {
			c.b.notePanic("receipts", &panicked{r, debug.Stack()})
			c.cut("panic")
			c.abandon(f)
		}
	}()
	c.giveBack(f)
	f.settle(results)
	f.land()
}

// giveBack returns what f's messages took of the budgets that many share.
func (c *conn) giveBack(f *flight) {
	c.b.inbound.give(f.taken)
	c.lis.inbound.give(f.taken)
	f.taken = 0
}

// settle takes in what became of the messages, and ends the connection if that cannot be told by acks.
func (f *flight) settle(results []session.Result) {
	c := f.c
	var lost error // nothing certain is known: no ack may leave
	stable := 0
	defer c.b.stats.appending.Add(-int64(len(results))) // when what became of them is counted
	for i := range results {
		switch err := results[i].Err; {
		case err == nil:
			if results[i].Pos.Part != (session.Part{}) {
				stable++
			}
		case refusedBy(err) != nil:
			c.b.refused(c, label(refusedBy(err).Code))
		default:
			lost = err
			c.b.refused(c, "outcome_unknown")
		}
	}
	if stable > 0 {
		c.b.latency.Commit.RecordN(c.b.clock()-f.received, stable)
	}
	var refused *packet.Error
	for i := range f.receipts {
		r := &f.receipts[i]
		if r.msg == noMessage {
			continue
		}
		res := &results[r.msg]
		if res.Err != nil {
			refused = refusedBy(res.Err)
			r.refused = refused
		} else if res.Pos.Part == (session.Part{}) {
			c.b.stats.unreceipted.Add(1)
		}
		if r.kind == packet.PUBREC {
			c.settle(r, res.Err)
		}
	}
	switch {
	case lost != nil && f.owes(results):
		c.b.samples.warn("an append has no certain outcome", "error", lost)
		c.end(packet.ServerBusy, "the outcome of a publish is not known")
	case refused != nil && c.version < packet.V5:
		c.end(refused.Code, refused.Text)
	}
}

// owes tells whether a receipt hangs on a message whose outcome is not known.
func (f *flight) owes(results []session.Result) bool {
	for i := range f.receipts {
		if m := f.receipts[i].msg; m != noMessage && results[m].Err != nil && refusedBy(results[m].Err) == nil {
			return true
		}
	}
	return false
}

// lateID is a QoS 2 publish whose append outlived the connection that it came on.
type lateID struct {
	inbound *session.Inbound
	id      uint16
}

// settle tells the session what became of a QoS 2 message. One of unknown outcome is free to come again, under the same triple.
func (c *conn) settle(r *receipt, err error) {
	if err == nil {
		c.inbound.Stable(r.id, r.triple)
	} else {
		c.inbound.Refused(r.id, r.triple)
	}
	c.mu.Lock()
	over := c.closing
	c.mu.Unlock()
	if over {
		c.owner.landedLate(lateID{c.inbound, r.id})
	}
}

// pending is a PUBLISH QoS 2 whose first copy is still being appended. If that came on this connection its PUBREC comes by
// itself; otherwise the owner sends it when the older connection's append lands.
func (c *conn) pending(s *burst, id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.flight.expects(id) {
		return
	}
	for f := c.first; f != nil; f = f.next {
		if f.expects(id) {
			return
		}
	}
	c.owner.awaitLate(c, lateID{c.inbound, id})
}

// expects tells whether a PUBREC of an id is among the receipts.
func (f *flight) expects(id uint16) bool {
	return f != nil && slices.ContainsFunc(f.receipts, func(r receipt) bool { return r.kind == packet.PUBREC && r.id == id })
}

// refusedBy is the refusal in a result; nil: the error says nothing certain.
func refusedBy(err error) *packet.Error {
	var e *packet.Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// land marks f landed, and sends the receipts of every flight that has landed with all before it.
func (f *flight) land() {
	if c := f.c; c.landed(f) {
		c.b.flushers.push(c)
	}
}

func (c *conn) landed(f *flight) (flush bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.landed = true
	if f.size > 0 {
		c.inflight -= f.size
		c.wakeReader()
	}
	for c.first != nil && c.first.landed {
		g := c.first
		c.first = g.next
		if c.first == nil {
			c.last = nil
		}
		c.release(g)
	}
	if c.first == nil {
		c.wakeReader()
	}
	return c.schedule()
}

// release sends what a landed flight holds back. Under c.mu.
func (c *conn) release(f *flight) {
	if f.held != nil {
		c.owner.packet(c, f.held)
		return
	}
	defer f.free()
	if c.closing {
		return
	}
	pubacks, stored := uint32(0), int64(0)
	for i := 0; i < len(f.receipts); {
		n := c.answerAcks(f.receipts[i:])
		stored += int64(n)
		if i += n; i < len(f.receipts) && f.receipts[i].refused != nil {
			c.answer(c.refusedAck(&f.receipts[i]))
			i++
		}
	}
	for i := range f.receipts {
		if f.receipts[i].kind == packet.PUBACK {
			pubacks++
		}
	}
	c.acked.Add(pubacks)
	c.b.stats.acked.Add(stored)
}

func (c *conn) refusedAck(r *receipt) *packet.Ack {
	a := &packet.Ack{Kind: r.kind, PacketID: r.id, Code: r.refused.Code}
	if r.refused.Text != "" {
		a.Props.Has, a.Props.ReasonString = packet.PReasonString, r.refused.Text
	}
	return a
}
