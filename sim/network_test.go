package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// wire is one direction of a connection in memory, with room for anything, as a kernel's buffers have for what these tests send.
type wire struct {
	mu     sync.Mutex
	b      bytes.Buffer
	closed bool
	some   chan struct{}
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	w.b.Write(p)
	wakeUp(w.some)
	return len(p), nil
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		w.mu.Lock()
		n, _ := w.b.Read(p)
		closed := w.closed
		w.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if closed {
			wakeUp(w.some)
			return 0, io.EOF
		}
		<-w.some
	}
}

func (w *wire) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	wakeUp(w.some)
}

// end is one end of a connection in memory.
type end struct {
	net.Conn
	in, out *wire
}

func (e *end) Read(p []byte) (int, error)       { return e.in.Read(p) }
func (e *end) Write(p []byte) (int, error)      { return e.out.Write(p) }
func (e *end) SetWriteDeadline(time.Time) error { return nil }
func (e *end) Close() error                     { e.in.Close(); e.out.Close(); return nil }

// dialMemory connects to the broker without the operating system, so that a test's clock may be its own.
func (b *testBroker) dialMemory(context.Context) (net.Conn, error) {
	up, down := &wire{some: make(chan struct{}, 1)}, &wire{some: make(chan struct{}, 1)}
	conn := &end{in: up, out: down}
	b.mu.Lock()
	b.conns[conn] = true
	b.mu.Unlock()
	b.all.Go(func() { b.serve(conn) })
	return &end{in: down, out: up}, nil
}

// newMemoryBroker is a broker that only dialMemory reaches.
func newMemoryBroker(t *testing.T) *testBroker {
	return &testBroker{t: t, sessions: map[string]*testSession{}, conns: map[net.Conn]bool{}}
}

// driven is a run of a few vans over a network, on a clock of its own, with a reader on a good one.
func driven(t *testing.T, v packet.Version, qos byte, n Network, speed float64, long time.Duration) (b *testBroker, s FleetStats, r Report) {
	b = newMemoryBroker(t)
	l := NewLedger()
	stop := watchFor(t, 24*time.Hour, WatchOptions{Dial: b.dialMemory, Connect: packet.Connect{Version: v, ClientID: "r"}, Filter: "city/#", QoS: qos, Ledger: l})
	o := DriveOptions{Vehicles: 4, Speed: speed, Every: time.Duration(1+speed/10) * time.Second, FleetOptions: FleetOptions{Dial: b.dialMemory, QoS: qos, Network: &n, Seed: 3, Ledger: l, Fresh: true,
		Duration: long, Connect: packet.Connect{Version: v, KeepAlive: 60}}}
	time.AfterFunc(long, func() { // what is switched off in a tunnel is closed by the operating system here
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cutting = true
	})
	s, err := Drive(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	stop()
	b.cut()
	b.all.Wait()
	return b, s, l.Reader("r", "", 0).Report()
}

// Every network with a name loses nothing that was acknowledged, doubles nothing at QoS 2, and in the end everything that was sent is
// acknowledged.
func TestNetworks(t *testing.T) {
	for _, n := range Networks {
		for qos, vs := range [][]packet.Version{1: {packet.V5}, 2: {packet.V311, packet.V5}} {
			for _, v := range vs {
				t.Run(fmt.Sprintf("%s QoS %d %v", n.Name, qos, v), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						long := time.Duration(tier.N(300)) * time.Second
						_, s, r := driven(t, v, byte(qos), n, 40, long) // 20 minutes, or 200
						t.Logf("%d sent, %d connections, %d resent, late up to %v, acknowledged after p50 %v; %v", s.Sent, s.Connects, s.Resent, s.Late.Max(), s.Ack.Quantile(0.5), &r)
						if r.Err() != nil || s.Acked != s.Sent || s.InFlight != 0 || r.Received != int(s.Sent) || s.Sent < 100 {
							t.Errorf("%+v %v", s, &r)
						}
						if n.Covered.To > 0 && n.Covered.To < 40*long && s.Connects <= 4 {
							t.Errorf("%d connections: nothing was lost", s.Connects)
						}
						if s.Ack.Quantile(0.5) < 2*n.Latency {
							t.Errorf("acknowledged after %v over a network with %v each way", s.Ack.Quantile(0.5), n.Latency)
						}
					})
				})
			}
		}
	}
}

