package route

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

var fleet = []Spec{
	{MQTT: "fleet/{vehicle}/telemetry", Topic: "telemetry", Key: "{vehicle}", Partitions: 3, Compression: eventlog.Zstd},
	{MQTT: "fleet/{vehicle}/cmd", Topic: "commands", Key: "{vehicle}", Both: true, Partitions: 2},
	{MQTT: "state/{vehicle}", Topic: "state", Key: "{vehicle}", Both: true, Compact: true, Partitions: 2},
	{MQTT: "live/#", Discard: true},
}

// node is a store over a log in memory.
type node struct {
	*testing.T
	log      *eventlog.Log
	mem      *logtest.Memory
	store    *Store
	unlogged chan *session.Message
	clock    atomic.Int64
}

func open(t *testing.T, mem *logtest.Memory, specs []Spec) *node {
	t.Helper()
	n := openOn(t, eventlog.New(mem), specs)
	n.mem = mem
	return n
}

func openOn(t *testing.T, log *eventlog.Log, specs []Spec) *node {
	t.Helper()
	n := &node{T: t, log: log, unlogged: make(chan *session.Message, 100)}
	n.clock.Store(1_000_000)
	var err error
	n.store, err = Open(t.Context(), Options{Log: n.log, Routes: specs, Now: func() int64 { return n.clock.Add(1) },
		Unlogged: func(m *session.Message) { c := *m; n.unlogged <- &c }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.store.Close)
	return n
}

// readOne reads the message at a position. Those that come with it from before are no surprise.
func (n *node) readOne(pos session.Position) (session.Message, error) {
	b, err := n.store.Read(n.Context(), pos, 1)
	for _, m := range b.Msgs {
		if m.Offset >= pos.Offset {
			if m.Offset > pos.Offset {
				err = fmt.Errorf("the next message is at %d", m.Offset)
			}
			return m, err
		}
	}
	return session.Message{}, errors.Join(err, errors.New("no message"))
}

// publish appends one call's messages and waits for the results.
func (n *node) publish(msgs ...session.Message) []session.Result {
	n.Helper()
	c := make(chan []session.Result, 1)
	n.store.Append(msgs, func(rs []session.Result) { c <- slices.Clone(rs) })
	select {
	case rs := <-c:
		return rs
	case <-time.After(20 * time.Second):
		n.Fatal("append is not answered")
		return nil
	}
}

// follow opens a tail from the starts.
func (n *node) follow() broker.Tail {
	n.Helper()
	starts, _, err := n.store.Data(context.Background())
	if err != nil {
		n.Fatal(err)
	}
	tail, err := n.store.Tail(starts)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(tail.Close)
	return tail
}

// until polls a tail until it has given want messages (or ok says so), and checks that batches join up.
func (n *node) until(tail broker.Tail, next session.Vector, ok func([]session.Message) bool) (msgs []session.Message) {
	n.Helper()
	deadline := time.After(20 * time.Second)
	for {
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			n.Fatal(err)
		}
		for _, ev := range events {
			if ev.Batch == nil {
				n.Fatalf("event %+v", ev)
			}
			b := ev.Batch
			if at, known := next[b.Part]; known && at != b.Base {
				n.Fatalf("batch of %v begins at %d, want %d", b.Part, b.Base, at)
			}
			next[b.Part] = b.Next
			for i, m := range b.Msgs {
				if m.Offset < b.Base || m.Offset >= b.Next || i > 0 && m.Offset <= b.Msgs[i-1].Offset {
					n.Fatalf("offset %d in a batch of [%d, %d)", m.Offset, b.Base, b.Next)
				}
			}
			msgs = append(msgs, b.Msgs...)
		}
		if ok(msgs) {
			return msgs
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-tail.Wake():
		case <-deadline:
			n.Fatalf("the tail gave %d messages and no more", len(msgs))
		}
	}
}

func count(want int) func([]session.Message) bool {
	return func(ms []session.Message) bool { return len(ms) >= want }
}

