package sim

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations, to within 1.6 %, from nanoseconds up. It is safe for concurrent use; the zero Histogram is empty.
//
// To measure latency without leaving out the waiting that the measurer caused itself (coordinated omission), record from the
// time a message was due, not from the time there was room to send it; Load, Replay and Stamp do.
type Histogram struct {
	counts [histogramRows * histogramColumns]atomic.Uint64
	sum    atomic.Int64
	max    atomic.Int64
}

// A row per power of two, cut into equal columns; row 0 counts exactly.
const (
	histogramColumns = 64
	histogramRows    = 64 - 6
)

// Record counts one duration. A negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))].Add(1)
	h.sum.Add(int64(d))
	for {
		old := h.max.Load()
		if int64(d) <= old || h.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func bucket(v uint64) int {
	row := max(0, bits.Len64(v)-6)
	if row == 0 {
		return int(v)
	}
	// The top bit of v>>(row-1) is bit 6: columns 64 to 127, of which the lower half belongs to the row.
	return row*histogramColumns + int(v>>(row-1)) - histogramColumns
}

// upper is the largest value in a bucket.
func upper(i int) uint64 {
	row, column := i/histogramColumns, i%histogramColumns
	if row == 0 {
		return uint64(column)
	}
	return uint64(column+histogramColumns+1)<<(row-1) - 1
}

// Count is how many durations were recorded.
func (h *Histogram) Count() uint64 {
	n := uint64(0)
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// Quantile returns the duration that a fraction q of the recorded ones does not exceed: 0.5 for the median. It is 0 if there
// are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	rank := uint64(q * float64(total))
	seen := uint64(0)
	for i := range h.counts {
		seen += h.counts[i].Load()
		if seen > rank || seen == total && total > 0 {
			return min(time.Duration(upper(i)), h.Max())
		}
	}
	return 0
}

// Max is the longest duration.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max.Load()) }

// Mean is the arithmetic mean.
func (h *Histogram) Mean() time.Duration {
	if n := h.Count(); n > 0 {
		return time.Duration(uint64(h.sum.Load()) / n)
	}
	return 0
}

func (h *Histogram) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
	return fmt.Sprintf("n=%d mean=%v p50=%v p99=%v p99.9=%v max=%v", h.Count(), r(h.Mean()), r(h.Quantile(0.5)), r(h.Quantile(0.99)),
		r(h.Quantile(0.999)), r(h.Max()))
}
