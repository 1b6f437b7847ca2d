package engine

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestTailKeepsSide: what an appender attached comes out of the tail while it is in memory, and the batch is the same one.
func TestTailKeepsSide(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	tail, err := e.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	var bl eventlog.Builder
	bl.Add(1, nil, []byte("v"), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	b.Side = "side"
	done := make(chan struct{})
	e.Append(b, func(eventlog.Outcome) { close(done) })
	<-done
	events, err := tail.Poll(nil, 1000)
	if err != nil || len(events) != 1 || events[0].Batch != b || events[0].Batch.Side != "side" || events[0].Next != 1 {
		t.Fatalf("%+v, %v", events, err)
	}
}

// TestTailFallsOut: a tail that is overrun reads on from files, rejoins, and is given everything once; memory stays bounded.
func TestTailFallsOut(t *testing.T) {
	o := small(vfs.NewMem())
	e := open(t, o)
	p := topicOf(t, e, nil)
	tail, err := e.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	const n = 400
	for i := range n {
		appendWait(t, e, p, fmt.Sprint(i, strings.Repeat("x", 5000)))
		if held, _ := e.ring.heldBytes(); held > o.MemoryBytes {
			t.Fatalf("%d bytes are held in memory", held)
		}
	}
	if e.ring.first == 0 {
		t.Fatal("the ring holds everything")
	}
	next := int64(0)
	live := 0
	var events []eventlog.Event
	for next < n+20 {
		if next >= n && live == 0 {
			for i := range 20 {
				b := sideBatch(t, p, fmt.Sprint("live", i))
				e.Append(b, func(eventlog.Outcome) {})
			}
			live = 1
		}
		<-tail.Wake()
		if events, err = tail.Poll(events[:0], 30_000); err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if ev.Kind != eventlog.Records || ev.Batch.Base() != next {
				t.Fatalf("at %d: %+v", next, ev)
			}
			if next = ev.Next; next > n && ev.Batch.Side == nil {
				t.Fatalf("batch before %d does not come from memory", next)
			}
		}
	}
}

func sideBatch(t testing.TB, p eventlog.Part, value string) *eventlog.Batch {
	t.Helper()
	var bl eventlog.Builder
	bl.Add(1, nil, []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	b.Side = value
	return b
}

// TestNoTailNoMemory: without a tail nothing applied is kept.
func TestNoTailNoMemory(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	fill(t, e, p, 30)
	if held, unapplied := e.ring.heldBytes(); held != 0 || unapplied != 0 {
		t.Errorf("%d bytes are held, %d not applied", held, unapplied)
	}
	tail, err := e.Tail(eventlog.Vector{p: 30})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, e, p, 30)
	if held, _ := e.ring.heldBytes(); held == 0 {
		t.Error("nothing is held for the tail")
	}
	tail.Close()
	if held, _ := e.ring.heldBytes(); held != 0 {
		t.Errorf("%d bytes are held for nobody", held)
	}
}

// TestSeenNoMemory: what is applied and every tail has seen is not kept.
func TestSeenNoMemory(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	tail, err := e.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	appendWait(t, e, p, "value")
	if err := e.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if held, unapplied := e.ring.heldBytes(); held == 0 || unapplied != 0 {
		t.Fatalf("%d bytes are held for a tail that has not seen them, %d not applied", held, unapplied)
	}
	if events, err := tail.Poll(nil, 1000); err != nil || len(events) != 1 {
		t.Fatalf("%+v, %v", events, err)
	}
	if held, _ := e.ring.heldBytes(); held != 0 {
		t.Errorf("%d bytes are held for nobody", held)
	}
}

// TestWatch: those who watch hear of every move, and of the end.
func TestWatch(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	topic := createTopic(t, e, "t", 2, nil)
	p, q := eventlog.Part{Topic: topic.ID}, eventlog.Part{Topic: topic.ID, Index: 1}
	var mu sync.Mutex
	heard := map[eventlog.Part]int{}
	stop := e.Watch([]eventlog.Part{p, q, {}}, func(at eventlog.Part) {
		mu.Lock()
		defer mu.Unlock()
		heard[at]++
	})
	count := func(at eventlog.Part) int {
		mu.Lock()
		defer mu.Unlock()
		return heard[at]
	}
	appendWait(t, e, p, "a", "b")
	if count(p) != 1 || count(q) != 0 {
		t.Errorf("heard %v", heard)
	}
	if err := e.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if count(p) != 2 || count(q) != 1 {
		t.Errorf("heard %v", heard)
	}
	stop()
	stop()
}
