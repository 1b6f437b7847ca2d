package segment

import (
	"math/rand/v2"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// verifyTimes compares time lookups with a search through the records the log must contain.
func verifyTimes(t *testing.T, f *fixture, r *rand.Rand) {
	t.Helper()
	findTime := func(min int64) rec {
		for _, w := range f.want {
			if w.time >= min {
				return w
			}
		}
		return rec{offset: -1, time: -1}
	}
	greatest := rec{offset: -1, time: -1}
	for _, w := range f.want {
		if w.time > greatest.time {
			greatest = w
		}
	}
	for range 20 {
		min := r.Int64N(f.time+100) - 1
		if len(f.want) > 0 && r.IntN(2) == 0 {
			min = f.want[r.IntN(len(f.want))].time
		}
		want := findTime(min)
		o, ts, err := f.log.FindTime(min)
		if err != nil || o != want.offset || ts != want.time {
			t.Fatalf("first at %d or later: %d@%d, %v, want %d@%d", min, o, ts, err, want.offset, want.time)
		}
	}
	o, ts, err := f.log.FindMaxTime()
	if err != nil || o != greatest.offset || ts != greatest.time {
		t.Fatalf("greatest time: %d@%d, %v, want %d@%d", o, ts, err, greatest.offset, greatest.time)
	}
}

// TestTimesOutOfOrder uses timestamps in no order, all codecs, LogAppendTime, and a start in the middle.
func TestTimesOutOfOrder(t *testing.T) {
	for seed := range uint64(tier.N(500)) {
		r := rng(tier.Seed() + seed)
		f := newFixture(t, vfs.NewMem(), Options{SegmentBytes: 500 + r.Int64N(8000), IndexBytes: 1 + r.Int64N(1000)})
		span := 1 + r.Int64N(3000)
		f.time = span
		verifyTimes(t, f, r)
		for range 1 + r.IntN(80) {
			addAnyTime(t, f, r, span)
		}
		verifyTimes(t, f, r)
		start := r.Int64N(f.log.End() + 1)
		check(t, f.log.TrimTo(start))
		f.want = f.want[firstAt(f.want, start):]
		verifyTimes(t, f, r)
		st := f.sync()
		check(t, f.log.Close())
		f.open(st)
		verifyTimes(t, f, r)
	}
}

func addAnyTime(t *testing.T, f *fixture, r *rand.Rand, span int64) {
	t.Helper()
	var recs []rec
	for i := range int64(1 + r.IntN(6)) {
		recs = append(recs, rec{f.log.End() + i, r.Int64N(span), "k", "value"})
	}
	b := encode(t, anyCodec(r), recs...)
	if r.IntN(4) == 0 {
		stamp := r.Int64N(span)
		b.SetLogAppendTime(stamp)
		b.Reseal()
		for i := range recs {
			recs[i].time = stamp
		}
	}
	check(t, f.log.Append(b))
	f.want = append(f.want, recs...)
}

func TestFindTimeBehindAWrongHeader(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.addRecs(0, rec{0, 10, "k", "v"})
	b := encode(t, 0, rec{1, 20, "k", "v"})
	b.SetLogAppendTime(99) // claims 99 for its records …
	attrs := b.Attributes() &^ eventlog.AttrLogAppendTime
	b[21], b[22] = byte(attrs>>8), byte(attrs) // … but they have their own
	b.Reseal()
	check(t, f.log.Append(b))
	f.want = append(f.want, rec{1, 20, "k", "v"})
	verifyTimes(t, f, rng(1))
}
