package app

import (
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// What a group is owed is owed once, whoever of its members gets it, and whatever becomes of them.
func TestVerifyCountsAGroupOnce(t *testing.T) {
	n := boot(t, testConfig(t, verifyRoutes))
	member := func(id string, qos byte, expiry uint32) *sim.Client {
		m := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: id, Version: packet.V5, Props: packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: expiry}},
			OnMessage: func(*packet.Publish) {}})
		if _, err := m.Subscribe(t.Context(), packet.Filter{Filter: "$share/g/fleet/#", QoS: qos}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}})
	settled := func(delivered uint64, when string) {
		t.Helper()
		eventually(t, when, func() bool {
			v := verifyNode(t, n)
			k := v.totals["pos"]
			return k.Delivered == delivered && k.Owed == delivered && v.Complete
		})
	}
	a, b := member("a", 1, 1000), member("b", 2, 1000)
	guest := member("guest", 1, 0)
	drive(t, pub, 1, 40, 2, 10)
	settled(200, "all is delivered, once")
	// Everybody goes while more comes; one comes back.
	a.Drop()
	drive(t, pub, 41, 60, 1, 10)
	settled(300, "those who stay have what the others would have had")
	b.Drop()
	guest.Drop()
	eventually(t, "all are away", func() bool { return n.broker.Stats().Connections == 1 })
	drive(t, pub, 61, 80, 1, 10)
	eventually(t, "the group keeps it, and nobody misses it", func() bool {
		v := verifyNode(t, n)
		return v.Complete && v.totals["pos"].Owed == 400 && v.totals["pos"].Delivered == 300 && n.broker.Stats().Session.GroupQueue == 100
	})
	if _, err := a.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	settled(400, "who is back has all of it")
	v := verifyNode(t, n)
	if len(v.findings) > 0 || v.totals["pos"].Published != 400 {
		t.Errorf("%+v %+v", v.totals["pos"], v.findings)
	}
}
