package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

const readCommitted = 1

// want is one partition of a fetch.
type want struct {
	part   eventlog.Part
	topic  *topic
	offset int64
	who    any // who waits for it, for Health; nil: nobody
}

// found is what a fetch says about one partition.
type found struct {
	batches []*eventlog.Batch
	next    int64
	end     int64 // of what was stable then
	err     error
}

// fetch asks one broker for the stable records of some partitions, waiting up to waitMillis for any to come.
func (d *Driver) fetch(ctx context.Context, cl *kgo.Client, leader int32, wants []want, maxBytes int, waitMillis int32) ([]found, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = waitMillis, 1, int32(min(maxBytes, 1<<30))
	req.IsolationLevel, req.SessionID, req.SessionEpoch = readCommitted, 0, -1
	for _, w := range wants {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = w.part.Index, w.offset, req.MaxBytes
		rp.CurrentLeaderEpoch = -1
		if n := len(req.Topics); n > 0 && req.Topics[n-1].Topic == w.topic.name {
			req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, rp)
			continue
		}
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = w.topic.name, w.topic.id
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	slow := func(err error) {
		for _, w := range wants {
			if w.who != nil {
				d.trouble.add(true, w.who, err)
			}
		}
	}
	answer, err := d.ask(ctx, cl, leader, req, slow, func() bool {
		for _, w := range wants {
			if d.movedFrom(leader, w.topic, w.part.Index) {
				return true
			}
		}
		return false
	})
	resp, _ := answer.(*kmsg.FetchResponse)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch from broker %d: %w", leader, err)
	}
	out := make([]found, len(wants))
	for i, w := range wants {
		rp := fetched(resp, w)
		if rp == nil {
			out[i] = found{next: w.offset, err: errNoAnswer}
			continue
		}
		out[i] = d.take(ctx, w, rp)
	}
	return out, nil
}

func fetched(resp *kmsg.FetchResponse, w want) *kmsg.FetchResponseTopicPartition {
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		if resp.Version >= 13 && rt.TopicID != w.topic.id || resp.Version < 13 && rt.Topic != w.topic.name {
			continue
		}
		for j := range rt.Partitions {
			if rt.Partitions[j].Partition == w.part.Index {
				return &rt.Partitions[j]
			}
		}
	}
	return nil
}

// take makes batches of what was fetched of one partition.
func (d *Driver) take(ctx context.Context, w want, rp *kmsg.FetchResponseTopicPartition) found {
	if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
		return found{next: w.offset, err: err}
	}
	raws, next, err := pick(rp, w.offset)
	f := found{next: next, end: rp.LastStableOffset, err: err}
	if err != nil {
		f.err = fmt.Errorf("fetched %v at %d: %w", w.part, next, err)
	}
	for _, raw := range raws {
		b := eventlog.NewRawBatch(w.part, raw)
		if b.Own, err = d.reg.owns(ctx, raw.ProducerID(), raw.ProducerEpoch()); err != nil {
			return found{batches: f.batches, next: max(w.offset, raw.Base()), err: err}
		}
		f.batches = append(f.batches, b)
	}
	return f
}

// pick finds the batches that may be seen in a fetched partition: no control batches, none of aborted transactions, nothing
// at or beyond the last stable offset. next is the offset to go on at, past what may not be seen.
func pick(rp *kmsg.FetchResponseTopicPartition, from int64) (raws []eventlog.RawBatch, next int64, err error) {
	next = from
	aborted := newAborts(rp.AbortedTransactions)
	for rest := rp.RecordBatches; len(rest) > 0; {
		n, err := eventlog.BatchSize(rest)
		if err == nil && (n == 0 || n > len(rest)) {
			break // the last batch may be cut off: it comes again
		}
		raw, err := eventlog.CheckBatch(rest)
		if err != nil {
			return raws, next, err
		}
		rest = rest[len(raw):]
		if rp.LastStableOffset >= 0 && raw.Base() >= rp.LastStableOffset {
			break
		}
		if raw.Next() <= next {
			continue
		}
		next = raw.Next()
		if !aborted.hides(raw) && raw.Count() > 0 {
			raws = append(raws, raw)
		}
	}
	return raws, next, nil
}

