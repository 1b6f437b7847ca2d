package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// traced is what a trace has seen, up to an event that ends with last.
func traced(t *testing.T, tr *broker.Tracer, last string) (list []string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case <-tr.Ready():
			for _, e := range tr.Take(1) {
				list = append(list, tell(e))
				if strings.HasSuffix(list[len(list)-1], last) {
					return list
				}
			}
		case <-limit:
			t.Fatalf("%s never came, but %q", last, list)
		}
	}
}

func tell(e broker.TraceEvent) string {
	way := ">"
	if e.Out {
		way = "<"
	}
	text := e.Client + way + " " + e.Packet
	if e.Topic != "" {
		text += fmt.Sprintf(" q%d t=%s (%d)", e.QoS, e.Topic, e.Size)
	}
	for _, f := range e.Filters {
		text += " " + f
	}
	if e.ID != 0 {
		text += fmt.Sprint(" #", e.ID)
	}
	if len(e.Payload) > 0 {
		text += fmt.Sprintf(" %q", e.Payload)
	}
	if e.Reason != "" && e.Reason != packet.Success.String() {
		text += " " + e.Reason
	}
	return text
}

// A trace of a client has its packets, both ways and in order, and nobody else's.
func TestTraceClient(t *testing.T) {
	n := newNode(t, nil)
	tr, err := n.b.Trace(broker.TraceOptions{Client: "a", Payload: 3})
	if err != nil {
		t.Fatal(err)
	}
	b := n.connected("CONNECT v5 id=b")
	a := n.connected("CONNECT v5 id=a will=w \"gone\"")
	a.send("SUBSCRIBE #1 x:1")
	a.expect("SUBACK #1 0x01")
	b.send("PUBLISH q1 #1 t=x \"12345\"", "PUBLISH q1 #2 t=y \"not seen\"")
	a.expect("PUBLISH q1 #1 t=x \"12345\"")
	a.send("PUBACK #1", "PINGREQ")
	a.expect("PINGRESP")
	a.send("PUBLISH q1 #9 t=$SYS/x \"m\"")
	a.expect("PUBACK #9 0x90")
	a.send("DISCONNECT")
	a.expectClosed()
	got := strings.Join(traced(t, tr, "client_disconnect"), "\n")
	want := strings.Join([]string{
		"a> CONNECT q0 t=w (0)",
		"a< CONNACK",
		"a> SUBSCRIBE x #1",
		"a< SUBACK #1",
		"a< PUBLISH q1 t=x (5) #1 \"123\"",
		"a> PUBACK #1",
		"a> PINGREQ",
		"a< PINGRESP",
		"a> PUBLISH q1 t=$SYS/x (1) #9 \"m\"",
		"a> PUBLISH q1 t=$SYS/x (0) #9 refused: clients may not publish to $ topics",
		"a< PUBACK #9 Topic Name invalid (0x90)",
		"a> DISCONNECT",
		"a> CLOSED client_disconnect",
	}, "\n")
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	tr.Close()
	c := n.connected("CONNECT v5 id=a")
	c.quiet()
	for _, e := range tr.Take(1) {
		t.Errorf("after its end: %s", tell(e))
	}
}

// Who is refused is traced too, by the name that they gave.
func TestTraceRefusedConnect(t *testing.T) {
	n := newNode(t, func(o *broker.Options) {
		o.Authenticate = nobody
	})
	tr, err := n.b.Trace(broker.TraceOptions{Client: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"b", "a"} {
		c := n.dial()
		c.send("CONNECT v5 id=" + id)
		c.expect("CONNACK 0x87")
		c.expectClosed()
	}
	got := strings.Join(traced(t, tr, "> CLOSED not_authorized"), "\n")
	if want := "a> CONNECT\na< CONNACK Not authorized (0x87)\na> CLOSED not_authorized"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// A trace of a filter has the messages that it matches, from whom and to whom they may be, also by an alias.
func TestTraceFilter(t *testing.T) {
	n := newNode(t, nil)
	tr, err := n.b.Trace(broker.TraceOptions{Filter: "x/+"})
	if err != nil {
		t.Fatal(err)
	}
	a, b := n.connected("CONNECT v5 id=a"), n.connected("CONNECT v4 clean id=b")
	b.send("SUBSCRIBE #1 #:0")
	b.expect("SUBACK #1 0x00")
	a.send("PUBLISH q0 t=x/1 alias=1 \"m\"", "PUBLISH q0 t= alias=1 \"mm\"", "PUBLISH q0 t=y \"no\"", "PUBLISH q0 t=x/2 \"last\"")
	seen := map[string]bool{}
	for len(seen) < 6 {
		for _, s := range traced(t, tr, ")") {
			seen[s] = true
		}
	}
	for _, s := range []string{"a> PUBLISH q0 t=x/1 (1)", "a> PUBLISH q0 t=x/1 (2)", "a> PUBLISH q0 t=x/2 (4)",
		"b< PUBLISH q0 t=x/1 (1)", "b< PUBLISH q0 t=x/1 (2)", "b< PUBLISH q0 t=x/2 (4)"} {
		if !seen[s] {
			t.Errorf("%s is missing in %v", s, seen)
		}
	}
}

// A trace that nobody reads holds nobody up, keeps no more than its buffer, and says what it has left out. There are only so many.
func TestTraceBounds(t *testing.T) {
	n := newNode(t, nil)
	tr, err := n.b.Trace(broker.TraceOptions{Filter: "#", Buffer: 10})
	if err != nil {
		t.Fatal(err)
	}
	a := n.connected("CONNECT v5 id=a")
	for i := range 100 {
		a.send(fmt.Sprintf("PUBLISH q1 #%d t=x \"m\"", i+1))
		a.expect(fmt.Sprintf("PUBACK #%d", i+1))
	}
	if kept := tr.Take(100); len(kept) != 10 || tr.Dropped() != 90 || tr.Dropped() != 0 {
		t.Errorf("%d are kept", len(kept))
	}
	small, err := n.b.Trace(broker.TraceOptions{Filter: "#", Payload: 1000, Bytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	long := fmt.Sprintf("PUBLISH q0 t=%s %q", strings.Repeat("t", 5000), strings.Repeat("p", 900))
	for range 20 { // one of these has room
		a.send(long)
	}
	for range 20 { // and some of these beside it
		a.send(fmt.Sprintf("PUBLISH q0 t=x %q", strings.Repeat("p", 900)))
	}
	a.send("PUBLISH q1 #1 t=x \"m\"")
	a.expect("PUBACK #1")
	kept, size := small.Take(100), 0
	for _, e := range kept {
		size += len(e.Topic) + len(e.Payload)
	}
	if len(kept) < 2 || size > 10_000 || int64(len(kept))+small.Dropped() != 41 {
		t.Errorf("%d events of %d bytes are kept", len(kept), size)
	}
	a.send(long)
	a.send("PUBLISH q1 #1 t=y \"m\"")
	a.expect("PUBACK #1")
	if kept := small.Take(100); len(kept) != 2 || len(kept[0].Topic) != 5000 {
		t.Errorf("when there is room again, %d are kept", len(kept))
	}
	small.Close()
	for range 7 {
		if _, err := n.b.Trace(broker.TraceOptions{Client: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.b.Trace(broker.TraceOptions{Client: "x"}); err != broker.ErrTraces {
		t.Error(err)
	}
	for _, o := range []broker.TraceOptions{{}, {Client: "a", Filter: "b"}, {Filter: "a/#/b"}} {
		if _, err := n.b.Trace(o); err == nil || err == broker.ErrTraces {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
