package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/sim"
)

// truck publishes positions of trucks.
type truck struct {
	t *testing.T
	c *sim.Client
}

func newTruck(t *testing.T, n *Node) truck {
	t.Helper()
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.Address("MQTT")), Connect: packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "gateway"}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Drop)
	return truck{t, c}
}

// says publishes a position, and tells whether it was accepted; not, too, when the connection ends first.
func (d truck) says(truck string, seq int, payload string) bool {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	p := &packet.Publish{Topic: []byte("fleet/" + truck + "/pos"), QoS: 1, Payload: []byte(payload)}
	p.Props.User = []packet.UserProperty{{Name: "n", Value: fmt.Sprint(seq)}, {Name: "at", Value: fmt.Sprint(time.Now().UnixMicro())}}
	acked := make(chan packet.Code, 1)
	if err := d.c.Publish(ctx, p, func(c packet.Code) { acked <- c }); err != nil {
		d.t.Fatal(err)
	}
	select {
	case code := <-acked:
		return !code.Failed()
	case <-d.c.Done():
		return false
	}
}

const positionRoutes = `routes:
- {mqtt: "fleet/{truck}/pos", topic: positions, key: "{truck}", kind: simulated, fields: {lat: p.y, lon: p.x, sequence: "user:n", time: "user:at"}}
- {mqtt: "fleet/{truck}/cmd", topic: commands, key: "{truck}", direction: both, fields: {device: "-"}}
- {mqtt: "live/#", store: false}
`

// knows waits until the view knows a truck at a sequence number.
func knows(t *testing.T, n *Node, truck string, seq uint64) (d fleet.Detail) {
	t.Helper()
	eventually(t, fmt.Sprintf("the view knows %s at %d", truck, seq), func() bool {
		d, _ = n.fleet.view.Device(truck)
		return d.Sequence == seq
	})
	return d
}

