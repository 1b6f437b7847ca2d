package broker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

func keyOf(id string) session.Key { return session.Key{Principal: "anonymous", ClientID: id} }

// described asks for one client until it is as ok wants it.
func (n *node) described(id string, what string, ok func(broker.Client, []broker.Event) bool) (c broker.Client, subs []session.Subscription) {
	n.t.Helper()
	eventually(n.t, id+" "+what, func() bool {
		var past []broker.Event
		var err error
		if c, subs, past, _, err = n.b.Client(n.t.Context(), keyOf(id)); err != nil {
			n.t.Fatal(err)
		}
		return ok(c, past)
	})
	return c, subs
}

func all(session.Key, bool) bool { return true }

func kinds(past []broker.Event) string {
	var list []string
	for _, e := range past {
		list = append(list, e.Kind)
	}
	return strings.Join(list, " ")
}

func TestClients(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a keepalive=60 expiry=100 will=wills/a \"gone\"")
	a.send("SUBSCRIBE #1 x/+:1")
	a.expect("SUBACK #1 0x01")
	a.send("PUBLISH q1 #2 t=y \"12345\"")
	a.expect("PUBACK #2")
	n.connected("CONNECT v4 clean id=b")
	c, subs := n.described("a", "has published", func(c broker.Client, _ []broker.Event) bool { return c.MessagesIn == 1 && c.BytesOut > 0 })
	if !c.Connected || c.Listener != "test" || c.Transport != "tcp" || c.Version != packet.V5 || c.KeepAlive != 60 || c.CleanStart || c.Expiry != 100 ||
		c.Will != "wills/a" || c.Subscriptions != 1 || c.Address == "" || c.BytesIn < 20 || time.Since(c.Since) > time.Minute || time.Since(c.Seen) > time.Minute {
		t.Errorf("%+v", c)
	}
	if len(subs) != 1 || subs[0].Filter != "x/+" || subs[0].QoS != 1 {
		t.Errorf("%+v", subs)
	}
	seen := map[string]broker.Client{}
	if err := n.b.Clients(t.Context(), all, func(c *broker.Client) { seen[c.ClientID] = *c }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || !seen["b"].CleanStart || seen["b"].Version != packet.V311 {
		t.Errorf("%+v", seen)
	}
	if keys, err := n.b.Find(t.Context(), "a"); err != nil || !slices.Equal(keys, []session.Key{keyOf("a")}) {
		t.Errorf("%v %v", keys, err)
	}
	a.nc.Close()
	n.described("a", "is away", func(c broker.Client, _ []broker.Event) bool { return !c.Connected })
	n.connected("CONNECT v5 id=c").send("PUBLISH q1 #1 t=x/1 \"m\"")
	c, _ = n.described("a", "has a queue", func(c broker.Client, _ []broker.Event) bool { return c.Queued == 1 })
	if c.Connected || c.Since.IsZero() || c.Ends == 0 {
		t.Errorf("%+v", c)
	}
	if _, _, past, ok, err := n.b.Client(t.Context(), keyOf("nobody")); ok || err != nil || past != nil {
		t.Errorf("nobody: %v %v %v", past, ok, err)
	}
}

// The end that an operator puts to a connection is one: with the code, the will fires, the session stays.
func TestKick(t *testing.T) {
	n := newNode(t, nil)
	w := n.connected("CONNECT v5 id=w")
	w.send("SUBSCRIBE #1 wills/#:0")
	w.expect("SUBACK #1 0x00")
	a := n.connected("CONNECT v5 id=a expiry=100 will=wills/a \"gone\"")
	if !n.b.Kick(keyOf("a"), packet.UseAnotherServer) {
		t.Fatal("not kicked")
	}
	a.expect("DISCONNECT 0x9C")
	a.expectClosed()
	w.expect("PUBLISH q0 t=wills/a \"gone\"")
	eventually(t, "the end is counted", func() bool { return n.b.Stats().Ended["kicked"] == 1 })
	n.described("a", "is remembered as kicked", func(_ broker.Client, past []broker.Event) bool { return kinds(past) == "connected kicked" })
	if n.b.Kick(keyOf("a"), packet.AdministrativeAction) || n.b.Kick(keyOf("nobody"), packet.AdministrativeAction) {
		t.Error("who is not connected is kicked")
	}
	n.dial().send("CONNECT v5 id=a expiry=100")
	n.described("a", "is there again", func(c broker.Client, past []broker.Event) bool {
		return c.Connected && strings.Contains(past[len(past)-1].Detail, "session resumed")
	})
}

