package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
)

// recover makes the directory fit the state that the log was opened at and returns its segments. A replacement of files that
// a crash interrupted is finished. What lies beyond the state is cut: it is in the write-ahead log. What lies before the start,
// and files that were being written, are debris. If less is there than the state says, that is damage. Called with mu held.
func (l *Log) recover() (*view, error) {
	names, err := l.fs.List(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil && l.at.Size > 0 {
		return nil, fmt.Errorf("%w: the directory is missing", eventlog.ErrCorrupt)
	}
	l.made = l.at.End > 0 // else a process that was killed may have made it, and its name may not be durable
	if names, err = l.finishSwaps(names); err != nil {
		return nil, err
	}
	bases, err := l.clear(names)
	if err != nil {
		return nil, err
	}
	v := &view{start: l.at.Start}
	for _, base := range bases {
		v.segs = append(v.segs, newSegment(l.fs, l.dir, l.cache, base, l.opts.IndexBytes))
	}
	if err := l.resume(v); err != nil {
		return nil, err
	}
	return v, l.measure(v)
}

// clear removes debris and what the state does not know, and returns the base offsets of the segments.
func (l *Log) clear(names []string) (bases []int64, err error) {
	there := map[int64]bool{}
	for _, name := range names {
		base, isLog := parseName(name, logSuffix)
		known := base < l.at.Base || base == l.at.Base && l.at.Size > 0
		if isLog && known {
			bases = append(bases, base)
			there[base] = true
		}
	}
	for _, name := range names {
		if keep := l.keeps(name, there); keep {
			continue
		}
		if err := l.remove(name); err != nil {
			return nil, err
		}
	}
	return bases, nil
}

// keeps tells whether a file belongs to a segment that is there, or is none of ours.
func (l *Log) keeps(name string, there map[int64]bool) bool {
	if strings.HasSuffix(name, tempSuffix) {
		return false
	}
	for _, suffix := range []string{logSuffix, indexSuffix, timeSuffix} {
		if base, ok := parseName(name, suffix); ok {
			return there[base]
		}
	}
	return true
}

func (l *Log) remove(name string) error {
	l.dirtyDir = true
	return l.fs.Remove(path.Join(l.dir, name))
}

// resume tells the segments where they end, cuts the active one to the state, and drops those before the start.
func (l *Log) resume(v *view) error {
	for i := 1; i < len(v.segs); i++ {
		v.segs[i-1].limit.Store(v.segs[i].base)
	}
	switch n := len(v.segs); {
	case n > 0 && v.segs[n-1].base == l.at.Base:
		if err := l.resumeActive(v.segs[n-1]); err != nil {
			return err
		}
	case n > 0 && l.at.Size > 0: // segments go oldest first, so the active one was not deleted
		return fmt.Errorf("%w: segment %s is missing", eventlog.ErrCorrupt, fileName(l.at.Base, logSuffix))
	case n > 0:
		v.segs[n-1].limit.Store(l.at.End)
	}
	for len(v.segs) > 0 && v.segs[0].rolled() && v.segs[0].limit.Load() <= v.start {
		for _, suffix := range []string{indexSuffix, timeSuffix, logSuffix} {
			if err := l.remove(fileName(v.segs[0].base, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		v.segs = v.segs[1:]
	}
	if len(v.segs) == 0 {
		v.start = l.at.End
	} else {
		v.start = max(v.start, v.segs[0].base)
	}
	return nil
}

// resumeActive cuts the active segment and its indexes to the state.
func (l *Log) resumeActive(s *segment) error {
	h, err := s.log.acquire()
	if err != nil {
		return err
	}
	defer s.log.release()
	size, err := h.Size()
	if err != nil {
		return err
	}
	if size < l.at.Size {
		return &Damage{File: s.log.name, Pos: size, Offset: s.base, Next: l.at.End,
			Err: fmt.Errorf("%w: %d bytes, but the checkpoint has %d", eventlog.ErrCorrupt, size, l.at.Size)}
	}
	if size > l.at.Size {
		if err := h.Truncate(l.at.Size); err != nil {
			return err
		}
	}
	s.size.Store(l.at.Size)
	s.born, s.flushed = l.at.Born, l.at.Size
	s.index.stored, s.index.maxTime = l.at.Entries, l.at.MaxTime
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	return s.index.check()
}

// measure learns the sizes of the rolled segments.
func (l *Log) measure(v *view) error {
	var sum int64
	for _, s := range v.segs {
		if s.rolled() {
			fi, err := l.fs.Stat(s.log.name)
			if err != nil {
				return err
			}
			s.size.Store(fi.Size())
			s.index.sealed = true
		}
		sum += s.size.Load()
	}
	l.bytes.Store(sum)
	return nil
}
