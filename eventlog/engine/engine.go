// Package engine is the embedded log: eventlog's driver on local files, with nothing to install, and what kafkawire needs beside it.
//
// Appends from everywhere meet in one queue. The committer takes what waits, assigns offsets, checks producer sequences and
// claims in queue order, writes one frame to the write-ahead log, syncs it once, publishes, and has everybody answered. Behind
// it the applier writes the batches into per-partition segments, and the checkpointer makes those durable, so that the WAL can
// be used again. The durable offset is the high watermark: nobody reads what a power cut could take back.
//
// An Engine owns six goroutines: committer, answerer, applier, checkpointer, one for retention and compaction, and the scrubber. Close ends
// them. On disk, below the root of the FS it is given and nowhere else:
//
//	lock            held while an Engine is open
//	checkpoint      the state a restart begins at (docs/formats/checkpoint.md)
//	wal/NNN.wal     every commit since (docs/formats/wal.md)
//	topics/ID/N/    the segments of partition N of a topic, in Kafka's format
//	scrub.json      what is known to be damaged, and how far the scrubber is
//
// The engine will never acknowledge what is not synced (but where asked to), never retry a sync that failed, never repair or
// delete acknowledged data that is damaged, and never use a name from outside as a path.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
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
	CheckpointEvery   time.Duration // a checkpoint this often too; 0: by bytes only
	MemoryBytes       int64         // 32 MiB: tail ring, unapplied batches and commit queue together
	SegmentBytes      int64         // 1 GiB: segment.bytes of topics that do not set it
	DefaultPartitions int32         // 8
	MaxLogBytes       int64         // budget of all topics; default 80 % of what was free at first start
	ReserveBytes      int64         // 256 MiB: appends are refused when less than this and the WAL's size is free
	DefaultRetention  time.Duration // 7 days: retention.ms of topics that do not set it; negative: none
	OpenFiles         int           // 512: bound on open segment files
	MaintainEvery     time.Duration // one minute: retention and compaction; negative: only by Maintain
	ProducerExpiry    time.Duration // 24 h: how long an idle producer's sequences are remembered
	ScrubEvery        time.Duration // 7 days: how long reading all segments to verify them may take; negative, or without maintenance: never
	ScrubRate         int64         // 32 MiB: bytes per second that scrubbing reads at most
	CommitDelay       time.Duration // commits of few begin so far apart at the least, where there is an Alarm; 0: as soon as they can
	Alarm             Alarm         // what the committer rests by; the system's, on Linux
}

// FirstOwnProducerID begins the range of producer ids that belong to Millrace nodes: a batch is ours iff its id is from here on.
// NewProducerID never gives them out and Produce refuses them.
const FirstOwnProducerID = eventlog.OwnProducer

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

// Fetched holds whole batches; the first may begin before the offset asked for.
type Fetched struct {
	Raw                 []byte
	File                Span // of a FetchFile, instead of Raw
	Start, Stable, High int64
	Aborted             []Aborted // of those who fetch what is committed: what the batches may hold records of
}

// Span is batches as they lie in a file. Whoever is given one releases it.
type Span = segment.Span

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

// Engine is the embedded log. It is safe for concurrent use.
type Engine struct {
	o        Options
	defaults topicDefaults
	clock    clock
	unlock   func() error

	clusterID   [16]byte
	firstBudget int64 // for all topics, decided at the first start
	maxLog      int64 // the budget in effect

	commitBytes     int   // of one commit, unless one append is larger
	unappliedMax    int64 // committed bytes that wait for the applier, at most
	applyFrom       int64 // unapplied bytes that wake the applier
	queueMax        int64 // bytes that wait for a commit, all together, for Room
	queueShare      int64 // and of one partition
	checkpointBytes int64
	spaceNeeded     int64

	queue      queue
	queued     atomic.Int64
	committer  *committer
	answers    chan []*item
	unanswered atomic.Int64 // of answers, not through yet
	slices     chan []*item // used ones
	snapshots  chan chan *snapshot
	wal        *wal
	walSince   atomic.Int64 // bytes since the last checkpoint began
	ring       *ring
	applier    *applier
	files      *segment.FileCache

	mu     sync.RWMutex // what everybody sees
	topics map[eventlog.TopicID]*topic
	names  map[string]*topic

	ids struct {
		mu          sync.Mutex
		next, limit int64
	}
	checkpoints checkpointer
	deleted     deletedTopics
	maintainMu  sync.Mutex
	quarantine  quarantine
	counters    counters
	noSpace     atomic.Bool

	failOnce sync.Once
	failed   chan struct{} // closed when the log has failed for good; then err says why
	err      error

	closing atomic.Bool
	quit    chan struct{} // closed when Close begins
	stop    chan struct{} // closed when the goroutines shall end
	drained chan struct{} // closed when the committer has answered everything after Close
	closed  chan struct{} // closed when Close is done
	// Each is closed when its goroutine has ended.
	gone, answered, applied, checkpointed, maintained, scrubbed chan struct{}
}

