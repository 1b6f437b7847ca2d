package spill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// How a topic's drainer moves what waits into the cluster, a transaction at a time.

// empty drains all that waits, before the local topic is deleted, for a reason that goes on after "messages wait here".
func (t *topic) empty(ctx context.Context, why string) error {
	n := t.waiting().Messages
	if n == 0 {
		return nil
	}
	t.s.o.Logger.Info("draining what waits on the local disk; the node starts when that is done", "topic", t.name, "messages", n, "why", why)
	ctx, cancel := context.WithCancel(ctx)
	var draining sync.WaitGroup
	draining.Go(func() { t.drain(ctx) })
	defer draining.Wait()
	defer cancel()
	for {
		w := t.waiting()
		var failed error
		switch {
		case w.Messages == 0:
			return nil
		case ctx.Err() != nil:
			failed = errors.Join(ctx.Err(), w.Err)
		case errors.Is(w.Err, ErrUnreadable) || errors.Is(w.Err, eventlog.ErrUnknownTopic):
			failed = w.Err
		}
		if failed != nil {
			return fmt.Errorf("%d messages for topic %q wait here for the cluster, %s, and cannot be drained: %w; "+
				"mend that and start again, or move the folder away, and them with it", w.Messages, t.name, why, failed)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// drain moves what is here into the cluster until ctx ends.
func (t *topic) drain(ctx context.Context) {
	var by eventlog.Taken
	for pause := 50 * time.Millisecond; ctx.Err() == nil; {
		var err error
		if by == nil {
			by, err = t.take(ctx)
		}
		worked := false
		if err == nil {
			worked, err = t.step(ctx, by)
		}
		if errors.Is(err, eventlog.ErrFenced) || errors.Is(err, eventlog.ErrUnknownOutcome) {
			by = nil
		}
		var wake <-chan struct{}
		var again <-chan time.Time
		if err != nil {
			t.fail(err)
		}
		switch {
		case err != nil && !worked:
			again = time.After(pause)
			pause = min(2*pause, 5*time.Second)
		case worked:
			pause = 50 * time.Millisecond
			continue
		default:
			wake = t.wake
		}
		select {
		case <-wake:
		case <-again:
		case <-ctx.Done():
		}
	}
}

// take takes over the right to drain, and finds out what became of the last step of whoever had it.
func (t *topic) take(ctx context.Context) (eventlog.Taken, error) {
	cluster := t.s.o.Cluster.Driver.(eventlog.Transactor)
	by, err := cluster.Take(ctx, "spill-"+t.local.ID.String())
	if err != nil {
		return nil, err
	}
	ends, err := cluster.Settled(ctx, t.s.positions.Topic) // all drainers share it: the last step's position may lie behind what another has open
	if err != nil {
		return nil, fmt.Errorf("positions: %w", err)
	}
	positions, err := t.s.readPositions(ctx, ends[0])
	if err != nil {
		return nil, err
	}
	t.moving.Lock()
	defer t.moving.Unlock()
	for i := range t.lanes {
		at, known := positions[t.key(i)]
		if !known {
			at = -1
		}
		if err := t.catchUp(ctx, i, at); err != nil {
			return nil, err
		}
		t.settle(i, at)
	}
	return by, nil
}

// catchUp takes off a lane what was drained by a step that is not ours: that of the process before, which ended while it was committed.
func (t *topic) catchUp(ctx context.Context, i int, at int64) error {
	t.mu.Lock()
	l := &t.lanes[i]
	from, end := max(l.drained, l.start), l.end
	for _, h := range l.held {
		from = max(from, h.next)
	}
	t.mu.Unlock()
	if at > end {
		return fmt.Errorf("partition %d is drained up to %d, but ends at %d here: another node drains a copy of this data folder", i, at, end)
	}
	for from < at {
		batches, next, err := t.s.o.Local.Read(ctx, eventlog.Position{Part: t.part(i), Offset: from}, 1<<20)
		if err != nil || next <= from {
			return errors.Join(fmt.Errorf("read what is drained of %v at %d", t.part(i), from), err)
		}
		for _, b := range batches {
			if b.Next() <= at {
				t.s.bytes.Add(-int64(b.Size()))
				t.mu.Lock()
				t.lanes[i].bytes -= int64(b.Size())
				t.mu.Unlock()
			}
		}
		from = next
	}
	return nil
}

// settle ends the step that is under way in a lane: it is drained up to at.
func (t *topic) settle(i int, at int64) {
	t.mu.Lock()
	l := &t.lanes[i]
	var gone []held
	for _, h := range l.held {
		switch {
		case h.next <= at:
			l.bytes -= int64(h.b.Size())
			t.s.bytes.Add(-int64(h.b.Size()))
		case h.next <= l.start: // not in the cluster, and not here any more
			l.bytes -= int64(h.b.Size())
			t.s.bytes.Add(-int64(h.b.Size()))
			gone = append(gone, h)
		}
	}
	l.drained, l.held = max(l.drained, at), nil
	l.flight = l.drained
	t.mu.Unlock()
	for _, h := range gone {
		t.s.overBy[0].Add(uint64(h.b.Len()))
		if t.s.o.GivenUp != nil {
			t.s.o.GivenUp(t.name, h.b, OverBytes)
		}
	}
}

const (
	stepBytes = 4 << 20   // of one transaction
	laneBytes = 256 << 10 // of one partition in it: less than any topic's largest batch, but for a single message
)

// step drains some batches in one transaction. worked is false when nothing of what waits can be had; an error beside it is of other partitions.
func (t *topic) step(ctx context.Context, by eventlog.Taken) (worked bool, err error) {
	to, err := t.target(ctx)
	if err != nil {
		return false, err
	}
	took, unread := t.gather(ctx)
	if len(took) == 0 {
		return false, unread
	}
	var batches []*eventlog.Batch
	var of []held
	var at eventlog.Builder
	for _, i := range took {
		l := &t.lanes[i] // held is the drainer's
		for _, h := range l.held {
			moved, err := t.moved(h.b, int32(i), to)
			if err != nil {
				t.letGo()
				return false, err
			}
			batches = append(batches, moved...)
			for range moved {
				of = append(of, h)
			}
		}
		if !mutantForgets() {
			at.Add(t.s.o.Now(), []byte(t.key(i)), strconv.AppendInt(nil, l.held[len(l.held)-1].next, 10), nil)
		}
	}
	if at.Len() > 0 {
		b, _, err := at.Batch(t.s.positions, eventlog.None)
		if err != nil {
			t.letGo()
			return false, err
		}
		batches = append(batches, b)
	}
	outs, err := by.Commit(ctx, batches)
	if err != nil {
		t.refused(err, len(of))
		return false, err
	}
	t.count(batches, of, outs)
	for _, i := range took {
		t.mu.Lock()
		l := &t.lanes[i]
		last := l.held[len(l.held)-1]
		l.oldest = last.b.Raw().MaxTime()
		t.mu.Unlock()
		t.settle(i, last.next)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alone = max(0, t.alone-1); unread != nil {
		return true, unread
	}
	if t.err != nil {
		t.s.o.Logger.Info("the cluster takes again what waits on the local disk", "topic", t.name)
	}
	t.err = nil
	return true, nil
}

// count says of what is in the cluster now where it is.
func (t *topic) count(batches []*eventlog.Batch, of []held, outs []eventlog.Outcome) {
	for j := range of {
		t.s.drained.Add(uint64(batches[j].Len()))
		if t.s.o.Drained != nil {
			t.s.o.Drained(t.name, batches[j], outs[j].Base+int64(batches[j].Len()))
		}
	}
}

// refused deals with a step that the cluster did not take. What it holds is loose again, unless it may be in the cluster.
func (t *topic) refused(err error, n int) {
	if errors.Is(err, eventlog.ErrFenced) || errors.Is(err, eventlog.ErrUnknownOutcome) {
		return // settled by the next take
	}
	t.letGo()
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(err, eventlog.ErrUnknownTopic) {
		t.to = eventlog.Topic{}
	} else if n > 1 {
		t.alone = n
	}
}

// letGo ends a step of which nothing is in the cluster: what it holds is loose again.
func (t *topic) letGo() {
	t.moving.Lock()
	defer t.moving.Unlock()
	for i := range t.lanes {
		t.settle(i, -1)
	}
}

// target is the cluster's topic, looked for again when it was deleted.
func (t *topic) target(ctx context.Context) (eventlog.Topic, error) {
	t.mu.Lock()
	to := t.to
	t.mu.Unlock()
	if to.Partitions > 0 {
		return to, nil
	}
	to, err := t.s.o.Cluster.Topic(ctx, t.name)
	if err != nil {
		return to, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.to = to
	return to, nil
}

// gather takes what the next step carries, from every partition that has something. It returns which have. One that cannot be read (its error
// is told) keeps no other waiting, and nothing of it is passed over.
func (t *topic) gather(ctx context.Context) (took []int, unread error) {
	t.moving.Lock()
	defer t.moving.Unlock()
	t.mu.Lock()
	first, alone := t.fill, t.alone > 0
	t.fill++
	t.mu.Unlock()
	left := stepBytes
	for n := range t.lanes {
		i := (first + n) % len(t.lanes)
		t.mu.Lock()
		from, end := t.lanes[i].loose(), t.lanes[i].end
		t.mu.Unlock()
		if from >= end || left <= 0 {
			continue
		}
		batches, next, err := t.s.o.Local.Read(ctx, eventlog.Position{Part: t.part(i), Offset: from}, laneBytes)
		if err != nil {
			unread = fmt.Errorf("%w: partition %d of topic %q: %w", ErrUnreadable, i, t.name, err)
			continue
		}
		if alone && len(batches) > 1 {
			batches, next = batches[:1], batches[0].Next()
		}
		if len(batches) == 0 {
			continue
		}
		t.mu.Lock()
		l := &t.lanes[i]
		for n, b := range batches {
			if n > 0 && b.Raw().Codec() != batches[0].Raw().Codec() { // one transaction has one batch of a partition, compressed one way
				next = batches[n-1].Next()
				break
			}
			l.held = append(l.held, held{b, b.Next()})
			left -= b.Size()
		}
		l.flight = next
		t.mu.Unlock()
		took = append(took, i)
		if alone {
			break
		}
	}
	return took, unread
}

// moved makes of a local batch one of the cluster's topic, or several if that has other partitions by now.
func (t *topic) moved(b *eventlog.Batch, index int32, to eventlog.Topic) ([]*eventlog.Batch, error) {
	if to.Partitions == t.local.Partitions {
		raw := slices.Clone(b.Raw())
		raw.SetBase(0)
		return []*eventlog.Batch{eventlog.NewRawBatch(eventlog.Part{Topic: to.ID, Index: index}, raw)}, nil
	}
	builders := map[int32]*eventlog.Builder{}
	err := b.Each(func(r *eventlog.Record) error {
		p := t.s.o.Partition(r.Key, to.Partitions)
		if builders[p] == nil {
			builders[p] = new(eventlog.Builder)
		}
		builders[p].Add(r.Timestamp, r.Key, r.Value, r.Headers)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []*eventlog.Batch
	for p, bl := range builders {
		moved, _, err := bl.Batch(eventlog.Part{Topic: to.ID, Index: p}, eventlog.None)
		if err != nil {
			return nil, err
		}
		out = append(out, moved)
	}
	return out, nil
}
