package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// pipeListener hands out net.Pipe connections, so that a whole broker fits into a synctest bubble.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs a test with a broker on pipes under a fake clock.
func inBubble(t *testing.T, change func(*broker.Options), test func(t *testing.T, b *broker.Broker, dial func() *client)) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		o := broker.Options{Store: store}
		if change != nil {
			change(&o)
		}
		b := broker.New(o)
		store.unlogged = b.Unlogged
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- b.Serve(l, broker.ListenerOptions{}) }()
		var open []net.Conn
		defer func() {
			for _, c := range open {
				c.Close()
			}
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
			<-served
			store.close()
		}()
		test(t, b, func() *client {
			here, there := net.Pipe()
			l.conns <- there
			open = append(open, here)
			return &client{t: t, nc: here}
		})
	})
}

// closesWithin returns how long the broker takes to close a silent connection; bytes it sends meanwhile are skipped.
func closesWithin(t *testing.T, nc net.Conn, limit time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	nc.SetReadDeadline(start.Add(limit))
	for b := make([]byte, 100); ; {
		if _, err := nc.Read(b); errors.Is(err, io.EOF) {
			return time.Since(start)
		} else if err != nil {
			t.Fatalf("still open after %v: %v", limit, err)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *broker.Broker, dial func() *client) {
		for _, v := range []string{"v4", "v5"} {
			c := dial()
			c.send("CONNECT " + v + " clean id=a keepalive=10")
			c.next()
			for range 20 { // a client that pings stays
				time.Sleep(14 * time.Second)
				c.quiet()
			}
			if d := closesWithin(t, c.nc, time.Minute); d < 15*time.Second || d > 16*time.Second {
				t.Errorf("%s: a silent client was closed after %v, want 15 s", v, d)
			}
		}
		c := dial()
		c.send("CONNECT v5 clean id=b keepalive=10")
		c.next()
		time.Sleep(15*time.Second + 500*time.Millisecond)
		c.expect("DISCONNECT 0x8D")
		c.nc.Close()
		eventually(t, "three keep-alive timeouts counted", func() bool { return b.Stats().Ended["keep_alive_timeout"] == 3 })
		d := dial()
		d.send("CONNECT v4 clean id=d")
		d.next()
		time.Sleep(100 * time.Hour) // no keep-alive: never
		d.quiet()
	})
}

func TestServerKeepAlive(t *testing.T) {
	inBubble(t, func(o *broker.Options) { o.Limits.KeepAlive = 60 }, func(t *testing.T, b *broker.Broker, dial func() *client) {
		for _, asked := range []string{"keepalive=0", "keepalive=1000"} {
			c := dial()
			c.send("CONNECT v5 clean id=a " + asked)
			c.expect("CONNACK keepalive=60")
			if d := closesWithin(t, c.nc, time.Hour); d < 90*time.Second || d > 91*time.Second {
				t.Errorf("%s: closed after %v, want 90 s", asked, d)
			}
		}
		c := dial()
		c.send("CONNECT v4 clean id=a")
		c.expect("CONNACK")
		if d := closesWithin(t, c.nc, time.Hour); d < 90*time.Second || d > 91*time.Second {
			t.Errorf("3.1.1: closed after %v, want 90 s", d)
		}
	})
}

func TestConnectTimeout(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *broker.Broker, dial func() *client) {
		silent := dial()
		if d := closesWithin(t, silent.nc, time.Minute); d < 5*time.Second || d > 6*time.Second {
			t.Errorf("a silent connection was closed after %v, want 5 s", d)
		}
		slow := dial() // a byte a second is not enough either
		written := make(chan struct{})
		go func() {
			defer close(written)
			for _, x := range []byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a") {
				if _, err := slow.nc.Write([]byte{x}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		if d := closesWithin(t, slow.nc, time.Minute); d > 6*time.Second {
			t.Errorf("a slow CONNECT was cut off after %v, want 5 s", d)
		}
		<-written
		if got := b.Stats(); got.Turned["connect_timeout"] != 2 || got.HalfOpen != 0 {
			t.Errorf("turned away: %v, half-open: %d", got.Turned, got.HalfOpen)
		}
	})
}

