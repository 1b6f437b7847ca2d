package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// groups are shared subscriptions of the load that is sent at QoS 1 and 2. The members of each are one reader of the ledger: what matters
// is what they get together.
type groups struct {
	t       *testing.T
	n       *node
	ledgers [3]*sim.Ledger
	filters [3]string
	stop    context.CancelFunc
	all     sync.WaitGroup
	mu      sync.Mutex
	got     map[string]int
	errs    []error
}

// newGroups begins them. Two members of each keep their sessions. At QoS 1 a third one comes and goes, and leaves what it had to the
// others.
func newGroups(t *testing.T, n *node, ledgers [3]*sim.Ledger, filters [3]string) *groups {
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	g := &groups{t: t, n: n, ledgers: ledgers, filters: filters, stop: stop, got: map[string]int{}}
	for qos := byte(1); qos <= 2; qos++ {
		for i := range 2 {
			ready := make(chan struct{})
			g.all.Go(func() {
				if err := g.watch(ctx, qos, persistent(fmt.Sprintf("member-%d-%d", qos, i)), i > 0, func() { close(ready) }); err != nil {
					g.mu.Lock()
					g.errs = append(g.errs, err)
					g.mu.Unlock()
				}
			})
			<-ready
		}
	}
	g.all.Go(func() {
		for ctx.Err() == nil {
			once, leave := context.WithTimeout(ctx, 700*time.Millisecond)
			// A server that has just been killed turns it away: it comes again.
			_ = g.watch(once, 1, packet.Connect{Version: packet.V5, ClientID: "member-1-guest", KeepAlive: 60, CleanStart: true}, true, func() {})
			leave()
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return g
}

func (g *groups) name(qos byte) string { return fmt.Sprintf("group-%d", qos) }

func (g *groups) watch(ctx context.Context, qos byte, connect packet.Connect, joins bool, ready func()) error {
	_, err := sim.Watch(ctx, sim.WatchOptions{Dial: sim.DialTCP(g.n.mqtt), Connect: connect, Filter: "$share/g/" + g.filters[qos], QoS: qos,
		Name: g.name(qos), Joins: joins, Ledger: g.ledgers[qos], Ready: ready, OnMessage: func(*packet.Publish) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.got[connect.ClientID]++
		}})
	return err
}

// settle waits until the groups have everything, and checks what they got.
func (g *groups) settle() {
	g.t.Helper()
	for qos := byte(1); qos <= 2; qos++ {
		r := g.ledgers[qos].Reader(g.name(qos), g.filters[qos], qos)
		eventually(g.t, "the group has everything", func() bool { return r.Report().Missing == 0 })
	}
	g.stop()
	g.all.Wait()
	for _, err := range g.errs {
		g.t.Errorf("a member of a group: %v", err)
	}
	g.t.Logf("members got %v", g.got)
	for qos := byte(1); qos <= 2; qos++ {
		r := g.ledgers[qos].Reader(g.name(qos), g.filters[qos], qos).Report()
		g.t.Logf("QoS %d, %s", qos, r.String())
		r.Reordered = 0 // members work side by side
		if err := r.Err(); err != nil {
			g.t.Errorf("QoS %d, %s: %v", qos, r.Reader, err)
		}
		if qos == 2 && r.Duplicates > 0 {
			g.t.Errorf("QoS 2, %s: %d duplicates among the members", r.Reader, r.Duplicates)
		}
		for i := range 2 {
			if id := fmt.Sprintf("member-%d-%d", qos, i); g.got[id] == 0 {
				g.t.Errorf("%s got nothing", id)
			}
		}
	}
}
