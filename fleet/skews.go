package fleet

import (
	"slices"
	"time"
)

// Skews sums up the clocks of the devices that are skewed.
type Skews struct {
	Devices      int
	Median, Most time.Duration // of the amount
}

// Skews visits every device, unless none is skewed.
func (v *View) Skews() (s Skews) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.totals.Skewed == 0 {
		return s
	}
	var amounts []int64
	for _, e := range v.ids {
		if off, skewed := e.clock.offset(); skewed {
			amounts = append(amounts, max(off, -off))
		}
	}
	if s.Devices = len(amounts); s.Devices > 0 {
		slices.Sort(amounts)
		s.Median = time.Duration(amounts[len(amounts)/2]) * time.Microsecond
		s.Most = time.Duration(amounts[len(amounts)-1]) * time.Microsecond
	}
	return s
}
