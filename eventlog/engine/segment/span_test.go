//go:build unix

package segment

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// onDisk is a fixture on files that have descriptors.
func onDisk(t *testing.T, o Options) (f *fixture, dir string) {
	t.Helper()
	dir = t.TempDir()
	fs, err := vfs.OS(dir)
	check(t, err)
	f = newFixture(t, fs, o)
	t.Cleanup(func() { f.log.Close() })
	return f, filepath.Join(dir, "topic", "0")
}

// bytesOf is what whoever sends a span sends.
func bytesOf(t *testing.T, s Span) []byte {
	t.Helper()
	p := make([]byte, s.Size)
	if n, err := syscall.Pread(int(s.Fd), p, s.Off); err != nil || n != len(p) {
		t.Fatalf("read %d of %d bytes of a span: %v", n, len(p), err)
	}
	return p
}

// A span is what Read returns, cut where it must be.
func TestSpanIsWhatReadReturns(t *testing.T) {
	f, _ := onDisk(t, Options{SegmentBytes: 20_000, IndexBytes: 500})
	r := rng(tier.Seed())
	for range 200 {
		f.add(anyCodec(r), 1+r.IntN(5), r.IntN(300))
	}
	ends := map[int64]bool{} // of batches
	for at := int64(0); at < f.log.End(); {
		raw, err := f.log.Read(at, 1, true)
		check(t, err)
		at = eventlog.RawBatch(raw).Next()
		ends[at] = true
	}
	spans := 0
	for range tier.N(5000) {
		offset, below, most := r.Int64N(f.log.End()), int64(math.MaxInt64), 1+r.IntN(30_000)
		for r.IntN(2) == 0 && !ends[below] {
			below = r.Int64N(f.log.End()+1) + 1
		}
		s, ok := f.log.Span(offset, below, 100, most)
		if !ok {
			continue
		}
		spans++
		got := bytesOf(t, s)
		want, err := f.log.Read(offset, int(s.Size), true)
		check(t, err)
		if !bytes.Equal(got, want) || len(got) > most || len(got) < 100 {
			t.Fatalf("from %d, at most %d bytes: a span of %d, Read returns %d", offset, most, len(got), len(want))
		}
		recs := decode(t, got)
		if last := recs[len(recs)-1].offset; last+1 != s.Next || s.Next > below {
			t.Fatalf("from %d below %d: the span ends at %d, its records at %d", offset, below, s.Next, last)
		}
		if more, err := f.log.Read(s.Next, most, true); err == nil && len(more) > 0 && s.Next < f.segmentEnd(offset) {
			if n := batchSize(more); len(got)+n <= most && eventlog.RawBatch(more).Next() <= below {
				t.Fatalf("from %d below %d, at most %d bytes: the span has %d, and the next batch %d", offset, below, most, len(got), n)
			}
		}
		s.Release()
	}
	if spans < tier.N(5000)/2 {
		t.Errorf("%d spans only", spans)
	}
	if f.cache.lent != 0 {
		t.Errorf("%d files are lent still", f.cache.lent)
	}
}

// segmentEnd is where the segment of an offset ends: a span does not go beyond.
func (f *fixture) segmentEnd(offset int64) int64 {
	for _, s := range f.segments() {
		if offset < s.Limit {
			return s.Limit
		}
	}
	return f.log.End()
}

// Bytes are sent unseen only if this process has written or verified them, and not long ago.
func TestSpanIsOfTrustedBytes(t *testing.T) {
	f, _ := onDisk(t, Options{})
	has := func(offset int64) bool {
		t.Helper()
		s, ok := f.log.Span(offset, math.MaxInt64, 100, 1<<20)
		s.Release()
		return ok
	}
	want := func(offset int64, yes bool, why string) {
		t.Helper()
		if has(offset) != yes {
			t.Fatalf("%s: a span from %d: %v, want %v", why, offset, !yes, yes)
		}
	}
	f.add(0, 10, 100)
	want(0, true, "just written")
	f.now = f.now.Add(trustFor - time.Second)
	f.add(0, 10, 100)
	want(0, true, "written in time, in two parts")
	f.now = f.now.Add(time.Minute)
	want(0, false, "written long ago")
	want(10, true, "written a minute ago")
	if _, err := f.log.Read(0, 1<<20, true); err != nil {
		t.Fatal(err)
	}
	want(0, true, "verified")
	st := f.sync()
	check(t, f.log.Close())
	f.open(st)
	want(0, false, "of another life")
	if _, err := f.log.Read(0, 1<<20, true); err != nil {
		t.Fatal(err)
	}
	want(0, true, "verified in this one")
	f.now = f.now.Add(-time.Hour)
	want(0, false, "verified in the future")
}

