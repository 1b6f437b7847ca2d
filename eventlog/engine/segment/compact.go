package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// CompactOptions say when and how a log is compacted.
type CompactOptions struct {
	// DeleteRetention is how long a tombstone is kept after the compaction that removed what it deletes, so that a reader who
	// has seen the record learns that it is gone.
	DeleteRetention time.Duration
	// MinDirty is the share of bytes not compacted yet from which on it is worth it: 0.5 if it is not positive.
	MinDirty float64
	// MaxLag is how long a record may wait for that: what has a dirty segment whose first batch is older is compacted however little is
	// dirty. No bound if it is not positive.
	MaxLag time.Duration
	// MemoryBytes bounds the map of keys: 32 MiB if it is not positive. Keys that do not fit take another pass.
	MemoryBytes int64
	// Aborted tells of a transactional batch whether it was aborted: then it goes whole. nil: none was.
	Aborted func(b eventlog.RawBatch) bool
	// Ended tells of a control batch whether nobody needs it any more. nil: all stay.
	Ended func(b eventlog.RawBatch) bool
}

// CompactStats is what a compaction did.
type CompactStats struct {
	Passes                  int
	Removed                 int64 // records
	BytesBefore, BytesAfter int64 // of the segments that were replaced
	SegmentsIn, SegmentsOut int
}

// Compact leaves, of the records before below that have the same key, the last one: it rewrites the rolled segments that end
// before below, merging small neighbours. What below covers must be in a durable checkpoint. Offsets never move; a batch that
// loses records keeps its first offset, its producer and its codec, and one that loses all is dropped: the one before it reaches over its
// offsets then. Control batches, those that cannot be decoded, and records without a key stay, but for what the options say of
// transactions, all of which must have ended before below. While anything in the log is damaged nothing is compacted.
//
// A tombstone is kept until DeleteRetention after its batch was first compacted, which is noted in the batch as Kafka does
// (delete horizon, KIP-534).
//
// Readers see each group of segments before or after it was replaced, and so does a crash.
func (l *Log) Compact(now time.Time, below int64, o CompactOptions) (CompactStats, error) {
	l.compacting.Lock()
	defer l.compacting.Unlock()
	if o.MinDirty <= 0 {
		o.MinDirty = 0.5
	}
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = 32 << 20
	}
	var stats CompactStats
	for more := true; more; {
		c, err := l.plan(now.UnixMilli(), below, o)
		switch {
		case errors.Is(err, errRetired): // retention took what was to be compacted
			return stats, nil
		case err != nil:
			return stats, fmt.Errorf("compact log %s: %w", l.dir, err)
		case c == nil:
			return stats, nil
		}
		c.stats = &stats
		o.MinDirty = math.SmallestNonzeroFloat64 // once begun, all of it
		more, err = c.pass()
		if errors.Is(err, errRetired) {
			return stats, nil
		}
		if err != nil {
			return stats, fmt.Errorf("compact log %s: %w", l.dir, err)
		}
	}
	return stats, nil
}

// compaction is one pass over the log: one fill of the map.
type compaction struct {
	l       *Log
	opts    CompactOptions
	now     int64
	segs    []*segment // those to rewrite, from the first of the log on
	clean   int64      // below it keys are unique
	keys    *offsetMap // of the records in [clean, upto)
	upto    int64
	horizon int64 // the earliest at which a tombstone that was kept may go
	stats   *CompactStats
	out     *rewrite
}

// plan decides whether there is enough to do for a pass; nil if not.
func (l *Log) plan(now, below int64, o CompactOptions) (*compaction, error) {
	v, err := l.load()
	if err != nil {
		return nil, err
	}
	c, due := l.within(v, below)
	c.opts, c.now = o, now
	var dirty, all int64
	for _, s := range c.segs {
		all += s.size.Load()
		if s.limit.Load() > c.clean {
			dirty += s.size.Load()
		}
	}
	switch {
	case len(c.segs) > 0 && due > 0 && due <= now:
		return c, nil
	case dirty == 0:
		return nil, nil
	case float64(dirty) >= o.MinDirty*float64(all):
		return c, nil
	}
	if late, err := c.late(); err != nil || !late {
		return nil, err
	}
	return c, nil
}

// within lists the segments that may be compacted, and says when the first tombstone in them may go, if that is known.
func (l *Log) within(v *view, below int64) (c *compaction, due int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c = &compaction{l: l, clean: max(l.clean, v.start), horizon: math.MaxInt64}
	for _, s := range v.segs {
		// One that ends at below may be the one that the checkpoint has as active: its size must stay what it is.
		if !s.rolled() || s.limit.Load() >= below {
			break
		}
		c.segs = append(c.segs, s)
	}
	return c, l.horizon
}

