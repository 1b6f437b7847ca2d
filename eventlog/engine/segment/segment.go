package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

const (
	logSuffix   = ".log"
	indexSuffix = ".index"
	timeSuffix  = ".timeindex"
	swapSuffix  = ".swap"    // a compacted log that replaces those it names
	tempSuffix  = ".cleaned" // a file being written; debris after a crash
)

// fileName is the name of a segment's file.
func fileName(base int64, suffix string) string { return fmt.Sprintf("%020d%s", base, suffix) }

// parseName returns the base offset in a file's name.
func parseName(name, suffix string) (base int64, ok bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseInt(digits, 10, 64)
	return base, err == nil && base >= 0
}

// segment is a run of a partition's log in one file, with its indexes. Only the last segment of a log, the active one, grows.
type segment struct {
	base     int64
	interval int64 // log bytes per index entry
	log      *file
	size     atomic.Int64 // bytes appended; what is beyond in the file is not ours
	limit    atomic.Int64 // no offset reaches it: the base of the next segment, once there is one
	gaps     bool         // offsets may jump from batch to batch: an older version has compacted it
	index    index
	places   places
	trusted  trusted

	// Guarded by the Log's mutex.
	born    int64 // milliseconds since 1970
	flushed int64 // write-back was started up to here
	dirty   bool  // since the last sync
}

func newSegment(fs vfs.FS, dir string, cache *FileCache, base, interval int64) *segment {
	s := &segment{base: base, interval: interval, log: cache.file(fs, path.Join(dir, fileName(base, logSuffix)))}
	s.limit.Store(math.MaxInt64)
	s.index.seg = s
	s.index.maxTime = -1
	s.index.offs = cache.file(fs, path.Join(dir, fileName(base, indexSuffix)))
	s.index.times = cache.file(fs, path.Join(dir, fileName(base, timeSuffix)))
	return s
}

// rolled tells whether the segment is complete.
func (s *segment) rolled() bool { return s.limit.Load() != math.MaxInt64 }

// walk steps over the batches from pos on, where the one with a base offset begins, as far as the log has been appended by now.
func (s *segment) walk(h vfs.File, pos, base, chunk int64) *walker {
	limit := s.limit.Load() // before the size: once it is set, nothing is appended
	return &walker{h: h, name: s.log.name, seg: s, pos: pos, end: s.size.Load(), next: base, gaps: s.gaps, limit: limit, stop: math.MaxInt64,
		chunk: chunk}
}

// read returns whole, verified batches from the one on that holds offset or, if there is none, the next: about maxBytes, or
// one batch whatever its size if minOne, none that begins at end or later. found is false if the segment has no such batch.
func (s *segment) read(offset, end int64, maxBytes int, minOne bool, now time.Time) (raw []byte, found bool, err error) {
	h, err := s.log.acquire()
	if err != nil {
		return nil, false, err
	}
	defer s.log.release()
	w, n, err := s.seek(h, offset, end, int64(maxBytes))
	for err == nil {
		if n > int64(maxBytes) && !minOne {
			return nil, true, nil
		}
		w.chunk = max(int64(maxBytes), n)
		from := w.pos
		if raw, err = w.window(min(w.chunk, w.end-w.pos)); err != nil {
			raw, err = w.window(n) // what follows need not be readable
		}
		if err != nil {
			return nil, true, err
		}
		if raw, err = w.whole(raw); err == nil {
			s.places.note(w.next, w.pos)
			s.trusted.note(from, w.pos, now)
			return raw, true, nil
		}
		if w.over(err, offset) {
			n, err = w.skipTo(offset)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil, false, nil
	}
	return nil, true, err
}

// seek returns a walker before the first batch that reaches to offset or beyond, and that batch's size; io.EOF if there is
// none that begins before stop. It reads ahead by about ahead bytes.
func (s *segment) seek(h vfs.File, offset, stop, ahead int64) (*walker, int64, error) {
	if pos, ok := s.places.find(offset); ok {
		w := s.walk(h, pos, offset, ahead)
		w.stop = stop
		n, err := w.skipTo(offset)
		return w, n, err
	}
	pos, base, err := s.index.byOffset(max(offset, s.base))
	if err != nil {
		return nil, 0, err
	}
	w := s.walk(h, pos, base, ahead+2*s.interval)
	w.stop = stop
	n, err := w.skipTo(offset)
	return w, n, err
}

// skipTo steps to the first batch that reaches to offset or beyond and returns its size. Damage that lies before the offset is none of the
// caller's business.
func (w *walker) skipTo(offset int64) (int64, error) {
	for {
		b, n, err := w.header()
		switch {
		case err != nil && !w.over(err, offset):
			return 0, err
		case err != nil:
		case b.Last() >= offset:
			return n, nil
		default:
			w.step(b, n)
		}
	}
}

// over goes on behind damage that lies before an offset.
func (w *walker) over(err error, offset int64) bool {
	var d *Damage
	if !errors.As(err, &d) || d.Next > offset {
		return false
	}
	w.pass(d)
	return true
}

// whole cuts p, which begins at the walker's place, behind its last whole batch, and steps over those. Damage is an error
// only if it is in the first batch.
func (w *walker) whole(p []byte) ([]byte, error) {
	n := 0
	for {
		size, err := eventlog.BatchSize(p[n:])
		if n > 0 && (err != nil || size == 0 || size > len(p)-n) {
			return p[:n:n], nil //nolint:nilerr // what follows whole batches is the next read's to report
		}
		b, err := w.batch()
		if n > 0 && (errors.Is(err, io.EOF) || errors.Is(err, eventlog.ErrCorrupt)) {
			return p[:n:n], nil
		}
		if err != nil {
			return nil, err
		}
		n += len(b)
	}
}

// places remembers where the last few readers stopped, so that each goes on without a search.
type places struct {
	mu   sync.Mutex
	last [8]place
	next int
}

// place says that the batches before pos end at offset.
type place struct{ offset, pos int64 }

func (p *places) find(offset int64) (pos int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.last {
		if l.offset == offset && l.pos > 0 {
			return l.pos, true
		}
	}
	return 0, false
}

func (p *places) note(offset, pos int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[p.next%len(p.last)] = place{offset, pos}
	p.next++
}

func (s *segment) files() []*file {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	return []*file{s.log, s.index.offs, s.index.times}
}

// written is the files that were written to since it was asked last.
func (s *segment) written() []*file {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	if !s.index.written {
		return []*file{s.log}
	}
	s.index.written = false
	return []*file{s.log, s.index.offs, s.index.times}
}

func (s *segment) retire() {
	for _, f := range s.files() {
		f.retire()
	}
}
