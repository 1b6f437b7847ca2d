package session

import (
	"runtime"
	"testing"
)

// A client that opens every packet id at QoS 2 and never releases one costs a bounded little, and repeating them costs nothing more.
func TestClass04OpenIDsAreBounded(t *testing.T) {
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	in := newInbound(1 << 32)
	for id := uint16(1); id != 0; id++ {
		triple, state := in.Begin(id)
		if state != Fresh {
			t.Fatalf("id %d: %v", id, state)
		}
		in.Stable(id, triple)
	}
	if cost := heap() - before; cost > 16<<20 {
		t.Errorf("65,535 open ids cost %d bytes", cost)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, state := in.Begin(7); state != Open {
			t.Fatal("an open id was begun again")
		}
	}); n != 0 || in.Outstanding() != 65535 {
		t.Errorf("a repeated id: %v allocations, %d are open", n, in.Outstanding())
	}
	runtime.KeepAlive(in)
}