// In a tunnel nobody closes anything: what is written vanishes, the device finds out by itself, and what it sampled comes in one burst
// afterwards, in order.
func TestTunnel(t *testing.T) {
	tunnel := Network{Latency: 10 * time.Millisecond, Covered: Span{30 * time.Second, 60 * time.Second}, Away: Span{time.Minute, 2 * time.Minute}, Patience: 5 * time.Second}
	for qos := range byte(3) {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s, r := driven(t, packet.V5, qos, tunnel, 1, 10*time.Minute)
				t.Logf("%+v\n%v", s, &r)
				if b.overheard > 0 {
					t.Errorf("the broker heard of the end of %d connections", b.overheard)
				}
				if s.Connects < 8 || s.Late.Max() < time.Minute {
					t.Errorf("%d connections, late by up to %v", s.Connects, s.Late.Max())
				}
				// 600 seconds of four vehicles, but for what the last tunnel held back.
				if s.Sent < 1500 || s.Sent > 2400 {
					t.Errorf("%d sent", s.Sent)
				}
				lost := int(s.Sent) - r.Received
				switch {
				case qos == 0 && (lost == 0 || lost > 1200 || r.Duplicates > 0):
					t.Errorf("QoS 0: %d lost, %d duplicates", lost, r.Duplicates) // until a PINGREQ is not answered
				case qos > 0 && (lost != 0 || s.Resent == 0):
					t.Errorf("%d lost, %d resent", lost, s.Resent)
				case r.Err() != nil:
					t.Error(&r)
				}
			})
		})
	}
}

// The teeth of the two tests above: a broker that takes the last QoS 1 message before each tunnel and forgets it is found out.
func TestNetworksHaveTeeth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemoryBroker(t)
		b.fault = func(p *packet.Publish) []*packet.Publish {
			if s, ok := ReadStamp(p); ok && s.Sequence%50 == 49 {
				return nil
			}
			return []*packet.Publish{p}
		}
		l := NewLedger()
		stop := watchFor(t, 24*time.Hour, WatchOptions{Dial: b.dialMemory, Connect: packet.Connect{ClientID: "r"}, Filter: "city/#", QoS: 1, Ledger: l})
		n, _ := NetworkNamed("tunnel")
		_, err := Drive(t.Context(), DriveOptions{Vehicles: 2, Speed: 5, FleetOptions: FleetOptions{Dial: b.dialMemory, QoS: 1, Network: n, Ledger: l, Fresh: true, Duration: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		stop()
		b.cut()
		b.all.Wait()
		if r := l.Reader("r", "", 0).Report(); r.Missing == 0 || r.Err() == nil {
			t.Error(&r)
		}
	})
}

// The clock of a roaming device jumps with some of its connections, and is right again with a later one; what is acknowledged, and in
// which order, does not depend on it.
func TestClocks(t *testing.T) {
	n, _ := NetworkNamed("roaming")
	start := time.Unix(1_700_000_000, 0)
	wrong, right, spells := 0, 0, map[int]bool{}
	c := newCoverage(n, 1, 1, "d", start)
	for d := time.Duration(0); d < 300*time.Hour; d += time.Minute {
		i, _ := c.at(d)
		spells[i] = true
		off := c.clock(start.Add(d)).Sub(start.Add(d)).Abs()
		if off > n.JumpBy+n.Skew+time.Minute+time.Duration(n.Drift*float64(d)) {
			t.Fatalf("off by %v", off)
		}
		if off > 3*n.Skew+time.Duration(n.Drift*float64(d)) {
			wrong++
		} else {
			right++
		}
	}
	if wrong == 0 || right < wrong {
		t.Errorf("wrong for %d minutes of %d, in %d spells", wrong, wrong+right, len(spells))
	}
}

// Seed and device decide when there is coverage, whatever else happens.
func TestCoverageIsDeterministic(t *testing.T) {
	n, _ := NetworkNamed("3g")
	spells := func(seed uint64, device string, connects int) []spell {
		c := newCoverage(n, 1, seed, device, time.Unix(0, 0))
		for range connects {
			newLane(c, 1)
		}
		c.at(10 * time.Hour)
		if i, _ := c.at(9 * time.Hour); i >= len(c.spells) {
			t.Errorf("spell %d of %d", i, len(c.spells))
		}
		return c.spells
	}
	a := spells(1, "a", 0)
	if b := spells(1, "a", 7); !reflect.DeepEqual(a, b) || len(a) < 10 {
		t.Errorf("%d spells, and others: %v %v", len(a), a[:3], b[:3])
	}
	if reflect.DeepEqual(a[:3], spells(2, "a", 0)[:3]) || reflect.DeepEqual(a[:3], spells(1, "b", 0)[:3]) {
		t.Error("another seed, or device, has the same coverage")
	}
	c := newCoverage(n, 1, 1, "a", time.Unix(0, 0)) // for months: what is long past is forgotten
	far := 0
	for d := time.Duration(0); d < 3000*time.Hour; d += time.Hour {
		i, s := c.at(d)
		if i < far || s.begin > d || s.end <= d {
			t.Fatalf("spell %d, %v, at %v after %d", i, s, d, far)
		}
		far = i
	}
	if len(c.spells) > 2*maxSpells+1 || far < 3000 {
		t.Errorf("%d of %d spells are kept", len(c.spells), far)
	}
	for i := 1; i < len(a); i++ {
		if a[i].begin != a[i-1].end || a[i].away <= a[i].begin || a[i].end <= a[i].away {
			t.Fatalf("%v after %v", a[i], a[i-1])
		}
	}
}

