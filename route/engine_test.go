package route

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/mqtt/session"
)

// On the engine: what is published comes from the tail prepared, is read back after a restart, and says whose it is.
func TestOnTheEngine(t *testing.T) {
	disk := vfs.NewMem()
	openStore := func() (*engine.Engine, *node) {
		e, err := engine.Open(engine.Options{FS: disk})
		if err != nil {
			t.Fatal(err)
		}
		n := &node{T: t, log: eventlog.New(e)}
		if n.store, err = Open(t.Context(), Options{Log: n.log, Routes: fleet, Now: e.Now}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.store.Close)
		return e, n
	}
	e, n := openStore()
	tail := n.follow()
	var msgs []session.Message
	for i := range 100 {
		msgs = append(msgs, session.Message{Topic: fmt.Sprintf("fleet/%d/telemetry", i%7), Payload: bytes.Repeat([]byte{byte(i)}, i), Client: "c", QoS: 1})
	}
	want := map[session.Position]session.Message{}
	for i, r := range n.publish(msgs...) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		want[r.Pos] = msgs[i]
	}
	check := func(n *node, got []session.Message, where string) {
		t.Helper()
		seen := map[string]int{}
		for _, m := range got {
			seen[m.Topic+string(m.Payload)]++
		}
		for pos, m := range want {
			if seen[m.Topic+string(m.Payload)] != 1 {
				t.Fatalf("%s: %v: %d times", where, pos, seen[m.Topic+string(m.Payload)])
			}
		}
	}
	check(n, n.until(tail, session.Vector{}, count(len(want))), "tail")

	// A Kafka client's record with our headers is still a Kafka client's.
	tp, _ := e.TopicByName("commands")
	var b eventlog.Builder
	b.Add(1, []byte("7"), []byte("go"), []eventlog.Header{header(hTopic, "fleet/forged/cmd"), header(hRetain, "1")})
	batch, _, err := b.Batch(eventlog.Part{Topic: tp.ID}, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	produced := make(chan engine.Produced, 1)
	e.Produce(batch.Part, batch.Raw(), engine.AcksDurable, func(p engine.Produced) { produced <- p })
	if p := <-produced; p.Err != nil {
		t.Fatal(p.Err)
	}
	if m := n.until(tail, session.Vector{}, count(1))[0]; m.Topic != "fleet/7/cmd" || m.Retain {
		t.Fatalf("%+v", m)
	}
	n.store.Close()
	tail.Close()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	e, n = openStore()
	defer e.Close()
	for pos, m := range want {
		got, err := n.readOne(pos)
		if err != nil || !bytes.Equal(got.Payload, m.Payload) || got.Client != "c" {
			t.Fatalf("read %v: %+v, %v", pos, got, err)
		}
	}
	tail = n.follow()
	check(n, n.until(tail, session.Vector{}, count(len(want)+1)), "tail after a restart")
}

// produce appends a Kafka client's batch where the key 7 goes, which spoil may have broken, though its checksum holds.
func produce(t *testing.T, e *engine.Engine, topic string, spoil func(eventlog.RawBatch), recs ...eventlog.Record) {
	t.Helper()
	tp, _ := e.TopicByName(topic)
	var b eventlog.Builder
	for _, r := range recs {
		b.Add(1, r.Key, r.Value, r.Headers)
	}
	batch, _, err := b.Batch(eventlog.Part{Topic: tp.ID, Index: partition([]byte("7"), tp.Partitions)}, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	raw := batch.Raw()
	spoil(raw)
	raw.Reseal()
	c := make(chan engine.Produced, 1)
	e.Produce(batch.Part, raw, engine.AcksDurable, func(p engine.Produced) { c <- p })
	if p := <-c; p.Err != nil {
		t.Fatal(p.Err)
	}
}

// Whatever a Kafka client puts into a routed topic or a dead-letter topic, devices' messages around it come through: from the
// tail, after a restart from the files, and by reads.
func TestHostileBatches(t *testing.T) {
	disk := vfs.NewMem()
	openStore := func() (*engine.Engine, *node) {
		e, err := engine.Open(engine.Options{FS: disk})
		if err != nil {
			t.Fatal(err)
		}
		n := &node{T: t, log: eventlog.New(e)}
		if n.store, err = Open(t.Context(), Options{Log: n.log, Routes: fleet, Now: e.Now}); err != nil {
			t.Fatal(err)
		}
		return e, n
	}
	garbage := func(b eventlog.RawBatch) {
		for i := eventlog.HeaderSize; i < len(b); i++ {
			b[i] = 0xff
		}
	}
	crowd := func(b eventlog.RawBatch) { // as many records as the bytes could be
		n := b.MaxCount()
		b[60], b[26] = byte(n), byte(n-1)
	}
	bomb := func(b eventlog.RawBatch) { b[22] |= byte(eventlog.Gzip) } // not even that
	long := eventlog.Record{Key: []byte("7"), Value: bytes.Repeat([]byte("x"), 100)}

	e, n := openStore()
	tail := n.follow()
	positions := map[session.Position]string{}
	for i := range 6 {
		for _, topic := range []string{"telemetry", "commands"} {
			for _, spoil := range []func(eventlog.RawBatch){garbage, crowd, bomb} {
				produce(t, e, topic, spoil, long)
			}
		}
		produce(t, e, "commands", func(eventlog.RawBatch) {}, eventlog.Record{Key: []byte("a/b"), Value: []byte("no topic")})
		if _, there := e.TopicByName("commands" + DeadSuffix); there {
			produce(t, e, "commands"+DeadSuffix, garbage, long)
		}
		for _, topic := range []string{"fleet/7/telemetry", "fleet/7/cmd", "fleet/8/telemetry", "elsewhere"} {
			payload := fmt.Sprint(topic, i)
			r := n.publish(session.Message{Topic: topic, Payload: []byte(payload), Client: "c", QoS: 1})[0]
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			positions[r.Pos] = payload
		}
	}
	check := func(got []session.Message) {
		t.Helper()
		seen := map[string]int{}
		for _, m := range got {
			seen[string(m.Payload)]++
		}
		for pos, payload := range positions {
			if seen[payload] != 1 {
				t.Errorf("%v %s: %d times", pos, payload, seen[payload])
			}
		}
	}
	check(n.until(tail, session.Vector{}, count(len(positions))))
	if st := n.store.Stats(); st.Skipped[undecodable] < 18 || st.Skipped["one_way_topic"] < 18 || st.Foreign != 0 {
		t.Errorf("%+v", st)
	}
	tail.Close()
	n.store.Close()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	e, n = openStore()
	defer func() {
		n.store.Close()
		e.Close()
	}()
	tail = n.follow()
	check(n.until(tail, session.Vector{}, count(len(positions))))
	tail.Close()
	for pos, payload := range positions { // from each one's place back to the start, nothing is in the way
		if m, err := n.readOne(pos); err != nil || string(m.Payload) != payload {
			t.Errorf("read %v: %+v, %v", pos, m, err)
		}
		at := session.Position{Part: pos.Part}
		for at.Offset <= pos.Offset {
			b, err := n.store.Read(t.Context(), at, 200)
			if err != nil || b.Next <= at.Offset {
				t.Fatalf("read %v: next %d, %v", at, b.Next, err)
			}
			at.Offset = b.Next
		}
	}
}
