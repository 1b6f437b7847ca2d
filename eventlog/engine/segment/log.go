// Package segment keeps the batches of one partition in files: Kafka's RecordBatch v2 bytes, unchanged, in segments with
// Kafka's file roles (docs/formats/segments.md). It knows no topics and no write-ahead log.
//
// A Log has one appender; everything else may run beside it: readers see an immutable list of segments, and a file that is
// deleted or replaced dies with its last reader. The package starts no goroutines.
//
// Appends go through the page cache. What a crash must not lose is in the write-ahead log of the owner until Sync has
// returned and the State it gave is durable: Open cuts everything that lies beyond. Opening touches no file, so a thousand
// partitions that nobody uses cost nothing. The package never changes a batch but by compaction, and never moves an offset.
package segment

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Options say how a log is kept. A zero field means its default.
type Options struct {
	SegmentBytes   int64            // 1 GiB, at most 2: the active segment is rolled before it grows beyond
	SegmentAge     time.Duration    // none: the active segment is rolled by the first append after that time
	IndexBytes     int64            // 4096: log bytes per index entry
	WritebackBytes int64            // 1 MiB: write-back is started whenever that much was appended
	FindBytes      int64            // 16 MiB: taken apart by one look-up of a time, at most; passing over a batch costs a sixteenth
	Now            func() time.Time // time.Now
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 1 << 30
	}
	o.SegmentBytes = min(o.SegmentBytes, 2<<30-1)
	if o.IndexBytes <= 0 {
		o.IndexBytes = 4096
	}
	if o.WritebackBytes <= 0 {
		o.WritebackBytes = 1 << 20
	}
	if o.FindBytes <= 0 {
		o.FindBytes = 16 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Log is one partition. It is safe for concurrent use.
type Log struct {
	fs    vfs.FS
	dir   string
	cache *FileCache
	opts  Options

	end    atomic.Int64
	bytes  atomic.Int64
	view   atomic.Pointer[view] // nil until a file is needed
	closed atomic.Bool

	compacting sync.Mutex // one compaction at a time
	syncing    sync.Mutex // one Sync at a time
	files      sync.Mutex // held while segments are removed or replaced, beside the appender
	mu         sync.Mutex // the appender's; taken last

	// Guarded by mu.
	at       State      // what Open was given, until the files are looked at
	clean    int64      // below it compaction has left one record per key
	gapless  int64      // as in State
	horizon  int64      // when the first tombstone that compaction kept may go, if that is known
	dirty    []*segment // appended to since the last Sync
	dirtyDir bool       // names changed since the last Sync
	made     bool       // the directory is there
	broken   error      // a replacement of files failed half-way
	limits   struct {
		bytes int64
		age   time.Duration
	}
}

// view is the list of segments that readers see. It never changes; another one takes its place.
type view struct {
	start int64
	segs  []*segment // by base
}

// active is the segment to append to, or nil.
func (v *view) active() *segment {
	if n := len(v.segs); n > 0 && !v.segs[n-1].rolled() {
		return v.segs[n-1]
	}
	return nil
}

// find returns the place in segs of the segment where an offset is looked for first.
func (v *view) find(offset int64) int {
	i := sort.Search(len(v.segs), func(i int) bool { return v.segs[i].base > offset })
	return max(0, i-1)
}

// Info describes one segment.
type Info struct {
	Base, Limit int64 // offsets [Base, Limit)
	Size        int64
	Active      bool
}

// Open returns the log kept in a directory, as it was when Sync gave the state. No file is touched before one is needed; so
// it is the first other call that reports a directory that does not fit the state.
func Open(fs vfs.FS, dir string, o Options, cache *FileCache, at State) (*Log, error) {
	if at.Start < 0 || at.End < at.Start || at.Base < 0 || at.Base > at.End || at.Size < 0 || at.Size > math.MaxUint32 || at.Bytes < 0 {
		return nil, fmt.Errorf("%w: open log %s at state %+v", eventlog.ErrInvalid, dir, at)
	}
	l := &Log{fs: fs, dir: dir, cache: cache, opts: o.withDefaults(), at: at, clean: at.Clean, gapless: at.Gapless}
	l.SetLimits(o.SegmentBytes, o.SegmentAge)
	l.end.Store(at.End)
	l.bytes.Store(at.Bytes)
	return l, nil
}

// SetLimits changes when the active segment is rolled: SegmentBytes and SegmentAge of Options.
func (l *Log) SetLimits(bytes int64, age time.Duration) {
	o := Options{SegmentBytes: bytes, SegmentAge: age}.withDefaults()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits.bytes, l.limits.age = o.SegmentBytes, o.SegmentAge
}

// Start is the first offset that may be read.
func (l *Log) Start() int64 {
	if v := l.view.Load(); v != nil {
		return v.start
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.view.Load(); v != nil {
		return v.start
	}
	return l.at.Start
}

// Clean is the offset below which compaction has left one record per key, and nothing of what was aborted.
func (l *Log) Clean() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clean
}

// End is the next offset.
func (l *Log) End() int64 { return l.end.Load() }

// Size is the size of all segments in bytes, indexes not counted.
func (l *Log) Size() int64 { return l.bytes.Load() }

// Segments describes the segments, oldest first.
func (l *Log) Segments() ([]Info, error) {
	end := l.end.Load()
	v, err := l.load()
	if err != nil {
		return nil, err
	}
	infos := make([]Info, len(v.segs))
	for i, s := range v.segs {
		infos[i] = Info{Base: s.base, Limit: s.limit.Load(), Size: s.size.Load(), Active: !s.rolled()}
		if infos[i].Active {
			infos[i].Limit = max(end, s.base)
		}
	}
	return infos, nil
}

// Between estimates the bytes of the batches from an offset on and below another: of the segments that hold one of the two, the part in
// proportion. It reads nothing.
func (l *Log) Between(from, below int64) (n int64) {
	end := l.end.Load()
	v, err := l.load()
	if err != nil || len(v.segs) == 0 {
		return 0
	}
	for _, s := range v.segs[v.find(from):] {
		size, limit := s.size.Load(), s.limit.Load()
		if limit == math.MaxInt64 {
			limit = max(end, s.base)
		}
		lo, hi := max(s.base, from), min(limit, below)
		switch {
		case s.base >= below:
			return n
		case lo >= hi:
		case lo == s.base && hi == limit:
			n += size
		default:
			n += max(1, int64(float64(size)*float64(hi-lo)/float64(limit-s.base)))
		}
	}
	return n
}

// load returns the segments, looking at the directory the first time.
func (l *Log) load() (*view, error) {
	if v := l.view.Load(); v != nil && !l.closed.Load() {
		return v, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded()
}

// loaded is load with mu held.
func (l *Log) loaded() (*view, error) {
	switch v := l.view.Load(); {
	case l.closed.Load():
		return nil, fmt.Errorf("log %s: %w", l.dir, eventlog.ErrClosed)
	case l.broken != nil:
		return nil, l.broken
	case v != nil:
		return v, nil
	}
	v, err := l.recover()
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", l.dir, err)
	}
	l.view.Store(v)
	return v, nil
}

// Append writes whole batches, one or more in each buffer, whose offsets are assigned and follow each other, at the end of the log, and rolls
// the active segment where it must. They can be read at once and are durable after the next Sync. Only their lengths and offsets
// are looked at. After an error a prefix of whole batches may have been appended: End says which.
func (l *Log) Append(bufs ...[]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.loaded(); err != nil {
		return err
	}
	next := l.end.Load()
	for _, raw := range bufs {
		var err error
		if next, err = checkOrder(raw, next); err != nil {
			return fmt.Errorf("append to log %s: %w", l.dir, err)
		}
	}
	for at := l.opts.Now(); len(bufs) > 0; {
		if n := l.fit(bufs, at.UnixMilli()); n > 0 {
			if err := l.write(l.view.Load().active(), bufs[:n], at); err != nil {
				return err
			}
			bufs = bufs[n:]
			continue
		}
		if err := l.appendOver(bufs[0], at); err != nil {
			return err
		}
		bufs = bufs[1:]
	}
	return nil
}

// fit is how many whole buffers the active segment has room for.
func (l *Log) fit(bufs [][]byte, now int64) (n int) {
	s := l.view.Load().active()
	if s == nil {
		return 0
	}
	for size := s.size.Load(); n < len(bufs) && l.room(s, size, bufs[n], now) == len(bufs[n]); n++ {
		size += int64(len(bufs[n]))
	}
	return n
}

// appendOver appends a buffer for all of which there may be no room in the active segment.
func (l *Log) appendOver(raw []byte, at time.Time) error {
	now := at.UnixMilli()
	for len(raw) > 0 {
		s, n := l.view.Load().active(), 0
		if s != nil {
			n = l.room(s, s.size.Load(), raw, now)
		}
		if n == 0 {
			var err error
			if s, err = l.roll(eventlog.RawBatch(raw).Base(), now); err != nil {
				return err
			}
			n = l.room(s, 0, raw, now)
		}
		if err := l.write(s, [][]byte{raw[:n]}, at); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}

// checkOrder checks that raw is whole batches whose offsets follow each other from next on, and returns the offset after them.
func checkOrder(raw []byte, next int64) (int64, error) {
	for more := true; more; more = len(raw) > 0 {
		n, err := eventlog.BatchSize(raw)
		if err != nil {
			return 0, err
		}
		if n == 0 || n > len(raw) {
			return 0, fmt.Errorf("%w: not a whole batch", eventlog.ErrInvalid)
		}
		b := eventlog.RawBatch(raw[:n])
		if b.Base() != next || b.LastDelta() < 0 || b.Next() <= b.Base() {
			return 0, fmt.Errorf("%w: batch of offsets %d to %d, want %d", eventlog.ErrInvalid, b.Base(), b.Last(), next)
		}
		raw, next = raw[n:], b.Next()
	}
	return next, nil
}

// batchSize is the size of the batch that raw, checked before, begins with.
func batchSize(raw []byte) int {
	n, _ := eventlog.BatchSize(raw)
	return n
}

// room returns how many bytes of raw, in whole batches, a segment has room for behind its first size bytes. An empty one has room for any batch.
func (l *Log) room(s *segment, size int64, raw []byte, now int64) (n int) {
	if l.limits.age > 0 && size > 0 && now-s.born >= l.limits.age.Milliseconds() {
		return 0
	}
	for n < len(raw) {
		k := batchSize(raw[n:])
		b := eventlog.RawBatch(raw[n:])
		full := size+int64(n) > 0 && size+int64(n+k) > l.limits.bytes
		if full || b.Last()-s.base > math.MaxInt32 {
			return n
		}
		n += k
	}
	return n
}

// roll ends the active segment, if there is one, and begins another.
func (l *Log) roll(base, now int64) (*segment, error) {
	if !l.made {
		if err := vfs.MkdirDurable(l.fs, l.dir); err != nil {
			return nil, fmt.Errorf("make directory of log %s: %w", l.dir, err)
		}
		l.made = true
	}
	s := newSegment(l.fs, l.dir, l.cache, base, l.opts.IndexBytes)
	s.born, s.index.ready = now, true
	if _, err := s.log.create(); err != nil {
		return nil, fmt.Errorf("begin segment: %w", err)
	}
	s.log.release()
	l.dirtyDir = true
	v := *l.view.Load()
	if old := v.active(); old != nil {
		l.seal(old, base)
	}
	v.segs = append(v.segs[:len(v.segs):len(v.segs)], s)
	l.view.Store(&v)
	return s, nil
}

// seal ends the active segment at the base of the next one. Its index is written by the next Sync.
func (l *Log) seal(s *segment, next int64) {
	s.limit.Store(next)
	s.index.mu.Lock()
	s.index.seal(next)
	s.index.mu.Unlock()
	l.soil(s)
}

// soil makes the next Sync care for a segment.
func (l *Log) soil(s *segment) {
	if !s.dirty {
		s.dirty = true
		l.dirty = append(l.dirty, s)
	}
}

// write appends whole batches to the active segment, in one write, and makes them visible.
func (l *Log) write(s *segment, bufs [][]byte, now time.Time) error {
	h, err := s.log.acquire()
	if err != nil {
		return fmt.Errorf("append to log %s: %w", l.dir, err)
	}
	defer s.log.release()
	pos := s.size.Load()
	l.soil(s)
	n, err := h.Writev(bufs, pos)
	if err != nil {
		return fmt.Errorf("append to log %s: %w", l.dir, err)
	}
	end := pos + int64(n)
	s.trusted.note(pos, end, now) // what is appended was verified when it came
	s.size.Store(end)
	made, err := s.index.noteAll(bufs, pos)
	l.dirtyDir = l.dirtyDir || made
	l.bytes.Add(int64(n))
	l.end.Store(lastOf(bufs[len(bufs)-1]).Next())
	l.startWriteback(s, h)
	if err != nil {
		return fmt.Errorf("append to index of %s: %w", s.log.name, err)
	}
	return nil
}

// noteAll counts in batches, appended at pos, and writes entries once there are many.
func (x *index) noteAll(bufs [][]byte, pos int64) (made bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, raw := range bufs {
		for len(raw) > 0 {
			n := batchSize(raw)
			x.note(eventlog.RawBatch(raw[:n]), pos)
			raw, pos = raw[n:], pos+int64(n)
		}
	}
	if len(x.pending) < maxPending {
		return false, nil
	}
	return x.flush()
}

func lastOf(raw []byte) eventlog.RawBatch {
	for {
		n := batchSize(raw)
		if n == len(raw) {
			return eventlog.RawBatch(raw)
		}
		raw = raw[n:]
	}
}

// startWriteback hands what was appended to the disk in steps, so that the next Sync finds little left to wait for.
func (l *Log) startWriteback(s *segment, h vfs.File) {
	if n := s.size.Load() - s.flushed; n >= l.opts.WritebackBytes {
		h.StartWriteback(s.flushed, n)
		s.flushed += n
	}
}

// Read returns whole, verified batches, the first of them the one that holds offset or the next there is: about maxBytes of
// them, or one batch of any size if minOne. The buffer is the caller's. With minOne, nothing without an error means that no
// batch lies between offset and the End there was before the call. *eventlog.OutOfRangeError outside [Start, End]; *Damage
// if what offset is in is damaged.
func (l *Log) Read(offset int64, maxBytes int, minOne bool) ([]byte, error) {
	for {
		raw, err := l.read(offset, max(0, maxBytes), minOne)
		if !errors.Is(err, errRetired) {
			return raw, l.explain(err)
		}
	}
}

func (l *Log) read(offset int64, maxBytes int, minOne bool) ([]byte, error) {
	end := l.end.Load() // before the list, so that the list has what it counts
	v, err := l.load()
	if err != nil {
		return nil, err
	}
	if offset < v.start || offset > end {
		return nil, &eventlog.OutOfRangeError{Position: eventlog.Position{Offset: offset}, Start: v.start, End: end}
	}
	if offset == end {
		return nil, nil
	}
	if err := l.missing(v, offset, end); err != nil {
		return nil, err
	}
	now := l.opts.Now()
	for _, s := range v.segs[min(v.find(offset), len(v.segs)):] {
		if raw, found, err := s.read(offset, end, maxBytes, minOne, now); found || err != nil {
			return raw, err
		}
	}
	return nil, nil
}

// missing reports the first segments of the log, if they are not there. (Where another is missing, the one before ends too soon.)
func (l *Log) missing(v *view, offset, end int64) error {
	first := end
	if len(v.segs) > 0 {
		first = v.segs[0].base
	}
	if offset >= first {
		return nil
	}
	return &Damage{File: l.dir, Offset: v.start, Next: first, Err: fmt.Errorf("%w: the first segment is missing", eventlog.ErrCorrupt)}
}

// explain says which log an error is about, and bounds damage by its end.
func (l *Log) explain(err error) error {
	if err == nil {
		return nil
	}
	var d *Damage
	if errors.As(err, &d) {
		d.Next = min(d.Next, l.end.Load())
	}
	var out *eventlog.OutOfRangeError
	switch {
	case errors.As(err, &out):
		return err
	case errors.Is(err, errRetired): // by Close
		err = eventlog.ErrClosed
	}
	return fmt.Errorf("read log %s: %w", l.dir, err)
}

// Sync makes everything appended before the call durable: logs, indexes, names. It returns what a checkpoint records of it.
// Appends and reads go on meanwhile. A log that did not change costs nothing. After an error
// the log must not be used, unless it was of a write that found no room.
func (l *Log) Sync() (State, error) {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	st, dirty, names, err := l.beginSync()
	l.mu.Unlock()
	if err != nil {
		return State{}, fmt.Errorf("sync log %s: %w", l.dir, err)
	}
	for _, s := range dirty { // a file that was closed meanwhile is opened again: the system remembers what it failed to write
		for _, f := range s.written() {
			if err := f.sync(); err != nil {
				return State{}, fmt.Errorf("sync log %s: %w", l.dir, err)
			}
		}
	}
	if names {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return State{}, fmt.Errorf("sync log %s: %w", l.dir, err)
		}
	}
	return st, nil
}

// beginSync takes the state and what must be synced for it.
func (l *Log) beginSync() (st State, dirty []*segment, names bool, err error) {
	if l.view.Load() == nil && l.broken == nil && !l.closed.Load() {
		return l.at, nil, false, nil
	}
	v, err := l.loaded()
	if err != nil {
		return State{}, nil, false, err
	}
	for _, s := range l.dirty {
		s.index.mu.Lock()
		made, err := false, error(nil)
		if s.index.worthSync(l.limits.bytes) {
			made, err = s.index.flush()
		}
		s.index.mu.Unlock()
		l.dirtyDir = l.dirtyDir || made
		if err != nil && !errors.Is(err, errRetired) {
			return State{}, nil, false, err
		}
	}
	for _, s := range l.dirty { // only now: if there was no room, all of it is tried again
		s.dirty = false
	}
	dirty, names = l.dirty, l.dirtyDir
	l.dirty, l.dirtyDir = nil, false
	return l.state(v), dirty, names, nil
}

// state describes the log as it is. Called with mu held.
func (l *Log) state(v *view) State {
	st := State{Start: v.start, End: l.end.Load(), Clean: l.clean, Bytes: l.bytes.Load(), Gapless: l.gapless, MaxTime: -1}
	st.Base = st.End
	if s := v.active(); s != nil && s.size.Load() > 0 {
		s.index.mu.Lock()
		st.Base, st.Size, st.Born = s.base, s.size.Load(), s.born
		st.Entries, st.MaxTime = s.index.stored, s.index.maxTime
		s.index.mu.Unlock()
	}
	return st
}

// Close closes the files; it syncs nothing. Readers that are at work finish; later calls return eventlog.ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Swap(true) {
		return nil
	}
	if v := l.view.Load(); v != nil {
		for _, s := range v.segs {
			s.retire()
		}
	}
	return nil
}
