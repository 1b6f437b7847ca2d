// Package engine is the embedded log: eventlog's driver on local files, with nothing to install.
package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Options say how an engine is built. FS is required; any other zero field means its default.
type Options struct {
	FS     vfs.FS
	Now    func() time.Time // time.Now
	Rand   io.Reader        // crypto/rand: ids
	Logger *slog.Logger     // discards

	WALFileBytes      int64         // 32 MiB; one append is at most a quarter of it
	WALFiles          int           // 4
	CheckpointBytes   int64         // WAL bytes between checkpoints: half of the WAL
	MemoryBytes       int64         // 32 MiB: tail ring, unapplied batches and commit queue together
	SegmentBytes      int64         // 1 GiB: segment.bytes of topics that do not set it
	DefaultPartitions int32         // 8
	MaxLogBytes       int64         // budget of all topics; default 80 % of what was free at first start
	ReserveBytes      int64         // 256 MiB: appends are refused when less than this and the WAL's size is free
	DefaultRetention  time.Duration // 7 days: retention.ms of topics that do not set it; negative: none
	OpenFiles         int           // 512: bound on open segment files
	MaintainEvery     time.Duration // one minute: retention and compaction; negative: only by Maintain
	ProducerExpiry    time.Duration // 24 h: how long an idle producer's sequences are remembered
}

// FirstOwnProducerID begins the range of producer ids that belong to Millrace nodes: a batch is ours iff its id is from here on.
// NewProducerID never gives them out and Produce refuses them.
const FirstOwnProducerID int64 = 1 << 62

var (
	ErrOutOfOrderSequence     = errors.New("producer sequence out of order")
	ErrInvalidProducerEpoch   = errors.New("producer epoch is older than the last one seen")
	ErrReservedProducer       = errors.New("producer id belongs to the log itself")
	ErrInvalidRecord          = errors.New("invalid record batch")
	ErrUnsupportedCompression = errors.New("unsupported compression")
	ErrInvalidTimestamp       = errors.New("record timestamp out of the topic's bounds")
	// ErrCorrupt is eventlog.ErrCorrupt: bytes that are not an intact record batch.
	ErrCorrupt = eventlog.ErrCorrupt
)

// Acks says when a produced batch is answered.
type Acks int8

const (
	AcksNone    Acks = 0  // as AcksWritten; the answer is for bookkeeping
	AcksWritten Acks = 1  // after the WAL write: survives kill -9, not a power cut
	AcksDurable Acks = -1 // after fdatasync
)

// Produced is what became of one produced batch.
type Produced struct {
	Base          int64
	LogAppendTime int64 // -1 for CreateTime
	LogStart      int64
	Err           error
	Duplicate     bool // the batch was there already; Base is where
}

// Fetched holds whole batches; the first may begin before the offset asked for. Records of [offset, Stable) may be served.
type Fetched struct {
	Raw                 []byte
	Start, Stable, High int64
}

// TimeOffset is a record's offset and timestamp; -1, -1 is none.
type TimeOffset struct{ Offset, Timestamp int64 }

// ConfigSource says where a config's value comes from.
type ConfigSource uint8

const (
	Default ConfigSource = iota
	TopicSet
)

// ConfigEntry is one topic config as it is in effect.
type ConfigEntry struct {
	Name, Value string
	Source      ConfigSource
}

// Engine is the embedded log.
type Engine struct{}

var (
	_ eventlog.Driver         = (*Engine)(nil)
	_ eventlog.AtomicAppender = (*Engine)(nil)
)

func Open(o Options) (*Engine, error) { return nil, eventlog.ErrNotSupported }

func (e *Engine) ClusterID() string                              { return "" }
func (e *Engine) TopicByName(name string) (eventlog.Topic, bool) { return eventlog.Topic{}, false }
func (e *Engine) TopicByID(id eventlog.TopicID) (eventlog.Topic, bool) {
	return eventlog.Topic{}, false
}
func (e *Engine) ListTopics() []eventlog.Topic                    { return nil }
func (e *Engine) CreatePartitions(name string, count int32) error { return eventlog.ErrNotSupported }
func (e *Engine) EffectiveConfig(name string) ([]ConfigEntry, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) PartSizes(id eventlog.TopicID) ([]int64, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) NewProducerID() (int64, error)                                    { return 0, eventlog.ErrNotSupported }
func (e *Engine) Now() int64                                                       { return 0 }
func (e *Engine) Health() error                                                    { return eventlog.ErrNotSupported }
func (e *Engine) Maintain(ctx context.Context) error                               { return eventlog.ErrNotSupported }
func (e *Engine) Watch(parts []eventlog.Part, f func(eventlog.Part)) (stop func()) { return func() {} }

func (e *Engine) Produce(p eventlog.Part, raw []byte, acks Acks, done func(Produced)) {}
func (e *Engine) FetchRaw(p eventlog.Part, offset int64, maxBytes int, minOne bool) (Fetched, error) {
	return Fetched{}, eventlog.ErrNotSupported
}
func (e *Engine) ReadableBytes(p eventlog.Part, offset int64, limit int) int { return 0 }
func (e *Engine) FindTime(p eventlog.Part, t int64) (TimeOffset, error) {
	return TimeOffset{}, eventlog.ErrNotSupported
}
func (e *Engine) FindMaxTime(p eventlog.Part) (TimeOffset, error) {
	return TimeOffset{}, eventlog.ErrNotSupported
}

func (e *Engine) CreateTopic(ctx context.Context, spec eventlog.TopicSpec) (eventlog.Topic, error) {
	return eventlog.Topic{}, eventlog.ErrNotSupported
}
func (e *Engine) Topics(ctx context.Context) ([]eventlog.Topic, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) ConfigureTopic(ctx context.Context, name string, set map[string]*string) error {
	return eventlog.ErrNotSupported
}
func (e *Engine) DeleteTopic(ctx context.Context, name string) error                    { return eventlog.ErrNotSupported }
func (e *Engine) Append(b *eventlog.Batch, done func(eventlog.Outcome))                 {}
func (e *Engine) AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {}
func (e *Engine) Room(p eventlog.Part) <-chan struct{}                                  { return nil }
func (e *Engine) Tail(from eventlog.Vector) (eventlog.Tail, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) Read(ctx context.Context, pos eventlog.Position, maxBytes int) ([]*eventlog.Batch, int64, error) {
	return nil, 0, eventlog.ErrNotSupported
}
func (e *Engine) Ends(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) Starts(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) OffsetByTime(ctx context.Context, p eventlog.Part, t int64) (int64, error) {
	return 0, eventlog.ErrNotSupported
}
func (e *Engine) Trim(ctx context.Context, pos eventlog.Position) error {
	return eventlog.ErrNotSupported
}
func (e *Engine) Claim(ctx context.Context, p eventlog.Part) (eventlog.Writer, error) {
	return nil, eventlog.ErrNotSupported
}
func (e *Engine) Close() error { return nil }

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
	Topics, Partitions    int
	Producers             int // (partition, producer) pairs remembered
}

// SyncHistogram counts fdatasync calls by how long they took: Counts[i] took less than 1<<i × 64 µs, the last one any longer.
type SyncHistogram struct {
	Counts [16]uint64
	Sum    time.Duration
	Max    time.Duration
}

func (e *Engine) Stats() Stats { return Stats{} }
