package engine

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestLightBesideBulk: when bulk has to wait for the disk, for a checkpoint that frees the WAL or for segments to be written, who appends little and
// waits for each answer goes on, also who only comes then, and for as long as it takes; and the bulk goes on when the disk does.
func TestLightBesideBulk(t *testing.T) {
	for what, holds := range map[string]func(vfs.Op) bool{
		"a checkpoint": func(op vfs.Op) bool { return op.Kind == vfs.OpDatasync },
		"segments":     func(op vfs.Op) bool { return op.Kind == vfs.OpWrite },
	} {
		t.Run(what, func(t *testing.T) {
			gate := make(chan struct{})
			o := Options{ReserveBytes: 1 << 20, MaintainEvery: -1, WALFileBytes: 1 << 20, WALFiles: 3, MemoryBytes: 16 << 20}
			enough := 10
			if what == "segments" { // then they come to their bound first
				o.WALFileBytes, o.MemoryBytes = 8<<20, 4<<20
				enough = 2 * mixedFor
			}
			o.FS = vfs.Faults(vfs.NewMem(), func(op vfs.Op) error {
				if strings.HasPrefix(op.Name, topicsDir+"/") && holds(op) {
					<-gate
				}
				return nil
			})
			e := open(t, o)
			release := sync.OnceFunc(func() { close(gate) })
			t.Cleanup(release) // before e is closed
			bulk := createTopic(t, e, "bulk", 4, nil).ID
			device := eventlog.Part{Topic: createTopic(t, e, "device", 1, nil).ID}
			var sent atomic.Int64
			stop := make(chan struct{})
			var producers sync.WaitGroup
			for i := range int32(4) {
				producers.Go(func() { produceBulk(t, e, eventlog.Part{Topic: bulk, Index: i}, &sent, stop) })
			}
			still, was := 0, int64(-1)
			for ; still < 20; time.Sleep(time.Millisecond) { // the sooner bulk waits, the harder the test
				if now := sent.Load(); now != was || e.Stats().QueuedBytes == 0 {
					still, was = 0, now
				}
				still++
			}
			// Each of these would wait for the gate, if it waited for what bulk waits for.
			for still = 0; still < enough; {
				if o := appendWait(t, e, device, "d"); o.Err != nil {
					t.Fatal(o.Err)
				}
				still++
				if now := sent.Load(); now != was || e.Stats().QueuedBytes == 0 {
					still, was = 0, now
				}
			}
			release()
			for sent.Load() < was+100 {
				if o := appendWait(t, e, device, "d"); o.Err != nil {
					t.Fatal(o.Err)
				}
			}
			close(stop)
			producers.Wait()
		})
	}
}

// produceBulk has five batches of 16 KB under way until it is to stop.
func produceBulk(t *testing.T, e *Engine, p eventlog.Part, sent *atomic.Int64, stop chan struct{}) {
	value := strings.Repeat("b", 16<<10)
	window := make(chan struct{}, 5)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-stop:
			return
		case window <- struct{}{}:
		}
		wg.Add(1)
		e.Produce(p, foreign(t, p, -1, -1, -1, rec(value)), AcksDurable, func(r Produced) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			sent.Add(1)
			<-window
			wg.Done()
		})
	}
}