var (
	_ eventlog.Driver         = (*Engine)(nil)
	_ eventlog.AtomicAppender = (*Engine)(nil)
)

const (
	minWALFileBytes = 64 << 10
	walFileBytes    = 32 << 20
)

// MaxAppend is the largest append, a batch with its records, that a log takes whose WAL files have their usual size.
const MaxAppend = walFileBytes/4 - block

// withDefaults fills in what is not set and refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		return o, fmt.Errorf("%w: no file system", eventlog.ErrInvalid)
	}
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.WALFileBytes, walFileBytes)
	def(&o.MemoryBytes, 32<<20)
	def(&o.SegmentBytes, 1<<30)
	def(&o.ReserveBytes, 256<<20)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.WALFiles == 0 {
		o.WALFiles = 4
	}
	o.WALFileBytes = alignUp(o.WALFileBytes)
	def(&o.CheckpointBytes, o.WALFileBytes*int64(o.WALFiles)/2)
	if o.DefaultPartitions == 0 {
		o.DefaultPartitions = 8
	}
	if o.DefaultRetention == 0 {
		o.DefaultRetention = 7 * 24 * time.Hour
	}
	if o.OpenFiles == 0 {
		o.OpenFiles = 512
	}
	if o.MaintainEvery == 0 {
		o.MaintainEvery = time.Minute
	}
	if o.ProducerExpiry == 0 {
		o.ProducerExpiry = 24 * time.Hour
	}
	if o.ScrubEvery == 0 {
		o.ScrubEvery = 7 * 24 * time.Hour
		if o.MaintainEvery < 0 {
			o.ScrubEvery = -1
		}
	}
	def(&o.ScrubRate, 32<<20)
	switch {
	case o.WALFileBytes < minWALFileBytes:
		return o, fmt.Errorf("%w: WAL files of %d bytes, at least %d", eventlog.ErrInvalid, o.WALFileBytes, minWALFileBytes)
	case o.WALFiles < 2:
		return o, fmt.Errorf("%w: %d WAL files, at least 2", eventlog.ErrInvalid, o.WALFiles)
	case o.DefaultPartitions < 1 || o.DefaultPartitions > maxPartitions:
		return o, fmt.Errorf("%w: %d partitions by default, want 1 to %d", eventlog.ErrInvalid, o.DefaultPartitions, maxPartitions)
	}
	return o, nil
}

// maxAppend is the largest append that a WAL of such files takes: a quarter of one, so that a commit always fits.
func maxAppend(walFileBytes int64) int64 { return walFileBytes/4 - block }

func newEngine(o Options) *Engine {
	e := &Engine{
		o:        o,
		defaults: newTopicDefaults(&o),
		clock:    clock{now: o.Now},

		commitBytes:     int(min(o.WALFileBytes/4-block, 4<<20)),
		unappliedMax:    o.MemoryBytes / 2,
		applyFrom:       o.MemoryBytes / 8,
		queueMax:        o.MemoryBytes / 4,
		queueShare:      o.MemoryBytes / 16,
		checkpointBytes: o.CheckpointBytes,
		spaceNeeded:     o.WALFileBytes*int64(o.WALFiles) + o.ReserveBytes,

		answers:   make(chan []*item, 4),
		slices:    make(chan []*item, 8),
		snapshots: make(chan chan *snapshot),
		ring:      newRing(o.MemoryBytes * 3 / 4),
		files:     segment.NewFileCache(o.OpenFiles),
		topics:    map[eventlog.TopicID]*topic{},
		names:     map[string]*topic{},

		failed: make(chan struct{}), quit: make(chan struct{}), stop: make(chan struct{}),
		drained: make(chan struct{}), closed: make(chan struct{}),
		gone: make(chan struct{}), answered: make(chan struct{}), applied: make(chan struct{}),
		checkpointed: make(chan struct{}), maintained: make(chan struct{}), scrubbed: make(chan struct{}),
	}
	e.queue.wake = make(chan struct{}, 1)
	e.checkpoints.wake = make(chan struct{}, 1)
	e.checkpoints.dirty = map[*partition]struct{}{}
	e.committer = &committer{Engine: e, state: newState(&e.defaults)}
	e.applier = &applier{Engine: e, wake: make(chan struct{}, 1), requests: make(chan applyRequest)}
	return e
}

