package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
)

// recover makes the directory fit the state that the log was opened at and returns its segments. A replacement of files that
// a crash interrupted is finished. If less is there than the state says, that is damage, and nothing else is touched. What lies
// beyond the state is cut: it is in the write-ahead log. What lies before the start, and files that were being written, are
// debris. Called with mu held.
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
	v, active := l.arrange(names)
	if err := l.check(v, active); err != nil {
		return nil, err
	}
	if err := l.clear(names, v); err != nil {
		return nil, err
	}
	if active != nil {
		if err := l.resume(active); err != nil {
			return nil, err
		}
	}
	return v, l.measure(v)
}

// arrange lists the segments that the state knows, with their limits.
func (l *Log) arrange(names []string) (v *view, active *segment) {
	var segs []*segment
	for _, name := range names {
		base, ok := parseName(name, logSuffix)
		if ok && (base < l.at.Base || base == l.at.Base && l.at.Size > 0) {
			s := newSegment(l.fs, l.dir, l.cache, base, l.opts.IndexBytes)
			s.gaps = base < l.at.Gapless
			segs = append(segs, s)
		}
	}
	for i := 1; i < len(segs); i++ {
		segs[i-1].limit.Store(segs[i].base)
	}
	if n := len(segs); n > 0 && segs[n-1].base == l.at.Base {
		active = segs[n-1]
	} else if n > 0 {
		segs[n-1].limit.Store(l.at.End)
	}
	for len(segs) > 0 && segs[0].rolled() && segs[0].limit.Load() <= l.at.Start {
		segs = segs[1:]
	}
	return &view{start: l.at.Start, segs: segs}, active
}

// check finds out whether the active segment is what the state says.
func (l *Log) check(v *view, active *segment) error {
	if active == nil {
		if len(v.segs) > 0 && l.at.Size > 0 { // segments go oldest first, so that one was not deleted
			return fmt.Errorf("%w: segment %s is missing", eventlog.ErrCorrupt, fileName(l.at.Base, logSuffix))
		}
		return nil
	}
	fi, err := l.fs.Stat(active.log.name)
	if err == nil && fi.Size() < l.at.Size {
		err = &Damage{File: active.log.name, Pos: fi.Size(), Offset: active.base, Next: l.at.End,
			Err: fmt.Errorf("%w: %d bytes, but the checkpoint has %d", eventlog.ErrCorrupt, fi.Size(), l.at.Size)}
	}
	return err
}

// clear removes files that belong to no segment there is.
func (l *Log) clear(names []string, v *view) error {
	there := map[int64]bool{}
	for _, s := range v.segs {
		there[s.base] = true
	}
	for _, name := range names {
		if l.keeps(name, there) {
			continue
		}
		l.dirtyDir = true
		if err := l.fs.Remove(l.path(name)); err != nil {
			return err
		}
	}
	return nil
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

// resume cuts the active segment and its indexes to the state.
func (l *Log) resume(s *segment) error {
	if err := s.log.cut(l.at.Size); err != nil {
		return err
	}
	s.size.Store(l.at.Size)
	s.born, s.flushed = l.at.Born, l.at.Size
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	s.index.stored, s.index.maxTime = l.at.Entries, l.at.MaxTime
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
