package engine

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/internal/vfs"
)

// TestLargeFrames: frames from DirectBytes on are written past the page cache, in pieces, those below as ever; both are there after a kill.
func TestLargeFrames(t *testing.T) {
	mem := vfs.NewMem()
	var mu sync.Mutex
	var writes []vfs.Op
	o := small(vfs.Faults(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, walDir) {
			writes = append(writes, op)
		}
		return nil
	}))
	o.WALFileBytes, o.CheckpointBytes, o.MemoryBytes, o.SegmentBytes = 16<<20, 1<<30, 64<<20, 64<<20
	e := open(t, o)
	p := topicOf(t, e, map[string]string{"max.message.bytes": "4000000"})
	var want []string
	for i, n := range []int{10, staged - 300, staged + 5000, 10, 2*staged + 1, 4096, 8192} {
		want = append(want, strings.Repeat(string(rune('a'+i)), n))
		mu.Lock()
		writes = writes[:0]
		mu.Unlock()
		if out := appendWait(t, e, p, want[i]); out.Err != nil {
			t.Fatal(out.Err)
		}
		frame := alignUp(int64(frameHeader + batchHeader + n + 60))
		mu.Lock()
		pieces := 1
		if frame >= o.DirectBytes {
			pieces = int((frame + staged - 1) / staged)
		}
		if len(writes) != pieces || writes[0].Direct != (frame >= o.DirectBytes) {
			t.Errorf("%d bytes are written as %+v", n, writes)
		}
		mu.Unlock()
	}
	o.FS = mem.Kill()
	e = open(t, o)
	if got := values(t, e, p); !slices.Equal(got, want) {
		t.Errorf("%d records are left of %d, or others", len(got), len(want))
	}
	if s := e.Stats(); s.RecoveredBatches != uint64(len(want)) {
		t.Errorf("%d batches were recovered", s.RecoveredBatches)
	}
}