func TestEndSession(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a expiry=100")
	if _, err := n.b.EndSession(t.Context(), keyOf("nobody")); !errors.Is(err, session.ErrNoSession) {
		t.Error(err)
	}
	a.send("SUBSCRIBE #1 x:1")
	a.expect("SUBACK #1 0x01")
	a.nc.Close()
	n.described("a", "is away", func(c broker.Client, _ []broker.Event) bool { return !c.Connected })
	p := n.connected("CONNECT v5 id=p")
	for i := range 3 {
		p.send(fmt.Sprintf("PUBLISH q1 #%d t=x \"m\"", i+1))
	}
	n.described("a", "has a queue", func(c broker.Client, _ []broker.Event) bool { return c.Queued == 3 })
	given, err := n.b.EndSession(t.Context(), keyOf("a"))
	if given != 3 || err != nil {
		t.Errorf("%d %v", given, err)
	}
	if _, _, past, ok, _ := n.b.Client(t.Context(), keyOf("a")); ok || !strings.HasSuffix(kinds(past), "session_ended") {
		t.Errorf("still there: %v; %v", ok, past)
	}
	n.stop()
	n.start()
	a = n.dial()
	a.send("CONNECT v5 id=a expiry=100")
	a.expect("CONNACK") // no session present
	if given, err := n.b.EndSession(t.Context(), keyOf("a")); given != 0 || err != nil {
		t.Errorf("%d %v", given, err)
	}
	a.expect("DISCONNECT 0x98")
	a.expectClosed()
}

// A history has the last events of a client, and is of the clients that something happened to last.
func TestHistory(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a expiry=100")
	b := n.dial()
	b.send("CONNECT v5 id=a expiry=100")
	b.expect("CONNACK present")
	a.expect("DISCONNECT 0x8E")
	n.described("a", "was taken over", func(_ broker.Client, past []broker.Event) bool { return strings.Contains(kinds(past), "taken_over") })
	b.send("DISCONNECT")
	n.described("a", "has gone", func(_ broker.Client, past []broker.Event) bool {
		return past[len(past)-1].Kind == broker.EventDisconnected && past[len(past)-1].Detail == "client_disconnect"
	})
	for range 15 {
		c := n.connected("CONNECT v5 id=often")
		c.send("DISCONNECT")
		c.expectClosed()
	}
	n.described("often", "has as much of a past as there may be", func(_ broker.Client, past []broker.Event) bool { return len(past) == 20 })
}

// A caller that does not wait does not leave the loop with work.
func TestImpatientCaller(t *testing.T) {
	n := newNode(t, nil)
	for i := range 300 { // more than one step looks at
		n.connected(fmt.Sprintf("CONNECT v4 clean id=c%d", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		err := n.b.Clients(ctx, all, func(*broker.Client) {})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if err := n.b.Clients(t.Context(), all, func(*broker.Client) {}); err != nil {
		t.Error(err)
	}
	eventually(t, "no walk is left behind", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "session.(*Core).Walk")
	})
	b := n.b
	n.stop()
	if err := b.Clients(t.Context(), all, func(*broker.Client) {}); err == nil {
		t.Error("a stopped broker has clients")
	}
}

func TestTopicsAndRetained(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a")
	a.send("PUBLISH q1 #1 retain t=r/1 \"one\"", "PUBLISH q1 #2 retain t=r/2 \"two\"", "PUBLISH q1 #3 t=r/1 \"x\"", "SUBSCRIBE #4 r/#:0")
	eventually(t, "two are retained", func() bool {
		list, _, more, err := n.b.Retained(t.Context(), "r/+", "", 10)
		return err == nil && !more && len(list) == 2 && list[0].Topic == "r/1" && list[1].Bytes == 6
	})
	list, last, more, err := n.b.Retained(t.Context(), "#", "", 1)
	if err != nil || len(list) != 1 || !more {
		t.Errorf("%v %v %v", list, more, err)
	}
	if list, _, _, _ = n.b.Retained(t.Context(), "#", last, 1); len(list) != 1 || list[0].Topic != "r/2" {
		t.Errorf("%v", list)
	}
	counts := map[string]int64{}
	if _, _, err := n.b.Topics(t.Context(), func(k *session.TopicCount) { counts[k.Topic] = k.Messages }); err != nil || counts["r/1"] != 2 || counts["r/2"] != 1 {
		t.Errorf("%v %v", counts, err)
	}
	got, total, err := n.b.Receivers(t.Context(), "r/7", 10)
	if err != nil || total != 1 || got[0].ClientID != "a" || !slices.Equal(got[0].Filters, []string{"r/#"}) {
		t.Errorf("%v %d %v", got, total, err)
	}
}
