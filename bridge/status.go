package bridge

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// The states of a bridge.
const (
	Connecting = "connecting" // for the first time, or again
	Connected  = "connected"
	Waiting    = "waiting" // before the next attempt
	Fenced     = "fenced"  // another node on this log runs the bridges
	Stopped    = "stopped"
)

// Status is how a bridge is at present.
type Status struct {
	Name      string
	Remote    string
	State     string
	Since     time.Time // it is so
	Connects  uint64
	LastError string
	LastErrAt time.Time

	// Behind is how many records lie between what the remote has taken and the end of the log, whether or not they are for it; Lag is
	// the age of the oldest message that waits for it.
	Behind   int64
	Lag      float64
	InFlight int // messages that the remote has not acknowledged

	Sent     uint64            // to the remote, resent ones not counted
	Resent   uint64            //
	Acked    uint64            // by the remote; at QoS 0, written to the connection
	Received uint64            // from the remote
	Stored   uint64            // of these, in the log
	Dropped  map[string]uint64 // by reason, both ways
}

// Reasons why a message does not go over a bridge.
const (
	DropLoop      = "loop"              // it has been here, or there, before
	DropExpired   = "message_expired"   // its expiry interval is over
	DropAge       = "buffer_max_age"    // it has waited for longer than the buffer keeps
	DropBytes     = "buffer_max_bytes"  // more waits than the buffer keeps
	DropGap       = "gap_retention"     // the log's retention passed it; counts records, whether or not they are for the remote
	DropTooLarge  = "too_large"         // for the remote
	DropRefused   = "refused_by_remote" // it answered with a failure
	DropPoison    = "remote_disconnects"
	DropInvalid   = "invalid"            // the remote's version of MQTT cannot say it
	DropUnmatched = "unmatched"          // in: no topic of the bridge
	DropLog       = "refused_by_log"     // in: for good
	DropRetained  = "retained_limit"     // in: stored without the retain flag
	DropDuplicate = "qos2_duplicate"     // in: had come before
	DropPacket    = "packet_too_large"   // in: 3.1.1, for this node
	DropTopic     = "topic_not_accepted" // in: begins with $
)

// counters count what a bridge did.
type counters struct {
	sent, acked, received, stored atomic.Uint64
	handed, refused, answered     atomic.Int64 // to and by the store

	mu      sync.Mutex
	dropped map[string]uint64
}

func (c *counters) drop(reason string, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped == nil {
		c.dropped = map[string]uint64{}
	}
	c.dropped[reason] += n
}

func (c *counters) drops() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := maps.Clone(c.dropped)
	if m == nil {
		m = map[string]uint64{}
	}
	return m
}

// condition is the state of a bridge, and its last error.
type condition struct {
	mu    sync.Mutex
	state string
	since time.Time
	err   string
	errAt time.Time
	said  map[string]time.Time // when a problem was logged last, by kind
}

func (c *condition) set(state string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != state && c.state != Fenced {
		c.state, c.since = state, now
	}
}

// logEvery is how often a problem of one kind is logged; an outage is not to fill the log.
const logEvery = time.Minute

// fail notes an error; say: it is to be logged.
func (c *condition) fail(what string, err error, now time.Time) (say bool) {
	text := err.Error()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.errAt = text[:min(len(text), 500)], now
	last, before := c.said[what]
	if before && now.Sub(last) < logEvery {
		return false
	}
	if c.said == nil {
		c.said = map[string]time.Time{}
	}
	c.said[what] = now
	return true
}

func (c *condition) fill(s *Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.State, s.Since, s.LastError, s.LastErrAt = c.state, c.since, c.err, c.errAt
}
