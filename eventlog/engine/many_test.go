package engine

import (
	"runtime"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestManyPartitions: partitions cost no goroutine, and no open file beyond the bound; neither after a restart.
func TestManyPartitions(t *testing.T) {
	before := runtime.NumGoroutine()
	mem := vfs.NewMem()
	o := small(mem)
	const parts = 1000
	for round := range 2 {
		e := open(t, o)
		topic, err := eventlog.New(e).Ensure(t.Context(), eventlog.TopicSpec{Name: "many", Partitions: parts})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan eventlog.Outcome, parts)
		for i := range int32(parts) {
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
			t.Errorf("round %d: %d goroutines for %d partitions", round, n, parts)
		}
		if n := e.Stats().OpenFiles; n > o.OpenFiles {
			t.Errorf("round %d: %d open files, at most %d", round, n, o.OpenFiles)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