// TestSlowAuthentication: the time to send a CONNECT is not the time to check it, and a drain that is out of time ends the check.
func TestSlowAuthentication(t *testing.T) {
	slow := func(o *broker.Options) {
		o.Authenticate = func(ctx context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			select {
			case <-time.After(8 * time.Second): // longer than the connect timeout
				return broker.Anonymous, packet.Success
			case <-ctx.Done():
				return broker.Anonymous, packet.ServerBusy
			}
		}
	}
	inBubble(t, slow, func(t *testing.T, b *broker.Broker, dial func() *client) {
		c := dial()
		c.send("CONNECT v5 clean id=a keepalive=10")
		c.expect("CONNACK")
		d := dial()
		d.send("CONNECT v5 clean id=d")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if b.Drain(ctx); time.Since(began) > 3*time.Second {
			t.Errorf("drained after %v", time.Since(began))
		}
	})
}

func TestConnectTooLarge(t *testing.T) {
	n := newNode(t, nil)
	c := n.dial()
	c.write([]byte{0x10, 0xFF, 0xFF, 0xFF, 0x7F}) // 256 MiB announced
	c.expectClosed()
	c = n.dial()
	c.dec.Version = packet.V5
	c.write([]byte{0x10, 0x81, 0x80, 0x01}) // 16,385 bytes
	c.expectClosed()
	eventually(t, "the counter", func() bool { return n.b.Stats().Turned["packet_too_large"] == 2 })
}

func TestHalfOpenLimit(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.HalfOpenPerIP = 3 })
	var open []*client
	for range 3 {
		open = append(open, n.dial())
	}
	eventually(t, "three half-open", func() bool { return n.b.Stats().HalfOpen == 3 })
	n.dial().expectClosed()
	open[0].send("CONNECT v5 clean id=a")
	open[0].expect("CONNACK")
	n.connected("CONNECT v5 clean id=b")
	open[1].nc.Close()
	eventually(t, "one half-open", func() bool { return n.b.Stats().HalfOpen == 1 })
}

// TestHalfConnectsAreCheap holds many connections with a CONNECT announced large and hardly begun: memory follows what came.
func TestHalfConnectsAreCheap(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.HalfOpenPerIP = 1 << 20 })
	const conns = 1000
	before := heap()
	for range conns {
		n.dial().write([]byte{0x10, 0xFF, 0x7F, 0x00, 0x04, 'M', 'Q'})
	}
	eventually(t, "the bytes", func() bool { return n.b.Stats().ReceivedIn == 7*conns })
	if per := (heap() - before) / conns; per > 8<<10 {
		t.Errorf("%d bytes per half CONNECT", per)
	}
}

// heap is the memory in use by objects and stacks, after a collection.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

func TestConnectionLimit(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.Connections = 1 })
	n.connected("CONNECT v5 clean id=a")
	n.dial().expectClosed()
}

// TestSlowSubscriber: a subscriber that takes nothing costs the others nothing; at QoS 0 it loses, and is counted.
func TestSlowSubscriber(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.OutboundBytes = 32 << 10 })
	slow := n.connected("CONNECT v5 clean id=slow")
	slow.send("SUBSCRIBE #1 x:0")
	slow.expect("SUBACK #1 0x00")
	fast := n.connected("CONNECT v5 clean id=fast")
	fast.send("SUBSCRIBE #1 x:1")
	fast.expect("SUBACK #1 0x01")
	p := n.connected("CONNECT v5 clean id=p")
	payload := strings.Repeat("x", 16<<10)
	rounds := 1000 // 16 MB: more than the sockets hold
	for i := range rounds {
		p.send(`PUBLISH q1 #1 t=x "` + payload + `"`)
		p.expect("PUBACK #1")
		got := fast.next().(*packet.Publish)
		if len(got.Payload) != len(payload) {
			t.Fatalf("message %d: %d bytes", i, len(got.Payload))
		}
		fast.send(fmt.Sprintf("PUBACK #%d", got.PacketID))
	}
	s := n.b.Stats()
	if s.Dropped["qos0_slow_subscriber"] == 0 || s.OutboundWait > 128<<10 {
		t.Errorf("dropped: %v; waiting: %d bytes", s.Dropped, s.OutboundWait)
	}
	slow.nc.Close()
	eventually(t, "nothing to wait", func() bool { return n.b.Stats().OutboundWait == 0 })
}

