package engine

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/vfs"
)

// TestCheckpointEvery: checkpoints come with time too, if anything was committed since the last one.
func TestCheckpointEvery(t *testing.T) {
	o := small(vfs.NewMem())
	o.CheckpointBytes, o.CheckpointEvery = 1<<40, time.Millisecond
	e := open(t, o)
	p := topicOf(t, e, nil)
	for i := range 3 {
		before := e.Stats().Checkpoints
		appendWait(t, e, p, "value")
		for deadline := time.Now().Add(10 * time.Second); e.Stats().Checkpoints == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no checkpoint after append %d", i)
			}
		}
	}
}
