package metrics

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
)

func TestHistogramBuckets(t *testing.T) {
	last := -1
	for _, v := range []uint64{0, 1, 63, 64, 65, 127, 128, 129, 130, 255, 256, 1000, 1 << 20, 1<<40 + 12345, math.MaxInt64} {
		i := bucket(v)
		if i < last || i >= histogramRows*histogramColumns {
			t.Fatalf("%d is in bucket %d, after %d", v, i, last)
		}
		last = i
		if top := upper(i); top < v || float64(top-v) > float64(v)/64 || bucket(top) != i || bucket(top+1) == i && top+1 <= math.MaxInt64 {
			t.Fatalf("%d is in a bucket up to %d", v, top)
		}
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Count() != 0 {
		t.Fatal("an empty histogram says something")
	}
	r := rand.New(rand.NewPCG(tier.Seed(), 3))
	all := make([]time.Duration, tier.N(100_000))
	sum := time.Duration(0)
	for i := range all {
		all[i] = time.Duration(math.Exp(r.NormFloat64()*3 + 14))
		sum += all[i]
		h.Record(all[i])
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := h.Quantile(q); got < want || float64(got-want) > float64(want)/60 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if h.Max() != all[len(all)-1] || (h.Mean()-sum/time.Duration(len(all))).Abs() > time.Microsecond || h.Count() != uint64(len(all)) {
		t.Errorf("max %v, mean %v, count %d", h.Max(), h.Mean(), h.Count())
	}
	h.Record(-time.Second)
	if h.Quantile(0) != 0 {
		t.Error("a negative duration is not 0")
	}
}

func BenchmarkHistogram(b *testing.B) {
	var h Histogram
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h.Record(1234567)
		}
	})
}

func TestRecordN(t *testing.T) {
	var one, many Histogram
	for i := range 1000 {
		d := time.Duration(i*i) * time.Microsecond
		for range i % 5 {
			one.Record(d)
		}
		many.RecordN(d, i%5)
	}
	many.RecordN(time.Hour, 0)
	many.RecordN(time.Hour, -1)
	if one.String() != many.String() || one.Count() != many.Count() || one.Snapshot().Seconds() != many.Snapshot().Seconds() {
		t.Errorf("one by one %v, together %v", &one, &many)
	}
}

// A session that was away for a month gets a million messages.
func TestLongDurations(t *testing.T) {
	var h Histogram
	const month = 30*24*time.Hour + 7*time.Nanosecond
	for range 10 {
		h.RecordN(month, 100_000)
	}
	if s := h.Snapshot(); s.Seconds() < 2.592e12 || s.Seconds() > 2.593e12 || (s.Mean()-month).Abs() > time.Millisecond {
		t.Errorf("%v: %v s, mean %v", s, s.Seconds(), s.Mean())
	}
}

func TestSince(t *testing.T) {
	var h Histogram
	for range 100 {
		h.Record(time.Hour)
		h.Record(3 * time.Second)
	}
	before := h.Snapshot()
	if d := h.Snapshot().Since(before); d.Count() != 0 || d.Seconds() != 0 || d.Max() != 0 || d.Quantile(0.5) != 0 {
		t.Errorf("nothing happened, but %v", d)
	}
	h.RecordN(time.Millisecond, 90)
	h.RecordN(3*time.Second, 10)
	d := h.Snapshot().Since(before)
	near := func(got, want time.Duration) bool { return got >= want && got-want <= want/60 }
	if d.Count() != 100 || !near(d.Quantile(0.5), time.Millisecond) || !near(d.Quantile(0.95), 3*time.Second) || !near(d.Max(), 3*time.Second) ||
		d.Seconds() != 30.09 || d.Mean() != 300900*time.Microsecond {
		t.Errorf("got %v", d)
	}
	if n := d.upTo(time.Second); n != 90 {
		t.Errorf("%d up to a second", n)
	}
}

func TestWindow(t *testing.T) {
	var h Histogram
	w := NewWindow(&h, time.Minute)
	now := time.Unix(1000, 0)
	if w.Recent(now).Count() != 0 {
		t.Fatal("an empty window says something")
	}
	for i := range 600 { // ten seconds of bad times, then good ones
		d := time.Millisecond
		if i < 10 {
			d = time.Second
		}
		h.RecordN(d, 10)
		now = now.Add(time.Second)
		w.Tick(now)
		r := w.Recent(now)
		if want := uint64(min(i+1, 60) * 10); r.Count() < want || r.Count() > want+55 {
			t.Fatalf("after %d s the last minute has %d, want about %d", i+1, r.Count(), want)
		}
		if slow := r.Max() > 500*time.Millisecond; slow && i >= 76 || !slow && i < 60 {
			t.Fatalf("after %d s the slowest is %v", i+1, r.Max())
		}
	}
	now = now.Add(time.Hour) // nobody looks
	h.RecordN(time.Second, 7)
	if r := w.Recent(now); r.Count() != 7 {
		t.Errorf("after an hour without a look: %v", r)
	}
	if r := w.Recent(now.Add(time.Second)); r.Count() != 0 {
		t.Errorf("after a look: %v", r)
	}
}

// Readers see whole counts while others record.
func TestHistogramConcurrently(t *testing.T) {
	var h Histogram
	w := NewWindow(&h, time.Minute)
	var wg sync.WaitGroup
	n := tier.N(100_000)
	for g := range 4 {
		wg.Go(func() {
			for i := range n {
				h.RecordN(time.Duration(i*(g+1)), 2)
			}
		})
	}
	now := time.Unix(1000, 0)
	for last := uint64(0); last < uint64(8*n); {
		now = now.Add(time.Second)
		s := h.Snapshot()
		if s.Count() < last || w.Recent(now).Count() > uint64(8*n) || s.Quantile(1) > s.Max() {
			t.Fatalf("%v after %d", s, last)
		}
		last = s.Count()
	}
	wg.Wait()
}
