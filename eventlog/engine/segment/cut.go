package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Part is a segment's file, or the beginning of one, that belongs to a log as it was at some offset.
type Part struct {
	Name        string // of the file, with its path
	Base, Limit int64  // offsets [Base, Limit)
	Size        int64
	Gaps        bool // an older version's compaction left gaps
}

// CutAt says what the log was when it ended at an offset, which must be one at which a batch begins or the end: the state it would have been
// opened at, and the files that hold it. They stay what they are as long as nothing is compacted or deleted. Indexes are not among them: a log that
// is opened at that state makes them again.
func (l *Log) CutAt(end int64) (State, []Part, error) {
	v, err := l.load()
	if err != nil {
		return State{}, nil, err
	}
	l.mu.Lock()
	st := State{Start: min(v.start, end), End: end, Base: end, Clean: min(l.clean, end), Gapless: min(l.gapless, end), MaxTime: -1}
	l.mu.Unlock()
	var parts []Part
	for _, s := range v.segs {
		if s.base >= end {
			break
		}
		p := Part{Name: s.log.name, Base: s.base, Limit: s.limit.Load(), Size: s.size.Load(), Gaps: s.gaps}
		if p.Limit > end {
			if p.Size, err = s.sizeAt(end); err != nil {
				return State{}, nil, l.explain(err)
			}
			p.Limit = end
			st.Base, st.Size, st.Entries, st.Born = s.base, p.Size, 1, l.opts.Now().UnixMilli()
		}
		st.Bytes += p.Size
		parts = append(parts, p)
	}
	return st, parts, nil
}

// FileName is the name of the file of the segment with a base offset, in a log's folder.
func FileName(dir string, base int64) string { return path.Join(dir, fileName(base, logSuffix)) }

// sizeAt is the size of the segment before the batch that begins at an offset.
func (s *segment) sizeAt(end int64) (int64, error) {
	h, err := s.log.acquire()
	if err != nil {
		return 0, err
	}
	defer s.log.release()
	w, _, err := s.seek(h, end, math.MaxInt64, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if w.next != end {
		return 0, fmt.Errorf("%w: no batch of %s begins at offset %d", eventlog.ErrInvalid, s.log.name, end)
	}
	return w.pos, nil
}

// CopyTo writes the part's bytes, as they are.
func (p *Part) CopyTo(fsys vfs.FS, w io.Writer) error {
	h, err := fsys.OpenRead(p.Name)
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = io.Copy(w, io.NewSectionReader(h, 0, p.Size))
	return err
}

// VerifyPart reads a copy of a part, in a file of its own, and tells of what is damaged in it.
func VerifyPart(fsys vfs.FS, file string, p Part, damaged func(*Damage)) error {
	s := newSegment(vfs.ReadOnly(fsys), path.Dir(file), NewFileCache(1), p.Base, 0)
	s.log.name = file
	s.gaps = p.Gaps
	s.size.Store(p.Size)
	s.limit.Store(p.Limit)
	s.index.ready = true // there is none
	v := verifier{pace: func(int64) error { return nil }, batch: func(int64, eventlog.RawBatch) {}, damaged: damaged}
	defer s.retire()
	return v.verify(s, 0, p.Base, math.MaxInt64)
}
