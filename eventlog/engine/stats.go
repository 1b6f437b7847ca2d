package engine

import (
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// Stats is a snapshot of the engine's counters.
type Stats struct {
	Commits, CommitBytes  uint64 // frames made durable, and their bytes
	Batches, Records      uint64 // in them
	Sync                  SyncHistogram
	QueuedBytes           int64 // waiting for a commit
	UnappliedBytes        int64 // committed, not yet in segments
	RingBytes             int64 // held in memory for tails, the unapplied ones among them
	WALBytes              int64 // size of the WAL's files
	WALSinceCheckpoint    int64
	Checkpoints           uint64
	LastCheckpoint        time.Duration // how long it took
	LogBytes, MaxLogBytes int64
	RecoveredCommits      uint64 // replayed at Open
	RecoveredBatches      uint64
	RecoveryTime          time.Duration
	TornBytes             int64             // cut off the WAL's end at Open
	Refused               map[string]uint64 // appends refused, by reason
	RetainedBytes         uint64            // deleted by retention
	DamagedRecords        uint64            // offsets that tails passed over because the segment is damaged there
	ScrubbedBytes         uint64            // read to verify them
	ScrubPasses           uint64            // over everything
	Quarantined           int               // runs of offsets that are known to be damaged
	Topics, Partitions    int
	Producers             int // (partition, producer) pairs remembered, as of the last Maintain
	OpenFiles             int // of segments
}

// SyncHistogram counts fdatasync calls by how long they took: Counts[i] took less than 64 µs << i, the last one any longer.
type SyncHistogram struct {
	Counts   [16]uint64
	Sum, Max time.Duration
}

func (h *SyncHistogram) add(d time.Duration) {
	h.Counts[min(bits.Len64(uint64(d/(64*time.Microsecond))), len(h.Counts)-1)]++
	h.Sum += d
	h.Max = max(h.Max, d)
}

type counters struct {
	checkpoints, retained, damaged atomic.Uint64
	scrubbed, scrubPasses          atomic.Uint64
	producers                      atomic.Int64

	mu      sync.Mutex
	commit  Stats // the parts that a commit counts
	reasons map[string]uint64
}

// synced counts a commit.
func (c *counters) synced(took time.Duration, bytes int, fresh []published) {
	records := 0
	for i := range fresh {
		records += fresh[i].batch.Len()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commit.Commits++
	c.commit.CommitBytes += uint64(bytes)
	c.commit.Batches += uint64(len(fresh))
	c.commit.Records += uint64(records)
	c.commit.Sync.add(took)
}

// reasonOf names why an append was refused, for counting.
func reasonOf(err error) string {
	for _, r := range []struct {
		err  error
		name string
	}{
		{eventlog.ErrUnknownOutcome, "unknown_outcome"},
		{eventlog.ErrUnknownTopic, "unknown_topic"},
		{eventlog.ErrTooLarge, "too_large"},
		{eventlog.ErrNoSpace, "no_space"},
		{eventlog.ErrFenced, "fenced"},
		{eventlog.ErrClosed, "closed"},
		{ErrOutOfOrderSequence, "out_of_order_sequence"},
		{ErrInvalidProducerEpoch, "invalid_producer_epoch"},
		{ErrReservedProducer, "reserved_producer"},
		{ErrInvalidRecord, "invalid_record"},
		{ErrInvalidTxnState, "invalid_txn_state"},
		{ErrTooManyAborted, "too_many_aborted"},
		{ErrCorrupt, "corrupt"},
		{ErrUnsupportedCompression, "unsupported_compression"},
		{ErrInvalidTimestamp, "invalid_timestamp"},
	} {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return "invalid"
}

func (c *counters) refused(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reasons == nil {
		c.reasons = map[string]uint64{}
	}
	c.reasons[reasonOf(err)]++
}

// Stats returns the counters as they are now.
func (e *Engine) Stats() Stats {
	e.counters.mu.Lock()
	s := e.counters.commit
	s.Refused = make(map[string]uint64, len(e.counters.reasons))
	for k, v := range e.counters.reasons {
		s.Refused[k] = v
	}
	e.counters.mu.Unlock()
	s.QueuedBytes = e.queued.Load()
	s.RingBytes, s.UnappliedBytes = e.ring.heldBytes()
	s.WALBytes = e.o.WALFileBytes * int64(e.o.WALFiles)
	s.WALSinceCheckpoint = e.walSince.Load()
	s.Checkpoints = e.counters.checkpoints.Load()
	s.LastCheckpoint = time.Duration(e.checkpoints.took.Load())
	s.RetainedBytes = e.counters.retained.Load()
	s.DamagedRecords = e.counters.damaged.Load()
	s.ScrubbedBytes, s.ScrubPasses = e.counters.scrubbed.Load(), e.counters.scrubPasses.Load()
	s.Quarantined = len(e.Quarantine())
	s.Producers = int(e.counters.producers.Load())
	s.OpenFiles = e.files.Open()
	s.MaxLogBytes = e.maxLog
	e.mu.RLock()
	defer e.mu.RUnlock()
	s.Topics = len(e.topics)
	for _, t := range e.topics {
		for _, p := range *t.parts.Load() {
			s.Partitions++
			s.LogBytes += p.size()
		}
	}
	return s
}
