package kafkatool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Reading says what to read of a topic.
type Reading struct {
	Topic       string
	Partition   int32 // -1: all
	From        Place
	Until       int64 // milliseconds: a partition ends at its first record of then or later; 0: it does not
	Count       int64 // of records; 0: without end
	ToEnd       bool  // a partition ends where it ends when its end is reached
	Uncommitted bool  // also what transactions have not committed

	Emit func(Record) error               // takes a record, which is its own
	Idle func() error                     // nothing more is at hand: what was taken should be seen
	Note func(format string, args ...any) // says what somebody should know, past the records
}

const (
	fetchBytes     = 8 << 20 // of one answer, of which there is one per broker
	partitionBytes = 1 << 20
	fetchWait      = 500 // milliseconds
	retryPause     = 100 * time.Millisecond
)

// Consume reads until there is nothing more to read, or ctx ends, which is no error. Records of a partition come in their order.
func (c *Cluster) Consume(ctx context.Context, r Reading) error {
	d, err := c.topic(ctx, r.Topic)
	if err != nil {
		return err
	}
	cursors, err := c.start(ctx, d, &r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rd := &reader{ctx: ctx, c: c, r: r, out: make(chan chunk), open: cursors}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var failed error
	wg.Go(func() { failed = rd.run(); close(rd.out) })
	done, err := rd.emit()
	if done || err != nil {
		return err
	}
	return errors.Join(r.Idle(), failed)
}

// start finds where to begin.
func (c *Cluster) start(ctx context.Context, d kadm.TopicDetail, r *Reading) (cursors []*cursor, err error) {
	if _, there := d.Partitions[r.Partition]; r.Partition >= 0 && !there {
		return nil, fmt.Errorf("%w: %q has the partitions 0 to %d, and no %d", ErrAsked, r.Topic, len(d.Partitions)-1, r.Partition)
	}
	all, err := c.spans(ctx, !r.Uncommitted, r.Topic)
	if err != nil {
		return nil, err
	}
	if r.From.Kind == Since {
		if err := c.since(ctx, r.From.Value, all); err != nil {
			return nil, err
		}
	}
	for _, p := range d.Partitions.Sorted() {
		if r.Partition >= 0 && p.Partition != r.Partition {
			continue
		}
		s, known := all[r.Topic][p.Partition]
		if !known {
			return nil, fmt.Errorf("%q [%d]: %w", r.Topic, p.Partition, errNoAnswer)
		}
		cu := &cursor{topic: r.Topic, id: d.ID, partition: p.Partition}
		switch r.From.Kind {
		case Earliest:
			cu.next = s.start
		case Latest:
			cu.next = s.end
		case Tail:
			cu.next = max(s.start, s.end-r.From.Value)
		case Since:
			cu.next = s.since
		default:
			var note string
			if cu.next, note = s.settle(r.From.Value); note != "" {
				r.Note("%s [%d] has no offset %d: %s", r.Topic, p.Partition, r.From.Value, note)
			}
		}
		cursors = append(cursors, cu)
	}
	return cursors, nil
}

// reader runs a Reading. Its cursors belong to one goroutine at a time.
type reader struct {
	ctx context.Context // of all of it
	c   *Cluster
	r   Reading
	out chan chunk

	open []*cursor // that are still read

	answers atomic.Int64 // that had what was asked for
}

// chunk is what one partition brought.
type chunk struct {
	records []*kgo.Record
	broker  int32
	last    bool   // of this round of answers
	note    string // to be said after them
}

// emit hands records on. done: there are as many as were wanted.
func (rd *reader) emit() (done bool, err error) {
	var n int64
	for ch := range rd.out {
		for _, k := range ch.records {
			if err := rd.r.Emit(Record{k, ch.broker}); err != nil {
				return false, err
			}
			if n++; n == rd.r.Count {
				return true, rd.r.Idle()
			}
		}
		if ch.last || ch.note != "" {
			if err := rd.r.Idle(); err != nil {
				return false, err
			}
		}
		if ch.note != "" {
			rd.r.Note("%s", ch.note)
		}
	}
	return false, nil
}

// run reads all partitions from whoever leads them, until none is left.
func (rd *reader) run() error {
	ctx := rd.ctx
	var failing time.Time // since when one round after the other fails without an answer
	var answers int64
	for len(rd.open) > 0 && ctx.Err() == nil {
		d, err := rd.c.topic(ctx, rd.r.Topic)
		if err == nil {
			err = rd.round(ctx, d)
		}
		if n := rd.answers.Load(); n > answers || failing.IsZero() {
			answers, failing = n, time.Now()
		}
		if err != nil && ctx.Err() == nil && (!passing(err) || time.Since(failing) > rd.c.patience) {
			return tidy(err)
		}
		rd.open = slices.DeleteFunc(rd.open, func(cu *cursor) bool { return cu.next < 0 })
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
			}
		}
	}
	return nil
}

