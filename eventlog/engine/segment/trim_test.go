package segment

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/vfs"
)

// filled is a log of 40 batches of 400 bytes in segments of ten, one batch a second from second 1 on.
func filled(t *testing.T, fs vfs.FS) *fixture {
	f := newFixture(t, fs, Options{SegmentBytes: 4000, IndexBytes: 1000})
	for i := range int64(40) {
		f.addRecs(0, rec{i, (i + 1) * 1000, "k", string(make([]byte, 400-61-10))})
	}
	if infos := f.segments(); len(infos) != 4 || f.log.Size() != 16000 {
		t.Fatalf("segments %+v, size %d", infos, f.log.Size())
	}
	return f
}

func TestTrimTo(t *testing.T) {
	m := vfs.NewMem()
	f := filled(t, m)
	for _, c := range []struct{ to, start, first int64 }{{5, 5, 0}, {3, 5, 0}, {10, 10, 10}, {25, 25, 20}, {39, 39, 30}} {
		check(t, f.log.TrimTo(c.to))
		infos := f.segments()
		if f.log.Start() != c.start || infos[0].Base != c.first {
			t.Errorf("trimmed to %d: start %d, segments %+v", c.to, f.log.Start(), infos)
		}
		f.want = f.want[firstAt(f.want, c.start):]
		f.verify(rng(1))
	}
	if f.log.Size() != 4000 {
		t.Errorf("size %d", f.log.Size())
	}
	check(t, f.log.TrimTo(99))
	if f.log.Size() != 0 || f.log.Start() != 40 {
		t.Errorf("trimmed to the end: start %d, size %d", f.log.Start(), f.log.Size())
	}
	names, err := m.List("topic/0")
	check(t, err)
	for _, name := range names {
		if base, ok := parseName(name, logSuffix); ok && base < 40 {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestRetain(t *testing.T) {
	at := func(sec int64) time.Time { return time.UnixMilli(sec * 1000) }
	for name, c := range map[string]struct {
		now      time.Time
		maxAge   time.Duration
		maxBytes int64
		below    int64
		start    int64
	}{
		"no limit":               {at(1000), 0, 0, 40, 0},
		"young":                  {at(20), 10 * time.Second, 0, 40, 0},
		"one segment too old":    {at(21), 10 * time.Second, 0, 40, 10},
		"all but the last":       {at(49), 10 * time.Second, 0, 40, 30},
		"all":                    {at(1000), 10 * time.Second, 0, 40, 40},
		"not checkpointed":       {at(1000), 10 * time.Second, 0, 25, 20},
		"active not yet":         {at(1000), 10 * time.Second, 0, 39, 30},
		"bytes: fits":            {at(0), 0, 16000, 40, 0},
		"bytes: keeps the limit": {at(0), 0, 15000, 40, 0},
		"bytes: one":             {at(0), 0, 12000, 40, 10},
		"bytes: two":             {at(0), 0, 7000, 40, 20},
		"bytes: never active":    {at(0), 0, 1, 40, 30},
	} {
		t.Run(name, func(t *testing.T) {
			f := filled(t, vfs.NewMem())
			n, bytes, err := f.log.Retain(c.now, c.maxAge, c.maxBytes, c.below)
			check(t, err)
			if f.log.Start() != c.start || int64(n) != c.start/10 || bytes != c.start*400 {
				t.Errorf("start %d, want %d; deleted %d segments, %d bytes", f.log.Start(), c.start, n, bytes)
			}
			f.want = f.want[firstAt(f.want, c.start):]
			f.verify(rng(1))
			st := f.sync()
			f.open(st)
			f.add(0, 2, 10) // goes on also when the active segment went
			f.verify(rng(2))
		})
	}
}

// TestRetainWithoutTimestamps: a segment without timestamps is as old as the next one.
func TestRetainWithoutTimestamps(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{SegmentBytes: 100})
	for i, ts := range []int64{-1, -1, 5000, -1, 1 << 40} {
		f.addRecs(0, rec{int64(i), ts, "k", "some value"})
	}
	_, _, err := f.log.Retain(time.UnixMilli(20000), time.Second, 0, 5)
	check(t, err)
	if f.log.Start() != 3 {
		t.Fatalf("start %d, want 3", f.log.Start())
	}
}
