package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// verifyChunk is how much is read at a time to verify it.
const verifyChunk = 256 << 10

// verifier reads whole segments for the sake of it.
type verifier struct {
	pace    func(bytes int64) error              // called after that much was read; an error ends it
	batch   func(pos int64, b eventlog.RawBatch) // for each intact one, and where it is
	damaged func(*Damage)                        // for each that is not
}

// verify reads a segment from pos on, where the batch with that base offset begins, up to an offset. What the disk does not give is
// damaged, too.
func (v *verifier) verify(s *segment, pos, base, stop int64) error {
	h, err := s.log.acquire()
	if err != nil {
		return err
	}
	defer s.log.release()
	w := s.walk(h, pos, base, verifyChunk)
	w.stop = stop
	for {
		from := w.pos
		b, err := w.readable()
		var d *Damage
		switch {
		case errors.As(err, &d):
			v.damaged(d)
			w.pass(d)
		case err != nil:
			return nil // readable has no other error than io.EOF
		default:
			v.batch(from, b)
		}
		if err := v.pace(w.pos - from); err != nil {
			return err
		}
	}
}

// readable is batch, to which what cannot be read is damage.
func (w *walker) readable() (eventlog.RawBatch, error) {
	b, err := w.batch()
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, eventlog.ErrCorrupt) {
		return b, err
	}
	return nil, w.blame(fmt.Errorf("%w: %w", eventlog.ErrCorrupt, err))
}

// Scrub reads the log's batches from an offset on, verifies them, and tells of each place that is damaged. Nothing is changed, but that an
// index that is not as it was written is made again. pace is called with the bytes that were read since the last call, and ends it with an
// error. It returns where it stopped: at End as it was when it began, unless pace ended it.
func (l *Log) Scrub(from int64, pace func(bytes int64) error, damaged func(*Damage)) (next int64, err error) {
	end := l.end.Load()
	v := verifier{pace: pace, batch: func(_ int64, b eventlog.RawBatch) { next = b.Next() }, damaged: func(d *Damage) {
		next = d.Next
		damaged(d)
	}}
	for next = from; next < end; {
		view, err := l.load()
		if err != nil {
			return next, err
		}
		if next = max(next, view.start); next >= end {
			break
		}
		var d *Damage
		if errors.As(l.missing(view, next, end), &d) {
			v.damaged(d)
			continue
		}
		s := view.segs[view.find(next)]
		err = v.scrub(s, next, end)
		switch {
		case errors.Is(err, errRetired) && !l.closed.Load(): // it was deleted or replaced: look again
		case err != nil:
			return next, l.explain(err)
		default:
			next = max(next, min(s.limit.Load(), end))
		}
	}
	return next, nil
}

