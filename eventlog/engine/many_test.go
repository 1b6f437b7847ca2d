package engine

import (
	"runtime"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestManyPartitions: partitions cost no goroutine, no open file beyond the bound, and little memory, when everything of theirs has been looked at;
// neither do they after a restart.
func TestManyPartitions(t *testing.T) {
	before := runtime.NumGoroutine()
	mem := vfs.NewMem()
	o := small(mem)
	const parts = 1000
	for round := range 2 {
		with := manyPartitions(t, o, parts, before)
		each := (with - heap()) / parts
		t.Logf("round %d: %d bytes of memory for each partition", round, each)
		if each > 4<<10 {
			t.Errorf("round %d: %d bytes of memory for each partition", round, each)
		}
	}
}

// manyPartitions writes to each partition, has everything looked at, and says what is in use then.
func manyPartitions(t *testing.T, o Options, parts int32, before int) (with int64) {
	e, err := Open(o) // not open, which would keep it
	if err != nil {
		t.Fatal(err)
	}
	topic, err := eventlog.New(e).Ensure(t.Context(), eventlog.TopicSpec{Name: "many", Partitions: parts})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan eventlog.Outcome, parts)
	for i := range parts {
		var bl eventlog.Builder
		bl.Add(e.Now(), nil, []byte("v"), nil)
		b, _, err := bl.Batch(eventlog.Part{Topic: topic.ID, Index: i}, eventlog.None)
		if err != nil {
			t.Fatal(err)
		}
		e.Append(b, func(o eventlog.Outcome) { done <- o })
	}
	for range parts {
		if o := <-done; o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	maintain(t, e)
	if err := e.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := runtime.NumGoroutine() - before; n > 30 {
		t.Errorf("%d goroutines for %d partitions", n, parts)
	}
	if n := e.Stats().OpenFiles; n > o.OpenFiles {
		t.Errorf("%d open files, at most %d", n, o.OpenFiles)
	}
	with = heap()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return with
}

// heap is what is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
