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

// Broker is an MQTT server. Its goroutines: the owner's loop, a few flushers and log readers, the roster's ticker, the lot's, and one
// reader per connection that is not idle. Close ends them all.
type Broker struct {
	o        Options
	store    Store
	stats    counters
	latency  Latency
	began    time.Time // what clock counts from
	samples  sampler
	roster   roster
	lot      lot
	half     halfOpen
	inbound  budget
	bans     banList
	flapping flapping
	away     atomic.Pointer[farewell] // nil: clients are let in

	parkAtOnce bool // a reader with nothing to read ends at once

	flushers flushers
	owner    atomic.Pointer[owner]
	policy   atomic.Uint64 // counts PolicyChanged

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	stop   chan struct{} // closed when Drain begins
	hurry  chan struct{} // closed when Drain has no more time
	quit   chan struct{} // closed when the owner's loop is to end
	conns  sync.WaitGroup
	work   sync.WaitGroup // everything that is not a connection
	owners chan struct{}  // closed when the owner's loop has ended; nil before Start
	left   leftCounts

	history history
	traces  tracers

	sys           atomic.Pointer[[]session.Message] // the values of now; nil: none are published
	mostConnected int64                             // at the times that sysRun has looked
	walking       chan struct{}                     // see walk

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
		o: o, store: o.Store, began: o.Now(), samples: sampler{log: o.Logger, now: o.Now},
		stop: make(chan struct{}), hurry: make(chan struct{}), quit: make(chan struct{}),
	}
	b.walking = make(chan struct{}, 1)
	b.flapping = newFlapping(o.Flapping)
	b.inbound.limit = o.Limits.InboundTotal
	b.bans.max = o.Limits.Bans
	b.restoreBans(o.Bans)
	b.bans.tell = o.OnBan
	b.roster.wall = o.Now
	b.roster.idle = max(1, ticks(o.Limits.ParkAfter))
	b.parkAtOnce = o.Limits.ParkAfter >= 0 && o.Limits.ParkAfter < tick
	b.flushers.wake.L = &b.flushers.mu
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.history.max = historyBytes
	b.owner.Store(newOwner(b))
	return b
}

// Start claims the session state, restores it and follows the log. When it returns, Serve may be called; sessions resume once
// the replay of the log is done (Ready).
func (b *Broker) Start(ctx context.Context) error {
	o := b.owner.Load()
	if err := guard(func() error { return o.start(ctx) }); err != nil {
		o.close()
		b.cancel()
		b.work.Wait()
		return fmt.Errorf("start broker: %w", err)
	}
	b.flushers.start(runtime.GOMAXPROCS(0), &b.work)
	b.work.Go(func() {
		b.roster.run(b.quit, func(c *conn) {
			if !b.survive("overdue", c.overdue) {
				c.cut("panic")
			}
		})
	})
	b.owners = make(chan struct{})
	go b.own(o)
	if b.o.SysInterval > 0 {
		b.work.Go(b.sysRun)
	}
	return nil
}

const (
	firstPause = 100 * time.Millisecond // before an owner that follows one that has just failed
	lastPause  = 10 * time.Second
	settled    = time.Minute // an owner that has lived as long was a good one
)

// own runs owner after owner: one that has lost its claim, does not know what the log holds, or has panicked, gives way to one that
// reads the log again. Each one has a mailbox of its own, so what was meant for the one before is forgotten with it.
func (b *Broker) own(o *owner) {
	defer close(b.owners)
	for pause := time.Duration(0); ; {
		began := time.Now()
		err := guard(func() error { return o.run(b.quit) })
		if time.Since(began) > settled {
			pause = 0
		}
		for err != nil {
			b.notePanic("owner", err)
			b.o.Logger.Error("the session state is claimed and read again", "error", err, "after", pause)
			next := newOwner(b)
			b.owner.Store(next)
			o.close()
			b.abandon(o)
			o = next
			select {
			case <-time.After(pause):
			case <-b.quit:
				o.close()
				return
			}
			pause = min(max(2*pause, firstPause), lastPause)
			err = guard(func() error { return o.start(b.ctx) })
		}
		if b.quitting() {
			o.close()
			return
		}
	}
}

// abandon ends the connections of an owner that is no more.
func (b *Broker) abandon(o *owner) {
	for _, c := range b.roster.all() {
		if c.ownedBy(o) && !b.survive("end", func() { c.end(packet.ServerBusy, "the session state is read again") }) {
			c.cut("panic")
		}
	}
}

// Ready tells whether sessions may be resumed: clients that connect before wait.
func (b *Broker) Ready() bool { return b.owner.Load().ready.Load() }

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	s := b.stats.snapshot()
	s.InboundWait = b.inbound.used.Load()
	if p := b.owner.Load().stats.Load(); p != nil {
		s.Session = *p
	}
	return s
}

// Unlogged is where the store gives messages of `store: false` routes: to the connected subscribers, at effective QoS 0. m is
// copied. It never blocks: what does not fit is dropped and counted.
func (b *Broker) Unlogged(m *session.Message) {
	size := int64(len(m.Topic) + len(m.Payload) + 256)
	o := b.owner.Load()
	if o.unlogged.Add(size) > b.o.Limits.UnloggedBytes {
		o.unlogged.Add(-size)
		b.stats.dropped.add("unlogged_backlog", 1)
		return
	}
	own := clone(m)
	o.post(func(now int64) {
		o.unlogged.Add(-size)
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
		c.mu.Lock()
		c.rouse()
		c.mu.Unlock()
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
	b.cancel() // nobody waits for authentication or for the log any more
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
		b.cancel() // an owner that starts may wait for the log
		<-b.owners
		b.flushers.close()
		if b.lot.watch != nil {
			b.lot.watch.Close()
		}
	}
	b.cancel()
	b.work.Wait()
	return err
}

var errOwnerFailed = errors.New("checkpoint: the session state has to be read again")

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
		case <-o.done:
			return errOwnerFailed
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

func (b *Broker) stopping() bool { return isClosed(b.stop) }

func (b *Broker) quitting() bool { return isClosed(b.quit) }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
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
