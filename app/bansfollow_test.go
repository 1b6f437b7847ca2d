package app

import (
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// TestBansOfOtherNodes: of two nodes on one cluster either hears of the bans that the other makes and lifts, at once; what both say of the same client ends with
// both of one mind; and a node that comes later reads it.
func TestBansOfOtherNodes(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	another := func() *Node {
		c := testConfig(t, "log: {kafka: ["+strings.Join(cluster.ListenAddrs(), ", ")+"]}\n")
		c.Log.Data = ""
		log, _ := testLogger(t)
		n, err := Start(t.Context(), Options{Config: c, Version: "test", Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { quickly(n) }) // they take the sessions from each other, and one of them goes without
		return n
	}
	banned := func(n *Node, client string) bool {
		for _, x := range n.broker.Bans() {
			if x.Client == client {
				return true
			}
		}
		return false
	}
	a, b := another(), another()
	if err := a.broker.Ban(broker.Ban{Client: "thief", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other node knows", func() bool { return banned(b, "thief") })
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(b.Address("MQTT")), Connect: packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "thief"}})
	var refused *sim.Refused
	if _, err := c.Connect(t.Context()); !errors.As(err, &refused) || refused.Code != packet.Banned {
		t.Errorf("at the other node: %v", err)
	}
	b.broker.Unban(broker.Ban{Client: "thief"})
	eventually(t, "the first node knows that it is lifted", func() bool { return !banned(a, "thief") })

	for i := range 20 {
		x, y := a, b
		if i%2 == 0 {
			x, y = b, a
		}
		if err := x.broker.Ban(broker.Ban{Client: "both", Reason: "again"}); err != nil {
			t.Fatal(err)
		}
		y.broker.Unban(broker.Ban{Client: "both"})
	}
	for _, n := range []*Node{a, b} {
		if err := n.broker.Ban(broker.Ban{Client: "last"}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both are of one mind", func() bool {
		return banned(a, "last") && banned(b, "last") && banned(a, "both") == banned(b, "both") && a.bans.quiet() && b.bans.quiet()
	})
	if last := another(); banned(last, "both") != banned(a, "both") || !banned(last, "last") {
		t.Errorf("a node that comes later has %+v, the first %+v", last.broker.Bans(), a.broker.Bans())
	}
}

// quiet tells whether all that we have said has its place in the log, and has been heard from there.
func (b *banBook) quiet() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending) == 0 && len(b.wrote) == 0
}
