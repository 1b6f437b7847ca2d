package app

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestHeapPace(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		live, roots uint64
		want        int
	}{{0, 0, 100}, {16 * mb, 0, 300}, {8 * mb, 8 * mb, 350}, {32 * mb, 0, 200}, {60 * mb, 0, 166}, {60 * mb, 30 * mb, 111}, {heapAmple / 2, 0, 100}, {heapAmple, 0, 100}, {1 << 40, 1 << 30, 100}} {
		h := heap{live: tt.live, roots: tt.roots}
		if got := h.percent(); got != tt.want {
			t.Errorf("%d MiB live, %d of roots: %d %%, want %d", tt.live/mb, tt.roots/mb, got, tt.want)
		}
		if goal := tt.live + (tt.live+tt.roots)*uint64(h.percent())/100; goal > max(heapFloor, min(3*tt.live, heapAmple), 2*tt.live+tt.roots) {
			t.Errorf("%d MiB live: the next collection comes at %d", tt.live/mb, goal/mb)
		}
	}
}

func TestHeapGivesBack(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		what         string
		live, unused uint64
		allocated    uint64
		want         bool
	}{
		{"after a burst", 40 * mb, 60 * mb, 1000, true},
		{"busy", 40 * mb, 60 * mb, 10 * mb, false},
		{"little", 4 * mb, 7 * mb, 1000, false},
		{"little beside what is used", 400 * mb, 60 * mb, 1000, false},
	} {
		if got := (heap{live: tt.live, unused: tt.unused}).givesBack(tt.allocated); got != tt.want {
			t.Errorf("%s: %v", tt.what, got)
		}
	}
}

// Stacks of goroutines that have ended are given back too, once, although the heap knows nothing of them.
func TestHeapGivesStacksBack(t *testing.T) {
	var h tender
	idle := heap{live: 4 << 20, allocated: 1}
	for i, x := range []struct {
		goroutines int
		allocated  uint64
		want       bool
	}{
		{100, 1, false}, {10_000, heapIdle, false}, // connections come
		{10_000, 0, false},
		{9_000, 0, false},         // 2 MB: little
		{50, 2 * heapIdle, false}, // most have been parked, but there is something to do
		{60, 0, true},
		{60, 0, false}, // given back
	} {
		idle.allocated += x.allocated
		if got := h.looks(idle, x.goroutines); got != x.want {
			t.Errorf("second %d, %d goroutines: %v", i, x.goroutines, got)
		}
	}
}

// The real collector keeps the pace, and what was set from outside stays.
func TestTendHeap(t *testing.T) {
	before := debug.SetGCPercent(70)
	stop := TendHeap(0)
	if got := debug.SetGCPercent(100); got != 70 {
		t.Fatalf("a pace of 70 became %d", got)
	}
	stop()
	stop = TendHeap(0)
	defer func() {
		stop()
		debug.SetGCPercent(before)
	}()
	// What the other tests have left may be more than heapFloor, for which the pace is 100.
	paced.Store(0)
	deadline := time.Now().Add(20 * time.Second)
	for p := int(paced.Load()); p == 0 || debug.SetGCPercent(p) != p; p = int(paced.Load()) {
		if time.Now().After(deadline) {
			t.Fatal("no pace is set after a collection")
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}

// A bound of the whole process is the collector's, less an eighth, and gone when the program stops; one from outside stays.
func TestTendHeapMemory(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	stop := TendHeap(800 << 20)
	if got := debug.SetMemoryLimit(-1); got != 700<<20 {
		t.Errorf("800 MiB became a limit of %d", got)
	}
	stop()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("a limit of %d stays", got)
	}
	debug.SetMemoryLimit(900 << 20)
	TendHeap(800 << 20)()
	if got := debug.SetMemoryLimit(-1); got != 900<<20 {
		t.Errorf("a limit from outside became %d", got)
	}
}
