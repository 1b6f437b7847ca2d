package route

import (
	"errors"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
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
