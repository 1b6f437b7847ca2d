package broker

import (
	"time"

	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Latency says how long messages take through the broker, counted from when their bytes were read from the publisher's socket. Every
// message is in it, weighted: the clock is read once for what one read brings, once for what one append answers, and once for what one
// flush has written.
type Latency struct {
	// Commit ends when the store has answered that the message is durable (on a route with `ack: memory`: written).
	Commit metrics.Histogram
	// Deliver ends when the PUBLISH is written to the subscriber's socket, for messages that came while it was connected and that
	// are in memory still. It counts deliveries: a message for three subscribers three times.
	Deliver metrics.Histogram
	// CatchUp is the same for all others: those that came while the session was away, those it was so far behind with that they were
	// read from disk, those that another node received. What is read from disk goes by the record's time, in milliseconds. Retained
	// messages are in neither.
	CatchUp metrics.Histogram
}

// Latency returns the histograms, which go on counting.
func (b *Broker) Latency() *Latency { return &b.latency }

// clock is the time since the broker was made, at least 1, monotonic if Options.Now is.
func (b *Broker) clock() time.Duration { return b.reading(b.o.Now()) }

func (b *Broker) reading(now time.Time) time.Duration { return max(now.Sub(b.began), 0) + 1 }

// lag is when a run of deliveries in a queue was received.
type lag struct {
	received time.Duration
	n        int32
	behind   bool // for CatchUp
}

// maxLags bounds them in one queue. What comes beyond it counts as received with the run before it, that is, a little too long ago:
// a queue of so many is one of a slow subscriber.
const maxLags = 256

// lagOf is when the message of a delivery was received; false: it is not measured. The owner's.
func (o *owner) lagOf(c *conn, d *session.Delivery) (l lag, ok bool) {
	switch m := d.Msg; {
	case m.Received > 0:
		return lag{received: m.Received, n: 1, behind: m.Received < c.since}, true
	case d.Retain, m.Client == "": // of any age, and what a Kafka client says of its record's
		return lag{}, false
	default:
		age := time.Duration(max(0, o.wall-m.Time)) * time.Millisecond
		return lag{received: o.clock - age, n: 1, behind: true}, true
	}
}

func (q *outQueue) note(l lag) {
	if n := len(q.lags); n > 0 {
		if last := &q.lags[n-1]; last.behind == l.behind && (last.received == l.received || n == maxLags) {
			last.n++
			return
		}
		if n == maxLags {
			return
		}
	}
	q.lags = append(q.lags, l)
}

// written records the deliveries of a queue that has been written.
func (b *Broker) written(q *outQueue) {
	if len(q.lags) == 0 {
		return
	}
	now := b.clock()
	for _, l := range q.lags {
		h := &b.latency.Deliver
		if l.behind {
			h = &b.latency.CatchUp
		}
		h.RecordN(now-l.received, int(l.n))
	}
}
