package route

import (
	"maps"
	"sync"
	"sync/atomic"
)

// counters count what the store did. Totals since Open.
type counters struct {
	appended atomic.Uint64
	unlogged atomic.Uint64
	spilled  atomic.Uint64
	foreign  atomic.Uint64
	refused  byReason
	skipped  byReason
	dead     byReason
	invalid  byReason
}

// byReason counts rare things by their reason.
type byReason struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (c *byReason) add(reason string, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]uint64{}
	}
	c.n[reason] += n
}

func (c *byReason) get() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// Stats is a snapshot of what the store did since Open.
type Stats struct {
	Appended    uint64            // messages that became records
	Spilled     uint64            // messages that were put on the local disk, to become records later
	Unlogged    uint64            // messages of `store: false` routes, acknowledged without a receipt
	Foreign     uint64            // records of Kafka clients passed to MQTT
	Refused     map[string]uint64 // messages refused, by reason
	Skipped     map[string]uint64 // records that MQTT has no use for, by reason
	Invalid     map[string]uint64 // messages with wrong payloads, by what became of them: "warned", "dead_lettered", "refused"
	DeadLetters map[string]uint64 // records that could not reach their MQTT topic: "written", or "lost" if their topic is gone
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	c := &s.stats
	return Stats{Appended: c.appended.Load(), Spilled: c.spilled.Load(), Unlogged: c.unlogged.Load(), Foreign: c.foreign.Load(),
		Invalid: c.invalid.get(), Refused: c.refused.get(), Skipped: c.skipped.get(), DeadLetters: c.dead.get()}
}
