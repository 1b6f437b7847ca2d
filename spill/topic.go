package spill

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// topic is one topic of the cluster with the local one in front of it.
type topic struct {
	s     *Spill
	name  string
	local eventlog.Topic
	wake  chan struct{} // one token: the drainer looks again

	moving sync.Mutex // held by whoever takes records out of the local partitions: the drainer, or who gives up

	mu    sync.Mutex
	to    eventlog.Topic // of the cluster
	lanes []lane
	err   error // why draining does not get on
	fill  int   // which partition a step begins with
	alone int   // the next so many steps carry one batch each: something in a larger one was refused
}

// lane is one local partition: [drained, flight) is on its way to the cluster, what is below start is not here any more, and what lies
// from the larger of flight and start up to end is loose: it waits, and may be given up.
type lane struct {
	start, drained, flight, end int64

	bytes  int64 // from drained to end
	oldest int64 // at most the time of the first of these
	held   []held
}

// held is one batch of a step.
type held struct {
	b    *eventlog.Batch // of the local log
	next int64
}

func (l *lane) loose() int64 { return max(l.drained, l.flight, l.start) }

func newTopic(s *Spill, name string, to, local eventlog.Topic) *topic {
	return &topic{s: s, name: name, to: to, local: local, wake: make(chan struct{}, 1), lanes: make([]lane, local.Partitions)}
}

func (t *topic) part(i int) eventlog.Part { return eventlog.Part{Topic: t.local.ID, Index: int32(i)} }

func (t *topic) key(i int) string { return t.local.ID.String() + "/" + strconv.Itoa(i) }

// load finds out what waits. behind: the local log ends, in some partition, before what was drained of it, and nothing may be put there. What is in that
// partition is drained, all of it; the others may have something that waits.
func (t *topic) load(ctx context.Context) (behind bool, err error) {
	ends, err := t.s.o.Cluster.Ends(ctx, t.s.positions.Topic) // as far as they can be seen: taking over looks again
	if err != nil {
		return false, fmt.Errorf("positions: %w", err)
	}
	positions, err := t.s.readPositions(ctx, ends[0])
	if err != nil {
		return false, err
	}
	starts, err := t.s.o.Local.Starts(ctx, t.local.ID)
	if err != nil {
		return false, err
	}
	if ends, err = t.s.o.Local.Ends(ctx, t.local.ID); err != nil {
		return false, err
	}
	for i := range t.lanes {
		l := &t.lanes[i]
		l.start, l.end = starts[i], ends[i]
		at, known := positions[t.key(i)]
		if !known {
			at = l.start
		}
		if at > l.end {
			t.s.o.Logger.Warn("the local disk is behind what was drained of it, as one that was put back: what it was given since, and was not drained, is not here any more",
				"topic", t.name, "partition", i, "drained", at, "end", l.end)
			*l, behind = lane{start: at, drained: at, flight: at, end: at}, true
			continue
		}
		if at < l.start {
			t.s.o.Logger.Warn("messages were given up before the cluster had them", "topic", t.name, "partition", i, "messages", l.start-at)
		}
		l.drained = at
		for from := l.loose(); from < l.end; {
			batches, next, err := t.s.o.Local.Read(ctx, eventlog.Position{Part: t.part(i), Offset: from}, 1<<20)
			if err != nil {
				return false, err
			}
			for _, b := range batches {
				if l.oldest == 0 {
					l.oldest = b.Raw().BaseTime()
				}
				l.bytes += int64(b.Size())
			}
			if next <= from {
				return false, fmt.Errorf("read %v: nothing at %d, though it ends at %d", t.part(i), from, l.end)
			}
			from = next
		}
		t.s.bytes.Add(l.bytes)
	}
	return behind, nil
}

