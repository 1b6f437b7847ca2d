package engine

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

func openOS(b *testing.B, o Options) *Engine {
	fs, err := vfs.OS(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	o.FS = fs
	e, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	return e
}

// BenchmarkAppend appends batches of one 100-byte record from many goroutines, each with a window of outstanding appends, on
// the operating system's files.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ clients, window, records int }{{1, 1, 1}, {100, 1, 1}, {1000, 1, 1}, {100, 16, 1}, {100, 4, 64}} {
		b.Run(fmt.Sprintf("clients=%d/window=%d/records=%d", c.clients, c.window, c.records), func(b *testing.B) {
			e := openOS(b, Options{MaintainEvery: -1})
			t := createTopic(b, e, "bench", 8, nil)
			benchAppend(b, e, t, c.clients, c.window, c.records)
		})
	}
}

func benchAppend(b *testing.B, e *Engine, t eventlog.Topic, clients, window, records int) {
	value := make([]byte, 100)
	var left atomic.Int64
	left.Store(int64(b.N))
	var slowest atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			p := eventlog.Part{Topic: t.ID, Index: int32(i) % t.Partitions}
			slots := make(chan struct{}, window)
			var bl eventlog.Builder
			for left.Add(-1) >= 0 {
				slots <- struct{}{}
				for range records {
					bl.Add(1_700_000_000_000, nil, value, nil)
				}
				batch, _, err := bl.Batch(p, eventlog.None)
				if err != nil {
					b.Error(err)
					return
				}
				began := time.Now()
				e.Append(batch, func(o eventlog.Outcome) {
					if o.Err != nil {
						b.Error(o.Err)
					}
					d := int64(time.Since(began))
					for {
						old := slowest.Load()
						if d <= old || slowest.CompareAndSwap(old, d) {
							break
						}
					}
					<-slots
				})
			}
			for range window {
				slots <- struct{}{}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	s := e.Stats()
	b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(s.Commits)/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(slowest.Load())/1e6, "max-ms")
	if os.Getenv("BENCH_SYNC") != "" {
		b.Logf("%+v", s.Sync)
	}
}

// BenchmarkCheckpoint makes checkpoints of a thousand dirty partitions, over and over, and measures what a durable append
// takes meanwhile, and in peace.
func BenchmarkCheckpoint(b *testing.B) {
	e := openOS(b, Options{MaintainEvery: -1, CheckpointBytes: 1 << 40})
	const parts = 1000
	t := createTopic(b, e, "bench", parts, nil)
	dirty := func() {
		var wg sync.WaitGroup
		for i := range int32(parts) {
			wg.Add(1)
			batch := sideBatch(b, eventlog.Part{Topic: t.ID, Index: i}, "some value")
			e.Append(batch, func(eventlog.Outcome) { wg.Done() })
		}
		wg.Wait()
	}
	latencies := func(until <-chan struct{}) (out []time.Duration) {
		for {
			select {
			case <-until:
				return out
			default:
				began := time.Now()
				appendWait(b, e, eventlog.Part{Topic: t.ID}, "x")
				out = append(out, time.Since(began))
			}
		}
	}
	report := func(what string, l []time.Duration) {
		if len(l) == 0 {
			return
		}
		slices.Sort(l)
		b.ReportMetric(float64(l[len(l)/2])/1e6, what+"-p50-ms")
		b.ReportMetric(float64(l[len(l)*99/100])/1e6, what+"-p99-ms")
		b.ReportMetric(float64(l[len(l)-1])/1e6, what+"-max-ms")
	}
	dirty()
	if err := e.checkpoint(); err != nil { // makes the files and directories
		b.Fatal(err)
	}
	var during []time.Duration
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		dirty()
		done := make(chan struct{})
		b.StartTimer()
		go func() {
			defer close(done)
			if err := e.checkpoint(); err != nil {
				b.Error(err)
			}
		}()
		during = append(during, latencies(done)...)
	}
	b.StopTimer()
	report("during", during)
	quiet := make(chan struct{})
	time.AfterFunc(2*time.Second, func() { close(quiet) })
	report("quiet", latencies(quiet))
}