// Open opens the log in the root of a file system, or makes one if it is empty. It returns once everything that was committed
// is recovered and durable in the segments.
func Open(o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	e := newEngine(o)
	if e.unlock, err = o.FS.Lock(LockName); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := e.recover(); err != nil {
		return nil, fmt.Errorf("open log: %w", errors.Join(err, e.closeFiles()))
	}
	if err := e.setAlarm(); err != nil {
		return nil, fmt.Errorf("open log: %w", errors.Join(err, e.closeFiles()))
	}
	go e.committer.run()
	go e.answer()
	go e.applier.run()
	go e.checkpointLoop()
	go e.maintainLoop()
	go e.scrubLoop()
	return e, nil
}

// setAlarm prepares the committer's rests. It owns the alarm.
func (e *Engine) setAlarm() (err error) {
	if e.o.CommitDelay <= 0 {
		return nil
	}
	if e.o.Alarm == nil {
		if e.o.Alarm, err = newAlarm(); err != nil {
			return err
		}
	}
	e.committer.alarm, e.committer.pace.delay = e.o.Alarm, e.o.CommitDelay
	e.committer.ringAlarm = e.o.Alarm.Ring
	return nil
}

// LockName is the file that an engine holds locked; CheckpointName the one without which a folder holds no log.
const (
	LockName       = "lock"
	CheckpointName = checkpointName
)

// Close implements eventlog.Driver. It ends with a checkpoint, so that the next start has nothing to replay.
func (e *Engine) Close() error {
	if !e.queue.close() {
		<-e.closed
		return nil
	}
	defer close(e.closed)
	e.closing.Store(true)
	close(e.quit)
	e.roomAgain()
	<-e.drained
	var err error
	if e.failure() == nil {
		if err = e.checkpoint(); err != nil && !passing(err) {
			e.fail(err)
		}
	}
	close(e.stop)
	for _, ended := range []chan struct{}{e.gone, e.applied, e.checkpointed, e.maintained, e.scrubbed} {
		<-ended
	}
	close(e.answers)
	<-e.answered
	e.ring.close()
	if e.committer.alarm != nil {
		err = errors.Join(err, e.committer.alarm.Close())
	}
	if cerr := e.closeFiles(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// closeFiles gives back files and lock.
func (e *Engine) closeFiles() error {
	var errs []error
	e.mu.RLock()
	for _, t := range e.topics {
		for _, p := range *t.parts.Load() {
			errs = append(errs, p.segments.close())
		}
	}
	e.mu.RUnlock()
	if e.wal != nil {
		errs = append(errs, e.wal.close())
	}
	errs = append(errs, e.unlock())
	return errors.Join(errs...)
}

// fail closes the log for good: no more appends. Reads of what is durable go on.
func (e *Engine) fail(err error) {
	e.failOnce.Do(func() {
		e.err = err
		close(e.failed)
		if !e.closing.Load() {
			e.o.Logger.Error("the log has failed and takes no more appends; restart to recover", "error", err)
		}
	})
}

// failure is why the log has failed, or nil.
func (e *Engine) failure() error {
	select {
	case <-e.failed:
		return e.err
	default:
		return nil
	}
}

// open says that the log is closed, if it is.
func (e *Engine) open() error {
	if e.closing.Load() {
		return eventlog.ErrClosed
	}
	return nil
}

func (e *Engine) usable(ctx context.Context) error {
	if err := e.open(); err != nil {
		return err
	}
	return ctx.Err()
}

// Health is nil while the log takes appends. eventlog.ErrNoSpace passes by itself; any other error is for good, and a restart
// the way to recover.
func (e *Engine) Health() error {
	if err := e.failure(); err != nil {
		return closedBy(err)
	}
	if err := e.open(); err != nil {
		return err
	}
	if !e.checkSpace() {
		return fmt.Errorf("less than %d bytes are free: %w", e.spaceNeeded, eventlog.ErrNoSpace)
	}
	return nil
}

// checkSpace tells whether there is room for what the WAL holds, and the reserve.
func (e *Engine) checkSpace() bool {
	free, _, err := e.o.FS.Free()
	ok := err != nil || free >= e.spaceNeeded // an error will show in the write
	if e.noSpace.Swap(!ok) == ok {
		if ok {
			e.o.Logger.Info("there is free disk space again; appends are taken")
		} else {
			e.o.Logger.Error("appends are refused: not enough free disk space", "free", free, "needed", e.spaceNeeded)
		}
	}
	return ok
}

// ClusterID names this log, since its first start, as Kafka's tools print it.
func (e *Engine) ClusterID() string { return base64.RawURLEncoding.EncodeToString(e.clusterID[:]) }
