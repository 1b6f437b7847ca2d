package kafka

import (
	"fmt"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// job is one batch that was handed to Append, until it is answered.
type job struct {
	b    *eventlog.Batch
	size int // as it counts in rooms
	done func(eventlog.Outcome)
}

// batchBytes is what a batch costs beside its bytes and its side while it is kept, about: itself, its job, and what its appender keeps of
// it. Of a message that comes alone that is most.
const batchBytes = 512

// cost is what a batch takes in memory, about.
func cost(b *eventlog.Batch) int { return b.Size() + b.SideBytes + batchBytes }

// shot is one batch on its way to a broker: some jobs of one partition, under one producer id, epoch and sequence. It is sent
// again as it is until the answer is definite.
type shot struct {
	part  eventlog.Part
	jobs  []*job
	raw   eventlog.RawBatch
	count int32
	maybe bool  // an attempt may have been appended though it was not answered so
	moved bool  // its times are not those that its jobs came with
	base  int64 // once accepted
}

// next is the offset after an accepted shot.
func (s *shot) next() int64 { return s.base + int64(s.count) }

// cost is what its jobs' batches take in memory, about.
func (s *shot) cost() (n int) {
	for _, j := range s.jobs {
		n += j.size
	}
	return n
}

// asStored says of an accepted shot that its jobs' batches say what the log says, and that no attempt still reads them.
func (s *shot) asStored() bool { return !s.maybe && !s.moved }

// load makes a shot of the first jobs of a queue: at least one, and as many as merge into limit bytes. An error is about the
// first.
func load(p eventlog.Part, queue []*job, limit int) (*shot, error) {
	n, size := 1, queue[0].b.Size()
	for n < len(queue) && size+queue[n].b.Size() <= limit && queue[n].b.Raw().Codec() == queue[0].b.Raw().Codec() {
		size += queue[n].b.Size()
		n++
	}
	s := &shot{part: p, jobs: queue[:n:n]}
	if n == 1 {
		s.raw = queue[0].b.Raw()
		s.count = s.raw.Count()
		return s, nil
	}
	bl := builders.Get().(*eventlog.Builder)
	defer keep(bl)
	for i, j := range s.jobs {
		err := bl.Merge(j.b)
		if err != nil && i > 0 {
			return load(p, queue[:i], limit) // those before it are in order
		}
		if err != nil {
			return nil, err
		}
		if bl.Size() > limit && i+1 < n { // compressed batches grow when they are opened
			s.jobs = s.jobs[: i+1 : i+1]
			break
		}
	}
	b, _, err := bl.Batch(p, queue[0].b.Raw().Codec())
	if err != nil {
		return nil, err
	}
	s.raw = b.Raw()
	s.count = s.raw.Count()
	return s, nil
}

var builders = sync.Pool{New: func() any { return new(eventlog.Builder) }}

// keep has a builder used again, if nothing is left in it.
func keep(bl *eventlog.Builder) {
	if bl.Len() == 0 {
		builders.Put(bl)
	}
}

// tooFarAhead of the node's own clock are the times of records that were made before the clock was set back.
const tooFarAhead = 5 * time.Minute

// aim gives a shot its producer, epoch and sequence.
func (s *shot) aim(id int64, epoch int16, seq int32, transactional bool) {
	s.raw.SetProducer(id, epoch, seq)
	s.raw.SetTransactional(transactional)
	s.raw.Reseal()
}

// retime moves a shot's times so that the latest is now: brokers do not take what is too far from their own clocks. The records' distances
// stay. A shot that may be in the log keeps its sequence, by which the brokers know it.
func (s *shot) retime(now time.Time) {
	s.shift(now)
	s.raw.Reseal()
}

// notAhead retimes a shot from before the node's clock was set back, since brokers would only refuse it first.
func (s *shot) notAhead(now time.Time) {
	if s.raw.MaxTime() > now.Add(tooFarAhead).UnixMilli() {
		s.shift(now)
	}
}

func (s *shot) shift(now time.Time) {
	s.raw.Shift(now.UnixMilli() - s.raw.MaxTime())
	s.moved = true
}

// after is the sequence that follows a batch of n records; sequences wrap to 0.
func after(seq, n int32) int32 { return int32((int64(seq) + int64(n)) & (1<<31 - 1)) }

// hit answers the jobs of an accepted shot: its records lie one after the other.
func (s *shot) hit(rooms *rooms) {
	size, at := 0, s.base
	for _, j := range s.jobs {
		n := int64(j.b.Len())
		size += j.size
		j.done(eventlog.Outcome{Base: at})
		at += n
	}
	rooms.give(s.part, size)
}

// miss answers jobs alike.
func miss(rooms *rooms, jobs []*job, err error) {
	for _, j := range jobs {
		j.answer(rooms, eventlog.Outcome{Err: err})
	}
}

func (j *job) answer(rooms *rooms, o eventlog.Outcome) {
	rooms.give(j.b.Part, j.size)
	j.done(o)
}

// unknown is the error of what may be in the log.
func unknown(why error) error {
	return fmt.Errorf("%w: %w", eventlog.ErrUnknownOutcome, why)
}

// whole checks a batch before it is queued: it must be a RecordBatch that a Builder could have made.
func whole(b *eventlog.Batch) error {
	if b.Raw() == nil || b.Len() == 0 {
		return fmt.Errorf("append to %v: %w: not a batch of a Builder", b.Part, eventlog.ErrInvalid)
	}
	return nil
}