func randomMessage(rng *rand.Rand, i int) session.Message {
	text := func() string {
		return []string{"", "x", "é, ü", strings.Repeat("long ", 40), "a\nb"}[rng.IntN(5)]
	}
	m := session.Message{
		Topic:   fmt.Sprintf([]string{"fleet/%d/telemetry", "fleet/%d/cmd", "state/%d", "other/%d"}[rng.IntN(4)], rng.IntN(20)),
		Payload: bytes.Repeat([]byte{byte(i)}, rng.IntN(4)*rng.IntN(300)),
		QoS:     byte(rng.IntN(3)),
		Retain:  rng.IntN(4) == 0,
		Client:  fmt.Sprintf("client-%d", rng.IntN(5)),
	}
	if m.QoS == 2 && rng.IntN(2) == 0 {
		m.QoS2 = session.Triple{Incarnation: session.Incarnation(rng.Uint64()), PacketID: uint16(1 + rng.IntN(65535)), Use: rng.Uint32()}
	}
	if rng.IntN(10) == 0 {
		m.Will = session.Incarnation(1 + rng.Uint64()>>1)
	}
	if rng.IntN(2) == 0 {
		p := &session.Props{HasExpiry: true, Expiry: rng.Uint32(), PayloadFormat: byte(rng.IntN(2)), ContentType: text(), ResponseTopic: text()}
		if rng.IntN(2) == 0 {
			p.Correlation = []byte(text())
		}
		for range rng.IntN(3) {
			p.User = append(p.User, packet.UserProperty{Name: "name" + text(), Value: text()})
		}
		if rng.IntN(3) == 0 {
			p.User = append(p.User, packet.UserProperty{Name: "traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
		}
		m.Props = p
	}
	return m
}

// normal is a message as it must come back.
func normal(m session.Message) session.Message {
	m.Clear = m.Retain && len(m.Payload) == 0
	if len(m.Payload) == 0 {
		m.Payload = nil
	}
	if m.Props != nil && len(m.Props.User) == 0 {
		p := *m.Props
		p.User = nil
		m.Props = &p
	}
	m.Time, m.Offset = 0, 0
	return m
}

// What is published comes back the same, from the tail (prepared or decoded) and from a read, in the order of its partition,
// and nothing of it aliases the publisher's buffers.
func TestMessagesComeBackTheSame(t *testing.T) {
	for name, h := range map[string]logtest.Hostility{
		"prepared":  {},
		"decoded":   {NoSide: 1},
		"plain":     {NoSide: 1, Decoded: 1},
		"gaps":      {NoSide: 0.5, Gap: 0.5, Shuffle: true, TailDelay: 0.5},
		"unwelcome": {Shuffle: true, Gap: 0.1, Decoded: 0.2, NoSide: 0.3, TailDelay: 0.3, Aborted: 0.1, Held: 0.1},
	} {
		t.Run(name, func(t *testing.T) {
			mem := logtest.NewMemory(tier.Seed(), h)
			defer mem.Close()
			open(t, mem, fleet).sameAgain(tier.N(300))
		})
	}
}

// sameAgain publishes random messages and holds what comes back against them.
func (n *node) sameAgain(rounds int) {
	t := n.T
	t.Helper()
	rng := rand.New(rand.NewPCG(tier.Seed(), 7))
	tail := n.follow()
	sent := map[session.Position]session.Message{}
	last := map[string]int64{}
	total := 0
	for range rounds {
		msgs := make([]session.Message, 1+rng.IntN(20))
		for i := range msgs {
			msgs[i] = randomMessage(rng, i)
		}
		want := make([]session.Message, len(msgs))
		for i, m := range msgs {
			want[i] = m
			want[i].Props, want[i].Payload = clonedProps(m.Props), bytes.Clone(m.Payload)
		}
		rs := n.publish(msgs...)
		for i := range msgs { // the reader's buffer is used again
			for j := range msgs[i].Payload {
				msgs[i].Payload[j] = 0xee
			}
			if rs[i].Err != nil {
				t.Fatalf("message %d refused: %v", i, rs[i].Err)
			}
			sent[rs[i].Pos] = want[i]
			total++
			stream := want[i].Client + " " + want[i].Topic
			if at, there := last[stream]; there && rs[i].Pos.Offset <= at {
				t.Fatalf("%s: offset %d after %d", stream, rs[i].Pos.Offset, at)
			}
			last[stream] = rs[i].Pos.Offset
		}
	}
	next := session.Vector{}
	n.until(tail, next, func(ms []session.Message) bool { return len(ms) >= total })
	// The tail has shown everything; compare by position, through the tail again and through reads.
	starts, ends, err := n.store.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var fromTail, fromReads int
	again := n.follow()
	compare := func(where string, part session.Part, m session.Message) {
		pos := session.Position{Part: part, Offset: m.Offset}
		want, there := sent[pos]
		if !there {
			t.Fatalf("%s: a message nobody sent at %v: %+v", where, pos, m)
		}
		if got, want := normal(m), normal(want); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: at %v\n got %+v %+v\nwant %+v %+v", where, pos, got, got.Props, want, want.Props)
		}
	}
	seen := map[session.Position]bool{}
	for fromTail < total {
		events, err := again.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			for _, m := range ev.Batch.Msgs {
				compare("tail", ev.Batch.Part, m)
				seen[session.Position{Part: ev.Batch.Part, Offset: m.Offset}] = true
				fromTail++
			}
		}
		select {
		case <-again.Wake():
		case <-time.After(time.Millisecond):
		}
	}
	for part, from := range starts {
		for from < ends[part] {
			b, err := n.store.Read(t.Context(), session.Position{Part: part, Offset: from}, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if b.Next <= from {
				t.Fatalf("read of %v at %d stands still", part, from)
			}
			for _, m := range b.Msgs {
				compare("read", part, m)
				fromReads++
			}
			from = b.Next
		}
	}
	if fromReads != total || len(seen) != total {
		t.Fatalf("%d sent, %d tailed (%d distinct), %d read", total, fromTail, len(seen), fromReads)
	}
}

// On a log that refuses and loses, every message has one answer: a position where it is, a refusal, or unknown.
func TestEveryMessageIsAnswered(t *testing.T) {
	for seed := range uint64(tier.N(100)) {
		mem := logtest.NewMemory(tier.Seed()+seed, logtest.Hostility{Shuffle: true, Refuse: 0.1, Unknown: 0.1, Late: 0.5, Gap: 0.1, NoSide: 0.3, Decoded: 0.2})
		n := open(t, mem, fleet)
		var wg sync.WaitGroup
		var mu sync.Mutex
		acked := map[session.Position]string{}
		for g := range 3 {
			wg.Go(func() {
				for i := range 10 {
					var msgs []session.Message
					for j := range 1 + i%5 {
						msgs = append(msgs, session.Message{Topic: fmt.Sprintf("fleet/%d/cmd", j), Payload: fmt.Append(nil, g, i, j), Client: "c", QoS: 1})
					}
					rs := n.publish(msgs...)
					for k, r := range rs {
						var refused *packet.Error
						switch {
						case r.Err == nil:
							mu.Lock()
							acked[r.Pos] = string(msgs[k].Payload)
							mu.Unlock()
						case !errors.Is(r.Err, session.ErrUnknown) && !errors.As(r.Err, &refused):
							t.Errorf("an error that says nothing: %v", r.Err)
						}
					}
				}
			})
		}
		wg.Wait()
		for pos, want := range acked {
			m, err := n.readOne(pos)
			if err != nil || string(m.Payload) != want {
				t.Fatalf("seed %d: acknowledged at %v, but there is %+v, %v", seed, pos, m, err)
			}
		}
		n.store.Close()
		mem.Close()
	}
}

func TestRefusals(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	msgs := []session.Message{
		{Topic: "live/a", Client: "c", QoS: 1, Payload: []byte("now")},
		{Topic: "live/a", Client: "c", QoS: 1, Payload: []byte("now"), Retain: true},
		{Topic: "$SYS/x", Client: "c", QoS: 1},
		{Topic: "a", Client: "c", QoS: 1, Props: &session.Props{User: []packet.UserProperty{{Name: "mr-qos2", Value: "forged"}}}},
		{Topic: "a", Client: "c", QoS: 1, Props: &session.Props{User: []packet.UserProperty{{Name: "mqtt.topic", Value: "forged"}}}},
		{Topic: "fleet/1/cmd", Client: "c", QoS: 1, Payload: []byte("kept")},
	}
	rs := n.publish(msgs...)
	for i, want := range []packet.Code{0, packet.ImplementationSpecificError, packet.TopicNameInvalid,
		packet.ImplementationSpecificError, packet.ImplementationSpecificError, 0} {
		var e *packet.Error
		errors.As(rs[i].Err, &e)
		if want == 0 && rs[i].Err != nil || want != 0 && (e == nil || e.Code != want) {
			t.Errorf("message %d (%s): %v, want code %v", i, msgs[i].Topic, rs[i].Err, want)
		}
	}
	if rs[0].Pos != (session.Position{}) {
		t.Errorf("a message that is not stored has the position %v", rs[0].Pos)
	}
	if m := <-n.unlogged; m.Topic != "live/a" || string(m.Payload) != "now" {
		t.Errorf("unlogged %+v", m)
	}
	if len(n.unlogged) > 0 {
		t.Error("a refused message was delivered")
	}
	st := n.store.Stats()
	if st.Appended != 1 || st.Unlogged != 1 || st.Refused["retain_without_store"] != 1 || st.Refused["no_route"] != 1 || st.Refused["reserved_property"] != 2 {
		t.Errorf("stats %+v", st)
	}
	if rs := n.publish(); len(rs) != 0 {
		t.Errorf("an empty call has results %v", rs)
	}
}

// Large calls make batches of at most 64 KiB, in order.
func TestBatchesStaySmall(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, []Spec{{MQTT: "one", Topic: "one", Partitions: 1}})
	var msgs []session.Message
	for i := range 300 {
		msgs = append(msgs, session.Message{Topic: "one", Client: "c", Payload: bytes.Repeat([]byte{byte(i)}, 1000)})
	}
	msgs = append(msgs, session.Message{Topic: "one", Client: "c", Payload: make([]byte, 200_000)}, msgs[0])
	rs := n.publish(msgs...)
	for i, r := range rs {
		if r.Err != nil || r.Pos.Offset != int64(i) {
			t.Fatalf("message %d: %+v", i, r)
		}
	}
	batches, _, err := n.log.Read(t.Context(), eventlog.Position{Part: logPart(rs[0].Pos.Part)}, 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if b.Len() > 1 && b.Size() > maxBatch+200 {
			t.Errorf("a batch of %d records has %d bytes", b.Len(), b.Size())
		}
	}
	if len(batches) < 5 || len(batches) > 10 {
		t.Errorf("%d batches", len(batches))
	}
}

