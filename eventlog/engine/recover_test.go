package engine

import (
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// looks counts what is done to files below the topics.
type looks struct {
	mu    sync.Mutex
	bytes int64
	ops   int
	parts map[string]bool // their folders
}

func (l *looks) hook(op vfs.Op) error {
	path := strings.SplitN(op.Name, "/", 4)
	if path[0] != topicsDir || len(path) < 3 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops++
	if op.Kind == vfs.OpRead {
		l.bytes += op.Len
	}
	l.parts[path[1]+"/"+path[2]] = true
	return nil
}

// TestStartReadsLittle: what a start reads of segments is the same whatever their size, and a few bytes for each partition that the WAL has something
// for; the others' files it does not touch.
func TestStartReadsLittle(t *testing.T) {
	parts := int32(tier.N(1000))
	start := func(batches int) *looks {
		mem := vfs.NewMem()
		o := small(mem)
		o.SegmentBytes, o.WALFileBytes, o.CheckpointBytes = 16<<10, 1<<20, 2<<20
		e := open(t, o)
		topic := createTopic(t, e, "topic", parts, nil).ID
		all := func(n int, parts int32) {
			var wg sync.WaitGroup
			for i := range parts {
				for range n {
					var bl eventlog.Builder
					bl.Add(e.Now(), nil, []byte(strings.Repeat("v", 1000)), nil)
					b, _, err := bl.Batch(eventlog.Part{Topic: topic, Index: i}, eventlog.None)
					if err != nil {
						t.Fatal(err)
					}
					wg.Add(1)
					e.Append(b, func(o eventlog.Outcome) {
						if o.Err != nil {
							t.Error(o.Err)
						}
						wg.Done()
					})
				}
			}
			wg.Wait()
		}
		all(batches, parts)
		if err := e.checkpoint(); err != nil {
			t.Fatal(err)
		}
		all(1, parts/2) // for the WAL
		l := &looks{parts: map[string]bool{}}
		o.FS = vfs.Faults(mem.Kill(), l.hook)
		e.Close()
		e = open(t, o)
		if n := e.Stats().RecoveredBatches; n != uint64(parts/2) {
			t.Errorf("%d batches are recovered, want %d", n, parts/2)
		}
		return l
	}
	few, many := start(10), start(100)
	t.Logf("%d partitions: %d operations and %d bytes with segments of 10 KB, %d and %d with 100 KB", parts, few.ops, few.bytes, many.ops, many.bytes)
	if len(few.parts) != int(parts/2) || len(many.parts) != int(parts/2) {
		t.Errorf("files of %d and %d partitions are touched, want %d", len(few.parts), len(many.parts), parts/2)
	}
	if limit := int64(parts) * 200; many.bytes > limit || many.bytes > few.bytes*11/10 {
		t.Errorf("%d bytes are read with large segments, %d with small ones; want no more, and %d at most", many.bytes, few.bytes, limit)
	}
	if limit := int(parts/2) * 30; many.ops > limit {
		t.Errorf("%d operations, want %d at most", many.ops, limit)
	}
}
