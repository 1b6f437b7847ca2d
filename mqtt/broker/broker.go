package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// ErrClosed is what Serve returns on a broker that is stopping or closed.
var ErrClosed = errors.New("broker closed")

// Broker is an MQTT server. Its goroutines: the owner's loop, a few flushers and log readers, the roster's ticker, and one
// reader per connection. Close ends them all.
type Broker struct {
	o        Options
	store    Store
	stats    counters
	samples  sampler
	roster   roster
	half     halfOpen
	flushers flushers
	owner    atomic.Pointer[owner]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	stop   chan struct{} // closed when Drain begins
	hurry  chan struct{} // closed when Drain has no more time
	quit   chan struct{} // closed when the owner's loop is to end
	conns  sync.WaitGroup
	work   sync.WaitGroup // everything that is not a connection
	owners chan struct{}  // closed when the owner's loop has ended; nil before Start

	mu        sync.Mutex
	stopped   bool
	hurried   bool
	closed    bool
	listeners []*listener
}

// New returns a broker that has not started.
func New(o Options) *Broker {
	o = o.withDefaults()
	b := &Broker{
		o: o, store: o.Store, samples: sampler{log: o.Logger, now: o.Now},
		stop: make(chan struct{}), hurry: make(chan struct{}), quit: make(chan struct{}),
	}
	b.flushers.wake.L = &b.flushers.mu
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.owner.Store(newOwner(b))
	return b
}

// Start claims the session state, restores it and follows the log. When it returns, Serve may be called; sessions resume once
// the replay of the log is done (Ready).
func (b *Broker) Start(ctx context.Context) error {
	o := b.owner.Load()
	if err := o.start(ctx); err != nil {
		o.close()
		b.cancel()
		b.work.Wait()
		return fmt.Errorf("start broker: %w", err)
	}
	b.flushers.start(runtime.GOMAXPROCS(0), &b.work)
	b.work.Go(func() { b.roster.run(b.quit, (*conn).overdue) })
	b.owners = make(chan struct{})
	go b.own(o)
	return nil
}

// own runs owner after owner: one that has lost its claim, or does not know what the log holds, gives way to one that reads it
// again.
func (b *Broker) own(o *owner) {
	defer close(b.owners)
	for {
		err := o.run(b.quit)
		if err == nil {
			o.close()
			return
		}
		b.o.Logger.Error("the session state is claimed and read again", "error", err)
		next := newOwner(b)
		b.owner.Store(next)
		o.close()
		b.abandon(o)
		for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
			if err = next.start(b.ctx); err == nil {
				break
			}
			b.o.Logger.Error("cannot take over the session state", "error", err)
			select {
			case <-time.After(delay):
			case <-b.quit:
				return
			}
			next.reset()
		}
		o = next
	}
}

// abandon ends the connections of an owner that is no more.
func (b *Broker) abandon(o *owner) {
	for _, c := range b.roster.all() {
		if c.ownedBy(o) {
			c.end(packet.ServerBusy, "the session state is read again")
		}
	}
}

// Ready tells whether sessions may be resumed: clients that connect before wait.
func (b *Broker) Ready() bool { return b.owner.Load().ready.Load() }

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	s := b.stats.snapshot()
	if p := b.owner.Load().stats.Load(); p != nil {
		s.Session = *p
	}
	return s
}

// Unlogged is where the store gives messages of `store: false` routes: to the connected subscribers, at effective QoS 0. m is
// copied. It never blocks: what does not fit is dropped and counted.
func (b *Broker) Unlogged(m *session.Message) {
	size := int64(len(m.Topic) + len(m.Payload) + 256)
	if b.stats.unlogged.Add(size) > b.o.Limits.UnloggedBytes {
		b.stats.unlogged.Add(-size)
		b.stats.dropped.add("unlogged_backlog", 1)
		return
	}
	o, own := b.owner.Load(), clone(m)
	o.post(func(now int64) {
		b.stats.unlogged.Add(-size)
		o.core.Unlogged(now, own)
	})
}

// clone copies a message with all that it refers to.
func clone(m *session.Message) *session.Message {
	c := *m
	c.Topic, c.Payload = strings.Clone(m.Topic), bytes.Clone(m.Payload)
	if m.Props != nil {
		p := *m.Props
		p.Correlation, p.User = bytes.Clone(p.Correlation), slices.Clone(p.User)
		c.Props = &p
	}
	return &c
}

// PolicyChanged says that the Authorizer may now decide otherwise.
func (b *Broker) PolicyChanged() {
	o := b.owner.Load()
	o.post(func(now int64) { o.core.PolicyChanged(now) })
}

// Drain sends every client away: it stops accepting, stops reading, waits until what was read is acked, and disconnects with
// 0x8B. Wills do not fire, sessions stay. When ctx ends first, the rest is cut off.
func (b *Broker) Drain(ctx context.Context) error {
	b.mu.Lock()
	if !b.stopped {
		b.stopped = true
		close(b.stop)
	}
	listeners := slices.Clone(b.listeners)
	b.mu.Unlock()
	for _, l := range listeners {
		l.l.Close()
	}
	for _, c := range b.roster.all() {
		c.nc.SetReadDeadline(longAgo)
	}
	gone := make(chan struct{})
	go func() { b.conns.Wait(); close(gone) }()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	if !b.hurried {
		b.hurried = true
		close(b.hurry)
	}
	b.mu.Unlock()
	for _, c := range b.roster.all() {
		c.cut("server_shutting_down")
	}
	<-gone
	return fmt.Errorf("drain: %w", ctx.Err())
}

// Close drains, writes a checkpoint, and ends the broker, in this order: listeners, readers, outstanding acks, connections,
// the core's writes, the owner's loop with its tail and log readers, flushers. The store stays open; it is the caller's.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return ErrClosed
	}
	err := b.Drain(ctx)
	if b.owners != nil {
		err = errors.Join(err, b.checkpoint(ctx))
		close(b.quit)
		<-b.owners
		b.flushers.close()
	}
	b.cancel()
	b.work.Wait()
	return err
}

// checkpoint has the core write all that it has, and waits for it.
func (b *Broker) checkpoint(ctx context.Context) error {
	o := b.owner.Load()
	o.post(func(now int64) { o.core.Checkpoint(now) })
	for {
		busy := make(chan bool, 1)
		o.post(func(int64) { busy <- o.core.Busy() })
		select {
		case x := <-busy:
			if !x {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("checkpoint: %w", ctx.Err())
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("checkpoint: %w", ctx.Err())
		}
	}
}

func (b *Broker) stopping() bool {
	select {
	case <-b.stop:
		return true
	default:
		return false
	}
}

func (b *Broker) addListener(l *listener) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return false
	}
	b.listeners = append(b.listeners, l)
	return true
}

func (b *Broker) removeListener(l *listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners = slices.DeleteFunc(b.listeners, func(x *listener) bool { return x == l })
}

// refused counts a publish that was refused.
func (b *Broker) refused(c *conn, reason string) {
	b.stats.refused.add(reason, 1)
	b.samples.warn("publish refused", "reason", reason, "client", c.key.ClientID)
}
