package session

import "testing"

// A record passes the tail before its publisher hears that it is durable. A checkpoint between the two covers the record, so it
// must say that the id is open: after a crash no replay does.
func TestInboundCheckpointBetweenTailAndStable(t *testing.T) {
	in := newInbound(7)
	triple, state := in.Begin(5)
	if state != Fresh {
		t.Fatalf("state %v", state)
	}
	in.saw(triple, 0, false)
	base, list := in.checkpoint(1)

	after := newInbound(7)
	after.base = base
	for _, v := range list {
		after.restore(v, false, true)
	}
	after.settle()
	if _, state := after.Begin(5); state != Open {
		t.Errorf("after a crash the id is %v, not open: the resent message would be in the log twice", state)
	}
	if use, ok := after.releasing(5); !ok || use != triple.Use {
		t.Errorf("PUBREL releases use %d, %v", use, ok)
	}
}
