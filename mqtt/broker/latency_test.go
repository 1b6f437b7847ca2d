package broker_test

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/broker"
)

// Every message is measured, and each by what it waited for: the log, the subscriber's socket, the session's return.
func TestLatency(t *testing.T) {
	var store *memStore
	inBubble(t, func(o *broker.Options) { store = o.Store.(*memStore) }, func(t *testing.T, b *broker.Broker, dial func() *client) {
		l := b.Latency()
		check := func(what string, h *metrics.Histogram, n uint64, least, most time.Duration) {
			t.Helper()
			eventually(t, what, func() bool { return h.Count() >= n })
			low, high := h.Quantile(0), h.Max()
			if h.Count() != n || n > 0 && (low < least || high > most+most/50) {
				t.Errorf("%s: %d from %v to %v, want %d from %v to %v", what, h.Count(), low, high, n, least, most)
			}
		}
		s := dial()
		s.send("CONNECT v5 id=s expiry=100")
		s.expect("CONNACK")
		s.send("SUBSCRIBE #1 x:1")
		s.expect("SUBACK #1 0x01")
		p := dial()
		p.send("CONNECT v5 clean id=p")
		p.expect("CONNACK")

		store.hold()
		p.send(`PUBLISH q1 #1 t=x "1"`, `PUBLISH q0 t=x "2"`, `PUBLISH q2 #2 t=x "3"`)
		time.Sleep(7 * time.Millisecond)
		store.release()
		p.expect("PUBACK #1", "PUBREC #2")
		check("the log kept three messages waiting for 7 ms", &l.Commit, 3, 7*time.Millisecond, 7*time.Millisecond)
		time.Sleep(20 * time.Millisecond) // and the subscriber did not read for 20 more
		s.expect(`PUBLISH q1 #1 t=x "1"`, `PUBLISH q0 t=x "2"`, `PUBLISH q1 #2 t=x "3"`)
		check("they were delivered after 27 ms", &l.Deliver, 3, 27*time.Millisecond, 27*time.Millisecond)
		s.send("PUBACK #1", "PUBACK #2")

		s.nc.Close()
		eventually(t, "the session to be away", func() bool { return b.Stats().Connections == 1 })
		p.send(`PUBLISH q1 retain #3 t=x "4"`)
		p.expect("PUBACK #3")
		time.Sleep(3 * time.Second)
		s = dial()
		s.send("CONNECT v5 id=s expiry=100")
		s.expect("CONNACK present")
		s.expect(`PUBLISH q1 #3 t=x "4"`)
		check("a message waited for its session for 3 s", &l.CatchUp, 1, 3*time.Second, 3*time.Second)
		s.send("SUBSCRIBE #2 x:0")
		s.next()
		s.next()
		s.send("PINGREQ")
		s.next()
		check("a retained message is of any age", &l.CatchUp, 1, 3*time.Second, 3*time.Second)
		check("nothing more came live", &l.Deliver, 3, 27*time.Millisecond, 27*time.Millisecond)
		check("every message was committed", &l.Commit, 4, 0, 7*time.Millisecond)

		p.send(`PUBLISH q1 #4 t=raw/x "5"`)
		p.expect("PUBACK #4")
		check("what is not kept is not committed", &l.Commit, 4, 0, 7*time.Millisecond)
	})
}

// A queue holds no more notes than its bound, and loses no delivery.
func TestLatencyOfManyRuns(t *testing.T) {
	n := newNode(t, nil)
	s := n.connected("CONNECT v5 clean id=s")
	s.send("SUBSCRIBE #1 x:0")
	s.expect("SUBACK #1 0x00")
	p := n.connected("CONNECT v5 clean id=p")
	const rounds = 2000
	n.store.hold()
	for range rounds { // each in a read of its own, if the test is as slow as it should be
		p.send(`PUBLISH q0 t=x "m"`)
	}
	eventually(t, "the appends", func() bool { _, msgs := n.store.held(); return msgs == rounds })
	n.store.release()
	for range rounds {
		s.next()
	}
	eventually(t, "all to be measured", func() bool { return n.b.Latency().Deliver.Count() == rounds })
}
