package sim

import (
	"math"
	"math/rand/v2"
	"slices"
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
	if h.Max() != all[len(all)-1] || h.Mean() != sum/time.Duration(len(all)) || h.Count() != uint64(len(all)) {
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