// aborts are the aborted transactions of a fetched range.
type aborts struct {
	coming []kmsg.FetchResponseTopicPartitionAbortedTransaction // by first offset
	open   map[int64]bool                                       // producers whose transaction, going on here, was aborted
}

func newAborts(list []kmsg.FetchResponseTopicPartitionAbortedTransaction) aborts {
	for i := 1; i < len(list); i++ { // brokers send them in order; an insertion sort costs nothing then
		for j := i; j > 0 && list[j].FirstOffset < list[j-1].FirstOffset; j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return aborts{coming: list, open: map[int64]bool{}}
}

// hides says whether a batch, asked for in offset order, is none of the reader's business.
func (a *aborts) hides(raw eventlog.RawBatch) bool {
	for len(a.coming) > 0 && a.coming[0].FirstOffset <= raw.Last() {
		a.open[a.coming[0].ProducerID] = true
		a.coming = a.coming[1:]
	}
	if raw.Attributes()&eventlog.AttrControl != 0 {
		if isAbort(raw) {
			delete(a.open, raw.ProducerID())
		}
		return true
	}
	return raw.Attributes()&eventlog.AttrTransactional != 0 && a.open[raw.ProducerID()]
}

// isAbort says whether a control batch is the marker of an abort. Its record's key is a version and a type, 0 for abort.
func isAbort(raw eventlog.RawBatch) (abort bool) {
	_ = eventlog.NewRawBatch(eventlog.Part{}, raw).Each(func(r *eventlog.Record) error {
		abort = len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == 0
		return nil
	})
	return abort
}

// Read implements eventlog.Driver.
func (d *Driver) Read(ctx context.Context, pos eventlog.Position, maxBytes int) ([]*eventlog.Batch, int64, error) {
	if err := d.begin(ctx); err != nil {
		return nil, pos.Offset, err
	}
	at := pos
	for {
		got, err := d.readOnce(ctx, at, maxBytes)
		if err != nil {
			return nil, pos.Offset, d.fail(err, "read %v", pos)
		}
		if len(got.batches) > 0 || got.next == at.Offset {
			return got.batches, got.next, nil
		}
		at.Offset = got.next
	}
}

// readOnce fetches one partition once, from whoever leads it, and repeats that until it is answered.
func (d *Driver) readOnce(ctx context.Context, pos eventlog.Position, maxBytes int) (found, error) {
	for n := 0; ; n++ {
		t, err := d.topics.partition(ctx, pos.Part)
		if err != nil {
			return found{}, err
		}
		if pos.Offset < 0 {
			return found{}, d.outOfRange(ctx, pos)
		}
		var got []found
		if leader := t.leader(pos.Index); leader < 0 {
			err = kerr.LeaderNotAvailable
		} else if got, err = d.fetch(ctx, d.cl, leader, []want{{part: pos.Part, topic: t, offset: pos.Offset}}, max(maxBytes, 1), 0); err == nil {
			if err = got[0].err; err == nil {
				return got[0], nil
			}
		}
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			if out := d.outOfRange(ctx, pos); out != nil {
				return found{}, out
			}
		case errors.Is(err, eventlog.ErrCorrupt), errors.Is(err, kerr.TopicAuthorizationFailed):
			return found{}, err
		case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
			if _, err := d.topics.fresh(ctx, pos.Topic); err != nil {
				return found{}, err
			}
		default:
			if refreshErr := d.topics.refresh(ctx); refreshErr != nil {
				err = errors.Join(err, refreshErr)
			}
		}
		if pauseErr := d.pause(ctx, n); pauseErr != nil {
			return found{}, fmt.Errorf("%w: %w", pauseErr, err)
		}
		if d.ctx.Err() != nil {
			return found{}, eventlog.ErrClosed
		}
	}
}

// outOfRange is the error of a position that lies outside; nil if it lies inside by now.
func (d *Driver) outOfRange(ctx context.Context, pos eventlog.Position) error {
	starts, err := d.Starts(ctx, pos.Topic)
	if err != nil {
		return err
	}
	ends, err := d.Ends(ctx, pos.Topic)
	if err != nil {
		return err
	}
	start, end := starts[pos.Index], ends[pos.Index]
	if pos.Offset >= start && pos.Offset <= end {
		return nil
	}
	return &eventlog.OutOfRangeError{Position: pos, Start: start, End: end}
}