// Whoever finds damage takes the trust away: what is damaged is not served from then on.
func TestSpanNotOfDamage(t *testing.T) {
	f, dir := onDisk(t, Options{})
	f.add(0, 10, 100)
	f.add(0, 10, 100)
	name := filepath.Join(dir, fileName(0, logSuffix))
	content, err := os.ReadFile(name)
	check(t, err)
	content[200] ^= 4
	check(t, os.WriteFile(name, content, 0o600))
	damaged := 0
	_, err = f.log.Scrub(0, func(int64) error { return nil }, func(*Damage) { damaged++ })
	check(t, err)
	if damaged != 1 {
		t.Fatalf("%d places are damaged", damaged)
	}
	if _, ok := f.log.Span(0, math.MaxInt64, 100, 1<<20); ok {
		t.Error("a span of what is damaged")
	}
	if _, err := f.log.Read(0, 1<<20, true); !errors.Is(err, eventlog.ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	if _, err := f.log.Read(10, 1<<20, true); err != nil {
		t.Fatal(err)
	}
	s, ok := f.log.Span(10, math.MaxInt64, 100, 1<<20)
	if !ok {
		t.Fatal("no span of what is intact behind it")
	}
	s.Release()
	if s, ok = f.log.Span(0, math.MaxInt64, 100, 1<<20); ok {
		t.Error("a span of what is damaged, once what is behind it was verified")
	}
}

// A span's file stays while segments go, and only half of the files that may be open are lent.
func TestSpanOutlivesItsSegment(t *testing.T) {
	f, _ := onDisk(t, Options{SegmentBytes: 2000})
	for range 40 {
		f.add(0, 5, 100)
	}
	var spans []Span
	for range 100 {
		if s, ok := f.log.Span(0, math.MaxInt64, 100, 1<<20); ok {
			spans = append(spans, s)
		}
	}
	if len(spans) != f.cache.max/2 {
		t.Errorf("%d files are lent where %d may be open", len(spans), f.cache.max)
	}
	want := bytesOf(t, spans[0])
	check(t, f.log.TrimTo(f.log.End()))
	if got := bytesOf(t, spans[len(spans)-1]); !bytes.Equal(got, want) {
		t.Error("the segment is gone, and the span has other bytes")
	}
	for i := range spans {
		spans[i].Release()
		spans[i].Release() // once more does nothing
	}
	if f.cache.lent != 0 || f.cache.Open() > f.cache.max {
		t.Errorf("%d files are lent, %d open", f.cache.lent, f.cache.Open())
	}
}

// Runs of trusted bytes are few, whatever is read, and say what was noted.
func TestTrustedRuns(t *testing.T) {
	r := rng(tier.Seed())
	for range tier.N(300) {
		var tr trusted
		now := time.UnixMilli(1_000_000)
		at := make([]time.Time, 200) // when a byte was verified last
		for range 300 {
			if r.IntN(4) == 0 {
				now = now.Add(time.Duration(r.Int64N(int64(trustFor / 4))))
			}
			from := r.IntN(len(at))
			to := min(from+r.IntN(60), len(at))
			if r.IntN(2) == 0 {
				tr.note(int64(from), int64(to), now)
				for i := from; i < to; i++ {
					at[i] = now
				}
			}
			from = r.IntN(len(at))
			to = min(from+r.IntN(60), len(at))
			stale := slices.ContainsFunc(at[from:to], func(v time.Time) bool { return now.Sub(v) >= trustFor })
			if tr.covers(int64(from), int64(to), now) && stale {
				t.Fatalf("bytes %d to %d are trusted", from, to)
			}
			if len(tr.runs) > maxTrusted {
				t.Fatalf("%d runs", len(tr.runs))
			}
		}
	}
}