// late tells whether a dirty segment has waited for as long as it may: the time is that of its first batch, as in Kafka.
func (c *compaction) late() (bool, error) {
	if c.opts.MaxLag <= 0 || c.opts.MaxLag == math.MaxInt64 { // then no file need be opened
		return false, nil
	}
	for _, s := range c.segs {
		if s.limit.Load() <= c.clean {
			continue
		}
		t, err := s.firstTime()
		if err != nil {
			return false, err
		}
		if t >= 0 && c.now-t > c.opts.MaxLag.Milliseconds() {
			return true, nil
		}
	}
	return false, nil
}

// firstTime is the greatest timestamp of the segment's first batch, by its header; -1 if it has none.
func (s *segment) firstTime() (int64, error) {
	h, err := s.log.acquire()
	if err != nil {
		return 0, err
	}
	defer s.log.release()
	b, _, err := s.walk(h, 0, s.base, eventlog.HeaderSize).header()
	switch {
	case errors.Is(err, io.EOF):
		return -1, nil
	case err != nil:
		return 0, err
	}
	return b.MaxTime(), nil
}

// pass fills the map and rewrites the segments. more is true if the map was too small for all.
func (c *compaction) pass() (more bool, err error) {
	if err := c.learn(); err != nil {
		return false, err
	}
	c.stats.Passes++
	defer func() {
		if c.out != nil {
			c.out.discard()
		}
	}()
	for _, s := range c.segs {
		if s.base >= c.upto {
			break
		}
		if err := c.rewrite(s); err != nil {
			return false, err
		}
	}
	if err := c.finish(); err != nil {
		return false, err
	}
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.clean = c.upto
	c.l.forgetGaps()
	c.l.horizon = 0
	if c.horizon != math.MaxInt64 {
		c.l.horizon = c.horizon
	}
	return c.upto < c.segs[len(c.segs)-1].limit.Load(), nil
}

// forgetGaps finds out up to where an older version's gaps are left. Called with mu held.
func (l *Log) forgetGaps() {
	l.gapless = 0
	for _, s := range l.view.Load().segs {
		if s.gaps {
			l.gapless = s.limit.Load()
		}
	}
}

