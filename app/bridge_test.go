package app

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// site is a node that can be stopped, killed and started again on the same files and, where it matters, the same address.
type site struct {
	t    *testing.T
	text string // of its configuration
	mem  *vfs.Mem
	port string
	node *Node
	log  *logBuffer
	tune func(*bridge.Spec)

	impatient bool // with a message that ends connections
}

const bridgeRoutes = `
log: {partitions: 2, session_partitions: 1, retained_partitions: 1}
limits: {packet_bytes: 16384, flapping: {losses: 0}} # the faults of these networks are many a minute
routes:
- {mqtt: "fleet/{vehicle}/telemetry", topic: telemetry, key: "{vehicle}", partitions: 3}
- {mqtt: "cmd/{vehicle}", topic: commands, key: "{vehicle}", partitions: 2}
`

func newSite(t *testing.T, text string) *site {
	return &site{t: t, text: bridgeRoutes + text, mem: vfs.NewMem()}
}

// reserve takes an address for a site, so that others can be told it before it is started.
func (s *site) reserve() *site {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.port = l.Addr().String()
	l.Close()
	return s
}

func (s *site) start() *site {
	s.t.Helper()
	c, err := config.Parse(s.text, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	bind := "127.0.0.1:0"
	if s.port != "" {
		bind = s.port
	}
	c.Listeners = config.Listeners{MQTT: []config.MQTT{{Bind: config.Address(bind)}}, HTTP: config.HTTP{Bind: "127.0.0.1:0"}}
	log, buffer := testLogger(s.t)
	s.log = buffer
	eventually(s.t, "the address is free", func() bool {
		s.node, err = Start(s.t.Context(), Options{Config: c, Version: "test", Logger: log, Files: s.mem, tune: tuning{engine: smallEngine, bridge: func(o *bridge.Options) {
			o.SaveEvery = 50 * time.Millisecond
			if s.impatient {
				o.GiveUpAfter = time.Millisecond
			}
			for i := range o.Bridges {
				b := &o.Bridges[i]
				b.RetryMin, b.RetryMax, b.PerMinute = 5*time.Millisecond, 50*time.Millisecond, 1000
				if s.tune != nil {
					s.tune(b)
				}
			}
		}}})
		return err == nil || !strings.Contains(err.Error(), "taken")
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if s.port == "" {
		s.port = s.node.Address("MQTT")
	}
	s.t.Cleanup(func() { s.stop() })
	return s
}

// smallEngine makes files small, as many nodes are in memory.
func smallEngine(o *engine.Options) {
	o.WALFileBytes, o.WALFiles, o.CheckpointBytes, o.MemoryBytes = 672<<10, 3, 200<<10, 3<<20
	o.SegmentBytes, o.ReserveBytes = 256<<10, 1<<20
}

func (s *site) stop() {
	if s.node != nil {
		halt(s.t, s.node)
		s.node = nil
	}
}

// kill ends the node as a power cut does: of what is not synced anything may be gone.
func (s *site) kill(rng *rand.Rand) {
	s.mem = s.mem.Crash(rng)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = s.node.Stop(ctx) // its files are dead
	s.node = nil
}

// status is that of its only bridge.
func (s *site) status() bridge.Status {
	s.t.Helper()
	list, err := s.node.Bridges(s.t.Context())
	if err != nil || len(list) != 1 {
		s.t.Fatalf("%v, %v", list, err)
	}
	return list[0]
}

func (s *site) connected() *site {
	s.t.Helper()
	eventually(s.t, "the bridge is connected", func() bool { return s.status().State == bridge.Connected })
	return s
}

// client joins a client.
func (s *site) client(id string, version packet.Version) *sim.Client {
	s.t.Helper()
	return joinAt(s.t, s.port, id, version)
}

func joinAt(t *testing.T, address, id string, version packet.Version) *sim.Client {
	t.Helper()
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(address), Connect: packet.Connect{ClientID: id, Version: version, CleanStart: true}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Drop(); <-c.Done() })
	return c
}

// inbox keeps what a subscriber got, by topic.
type inbox struct {
	mu  sync.Mutex
	got []*packet.Publish
}

func watchAt(t *testing.T, address, id, filter string, version packet.Version) *inbox {
	t.Helper()
	x := &inbox{}
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(address), Connect: packet.Connect{ClientID: id, Version: version, CleanStart: true}, OnMessage: func(p *packet.Publish) {
		x.mu.Lock()
		defer x.mu.Unlock()
		q := *p
		q.Topic, q.Payload = append([]byte(nil), p.Topic...), append([]byte(nil), p.Payload...)
		q.Props.User = append([]packet.UserProperty(nil), p.Props.User...)
		x.got = append(x.got, &q)
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Drop(); <-c.Done() })
	if codes, err := c.Subscribe(ctx, packet.Filter{Filter: filter, QoS: 2, RetainAsPublished: version == packet.V5}); err != nil || codes[0].Failed() {
		t.Fatalf("subscribe: %v, %v", codes, err)
	}
	return x
}

