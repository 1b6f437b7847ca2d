package kafkawire

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// transaction is what a differ knows of its one transactional producer.
type transaction struct {
	pids, epochs [2]int64
	known, open  bool
	seq          map[string]int32 // by partition
}

// txnStep goes through the life of a transactional producer, now and then the wrong way. A partition that is added is written: where nothing was
// written Kafka puts a marker, we do not, and all offsets would differ from there on.
func (d *logState) txnStep(topic string, partition int32) {
	switch tx := &d.tx; {
	case !tx.known || d.rng.IntN(8) == 0:
		d.initTransactions()
	case d.rng.IntN(3) > 0:
		d.writeInTransaction(topic, partition)
	default:
		d.endTransaction()
	}
}

func (d *logState) initTransactions() {
	v, id := int16(d.rng.IntN(5)), d.name+"x"
	timeout := []int32{60_000, 60_000, 60_000, 0, -5}[d.rng.IntN(5)]
	answer := d.patiently(fmt.Sprintf("init with %d ms, version %d", timeout, v), func(int) kmsg.Request {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = &id, timeout
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.InitProducerIDResponse)
		if resp.ErrorCode != 0 {
			return fmt.Sprint(resp.ErrorCode)
		}
		d.tx.pids[side], d.tx.epochs[side] = resp.ProducerID, int64(resp.ProducerEpoch)
		return "epoch" // Kafka's is two more where it has to abort a transaction first, ours one
	})
	if answer[0] == 'e' {
		d.tx.known, d.tx.open, d.tx.seq = true, false, map[string]int32{}
	}
}

func (d *logState) writeInTransaction(topic string, partition int32) {
	id, tx := d.name+"x", &d.tx
	v, stale := int16(d.rng.IntN(4)), int16(d.rng.IntN(8)/7)
	answer := d.patiently(fmt.Sprintf("add %s/%d, version %d, epoch -%d", topic, partition, v, stale), func(side int) kmsg.Request {
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = id, tx.pids[side], int16(tx.epochs[side])-stale
		req.Topics = append(req.Topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: topic, Partitions: []int32{partition}})
		return versioned(req, v)
	}, func(_ int, r kmsg.Response) string {
		return fmt.Sprint(r.(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode)
	})
	if answer != "0" {
		return
	}
	tx.open = true
	key := fmt.Sprint(topic, partition)
	d.send(fmt.Sprint("in the transaction, sequence ", tx.seq[key]), topic, partition, func(side int) eventlog.RawBatch {
		b := batchOf(eventlog.None, "x", "y")
		b.SetProducer(tx.pids[side], int16(tx.epochs[side]), tx.seq[key])
		b.SetTransactional(true)
		b.Reseal()
		return b
	})
	tx.seq[key] += 2
	d.fetchCommitted(topic, partition)
}

func (d *logState) endTransaction() {
	v, id, commit, stale := int16(d.rng.IntN(4)), d.name+"x", d.rng.IntN(2) == 0, int16(d.rng.IntN(8)/7)
	answer := d.patiently(fmt.Sprintf("end, commit %v, version %d, epoch -%d", commit, v, stale), func(side int) kmsg.Request {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = id, d.tx.pids[side], int16(d.tx.epochs[side])-stale, commit
		return versioned(req, v)
	}, func(_ int, r kmsg.Response) string { return fmt.Sprint(r.(*kmsg.EndTxnResponse).ErrorCode) })
	if answer != "0" {
		return
	}
	d.tx.open = false
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) { // theirs is answered before its markers are written
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{id}
		if state := do[*kmsg.DescribeTransactionsResponse](d.theirs, 0, req).TransactionStates[0].State; !slices.Contains([]string{"PrepareCommit", "PrepareAbort", "Ongoing"}, state) {
			break
		}
	}
	for i := range 3 {
		for p := range int32(2) {
			d.fetchCommitted(fmt.Sprint(d.name, "t", i), p)
		}
	}
}

// fetchCommitted compares what a reader of what is committed is given.
func (d *logState) fetchCommitted(topic string, partition int32) {
	v := int16(4 + d.rng.IntN(9))
	d.both(fmt.Sprintf("fetch what is committed of %s/%d, version %d", topic, partition, v), func(int) kmsg.Request {
		req := fetchRequest(eventlog.Topic{Name: topic}, partition, 0, 0, 0)
		req.IsolationLevel = 1
		return versioned(req, v)
	}, func(r kmsg.Response) string {
		p := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			return fmt.Sprint("error ", p.ErrorCode)
		}
		var aborted []int64
		for _, a := range p.AbortedTransactions {
			aborted = append(aborted, a.FirstOffset)
		}
		return fmt.Sprint(p.HighWatermark, p.LastStableOffset, aborted, len(p.RecordBatches) > 0)
	})
}
