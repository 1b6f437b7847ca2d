package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// farewellOf reads a client's DISCONNECT.
func farewellOf(c *client) *packet.Disconnect {
	c.t.Helper()
	d, ok := c.next().(*packet.Disconnect)
	if !ok {
		c.t.Fatalf("not sent away")
	}
	return d
}

// TestEvacuate: what was read is acknowledged, clients hear where to go, wills stay silent, sessions stay; and nobody gets in until Admit.
func TestEvacuate(t *testing.T) {
	n := newNode(t, nil)
	watcher := n.connected("CONNECT v5 id=watcher expiry=1000")
	watcher.send("SUBSCRIBE #1 will/+:1")
	watcher.expect("SUBACK #1 0x01")
	v5 := n.connected(`CONNECT v5 id=v5 expiry=1000 will=will/v5 "dead"`)
	v4 := n.connected(`CONNECT v4 clean id=v4 will=will/v4 "dead"`)
	n.store.hold()
	v5.send(`PUBLISH q1 #7 t=x "in flight"`)
	v4.send(`PUBLISH q1 #8 t=x "in flight"`)
	eventually(t, "the appends", func() bool { k, _ := n.store.held(); return k == 2 })
	left := make(chan error, 1)
	go func() { left <- n.b.Evacuate(context.Background(), "other.example:1883", 0) }()
	eventually(t, "everybody to be told", func() bool { return n.b.Evacuation().Told == 3 })
	if e := n.b.Evacuation(); !e.Running || e.Total != 3 || e.Reference != "other.example:1883" {
		t.Errorf("%+v", e)
	}
	if err := n.b.Evacuate(context.Background(), "", 0); !errors.Is(err, broker.ErrEvacuating) {
		t.Errorf("a second one: %v", err)
	}
	n.store.release()
	v5.expect("PUBACK #7")
	if d := farewellOf(v5); d.Code != packet.UseAnotherServer || d.Props.ServerReference != "other.example:1883" {
		t.Errorf("v5: %+v", d)
	}
	v5.expectClosed()
	v5.nc.Close()
	v4.expect("PUBACK #8")
	v4.expectClosed()
	v4.nc.Close()
	farewellOf(watcher)
	watcher.nc.Close()
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	if e := n.b.Evacuation(); !e.Active || e.Running || e.Left != 0 || e.Cut != 0 {
		t.Errorf("%+v", e)
	}

	late := n.dial()
	late.send("CONNECT v5 clean id=late")
	if a := late.next().(*packet.Connack); a.Code != packet.UseAnotherServer || a.Props.ServerReference != "other.example:1883" {
		t.Errorf("a latecomer: %+v", a)
	}
	old := n.dial()
	old.send("CONNECT v4 clean id=old")
	old.expect("CONNACK 0x88")

	if !n.b.Admit() || n.b.Admit() {
		t.Error("not let in once")
	}
	v5 = n.dial()
	v5.send("CONNECT v5 id=v5 expiry=1000")
	v5.expect("CONNACK present")
	watcher = n.dial()
	watcher.send("CONNECT v5 id=watcher expiry=1000")
	watcher.expect("CONNACK present")
	watcher.quiet() // no will has come
	if got := n.store.logged("x"); len(got) != 2 {
		t.Errorf("logged: %q", got)
	}
	if got := len(n.store.logged("will/v5")) + len(n.store.logged("will/v4")); got != 0 {
		t.Errorf("%d wills fired", got)
	}
	if got := n.b.Stats().Dropped["will_moved"]; got != 2 {
		t.Errorf("%d wills counted", got)
	}
}

