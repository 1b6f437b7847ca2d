package app

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// persistent is the CONNECT of a client whose session outlives its connections.
func persistent(id string) packet.Connect {
	c := packet.Connect{Version: packet.V5, ClientID: id, KeepAlive: 60}
	c.Props.Has, c.Props.SessionExpiry = packet.PSessionExpiry, 3600
	return c
}

// clusterLoad is devices that publish at QoS 1 and at QoS 2, with a subscriber to each, and the ledgers of who sent, was acknowledged and got what.
type clusterLoad struct {
	t         *testing.T
	number    int32 // each has clients and topics of its own
	ledgers   [3]*sim.Ledger
	acked     [3]atomic.Uint64
	connects  [3]atomic.Uint64
	loads     chan error
	watches   chan error
	stopLoad  context.CancelFunc
	stopWatch context.CancelFunc
}

func (l *clusterLoad) name(qos byte) (prefix, filter string) {
	return fmt.Sprintf("q%d-%d-", qos, l.number), fmt.Sprintf("load/%d/%d/#", qos, l.number)
}

// loadClients publish at each QoS.
const loadClients = 8

var loadNumber atomic.Int32

// startLoad begins. address is asked at each connection: a node that starts again may be elsewhere.
func startLoad(t *testing.T, address func() string, rate float64) *clusterLoad {
	t.Helper()
	l := &clusterLoad{t: t, number: loadNumber.Add(1), ledgers: [3]*sim.Ledger{1: sim.NewLedger(), 2: sim.NewLedger()}, loads: make(chan error, 2), watches: make(chan error, 2)}
	loadCtx, stopLoad := context.WithCancel(t.Context())
	watchCtx, stopWatch := context.WithCancel(t.Context())
	l.stopLoad, l.stopWatch = stopLoad, stopWatch
	dial := dialTo(address)
	for qos := byte(1); qos <= 2; qos++ {
		ready := make(chan struct{})
		prefix, filter := l.name(qos)
		go func() {
			_, err := sim.Watch(watchCtx, sim.WatchOptions{Dial: dial, Connect: persistent("watch-" + prefix),
				Filter: filter, QoS: qos, Ledger: l.ledgers[qos], Ready: func() { close(ready) }})
			l.watches <- err
		}()
		select {
		case <-ready:
		case <-time.After(30 * time.Second):
			t.Fatal("no subscriber")
		}
		go func() {
			o := sim.LoadOptions{Clients: loadClients, Prefix: prefix, Topic: strings.TrimSuffix(filter, "#") + "{client}/{topic}", Topics: 3, Size: 64, Rate: rate}
			o.Dial, o.Connect, o.QoS, o.Window, o.Ledger = dial, persistent(""), qos, 16, l.ledgers[qos]
			o.Grace, o.Every = time.Minute, 20*time.Millisecond
			o.Report = func(s sim.FleetStats) {
				l.acked[qos].Store(s.Acked)
				l.connects[qos].Store(s.Connects)
			}
			_, err := sim.Load(loadCtx, o)
			l.loads <- err
		}()
	}
	return l
}

// more waits until n more are acknowledged at each QoS.
func (l *clusterLoad) more(n uint64) {
	l.t.Helper()
	l.moreAt(1, n)
	l.moreAt(2, n)
}

func (l *clusterLoad) moreAt(qos byte, n uint64) {
	l.t.Helper()
	want := l.acked[qos].Load() + n
	eventually(l.t, fmt.Sprintf("%d more are acknowledged at QoS %d", n, qos), func() bool { return l.acked[qos].Load() >= want })
}

func (l *clusterLoad) ackedNow() uint64    { return l.acked[1].Load() + l.acked[2].Load() }
func (l *clusterLoad) connectsNow() uint64 { return l.connects[1].Load() + l.connects[2].Load() }

// finish ends the load, and wants that the subscribers have all that was acknowledged, in order, at QoS 2 once.
func (l *clusterLoad) finish() { l.t.Helper(); l.end(true) }

// finishButFor is finish where a topic was deleted: what was in it and had not been delivered is gone, and nothing else is amiss.
func (l *clusterLoad) finishButFor() { l.t.Helper(); l.end(false) }

func (l *clusterLoad) end(whole bool) {
	l.t.Helper()
	l.stopLoad()
	for range 2 {
		if err := <-l.loads; err != nil {
			l.t.Fatalf("load: %v", err)
		}
	}
	for qos := byte(1); qos <= 2; qos++ {
		prefix, filter := l.name(qos)
		r := l.ledgers[qos].Reader("watch-"+prefix, filter, qos)
		if whole {
			eventually(l.t, "the subscriber has everything", func() bool { return r.Report().Missing == 0 })
		}
		report := r.Report()
		l.t.Logf("QoS %d, %s", qos, report.String())
		if !whole {
			report.Missing = 0
		}
		if err := report.Err(); err != nil {
			l.t.Errorf("QoS %d: %v", qos, err)
		}
		if qos == 2 && (report.Twice > 0 || report.Duplicates > 0) {
			l.t.Errorf("QoS 2: %d twice, %d duplicates", report.Twice, report.Duplicates)
		}
	}
	l.stopWatch()
	for range 2 {
		if err := <-l.watches; err != nil {
			l.t.Fatalf("watch: %v", err)
		}
	}
}

func dialTo(address func() string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address()) }
}

// quickly stops a node whose cluster is away: what would wait is cut short.
func quickly(n *Node) {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_ = n.Stop(ctx)
}