// TestOutboundTotal: when slow subscribers have used up what may wait in all, the others still get everything.
func TestOutboundTotal(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.OutboundTotal = 128 << 10 })
	slow := n.connected("CONNECT v5 clean id=slow")
	slow.send("SUBSCRIBE #1 big:0")
	slow.expect("SUBACK #1 0x00")
	p := n.connected("CONNECT v5 clean id=p")
	payload := strings.Repeat("x", 64<<10)
	eventually(t, "drops", func() bool {
		p.send(`PUBLISH q1 #1 t=big "` + payload + `"`)
		p.expect("PUBACK #1")
		return n.b.Stats().Dropped["qos0_slow_subscriber"] > 0
	})
	if wait := n.b.Stats().OutboundWait; wait > 256<<10 {
		t.Errorf("%d bytes wait", wait)
	}
	fast := n.connected("CONNECT v5 clean id=fast")
	fast.send("SUBSCRIBE #1 small:0")
	fast.expect("SUBACK #1 0x00")
	var lines, want []string
	for i := range 100 {
		lines = append(lines, fmt.Sprintf(`PUBLISH q0 t=small "%d"`, i))
		want = append(want, lines[i])
	}
	p.send(lines...)
	fast.expect(want...)
}

// TestLaggingSubscriber: at QoS 1 a subscriber that stops for a while gets everything, in order, from the log.
func TestLaggingSubscriber(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.OutboundBytes = 32 << 10 })
	s := n.connected("CONNECT v5 clean id=s")
	s.send("SUBSCRIBE #1 x:1")
	s.expect("SUBACK #1 0x01")
	p := n.connected("CONNECT v5 clean id=p")
	payload := strings.Repeat("x", 32<<10)
	rounds := 500
	for i := range rounds {
		p.send(fmt.Sprintf(`PUBLISH q1 #1 t=x "%06d%s"`, i, payload))
		p.expect("PUBACK #1")
	}
	if wait := n.b.Stats().OutboundWait; wait > 128<<10 {
		t.Errorf("%d bytes wait for the subscriber", wait)
	}
	for i := range rounds {
		got := s.next().(*packet.Publish)
		if want := fmt.Sprintf("%06d", i); string(got.Payload[:6]) != want {
			t.Fatalf("message %s, want %s", got.Payload[:6], want)
		}
		s.send(fmt.Sprintf("PUBACK #%d", got.PacketID))
	}
}

// TestStalledClientIsCutOff: nothing taken for the write timeout.
func TestStalledClientIsCutOff(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.WriteTimeout = 300 * time.Millisecond })
	s := n.connected("CONNECT v5 clean id=s")
	s.send("SUBSCRIBE #1 x:0")
	s.expect("SUBACK #1 0x00")
	p := n.connected("CONNECT v5 clean id=p")
	payload := strings.Repeat("x", 64<<10)
	eventually(t, "the end of the stalled client", func() bool {
		p.send(`PUBLISH q1 #1 t=x "` + payload + `"`)
		p.expect("PUBACK #1")
		return n.b.Stats().Ended["write_failed"] == 1
	})
}

// TestAnswersNotTaken: a client that asks and never reads is not read any more, and costs a bounded amount.
func TestAnswersNotTaken(t *testing.T) {
	n := newNode(t, nil)
	c := n.connected("CONNECT v5 clean id=a")
	pings := make([]byte, 64<<10)
	for i := 0; i < len(pings); i += 2 {
		pings[i] = 0xC0
	}
	eventually(t, "the pause", func() bool {
		c.nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := c.nc.Write(pings)
		return err != nil && n.b.Stats().Paused == 1
	})
	other := n.connected("CONNECT v5 clean id=b")
	other.quiet()
}

// TestGoroutines: connections leave nothing behind, nor does the broker.
func TestGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	n := newNode(t, nil)
	idle := runtime.NumGoroutine()
	var cs []*client
	for i := range tier.N(1000) {
		c := n.connected(fmt.Sprintf("CONNECT v5 clean id=c%d", i))
		c.send("SUBSCRIBE #1 x:1")
		c.expect("SUBACK #1 0x01")
		cs = append(cs, c)
	}
	p := n.connected("CONNECT v5 clean id=p")
	p.send(`PUBLISH q1 #1 t=x "m"`)
	p.expect("PUBACK #1")
	for _, c := range cs {
		c.expect(`PUBLISH q1 #1 t=x "m"`)
	}
	if got := runtime.NumGoroutine(); got > idle+len(cs)+2 {
		t.Errorf("%d goroutines for %d connections", got-idle, len(cs)+1)
	}
	for _, c := range append(cs, p) {
		c.nc.Close()
	}
	eventually(t, "no connection's goroutine", func() bool { return runtime.NumGoroutine() <= idle+1 }) // the lot's begins with the first connection
	n.stop()
	eventually(t, "no goroutine of the broker", func() bool { return runtime.NumGoroutine() <= before+1 }) // the store's
}