// readPositions reads how far everything is drained, up to where the positions end.
func (s *Spill) readPositions(ctx context.Context, end int64) (map[string]int64, error) {
	starts, err := s.o.Cluster.Starts(ctx, s.positions.Topic)
	if err != nil {
		return nil, fmt.Errorf("positions: %w", err)
	}
	out := map[string]int64{}
	for at := starts[0]; at < end; {
		batches, next, err := s.o.Cluster.Read(ctx, eventlog.Position{Part: s.positions, Offset: at}, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("positions: %w", err)
		}
		for _, b := range batches {
			err := b.Each(func(r *eventlog.Record) error {
				n, err := strconv.ParseInt(string(r.Value), 10, 64)
				if err != nil {
					return fmt.Errorf("position of %q: %q is no offset", r.Key, r.Value)
				}
				out[string(r.Key)] = n
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("positions: %w", err)
			}
		}
		if next <= at {
			return nil, fmt.Errorf("positions: nothing at %d, though they end at %d", at, end)
		}
		at = next
	}
	return out, nil
}

// took notes a batch that is durable here.
func (t *topic) took(part int32, end, size int64) {
	t.s.bytes.Add(size)
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.lanes[part]
	if l.drained == l.end {
		l.oldest = t.s.o.Now()
	}
	l.end = max(l.end, end)
	l.bytes += size
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// waiting is what of a topic waits.
func (t *topic) waiting() (w Stats) {
	now := t.s.o.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.lanes {
		l := &t.lanes[i]
		n := l.end - l.loose() + l.flight - l.drained
		if n <= 0 {
			continue
		}
		w.Messages += uint64(n)
		w.Bytes += l.bytes
		w.Age = max(w.Age, time.Duration(now-l.oldest)*time.Millisecond)
	}
	if w.Messages > 0 {
		w.Err = t.err
	}
	return w
}

// oldestLoose is the age of the oldest message that may be given up.
func (t *topic) oldestLoose() (age time.Duration, ok bool) {
	i := t.oldestLane()
	if i < 0 {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Duration(t.s.o.Now()-t.lanes[i].oldest) * time.Millisecond, true
}

func (t *topic) oldestLane() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	best := -1
	for i := range t.lanes {
		if l := &t.lanes[i]; l.loose() < l.end && (best < 0 || l.oldest < t.lanes[best].oldest) {
			best = i
		}
	}
	return best
}

// giveUp gives up the oldest loose batches of the topic, and returns how many records they had.
func (t *topic) giveUp(ctx context.Context, reason string) (records int, err error) {
	t.moving.Lock()
	defer t.moving.Unlock()
	i := t.oldestLane()
	if i < 0 {
		return 0, nil
	}
	t.mu.Lock()
	from := t.lanes[i].loose()
	t.mu.Unlock()
	batches, next, err := t.s.o.Local.Read(ctx, eventlog.Position{Part: t.part(i), Offset: from}, 64<<10)
	if err != nil || len(batches) == 0 {
		return 0, err
	}
	if err := t.s.o.Local.Trim(ctx, eventlog.Position{Part: t.part(i), Offset: next}); err != nil {
		return 0, err
	}
	size := int64(0)
	for _, b := range batches {
		size += int64(b.Size())
		records += b.Len()
		if t.s.o.GivenUp != nil {
			t.s.o.GivenUp(t.name, b, reason)
		}
	}
	t.s.bytes.Add(-size)
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.lanes[i]
	l.start, l.bytes, l.oldest = next, l.bytes-size, batches[len(batches)-1].Raw().MaxTime()
	return records, nil
}

// trim gives back the space of what is drained.
func (t *topic) trim(ctx context.Context) error {
	t.mu.Lock()
	to := map[int]int64{}
	for i := range t.lanes {
		if l := &t.lanes[i]; l.drained > l.start {
			to[i] = l.drained
		}
	}
	t.mu.Unlock()
	for i, at := range to {
		if err := t.s.o.Local.Trim(ctx, eventlog.Position{Part: t.part(i), Offset: at}); err != nil {
			return err
		}
		t.mu.Lock()
		t.lanes[i].start = max(t.lanes[i].start, at)
		t.mu.Unlock()
	}
	return nil
}

func (t *topic) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.s.ctx.Err() != nil {
		return
	}
	switch unread := errors.Is(err, ErrUnreadable); {
	case unread && !errors.Is(t.err, ErrUnreadable):
		t.s.o.Logger.Error("the local disk does not give back what waits there for the cluster", "topic", t.name, "err", err)
	case !unread && t.err == nil:
		t.s.o.Logger.Warn("the cluster does not take what waits on the local disk", "topic", t.name, "err", err)
	}
	t.err = err
}
