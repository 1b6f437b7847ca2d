package meter

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
)

// readBytes is how much of the topic is read at once.
const readBytes = 256 << 10

// Reader reads the meter's topic, flush by flush, in the order in which they were written. It is used by one goroutine.
type Reader struct {
	log  *eventlog.Log
	pos  eventlog.Position
	end  int64
	none bool // there is no topic

	queue   []*Flush
	partial map[uint64]*partial // by run
	last    map[uint64]uint64   // by run: the last flush that was complete, plus 1

	Broken int // records that are not the meter's
}

// partial is a flush whose end has not come.
type partial struct {
	seq     uint64
	records int
	rows    []Row
}

// NewReader reads flushes from about a time on (milliseconds since 1970), up to the topic's present end. Where there is no topic there are
// no flushes.
func NewReader(ctx context.Context, log *eventlog.Log, from int64) (*Reader, error) {
	r := &Reader{log: log, partial: map[uint64]*partial{}, last: map[uint64]uint64{}}
	t, err := log.Topic(ctx, Topic)
	if errors.Is(err, eventlog.ErrUnknownTopic) {
		r.none = true
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", Topic, err)
	}
	r.pos.Part = eventlog.Part{Topic: t.ID}
	ends, err := log.Ends(ctx, t.ID)
	if err != nil {
		return nil, fmt.Errorf("end of topic %q: %w", Topic, err)
	}
	r.end = ends[0]
	if r.pos.Offset, err = log.OffsetByTime(ctx, r.pos.Part, from); err != nil {
		return nil, fmt.Errorf("find a time in topic %q: %w", Topic, err)
	}
	r.none = r.pos.Offset < 0
	return r, nil
}

// Next returns the next flush, nil at the end.
func (r *Reader) Next(ctx context.Context) (*Flush, error) {
	for len(r.queue) == 0 {
		if r.none || r.pos.Offset >= r.end {
			return nil, nil
		}
		batches, next, err := r.log.Read(ctx, r.pos, readBytes)
		var low *eventlog.OutOfRangeError
		if errors.As(err, &low) && r.pos.Offset < low.Start {
			r.pos.Offset = low.Start
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read topic %q: %w", Topic, err)
		}
		for _, b := range batches {
			err := b.Each(func(rec *eventlog.Record) error {
				if rec.Offset >= r.pos.Offset && rec.Offset < r.end { // a read may bring what came since
					r.record(rec.Value)
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("read topic %q at %d: %w", Topic, b.Base(), err)
			}
		}
		if next <= r.pos.Offset {
			return nil, nil
		}
		r.pos.Offset = next
	}
	f := r.queue[0]
	r.queue = r.queue[1:]
	return f, nil
}

// Again returns a reader of the same flushes from the first one on, up to the same end: what was written since is in neither. It is
// asked for before the first Next.
func (r *Reader) Again() *Reader {
	return &Reader{log: r.log, pos: r.pos, end: r.end, none: r.none, partial: map[uint64]*partial{}, last: map[uint64]uint64{}}
}

// maxRuns is how many runs may have a flush under way: more than nodes that share a log.
const maxRuns = 1024

func (r *Reader) record(value []byte) {
	kind, f, records, err := decode(value)
	if err != nil {
		r.Broken++
		return
	}
	if f.Seq < r.last[f.Run] {
		return // written again, since nobody knew
	}
	p := r.partial[f.Run]
	if p == nil || p.seq != f.Seq {
		if len(r.partial) >= maxRuns {
			clear(r.partial)
		}
		p = &partial{seq: f.Seq}
		r.partial[f.Run] = p
	}
	if kind == kindRows {
		if records == p.records { // else it was written twice, or one before it is missing
			p.records++
			p.rows = append(p.rows, f.Rows...)
		}
		return
	}
	delete(r.partial, f.Run)
	if p.records != records {
		return // the reader began within it
	}
	r.last[f.Run] = f.Seq + 1
	f.Rows = p.rows
	r.queue = append(r.queue, f)
}

// lastTime is the timestamp of the last record of a partition, -1 if there is none.
func lastTime(ctx context.Context, log *eventlog.Log, p eventlog.Part) (int64, error) {
	ends, err := log.Ends(ctx, p.Topic)
	if err != nil {
		return 0, err
	}
	starts, err := log.Starts(ctx, p.Topic)
	if err != nil || ends[p.Index] <= starts[p.Index] {
		return -1, err
	}
	batches, _, err := log.Read(ctx, eventlog.Position{Part: p, Offset: ends[p.Index] - 1}, 1)
	if err != nil {
		return 0, err
	}
	last := int64(-1)
	for _, b := range batches {
		err := b.Each(func(r *eventlog.Record) error { last = max(last, r.Timestamp); return nil })
		if err != nil {
			return 0, err
		}
	}
	return last, nil
}