// Bandwidth and latency: 100 kB at 10 kB/s take ten seconds and arrive in order.
func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Network{Latency: time.Second, Jitter: time.Second, Up: 10 << 10}
		c := newCoverage(n, 1, 1, "d", time.Now())
		up, down := &wire{some: make(chan struct{}, 1)}, &wire{some: make(chan struct{}, 1)}
		dial := c.dialler(func(context.Context) (net.Conn, error) { return &end{in: down, out: up}, nil })
		conn, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, 100<<10)
		for i := range sent {
			sent[i] = byte(i % 251)
		}
		begin := time.Now()
		go func() {
			conn.Write(sent)
			conn.Close()
		}()
		got, err := io.ReadAll(up)
		if took := time.Since(begin); took < 11*time.Second || took > 13*time.Second {
			t.Errorf("took %v", took)
		}
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		c.end()
	})
}

// A server that says nothing any more is given up, at the latest after twice the patience.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemoryBroker(t)
		b.noAck = func(*packet.Publish) bool { return true }
		c := NewClient(ClientOptions{Dial: b.dialMemory, Connect: packet.Connect{ClientID: "c", KeepAlive: 40}, Patience: 10 * time.Second})
		if _, err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // nothing is owed but answers to pings, which come, also when a look falls on one
		if err := c.Publish(t.Context(), &packet.Publish{QoS: 1, Topic: []byte("t")}, nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		<-c.Done()
		if took := time.Since(begin); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("given up after %v", took)
		}
		mute := NewClient(ClientOptions{Dial: func(context.Context) (net.Conn, error) {
			return &end{in: &wire{some: make(chan struct{}, 1)}, out: &wire{some: make(chan struct{}, 1)}}, nil
		}, Patience: 10 * time.Second})
		begin = time.Now()
		if _, err := mute.Connect(t.Context()); !errors.Is(err, client.ErrImpatient) || time.Since(begin) != 10*time.Second {
			t.Errorf("no CONNACK: %v after %v", err, time.Since(begin))
		}
		b.cut()
		b.all.Wait()
	})
}

// A broker that is slow with its first answers is there: the fleet of a network does not give up over them.
func TestFirstAnswersStayOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemoryBroker(t)
		var dials atomic.Int32
		dial := func(ctx context.Context) (net.Conn, error) {
			if dials.Add(1) <= 3 {
				return &end{in: &wire{some: make(chan struct{}, 1)}, out: &wire{some: make(chan struct{}, 1)}}, nil
			}
			return b.dialMemory(ctx)
		}
		n, _ := NetworkNamed("good")
		s, err := Drive(t.Context(), DriveOptions{Vehicles: 2, FleetOptions: FleetOptions{Dial: dial, QoS: 1, Network: n, Fresh: true, Duration: 5 * time.Minute}})
		if err != nil || s.Acked == 0 || s.Acked != s.Sent {
			t.Errorf("%+v, %v", s, err)
		}
		b.cut()
		b.all.Wait()
	})
}

// Fresh begins without what the broker has of an earlier life, Forget leaves nothing behind; in between the session stays.
func TestFreshAndForget(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			b := newTestBroker(t)
			connect := packet.Connect{Version: v, ClientID: "c"}
			c := connected(t, ClientOptions{Dial: b.dial, Connect: connect})
			if _, err := c.Subscribe(within(t), packet.Filter{Filter: "old", QoS: 1}); err != nil {
				t.Fatal(err)
			}
			c.Disconnect(packet.Success)

			ctx, stop := context.WithCancel(within(t))
			fresh := NewClient(ClientOptions{Dial: b.dial, Connect: connect, Fresh: true})
			ups := make(chan bool, 2)
			kept := make(chan error)
			go func() {
				kept <- keep(ctx, fresh, true, func(_ context.Context, present bool) error { ups <- present; return nil })
			}()
			<-ups
			b.mu.Lock()
			filter := b.sessions["c"].filter.Filter
			b.mu.Unlock()
			if filter != "" {
				t.Errorf("the old session is there, with its subscription to %q", filter)
			}
			b.cut()
			if present := <-ups; !present && v > packet.V31 { // which does not say
				t.Error("the second connection finds no session")
			}
			stop()
			if err := <-kept; err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool {
				b.mu.Lock()
				defer b.mu.Unlock()
				s := b.sessions["c"]
				return s == nil || s.clean
			})
		})
	}
}

func dataFile(t *testing.T, name string) *os.File {
	t.Helper()
	dir := os.Getenv("MILLRACE_DATA")
	if dir == "" {
		t.Skip("MILLRACE_DATA is not set: the real recordings are not there")
	}
	f, err := os.Open(dir + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