// However large and small messages of many clients meet in a call, each client's stay in order.
func TestOrderInLargeCalls(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, []Spec{{MQTT: "zipped", Topic: "one", Partitions: 3, Compression: eventlog.Snappy}, {MQTT: "#", Topic: "one", Partitions: 3}})
	rng := rand.New(rand.NewPCG(tier.Seed(), 9))
	last := map[string]int64{}
	for range tier.N(200) {
		var msgs []session.Message
		for range 1 + rng.IntN(40) {
			m := session.Message{Topic: []string{"zipped", "a", "b"}[rng.IntN(3)], Client: fmt.Sprint(rng.IntN(6)), Payload: make([]byte, rng.IntN(100))}
			if rng.IntN(4) == 0 {
				m.Payload = make([]byte, rng.IntN(maxBatch))
			}
			msgs = append(msgs, m)
		}
		for i, r := range n.publish(msgs...) {
			stream := msgs[i].Client + " " + msgs[i].Topic
			if at, there := last[stream]; r.Err != nil || there && r.Pos.Offset <= at {
				t.Fatalf("%s: offset %d after %d, %v", stream, r.Pos.Offset, at, r.Err)
			}
			last[stream] = r.Pos.Offset
		}
	}
}

// A full partition says wait, and says when there is room.
func TestAppendSaysWait(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{Manual: true, RoomBytes: 1000})
	stop := make(chan struct{})
	var drained sync.WaitGroup
	drained.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				mem.Drain()
				time.Sleep(time.Millisecond)
			}
		}
	})
	n := open(t, mem, []Spec{{MQTT: "one", Topic: "one", Partitions: 1}})
	close(stop)
	drained.Wait()
	var wait <-chan struct{}
	answers := 0
	for range 10 {
		if wait = n.store.Append([]session.Message{{Topic: "one", Payload: make([]byte, 300)}}, func([]session.Result) { answers++ }); wait != nil {
			break
		}
	}
	if wait == nil {
		t.Fatal("3,000 bytes fit into 1,000")
	}
	mem.Drain()
	select {
	case <-wait:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody said that there is room")
	}
	if answers == 0 {
		t.Fatal("no answers")
	}
	go mem.Drain()
}

