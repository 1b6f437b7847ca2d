package segment

import (
	"errors"
	"fmt"
	"io"

	"github.com/millrace-io/millrace/eventlog"
)

// FindTime returns the first record with a timestamp of t (milliseconds since 1970) or more; -1, -1 if there is none.
// Timestamps need not ascend. Control batches, and those that cannot be decoded, have no records.
func (l *Log) FindTime(t int64) (offset, timestamp int64, err error) {
	return l.find(func(v *view) (record, error) { return v.findTime(t) })
}

// FindMaxTime returns the first record that has the greatest timestamp of all; -1, -1 if there is no record.
func (l *Log) FindMaxTime() (offset, timestamp int64, err error) {
	return l.find((*view).findMax)
}

// record is the place and time of a record.
type record struct{ offset, time int64 }

var noRecord = record{-1, -1}

func (l *Log) find(f func(*view) (record, error)) (offset, timestamp int64, err error) {
	for {
		v, err := l.load()
		if err != nil {
			return -1, -1, err
		}
		r, err := f(v)
		if errors.Is(err, errRetired) {
			continue
		}
		if err != nil {
			return -1, -1, fmt.Errorf("find time in log %s: %w", l.dir, err)
		}
		return r.offset, r.time, nil
	}
}

func (v *view) findTime(t int64) (record, error) {
	for _, s := range v.segs {
		m, err := s.maxTime()
		if err != nil {
			return noRecord, err
		}
		if m < t {
			continue
		}
		if r, err := s.findTime(t, v.start); err != nil || r != noRecord {
			return r, err
		}
	}
	return noRecord, nil
}

// findMax looks for the greatest timestamp that the batches' headers claim. Where no record has it (it was compacted or
// trimmed, or the header is wrong), it looks at all that might be the greatest.
func (v *view) findMax() (record, error) {
	greatest := int64(-1)
	for _, s := range v.segs {
		m, err := s.maxTime()
		if err != nil {
			return noRecord, err
		}
		greatest = max(greatest, m)
	}
	r, err := v.findTime(greatest)
	if err != nil || r.time == greatest && r != noRecord {
		return r, err
	}
	best := noRecord
	for _, s := range v.segs {
		err := s.eachSince(0, v.start, func(b eventlog.RawBatch) bool { return b.MaxTime() > best.time || best == noRecord },
			func(r record) bool {
				if best == noRecord || r.time > best.time {
					best = r
				}
				return true
			})
		if err != nil {
			return noRecord, err
		}
	}
	return best, nil
}

// findTime returns the segment's first record from start on with a timestamp of t or more.
func (s *segment) findTime(t, start int64) (record, error) {
	pos, _, err := s.index.byTime(t)
	if err != nil {
		return noRecord, err
	}
	found := noRecord
	err = s.eachSince(pos, start, func(b eventlog.RawBatch) bool { return b.MaxTime() >= t }, func(r record) bool {
		if r.time >= t {
			found = r
		}
		return found == noRecord
	})
	return found, err
}

// eachSince calls f for each record at or after an offset, in the batches from pos on whose header is wanted, until f returns
// false.
func (s *segment) eachSince(pos, start int64, want func(eventlog.RawBatch) bool, f func(record) bool) error {
	h, err := s.log.acquire()
	if err != nil {
		return err
	}
	defer s.log.release()
	for w, more := s.walk(h, pos, 64<<10), true; more; {
		b, n, err := w.header()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if b.Last() < start || b.Attributes()&eventlog.AttrControl != 0 || !want(b) {
			w.step(b, n)
			continue
		}
		if b, err = w.batch(); err != nil {
			return err
		}
		more = eachRecord(b, start, f)
	}
	return nil
}

// errStop ends a loop over records.
var errStop = errors.New("stop")

// eachRecord calls f for the records from an offset on, and tells whether f wants more.
func eachRecord(b eventlog.RawBatch, start int64, f func(record) bool) (more bool) {
	plain, ok := readable(b)
	if !ok {
		return true
	}
	err := each(plain, func(r *eventlog.Record) error {
		if r.Offset >= start && !f(record{r.Offset, r.Timestamp}) {
			return errStop
		}
		return nil
	})
	return err == nil
}