// round reads until all is read, or something must be asked anew.
func (rd *reader) round(ctx context.Context, d kadm.TopicDetail) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	led := map[int32][]*cursor{}
	for _, cu := range rd.open {
		if d.ID != cu.id {
			return fmt.Errorf("%w any more: %q was deleted and made again while it was read", ErrNoTopic, cu.topic)
		}
		p, ok := d.Partitions[cu.partition]
		if !ok || p.Leader < 0 {
			return fmt.Errorf("%q [%d]: %w", cu.topic, cu.partition, kerr.LeaderNotAvailable)
		}
		led[p.Leader] = append(led[p.Leader], cu)
	}
	errs := make(chan error, len(led))
	for leader, cursors := range led {
		go func() { errs <- rd.follow(ctx, leader, cursors) }()
	}
	var first error
	for range led {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// follow reads what one broker leads. A cursor that is at its end has -1 as its next offset.
func (rd *reader) follow(ctx context.Context, leader int32, cursors []*cursor) error {
	h := how{bytes: fetchBytes, partBytes: partitionBytes, wait: fetchWait, uncommitted: rd.r.Uncommitted}
	if rd.r.ToEnd {
		h.wait = 0
	}
	for len(cursors) > 0 {
		answer, err := rd.c.fetch(ctx, leader, cursors, h)
		if err != nil {
			return err
		}
		var failed error
		for i, cu := range cursors {
			ch, err := rd.advance(ctx, cu, cu.take(answer, h))
			failed = errors.Join(failed, err)
			ch.broker, ch.last = leader, i == len(cursors)-1
			if len(ch.records) == 0 && ch.note == "" && !ch.last {
				continue
			}
			// That something else must be asked anew takes nothing back: the cursor has moved.
			select {
			case rd.out <- ch:
			case <-rd.ctx.Done():
				return rd.ctx.Err()
			}
		}
		if failed != nil {
			return failed
		}
		rd.answers.Add(1)
		// Who asks first is served first: the next answer begins with another partition.
		cursors = slices.DeleteFunc(slices.Clone(cursors), func(cu *cursor) bool { return cu.next < 0 })
		if len(cursors) > 1 {
			cursors = append(cursors[1:], cursors[0])
		}
	}
	return nil
}

// advance moves a cursor past what was fetched.
func (rd *reader) advance(ctx context.Context, cu *cursor, g got) (ch chunk, err error) {
	if errors.Is(g.err, kerr.OffsetOutOfRange) {
		all, err := rd.c.spans(ctx, !rd.r.Uncommitted, cu.topic)
		if err != nil {
			return ch, err
		}
		s := all[cu.topic][cu.partition]
		if cu.next >= s.start {
			return ch, fmt.Errorf("%q [%d] ends at %d, and %d was read: records are lost: %w", cu.topic, cu.partition, s.end, cu.next, kerr.OffsetOutOfRange)
		}
		ch.note = fmt.Sprintf("%s [%d]: the offsets %d to %d were deleted before they were read", cu.topic, cu.partition, cu.next, s.start-1)
		cu.next = s.start
		return ch, nil
	}
	ch.records, err = g.records, g.err
	cu.next = g.next
	if rd.r.Until > 0 {
		late := func(k *kgo.Record) bool { return k.Timestamp.UnixMilli() >= rd.r.Until }
		if i := slices.IndexFunc(ch.records, late); i >= 0 {
			ch.note = fmt.Sprintf("Reached stop timestamp for topic %s [%d] at offset %d", cu.topic, cu.partition, ch.records[i].Offset)
			ch.records, cu.next = ch.records[:i], -1
			return ch, nil
		}
	}
	if err == nil && rd.r.ToEnd && cu.next >= g.end {
		ch.note = fmt.Sprintf("Reached end of topic %s [%d] at offset %d", cu.topic, cu.partition, cu.next)
		cu.next = -1
	}
	return ch, err
}