func foreign(n *node, topicName string, recs ...eventlog.Record) {
	n.Helper()
	tp, err := n.log.Topic(n.Context(), topicName)
	if err != nil {
		n.Fatal(err)
	}
	if err := n.mem.Foreign(eventlog.Part{Topic: tp.ID, Index: 0}, recs, true); err != nil {
		n.Fatal(err)
	}
}

func header(k, v string) eventlog.Header { return eventlog.Header{Key: k, Value: []byte(v)} }

// Records of Kafka clients reach MQTT through reversible topics, named by their key alone.
func TestForeignRecords(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	tail := n.follow()
	next := session.Vector{}
	foreign(n, "commands",
		eventlog.Record{Key: []byte("7"), Value: []byte("go"), Headers: []eventlog.Header{header("mqtt.topic", "fleet/8/cmd"), header("mqtt.retain", "1"),
			header("mr-will", "12345678"), header("by", "dispatcher"), header("traceparent", "00-1")}},
		eventlog.Record{Key: []byte("8"), Value: nil}, // not compact: nothing to MQTT
		eventlog.Record{Key: []byte("9"), Value: []byte{}})
	foreign(n, "state", eventlog.Record{Key: []byte("7"), Value: nil})
	foreign(n, "telemetry", eventlog.Record{Key: []byte("7"), Value: []byte("not for MQTT")})
	msgs := n.until(tail, next, count(3))
	slices.SortFunc(msgs, func(a, b session.Message) int { return strings.Compare(a.Topic, b.Topic) })
	if m := msgs[0]; m.Topic != "fleet/7/cmd" || string(m.Payload) != "go" || m.Retain || m.QoS != 2 || m.Will != 0 || m.Client != "" ||
		!reflect.DeepEqual(m.Props, &session.Props{User: []packet.UserProperty{{Name: "by", Value: "dispatcher"}, {Name: "traceparent", Value: "00-1"}}}) {
		t.Errorf("%+v %+v", m, m.Props)
	}
	if m := msgs[1]; m.Topic != "fleet/9/cmd" || m.Clear || m.Retain || len(m.Payload) != 0 {
		t.Errorf("%+v", m)
	}
	if m := msgs[2]; m.Topic != "state/7" || !m.Clear || !m.Retain || len(m.Payload) != 0 {
		t.Errorf("%+v", m)
	}
	deadline := time.Now().Add(10 * time.Second)
	for n.store.Stats().Skipped["one_way_topic"] == 0 && time.Now().Before(deadline) {
		n.until(tail, next, count(0))
	}
	st := n.store.Stats()
	if st.Foreign != 3 || st.Skipped["null_value"] != 1 || st.Skipped["one_way_topic"] != 1 || len(st.DeadLetters) != 0 {
		t.Errorf("stats %+v", st)
	}
}