// TestEvacuateAtRate: clients leave one after the other, none is told twice, and a cancelled evacuation leaves the rest where they are.
func TestEvacuateAtRate(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *broker.Broker, dial func() *client) {
		var cs []*client
		for i := range 100 {
			c := dial()
			c.send(fmt.Sprintf("CONNECT v5 clean id=c%d", i))
			c.expect("CONNACK")
			cs = append(cs, c)
			go func() { // a client that takes its leave closes its side
				farewellOf(&client{t: t, nc: c.nc, dec: c.dec})
				c.nc.Close()
			}()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := b.Evacuate(ctx, "", 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if left := b.Stats().Connections; left < 48 || left > 50 {
			t.Errorf("%d of 100 are left after 5 s at 10 a second", left)
		}
		c := dial()
		c.send("CONNECT v5 clean id=again")
		c.expect("CONNACK")
		c.nc.Close()
		began := time.Now()
		if err := b.Evacuate(t.Context(), "", 10); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 4*time.Second || took > 7*time.Second {
			t.Errorf("the other half took %v", took)
		}
		for _, c := range cs {
			c.nc.Close()
		}
	})
}

// TestEvacuateStubborn: a client whose publishes have no outcome for too long is cut off.
func TestEvacuateStubborn(t *testing.T) {
	var store *memStore
	inBubble(t, func(o *broker.Options) { store = o.Store.(*memStore) }, func(t *testing.T, b *broker.Broker, dial func() *client) {
		c := dial()
		c.send("CONNECT v5 clean id=c")
		c.expect("CONNACK")
		store.hold()
		defer store.release()
		c.send(`PUBLISH q1 #1 t=x "m"`)
		began := time.Now()
		if err := b.Evacuate(t.Context(), "", 0); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if e := b.Evacuation(); e.Cut != 1 {
			t.Errorf("%+v", e)
		}
	})
}

// TestRetire: from a server that is about to end, those who have nowhere else to go keep their wills, for they come back.
func TestRetire(t *testing.T) {
	for server, fires := range map[string]bool{"": true, "other.example:1883": false} {
		n := newNode(t, nil)
		a := n.connected(`CONNECT v5 id=a expiry=1000 will=will/a "dead"`)
		if err := n.b.Retire(context.Background(), server, 100); err != nil {
			t.Fatal(err)
		}
		want := packet.ServerShuttingDown
		if server != "" {
			want = packet.UseAnotherServer
		}
		if d := farewellOf(a); d.Code != want || d.Props.ServerReference != server {
			t.Errorf("%q: %+v", server, d)
		}
		a.nc.Close()
		n.stop()
		if got := len(n.store.logged("will/a")); got != 0 {
			t.Errorf("%q: fired while the server ended", server)
		}
		n.start()
		if fires {
			eventually(t, "the will of a client that has not come back", func() bool { return len(n.store.logged("will/a")) == 1 })
			continue
		}
		w := n.connected("CONNECT v5 clean id=w")
		w.send("SUBSCRIBE #1 will/a:1")
		w.expect("SUBACK #1 0x01")
		w.quiet()
		if got := len(n.store.logged("will/a")); got != 0 {
			t.Errorf("%q: fired after the restart", server)
		}
	}
}

// TestAdmitMeanwhile: who was sent away before clients were let in again leaves as it was told to, and leaves nothing behind.
func TestAdmitMeanwhile(t *testing.T) {
	n := newNode(t, nil)
	c := n.connected(`CONNECT v5 clean id=c will=will/c "dead"`)
	n.store.hold()
	c.send(`PUBLISH q1 #1 t=x "m"`)
	eventually(t, "the append", func() bool { k, _ := n.store.held(); return k == 1 })
	left := make(chan error, 1)
	go func() { left <- n.b.Evacuate(context.Background(), "other.example:1883", 0) }()
	eventually(t, "it to be told", func() bool { return n.b.Evacuation().Told == 1 })
	n.b.Admit()
	if err := <-left; !errors.Is(err, broker.ErrAdmitted) {
		t.Errorf("evacuate: %v", err)
	}
	n.connected("CONNECT v5 clean id=d").quiet()
	n.store.release()
	c.expect("PUBACK #1")
	if d := farewellOf(c); d.Code != packet.UseAnotherServer || d.Props.ServerReference != "other.example:1883" {
		t.Errorf("%+v", d)
	}
	c.nc.Close()
	eventually(t, "its session to end", func() bool { return n.b.Stats().Session.Sessions == 1 })
	if got := len(n.store.logged("will/c")); got != 0 {
		t.Error("its will has fired")
	}
}
