package broker

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// owner is the one loop that drives the core: what comes from connections and what its own reads and writes lead to arrives in
// its mailbox, stable records through the tail. It is the core's Host. Its methods are of the loop's goroutine unless they say
// otherwise.
type owner struct {
	b       *Broker
	core    *session.Core
	mail    mailbox
	tail    Tail
	writers map[session.Target]StateWriter
	reads   *readers
	encoder encoder
	dirty   []*conn // have something to flush, once the step is over
	policy  uint64  // Broker.policy as the core knows it
	leaving map[session.Key]*conn
	late    map[lateID]*conn
	sysOwed map[sysAsked][]sysFilter
	born    time.Time
	events  []TailEvent
	retry   time.Time // of the tail, after an error

	wall  int64         // milliseconds since 1970, as of this step
	clock time.Duration // the broker's, as of this step

	nextTick, nextStats int64
	nextBooks           int64
	ready               atomic.Bool // sessions may be resumed
	stats               atomic.Pointer[session.Stats]
	failed              error         // the core can do no more
	unlogged            atomic.Int64  // bytes of Unlogged in the mailbox
	done                chan struct{} // closed when it is over
}

// mail is one thing for the loop: a call, or a connection that has acks.
type mail struct {
	call func(now int64)
	acks *conn
}

// mailbox is unbounded; its writers bound themselves (see conn.awaitRoom).
type mailbox struct {
	mu   sync.Mutex
	in   []mail
	out  []mail // the loop's
	wake chan struct{}
}

func (m *mailbox) put(x mail) {
	m.mu.Lock()
	m.in = append(m.in, x)
	first := len(m.in) == 1
	m.mu.Unlock()
	if first {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func (m *mailbox) take() []mail {
	clear(m.out)
	m.mu.Lock()
	m.in, m.out = m.out[:0], m.in
	m.mu.Unlock()
	return m.out
}

func newOwner(b *Broker) *owner {
	return &owner{
		b: b, born: b.o.Now(), mail: mailbox{wake: make(chan struct{}, 1)}, writers: map[session.Target]StateWriter{},
		leaving: map[session.Key]*conn{}, late: map[lateID]*conn{}, sysOwed: map[sysAsked][]sysFilter{}, done: make(chan struct{}),
	}
}

// post hands a call to the loop. Any goroutine; never blocks.
func (o *owner) post(call func(now int64)) { o.mail.put(mail{call: call}) }

// postAcks tells the loop that c has acks. Any goroutine.
func (o *owner) postAcks(c *conn) { o.mail.put(mail{acks: c}) }

// start claims, restores and finds the place to tail from. The loop does not run yet.
func (o *owner) start(ctx context.Context) error {
	o.reads = newReaders(o)
	targets := o.b.store.Targets()
	options := o.b.o.Session
	options.Expired = o.expired
	o.core = session.New(options, o, targets)
	o.core.Counted(o.b.left.counted())
	for _, t := range targets {
		w, restore, err := o.b.store.Claim(ctx, t)
		if err != nil {
			return fmt.Errorf("claim %+v: %w", t, err)
		}
		o.writers[t] = w
		if err := o.core.Restore(t, o.b.store.TargetPart(t), w.Epoch(), restore); err != nil {
			return fmt.Errorf("restore %+v: %w", t, err)
		}
	}
	starts, ends, err := o.b.store.Data(ctx)
	if err != nil {
		return fmt.Errorf("ends of the data: %w", err)
	}
	if o.tail, err = o.b.store.Tail(o.core.Restored(o.now(), ends, starts)); err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	return nil
}

// close ends what start began, once.
func (o *owner) close() {
	o.lastCount()
	close(o.done)
	if o.tail != nil {
		o.tail.Close()
	}
	if o.reads != nil {
		o.reads.cancel()
	}
}

// now reads the clock, for a step.
func (o *owner) now() int64 {
	now := o.b.o.Now()
	o.wall, o.clock = now.UnixMilli(), o.b.reading(now)
	return o.wall
}

// tailBytes is the most that the loop takes from the tail before it looks into its mailbox again.
const tailBytes = 1 << 20

// run is the loop; it ends when stop is closed, or with the core's failure.
func (o *owner) run(stop <-chan struct{}) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := o.now()
		again := o.step(now)
		if !again || now >= o.nextTick {
			o.tick(now)
		}
		if o.failed != nil {
			return o.failed
		}
		if again {
			select {
			case <-stop:
				return nil
			default:
				continue
			}
		}
		timer.Reset(o.idle())
		select {
		case <-stop:
			return nil
		case <-o.tail.Wake():
		case <-o.mail.wake:
		case <-timer.C:
		}
	}
}

