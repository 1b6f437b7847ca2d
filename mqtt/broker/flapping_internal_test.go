package broker

import (
	"testing"
	"time"
)

// TestFlappingIsBounded: very many names cost a bounded amount, who is not counted is told, and a window later there is room again.
func TestFlappingIsBounded(t *testing.T) {
	f := newFlapping(Flapping{Losses: 3})
	over := 0
	for i := range uint64(3 * maxLapses) {
		if _, counted := f.note(time.Second, i, false); !counted {
			over++
		}
	}
	if over != 2*maxLapses || len(f.young)+len(f.old) > 2*maxLapses {
		t.Errorf("%d not counted; %d and %d remembered", over, len(f.young), len(f.old))
	}
	if l, counted := f.note(time.Second+30*time.Second, 7, false); !counted || l.losses != 2 {
		t.Errorf("one that was counted: %+v", l)
	}
	if l, counted := f.note(time.Second+f.o.Window, 3*maxLapses, false); !counted || l.losses != 1 {
		t.Errorf("a new one, later: %+v, %v", l, counted)
	}
	if l, _ := f.note(time.Second+f.o.Window, 7, false); l.losses != 1 {
		t.Errorf("an old one, later: %+v", l)
	}
}
