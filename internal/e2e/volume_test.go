package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// subscribeAway makes a persistent session with one subscription and leaves.
func subscribeAway(t *testing.T, n *node, id, filter string) {
	t.Helper()
	ctx := deadline(t, time.Minute)
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent(id)})
	if _, err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(ctx, packet.Filter{Filter: filter, QoS: 1}); err != nil {
		t.Fatal(err)
	}
	c.Disconnect(packet.Success)
}

// TestOfflineQueue queues messages for sessions that are away: once for one wide filter, once spread over a thousand narrow
// ones. All arrive, in order, after a restart of the node, and while they queue the node hardly grows.
func TestOfflineQueue(t *testing.T) {
	const growth = 64 << 20
	for _, c := range []struct {
		name     string
		sessions int
	}{{"one wide session", 1}, {"interleaved narrow sessions", tier.N(1000)}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, "")
			n.start()
			total := tier.N(200_000)
			filter := func(i int) string {
				if c.sessions == 1 {
					return "queue/#"
				}
				return fmt.Sprintf("queue/+/%d", i)
			}
			each(c.sessions, 32, func(i int) { subscribeAway(t, n, fmt.Sprintf("away-%d", i), filter(i)) })
			idle := n.rss()

			ledger := sim.NewLedger()
			for i := range c.sessions {
				ledger.Reader(fmt.Sprintf("away-%d", i), filter(i), 1)
			}
			o := sim.LoadOptions{Clients: 8, Prefix: "q-", Topic: "queue/{client}/{topic}", Topics: c.sessions, Size: 100, Count: total / 8}
			o.Dial, o.QoS, o.Ledger, o.Grace = sim.DialTCP(n.mqtt), 1, ledger, time.Minute
			var peak atomic.Int64
			watch, done := context.WithCancel(t.Context())
			var watching sync.WaitGroup
			watching.Go(func() {
				for watch.Err() == nil {
					peak.Store(max(peak.Load(), n.rss()))
					time.Sleep(20 * time.Millisecond)
				}
			})
			if _, err := sim.Load(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			done()
			watching.Wait()
			t.Logf("%d messages for %d sessions: idle %d MiB, peak %d MiB", total, c.sessions, idle>>20, peak.Load()>>20)
			if tier.Soak() && peak.Load() > idle+growth {
				t.Errorf("the node grew by %d MiB while messages queued, want at most %d", (peak.Load()-idle)>>20, growth>>20)
			}
			n.kill()
			n.start()

			watchCtx, stop := context.WithCancel(t.Context())
			defer stop()
			var watchers sync.WaitGroup
			for i := range c.sessions {
				watchers.Go(func() {
					id := fmt.Sprintf("away-%d", i)
					if _, err := sim.Watch(watchCtx, sim.WatchOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent(id), Filter: filter(i), QoS: 1, Ledger: ledger}); err != nil {
						t.Errorf("%s: %v", id, err)
					}
				})
			}
			began := time.Now()
			for i := range c.sessions {
				r := ledger.Reader(fmt.Sprintf("away-%d", i), filter(i), 1)
				eventually(t, "session has its queue", func() bool { return r.Report().Missing == 0 })
			}
			t.Logf("drained in %v", time.Since(began).Round(time.Millisecond))
			stop()
			watchers.Wait()
			received := 0
			for i := range c.sessions {
				r := ledger.Reader(fmt.Sprintf("away-%d", i), filter(i), 1).Report()
				received += r.Received
				if err := r.Err(); err != nil {
					t.Fatalf("session %d: %v", i, err)
				}
			}
			if received != total {
				t.Errorf("received %d of %d", received, total)
			}
		})
	}
}

// TestManySessions restarts a node that has many stored sessions.
func TestManySessions(t *testing.T) {
	n := newNode(t, "")
	n.start()
	sessions := tier.N(100_000)
	each(sessions, 64, func(i int) { subscribeAway(t, n, fmt.Sprintf("stored-%d", i), fmt.Sprintf("many/%d/#", i)) })
	n.stop()
	took := n.start()
	t.Logf("%d sessions: ready %v after the start", sessions, took.Round(time.Millisecond))
	if tier.Soak() && took > 3*time.Second {
		t.Errorf("ready after %v, want < 3 s", took)
	}
	ctx := deadline(t, time.Minute)
	for i := 0; i < sessions; i += max(1, sessions/20) {
		c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent(fmt.Sprintf("stored-%d", i))})
		ack, err := c.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !ack.SessionPresent {
			t.Errorf("session %d is gone", i)
		}
		c.Disconnect(packet.Success)
	}
}

// each runs f for every i below n, some at a time.
func each(n, workers int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
