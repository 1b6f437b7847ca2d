package segment

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/millrace-io/millrace/internal/vfs"
)

// Span is whole batches as they lie in the file of a segment, for who can send a file without reading it. The file stays until Release,
// whatever retention or compaction make of the segment. Its zero value is none.
type Span struct {
	Fd        uintptr
	Off, Size int64
	Next      int64 // the offset after the last batch

	seg *segment
}

// Release lets go of the file. Once.
func (s *Span) Release() {
	if s.seg != nil {
		s.seg.log.takeBack()
		*s = Span{}
	}
}

// Distrust says that the file did not give its bytes: the next reader verifies them, and so finds out what is wrong.
func (s *Span) Distrust() { s.seg.trusted.forget() }

// Span returns the batches that Read would, from the one on that holds offset, all of them below an offset: at least and at most so many
// bytes. They are in a segment's file and need not be verified: this process has written them there, or verified them, in the last
// trustFor. False: there is no such span, for whatever reason, and Read is to be asked.
//
// What this leaves out, beside Read, is the checksum of bytes that went bad on the disk in those minutes and came back from there, because
// the system had dropped them from its cache. A consumer checks them again.
func (l *Log) Span(offset, below int64, least, most int) (Span, bool) {
	end := l.end.Load()
	v, err := l.load()
	if err != nil || offset < v.start || offset >= min(end, below) || len(v.segs) == 0 {
		return Span{}, false
	}
	s := v.segs[v.find(offset)]
	h, ok := s.log.lend()
	if !ok {
		return Span{}, false
	}
	span := Span{seg: s}
	if span.Fd, ok = h.Fd(); ok && s.span(&span, h, offset, min(end, below), int64(least), int64(most), l.opts.Now()) {
		return span, true
	}
	span.Release()
	return Span{}, false
}

// span finds where in the file the batches lie. Errors are for Read to meet.
func (s *segment) span(span *Span, h vfs.File, offset, below, least, most int64, now time.Time) bool {
	if s.gaps || most < least || s.trusted.none() {
		return false
	}
	w, _, err := s.seek(h, offset, below, 0)
	if err != nil || !s.trusted.covers(w.pos, w.pos+least, now) {
		return false
	}
	span.Off = w.pos
	if err := s.goTo(w, min(w.pos+most, w.end), below); err != nil {
		return false
	}
	span.Size, span.Next = w.pos-span.Off, w.next
	if span.Size < least || !s.trusted.covers(span.Off, w.pos, now) {
		return false
	}
	s.places.note(w.next, w.pos)
	return true
}

// goTo steps to the last batch that begins not behind a position, in the file and in the order of offsets. Where batches are small the
// index saves most of the way.
func (s *segment) goTo(w *walker, pos, below int64) error {
	near, base, err := s.index.search(false, func(e entry) bool { return int64(e.pos) <= pos && s.base+int64(e.rel) <= below })
	if err != nil {
		return err
	}
	if near > w.pos {
		w.pos, w.next, w.trusting = near, base, false
	}
	for w.chunk = s.interval; w.pos < pos; {
		b, n, err := w.header()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if w.pos+n > pos || b.Next() > below {
			return nil
		}
		w.step(b, n)
	}
	return nil
}

// trustFor is for how long bytes that were verified, or written from memory, are sent without looking at them again. It is about as long as
// they stay in the system's page cache: those that come from the disk again are read, and verified.
const trustFor = 10 * time.Minute

// trustStep is how far apart runs of bytes are kept apart for their age; maxTrusted how many of them.
const (
	trustStep  = trustFor / 10
	maxTrusted = 64
)

// trusted is which bytes of a segment's file need not be verified.
type trusted struct {
	mu   sync.Mutex
	runs []trustedRun
}

// trustedRun is bytes [from, to), the first of which were verified at since.
type trustedRun struct {
	from, to int64
	since    time.Time
}

func (t *trusted) none() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.runs) == 0
}

// note takes bytes as verified.
func (t *trusted) note(from, to int64, now time.Time) {
	if from >= to {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.runs) - 1; i >= 0; i-- {
		r := &t.runs[i]
		age := now.Sub(r.since)
		if from >= r.from && to <= r.to && age >= 0 && age < trustStep {
			return
		}
		if from <= r.to && to > r.to && from >= r.from && age >= 0 && age < trustStep {
			r.to = to
			return
		}
	}
	kept := t.runs[:0]
	for _, r := range t.runs {
		if age := now.Sub(r.since); age >= 0 && age < trustFor && (r.from < from || r.to > to) {
			kept = append(kept, r)
		}
	}
	if len(kept) >= maxTrusted {
		kept = append(kept[:0], kept[1:]...)
	}
	t.runs = append(kept, trustedRun{from, to, now})
}

// covers tells whether all bytes [from, to) are.
func (t *trusted) covers(from, to int64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for from < to {
		reached := from
		for i := range t.runs {
			if r := &t.runs[i]; r.from <= from && r.to > reached {
				if age := now.Sub(r.since); age >= 0 && age < trustFor {
					reached = r.to
				}
			}
		}
		if reached == from {
			return false
		}
		from = reached
	}
	return true
}

// forget is called when any of the bytes turn out to be damaged.
func (t *trusted) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs = nil
}
