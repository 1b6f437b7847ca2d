package broker

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// brokenSocket panics on every write.
type brokenSocket struct{ syscall.RawConn }

func (brokenSocket) Write(func(uintptr) bool) error { panic("write") }

type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) { panic("write") }

// A flusher survives, and nothing of the connection is left in what all connections share.
func TestFlushPanic(t *testing.T) {
	for _, plain := range []bool{true, false} {
		b := New(Options{Store: &instantStore{}})
		c := testConn(b, packet.V5)
		c.out.scheduled = false
		if plain {
			c.raw = brokenSocket{}
		} else {
			c.nc = brokenConn{c.nc}
		}
		c.Deliver(&session.Delivery{Msg: &session.Message{Topic: "x", Payload: make([]byte, 5000)}})
		if b.stats.outWait.Load() == 0 || len(c.owner.dirty) != 1 {
			t.Fatal("nothing waits to be written")
		}
		if plain {
			c.flush()
		} else {
			c.flushSlowly(c.nextPieces())
		}
		if n := b.stats.snapshot().Panics["flush"]; n != 1 || b.stats.outWait.Load() != 0 || !c.closing || c.why != "panic" {
			t.Errorf("%d panics, %d bytes wait, closing %v: %s", n, b.stats.outWait.Load(), c.closing, c.why)
		}
		c.mu.Lock()
		if c.schedule() {
			t.Error("another flush is due")
		}
		c.mu.Unlock()
	}
}

// brokenPacket cannot be encoded.
type brokenPacket struct{ packet.Suback }

func (*brokenPacket) Append([]byte, packet.Version) ([]byte, error) { panic("encode") }

func TestAnswerPanic(t *testing.T) {
	b := New(Options{Store: &instantStore{}})
	c := testConn(b, packet.V5)
	c.Send(&brokenPacket{})
	if !c.mu.TryLock() || !c.closing {
		t.Fatal("the connection is locked, or goes on")
	}
}

// The store's goroutine survives what goes wrong with one answer, and no id of QoS 2 waits for ever.
func TestReceiptPanic(t *testing.T) {
	b := New(Options{Store: &instantStore{}})
	c := testConn(b, packet.V5)
	c.inbound = &session.Inbound{}
	triple, _ := c.inbound.Begin(7)
	f := newFlight()
	f.c, f.receipts = c, []receipt{{kind: packet.PUBREC, id: 7, triple: triple}}
	c.mu.Lock()
	c.launch(f)
	c.mu.Unlock()
	f.complete(nil) // there is no result for the receipt
	if n := b.stats.snapshot().Panics["receipts"]; n != 1 || !c.closing {
		t.Errorf("%d panics, closing %v", n, c.closing)
	}
	if _, state := c.inbound.Begin(7); state != session.Fresh {
		t.Errorf("the id is %v", state)
	}
	if !c.mu.TryLock() {
		t.Error("the connection is locked")
	}
}

func TestGuard(t *testing.T) {
	b := New(Options{Store: &instantStore{}})
	if !b.survive("here", func() {}) || b.survive("here", func() { panic("bug") }) || b.stats.snapshot().Panics["here"] != 1 {
		t.Error("not counted")
	}
	if b.notePanic("here", errors.New("no panic")) || b.notePanic("here", nil) {
		t.Error("an error is no panic")
	}
}
