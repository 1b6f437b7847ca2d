package broker

import (
	"os"
	"testing"
)

// MILLRACE_PARK=at-once has every test of the package run with connections that are parked as soon as they have nothing to read.
func init() {
	if os.Getenv("MILLRACE_PARK") == "at-once" {
		parkAfter = 1
	}
}

// What was told of a place is not meant for who has it next.
func TestLot(t *testing.T) {
	var l lot
	a, b := &conn{}, &conn{}
	first, ok := l.enter(a)
	if !ok || l.who(first) != a || uint32(first) == 0 {
		t.Fatalf("entered at %#x: %v", first, ok)
	}
	l.leave(uint32(first))
	if l.who(first) != nil {
		t.Error("who has left is still there")
	}
	second, _ := l.enter(b)
	if uint32(second) != uint32(first) {
		t.Error("a free place is not used again")
	}
	if l.who(first) != nil || l.who(second) != b {
		t.Error("the place's last one and its next one are taken for each other")
	}
	third, _ := l.enter(a)
	for _, token := range []uint64{0, 1 << 40, uint64(uint32(third) + 1), ^uint64(0)} {
		if l.who(token) != nil {
			t.Errorf("somebody is at %#x", token)
		}
	}
	if got := l.close(); len(got) != 2 {
		t.Errorf("%d are parked when it closes, want 2", len(got))
	}
	if _, ok := l.enter(&conn{}); ok {
		t.Error("a closed lot takes more")
	}
}

// NudgeAll does to every connection what the roster does to an idle one.
func (b *Broker) NudgeAll() {
	for _, c := range b.roster.all() {
		c.nudge()
	}
}