// learn fills the map with the keys of [clean, upto): as far as it has room for.
func (c *compaction) learn() error {
	c.keys = newOffsetMap(c.opts.MemoryBytes)
	c.upto = c.segs[len(c.segs)-1].limit.Load()
	for _, s := range c.segs {
		if s.limit.Load() <= c.clean {
			continue
		}
		full := false
		err := c.eachBatch(s, c.clean, func(b eventlog.RawBatch) error {
			plain, ok := compactable(b)
			if !ok || c.aborted(b) && !mutant(MutantAbortedCounts) {
				return nil
			}
			return each(plain, func(r *eventlog.Record) error {
				if r.Key == nil || r.Offset < c.clean || mutant(MutantKeepOld) || c.keys.put(hashKey(r.Key), r.Offset) {
					return nil
				}
				full, c.upto = true, r.Offset
				return errStop
			})
		})
		if full {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eachBatch calls f with the batches of a segment that reach to an offset or beyond.
func (c *compaction) eachBatch(s *segment, from int64, f func(eventlog.RawBatch) error) error {
	h, err := s.log.acquire()
	if err != nil {
		return err
	}
	defer s.log.release()
	w, _, err := s.seek(h, from, math.MaxInt64, 1<<20)
	for err == nil && !c.l.closed.Load() {
		var b eventlog.RawBatch
		if b, err = w.batch(); err == nil {
			err = f(b)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return eventlog.ErrClosed
	}
	return err
}

// rewrite copies what stays of a segment to the rewrite at work, or to a new one if that might grow too large.
func (c *compaction) rewrite(s *segment) error {
	if c.out != nil && !c.out.fits(s, c.limit()) {
		if err := c.finish(); err != nil {
			return err
		}
	}
	if c.out == nil {
		out, err := c.l.beginRewrite(s.base)
		if err != nil {
			return err
		}
		c.out = out
	}
	c.out.old = append(c.out.old, s)
	c.out.changed = c.out.changed || s.gaps
	return c.eachBatch(s, s.base, func(b eventlog.RawBatch) error {
		kept, err := c.keep(b)
		if err != nil {
			return err
		}
		return c.out.add(kept)
	})
}

func (c *compaction) limit() int64 {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.l.limits.bytes
}

// finish puts the rewrite at work in the place of its segments.
func (c *compaction) finish() error {
	out := c.out
	if out == nil {
		return nil
	}
	c.out = nil
	if len(out.old) == 1 && !out.changed {
		out.discard()
		return nil
	}
	if err := out.seal(); err != nil {
		out.discard()
		return err
	}
	for _, s := range out.old {
		c.stats.BytesBefore += s.size.Load()
	}
	c.stats.BytesAfter += out.seg.size.Load()
	c.stats.SegmentsIn += len(out.old)
	c.stats.SegmentsOut++
	return c.l.swap(out)
}

// compactable returns a batch without compression; ok is false if it is to be kept as it is.
func compactable(b eventlog.RawBatch) (plain eventlog.RawBatch, ok bool) {
	if b.Attributes()&eventlog.AttrControl != 0 {
		return nil, false
	}
	return readable(b)
}

func (c *compaction) aborted(b eventlog.RawBatch) bool {
	const kind = eventlog.AttrTransactional | eventlog.AttrControl
	return b.Attributes()&kind == eventlog.AttrTransactional && c.opts.Aborted != nil && c.opts.Aborted(b)
}

func (c *compaction) ended(b eventlog.RawBatch) bool {
	return b.Attributes()&eventlog.AttrControl != 0 && c.opts.Ended != nil && c.opts.Ended(b)
}

// keep returns a batch without the records that may go: b itself if none may, nil if all may.
func (c *compaction) keep(b eventlog.RawBatch) (eventlog.RawBatch, error) {
	if c.aborted(b) && !mutant(MutantKeepAborted) || c.ended(b) {
		c.stats.Removed += int64(b.Count())
		c.out.changed = true
		return nil, nil
	}
	if b.Count() == 0 { // it stands for offsets only: unless it is the first, the one before can
		if held := c.out.held; len(held) == 0 && b.Base() == c.out.seg.base || // or one that must stay as it is
			len(held) > 0 && held.Attributes()&eventlog.AttrTransactional != 0 && held.Next() == b.Base() {
			return b, nil
		}
		c.out.changed = true
		return nil, nil
	}
	plain, ok := compactable(b)
	if !ok {
		return b, nil
	}
	j, err := c.judge(plain)
	if err != nil {
		return nil, err
	}
	c.stats.Removed += int64(len(j.keep) - j.left)
	if j.left == len(j.keep) && !j.stamp {
		return b, nil
	}
	c.out.changed = true
	if j.left == 0 {
		return nil, nil
	}
	return j.reencode(plain, b.Codec())
}

// judgement says what becomes of a batch.
type judgement struct {
	keep    []bool // by record
	left    int    // how many of them
	stamp   bool   // with the delete horizon
	horizon int64
}

// judge decides which records of a batch stay. The first compaction that knows for all of its records whether they are the
// last ones gives a batch with tombstones a delete horizon: what they delete is gone by then, in segments before or in the
// same one, so that they can go once nobody needs to hear of it.
func (c *compaction) judge(plain eventlog.RawBatch) (j judgement, err error) {
	known := plain.Next() <= c.upto
	stamped := plain.Attributes()&eventlog.AttrDeleteHorizon != 0
	j.horizon = c.now + c.opts.DeleteRetention.Milliseconds()
	if stamped {
		j.horizon = plain.BaseTime()
	}
	expired := known && (stamped && j.horizon <= c.now || mutant(MutantEarlyTombstone))
	tombstones := false
	err = each(plain, func(r *eventlog.Record) error {
		tombstone := r.Key != nil && r.Value == nil
		stays := r.Key == nil || c.keys.last(hashKey(r.Key)) <= r.Offset && !(tombstone && expired)
		stays = stays && (!mutant(MutantDropLast) || r.Offset%16 != 5)
		j.keep = append(j.keep, stays)
		if stays {
			j.left++
			tombstones = tombstones || tombstone
		}
		return nil
	})
	j.stamp = tombstones && known && !stamped
	if tombstones && known {
		c.horizon = min(c.horizon, j.horizon)
	}
	return j, err
}

// swap puts a rewrite, durable but for its name, in the place of the segments it was made from. A crash before the rename to the
// swap name is durable leaves the old ones, later the new one.
func (l *Log) swap(out *rewrite) error {
	l.files.Lock()
	defer l.files.Unlock()
	defer out.seg.log.release()
	v, err := l.load()
	if err != nil {
		return err
	}
	if !slices.Contains(v.segs, out.old[0]) { // retention begins with the oldest
		out.remove()
		return errRetired
	}
	if err := l.fs.Rename(out.tempLog(), l.path(swapName(out.seg.base, out.seg.limit.Load()))); err != nil {
		out.remove()
		return err
	}
	if err := l.replace(out); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.broken = fmt.Errorf("log %s: replace segments %s: %w", l.dir, out.seg.log.name, err)
		l.view.Store(nil)
		return err
	}
	return nil
}

// replace does what must not stop half-way.
func (l *Log) replace(out *rewrite) error {
	if !mutant(MutantSkipSwapSync) {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return err
		}
	}
	l.show(out)
	for _, s := range out.old {
		s.retire()
	}
	names, err := l.fs.List(l.dir)
	if err != nil {
		return err
	}
	if err := l.finishSwap(out.seg.base, out.seg.limit.Load(), names); err != nil {
		return err
	}
	return out.placeIndex()
}

// show takes the new segment into the list for the old ones. Its index is in memory as yet.
func (l *Log) show(out *rewrite) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := *l.view.Load()
	i := slices.Index(v.segs, out.old[0])
	v.segs = slices.Replace(slices.Clone(v.segs), i, i+len(out.old), out.seg)
	l.view.Store(&v)
	l.bytes.Add(out.seg.size.Load())
	for _, s := range out.old {
		l.bytes.Add(-s.size.Load())
	}
}
