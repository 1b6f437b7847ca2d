package app

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/sim"
)

// proxy stands between a bridge and its remote, and makes the network bad.
type proxy struct {
	listener net.Listener
	to       func() string
	down     atomic.Bool  // refuse
	hang     atomic.Bool  // take bytes and pass none on
	cutAfter atomic.Int64 // bytes of a direction of each connection; 0: never
	delay    atomic.Int64 // of each read, ns

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, to func() string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newProxyOn(t, l, to)
}

func newProxyOn(t *testing.T, l net.Listener, to func() string) *proxy {
	p := &proxy{listener: l, to: to, conns: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		all.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) add(cs ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		p.conns[c] = true
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) serve(a net.Conn) {
	defer a.Close()
	if p.down.Load() {
		return
	}
	b, err := net.Dial("tcp", p.to())
	if err != nil {
		return
	}
	defer b.Close()
	p.add(a, b)
	var both sync.WaitGroup
	var dead atomic.Bool
	both.Go(func() { p.pass(a, b, &dead) })
	both.Go(func() { p.pass(b, a, &dead) })
	both.Wait()
}

// pass passes bytes on; dead: some are missing, so that no more may come after them.
func (p *proxy) pass(to, from net.Conn, dead *atomic.Bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 4096)
	for left := p.cutAfter.Load(); ; {
		n, err := from.Read(buf)
		time.Sleep(time.Duration(p.delay.Load()))
		if p.hang.Load() {
			dead.Store(true)
		}
		if !dead.Load() {
			if left > 0 && int64(n) >= left {
				to.Write(buf[:left]) // within a packet
				return
			}
			if left > 0 {
				left -= int64(n)
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// logged are the payloads in a node's log, by MQTT topic, in the order of the log.
func logged(t *testing.T, n *Node) map[string][]string {
	t.Helper()
	starts, ends, err := n.store.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for p, at := range starts {
		for at < ends[p] {
			b, err := n.store.Read(t.Context(), session.Position{Part: p, Offset: at}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for i := range b.Msgs {
				if m := &b.Msgs[i]; m.Offset >= at {
					out[m.Topic] = append(out[m.Topic], string(m.Payload))
				}
			}
			at = b.Next
		}
	}
	return out
}

// inOrder checks what arrived of a source that counted from 0 to below n: nothing is missing, nothing comes early; and what comes again
// comes with all that follows it again. exact: nothing comes again.
func inOrder(got []string, n int, exact bool) error {
	prev, most := -1, -1
	for i, s := range got {
		v, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		switch {
		case v == prev+1:
		case v > prev:
			return fmt.Errorf("at %d: %d after %d", i, v, prev)
		case exact:
			return fmt.Errorf("at %d: %d came again after %d", i, v, prev)
		}
		prev, most = v, max(most, v)
	}
	if most != n-1 {
		return fmt.Errorf("got up to %d of %d", most, n-1)
	}
	return nil
}

func TestInOrderHasTeeth(t *testing.T) {
	for _, c := range []struct {
		got   string
		exact bool
		ok    bool
	}{{"0 1 2 3", true, true}, {"0 1 1 2 3", false, true}, {"0 1 2 1 2 3", false, true}, {"0 1 1 2 3", true, false}, {"0 2 1 3", false, false},
		{"0 1 3", false, false}, {"0 1 2", false, false}, {"0 1 2 3 1 3", false, false}, {"1 2 3", false, false}} {
		if err := inOrder(strings.Fields(c.got), 4, c.exact); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.got, err)
		}
	}
}

// source publishes numbers on a topic through whatever happens to its node, each as soon as there is room, and counts what is acknowledged.
type source struct {
	topic string
	qos   byte
	sent  int
	acked atomic.Int64
	bad   atomic.Int64
}

func (x *source) run(ctx context.Context, address func() string, version packet.Version) error {
	c := sim.NewClient(sim.ClientOptions{
		Dial: func(ctx context.Context) (net.Conn, error) { return sim.DialTCP(address())(ctx) },
		Connect: packet.Connect{ClientID: "source-" + strings.ReplaceAll(x.topic, "/", "-"), Version: version,
			Props: packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: 3600}},
		Window: 8, Patience: 3 * time.Second, OnMessage: func(*packet.Publish) {},
	})
	c.Await(true)
	connecting, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for connecting.Err() == nil {
			if _, err := c.Connect(connecting); err == nil {
				select {
				case <-c.Done():
				case <-connecting.Done():
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	defer wg.Wait()
	defer stop()
	for ctx.Err() == nil {
		err := c.Publish(ctx, &packet.Publish{Topic: []byte(x.topic), QoS: x.qos, Payload: strconv.AppendInt(nil, int64(x.sent), 10)}, func(code packet.Code) {
			if code.Failed() {
				x.bad.Add(1)
			}
			x.acked.Add(1)
		})
		if err != nil {
			break
		}
		x.sent++
		time.Sleep(time.Duration(rand.IntN(2_000_000)))
	}
	grace, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Drain(grace); err != nil {
		return fmt.Errorf("%s: %w", x.topic, err)
	}
	c.Disconnect(packet.Success)
	if x.bad.Load() > 0 {
		return errors.New("refused")
	}
	return nil
}

var faultNames = []string{"kill", "restart", "kill-remote", "cut", "refuse", "hang", "cut-within", "delay", "no-delay"}

// bridgeFaults plays a bridge between two nodes through crashes of either and a bad network, and holds the logs against each other.
func bridgeFaults(t *testing.T, seed uint64, version string, long time.Duration) error {
	rng := rand.New(rand.NewPCG(seed, 0xb41d6e))
	b := newSite(t, "").reserve().start()
	p := newProxy(t, func() string { return b.port })
	a := newSite(t, bridgeTo(p.address(), version, fmt.Sprintf(`  both: [{filter: "#", qos: 2}]
  window: %d`, 1+rng.IntN(40)))).reserve()
	a.tune = func(s *bridge.Spec) { s.Patience, s.KeepAlive = 300*time.Millisecond, time.Second }
	a.start().connected()
	ctx, quiet := context.WithCancel(context.Background())
	var sources []*source
	var sending sync.WaitGroup
	errs := make(chan error, 10)
	for i := range 4 {
		x := &source{topic: fmt.Sprintf("fleet/%d/telemetry", i), qos: byte(1 + i%2)}
		from := a
		if i >= 2 {
			x.topic, from = fmt.Sprintf("cmd/%d", i), b
		}
		sources = append(sources, x)
		sending.Go(func() { errs <- x.run(ctx, func() string { return from.port }, packet.V5) })
	}
	var did []string
	crashed := false // of ours: QoS 2 in may come twice
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(time.Duration(20+rng.IntN(150)) * time.Millisecond) {
		what := rng.IntN(9)
		did = append(did, faultNames[what])
		switch what {
		case 0:
			if rng.IntN(3) > 0 { // a node that is dead says nothing more either
				p.down.Store(true)
				p.cut()
			}
			a.kill(rng)
			p.down.Store(false)
			crashed = true
			a.start()
		case 1:
			a.stop()
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
			a.start()
		case 2:
			b.kill(rng)
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
			b.start()
		case 3:
			p.cut()
		case 4:
			p.down.Store(true)
			p.cut()
			time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
			p.down.Store(false)
		case 5:
			p.hang.Store(true)
			time.Sleep(time.Duration(rng.IntN(900)) * time.Millisecond)
			p.hang.Store(false)
			p.cut()
		case 6:
			p.cutAfter.Store(int64(1 + rng.IntN(2000)))
			p.cut()
			time.Sleep(200 * time.Millisecond)
			p.cutAfter.Store(0)
		case 7:
			p.delay.Store(rng.Int64N(int64(20 * time.Millisecond)))
		case 8:
			p.delay.Store(0)
		}
	}
	p.delay.Store(0)
	quiet()
	sending.Wait()
	for range sources {
		if err := <-errs; err != nil {
			return err
		}
	}
	check := func() error {
		for at, s := range map[string]*site{"b": b, "a": a} {
			got := logged(t, s.node)
			for i, x := range sources {
				there := at == "a" == (i >= 2) // it came over the bridge
				exact := x.qos == 2 && (!there || i < 2 || !crashed)
				if err := inOrder(got[x.topic], x.sent, exact); err != nil {
					return fmt.Errorf("%s in the log of %s: %w (here %.80q, there %.80q); %s; the bridge: %+v", x.topic, at, err, got[x.topic], logged(t, map[string]*site{"a": b, "b": a}[at].node)[x.topic], strings.Join(did, " "), a.status())
				}
			}
		}
		return nil
	}
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			if st := a.status(); st.InFlight == 0 && st.Behind == 0 {
				break
			}
		} else if strings.Contains(err.Error(), " again ") || strings.Contains(err.Error(), " after ") {
			break // time mends nothing
		}
	}
	return err
}

func TestBridgeFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	for i := range uint64(tier.N(20)) {
		for _, version := range []string{"5", "3.1.1"} {
			seed := tier.Seed() + i
			t.Run(fmt.Sprintf("%s/%d", version, seed), func(t *testing.T) {
				if err := bridgeFaults(t, seed, version, 2*time.Second); err != nil {
					t.Errorf("MILLRACE_SEED=%d: %v", seed, err)
				}
			})
		}
	}
}

// newProbe tells whether somebody listens.
func newProbe(address string) (net.Conn, error) { return net.DialTimeout("tcp", address, time.Second) }