// TestDrain: what was read is acked before the connection ends, with 0x8B.
func TestDrain(t *testing.T) {
	n := newNode(t, nil)
	n.store.hold()
	c := n.connected("CONNECT v5 clean id=a")
	c.send(`PUBLISH q1 #1 t=x "m"`)
	eventually(t, "the append", func() bool { k, _ := n.store.held(); return k == 1 })
	half := n.dial()
	eventually(t, "a half-open connection", func() bool { return n.b.Stats().HalfOpen == 1 })
	done := make(chan struct{})
	go func() { defer close(done); n.stop() }()
	half.expectClosed()
	n.store.release()
	c.expect("PUBACK #1", "DISCONNECT 0x8B")
	c.expectClosed()
	c.nc.Close()
	<-done
}

// TestDrainHurries: a store that never answers cannot hold Close for longer than its context.
func TestDrainHurries(t *testing.T) {
	n := newNode(t, nil)
	n.store.hold()
	c := n.connected("CONNECT v5 clean id=a")
	c.send(`PUBLISH q1 #1 t=x "m"`)
	eventually(t, "the append", func() bool { k, _ := n.store.held(); return k == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := n.b.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v", err)
	}
	n.store.release()
}

// TestFenced: an owner that has lost its claim ends its connections and starts anew from the log.
func TestFenced(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a expiry=1000")
	a.send("SUBSCRIBE #1 x:1")
	a.expect("SUBACK #1 0x01")
	n.store.fence()
	b := n.dial()
	b.send("CONNECT v5 id=b expiry=1000") // has to be written, and cannot
	b.next()
	a.expect("DISCONNECT 0x89")
	a.expectClosed()
	eventually(t, "the next owner", n.b.Ready)
	a = n.dial()
	a.send("CONNECT v5 id=a expiry=1000")
	a.expect("CONNACK present")
	a.send(`PUBLISH q1 #1 t=x "m"`)
	got := []string{show(a.next()), show(a.next())}
	if s := strings.Join(got, ","); !strings.Contains(s, "PUBACK #1") || !strings.Contains(s, `PUBLISH q1 #1 t=x "m"`) {
		t.Errorf("got %s", s)
	}
}

// TestPanic: a panic in the owner's loop is the end of that owner, not of the program. Who was connected comes back to a session that
// is as the log has it, and messages of `store: false` routes that the old owner still had do not count for the next.
func TestPanic(t *testing.T) {
	var armed atomic.Bool
	n := newNode(t, func(o *broker.Options) {
		o.Limits.UnloggedBytes = 1000
		o.Authorizer = trap{&armed}
	})
	for i := range 3 {
		connect, publish := fmt.Sprintf("CONNECT v5 id=a%d expiry=1000", i), fmt.Sprintf(`PUBLISH q1 #1 t=x%d "m"`, i)
		a := n.connected(connect)
		a.send(fmt.Sprintf("SUBSCRIBE #1 x%d:1 raw/x:0", i))
		a.expect("SUBACK #1 0x01 0x00")
		armed.Store(true)
		p := n.connected("CONNECT v5 clean id=p")
		p.send(publish, `PUBLISH q0 t=raw/x "m"`, `PUBLISH q0 t=raw/x "m"`)
		a.expect("DISCONNECT 0x89")
		a.expectClosed()
		armed.Store(false)
		eventually(t, "the next owner", n.b.Ready)
		a = n.dial()
		a.send(connect)
		a.expect("CONNACK present", publish)
		p = n.connected("CONNECT v5 clean id=p")
		p.send(`PUBLISH q0 t=raw/x "live"`)
		a.expect(`PUBLISH q0 t=raw/x "live"`)
	}
}

// trap is an Authorizer that panics when the owner asks it while armed.
type trap struct{ armed *atomic.Bool }

func (x trap) Allowed(_ session.Key, a broker.Action, _ string) bool {
	if a == broker.Receive && x.armed.Load() {
		panic("trap")
	}
	return true
}

// TestCloseWithoutOwner: Close does not wait for a log that is gone.
func TestCloseWithoutOwner(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a expiry=1000")
	n.store.unclaimable(true)
	n.store.fence()
	a.send("SUBSCRIBE #1 x:1") // has to be written, and cannot
	a.expect("DISCONNECT 0x89")
	eventually(t, "the next owner's try", func() bool { return !n.b.Ready() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.b.Close(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("close: %v", err)
	}
	n.b = nil
}
