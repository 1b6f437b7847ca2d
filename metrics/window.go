package metrics

import (
	"sync"
	"time"
)

// Window is what a Histogram took lately: quantiles of now rather than since the start. It keeps snapshots, so recording costs nothing
// more; somebody has to look at it regularly (Tick), or it reaches back to when somebody last did.
type Window struct {
	of   *Histogram
	step time.Duration

	mu   sync.Mutex
	ring [windowSteps + 1]shot // oldest first
	n    int
}

// windowSteps is into how many steps the span is cut.
const windowSteps = 12

type shot struct {
	at   time.Time
	then Snapshot
}

// NewWindow returns a window on h that reaches back about span.
func NewWindow(h *Histogram, span time.Duration) *Window {
	return &Window{of: h, step: span / windowSteps}
}

// Tick lets the window move on. It is to be called more often than every twelfth of the span.
func (w *Window) Tick(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tick(now)
}

func (w *Window) tick(now time.Time) {
	if w.n > 0 && now.Sub(w.ring[w.n-1].at) < w.step {
		return
	}
	if w.n == len(w.ring) {
		copy(w.ring[:], w.ring[1:])
		w.n--
	}
	w.ring[w.n] = shot{now, w.of.Snapshot()}
	w.n++
}

// Recent is what was recorded in about the last span; since the first Tick, if that is less.
func (w *Window) Recent(now time.Time) Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tick(now)
	oldest := 0 // in reach; of a window nobody looked at, the last that there is
	for oldest < w.n-1 && now.Sub(w.ring[oldest].at) > (windowSteps+1)*w.step {
		oldest++
	}
	if oldest > 0 && w.ring[oldest].at.Equal(now) {
		oldest--
	}
	return w.of.Snapshot().Since(w.ring[oldest].then)
}
