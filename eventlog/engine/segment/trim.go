package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// TrimTo moves the start of the log up to an offset, never down and never past the end, and deletes the segments that lie
// wholly before it, at the end the active one too. The owner makes the new start durable first: after a crash, Open with it
// removes what is left. Without that, too, no crash leaves a hole: segments go oldest first, each durably before the next.
func (l *Log) TrimTo(offset int64) error {
	l.files.Lock()
	defer l.files.Unlock()
	_, _, err := l.dropTo(offset)
	return err
}

// Retain deletes the oldest segments while all records of one are older than maxAge, or the log without it still has
// maxBytes; a limit that is not positive is none. Only what ends at or before below goes, which must be in a durable
// checkpoint; of an active segment, only all of it, and only by age. The start moves to the first record left.
func (l *Log) Retain(now time.Time, maxAge time.Duration, maxBytes int64, below int64) (deleted int, bytes int64, err error) {
	if l.Size() == 0 || maxAge <= 0 && (maxBytes <= 0 || l.Size() < maxBytes) && l.Start() < l.End() {
		return 0, 0, nil
	}
	l.files.Lock()
	defer l.files.Unlock()
	end := l.end.Load()
	v, err := l.load()
	if err != nil {
		return 0, 0, err
	}
	r := retention{now.UnixMilli(), maxAge.Milliseconds(), maxBytes, below}
	start, err := r.start(v, end, l.bytes.Load())
	if err != nil {
		return 0, 0, l.explain(err)
	}
	return l.dropTo(start)
}

// retention is one look at which segments may go.
type retention struct{ now, maxAge, maxBytes, below int64 }

// start returns where a log of some end and bytes shall start: at the end of the last segment that goes.
func (r retention) start(v *view, end, bytes int64) (int64, error) {
	start := v.start
	for _, s := range v.segs {
		limit := s.limit.Load()
		if !s.rolled() {
			limit = end
		}
		if limit > r.below {
			break
		}
		old, known, err := r.old(s)
		if err != nil {
			return 0, err
		}
		bytes -= s.size.Load()
		switch goes := old || limit <= v.start || r.maxBytes > 0 && bytes >= r.maxBytes && s.rolled(); {
		case goes:
			start = limit
		case known:
			return start, nil
		} // else it is as old as the next one
	}
	return start, nil
}

// old tells whether all records of a segment are too old. Without timestamps that is not known.
func (r retention) old(s *segment) (old, known bool, err error) {
	if r.maxAge <= 0 {
		return false, true, nil
	}
	t, err := s.maxTime()
	return t >= 0 && r.now-t > r.maxAge, t >= 0, err
}

// maxTime is the greatest timestamp in the segment, by its headers; -1 if there is none.
func (s *segment) maxTime() (int64, error) {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	err := s.index.check()
	return s.index.maxTime, err
}

// dropTo moves the start and deletes the segments before it. Called with files held.
func (l *Log) dropTo(start int64) (deleted int, bytes int64, err error) {
	gone, err := l.hide(start)
	for _, s := range gone {
		s.retire()
	}
	for _, s := range gone {
		if err := l.deleteFiles(s); err != nil {
			return deleted, bytes, fmt.Errorf("delete segment %s: %w", s.log.name, err)
		}
		deleted++
		bytes += s.size.Load()
	}
	return deleted, bytes, err
}

// hide moves the start and takes the segments before it out of the list.
func (l *Log) hide(start int64) (gone []*segment, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, err := l.loaded()
	if err != nil {
		return nil, err
	}
	end := l.end.Load()
	next := &view{start: max(v.start, min(start, end))}
	if s := v.active(); s != nil && s.size.Load() > 0 && next.start == end {
		l.seal(s, end)
	}
	for _, s := range v.segs {
		if s.rolled() && s.limit.Load() <= next.start {
			gone = append(gone, s)
			l.bytes.Add(-s.size.Load())
		} else {
			next.segs = append(next.segs, s)
		}
	}
	l.view.Store(next)
	return gone, nil
}

// deleteFiles removes a segment's files durably.
func (l *Log) deleteFiles(s *segment) error {
	for _, f := range s.files() {
		if err := f.fs.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.fs.SyncDir(l.dir)
}
