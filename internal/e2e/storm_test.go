package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// TestReconnectStorm kills the server under very many clients, which all come back at the same moment, and then with jittered back-off: every one
// finds its session, and what was published to it while it was away.
func TestReconnectStorm(t *testing.T) {
	n := newNode(t, "")
	n.start()
	clients := tier.N(10_000)
	herd := make([]*sim.Client, clients)
	name := func(i int) string { return fmt.Sprintf("storm-%d", i) }
	var received, failed atomic.Int64
	connect := func(ctx context.Context, i int) (*sim.Client, *packet.Connack, error) {
		c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent(name(i)), OnMessage: func(*packet.Publish) { received.Add(1) }})
		ack, err := c.Connect(ctx)
		return c, ack, err
	}
	each(clients, 64, func(i int) {
		ctx := deadline(t, time.Minute)
		c, _, err := connect(ctx, i)
		if err == nil {
			_, err = c.Subscribe(ctx, packet.Filter{Filter: name(i) + "/commands", QoS: 1})
		}
		if err != nil {
			t.Errorf("%s: %v", name(i), err)
		}
		herd[i] = c
	})
	if t.Failed() {
		t.FailNow()
	}
	n.kill()
	for _, c := range herd {
		c.Drop()
	}
	n.start()
	began := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				c, ack, err := connect(ctx, i)
				cancel()
				if err == nil {
					herd[i] = c
					if !ack.SessionPresent {
						t.Errorf("the session of %s is gone", name(i))
					}
					return
				}
				c.Drop()
				failed.Add(1)
				if time.Since(began) > 2*time.Minute {
					t.Errorf("%s is not back: %v", name(i), err)
					return
				}
				time.Sleep(rand.N(wait))
			}
		})
	}
	wg.Wait()
	t.Logf("%d clients are back after %v; %d attempts failed", clients, time.Since(began).Round(time.Millisecond), failed.Load())
	if t.Failed() {
		t.FailNow()
	}
	p := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent("operator")})
	ctx := deadline(t, 2*time.Minute)
	if _, err := p.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer p.Drop()
	for i := range clients {
		if err := p.Publish(ctx, &packet.Publish{Topic: []byte(name(i) + "/commands"), QoS: 1, Payload: []byte("go")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every client has its message", func() bool { return received.Load() == int64(clients) })
	for _, c := range herd {
		c.Drop()
	}
}
