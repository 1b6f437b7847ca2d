package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

func (e *Engine) maintainLoop() {
	defer close(e.maintained)
	if e.o.MaintainEvery < 0 {
		return
	}
	tick := time.NewTicker(e.o.MaintainEvery)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-e.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-tick.C:
			if err := e.Maintain(ctx); err != nil && ctx.Err() == nil && e.failure() == nil {
				e.o.Logger.Error("retention and compaction", "error", err)
			}
		case <-e.quit:
			return
		}
	}
}

// Maintain does once what else is done every Options.MaintainEvery: it forgets idle producers, makes a checkpoint, moves the
// log starts that retention moves, deletes what lies before them, and compacts.
//
// A start is moved by a commit first; the files follow. So a crash may leave files too many, never a start too low.
func (e *Engine) Maintain(ctx context.Context) error {
	e.maintainMu.Lock()
	defer e.maintainMu.Unlock()
	if err := e.usable(ctx); err != nil {
		return fmt.Errorf("maintain: %w", err)
	}
	if err := e.expireProducers(ctx); err != nil {
		return fmt.Errorf("forget idle producers: %w", err)
	}
	if err := e.checkpoint(); err != nil {
		if !errors.Is(err, eventlog.ErrClosed) {
			e.checkpointFailed(err)
		}
		if !passing(err) {
			return fmt.Errorf("maintain: %w", err)
		}
	} // without room there is none: what the last one covers may be deleted all the same, and makes room
	var errs []error
	parts := e.allPartitions()
	errs = append(errs, e.retainEach(ctx, parts), e.retainBudget(ctx, parts))
	for _, p := range parts {
		if ctx.Err() != nil {
			break
		}
		errs = append(errs, e.deleteTrimmed(p), e.compact(p))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (e *Engine) allPartitions() (parts []*partition) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, t := range e.topics {
		parts = append(parts, *t.parts.Load()...)
	}
	return parts
}

// maxProducers bounds how many producers are remembered. Beyond it the idle ones are forgotten sooner.
const maxProducers = 200_000

// expireProducers forgets the sequences of producers that have been idle for long. It is not written down: a restart may
// remember more.
func (e *Engine) expireProducers(ctx context.Context) error {
	return e.do(ctx, func(s *state) ([]entry, func(), error) {
		now := e.Now()
		left := math.MaxInt
		for idle := e.o.ProducerExpiry.Milliseconds(); left > maxProducers && idle > 0; idle /= 2 {
			left = s.forgetProducers(now - idle)
		}
		e.counters.producers.Store(int64(left))
		return nil, nil, nil
	})
}

// forgetProducers drops producers that were last active before a time, and counts the others.
func (s *state) forgetProducers(before int64) (left int) {
	for _, t := range s.topics {
		for _, p := range t.head.parts {
			for id, pr := range p.head.producers {
				if pr.active < before && !p.isOpen(id) {
					delete(p.head.producers, id)
					p.head.encoded = nil
				}
			}
			left += len(p.head.producers)
		}
	}
	return left
}

// retainEach moves the starts that a topic's own retention moves.
func (e *Engine) retainEach(ctx context.Context, parts []*partition) error {
	var errs []error
	starts := map[*partition]int64{}
	for _, p := range parts {
		c := p.topic.cfg.Load()
		if !c.delete || c.retentionMs < 0 && c.retentionBytes < 0 {
			continue
		}
		start, err := e.retained(p, c)
		if err != nil && !p.topic.gone.Load() {
			errs = append(errs, fmt.Errorf("retention of topic %q, %v: %w", p.topic.name, p.part, err))
		} else if err == nil && start > p.start.Load() {
			starts[p] = start
		}
	}
	return errors.Join(append(errs, e.moveStarts(ctx, starts))...)
}

// retained is where a partition begins by its topic's retention: whole segments go, those that are too old first, then while
// there is still more than retention.bytes without them.
func (e *Engine) retained(p *partition, c *topicConfig) (int64, error) {
	log, err := e.segmentsOf(p)
	if err != nil || log.Size() == 0 {
		return 0, err
	}
	segs, err := log.Segments()
	if err != nil {
		return 0, err
	}
	old := int64(0)
	if c.retentionMs >= 0 {
		if old, err = firstSince(log, e.Now()-c.retentionMs); err != nil {
			return 0, err
		}
	}
	size, start := int64(0), int64(0)
	for _, s := range segs {
		size += s.Size
	}
	for _, s := range segs {
		tooMuch := c.retentionBytes >= 0 && !s.Active && size-s.Size >= c.retentionBytes
		if s.Limit > old && !tooMuch {
			break
		}
		size -= s.Size
		start = s.Limit
	}
	return min(start, p.safe.Load()), nil
}

// firstSince is the offset of the first record of a time or later; the end if there is none. All before it is older.
func firstSince(log *segment.Log, t int64) (int64, error) {
	end := log.End()
	offset, _, err := log.FindTime(t, 0)
	if err != nil || offset >= 0 {
		return offset, err
	}
	return end, nil
}

// aged is the oldest segment of a partition.
type aged struct {
	p    *partition
	time int64 // of its first batch
	next int64 // the start without it
	size int64
}

// retainBudget deletes the oldest segments of all topics that may be deleted from, until the log is within its budget.
func (e *Engine) retainBudget(ctx context.Context, parts []*partition) error {
	total := int64(0)
	for _, p := range parts {
		total += p.size()
	}
	if total <= e.maxLog {
		return nil
	}
	var errs []error
	var all []aged
	for _, p := range parts {
		if !p.topic.cfg.Load().delete {
			continue
		}
		old, err := e.oldSegments(p)
		if err != nil && !p.topic.gone.Load() {
			errs = append(errs, fmt.Errorf("budget: %v: %w", p.part, err))
		}
		all = append(all, old...)
	}
	slices.SortStableFunc(all, func(a, b aged) int { return cmp.Compare(a.time, b.time) })
	starts := map[*partition]int64{}
	for _, s := range all {
		if total <= e.maxLog {
			break
		}
		if s.next > max(starts[s.p], s.p.start.Load()) {
			starts[s.p] = s.next
		}
		total -= s.size
	}
	return errors.Join(append(errs, e.moveStarts(ctx, starts))...)
}

// oldSegments lists the segments of a partition that may go: rolled, and covered by the checkpoint. Their times never go
// back, so that sorting by them keeps the order of each partition.
func (e *Engine) oldSegments(p *partition) (out []aged, err error) {
	log, err := e.segmentsOf(p)
	if err != nil {
		return nil, err
	}
	segs, err := log.Segments()
	if err != nil {
		return nil, err
	}
	latest := int64(math.MinInt64)
	for _, s := range segs {
		if s.Active || s.Limit > p.safe.Load() {
			break
		}
		if s.Limit > p.start.Load() {
			raw, err := log.Read(max(s.Base, log.Start()), 0, true)
			if err != nil {
				return out, err
			}
			if len(raw) > 0 {
				latest = max(latest, eventlog.RawBatch(raw).BaseTime())
			}
		}
		out = append(out, aged{p, latest, s.Limit, s.Size})
	}
	return out, nil
}

// startsPerCommit is how many starts fit into one operation.
const startsPerCommit = 100

// moveStarts moves log starts, durably.
func (e *Engine) moveStarts(ctx context.Context, starts map[*partition]int64) error {
	parts := make([]*partition, 0, len(starts))
	for p := range starts {
		parts = append(parts, p)
	}
	for some := range slices.Chunk(parts, startsPerCommit) {
		err := e.do(ctx, func(s *state) (entries []entry, publish func(), err error) {
			for _, p := range some {
				if to := min(starts[p], p.head.end); !p.topic.head.gone && to > p.head.start {
					entries = append(entries, entry{kind: entryStart, part: p.part, value: to})
				}
			}
			return entries, func() {
				for _, p := range some {
					p.moveStart(p.head.start)
				}
			}, nil
		})
		if err != nil {
			return fmt.Errorf("move log starts: %w", err)
		}
	}
	return nil
}

// deleteTrimmed deletes the segments before a partition's start, as far as the checkpoint covers them.
func (e *Engine) deleteTrimmed(p *partition) error {
	to := min(p.start.Load(), p.safe.Load())
	if to == 0 || p.topic.gone.Load() {
		return nil
	}
	log, err := e.segmentsOf(p)
	if err == nil && log.Start() < to {
		before := log.Size()
		if err = log.TrimTo(to); err == nil && log.Start() == log.End() {
			_, _, err = log.Retain(e.o.Now(), 0, 0, to) // the active segment too: nothing in it is left
		}
		e.markDirty(p)
		e.counters.retained.Add(uint64(max(0, before-log.Size())))
	}
	if err != nil && !p.topic.gone.Load() {
		return fmt.Errorf("delete segments of %v before %d: %w", p.part, to, err)
	}
	return nil
}

// deletedTopics are those whose files wait for a checkpoint that no longer knows them.
type deletedTopics struct {
	mu     sync.Mutex
	topics []*topic
	kept   bool // a Cut needs them as yet
}

func (d *deletedTopics) keep(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = on
}

func (d *deletedTopics) add(t *topic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.topics = append(d.topics, t)
}

// take returns the topics that a durable checkpoint does not know.
func (d *deletedTopics) take(s *snapshot) (gone []*topic) {
	known := make(map[eventlog.TopicID]bool, len(s.topics))
	for i := range s.topics {
		known[s.topics[i].id] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kept {
		return nil
	}
	d.topics = slices.DeleteFunc(d.topics, func(t *topic) bool {
		if known[t.id] {
			return false
		}
		gone = append(gone, t)
		return true
	})
	return gone
}

// removeDeleted removes the files of deleted topics. What a crash leaves of them is removed at the next start.
func (e *Engine) removeDeleted(s *snapshot) {
	for _, t := range e.deleted.take(s) {
		for _, p := range t.head.parts {
			_ = p.segments.close() // nothing to be kept
		}
		if err := e.o.FS.RemoveAll(t.dir()); err != nil {
			e.o.Logger.Warn("remove the files of a deleted topic; the next start tries again", "topic", t.name, "error", err)
		}
	}
}
