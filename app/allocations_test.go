package app

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
)

// A message that comes over a socket, goes through the log on a disk and, with a subscriber, out over another one, allocates next to
// nothing: what there is, is per read, per append and per commit. The clients of this test allocate nothing at all. With the race detector
// pools forget a part of what they are given; one allocation for each message shows even then.
func TestAllocationsPerMessage(t *testing.T) {
	for _, tt := range []struct {
		name       string
		qos        byte
		subscribed bool
	}{{"QoS 1 published", 1, false}, {"QoS 1 delivered", 1, true}, {"QoS 0 delivered", 0, true}} {
		t.Run(tt.name, func(t *testing.T) {
			n := boot(t, testConfig(t, ""))
			l := newAllocLoad(t, n.Address("MQTT"), tt.qos, tt.subscribed)
			l.run(t, allocBursts/10) // what is made once is made
			bursts := max(tier.N(allocMessages)/allocBurst, allocBursts)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			l.run(t, bursts)
			runtime.ReadMemStats(&after)
			each := float64(after.Mallocs-before.Mallocs) / float64(bursts*allocBurst)
			t.Logf("%.3f allocations and %.0f bytes per message, of %d", each, float64(after.TotalAlloc-before.TotalAlloc)/float64(bursts*allocBurst), bursts*allocBurst)
			if each > allocsAllowed {
				t.Errorf("%.3f allocations per message", each)
			}
		})
	}
}

const (
	allocMessages = 1_000_000
	allocBurst    = 128 // messages written at once
	allocBursts   = 250
)

// allocLoad is a publisher, and perhaps a subscriber, with buffers that are made once.
type allocLoad struct {
	pub, sub  net.Conn
	burst     []byte
	acks      []byte // of the publisher's burst
	delivered []byte // what the subscriber gets of it
	answers   []byte
	size      int // of a delivery
	qos       byte
}

func newAllocLoad(t *testing.T, addr string, qos byte, subscribed bool) *allocLoad {
	t.Helper()
	const topic = "alloc/0/data"
	l := &allocLoad{pub: allocDial(t, addr, "pub"), qos: qos}
	for i := range allocBurst {
		body := append(binary.BigEndian.AppendUint16(nil, uint16(len(topic))), topic...)
		if qos > 0 {
			body = binary.BigEndian.AppendUint16(body, uint16(i)+1)
		}
		body = append(body, make([]byte, 100)...)
		l.burst = append(append(l.burst, 0x30|qos<<1, byte(len(body))), body...)
	}
	l.size = len(l.burst) / allocBurst
	l.acks = make([]byte, 4*allocBurst)
	if subscribed {
		l.sub = allocDial(t, addr, "sub")
		if _, err := l.sub.Write([]byte{0x82, 12, 0, 1, 0, 7, 'a', 'l', 'l', 'o', 'c', '/', '#', qos}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(l.sub, l.acks[:5]); err != nil || l.acks[4] != qos {
			t.Fatalf("SUBACK % x: %v", l.acks[:5], err)
		}
		l.delivered, l.answers = make([]byte, len(l.burst)), make([]byte, 4*allocBurst)
	}
	return l
}

func allocDial(t *testing.T, addr, id string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	hello := fmt.Appendf(nil, "\x10%c\x00\x04MQTT\x04\x02\x00\x00\x00%c%s", 12+len(id), len(id), id)
	var ack [4]byte
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, ack[:]); err != nil || ack[3] != 0 {
		t.Fatalf("CONNACK % x: %v", ack, err)
	}
	return c
}

// run publishes bursts, and waits for what is owed for each.
func (l *allocLoad) run(t *testing.T, bursts int) {
	t.Helper()
	for range bursts {
		if _, err := l.pub.Write(l.burst); err != nil {
			t.Fatal(err)
		}
		if l.qos > 0 {
			if _, err := io.ReadFull(l.pub, l.acks); err != nil {
				t.Fatal(err)
			}
		}
		if l.sub == nil {
			continue
		}
		if _, err := io.ReadFull(l.sub, l.delivered); err != nil {
			t.Fatal(err)
		}
		if l.qos == 0 {
			continue
		}
		for i := range allocBurst {
			id := l.delivered[i*l.size+len("xx")+2+len("alloc/0/data"):]
			a := l.answers[4*i:]
			a[0], a[1], a[2], a[3] = 0x40, 2, id[0], id[1]
		}
		if _, err := l.sub.Write(l.answers); err != nil {
			t.Fatal(err)
		}
	}
}