// step handles what is there: stable records first, so that who subscribes after a publish was acked finds it matched.
func (o *owner) step(now int64) (again bool) {
	again = o.pollTail(now)
	mail := o.mail.take()
	o.heedPolicy(now)
	for _, m := range mail {
		again = true
		o.encoder.forget()
		if m.acks != nil {
			o.handleAcks(now, m.acks)
		} else {
			m.call(now)
		}
	}
	o.flush()
	if !o.ready.Load() && o.core.Ready() {
		o.ready.Store(true)
	}
	return again
}

// tick runs the core's timers.
func (o *owner) tick(now int64) {
	o.encoder.forget()
	o.nextTick = min(o.core.Tick(now), now+maxTick)
	o.flush()
	if now >= o.nextStats {
		began := time.Now()
		s := o.core.Stats()
		o.stats.Store(&s)
		o.nextStats = now + max(maxTick, 100*time.Since(began).Milliseconds()) // it visits every session
	}
}

const maxTick = 1000 // milliseconds

// idle is how long the loop may sleep.
func (o *owner) idle() time.Duration {
	wait := time.Duration(o.nextTick-o.now()) * time.Millisecond
	if !o.retry.IsZero() {
		wait = min(wait, time.Until(o.retry))
	}
	return max(wait, time.Millisecond)
}

// pollTail feeds the core what the tail has; true: there may be more.
func (o *owner) pollTail(now int64) bool {
	if !o.retry.IsZero() && time.Now().Before(o.retry) {
		return false
	}
	o.retry = time.Time{}
	events, err := o.tail.Poll(o.events[:0], tailBytes)
	if err != nil {
		o.b.samples.warn("the tail of the log failed", "error", err)
		o.retry = time.Now().Add(100 * time.Millisecond)
	}
	o.heedPolicy(now)
	for i := range events {
		o.encoder.forget()
		switch e := &events[i]; {
		case e.Batch != nil:
			o.core.Tail(now, e.Batch)
		case e.Deleted:
			o.core.Deleted(now, e.Part.Topic)
		case e.Gap:
			o.core.Gap(now, e.Part, e.Next)
		}
	}
	clear(events)
	o.events = events
	return len(events) > 0
}

// handleAcks feeds the core what c has gathered.
func (o *owner) handleAcks(now int64, c *conn) {
	c.mu.Lock()
	acks := c.acks
	c.acks, c.ackPosted = nil, false
	c.wakeReader()
	c.mu.Unlock()
	var p packet.Ack
	for _, a := range acks {
		p.Kind, p.PacketID, p.Code = a.kind, a.id, a.code
		o.core.Packet(now, c, &p)
	}
}

// packet hands a SUBSCRIBE or UNSUBSCRIBE to the loop. Any goroutine.
func (o *owner) packet(c *conn, p packet.Packet) {
	cost := work(p)
	o.post(func(now int64) {
		c.mu.Lock()
		c.packets -= cost
		c.wakeReader()
		c.mu.Unlock()
		if s, ok := p.(*packet.Subscribe); ok {
			o.permit(c, s)
			o.sysWanted(c, s)
		}
		o.core.Packet(now, c, p)
	})
}

// permit marks the filters of s that the client may not have: the core refuses them in the SUBACK, and does nothing else with them.
func (o *owner) permit(c *conn, s *packet.Subscribe) {
	for i := range s.Filters {
		if f := &s.Filters[i]; !o.maySubscribe(c.key, f.Filter) {
			f.Refused = packet.NotAuthorized
		}
	}
}

// flushLater marks c for the flush at the end of the step. Under c.mu.
func (o *owner) flushLater(c *conn) {
	if c.schedule() {
		if o.dirty = append(o.dirty, c); len(o.dirty) >= maxDirty {
			o.flush()
		}
	}
}

// maxDirty is how many connections wait for the end of the step; in a wider fan-out the first ones are written meanwhile.
const maxDirty = 256

