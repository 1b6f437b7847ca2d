package app

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/sim"
)

func stagesOf(t *testing.T, n *Node) map[string]console.Stage {
	t.Helper()
	code, body := fetch(t, n, "/api/v1/pipeline")
	var p console.Pipeline
	if err := json.Unmarshal([]byte(body), &p); err != nil || code != 200 {
		t.Fatalf("%d %v %s", code, err, body)
	}
	stages := map[string]console.Stage{}
	for _, s := range p.Stages {
		stages[s.Name] = s
	}
	return stages
}

func reason(rs []console.Reason, name string) int64 {
	for _, r := range rs {
		if r.Reason == name {
			return r.Count
		}
	}
	return 0
}

// Whatever devices do (messages of every QoS, resends, refusals, messages that are not stored, a will, a breach of the protocol), each
// message is in the next stage or named, at every moment.
func TestPipelineAddsUp(t *testing.T) {
	n := boot(t, testConfig(t, "routes:\n- {mqtt: \"fleet/{v}/pos\", topic: pos, key: \"{v}\"}\n- {mqtt: live/#, store: false}\n"))
	connect := packet.Connect{ClientID: "truck", Version: packet.V5, CleanStart: true}
	connect.Will = &packet.Will{Topic: "fleet/truck/pos", Payload: []byte("gone"), QoS: 1}
	c := sim.NewClient(sim.ClientOptions{Connect: connect, Dial: sim.DialTCP(n.Address("MQTT"))})
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish := func(topic, payload string, qos byte) {
		t.Helper()
		p := &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos}
		if strings.HasSuffix(payload, "!") {
			p.Props.User = []packet.UserProperty{{Name: "mqtt.topic", Value: "x"}}
		}
		if err := c.Publish(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		publish("fleet/truck/pos", fmt.Sprintf(`{"lat":60.%02d,"lon":24.9,"tst":%d}`, i, time.Now().UnixMilli()), byte(i%3))
		for name, s := range stagesOf(t, n) {
			if s.Unaccounted != nil && *s.Unaccounted != 0 {
				t.Fatalf("after message %d, %s has %d unaccounted for: %+v", i, name, *s.Unaccounted, s)
			}
		}
	}
	publish("live/x", "not stored", 1)
	publish("other/x", "by no route of its own", 0)
	publish("fleet/truck/pos", "refused!", 1)
	publish("$SYS/x", "refused too", 1)
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	// An id that is open comes again: answered, and no message. Then a breach, after which the will is published.
	for range 3 {
		if err := c.Send(&packet.Publish{Topic: []byte("fleet/truck/pos"), Payload: []byte("twice"), QoS: 2, PacketID: 60_000, Dup: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Send(&packet.Publish{Topic: []byte(""), Payload: []byte("alias of nothing"), Props: packet.Properties{Has: packet.PTopicAlias, TopicAlias: 7}}); err != nil {
		t.Fatal(err)
	}
	<-c.Done()

	var stages map[string]console.Stage
	eventually(t, "everything has arrived", func() bool {
		stages = stagesOf(t, n)
		for _, s := range stages { // nor does anything only pass for being on its way
			if reason(s.Left, "in_flight")+reason(s.Left, "being_counted")+reason(s.Joined, "being_counted") != 0 {
				return false
			}
		}
		return stages["console"].Total == 103
	})
	log := stages["log"]
	if stages["broker"].Total != 108 || log.Total != 103 || reason(log.Joined, "wills") != 1 || reason(log.Left, "not_stored") != 1 ||
		reason(log.Left, "resent") != 2 || reason(log.Left, "protocol_error") != 1 || reason(log.Left, "implementation_specific_error") != 1 ||
		reason(log.Left, "topic_name_invalid") != 1 {
		t.Errorf("%+v", stages)
	}
	for name, s := range stages {
		if s.Unaccounted != nil && *s.Unaccounted != 0 {
			t.Errorf("%s has %d unaccounted for: %+v", name, *s.Unaccounted, s)
		}
	}
	if b := stages["broker"]; b.Unaccounted == nil || b.P50 == nil || b.Samples == 0 || *b.P50 < 0 || *b.P50 > 60_000 {
		t.Errorf("%+v", b)
	}
	_, metrics := fetch(t, n, "/metrics")
	for _, want := range []string{`millrace_stage_messages{stage="log"} 103`, `millrace_stage_unaccounted{stage="console"} 0`, "millrace_console_pages 0"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics does not say %s", want)
		}
	}
}

// The strip has teeth: a message that a stage loses is unaccounted for, one that comes from nowhere too, and what is on its way is neither.
func TestPipelineFindsWhatIsMissing(t *testing.T) {
	full := census{received: 10, wills: 1, appended: 5, own: 5, appending: 1, unlogged: 1, repeated: 1, broken: 1, refused: map[string]int64{"quota_exceeded": 2}}
	for name, c := range map[string]struct {
		change func(*census)
		moved  int64
		want   int64
	}{
		"whole":                   {func(*census) {}, 0, 0},
		"one lost":                {func(c *census) { c.appended--; c.own-- }, 0, 1},
		"one from nowhere":        {func(c *census) { c.received -= 2 }, 0, -2},
		"not let go of yet":       {func(c *census) { c.received-- }, 0, 0},
		"a refusal not counted":   {func(c *census) { c.refused = nil }, 0, 2},
		"a will not counted":      {func(c *census) { c.wills, c.appending, c.unlogged = 0, 0, 2 }, 0, -1},
		"no still moment":         {func(c *census) { c.received++ }, 3, 0},
		"no still moment, and so": {func(c *census) { c.received += 5 }, 3, 5},
		"answered, not counted":   {func(c *census) { c.own++; c.appending = 1 }, 0, 0},
	} {
		have := full
		c.change(&have)
		if st := logStation(&have, c.moved); *st.Unaccounted != c.want {
			t.Errorf("%s: %d unaccounted for, want %d: %+v", name, *st.Unaccounted, c.want, st)
		}
	}
}

// What is off is unaccounted for when it lasts, and on its way while it may not.
func TestOnlyWhatLastsIsUnaccounted(t *testing.T) {
	var s strip
	for i, c := range []struct{ now, before, want, left, joined int64 }{
		{3, 0, 0, 3, 0}, {3, 3, 3, 0, 0}, {5, 3, 3, 2, 0}, {1, 3, 1, 0, 0}, {-2, 3, 0, 0, 2}, {-2, -1, -1, 0, 1}, {0, 5, 0, 0, 0},
	} {
		s.off = map[string]int64{"log": c.before}
		st := console.Stage{Name: "log", Unaccounted: new(c.now)}
		s.believe(&st)
		if *st.Unaccounted != c.want || reason(st.Left, "being_counted") != c.left || reason(st.Joined, "being_counted") != c.joined || s.seen["log"] != c.now {
			t.Errorf("%d: %+v with %d unaccounted for", i, st, *st.Unaccounted)
		}
	}
}

func TestPassage(t *testing.T) {
	a, b := session.Part{Index: 1}, session.Part{Index: 2}
	p := newPassage(session.Vector{a: 8, b: 0}, session.Vector{a: 10, b: 0})
	batch := func(at session.Part, clients ...string) *broker.TailEvent {
		e := &broker.TailEvent{Part: at, Batch: &session.Batch{Part: at}, Next: p.places[at] + int64(len(clients))}
		for i, c := range clients {
			e.Batch.Msgs = append(e.Batch.Msgs, session.Message{Offset: p.places[at] + int64(i), Client: c})
		}
		return e
	}
	p.passed(batch(a, "old", "old", "new", "", "new")) // history, and a record of a Kafka client
	p.passed(&broker.TailEvent{Part: b, Gap: true, Next: 7})
	p.passed(batch(b, "new"))
	if p.own != 3 || p.gapped != 7 {
		t.Errorf("own %d, gapped %d", p.own, p.gapped)
	}
	if p.sum != 13+8 {
		t.Errorf("the places sum up to %d", p.sum)
	}
	if p.passed(&broker.TailEvent{Part: a, Deleted: true}); p.sum != 8 {
		t.Errorf("without the deleted: %d", p.sum)
	}
}

// What devices sent and nobody received is unaccounted for, by their sequence numbers; what they sent twice is named.
func TestPipelineFindsWhatNeverArrived(t *testing.T) {
	n := boot(t, testConfig(t, "routes: [{mqtt: \"fleet/{v}/pos\", topic: pos, key: \"{v}\"}]"))
	c := sim.NewClient(sim.ClientOptions{Connect: packet.Connect{ClientID: "truck", Version: packet.V5, CleanStart: true}, Dial: sim.DialTCP(n.Address("MQTT"))})
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []int{1, 2, 3, 6, 7, 7, 8} { // 4 and 5 were lost on the way, 7 came twice
		p := &packet.Publish{Topic: []byte("fleet/truck/pos"), Payload: []byte("x"), QoS: 1}
		p.Props.User = []packet.UserProperty{{Name: sim.PropDevice, Value: "truck"}, {Name: sim.PropSequence, Value: fmt.Sprint(seq)}}
		if err := c.Publish(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stages map[string]console.Stage
	eventually(t, "two are missing", func() bool {
		stages = stagesOf(t, n)
		return *stages["broker"].Unaccounted == 2
	})
	if b := stages["broker"]; stages["devices"].Total != 8 || b.Total != 7 || reason(b.Joined, "resent") != 1 || *stages["log"].Unaccounted != 0 || *stages["console"].Unaccounted != 0 {
		t.Errorf("%+v", stages)
	}
}
