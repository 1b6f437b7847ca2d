package segment

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
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
		o, ts, err := f.log.FindTime(min, 0)
		if err != nil || o != want.offset || ts != want.time {
			t.Fatalf("first at %d or later: %d@%d, %v, want %d@%d", min, o, ts, err, want.offset, want.time)
		}
	}
	o, ts, err := f.log.FindMaxTime(0)
	if err != nil || o != greatest.offset || ts != greatest.time {
		t.Fatalf("greatest time: %d@%d, %v, want %d@%d", o, ts, err, greatest.offset, greatest.time)
	}
}

// Headers that claim what no record has make a look-up less exact, not long, and it never passes over a record.
func TestForgedTimes(t *testing.T) {
	var reads atomic.Int64
	fs := vfs.Faults(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpRead {
			reads.Add(1)
		}
		return nil
	})
	f := newFixture(t, fs, Options{SegmentBytes: 2000, FindBytes: 4000, IndexBytes: 100})
	add := func(claim int64, times ...int64) {
		var recs []rec
		for i, at := range times {
			recs = append(recs, rec{f.log.End() + int64(i), at, "k", "0123456789012345678901234567890123456789"})
		}
		b := encode(t, eventlog.None, recs...)
		b.SetBase(recs[0].offset)
		if claim > 0 {
			binary.BigEndian.PutUint64(b[atMaxTime:], uint64(claim))
			b.Reseal()
		}
		check(t, f.log.Append(b))
	}
	add(0, 5, 9)
	for i := range int64(200) {
		add(1000, 10+i%7)
	}
	last := f.log.End()
	add(0, 500)
	for _, least := range []int64{6, 9, 12} { // found before the effort ends
		o, ts, err := f.log.FindTime(least, 0)
		if err != nil || ts < least || ts > 12 {
			t.Errorf("first at %d: %d@%d, %v", least, o, ts, err)
		}
	}
	o, _, err := f.log.FindTime(400, 0)
	if err != nil || o <= 2 || o > last {
		t.Errorf("first at 400: %d, %v; it is %d", o, err, last)
	}
	o, ts, err := f.log.FindMaxTime(0)
	if err != nil || o != last || ts != 500 {
		t.Errorf("the greatest: %d@%d, %v", o, ts, err)
	}
	if o, ts, err := f.log.FindMaxTime(last + 1); err != nil || o != -1 {
		t.Errorf("the greatest of nothing: %d@%d, %v", o, ts, err)
	}
	for i := range int64(2000) { // a long log that is all lies
		add(2000+i, 20)
	}
	before := reads.Load()
	if _, _, err := f.log.FindMaxTime(0); err != nil {
		t.Error(err)
	}
	if n := reads.Load() - before; n > 100 {
		t.Errorf("%d reads", n)
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
