package bridge

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// flappingRemote takes each connection and loses it, after a while that differs. Each connection has a goroutine.
type flappingRemote struct {
	got func() // something of the bridge's was acknowledged before that

	mu   sync.Mutex
	rng  *rand.Rand
	made []time.Time // when it took each
}

func (r *flappingRemote) random() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rng.Float64()
}

// take notes a connection, and draws what becomes of it.
func (r *flappingRemote) take() (progress bool, life time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, time.Now())
	return r.rng.IntN(2) == 0, time.Duration(r.rng.IntN(3000)) * time.Millisecond
}

func (r *flappingRemote) connections() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.made)
}

func (r *flappingRemote) dial(context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		buf := make([]byte, 4096)
		if _, err := there.Read(buf); err != nil {
			return
		}
		wire, err := (&packet.Connack{}).Append(nil, packet.V5)
		if err != nil {
			return
		}
		if _, err := there.Write(wire); err != nil {
			return
		}
		progress, life := r.take()
		if progress {
			r.got()
		}
		time.Sleep(life)
	}()
	return here, nil
}

// mostPerMinute is how many connections the worst minute had.
func mostPerMinute(made []time.Time) (most int) {
	for i := range made {
		n := 0
		for _, at := range made[i:] {
			if at.Sub(made[i]) < time.Minute {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// TestPaceOverABadLink: a bridge whose connections are lost one after the other, each after some progress, comes back again and again, and never
// so often that a node would take it for a client that flaps. Without the bound it would.
func TestPaceOverABadLink(t *testing.T) {
	in := []Topic{{Filter: "#"}} // connections are lost before it is subscribed to, and pauses are short by chance
	shortest := func() float64 { return 0 }
	for _, c := range []struct {
		perMinute, least, most int
		in                     []Topic
		random                 func() float64
	}{
		{0, 9, 10, nil, nil}, // the default; a node's is 15 losses
		{1000, 16, 1000, nil, nil},
		{0, 9, 10, in, shortest},
		{1000, 16, 1000, in, shortest},
	} {
		synctest.Test(t, func(t *testing.T) {
			remote := &flappingRemote{rng: rand.New(rand.NewPCG(1, 1))}
			random := c.random
			if random == nil {
				random = remote.random
			}
			b := &bridge{set: &Set{o: Options{Now: time.Now, Random: random}}, books: newBooks(1), up: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
			remote.got = func() { b.counters.acked.Add(1) }
			b.spec = Spec{Name: "x", Dial: remote.dial, In: c.in, PerMinute: c.perMinute}.withDefaults()
			b.receiver = &receiver{b: b, open: map[uint16]*arrival{}}
			b.mqtt = client.New(client.Options{Dial: b.spec.Dial, Connect: b.greeting(), Patience: b.spec.Patience})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
			defer cancel()
			b.run(ctx)
			b.mqtt.Drop()
			made := remote.connections()
			if got := mostPerMinute(made); got < c.least || got > c.most {
				t.Errorf("at most %d a minute: %d connections within one, %d in all", b.spec.PerMinute, got, len(made))
			}
			if len(made) < 100 {
				t.Errorf("only %d connections in half an hour", len(made))
			}
			time.Sleep(time.Minute)
		})
	}
}
