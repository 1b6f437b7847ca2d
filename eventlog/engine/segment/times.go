package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
)

// FindTime returns the first record at or after an offset with a timestamp of t (milliseconds since 1970) or more; -1, -1 if there is
// none. Timestamps need not ascend. Control batches, and those that cannot be decoded, have no records.
//
// The batches' headers say where to look, and a foreign producer's may lie: after Options.FindBytes in vain the answer is where it
// would have gone on: nothing of t or later lies before that.
func (l *Log) FindTime(t, from int64) (offset, timestamp int64, err error) {
	return l.find(func(v *view) (record, error) {
		effort := l.opts.FindBytes
		return v.findTime(t, max(from, v.start), &effort)
	})
}

// FindMaxTime returns the first record at or after an offset that has the greatest timestamp of all; -1, -1 if there is no record.
// Where headers claim what no record has, it is the greatest of Options.FindBytes of the latest batches that claim more.
func (l *Log) FindMaxTime(from int64) (offset, timestamp int64, err error) {
	return l.find(func(v *view) (record, error) { return v.findMax(max(from, v.start), l.opts.FindBytes) })
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

func (v *view) findTime(t, start int64, effort *int64) (record, error) {
	for _, s := range v.segs {
		m, err := s.maxTime()
		if err != nil {
			return noRecord, err
		}
		if m < t {
			continue
		}
		if r, err := s.findTime(t, start, effort); err != nil || r != noRecord {
			return r, err
		}
	}
	return noRecord, nil
}

// findMax looks for the greatest timestamp that the batches' headers claim. Where no record has it (it was trimmed, or the header is
// wrong), it looks at all that might be the greatest, the latest segments first.
func (v *view) findMax(start, limit int64) (record, error) {
	greatest := int64(-1)
	for _, s := range v.segs {
		m, err := s.maxTime()
		if err != nil {
			return noRecord, err
		}
		greatest = max(greatest, m)
	}
	effort := limit
	r, err := v.findTime(greatest, start, &effort)
	if err != nil || r.time == greatest && r != noRecord && effort > 0 {
		return r, err
	}
	best := noRecord
	effort = limit
	for _, s := range slices.Backward(v.segs) {
		_, err := s.eachSince(0, s.base, start, &effort, func(b eventlog.RawBatch) bool { return b.MaxTime() >= best.time || best == noRecord },
			func(r record) bool {
				if best == noRecord || r.time > best.time || r.time == best.time && r.offset < best.offset {
					best = r
				}
				return true
			})
		if err != nil || effort <= 0 {
			return best, err
		}
	}
	return best, nil
}

// findTime returns the segment's first record from start on with a timestamp of t or more.
func (s *segment) findTime(t, start int64, effort *int64) (record, error) {
	pos, base, err := s.index.byTime(t)
	if err != nil {
		return noRecord, err
	}
	found := noRecord
	claims, err := s.eachSince(pos, base, start, effort, func(b eventlog.RawBatch) bool { return b.MaxTime() >= t }, func(r record) bool {
		if r.time >= t {
			found = r
		}
		return found == noRecord
	})
	if found == noRecord {
		found = claims
	}
	return found, err
}

// eachSince calls f for each record at or after an offset, in the batches from pos on, where one with that base offset begins, whose header
// is wanted, until f returns false. When effort is used up it ends, with where it would have gone on. What is damaged has no records.
func (s *segment) eachSince(pos, base, start int64, effort *int64, want func(eventlog.RawBatch) bool, f func(record) bool) (claims record, err error) {
	h, err := s.log.acquire()
	if err != nil {
		return noRecord, err
	}
	defer s.log.release()
	for w, more := s.walk(h, pos, base, 64<<10), true; more; {
		b, n, err := w.header()
		if err == io.EOF {
			return noRecord, nil
		}
		if err != nil && w.over(err, math.MaxInt64) {
			continue
		}
		if err != nil {
			return noRecord, err
		}
		if b.Last() < start || b.Attributes()&eventlog.AttrControl != 0 || !want(b) {
			w.step(b, n)
			if *effort -= n / 16; *effort <= 0 {
				return record{max(b.Next(), start), b.MaxTime()}, nil
			}
			continue
		}
		if *effort <= 0 {
			return record{max(b.Base(), start), b.MaxTime()}, nil
		}
		*effort -= n
		if b, err = w.batch(); err != nil {
			if w.over(err, math.MaxInt64) {
				continue
			}
			return noRecord, err
		}
		more = eachRecord(b, start, f)
	}
	return noRecord, nil
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