func (o *owner) flush() {
	if len(o.dirty) > 0 {
		o.b.flushers.push(o.dirty...)
		clear(o.dirty)
		o.dirty = o.dirty[:0]
	}
}

// leaves notes that c is being ended while its reader may still be at work.
func (o *owner) leaves(c *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || c.stopping != nil {
		return
	}
	c.stopping = make(chan struct{})
	o.leaving[c.key] = c
}

// predecessor is closed when the connection that had c's session before appends nothing any more; nil: there is none.
func (o *owner) predecessor(c *conn) chan struct{} {
	old := o.leaving[c.key]
	if old == nil {
		return nil
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	return old.stopping
}

// awaitLate has the PUBREC of a late append sent to c. Any goroutine.
func (o *owner) awaitLate(c *conn, id lateID) {
	o.post(func(int64) {
		switch t, state := id.inbound.Begin(id.id); state {
		case session.Pending:
			o.late[id] = c
		case session.Open:
			c.Send(&packet.Ack{Kind: packet.PUBREC, PacketID: id.id})
		case session.Fresh: // the append was refused meanwhile: the client has to send again
			id.inbound.Refused(id.id, t)
			c.end(packet.ServerBusy, "a publish of the connection before was refused")
		}
	})
}

// landedLate says that the append of a connection that is over has its outcome. Any goroutine.
func (o *owner) landedLate(id lateID) {
	o.post(func(int64) {
		if c := o.late[id]; c != nil {
			delete(o.late, id)
			o.awaitLate(c, id)
		}
	})
}

// disconnected is the last that the core hears of c.
func (o *owner) disconnected(now int64, c *conn) {
	if o.leaving[c.key] == c {
		delete(o.leaving, c.key)
	}
	for id, w := range o.late {
		if w == c {
			delete(o.late, id)
		}
	}
	maps.DeleteFunc(o.sysOwed, func(asked sysAsked, _ []sysFilter) bool { return asked.c == c })
	o.core.Disconnected(now, c, c.cause, c.expiry)
}

// cannotSend drops a delivery that the client cannot take, and acks it in the client's place so that its id is free again
// [MQTT-3.1.2-25].
func (o *owner) cannotSend(c *conn, d *session.Delivery) {
	o.Count(session.DropTooLarge, 1)
	if d.QoS == 0 {
		return
	}
	a := &packet.Ack{Kind: packet.PUBACK, PacketID: d.PacketID}
	if d.QoS == 2 {
		a.Kind, a.Code = packet.PUBREC, packet.PacketTooLarge
	}
	o.post(func(now int64) { o.core.Packet(now, c, a) })
}

// Write is the core's.
func (o *owner) Write(token uint64, to session.Target, recs []session.StateRecord) {
	o.writers[to].Append(recs, func(results []session.Result) {
		results = append([]session.Result(nil), results...)
		o.post(func(now int64) { o.core.Written(now, token, results) })
	})
}

// Read is the core's.
func (o *owner) Read(token uint64, pos session.Position, maxBytes int) {
	o.reads.push(readRequest{token: token, pos: pos, maxBytes: maxBytes})
}

// History is the core's.
func (o *owner) History(token uint64, asks []session.HistoryAsk) {
	o.reads.push(readRequest{token: token, asks: asks})
}

// Publish is the core's: a will fires.
func (o *owner) Publish(token uint64, m *session.Message) {
	own := *m
	own.Received = o.clock
	o.b.store.Append([]session.Message{own}, func(results []session.Result) {
		r := results[0]
		if r.Err == nil {
			o.b.stats.wills.Add(1)
		}
		o.post(func(now int64) { o.core.Published(now, token, r) })
	})
}

// Allowed is the core's.
func (o *owner) Allowed(k session.Key, publish bool, topic string) bool {
	action := Receive
	if publish {
		action = Publish
	}
	return o.b.o.allowed(k, action, topic)
}

// Count is the core's. Any goroutine.
func (o *owner) Count(reason string, n int) { o.b.stats.dropped.add(reason, n) }

// expired is the core's: the clock has ended a session.
func (o *owner) expired(k session.Key) {
	o.b.stats.expired.Add(1)
	o.b.tell(k, EventExpired, "")
}

// Failed is the core's: its memory may not agree with the log any more. The loop ends, and a new owner begins from a new claim.
func (o *owner) Failed(err error) {
	if o.failed == nil {
		o.failed = err
	}
}
