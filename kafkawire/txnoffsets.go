package kafkawire

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/kafkawire/group"
	"github.com/millrace-io/millrace/kafkawire/txn"
)

// Offsets in transactions, the coordinator's side. They are appended to offsetsTopic as a part of the transaction, and kept aside by their
// group until it ends.

// offsetsPart is the partition of all groups, as transactions know it.
var offsetsPart = txn.Part{Topic: offsetsTopic}

// commitTxn takes in a TxnOffsetCommit and waits until its offsets are durable; nil if the connection or the server ended instead.
func (co *coordinator) commitTxn(c *conn, req *kmsg.TxnOffsetCommitRequest, refused func(string, int32) *kerr.Error) kmsg.Response {
	answer := make(chan kmsg.Response, 1)
	co.post(func() {
		e := co.entry(req.Group)
		records, resp := e.g.CommitTxn(co.now(), req, refused)
		if len(records) == 0 {
			answer <- resp
		} else {
			co.appendTxn(c.s.txns, req, records, func(err *kerr.Error) {
				refuseOffsets(resp, err)
				answer <- resp
			})
		}
		co.advance(e)
	})
	select {
	case resp := <-answer:
		return resp
	case <-c.ctx.Done():
	case <-co.ended:
	}
	return nil
}

// refuseOffsets puts an error where none is yet.
func refuseOffsets(resp *kmsg.TxnOffsetCommitResponse, err *kerr.Error) {
	if err == nil {
		return
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if p := &resp.Topics[i].Partitions[j]; p.ErrorCode == 0 {
				p.ErrorCode = err.Code
			}
		}
	}
}

// appendTxn appends offsets as a part of a transaction. Once they are durable the group keeps them aside.
func (co *coordinator) appendTxn(ts *transactions, req *kmsg.TxnOffsetCommitRequest, records []group.Record, answer func(*kerr.Error)) {
	var bl eventlog.Builder
	for _, r := range records {
		bl.Add(co.now().UnixMilli(), r.Key, r.Value, nil)
	}
	b, _, err := bl.Batch(co.part, eventlog.None)
	if err != nil {
		answer(kerr.UnknownServerError)
		return
	}
	version := int16(txnVersion1)
	if req.Version >= 5 {
		version = txnVersion2
	}
	refusal := ts.within(req.TransactionalID, req.ProducerID, req.ProducerEpoch, version, offsetsPart, func() {
		co.log.AppendAs(b, req.ProducerID, req.ProducerEpoch, func(o eventlog.Outcome) {
			co.post(func() {
				if o.Err != nil {
					answer(groupCode(o.Err))
					return
				}
				co.pend(req.Group, req.ProducerID, records)
				answer(nil)
			})
		})
	})
	if refusal != nil {
		answer(offsetCommitCode(refusal))
	}
}

// offsetCommitCode is what TxnOffsetCommit calls an error of the coordinator's: it knows no PRODUCER_FENCED.
func offsetCommitCode(err *kerr.Error) *kerr.Error {
	if err == kerr.ProducerFenced {
		return kerr.InvalidProducerEpoch
	}
	return err
}

// pend keeps offsets aside that are durable in a producer's transaction.
func (co *coordinator) pend(name string, producer int64, records []group.Record) {
	e := co.entry(name)
	for _, r := range records {
		if err := e.g.Pend(producer, r); err != nil {
			co.logger.Error("kafka: offset in a transaction", "group", name, "error", err)
		}
	}
	if co.inTxns[producer] == nil {
		co.inTxns[producer] = map[string]struct{}{}
	}
	co.inTxns[producer][name] = struct{}{}
	co.count.Store(int64(len(co.groups)))
}

// endTxn has the groups take note of the end of a transaction, then calls done. Any goroutine.
func (co *coordinator) endTxn(producer int64, commit bool, done func()) {
	co.post(func() {
		co.endedTxn(producer, commit)
		done()
	})
}

func (co *coordinator) endedTxn(producer int64, commit bool) {
	for name := range co.inTxns[producer] {
		e := co.entry(name)
		e.g.EndTxn(producer, commit)
		co.advance(e)
	}
	delete(co.inTxns, producer)
}

// restoreOpen replays what is in the topic beyond what is stable: while a transaction is open that is not only its own.
func (co *coordinator) restoreOpen(ctx context.Context, at int64) error {
	for ctx.Err() == nil {
		f, err := co.log.FetchRaw(co.part, at, 4<<20, true)
		if err != nil || len(f.Raw) == 0 {
			return err
		}
		for raw := f.Raw; len(raw) > 0; {
			b, err := eventlog.CheckBatch(raw)
			if err != nil {
				return err
			}
			raw, at = raw[len(b):], b.Next()
			if err := co.replayOpen(b); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (co *coordinator) replayOpen(b eventlog.RawBatch) error {
	batch := eventlog.NewRawBatch(co.part, b)
	switch {
	case b.Attributes()&eventlog.AttrControl != 0:
		co.endedTxn(b.ProducerID(), engine.IsCommit(b))
		return nil
	case b.Attributes()&eventlog.AttrTransactional == 0:
		return batch.Each(co.replay)
	}
	return batch.Each(func(r *eventlog.Record) error {
		rec := ownRecord(r)
		if name, ok := group.NameOf(rec.Key); ok {
			co.pend(name, b.ProducerID(), []group.Record{rec})
		}
		return nil
	})
}
