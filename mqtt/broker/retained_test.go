package broker_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// TestRetainedStorm subscribes to everything there is, where very much is retained: all of it arrives, once, and messages between two others
// take no longer than they may meanwhile.
func TestRetainedStorm(t *testing.T) {
	const burst = 500
	total := tier.N(100_000)
	total -= total % burst
	n := newNode(t, nil)
	p := n.connected("CONNECT v5 clean id=p")
	for at := 0; at < total; at += burst {
		var lines []string
		for i := range burst {
			lines = append(lines, fmt.Sprintf(`PUBLISH q1 #%d retain t=r/%d/%d "%d"`, i+1, (at+i)%97, at+i, at+i))
		}
		p.send(lines...)
		for i := range burst {
			p.expect(fmt.Sprintf("PUBACK #%d", i+1))
		}
	}
	live := n.connected("CONNECT v5 clean id=live")
	live.send("SUBSCRIBE #1 live:1")
	live.expect("SUBACK #1 0x01")
	alone := exchange(p, live, 50)

	var done atomic.Bool
	got := make([]byte, total)
	storm := n.connected("CONNECT v5 clean id=storm receive=1000")
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer done.Store(true)
		storm.send("SUBSCRIBE #1 r/#:1")
		for left := total; left > 0; {
			m, ok := storm.next().(*packet.Publish)
			if !ok {
				continue // the SUBACK
			}
			var i int
			if _, err := fmt.Sscan(string(m.Payload), &i); err != nil || !m.Retain || m.QoS != 1 {
				t.Errorf("got %s", show(m))
				return
			}
			got[i]++
			left--
			storm.send(fmt.Sprintf("PUBACK #%d", m.PacketID))
		}
	}()
	var times []time.Duration
	for !done.Load() && !t.Failed() {
		times = append(times, exchange(p, live, 1)...)
	}
	<-finished
	for i, k := range got {
		if k != 1 {
			t.Fatalf("retained message %d arrived %d times", i, k)
		}
	}
	slices.Sort(alone)
	slices.Sort(times)
	p99, before := times[len(times)*99/100], alone[len(alone)*99/100]
	t.Logf("%d retained messages; a message between two others: p99 %v alone, %v meanwhile (%d of them)", total, before, p99, len(times))
	if p99 > time.Second {
		t.Errorf("p99 of the others is %v", p99)
	}
}

// exchange sends messages from one client to another, and times them.
func exchange(from, to *client, messages int) (times []time.Duration) {
	for range messages {
		began := time.Now()
		from.send(`PUBLISH q1 #1 t=live "m"`)
		m, ok := to.next().(*packet.Publish)
		if !ok {
			to.t.Fatal("no message")
		}
		times = append(times, time.Since(began))
		to.send(fmt.Sprintf("PUBACK #%d", m.PacketID))
		from.expect("PUBACK #1")
	}
	return times
}
