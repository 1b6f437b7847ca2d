package main

import (
	"math/bits"
	"sync"
	"time"
)

// histogram counts durations in buckets of about 3 %.
type histogram struct {
	mu     sync.Mutex
	counts [64 * 32]uint64
	n      uint64
}

func (h *histogram) add(d time.Duration) {
	v := uint64(max(d, 1))
	e := bits.Len64(v)
	i := e * 32
	if e > 5 {
		i += int(v>>(e-6)) & 31
	}
	h.mu.Lock()
	h.counts[i]++
	h.n++
	h.mu.Unlock()
}

// merge adds what another one, which nobody uses any more, has counted.
func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
}

func (h *histogram) quantile(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := uint64(q * float64(h.n))
	for i, seen := 0, uint64(0); i < len(h.counts); i++ {
		if seen += h.counts[i]; seen > want {
			e := i / 32
			if e <= 5 {
				return time.Duration(1) << e
			}
			return time.Duration(32+i%32) << (e - 6)
		}
	}
	return 0
}
