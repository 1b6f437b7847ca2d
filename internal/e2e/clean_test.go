package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// cleanLoad is devices that begin anew at each connection, as most do that only send: what was acknowledged to them is as safe as anybody's.
type cleanLoad struct {
	t          *testing.T
	ledger     *sim.Ledger
	stop, end  context.CancelFunc
	load, heir chan error
}

const cleanFilter = "load/clean/#"

func newCleanLoad(t *testing.T, n *node) *cleanLoad {
	c := &cleanLoad{t: t, ledger: sim.NewLedger(), load: make(chan error, 1), heir: make(chan error, 1)}
	loadCtx, stop := context.WithCancel(t.Context())
	watchCtx, end := context.WithCancel(t.Context())
	c.stop, c.end = stop, end
	t.Cleanup(end)
	ready := make(chan struct{})
	go func() {
		_, err := sim.Watch(watchCtx, sim.WatchOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent("watch-clean"), Filter: cleanFilter, QoS: 1, Ledger: c.ledger,
			Ready: func() { close(ready) }})
		c.heir <- err
	}()
	<-ready
	go func() {
		o := sim.LoadOptions{Clients: 4, Prefix: "clean-", Topic: "load/clean/{client}/{topic}", Topics: 2, Size: 64, Rate: 500}
		o.Dial, o.QoS, o.Window, o.Ledger = sim.DialTCP(n.mqtt), 1, 16, c.ledger
		o.Connect = packet.Connect{Version: packet.V5, CleanStart: true, KeepAlive: 60}
		o.Grace = time.Minute
		_, err := sim.Load(loadCtx, o)
		c.load <- err
	}()
	return c
}

// settle ends the load, and checks that everything acknowledged has come.
func (c *cleanLoad) settle(n *node) {
	c.t.Helper()
	c.stop()
	if err := <-c.load; err != nil {
		c.t.Fatalf("clean load: %v", err)
	}
	r := c.ledger.Reader("watch-clean", cleanFilter, 1)
	eventually(c.t, "what was acknowledged to clean sessions has come", func() bool { return r.Report().Missing == 0 })
	c.end()
	if err := <-c.heir; err != nil {
		c.t.Fatalf("clean load: watch: %v", err)
	}
	log := c.ledger.Reader("log", cleanFilter, 1).All()
	readLog(c.t, n, cleanFilter, log)
	for _, r := range []sim.Report{r.Report(), log.Report()} {
		c.t.Logf("clean sessions, %s", r.String())
		if err := r.Err(); err != nil {
			c.t.Errorf("clean sessions, %s: %v", r.Reader, err)
		}
		if r.Acked == 0 {
			c.t.Error("clean sessions: nothing was acknowledged: the test tested nothing")
		}
	}
}