func TestFleetIsKnownAgainAfterARestart(t *testing.T) {
	c := testConfig(t, positionRoutes)
	n := boot(t, c)
	d := newTruck(t, n)
	for i, payload := range []string{`{"p":{"y":52.1,"x":4.9}}`, `{"p":{"y":52.2,"x":4.9}}`, `{"p":{"y":0,"x":0}}`} {
		d.says("7", i+1, payload)
		d.says("8", 2*i+1, `{"p":{"y":-91,"x":4.9}}`)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := d.c.Publish(ctx, &packet.Publish{Topic: []byte("live/9"), Payload: []byte("x")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.c.Publish(ctx, &packet.Publish{Topic: []byte("fleet/9/cmd"), Payload: []byte("x")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.c.Publish(ctx, &packet.Publish{Topic: []byte("else"), Payload: []byte("x")}, nil); err != nil {
		t.Fatal(err)
	}
	check := func(n *Node) {
		t.Helper()
		knows(t, n, "8", 5)
		at := knows(t, n, "7", 3)
		if at.Lat != 52.2 || at.Lon != 4.9 || at.Topic != "fleet/7/pos" || at.Source != 0 || at.Messages != 3 || len(at.Track) == 0 || at.Skewed || at.Latency < 0 {
			t.Errorf("%+v", at)
		}
		eventually(t, "the view has all", func() bool { return n.fleet.view.Totals().Records == 8 })
		tot := n.fleet.view.Totals()
		if tot.Devices != 3 || tot.Positions != 1 || tot.Messages != 7 || tot.Unplaced != 1 || tot.Missing != 2 || tot.Refused["zero"] != 1 || tot.Refused["out_of_range"] != 3 {
			t.Errorf("%+v", tot)
		}
		if e, ok := n.fleet.view.Device("gateway"); !ok || n.fleet.view.Sources()[e.Source].Name != "mqtt" {
			t.Errorf("of the catch-all: %+v", e)
		}
	}
	check(n)
	if s := n.fleet.view.Sources()[0]; s.Name != "positions" || s.Kind != "simulated" {
		t.Errorf("%+v", s)
	}
	if got := n.fleet.view.Stages()[1].Histogram.Count(); got != 6 {
		t.Errorf("the latency of %d messages", got)
	}
	for _, want := range []string{"millrace_fleet_devices 3\n", "millrace_fleet_devices_positioned 1\n", "millrace_fleet_messages_total 7\n", "millrace_fleet_sequence_missing 2\n",
		`millrace_fleet_refused_total{reason="out_of_range"} 3`, `millrace_fleet_left_out_total{reason="route_without_devices"} 1`,
		`millrace_latency_seconds_count{from="send",to="receive"} 6`} {
		if _, body := fetch(t, n, "/metrics"); !strings.Contains(body, want) {
			t.Errorf("/metrics does not say %q", want)
		}
	}
	halt(t, n)
	n = boot(t, c)
	check(n)
	if got := n.fleet.view.Totals(); got.History != 8 || n.fleet.view.Stages()[1].Histogram.Count() != 0 {
		t.Errorf("history is taken for news: %+v", got)
	}
	newTruck(t, n).says("7", 4, `{"p":{"y":52.3,"x":4.9}}`)
	if d := knows(t, n, "7", 4); d.Lat != 52.3 || d.Missing != 0 {
		t.Errorf("%+v", d)
	}
}

func TestFleetFollowsATopicThatIsMadeAgain(t *testing.T) {
	n := boot(t, testConfig(t, positionRoutes))
	d := newTruck(t, n)
	d.says("7", 1, `{"p":{"y":52.1,"x":4.9}}`)
	knows(t, n, "7", 1)
	if err := n.log.DeleteTopic(t.Context(), "positions"); err != nil {
		t.Fatal(err)
	}
	seq := 1
	eventually(t, "messages are accepted again", func() bool {
		seq++
		return newTruck(t, n).says("7", seq, `{"p":{"y":52.2,"x":4.9}}`) // a message that finds no topic ends its connection
	})
	if at := knows(t, n, "7", uint64(seq)); at.Lat != 52.2 {
		t.Errorf("%+v", at)
	}
}

func TestWrongFieldsAreToldWithTheirLine(t *testing.T) {
	c := testConfig(t, "routes:\n- mqtt: a/#\n  topic: x\n  fields:\n    lat: VP.lat\n    lon: $.VP.long\n")
	expect(t, startError(t, c), "test:6: routes[0].fields.lon", `"$.VP.long" is not a path`, "VP.lat, gps.0.lon")
}

// What is read of the past is bounded in bytes.
func TestPastIsBounded(t *testing.T) {
	c := testConfig(t, "routes: [{mqtt: big/#, topic: big, partitions: 2}]")
	n := boot(t, c)
	d := newTruck(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const each, bytes = 9_000, 450_000
	for range 100 { // twice as much
		if err := d.c.Publish(ctx, &packet.Publish{Topic: []byte("big/1"), QoS: 1, Payload: make([]byte, each)}, func(packet.Code) {}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all is there", func() bool { return n.fleet.view.Totals().Records == 100 })
	starts, ends, err := n.store.Data(ctx)
	if err != nil {
		t.Fatal(err)
	}
	records := int64(0)
	for p, from := range n.past(ctx, starts, ends, bytes) {
		records += ends[p] - from
	}
	if records*each > bytes || records*each < bytes-3*each {
		t.Errorf("%d records of the past are read, %d bytes", records, records*each)
	}
}

// A defect of the view is not the node's.
func TestNodeSurvivesADefectOfTheView(t *testing.T) {
	n := boot(t, testConfig(t, positionRoutes))
	n.fleet.survive(func() { panic("planted") })
	newTruck(t, n).says("7", 1, `{"p":{"y":52.1,"x":4.9}}`)
	knows(t, n, "7", 1)
}

// scriptedTail gives what the test says, and the script's end ever after.
type scriptedTail struct {
	script []func(into []broker.TailEvent) ([]broker.TailEvent, error)
	wake   chan struct{}
}

func (s *scriptedTail) Wake() <-chan struct{} { return s.wake }
func (s *scriptedTail) Close()                {}
func (s *scriptedTail) Poll(into []broker.TailEvent, _ int) ([]broker.TailEvent, error) {
	if len(s.script) == 0 {
		return into, nil
	}
	step := s.script[0]
	s.script = s.script[1:]
	return step(into)
}

// What comes with an error of the tail is taken, the error is outlived, and a gap is no fault of the devices.
func TestFleetOutlivesErrorsOfTheTail(t *testing.T) {
	log, _ := testLogger(t)
	said := func(seq int) *session.Batch {
		return &session.Batch{Msgs: []session.Message{{Topic: "t", Client: "c", Time: time.Now().UnixMilli(),
			Props: &session.Props{User: []packet.UserProperty{{Name: "sim-seq", Value: fmt.Sprint(seq)}}}}}}
	}
	give := func(e broker.TailEvent, err error) func([]broker.TailEvent) ([]broker.TailEvent, error) {
		return func(into []broker.TailEvent) ([]broker.TailEvent, error) { return append(into, e), err }
	}
	f := &follower{n: &Node{o: Options{Logger: log}, http: console.New(console.Options{Logger: log})}, passage: newPassage(session.Vector{}, session.Vector{}),
		quit: make(chan struct{}), done: make(chan struct{})}
	f.tail = &scriptedTail{wake: make(chan struct{}), script: []func([]broker.TailEvent) ([]broker.TailEvent, error){
		give(broker.TailEvent{Batch: said(1)}, errors.New("one partition cannot be read")),
		give(broker.TailEvent{Gap: true, Next: 8}, nil),
		give(broker.TailEvent{Deleted: true}, nil),
		give(broker.TailEvent{Batch: said(9)}, nil),
	}}
	var err error
	f.view, err = fleet.New(fleet.Options{Sources: []fleet.Source{{}}, Place: func(_, client string) (int, string, bool) { return 0, client, true }})
	if err != nil {
		t.Fatal(err)
	}
	go f.run()
	eventually(t, "everything is read", func() bool { d, _ := f.view.Device("c"); return d.Sequence == 9 })
	close(f.quit)
	<-f.done
	if got := f.view.Totals(); got.Messages != 2 || got.Missing != 0 || got.Gaps != 1 {
		t.Errorf("%+v", got)
	}
}
