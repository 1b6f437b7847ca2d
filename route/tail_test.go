package route

import (
	"errors"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/session"
)

// faultyTail reports an error with what it has, as a log's tail may when one partition cannot be read.
type faultyTail struct{ eventlog.Tail }

var errFaulty = errors.New("one partition cannot be read")

func (t faultyTail) Poll(into []eventlog.Event, maxBytes int) ([]eventlog.Event, error) {
	into, err := t.Tail.Poll(into, maxBytes)
	return into, errors.Join(err, errFaulty)
}

// What the log's tail gives together with an error is not lost: it is past that.
func TestEventsComeWithErrors(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	outer := n.follow().(*tail)
	outer.inner = faultyTail{outer.inner}
	const want = 50
	for range want {
		n.publish(session.Message{Topic: "fleet/7/telemetry", Payload: []byte("v"), Client: "c", QoS: 1})
	}
	for got := 0; got < want; {
		<-outer.Wake()
		events, err := outer.Poll(nil, 1000)
		if !errors.Is(err, errFaulty) {
			t.Fatalf("the error is gone: %v", err)
		}
		for _, ev := range events {
			got += len(ev.Batch.Msgs)
		}
	}
}

// A poll decodes about what it is asked for, however well it was compressed, and forgets nothing.
func TestPollsDecodeALittleAtATime(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{NoSide: 1})
	defer mem.Close()
	n := open(t, mem, fleet)
	tail := n.follow()
	const want = 100
	for range want {
		n.publish(session.Message{Topic: "fleet/7/telemetry", Payload: make([]byte, 50_000), Client: "c", QoS: 1})
	}
	for got := 0; got < want; {
		<-tail.Wake()
		events, err := tail.Poll(nil, 100_000)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) > 2 {
			t.Fatalf("%d batches of 50 kB in a poll for 100 kB", len(events))
		}
		for _, ev := range events {
			got += len(ev.Batch.Msgs)
		}
	}
}

// Who only looks on gets the messages, and neither counts nor dead-letters a second time what the broker's tail does.
func TestWhoLooksOnCountsNothing(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, fleet)
	m, err := meter.Open(t.Context(), meter.Options{Log: n.log, Run: 1, Now: n.clock.Load})
	if err != nil {
		t.Fatal(err)
	}
	n.store.count = newCounting(m, n.store.table)
	starts, _, err := n.store.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	looksOn, err := n.store.Follow(starts)
	if err != nil {
		t.Fatal(err)
	}
	defer looksOn.Close()
	foreign(n, "commands", eventlog.Record{Key: []byte("1"), Value: []byte("v")}, eventlog.Record{Value: []byte("no key")},
		eventlog.Record{Key: []byte("2")}, eventlog.Record{Key: []byte("3"), Value: []byte("v")})
	if msgs := n.until(looksOn, session.Vector{}, count(2)); msgs[1].Topic != "fleet/3/cmd" || msgs[0].Tally != nil {
		t.Errorf("%+v", msgs)
	}
	if st := n.store.Stats(); st.Foreign != 0 || len(st.Skipped) != 0 || len(st.DeadLetters) != 0 || len(deadLettersOf(n, "commands")) != 0 {
		t.Errorf("who looks on left traces: %+v", st)
	}
	if msgs := n.until(n.follow(), session.Vector{}, count(2)); msgs[0].Tally == nil {
		t.Errorf("deliveries are not counted: %+v", msgs)
	}
	if st := n.store.Stats(); st.Foreign != 2 || st.Skipped["null_value"] != 1 || st.DeadLetters["written"] != 1 {
		t.Errorf("%+v", st)
	}
}
