package broker

import (
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Stats is a snapshot of the broker's counters. The maps are by reason.
type Stats struct {
	Connections  int64    // now
	HalfOpen     int64    // of them without CONNECT
	Parked       int64    // of them idle, without a goroutine
	Accepted     int64    // TCP connections
	Connects     int64    // CONNECTs answered with success
	Received     [3]int64 // publishes, whatever became of them; see Repeated, Broken, Refused, Appending
	Delivered    [3]int64 // by effective QoS, resends included
	ReceivedIn   int64    // bytes read
	SentOut      int64    // bytes written
	Acked        int64    // QoS 1 and 2 publishes with a receipt
	Repeated     int64    // QoS 2 publishes that had come before: they are answered, and are no message
	Broken       int64    // publishes that ended their connection, since the protocol forbids them
	Appending    int64    // messages at the store now
	Wills        int64    // that were published
	Unreceipted  int64    // QoS 1 and 2 publishes of `store: false` routes, acked without one
	Paused       int64    // connections that are not read now, for one of the reasons of Pauses
	OutboundWait int64    // bytes waiting for slow subscribers
	Stalls       int64    // flushes that had to wait for a client
	PacketsIn    int64    // MQTT packets of every type, read
	PacketsOut   int64    // and written
	Expired      int64    // sessions that the clock has ended

	Refused   map[string]int64 // publishes refused
	Denied    map[string]int64 // what clients may not do, by what it is: publish (among the refused, too), subscribe, will
	Dropped   map[string]int64 // messages dropped or skipped on their way out
	Ended     map[string]int64 // connections ended
	Turned    map[string]int64 // connections turned away before a session
	Flapping  map[string]int64 // take-over loops, bans because of flapping, and what of it was not counted
	PausedNow map[string]int64 // connections that are not read now
	Pauses    map[string]int64 // times that a connection was not read for a while
	// PausedFor is how long that was, in all.
	PausedFor   map[string]time.Duration
	AnswersWait int64            // bytes of answers that clients do not take, but for the first 16 KiB of each
	InboundWait int64            // bytes of publishes that the log has not answered
	Panics      map[string]int64 // survived, by where; each is a bug

	Session session.Stats
}

type counters struct {
	connections, halfOpen, accepted, connects  atomic.Int64
	parked                                     atomic.Int64
	received, delivered                        [3]atomic.Int64
	bytesIn, bytesOut                          atomic.Int64
	acked, unreceipted, paused, outWait, stall atomic.Int64
	repeated, broken, appending, wills         atomic.Int64
	packetsIn, packetsOut, expired             atomic.Int64

	refused, denied, dropped, ended, turned, panics reasons
	answers                                         atomic.Int64 // bytes that wait, beyond the few of each connection
	loops, pausedNow, pauses, pausedFor             reasons      // the last in microseconds
}

func (c *counters) snapshot() Stats {
	s := Stats{
		Connections: c.connections.Load(), HalfOpen: c.halfOpen.Load(), Accepted: c.accepted.Load(), Connects: c.connects.Load(),
		ReceivedIn: c.bytesIn.Load(), SentOut: c.bytesOut.Load(), Acked: c.acked.Load(), Unreceipted: c.unreceipted.Load(),
		Repeated: c.repeated.Load(), Broken: c.broken.Load(), Appending: c.appending.Load(), Wills: c.wills.Load(),
		Paused: c.paused.Load(), OutboundWait: c.outWait.Load(), Stalls: c.stall.Load(),
		PacketsIn: c.packetsIn.Load(), PacketsOut: c.packetsOut.Load(), Expired: c.expired.Load(),
		Refused: c.refused.snapshot(), Denied: c.denied.snapshot(), Dropped: c.dropped.snapshot(), Ended: c.ended.snapshot(), Turned: c.turned.snapshot(), Panics: c.panics.snapshot(),
	}
	s.AnswersWait, s.Parked = c.answers.Load(), c.parked.Load()
	s.Flapping, s.PausedNow = c.loops.snapshot(), c.pausedNow.snapshot()
	s.Pauses, s.PausedFor = c.pauses.snapshot(), map[string]time.Duration{}
	for why, us := range c.pausedFor.snapshot() {
		s.PausedFor[why] = time.Duration(us) * time.Microsecond
	}
	for q := range 3 {
		s.Received[q], s.Delivered[q] = c.received[q].Load(), c.delivered[q].Load()
	}
	return s
}

// reasons counts by reason. Reasons are few and come from this program, never from a client.
type reasons struct {
	mu sync.Mutex
	n  map[string]int64
}

func (r *reasons) add(reason string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[string]int64{}
	}
	r.n[reason] += int64(n)
}

func (r *reasons) snapshot() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.n)
}

// label is the counter's name of a reason code: "keep_alive_timeout".
func label(c packet.Code) string {
	name, _, _ := strings.Cut(c.String(), " (")
	return strings.ReplaceAll(strings.ToLower(name), " ", "_")
}

// sampler lets one log line per reason through every interval: a line per drop would make an overload worse.
type sampler struct {
	log   *slog.Logger
	now   func() time.Time
	mu    sync.Mutex
	since map[string]*sample
}

type sample struct {
	next    time.Time
	skipped int
}

const sampleEvery = 10 * time.Second

func (s *sampler) warn(reason string, args ...any) {
	now := s.now()
	s.mu.Lock()
	if s.since == nil {
		s.since = map[string]*sample{}
	}
	e := s.since[reason]
	if e == nil {
		e = &sample{}
		s.since[reason] = e
	}
	if now.Before(e.next) {
		e.skipped++
		s.mu.Unlock()
		return
	}
	skipped := e.skipped
	e.next, e.skipped = now.Add(sampleEvery), 0
	s.mu.Unlock()
	if skipped > 0 {
		args = append(args, "skipped_like_it", skipped)
	}
	s.log.Warn(reason, args...)
}
