package engine

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/millrace-io/millrace/eventlog"
)

// topic is one life of a topic.
type topic struct {
	id   eventlog.TopicID
	name string

	// The committer's own: as of the last entry it took, durable or not.
	head struct {
		cfg   *topicConfig
		parts []*partition
		gone  bool
	}

	// What everybody sees: as of the last durable commit.
	cfg   atomic.Pointer[topicConfig]
	parts atomic.Pointer[[]*partition]
	gone  atomic.Bool
}

// partition is one partition of a topic.
type partition struct {
	part  eventlog.Part
	topic *topic

	// The committer's own: as of the last entry it took, durable or not.
	head struct {
		start, end int64
		claim      int64 // epoch of the last claim
		producers  map[int64]*producer
		encoded    []byte        // producers as a checkpoint has them; nil when they changed since
		txns       *transactions // nil before the first one
		commit     uint64        // the last one that has records of this partition
		lane       fifo          // of the commit queue, while not all that waits fits
	}

	// What everybody sees: as of the last durable commit.
	start, high atomic.Int64
	stable      atomic.Int64              // the last stable offset: high, or where the first open transaction begins
	aborted     atomic.Pointer[[]Aborted] // nil: no transaction ever
	forgotten   atomic.Int64              // what ended before is not in aborted any more: compaction took its records
	held        atomic.Int64              // since when a transaction is open, or 0

	safe   atomic.Int64 // below it the last checkpoint covers the segments: they may be compacted or deleted
	queued atomic.Int64 // bytes waiting for a commit

	mu       sync.RWMutex
	mem      []*eventlog.Batch // committed and not yet in segments, in order: [applied, high)
	applied  int64
	watchers []*watcher

	segments segmentLog
	applying []*eventlog.Batch // the applier's own
}

// dir is where a partition's files lie. Names from outside never become paths.
func (p *partition) dir() string { return p.topic.dir() + "/" + strconv.Itoa(int(p.part.Index)) }

func (t *topic) dir() string { return topicDir(t.id) }

func topicDir(id eventlog.TopicID) string { return topicsDir + "/" + hex.EncodeToString(id[:]) }

const topicsDir = "topics"

// maxPartitions bounds a topic: each partition is a directory and a few files.
const maxPartitions = 10_000

// state is what the log has come to know by its entries, in their order: the same steps live, in the committer, and at
// recovery. It belongs to the committer; others see what was published of it.
type state struct {
	commit   uint64
	time     int64 // the node's clock at the last commit
	nextID   int64 // producer ids below are given out
	topics   map[eventlog.TopicID]*topic
	names    map[string]*topic
	defaults *topicDefaults
}

func newState(d *topicDefaults) *state {
	return &state{topics: map[eventlog.TopicID]*topic{}, names: map[string]*topic{}, defaults: d}
}

// step takes one entry that is not a batch. It fails only if the entry does not belong here, which the committer has checked
// before and a replay has not.
func (s *state) step(e *entry) error {
	switch e.kind {
	case entryCreate:
		return s.create(e)
	case entryIDs:
		s.nextID = max(s.nextID, e.value)
		return nil
	}
	t := s.topics[e.part.Topic]
	if t == nil {
		return fmt.Errorf("topic %v: %w", e.part.Topic, eventlog.ErrUnknownTopic)
	}
	switch e.kind {
	case entryDelete:
		t.head.gone = true
		delete(s.topics, t.id)
		delete(s.names, t.name)
		return nil
	case entryConfigure:
		t.head.cfg = s.defaults.build(e.configs)
		return nil
	case entryPartitions:
		if e.count > maxPartitions {
			return fmt.Errorf("topic %q: %d partitions", t.name, e.count)
		}
		t.grow(e.count)
		return nil
	}
	p, err := s.partition(e.part)
	if err != nil {
		return err
	}
	switch e.kind {
	case entryStart:
		p.head.start = max(p.head.start, e.value)
		if p.head.txns != nil {
			p.head.txns.forget(p.head.start)
		}
	case entryForgotten:
		if p.head.txns != nil {
			p.head.txns.forget(e.value)
		}
	case entryClaim:
		p.head.claim = max(p.head.claim, e.value)
	default:
		return fmt.Errorf("entry of kind %d where none can be", e.kind)
	}
	return nil
}

func (s *state) create(e *entry) error {
	if s.topics[e.part.Topic] != nil || s.names[e.name] != nil {
		return fmt.Errorf("topic %q: %w", e.name, eventlog.ErrTopicExists)
	}
	if e.count > maxPartitions || e.count < 0 {
		return fmt.Errorf("topic %q: %d partitions", e.name, e.count)
	}
	t := &topic{id: e.part.Topic, name: e.name}
	t.head.cfg = s.defaults.build(e.configs)
	t.grow(e.count)
	s.topics[t.id], s.names[t.name] = t, t
	return nil
}

// grow adds partitions. The slice is replaced, since readers hold the old one.
func (t *topic) grow(count int32) {
	parts := slices.Clone(t.head.parts)
	for i := int32(len(parts)); i < count; i++ {
		parts = append(parts, &partition{part: eventlog.Part{Topic: t.id, Index: i}, topic: t})
	}
	t.head.parts = parts
}

func (s *state) partition(at eventlog.Part) (*partition, error) {
	t := s.topics[at.Topic]
	if t == nil || at.Index < 0 || int(at.Index) >= len(t.head.parts) {
		return nil, fmt.Errorf("partition %v: %w", at, eventlog.ErrUnknownTopic)
	}
	return t.head.parts[at.Index], nil
}

// batch takes one batch, whose offsets begin at the partition's end.
func (s *state) batch(p *partition, raw eventlog.RawBatch, now int64) {
	p.head.end = raw.Next()
	id := raw.ProducerID()
	if !remembers(id) {
		return
	}
	pr := p.head.producers[id]
	if pr == nil {
		pr = &producer{}
		if p.head.producers == nil {
			p.head.producers = map[int64]*producer{}
		}
		p.head.producers[id] = pr
	}
	pr.record(raw, now)
	p.head.encoded = nil
	if raw.Attributes()&eventlog.AttrTransactional != 0 {
		p.transact(raw, now)
	}
}

// encodedProducers is the partition's producers as a checkpoint has them.
func (p *partition) encodedProducers() []byte {
	if p.head.encoded == nil && len(p.head.producers) > 0 {
		for _, id := range slices.Sorted(maps.Keys(p.head.producers)) {
			p.head.encoded = p.head.producers[id].append(p.head.encoded, id)
		}
	}
	return p.head.encoded
}

// publish makes a topic's head what everybody sees.
func (t *topic) publish() {
	t.cfg.Store(t.head.cfg)
	parts := t.head.parts
	t.parts.Store(&parts)
	t.gone.Store(t.head.gone)
}
