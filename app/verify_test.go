package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
	"github.com/millrace-io/millrace/verify"
)

const verifyRoutes = `routes:
- {mqtt: "fleet/{v}/pos", topic: pos, key: "{v}", fields: {sequence: seq}}
- {mqtt: live/#, store: false}
`

// join connects a client, which may be taken away.
func join(t *testing.T, n *Node, o sim.ClientOptions) *sim.Client {
	t.Helper()
	o.Dial = sim.DialTCP(n.Address("MQTT"))
	c := sim.NewClient(o)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Drop)
	return c
}

// drive publishes the numbers from..to of some trucks and waits until all are acknowledged.
func drive(t *testing.T, c *sim.Client, from, to int, qos byte, pad int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := from; i <= to; i++ {
		for truck := range 5 {
			p := &packet.Publish{Topic: fmt.Appendf(nil, "fleet/truck-%d/pos", truck), QoS: qos, Payload: fmt.Appendf(nil, `{"seq":%d,"x":"%s"}`, i, strings.Repeat("x", pad))}
			if err := c.Publish(ctx, p, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "everything is acknowledged", func() bool { return c.Pending() == 0 })
}

// verdict is what verify says of the last minutes.
type verdict struct {
	verify.Summary
	totals   map[string]verify.Counts
	findings []verify.Finding
}

func (v *verdict) take(row verify.Row) error {
	switch {
	case row.Counts != nil && row.Counts.Minute == 0:
		if v.totals == nil {
			v.totals = map[string]verify.Counts{}
		}
		v.totals[row.Counts.Topic] = *row.Counts
	case row.Finding != nil:
		v.findings = append(v.findings, *row.Finding)
	case row.Summary != nil:
		v.Summary = *row.Summary
	}
	return nil
}

func request() verify.Request {
	now := time.Now()
	return verify.Request{From: now.Add(-10 * time.Minute), To: now.Add(time.Minute)}
}

func verifyNode(t *testing.T, n *Node) (v verdict) {
	t.Helper()
	if _, err := n.Verify(t.Context(), request(), v.take); err != nil {
		t.Fatal(err)
	}
	return v
}

// Published, logged and delivered are the same on a node that runs; what an absent subscriber is owed is pending; when the node has
// stopped its data says the same.
func TestVerifyFollowsMessagesToSubscribers(t *testing.T) {
	c := testConfig(t, verifyRoutes)
	n := boot(t, c)
	subscriber := func(id string, qos byte) *sim.Client {
		s := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: id, Version: packet.V5, Props: packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: 1000}},
			OnMessage: func(*packet.Publish) {}})
		if _, err := s.Subscribe(t.Context(), packet.Filter{Filter: "fleet/#", QoS: qos}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	subscriber("at-0", 0)
	subscriber("at-1", 1)
	away := subscriber("at-2", 2)
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}})
	drive(t, pub, 1, 40, 2, 10)
	publishLive(t, pub)
	var v verdict
	eventually(t, "all is delivered", func() bool {
		v = verifyNode(t, n)
		return v.totals["pos"].Delivered == 600
	})
	if k := v.totals["pos"]; !v.Complete || k.Published != 200 || k.Logged != 200 || k.Found != 200 || k.Owed != 600 || v.Notes != 0 || v.totals["store: false live/#"].Unlogged != 1 {
		t.Errorf("%+v", v)
	}
	away.Drop()
	eventually(t, "one is away", func() bool { return n.broker.Stats().Connections == 3 })
	drive(t, pub, 41, 50, 1, 10)
	eventually(t, "all that can be is delivered", func() bool {
		v = verifyNode(t, n)
		return v.totals["pos"].Delivered == 700
	})
	if k := v.totals["pos"]; !v.Complete || k.Owed != 750 || v.Kinds[verify.Pending] != 1 || len(v.findings) != 1 || v.findings[0].Count != 50 {
		t.Errorf("%+v", v)
	}
	overHTTP(t, n, v)
	if _, err := VerifyData(t.Context(), Options{Config: c, Logger: n.o.Logger}, request(), v.take); !errors.Is(err, vfs.ErrLocked) || !strings.Contains(err.Error(), "--http") {
		t.Errorf("on the folder of a node that runs: %v", err)
	}
	halt(t, n)
	var after verdict
	if _, err := VerifyData(t.Context(), Options{Config: c, Logger: n.o.Logger}, request(), after.take); err != nil {
		t.Fatal(err)
	}
	if k := after.totals["pos"]; !after.Complete || k.Found != 250 || k.Published != 250 || k.Owed != 750 || after.Kinds[verify.Pending] != 1 || len(after.Kinds) != 1 {
		t.Errorf("%+v", after)
	}
}

func publishLive(t *testing.T, c *sim.Client) {
	t.Helper()
	done := make(chan packet.Code, 1)
	if err := c.Publish(t.Context(), &packet.Publish{Topic: []byte("live/x"), QoS: 1, Payload: []byte("x")}, func(c packet.Code) { done <- c }); err != nil {
		t.Fatal(err)
	}
	<-done
}

// overHTTP asks the node as the command line does.
func overHTTP(t *testing.T, n *Node, want verdict) {
	t.Helper()
	r, err := http.Get("http://" + n.Address("HTTP") + fmt.Sprintf("/api/v1/verify?from=%d&to=%d", time.Now().Add(-time.Hour).UnixMilli(), time.Now().UnixMilli()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var got verdict
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		var row verify.Row
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&row); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if err := got.take(row); err != nil {
			t.Fatal(err)
		}
	}
	if r.StatusCode != http.StatusOK || got.Text == "" || got.Complete != want.Complete || got.totals["pos"].Found != want.totals["pos"].Found {
		t.Errorf("%d: %+v", r.StatusCode, got)
	}
	for query, text := range map[string]string{"topic=nowhere": "no route", "from=9&to=1": "is empty"} {
		code, body := fetch(t, n, "/api/v1/verify?"+query)
		if code == http.StatusOK && !strings.Contains(body, text) {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}

// A subscriber of QoS 0 that does not read loses messages: they are counted as that, and nothing else is wrong.
func TestVerifyTellsQoS0Drops(t *testing.T) {
	n := boot(t, testConfig(t, verifyRoutes))
	nc, err := net.Dial("tcp", n.Address("MQTT"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	// CONNECT "slow", keep-alive 0; SUBSCRIBE to # at QoS 0.
	if _, err := nc.Write([]byte("\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04slow\x82\x06\x00\x01\x00\x01#\x00")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is subscribed", func() bool { return n.broker.Stats().Session.Subscriptions == 1 })
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}})
	var v verdict
	for i := 1; v.Kinds[verify.QoS0Dropped] == 0; i++ {
		if i > 100 {
			t.Fatalf("nothing is dropped: %+v", v)
		}
		drive(t, pub, i*10-9, i*10, 1, 20_000)
		v = verifyNode(t, n)
	}
	eventually(t, "it adds up", func() bool {
		v = verifyNode(t, n)
		k := v.totals["pos"]
		return k.Owed == k.Published && k.Owed == k.Delivered+k.Dropped["qos0_slow_subscriber"]
	})
	if !v.Complete || v.Losses != 1 || v.Wrong != 0 || v.Notes != 0 {
		t.Errorf("%+v", v)
	}
}