func (v *verifier) scrub(s *segment, from, end int64) error {
	pos, base, err := s.index.byOffset(max(from, s.base))
	if err != nil {
		return err
	}
	if err := v.verify(s, pos, base, end); err != nil {
		return err
	}
	es, err := s.index.look()
	if err != nil || !es.sealed {
		return err
	}
	for k := range es.stored {
		_, err := es.read(k)
		if errors.Is(err, errIndex) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s.index.distrust(es.offs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Verified is what Verify has read.
type Verified struct {
	Segments         int
	Batches, Records int64
	Bytes            int64
	Beyond           int64 // bytes behind the state's end: the write-ahead log has them, and the next start cuts them off
}

// Verification is one look at all files of a partition whose log nobody has open. It changes none.
type Verification struct {
	Pace    func(bytes int64) error                           // called after that much was read; an error ends it
	Damaged func(*Damage)                                     // for each place in the log that cannot be read
	Wrong   func(file, what string)                           // for what is not as it should be, but can be made again
	Batch   func(file string, pos int64, b eventlog.RawBatch) // for each intact batch, valid until it returns; may be nil
	Entry   func(file string, offset, pos, maxTime int64)     // for each entry of an index; may be nil

	log *Log
	got Verified
}

// Run reads the partition in a directory, which is to fit a state.
func (v *Verification) Run(fsys vfs.FS, dir string, at State) (Verified, error) {
	l, err := Open(vfs.ReadOnly(fsys), dir, Options{}, NewFileCache(8), at)
	if err != nil {
		return v.got, err
	}
	v.log = l
	names, err := fsys.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return v.got, err
	}
	view, active := v.arrange(names)
	var d *Damage
	switch {
	case active == nil && at.Size > 0:
		v.Damaged(&Damage{File: l.path(fileName(at.Base, logSuffix)), Offset: at.Base, Next: at.End,
			Err: fmt.Errorf("%w: the segment is missing", eventlog.ErrCorrupt)})
	case errors.As(l.missing(view, at.Start, at.End), &d):
		v.Damaged(d)
	}
	for _, s := range view.segs {
		if err := v.segment(s); err != nil {
			return v.got, err
		}
	}
	return v.got, nil
}

// arrange is what opening the log would find in the directory, once it had finished what was interrupted.
func (v *Verification) arrange(names []string) (view *view, active *segment) {
	l := v.log
	swapped := map[int64]string{}
	for _, name := range slices.Clone(names) {
		base, limit, ok := parseSwapName(name)
		if !ok {
			continue
		}
		v.Wrong(l.path(name), "a compaction was interrupted: the next start finishes it")
		swapped[base] = name
		names = slices.DeleteFunc(slices.Clone(names), func(old string) bool { return replaced(old, base, limit) })
		names = append(names, fileName(base, logSuffix))
	}
	slices.Sort(names)
	view, active = l.arrange(names)
	for _, s := range view.segs {
		if swap, ok := swapped[s.base]; ok {
			s.log = l.cache.file(l.fs, l.path(swap))
		}
	}
	return view, active
}

func (v *Verification) segment(s *segment) error {
	l := v.log
	fi, err := l.fs.Stat(s.log.name)
	if err != nil {
		return err
	}
	size, entries := fi.Size(), int64(-1)
	if !s.rolled() {
		if size < l.at.Size {
			v.Damaged(&Damage{File: s.log.name, Pos: size, Offset: s.base, Next: l.at.End,
				Err: fmt.Errorf("%w: %d bytes, but the checkpoint has %d: no node starts on it", eventlog.ErrCorrupt, size, l.at.Size)})
		}
		v.got.Beyond += max(0, size-l.at.Size)
		size, entries = min(size, l.at.Size), l.at.Entries
		s.limit.Store(l.at.End)
	}
	s.size.Store(size)
	v.got.Segments++
	v.got.Bytes += size
	x := v.index(s, entries)
	damaged := func(d *Damage) {
		x.entries = nil // it cannot be compared any more
		v.Damaged(d)
	}
	read := verifier{pace: v.Pace, damaged: damaged, batch: func(pos int64, b eventlog.RawBatch) {
		v.got.Batches++
		v.got.Records += int64(b.Count())
		x.batch(pos, b)
		if v.Batch != nil {
			v.Batch(s.log.name, pos, b)
		}
	}}
	if err := read.verify(s, 0, s.base, math.MaxInt64); err != nil {
		return err
	}
	x.end(entries < 0)
	return nil
}

// indexCheck compares an index with its log, as that is read.
type indexCheck struct {
	wrong   func(file, what string)
	s       *segment
	entries []entry
	latest  int64
	bad     bool
}

func (x *indexCheck) say(what string) {
	if !x.bad {
		x.wrong(x.s.index.offs.name, what+": it is made again when it is needed")
	}
	x.bad = true
}

// index reads the index of a segment, which has so many entries if it is the active one, and lets the walker use it.
func (v *Verification) index(s *segment, entries int64) *indexCheck {
	x := &indexCheck{wrong: v.Wrong, s: s, latest: -1}
	offs, err1 := readFile(s.index.offs)
	times, err2 := readFile(s.index.times)
	if entries >= 0 {
		offs, times = offs[:min(int64(len(offs)), entries*offsetWidth)], times[:min(int64(len(times)), entries*timeWidth)]
	}
	n := len(offs) / offsetWidth
	s.index.sealed = entries < 0
	s.index.ready = true // as far as it goes
	switch {
	case entries == 0 || s.size.Load() == 0:
		return x
	case errors.Is(err1, fs.ErrNotExist) || errors.Is(err2, fs.ErrNotExist):
		x.say("missing, or its other half is")
		return x
	case err1 != nil || err2 != nil:
		x.say(fmt.Sprint("unreadable: ", errors.Join(err1, err2)))
		return x
	case n == 0 || len(offs) != n*offsetWidth || len(times) != n*timeWidth || entries > int64(n):
		x.say(fmt.Sprintf("of %d and %d bytes, which is no number of entries that can be", len(offs), len(times)))
		return x
	}
	s.index.stored = int64(n)
	for i := range n {
		e, err := decodeEntry(s.base, offs[i*offsetWidth:][:offsetWidth])
		t, err2 := decodeEntry(s.base, times[i*timeWidth:][:timeWidth])
		if err != nil || err2 != nil || e.rel != t.rel {
			x.say(fmt.Sprintf("entry %d is not as it was written", i))
			x.entries = nil
			return x
		}
		e.maxTime = t.maxTime
		x.entries = append(x.entries, e)
		if v.Entry != nil {
			v.Entry(s.index.offs.name, s.base+int64(e.rel), int64(e.pos), e.maxTime)
		}
	}
	return x
}

func readFile(f *file) ([]byte, error) {
	size, err := f.size()
	if err != nil || size == 0 {
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	p := make([]byte, size)
	return p, f.readAt(p, 0)
}

// batch compares the entries up to a batch with what they say.
func (x *indexCheck) batch(pos int64, b eventlog.RawBatch) {
	for len(x.entries) > 0 && int64(x.entries[0].pos) <= pos {
		e := x.entries[0]
		x.entries = x.entries[1:]
		if int64(e.pos) != pos || x.s.base+int64(e.rel) != b.Base() || e.maxTime != x.latest {
			x.say(fmt.Sprintf("the entry for offset %d does not fit the log", x.s.base+int64(e.rel)))
			x.entries = nil
		}
	}
	x.latest = max(x.latest, b.MaxTime())
}

// end compares the last entry of a rolled segment's index.
func (x *indexCheck) end(rolled bool) {
	if !rolled || len(x.entries) == 0 {
		return
	}
	if e := x.entries[0]; len(x.entries) > 1 || int64(e.pos) != x.s.size.Load() || e.maxTime != x.latest {
		x.say("its end does not fit the log")
	}
}
