package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/sim"
)

// replayer is a subscriber that holds every truck's numbers against what they have to be: one after the other.
type replayer struct {
	t      *testing.T
	c      *sim.Client
	suback chan *packet.Suback

	mu     sync.Mutex
	last   map[string]int
	times  int // messages with the time of history
	got    int
	pause  time.Duration // after each message
	broken string
}

func replayTo(t *testing.T, address func() string, connect packet.Connect) *replayer {
	w := &replayer{t: t, last: map[string]int{}, suback: make(chan *packet.Suback, 8)}
	connect.Version = packet.V5
	w.c = sim.NewClient(sim.ClientOptions{
		Dial:      func(ctx context.Context) (net.Conn, error) { return sim.DialTCP(address())(ctx) },
		Connect:   connect,
		OnMessage: w.message,
		OnPacket: func(p packet.Packet) bool {
			if s, ok := p.(*packet.Suback); ok {
				w.suback <- s
			}
			return false
		},
	})
	w.connect()
	t.Cleanup(w.c.Drop)
	return w
}

func (w *replayer) connect() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	if _, err := w.c.Connect(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *replayer) message(p *packet.Publish) {
	var body struct{ Seq int }
	err := json.Unmarshal(p.Payload, &body)
	w.mu.Lock()
	topic, seq := string(p.Topic), body.Seq
	if last := w.last[topic]; (err != nil || seq != last+1 && last != 0) && w.broken == "" {
		w.broken = fmt.Sprintf("%s: %d after %d (%v)", topic, seq, last, err)
	}
	w.last[topic] = seq
	w.got++
	if slices.ContainsFunc(p.Props.User, func(u packet.UserProperty) bool {
		at, err := time.Parse(time.RFC3339, u.Value)
		return u.Name == session.TimeProperty && err == nil && time.Since(at) < time.Hour && time.Since(at) > -time.Minute
	}) {
		w.times++
	}
	pause := w.pause
	w.mu.Unlock()
	time.Sleep(pause)
}

// replay subscribes, and returns the SUBACK.
func (w *replayer) replay(from, filter string, qos byte) *packet.Suback {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	p := &packet.Subscribe{Filters: []packet.Filter{{Filter: filter, QoS: qos}}}
	if from != "" {
		p.Props.User = []packet.UserProperty{{Name: session.ReplayFrom, Value: from}}
	}
	if _, err := w.c.SubscribeAs(ctx, p); err != nil {
		w.t.Fatal(err)
	}
	return <-w.suback
}

// reaches waits until every truck's number is there.
func (w *replayer) reaches(number, trucks int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("all %d trucks are at %d", trucks, number), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		at := 0
		for _, n := range w.last {
			if n == number {
				at++
			}
		}
		return at == trucks || w.broken != ""
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != "" {
		w.t.Fatalf("not in order, or not once: %s", w.broken)
	}
}

func (w *replayer) counts() (got, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got, w.times
}

// History comes, then what is live, at every QoS, while the trucks go on: each number once, one after the other. What is owed and
// delivered adds up, on the node that runs and in what it leaves.
func TestReplay(t *testing.T) {
	c := testConfig(t, verifyRoutes)
	n := boot(t, c)
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}})
	const past, all = 400, 600
	drive(t, pub, 1, past, 1, 10)
	address := func() string { return n.Address("MQTT") }
	list := []*replayer{}
	for qos := range byte(3) {
		for i, expiry := range []uint32{0, 1000} {
			list = append(list, replayTo(t, address, packet.Connect{ClientID: fmt.Sprintf("watcher-%d-%d", qos, i), CleanStart: true,
				Props: packet.Properties{Has: packet.PSessionExpiry | packet.PReceiveMaximum, SessionExpiry: expiry, ReceiveMaximum: 20}}))
		}
	}
	live := make(chan struct{})
	go func() {
		defer close(live)
		drive(t, pub, past+1, all, 1, 10)
	}()
	for i, w := range list {
		from := []string{"earliest", "-1h", "offset:0"}[i%3]
		if a := w.replay(from, "fleet/+/pos", byte(i/2)); a.Codes[0] != packet.Code(i/2) || a.Props.ReasonString != "" {
			t.Fatalf("%+v", a)
		}
	}
	<-live
	for _, w := range list {
		w.reaches(all, 5)
		if got, times := w.counts(); got != 5*all || times < 5*past {
			t.Errorf("%d messages, %d from history", got, times)
		}
	}
	again := list[4]
	again.mu.Lock()
	clear(again.last)
	again.got = 0
	again.mu.Unlock()
	again.replay("earliest", "fleet/truck-3/pos", 2) // overlaps: fleet/+/pos is not replayed with it
	again.reaches(all, 1)
	if got, _ := again.counts(); got != all {
		t.Errorf("%d messages of one truck, want %d", got, all)
	}
	var v verdict
	eventually(t, "it adds up", func() bool {
		v = verifyNode(t, n)
		return v.Complete && v.Notes == 0
	})
	eventually(t, "no replay is left", func() bool { return n.broker.Stats().Session.Replays == 0 })
	halt(t, n)
	var after verdict
	if _, err := VerifyData(t.Context(), Options{Config: c, Logger: n.o.Logger}, request(), after.take); err != nil {
		t.Fatal(err)
	}
	if !after.Complete {
		t.Errorf("%+v", after)
	}
}