func (x *inbox) texts() (list []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.got {
		list = append(list, string(p.Topic)+" "+string(p.Payload))
	}
	return list
}

func (x *inbox) len() int { return len(x.texts()) }

func publishOn(t *testing.T, c *sim.Client, topic, payload string, qos byte, change ...func(*packet.Publish)) {
	t.Helper()
	p := &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos}
	for _, f := range change {
		f(p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Publish(ctx, p, nil); err != nil {
		t.Fatal(err)
	}
}

func drainOf(t *testing.T, c *sim.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// bridgeTo is a configuration with one bridge.
func bridgeTo(address, version, topics string) string {
	return fmt.Sprintf("bridges:\n- name: up\n  remote: {url: \"mqtt://%s\", version: %s, client_id: site-a}\n%s\n", address, version, topics)
}

func TestBridge(t *testing.T) {
	for _, version := range []string{"3.1.1", "5"} {
		t.Run(version, func(t *testing.T) {
			b := newSite(t, "").start()
			a := newSite(t, bridgeTo(b.port, version, `  out: [{filter: "fleet/#", remote_prefix: "a/", qos: 2}]
  in: [{filter: "cmd/+", remote_prefix: "a/", qos: 2}]`)).start().connected()
			there, here := watchAt(t, b.port, "there", "a/fleet/#", packet.V5), watchAt(t, a.port, "here", "cmd/#", packet.V5)
			device, app := a.client("truck", packet.V5), b.client("app", packet.V5)
			var want, wantHere []string
			for i := range 60 {
				publishOn(t, device, "fleet/1/telemetry", fmt.Sprint(i), byte(i%3))
				publishOn(t, app, "a/cmd/1", fmt.Sprint(i), byte(i%3))
				want, wantHere = append(want, fmt.Sprintf("a/fleet/1/telemetry %d", i)), append(wantHere, fmt.Sprintf("cmd/1 %d", i))
			}
			publishOn(t, device, "elsewhere", "x", 1)
			eventually(t, "all is there", func() bool { return there.len() >= 60 && here.len() >= 60 })
			if got := fmt.Sprint(there.texts()); got != fmt.Sprint(want) {
				t.Errorf("got %v", got)
			}
			if got := fmt.Sprint(here.texts()); got != fmt.Sprint(wantHere) {
				t.Errorf("got %v", got)
			}
			eventually(t, "the books are closed", func() bool { s := a.status(); return s.InFlight == 0 && s.Behind == 0 })
			if s := a.status(); s.Sent != 60 || s.Acked != 60 || s.Received != 60 || s.Stored != 60 || len(s.Dropped) != 0 || s.Connects != 1 {
				t.Errorf("%+v", s)
			}
			if code, body := fetch(t, a.node, "/api/v1/mqtt/bridges"); code != 200 || !strings.Contains(body, `"name":"up"`) || !strings.Contains(body, `"acked":60`) {
				t.Errorf("the API says %d %s", code, body)
			}
			eventually(t, "it adds up", func() bool {
				_, metrics := fetch(t, a.node, "/metrics")
				return strings.Contains(metrics, `millrace_stage_unaccounted{stage="log"} 0`)
			})
			if st := a.node.pipeline().Stages[2]; st.Name != "log" || len(st.Joined) != 1 || st.Joined[0].Reason != "bridges" || st.Joined[0].Count != 60 {
				t.Errorf("%+v", st)
			}
			if _, metrics := fetch(t, a.node, "/metrics"); !strings.Contains(metrics, `millrace_bridge_messages_total{bridge="up",stage="acked"} 60`) {
				t.Errorf("the metrics do not know:\n%s", metrics)
			}
		})
	}
}
