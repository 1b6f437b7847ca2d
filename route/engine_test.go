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
