package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// device speaks MQTT by hand.
type device struct {
	t   *testing.T
	nc  net.Conn
	dec packet.Decoder
	buf []byte
}

func (n *Node) device(t *testing.T, c packet.Connect) *device {
	t.Helper()
	nc, err := net.Dial("tcp", n.Address("MQTT"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	d := &device{t: t, nc: nc}
	d.dec.Version = c.Version
	d.send(&c)
	return d
}

func (d *device) send(ps ...packet.Packet) {
	d.t.Helper()
	var b []byte
	for _, p := range ps {
		var err error
		if b, err = p.Append(b, d.dec.Version); err != nil {
			d.t.Fatal(err)
		}
	}
	if _, err := d.nc.Write(b); err != nil {
		d.t.Fatal(err)
	}
}

// next is the next packet; nil: the connection is closed.
func (d *device) next() packet.Packet {
	d.t.Helper()
	d.nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		p, n, _, err := d.dec.Next(d.buf)
		if err != nil {
			d.t.Fatal(err)
		}
		if n > 0 {
			d.buf = d.buf[n:]
			return p
		}
		more := make([]byte, 4096)
		m, err := d.nc.Read(more)
		if d.buf = append(d.buf, more[:m]...); m == 0 {
			if err != io.EOF && !strings.Contains(err.Error(), "reset") {
				d.t.Fatal(err)
			}
			return nil
		}
	}
}

func (d *device) accepted() *device {
	d.t.Helper()
	if a, ok := d.next().(*packet.Connack); !ok || a.Code != packet.Success {
		d.t.Fatalf("not accepted: %+v", a)
	}
	return d
}

func v5(id string) packet.Connect {
	return packet.Connect{Version: packet.V5, CleanStart: true, ClientID: id}
}

func TestBansSurviveRestarts(t *testing.T) {
	c := testConfig(t, "")
	n := boot(t, c)
	a := n.device(t, v5("a")).accepted()
	soon := time.Now().Add(time.Second)
	hour := time.Now().Add(time.Hour).Round(0)
	for _, b := range []broker.Ban{
		{Client: "a", Reason: "it shouts", By: "alice", Until: hour}, {Principal: "mallory"}, {Client: "x", Principal: "y"},
		{Network: netip.MustParsePrefix("192.0.2.0/24")}, {Client: "lifted"}, {Client: "brief", Until: soon},
	} {
		if err := n.broker.Ban(b); err != nil {
			t.Fatal(err)
		}
	}
	if d, ok := a.next().(*packet.Disconnect); !ok || d.Code != packet.AdministrativeAction {
		t.Errorf("%+v", d)
	}
	n.broker.Unban(broker.Ban{Client: "lifted"})
	n.broker.Unban(broker.Ban{Principal: "mallory"})
	if err := n.broker.Ban(broker.Ban{Principal: "mallory", Reason: "again"}); err != nil {
		t.Fatal(err)
	}
	want := n.broker.Bans()
	halt(t, n)
	time.Sleep(time.Until(soon))

	n = boot(t, c)
	got := n.broker.Bans()
	if len(want) != 5 || len(got) != 4 {
		t.Fatalf("%d bans of %d: %+v", len(got), len(want), got)
	}
	for _, b := range got {
		if b.Client == "a" && (b.Reason != "it shouts" || b.By != "alice" || !b.Until.Equal(hour) || time.Since(b.Since) > time.Minute) {
			t.Errorf("%+v", b)
		}
		if b.Principal == "mallory" && b.Reason != "again" || b.Client == "lifted" || b.Client == "brief" {
			t.Errorf("%+v", b)
		}
	}
	if k, ok := n.device(t, v5("a")).next().(*packet.Connack); !ok || k.Code != packet.Banned {
		t.Errorf("%+v", k)
	}
	halt(t, n)
	n = boot(t, c)
	if got := n.broker.Bans(); len(got) != 4 {
		t.Errorf("after another restart: %+v", got)
	}
}

// TestBanBook: a log that refuses, and does not say what became of an append, loses no ban and no end of one.
func TestBanBook(t *testing.T) {
	log := eventlog.New(logtest.NewMemory(7, logtest.Hostility{Refuse: 0.3, Unknown: 0.3}))
	defer log.Close()
	top, err := log.Ensure(t.Context(), eventlog.TopicSpec{Name: bansTopic, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	open := func() *banBook {
		return &banBook{log: log, part: eventlog.Part{Topic: top.ID}, now: func() int64 { return 1000 }, pending: map[banKey]banWord{}, wake: make(chan struct{}, 1)}
	}
	b := open()
	want := map[string]bool{}
	for i := range 1200 { // more than one record batch
		x := broker.Ban{Client: fmt.Sprint("c", i%900)}
		banned := i%3 > 0
		b.told(x, banned)
		want[x.Client] = banned
		if i%100 == 0 {
			b.write(t.Context()) // what fails is tried again
		}
	}
	eventually(t, "everything is written", func() bool { return b.write(t.Context()) == nil })
	if len(b.pending)+len(b.order) > 0 {
		t.Errorf("%d are left", len(b.pending))
	}
	again := open()
	if err := again.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, x := range again.bans {
		got[x.Client] = true
	}
	for id, banned := range want {
		if got[id] != banned {
			t.Errorf("%s: banned %v, want %v", id, got[id], banned)
		}
	}
	var bad eventlog.Builder
	bad.Add(1, []byte("{"), []byte("{}"), nil)
	bad.Add(1, []byte(`{"client":"z"}`), []byte("nonsense"), nil)
	bad.Add(1, []byte(`{}`), []byte("{}"), nil)
	bad.Add(1, []byte(`{"network":"10.0.0.0/99"}`), []byte("{}"), nil)
	bad.Add(1, nil, nil, nil)
	x, _, err := bad.Batch(again.part, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the nonsense is written", func() bool { _, err := log.AppendWait(context.Background(), x); return err == nil })
	third := open()
	if err := third.read(t.Context()); err != nil || len(third.bans) != len(again.bans) {
		t.Errorf("%d bans, %v", len(third.bans), err)
	}
}

// TestDrainOnStop: first the node says that it is not ready, then its clients hear where to go; what they have in flight is acknowledged.
func TestDrainOnStop(t *testing.T) {
	c := testConfig(t, "drain: {reference: \"other.example:1883\", wait: 300ms, rate: 1000}")
	n := boot(t, c)
	a := n.device(t, v5("a")).accepted()
	old := n.device(t, packet.Connect{Version: packet.V311, CleanStart: true, ClientID: "old"}).accepted()
	stopped := make(chan struct{})
	go func() { defer close(stopped); halt(t, n) }()
	eventually(t, "it is not ready", func() bool { code, _ := fetch(t, n, "/readyz"); return code == 503 })
	a.send(&packet.Publish{QoS: 1, PacketID: 1, Topic: []byte("x"), Payload: []byte("still here")})
	if k, ok := a.next().(*packet.Ack); !ok || k.PacketID != 1 {
		t.Errorf("%+v", k)
	}
	if d, ok := a.next().(*packet.Disconnect); !ok || d.Code != packet.UseAnotherServer || d.Props.ServerReference != "other.example:1883" {
		t.Errorf("%+v", d)
	}
	if p := old.next(); p != nil {
		t.Errorf("3.1.1: %+v", p)
	}
	<-stopped
}

// TestNotReadyWhileEvacuated: a load balancer must not send clients that would be refused.
func TestNotReadyWhileEvacuated(t *testing.T) {
	n := boot(t, testConfig(t, ""))
	if err := n.broker.Evacuate(t.Context(), "", 0); err != nil {
		t.Fatal(err)
	}
	if code, body := fetch(t, n, "/readyz"); code != 503 || !strings.Contains(body, "none are let in") {
		t.Errorf("%d %s", code, body)
	}
	n.broker.Admit()
	if code, _ := fetch(t, n, "/readyz"); code != 200 {
		t.Errorf("%d after clients are let in again", code)
	}
}

// TestLimitsOfConfiguration: what is written in the file is what clients meet.
func TestLimitsOfConfiguration(t *testing.T) {
	c := testConfig(t, `
limits:
  receive_maximum: 2
  rates: {messages: 10/s burst 5}
  flapping: {losses: 3, window: 1m, ban: 1h}
`)
	c.Listeners.MQTT[0].Lenient = true
	n := boot(t, c)
	a := n.device(t, v5("a")).accepted()
	var ps []packet.Packet
	for i := range 10 { // more than the receive maximum at once
		ps = append(ps, &packet.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte("x")})
	}
	began := time.Now()
	a.send(ps...)
	for i := range 10 {
		if k, ok := a.next().(*packet.Ack); !ok || int(k.PacketID) != i+1 || k.Code.Failed() {
			t.Fatalf("%+v", k)
		}
	}
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("10 messages took %v", took)
	}
	code, metrics := fetch(t, n, "/metrics")
	for _, want := range []string{`millrace_mqtt_pauses_total{reason="message_rate"}`, `millrace_refused_total{reason="receive_maximum_exceeded_tolerated"}`} {
		if code != 200 || !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	for range 3 {
		n.device(t, v5("flaps")).accepted().nc.Close()
		eventually(t, "it has gone", func() bool { return n.broker.Stats().Connections == 1 })
	}
	if k, ok := n.device(t, v5("flaps")).next().(*packet.Connack); !ok || k.Code != packet.Banned {
		t.Errorf("%+v", k)
	}
}