// deadLettersOf reads a dead-letter topic.
func deadLettersOf(n *node, topicName string) (recs []eventlog.Record) {
	n.Helper()
	tp, err := n.log.Topic(n.Context(), topicName+DeadSuffix)
	if errors.Is(err, eventlog.ErrUnknownTopic) {
		return nil
	}
	if err != nil {
		n.Fatal(err)
	}
	for i := range tp.Partitions {
		err := n.store.visit(n.Context(), eventlog.Part{Topic: tp.ID, Index: i}, func(r *eventlog.Record) error {
			c := *r
			c.Headers = slices.Clone(r.Headers)
			recs = append(recs, c)
			return nil
		})
		if err != nil {
			n.Fatal(err)
		}
	}
	return recs
}

func headerOf(r eventlog.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

var unrenderable = []struct {
	rec eventlog.Record
	why string
}{
	{eventlog.Record{Key: nil, Value: []byte("v")}, "without a key"},
	{eventlog.Record{Key: []byte("a/b"), Value: []byte("v")}, "not of the form"},
	{eventlog.Record{Key: []byte("+"), Value: []byte("v")}, "no MQTT topic"},
	{eventlog.Record{Key: []byte("a#"), Value: []byte("v")}, "no MQTT topic"},
	{eventlog.Record{Key: []byte("a\x00"), Value: []byte("v")}, "control characters"},
	{eventlog.Record{Key: []byte("a\r\nb"), Value: []byte("v")}, "control characters"},
	{eventlog.Record{Key: []byte("\xff\xfe"), Value: []byte("v")}, "no MQTT topic"},
	{eventlog.Record{Key: bytes.Repeat([]byte("x"), 70000), Value: []byte("v")}, "no MQTT topic"},
	{eventlog.Record{Key: []byte("7"), Value: []byte("v"), Headers: []eventlog.Header{header("bad", "\xff")}}, "not text"},
	{eventlog.Record{Key: []byte("7"), Value: []byte("v"), Headers: make([]eventlog.Header, maxForeignHeaders+1)}, "headers"},
}

// What cannot be rendered is dead-lettered, once per position, across restarts; what comes after it is delivered after it.
func TestDeadLetters(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	for i, u := range unrenderable {
		foreign(n, "commands", u.rec, eventlog.Record{Key: fmt.Append(nil, i), Value: []byte("fine")})
	}
	check := func(letters int) {
		t.Helper()
		recs := deadLettersOf(n, "commands")
		if len(recs) != letters {
			t.Fatalf("%d dead letters, want %d", len(recs), letters)
		}
		for i, r := range recs[:len(unrenderable)] {
			u := unrenderable[i]
			if !bytes.Equal(r.Key, u.rec.Key) || (r.Key == nil) != (u.rec.Key == nil) || !bytes.Equal(r.Value, u.rec.Value) ||
				!strings.Contains(headerOf(r, hDeadReason), u.why) || headerOf(r, hDeadTopic) != "commands" ||
				headerOf(r, hDeadOffset) != fmt.Sprint(3*i) || headerOf(r, hDeadPartition) != "0" {
				t.Errorf("dead letter %d: %q %.50q, want %q", i, headerOf(r, hDeadReason), r.Key, u.why)
			}
		}
	}
	for range 3 { // twice with one store, then with the next
		msgs := n.until(n.follow(), session.Vector{}, count(len(unrenderable)))
		for i, m := range msgs {
			if m.Topic != fmt.Sprintf("fleet/%d/cmd", i) {
				t.Fatalf("message %d: %+v", i, m)
			}
		}
		check(len(unrenderable))
	}
	n = open(t, mem, fleet)
	n.until(n.follow(), session.Vector{}, count(len(unrenderable)))
	check(len(unrenderable))
	if got := n.store.Stats().DeadLetters["written"]; got != 0 {
		t.Errorf("a restart wrote %d dead letters again", got)
	}
	foreign(n, "commands", eventlog.Record{Value: []byte("v")}, eventlog.Record{Key: []byte("1"), Value: []byte("fine")})
	n = open(t, mem, fleet)
	n.until(n.follow(), session.Vector{}, count(len(unrenderable)+1))
	check(len(unrenderable) + 1)
}

// On a log that misbehaves every unrenderable record has a dead letter, and nothing renderable has one.
func TestDeadLettersOnAHostileLog(t *testing.T) {
	for seed := range uint64(tier.N(100)) {
		mem := logtest.NewMemory(tier.Seed()+seed, logtest.Hostility{Shuffle: true, Refuse: 0.1, Gap: 0.1, NoSide: 0.3, Decoded: 0.3, TailDelay: 0.5, Held: 0.1, Aborted: 0.1})
		n := open(t, mem, fleet)
		tail := n.follow()
		const rounds = 20
		for i := range rounds {
			foreign(n, "commands", eventlog.Record{Key: []byte("+"), Value: fmt.Append(nil, i)}, eventlog.Record{Key: fmt.Append(nil, i), Value: []byte("fine")})
		}
		n.until(tail, session.Vector{}, count(rounds))
		offsets := map[string]bool{}
		for _, r := range deadLettersOf(n, "commands") {
			if headerOf(r, hDeadTopic) == "" {
				continue // somebody else's
			}
			if string(r.Key) != "+" || offsets[headerOf(r, hDeadOffset)] {
				t.Fatalf("seed %d: dead letter %q of offset %s", seed, r.Key, headerOf(r, hDeadOffset))
			}
			offsets[headerOf(r, hDeadOffset)] = true
		}
		if len(offsets) != rounds {
			t.Fatalf("seed %d: %d dead letters, want %d", seed, len(offsets), rounds)
		}
		n.store.Close()
		mem.Close()
	}
}

func TestStateTopics(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, nil)
	if got := len(n.store.Targets()); got != 8 {
		t.Fatalf("%d targets", got)
	}
	for _, target := range n.store.Targets() {
		w, restore, err := n.store.Claim(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if err := restore(func(int64, session.StateRecord) error { return errors.New("not empty") }); err != nil {
			t.Fatal(err)
		}
		var recs []session.StateRecord
		for i := range 200 {
			recs = append(recs, session.StateRecord{Key: fmt.Append(nil, i), Value: make([]byte, i*10)})
		}
		recs = append(recs, session.StateRecord{Key: []byte("gone")})
		c := make(chan []session.Result, 1)
		w.Append(recs, func(rs []session.Result) { c <- slices.Clone(rs) })
		for i, r := range <-c {
			if r.Err != nil || r.Pos.Part != n.store.TargetPart(target) || r.Pos.Offset != int64(i) {
				t.Fatalf("record %d: %+v", i, r)
			}
		}
		later, restore, err := n.store.Claim(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if later.Epoch() <= w.Epoch() {
			t.Fatalf("epoch %d after %d", later.Epoch(), w.Epoch())
		}
		i := 0
		err = restore(func(offset int64, r session.StateRecord) error {
			if string(r.Key) != string(recs[i].Key) || (r.Value == nil) != (recs[i].Value == nil) || len(r.Value) != len(recs[i].Value) || offset != int64(i) {
				return fmt.Errorf("record %d is %q, %d bytes", i, r.Key, len(r.Value))
			}
			i++
			return nil
		})
		if err != nil || i != len(recs) {
			t.Fatalf("%d records restored of %d, %v", i, len(recs), err)
		}
		w.Append(recs[:1], func(rs []session.Result) { c <- slices.Clone(rs) })
		if rs := <-c; !errors.Is(rs[0].Err, session.ErrFenced) {
			t.Fatalf("the fenced writer got %+v", rs)
		}
	}
}

func TestOpenKeepsTopicsAsTheyAre(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	open(t, mem, []Spec{{MQTT: "a/{b}", Topic: "x", Partitions: 3, Retention: time.Hour}})
	reopen := func(specs ...Spec) error {
		s, err := Open(t.Context(), Options{Log: eventlog.New(mem), Routes: specs, Now: func() int64 { return 1 }})
		if err == nil {
			s.Close()
		}
		return err
	}
	if err := reopen(Spec{MQTT: "a/{b}", Topic: "x"}); err != nil {
		t.Error(err)
	}
	err := reopen(Spec{MQTT: "a/{b}", Topic: "x", Partitions: 8})
	if err == nil || !strings.Contains(err.Error(), "partitions: 3") || !strings.Contains(err.Error(), `"a/{b}"`) {
		t.Errorf("other partitions: %v", err)
	}
	if err := reopen(Spec{MQTT: "a/{b}", Topic: "x", Retention: 2 * time.Hour}); err != nil {
		t.Error(err)
	}
	if tp, _ := eventlog.New(mem).Topic(t.Context(), "x"); tp.Config["retention.ms"] != "7200000" || tp.Partitions != 3 {
		t.Errorf("%+v", tp)
	}
	if _, err := Open(t.Context(), Options{Log: eventlog.New(mem), SessionPartitions: 5, Now: func() int64 { return 1 }}); err == nil || !strings.Contains(err.Error(), "session_partitions: 4") {
		t.Errorf("other session partitions: %v", err)
	}
}

// MQTT begins to look into a topic that was there before its route at the end it had then.
func TestOrigins(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	l := eventlog.New(mem)
	tp, err := l.CreateTopic(t.Context(), eventlog.TopicSpec{Name: "commands", Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	old := []eventlog.Record{{Key: []byte("1"), Value: []byte("old")}, {Key: []byte("2"), Value: []byte("old")}}
	if err := mem.Foreign(eventlog.Part{Topic: tp.ID}, old, true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n := open(t, mem, fleet)
		starts, _, err := n.store.Data(t.Context())
		if err != nil || starts[session.Part{Topic: tp.ID}] != 3 || starts[session.Part{Topic: tp.ID, Index: 1}] != 0 {
			t.Fatalf("starts %v, %v", starts, err)
		}
		foreign(n, "commands", eventlog.Record{Key: []byte("3"), Value: []byte("new")})
	}
}

func TestReadBelowTheStartIsAGap(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	pos := n.publish(session.Message{Topic: "fleet/1/cmd"}, session.Message{Topic: "fleet/1/cmd"})[1].Pos
	if err := n.log.Trim(t.Context(), eventlog.Position{Part: logPart(pos.Part), Offset: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := n.store.Read(t.Context(), session.Position{Part: pos.Part}, 100)
	var gap *session.GapError
	if !errors.As(err, &gap) || gap.Next != 1 {
		t.Fatalf("%v", err)
	}
}

// A routed topic that is deleted comes back, and messages go on.
func TestDeletedTopicComesBack(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	tail := n.follow()
	was := n.publish(session.Message{Topic: "fleet/1/cmd"})[0].Pos
	n.until(tail, session.Vector{}, count(1))
	if err := n.log.DeleteTopic(t.Context(), "commands"); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for deleted := 0; deleted < 2; {
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if !ev.Deleted || ev.Part.Topic != was.Topic {
				t.Fatalf("%+v", ev)
			}
			deleted++
		}
		select {
		case <-tail.Wake():
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("nobody said that the topic is gone")
		}
	}
	if r := n.publish(session.Message{Topic: "fleet/1/cmd", Payload: []byte("again")})[0]; r.Err != nil || r.Pos.Topic == was.Topic {
		t.Fatalf("%+v, in the topic that is gone: %v", r, r.Pos.Topic == was.Topic)
	}
	if msgs := n.until(tail, session.Vector{}, count(1)); string(msgs[0].Payload) != "again" {
		t.Fatalf("%+v", msgs)
	}
}

func TestCacheForgets(t *testing.T) {
	c := newCache()
	n := 0
	for i := range 300_000 {
		name := fmt.Sprintf("some/topic/%d", i)
		if r := c.get(name, func(s string) *resolved { n++; return &resolved{name: s} }); r.name != name {
			t.Fatalf("%q for %q", r.name, name)
		}
		c.get("always", func(s string) *resolved {
			if i > 0 {
				t.Fatal("a topic in use was forgotten")
			}
			return &resolved{name: s}
		})
	}
	entries := 0
	for i := range c.shards {
		entries += len(c.shards[i].young) + len(c.shards[i].old)
	}
	if entries > 90_000 || n != 300_000 {
		t.Errorf("%d entries, %d resolved", entries, n)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 50} {
		b.Run(fmt.Sprintf("%d-per-call", size), func(b *testing.B) {
			s := &Store{cache: newCache(), now: func() int64 { return 1 }}
			s.table, _ = Compile(fleet)
			s.gates = make([]gate, len(s.table.topics))
			p := &places{byID: map[eventlog.TopicID]int{}}
			for i, t := range s.table.topics {
				p.topics = append(p.topics, eventlog.Topic{Name: t.name, ID: eventlog.TopicID{byte(i)}, Partitions: 4})
			}
			s.places.Store(p)
			s.log = eventlog.New(sink{})
			msgs := make([]session.Message, size)
			for i := range msgs {
				msgs[i] = session.Message{Topic: fmt.Sprintf("fleet/%d/cmd", i), Payload: make([]byte, 300), Client: "client", QoS: 1}
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Append(msgs, func([]session.Result) {})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/msg")
		})
	}
}

// sink answers at once and keeps nothing.
type sink struct{ eventlog.Driver }

func (sink) Append(_ *eventlog.Batch, done func(eventlog.Outcome)) { done(eventlog.Outcome{}) }
func (sink) Room(eventlog.Part) <-chan struct{}                    { return nil }

// The copy of a message that a session's record has is read by the record's position; other records of sessions are no messages.
func TestCopyInSessionState(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, nil)
	w, restore, err := n.store.Claim(t.Context(), session.Target{Partition: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := restore(func(int64, session.StateRecord) error { return nil }); err != nil {
		t.Fatal(err)
	}
	// As docs/formats/sessions.md has it: version, kind, tenant, principal, client id, packet id; version, incarnation, flags, topic id,
	// partition, offset, topic, flags, time, client id, payload.
	key := []byte("\x01o\x00\x01p\x01c\x00\x07")
	plain := append(append([]byte("\x01\x05\x00"), make([]byte, 16)...), 3, 9)
	copied := append(append([]byte("\x01\x05\x02"), make([]byte, 16)...), "\x03\x09\x03a/b\x02\x08\x03dev\x07payload"...)
	c := make(chan []session.Result, 1)
	w.Append([]session.StateRecord{{Key: key, Value: plain}, {Key: key, Value: copied}, {Key: key}}, func(rs []session.Result) { c <- slices.Clone(rs) })
	at := (<-c)[1].Pos
	b, err := n.store.Read(t.Context(), at, 1)
	if err != nil || len(b.Msgs) != 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	if m := b.Msgs[0]; m.Offset != at.Offset || m.Topic != "a/b" || string(m.Payload) != "payload" || m.QoS != 2 || m.Client != "dev" || m.Time != 8 {
		t.Errorf("%+v", m)
	}
}

// The internal topics take what the largest packets make of a retained message, also when packets were smaller once.
func TestInternalTopicsAreWidened(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	for _, packet := range []int{1 << 20, 3 << 20, 2 << 20} {
		s, err := Open(t.Context(), Options{Log: eventlog.New(mem), Now: func() int64 { return 1 }, MaxPacket: packet})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		for _, name := range []string{sessionsTopic, retainedTopic} {
			tp, err := eventlog.New(mem).Topic(t.Context(), name)
			if have, _ := strconv.Atoi(tp.Config["max.message.bytes"]); err != nil || have < packet {
				t.Errorf("%s takes %d bytes, packets have %d: %v", name, have, packet, err)
			}
		}
	}
}
