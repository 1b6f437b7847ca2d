package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// mortals are clients that come with a will while the node is killed again and again, and somebody who is owed the wills.
type mortals struct {
	t    *testing.T
	n    *node
	all  []*mortal
	end  context.CancelFunc
	done chan error

	mu  sync.Mutex
	got map[string]int
}

// mortal is one of them.
type mortal struct {
	will string
	c    *sim.Client
	up   bool // CONNACK came: the will is the node's to keep
	left bool // DISCONNECT was sent; whether the node has read it before it was killed nobody knows
}

func newMortals(t *testing.T, n *node) *mortals {
	m := &mortals{t: t, n: n, got: map[string]int{}, done: make(chan error, 1)}
	ctx, end := context.WithCancel(t.Context())
	m.end = end
	t.Cleanup(end)
	ready := make(chan struct{})
	go func() {
		_, err := sim.Watch(ctx, sim.WatchOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent("heir"), Filter: "will/#", QoS: 2, Ready: func() { close(ready) },
			OnMessage: func(p *packet.Publish) {
				m.mu.Lock()
				m.got[string(p.Payload)]++
				m.mu.Unlock()
			}})
		m.done <- err
	}()
	<-ready
	return m
}

// come lets a few connect: clean sessions and persistent ones. Some go without a word, some take their leave, the others are there when the
// node is killed.
func (m *mortals) come(rng *rand.Rand) {
	m.t.Helper()
	for range 3 {
		will := fmt.Sprint("will-", len(m.all))
		connect := packet.Connect{Version: packet.V5, ClientID: "mortal-" + will, CleanStart: true, KeepAlive: 60,
			Will: &packet.Will{Topic: fmt.Sprint("will/", len(m.all)%4), QoS: 2, Payload: []byte(will)}}
		if rng.IntN(2) == 0 {
			connect.Props.Has, connect.Props.SessionExpiry = packet.PSessionExpiry, 3600
		}
		x := &mortal{will: will, c: sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(m.n.mqtt), Connect: connect})}
		m.all = append(m.all, x)
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
		_, err := x.c.Connect(ctx)
		cancel()
		if err != nil {
			m.t.Fatalf("%s: %v", connect.ClientID, err)
		}
		x.up = true
		switch rng.IntN(3) {
		case 0:
			x.c.Drop()
		case 1:
			x.left = true
			x.c.Disconnect(packet.Success)
		}
	}
}

// settle waits until every will that is owed has come, and checks that each has come once, and none of nobody.
func (m *mortals) settle() {
	m.t.Helper()
	for _, x := range m.all {
		x.c.Drop()
	}
	eventually(m.t, "all wills have come", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, x := range m.all {
			if x.up && !x.left && m.got[x.will] == 0 {
				return false
			}
		}
		return true
	})
	m.end()
	if err := <-m.done; err != nil {
		m.t.Fatalf("the heir: %v", err)
	}
	owed, left := 0, 0
	for _, x := range m.all {
		if x.up && !x.left {
			owed++
		} else if m.got[x.will] > 0 {
			left++
		}
		if m.got[x.will] > 1 {
			m.t.Errorf("%s came %d times", x.will, m.got[x.will])
		}
		delete(m.got, x.will)
	}
	for will := range m.got {
		m.t.Errorf("a will of nobody: %q", will)
	}
	m.t.Logf("%d clients with a will, %d wills owed, %d of clients that had said farewell to a node that was killed", len(m.all), owed, left)
	if owed == 0 {
		m.t.Error("no will was owed: the test tested nothing")
	}
}
