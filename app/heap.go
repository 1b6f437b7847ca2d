package app

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// The heap of a process that serves. A node keeps little and makes much garbage: with the runtime's own pace, a collection each time the
// heap has doubled, a busy node of 15 MiB collects 25 times a second and spends a seventh of its time on it. And after a burst of
// connections it would keep their garbage for minutes, although nothing more comes.
const (
	heapFloor  = 64 << 20  // there is no collection before the heap is as large
	heapAmple  = 160 << 20 // nor, below that, before it is three times what is used: bulk passes through, and costs more collections than memory
	heapIdle   = 1 << 20   // bytes allocated in a second; below it the process has nothing to do
	heapUnused = 8 << 20   // that much is worth a collection while it has nothing to do
	heapStack  = 2 << 10   // a goroutine's, at least
)

// TendHeap paces the collector, until stop is called: none before the heap has heapFloor bytes and more while little is used, and one when the process falls idle with
// memory that it does not use, which then goes back to the system. With memory, bytes, it also collects as often as keeping to them takes;
// an eighth is left to what is not the collector's. What was set from outside (GOGC, GOMEMLIMIT) stays as it is. It is of the process, not
// of a node, and so the program's to call.
func TendHeap(memory int64) (stop func()) {
	if memory > 0 && debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(memory - memory/8)
		pace := tendPace()
		return func() {
			debug.SetMemoryLimit(math.MaxInt64)
			pace()
		}
	}
	return tendPace()
}

func tendPace() (stop func()) {
	pace := debug.SetGCPercent(100)
	if pace != 100 {
		debug.SetGCPercent(pace)
		return func() {}
	}
	paced.Store(100)
	var over atomic.Bool
	quit := make(chan struct{})
	afterEachCollection(&over, paceHeap)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		var t tender
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			if t.looks(readHeap(), runtime.NumGoroutine()) {
				debug.FreeOSMemory()
				t.last = readHeap()
			}
		}
	}()
	return func() {
		if over.CompareAndSwap(false, true) {
			close(quit)
			debug.SetGCPercent(100)
		}
	}
}

// afterEachCollection calls f after every collection, until over.
func afterEachCollection(over *atomic.Bool, f func()) {
	type sentinel struct{ _ [16]byte }
	var again func(*sentinel)
	again = func(s *sentinel) {
		if !over.Load() {
			f()
			runtime.SetFinalizer(s, again)
		}
	}
	runtime.SetFinalizer(&sentinel{}, again)
}

// heap is what the runtime says of it, bytes.
type heap struct {
	live      uint64 // at the last collection
	roots     uint64 // stacks and globals
	unused    uint64 // garbage, and what is free and not given back
	allocated uint64 // ever
}

func readHeap() heap {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	at := func(i int) uint64 { return s[i].Value.Uint64() }
	return heap{live: at(0), roots: at(1) + at(2), unused: at(3) - min(at(0), at(3)) + at(4), allocated: at(5)}
}

// tender remembers what it saw a second ago.
type tender struct {
	last heap
	most int // goroutines at once, since memory was given back: the stacks of those that have ended are kept until a collection
}

// looks tells whether memory is to be given back.
func (t *tender) looks(now heap, goroutines int) bool {
	t.most = max(t.most, goroutines)
	now.unused += uint64(t.most-goroutines) * heapStack
	gives := t.last.allocated > 0 && now.givesBack(now.allocated-t.last.allocated)
	if t.last = now; gives {
		t.most = goroutines
	}
	return gives
}

// percent is the pace at which the next collection comes when the heap has doubled, or as large as heapFloor and heapAmple let it become.
func (h heap) percent() int {
	goal := max(heapFloor, min(3*h.live, heapAmple))
	if h.live+h.roots == 0 || h.live >= goal {
		return 100
	}
	return int(max(100, (goal-h.live)*100/(h.live+h.roots)))
}

// givesBack tells whether there is reason to collect: nothing happens, and memory lies idle that is much beside what is used.
func (h heap) givesBack(allocated uint64) bool {
	return allocated < heapIdle && h.unused > max(heapUnused, h.live/4)
}

// paceHeap sets the pace after a collection. To set it stops the program for a moment, so it is not set for a little.
func paceHeap() {
	want := readHeap().percent()
	if was := int(paced.Load()); want > was-was/8 && want < was+was/8 {
		return
	}
	paced.Store(int64(want))
	debug.SetGCPercent(want)
}

var paced atomic.Int64
