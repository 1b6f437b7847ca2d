package app

import (
	"time"

	"github.com/millrace-io/millrace/metrics"
)

// leg is a stretch of a message's way whose time is measured.
type leg struct {
	from, to string
	all      *metrics.Histogram
	recent   *metrics.Window
}

// recently is how far back the figures of now reach.
const recently = time.Minute

// measure adds a leg to what the node shows. It is called while the node starts.
func (n *Node) measure(from, to string, h *metrics.Histogram) {
	n.legs = append(n.legs, leg{from, to, h, metrics.NewWindow(h, recently)})
}

// measureBroker adds the legs between the publisher's socket and the subscriber's.
func (n *Node) measureBroker() {
	l := n.broker.Latency()
	n.measure("receive", "commit", &l.Commit)
	n.measure("receive", "deliver", &l.Deliver)
	n.measure("receive", "catch_up", &l.CatchUp)
}

// tickLatency lets the figures of now move on; it is called every second.
func (n *Node) tickLatency(now time.Time) {
	for _, l := range n.legs {
		l.recent.Tick(now)
	}
}

// recentLatency is what a leg took in about the last minute; empty if there is no such leg.
func (n *Node) recentLatency(from, to string, now time.Time) metrics.Snapshot {
	for _, l := range n.legs {
		if l.from == from && l.to == to {
			return l.recent.Recent(now)
		}
	}
	return metrics.Snapshot{}
}

func (n *Node) collectLatency(s *metrics.Samples) {
	for _, l := range n.legs {
		s.Durations("latency_seconds", "Time of messages between two points of their way. "+
			"send: the device's own time, corrected by its clock's estimated skew; receive: read from its socket; commit: durable in the log; "+
			"console: in a frame for the console's pages; browser: drawn by one; "+
			"deliver: written to a subscriber's socket, live; catch_up: the same, of sessions that were away or behind.",
			l.all, "from", l.from, "to", l.to)
	}
}
