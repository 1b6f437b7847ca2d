package metrics

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations, to within 1.6 %, from nanoseconds up. It takes 30 KB whatever it counts, is safe for concurrent use
// without locks, and is empty when zero.
//
// To measure latency without leaving out the waiting that the measurer caused itself (coordinated omission), record from the
// time a message was due, not from the time there was room to send it.
type Histogram struct {
	counts [histogramRows * histogramColumns]atomic.Uint64
	max    atomic.Int64

	// The sum, in two parts: in nanoseconds alone a hundred thousand messages that waited for a day would be too much.
	millis atomic.Uint64
	nanos  atomic.Uint64 // less than a million of each
}

// A row per power of two, cut into equal columns; row 0 counts exactly.
const (
	histogramColumns = 64
	histogramRows    = 64 - 6
)

// Record counts one duration. A negative one counts as 0.
func (h *Histogram) Record(d time.Duration) { h.RecordN(d, 1) }

// RecordN counts n events that took as long, for who measures many of them at once.
func (h *Histogram) RecordN(d time.Duration, n int) {
	if n <= 0 {
		return
	}
	d = max(d, 0)
	h.counts[bucket(uint64(d))].Add(uint64(n))
	h.nanos.Add(uint64(d%time.Millisecond) * uint64(n))
	if d >= time.Millisecond {
		h.millis.Add(uint64(d/time.Millisecond) * uint64(n))
	}
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
func (h *Histogram) Quantile(q float64) time.Duration { return h.Snapshot().Quantile(q) }

// Max is the longest duration.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max.Load()) }

// Mean is the arithmetic mean.
func (h *Histogram) Mean() time.Duration { return h.Snapshot().Mean() }

func (h *Histogram) String() string { return h.Snapshot().String() }

// Snapshot copies what was recorded so far.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{sum: sum{h.millis.Load(), h.nanos.Load()}}
	for i := range h.counts {
		if n := h.counts[i].Load(); n > 0 {
			s.filled = append(s.filled, filled{i, n})
			s.count += n
		}
	}
	s.max = h.max.Load() // last, so that no bucket lies above it
	return s
}

// Snapshot is what a Histogram held at one time, or what it took between two. It does not change any more.
type Snapshot struct {
	filled []filled // buckets, in order
	count  uint64
	sum    sum
	max    int64
}

// sum is milliseconds, and nanoseconds beside them.
type sum struct{ millis, nanos uint64 }

type filled struct {
	bucket int
	n      uint64
}

// Since is what was recorded after an older snapshot of the same Histogram.
func (s Snapshot) Since(old Snapshot) Snapshot {
	d := Snapshot{sum: sum{s.sum.millis - old.sum.millis, s.sum.nanos - old.sum.nanos}}
	before := old.filled
	for _, f := range s.filled {
		for len(before) > 0 && before[0].bucket < f.bucket {
			before = before[1:]
		}
		if len(before) > 0 && before[0].bucket == f.bucket {
			f.n -= before[0].n
		}
		if f.n > 0 {
			d.filled = append(d.filled, f)
			d.count += f.n
			d.max = min(int64(upper(f.bucket)), s.max)
		}
	}
	if d.count == 0 {
		d.sum = sum{}
	}
	return d
}

// Count is how many durations there are.
func (s Snapshot) Count() uint64 { return s.count }

// Seconds is the sum of all durations, which may be more than a time.Duration can be.
func (s Snapshot) Seconds() float64 { return float64(s.sum.millis)/1e3 + float64(s.sum.nanos)/1e9 }

// Max is the longest duration; of what Since returned, to within 1.6 %.
func (s Snapshot) Max() time.Duration { return time.Duration(s.max) }

// Mean is the arithmetic mean.
func (s Snapshot) Mean() time.Duration {
	if s.count == 0 {
		return 0
	}
	return time.Duration(s.Seconds() / float64(s.count) * 1e9)
}

// Quantile returns the duration that a fraction q does not exceed. It is 0 if there are none.
func (s Snapshot) Quantile(q float64) time.Duration {
	rank, seen := uint64(q*float64(s.count)), uint64(0)
	for _, f := range s.filled {
		if seen += f.n; seen > rank || seen == s.count {
			return time.Duration(min(int64(upper(f.bucket)), s.max))
		}
	}
	return 0
}

// upTo is how many durations are no longer than d, to within 1.6 % of d.
func (s Snapshot) upTo(d time.Duration) (n uint64) {
	last := bucket(uint64(d))
	for _, f := range s.filled {
		if f.bucket > last {
			break
		}
		n += f.n
	}
	return n
}

func (s Snapshot) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
	return fmt.Sprintf("n=%d mean=%v p50=%v p99=%v p99.9=%v max=%v", s.Count(), r(s.Mean()), r(s.Quantile(0.5)), r(s.Quantile(0.99)),
		r(s.Quantile(0.999)), r(s.Max()))
}
