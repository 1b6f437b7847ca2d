package segment

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

func BenchmarkAppend(b *testing.B) {
	for _, records := range []int{1, 100} {
		b.Run(fmt.Sprint(records), func(b *testing.B) {
			l, batch := benchLog(b, records)
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				batch.SetBase(l.End())
				check(b, l.Append(batch))
			}
		})
	}
}

// BenchmarkRead reads a log of 64 MiB again and again, from the start to the end or at random.
func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name string
		max  int
		far  bool
	}{{"follow/4KiB", 4 << 10, false}, {"follow/1MiB", 1 << 20, false}, {"seek/4KiB", 4 << 10, true}} {
		b.Run(c.name, func(b *testing.B) {
			l, batch := benchLog(b, 10)
			for l.Size() < 64<<20 {
				batch.SetBase(l.End())
				check(b, l.Append(batch))
			}
			r, from, bytes := rng(1), int64(0), int64(0)
			for b.Loop() {
				raw, err := l.Read(from, c.max, true)
				check(b, err)
				bytes += int64(len(raw))
				if from = lastOf(raw).Next(); c.far || from == l.End() {
					from = r.Int64N(l.End())
				}
			}
			b.SetBytes(bytes / int64(b.N))
		})
	}
}

func benchLog(b *testing.B, records int) (*Log, eventlog.RawBatch) {
	l, err := Open(osFS(b), "bench/0", Options{SegmentBytes: 32 << 20}, NewFileCache(16), State{})
	check(b, err)
	var recs []rec
	for range records {
		recs = append(recs, rec{0, 1, "key", strings.Repeat("v", 200)})
	}
	return l, encode(b, eventlog.None, recs...)
}