// A persistent session is in the middle of its history when its connection is lost, and when the node is started again: it goes on
// where it was, and at QoS 2 nothing comes twice.
func TestReplayGoesOnAfterRestart(t *testing.T) {
	c := testConfig(t, verifyRoutes)
	n := boot(t, c)
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}})
	const all = 300
	drive(t, pub, 1, all, 2, 10)
	pub.Drop()
	var mu sync.Mutex
	now := n
	address := func() string {
		mu.Lock()
		defer mu.Unlock()
		return now.Address("MQTT")
	}
	w := replayTo(t, address, packet.Connect{ClientID: "watcher", Props: packet.Properties{Has: packet.PSessionExpiry | packet.PReceiveMaximum, SessionExpiry: 1000, ReceiveMaximum: 5}})
	w.pause = time.Millisecond
	w.replay("earliest", "fleet/#", 2)
	half := func(at int) {
		eventually(t, "some of it is there", func() bool { got, _ := w.counts(); return got >= at })
	}
	half(100)
	w.c.Drop()
	w.connect()
	half(300)
	w.c.Drop()
	halt(t, n)
	next := boot(t, c)
	mu.Lock()
	now = next
	mu.Unlock()
	w.mu.Lock()
	w.pause = 0
	w.mu.Unlock()
	w.connect()
	w.reaches(all, 5)
	pub = join(t, next, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}})
	drive(t, pub, all+1, all+5, 1, 10)
	w.reaches(all+5, 5)
	if got, _ := w.counts(); got != 5*(all+5) {
		t.Errorf("%d messages, want %d", got, 5*(all+5))
	}
	var v verdict
	eventually(t, "it adds up", func() bool { v = verifyNode(t, next); return v.Complete })
}

// A subscriber that replays a long log takes its turn: what is live for another one is not held up.
func TestReplayLeavesLiveAlone(t *testing.T) {
	n := boot(t, testConfig(t, "routes:\n- {mqtt: \"fleet/{v}/pos\", topic: pos, key: \"{v}\"}\n"))
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}, Window: 1000})
	total := 20_000
	if tier.Soak() {
		total = 1_000_000
	}
	pad := strings.Repeat("x", 80)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for i := range total {
		if err := pub.Publish(ctx, &packet.Publish{Topic: fmt.Appendf(nil, "fleet/truck-%d/pos", i%100), QoS: 1, Payload: fmt.Appendf(nil, `{"seq":%d,"x":"%s"}`, i/100+1, pad)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	quiet := latencies(t, n, 200, nil)
	var done time.Time
	w := replayTo(t, func() string { return n.Address("MQTT") }, packet.Connect{ClientID: "watcher", CleanStart: true})
	began := time.Now()
	w.replay("earliest", "fleet/#", 0)
	busy := latencies(t, n, 200, func() bool {
		got, _ := w.counts()
		if got >= total && done.IsZero() {
			done = time.Now()
		}
		return got >= total
	})
	w.reaches(total/100, 100)
	if done.IsZero() {
		done = time.Now()
	}
	at := func(list []time.Duration, p int) time.Duration { return list[len(list)*p/100] }
	t.Logf("%d messages replayed in %v; live beside it: p50 %v p99 %v of %d; before: p50 %v p99 %v", total, done.Sub(began).Round(time.Millisecond), at(busy, 50), at(busy, 99),
		len(busy), at(quiet, 50), at(quiet, 99))
	if at(busy, 99) > 2*time.Second {
		t.Errorf("p99 of live deliveries beside a replay: %v", at(busy, 99))
	}
}

// latencies measures the way of messages from one client to another until enough have come and over says so.
func latencies(t *testing.T, n *Node, least int, over func() bool) (list []time.Duration) {
	t.Helper()
	back := make(chan struct{}, 1)
	sub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "live-sub", Version: packet.V5, CleanStart: true}, OnMessage: func(*packet.Publish) { back <- struct{}{} }})
	if _, err := sub.Subscribe(t.Context(), packet.Filter{Filter: "live/x", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	pub := join(t, n, sim.ClientOptions{Connect: packet.Connect{ClientID: "live-pub", Version: packet.V5, CleanStart: true}})
	for deadline := time.Now().Add(3 * time.Minute); (len(list) < least || over != nil && !over()) && time.Now().Before(deadline); {
		began := time.Now()
		if err := pub.Publish(t.Context(), &packet.Publish{Topic: []byte("live/x"), QoS: 1, Payload: []byte("x")}, nil); err != nil {
			t.Fatal(err)
		}
		<-back
		list = append(list, time.Since(began))
		if over != nil {
			time.Sleep(2 * time.Millisecond)
		}
	}
	sub.Drop()
	pub.Drop()
	slices.Sort(list)
	return list
}

// mosquitto_sub asks for history as docs/replay.md shows it.
func TestForeignReplay(t *testing.T) {
	n := boot(t, testConfig(t, "routes:\n- {mqtt: \"fleet/{v}/telemetry\", topic: telemetry, key: \"{v}\"}\n"))
	c := clientsOf(t, n)
	lines, want := "", []string(nil)
	for i := range 50 {
		lines += fmt.Sprintf("message %d\n", i)
		want = append(want, fmt.Sprintf("fleet/van-1/telemetry|1|0|message %d", i))
	}
	c.run(lines, tool(t, "mosquitto_pub"), "-h", c.host, "-p", c.port, "-q", "1", "-t", "fleet/van-1/telemetry", "-l")
	subs := []*subscriber{
		c.sub("-V", "mqttv5", "-q", "1", "-t", "fleet/+/telemetry", "-D", "subscribe", "user-property", "replay-from", "-15m"),
		c.sub("-V", "mqttv5", "-q", "1", "-t", "$replay/earliest/fleet/van-1/telemetry"),
		c.sub("-V", "mqttv311", "-q", "1", "-t", "$replay/-15m/fleet/+/telemetry"),
	}
	c.pub("-q", "1", "-t", "fleet/van-1/telemetry", "-m", "live")
	for _, s := range subs {
		s.expect(append(slices.Clone(want), "fleet/van-1/telemetry|1|0|live")...)
	}
}
