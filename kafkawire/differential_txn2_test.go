package kafkawire

import (
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// transactionsState is what the script of transactions of version 2 (KIP-890) knows of its one producer.
type transactionsState struct {
	*topicsState
	pids   [2]int64
	epochs [2]int16
	past   [2]int16 // the epochs of the transaction that ended last
	seq    map[string]int32
	known  bool
	open   bool // a transaction has something
	ended  int8 // how the last one ended: 0 not, 1 aborted, 2 committed

	own     string // part of the transactional id, where there are several
	timeout int32
}

func transactionsScript(d *differ) func() {
	s := &transactionsState{topicsState: newTopicsState(d), seq: map[string]int32{}, timeout: 60_000}
	s.create(d.name + "t0")
	s.create(d.name + "t1")
	s.groupIsThere()
	return s.step
}

// groupIsThere makes a group with an offset: transactions commit others to it.
func (d *transactionsState) groupIsThere() {
	for i := range 2 {
		d.ask(fmt.Sprint("commit t", i), func(int) kmsg.Request {
			return versioned(commitRequest(d.group(), fmt.Sprint(d.name, "t", i), 0, 3), 8)
		}, d.all())
	}
}

func (d *transactionsState) id() string { return d.name + d.own + "y" }

func (d *transactionsState) topic() string { return fmt.Sprint(d.name, "t", d.rng.IntN(2)) }

func (d *transactionsState) step() {
	if !d.known {
		d.init()
		return
	}
	switch n := d.rng.IntN(20); {
	case n == 0:
		d.init()
	case n < 8:
		d.write()
	case n < 10:
		d.offset()
	case n < 14:
		d.end()
	case n == 14:
		d.endAgain()
	case n == 15:
		d.stale()
	case n == 16:
		d.describeTransactions()
	case n == 17:
		d.unregistered()
	case n == 18:
		d.stable()
	default:
		d.committedOnly(d.topic(), int32(d.rng.IntN(2)))
	}
}

// init begins a producer, or has one go on: with its own epoch, or another one. With a transaction open that aborts it, whatever epoch it is.
func (d *transactionsState) init() {
	v, id := int16(d.rng.IntN(6)), d.id()
	resume := "no epoch"
	epochs := [2]int16{-1, -1}
	pids := [2]int64{-1, -1}
	if d.known && v >= 3 && d.chance(2) {
		resume, epochs, pids = "its epoch", d.epochs, d.pids
		switch n := d.rng.IntN(5); {
		case n == 0:
			resume, epochs[0], epochs[1] = "an epoch to come", epochs[0]+5, epochs[1]+5
		case n == 1 && min(epochs[0], epochs[1]) > 1:
			resume, epochs[0], epochs[1] = "an epoch long past", epochs[0]-2, epochs[1]-2
		case n == 2 && min(epochs[0], epochs[1]) > 0:
			resume, epochs[0], epochs[1] = "the epoch before", epochs[0]-1, epochs[1]-1
		case n == 3:
			resume, pids = "another's id", [2]int64{d.pids[0] + 1_000_000, d.pids[1] + 1_000_000}
		}
	}
	answer := d.patiently(fmt.Sprintf("init, version %d, with %s", v, resume), func(side int) kmsg.Request {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = &id, d.timeout
		req.ProducerID, req.ProducerEpoch = pids[side], epochs[side]
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.InitProducerIDResponse)
		if resp.ErrorCode != 0 {
			return fmt.Sprint(resp.ErrorCode)
		}
		same := d.pids[side] == resp.ProducerID || !d.known
		d.pids[side], d.epochs[side] = resp.ProducerID, resp.ProducerEpoch
		d.learn(side, producerID(resp.ProducerID), "pid0")
		return fmt.Sprint("same id ", same)
	})
	if strings.HasPrefix(answer, "same") {
		d.known, d.open, d.ended = true, false, 0
		d.seq = map[string]int32{}
	} else if d.open && pids == d.pids { // refused, and what was open is aborted all the same: its producer is fenced
		d.open, d.ended = false, 0
	}
}

// batch is the next one of the producer for a partition, in an epoch so far behind.
func (d *transactionsState) batch(side int, key string, behind int16) eventlog.RawBatch {
	b := batchOf(eventlog.None, "x", "y")
	b.SetProducer(d.pids[side], d.epochs[side]-behind, d.seq[key])
	b.SetTransactional(true)
	b.Reseal()
	return b
}

// write produces in the transaction, of which the partition becomes part by that.
func (d *transactionsState) write() {
	topic, partition := d.topic(), int32(d.rng.IntN(2))
	if d.chance(12) {
		partition = 5 // no topic has it
	}
	key := fmt.Sprint(topic, partition)
	answer := d.retried(fmt.Sprintf("write to %s/%d, sequence %d", topic, partition, d.seq[key]), func(side int) kmsg.Request {
		req := produceRequest(topic, partition, -1, d.batch(side, key, 0))
		req.TransactionID = new(d.id())
		return versioned(req, 12)
	})
	if strings.HasPrefix(answer, "at") {
		d.open = true
		d.seq[key] += 2
	}
}

// retried sends a batch, again where the transaction before is not finished there.
func (d *transactionsState) retried(what string, build func(side int) kmsg.Request) string {
	return d.ask(what, build, func(side int, r kmsg.Response) string {
		p := r.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		for deadline := time.Now().Add(20 * time.Second); side == 1 && p.ErrorCode == kerr.ConcurrentTransactions.Code && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
			req := build(side)
			p = d.theirs.receive(req, d.theirs.send(req)).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		}
		if p.ErrorCode != 0 {
			return fmt.Sprint("error ", p.ErrorCode)
		}
		return fmt.Sprint("at ", p.BaseOffset)
	})
}

// unregistered produces in a version whose transactions must be told of their partitions first, and are not.
func (d *transactionsState) unregistered() {
	topic, partition := d.topic(), int32(d.rng.IntN(2))
	key := fmt.Sprint(topic, partition)
	if d.seq[key] > 0 && d.open { // it may be part already
		return
	}
	d.retried(fmt.Sprintf("write unregistered to %s/%d", topic, partition), func(side int) kmsg.Request {
		req := produceRequest(topic, partition, -1, d.batch(side, key, 0))
		req.TransactionID = new(d.id())
		return versioned(req, 11)
	})
}

// offset commits an offset of a group in the transaction.
func (d *transactionsState) offset() {
	topic, at, behind := d.topic(), d.rng.Int64N(50), int16(0)
	if d.chance(6) && d.epochs[0] > 0 && d.epochs[1] > 0 {
		behind = 1
	}
	answer := d.patiently(fmt.Sprintf("offset of %s at %d, epoch -%d", topic, at, behind), func(side int) kmsg.Request {
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = d.id(), d.group(), d.pids[side], d.epochs[side]-behind
		req.Generation = -1
		req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Partition: 0, Offset: at, LeaderEpoch: -1}}}}
		return versioned(req, 5)
	}, func(_ int, r kmsg.Response) string {
		return fmt.Sprint(r.(*kmsg.TxnOffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
	})
	d.open = d.open || answer == "0"
}

// end ends the transaction, which gives the producer its next epoch.
func (d *transactionsState) end() {
	commit := d.chance(2)
	if commit && !d.open && d.chance(2) {
		return
	}
	past := d.epochs
	answer := d.endWith("end", commit, d.epochs)
	if answer != "0, the next epoch true" {
		return
	}
	d.past, d.open, d.ended = past, false, 1
	if commit {
		d.ended = 2
	}
	d.seq = map[string]int32{}
	d.finished()
	for i := range 2 {
		for p := range int32(2) {
			d.committedOnly(fmt.Sprint(d.name, "t", i), p)
		}
		d.stable()
	}
}

func (d *transactionsState) endWith(what string, commit bool, epochs [2]int16) string {
	return d.patiently(fmt.Sprintf("%s, commit %v, open %v", what, commit, d.open), func(side int) kmsg.Request {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = d.id(), d.pids[side], epochs[side], commit
		return versioned(req, 5)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.EndTxnResponse)
		if resp.ErrorCode != 0 {
			return fmt.Sprint(resp.ErrorCode)
		}
		next := resp.ProducerID == d.pids[side] && resp.ProducerEpoch == epochs[side]+1
		d.epochs[side] = resp.ProducerEpoch
		return fmt.Sprint("0, the next epoch ", next)
	})
}

// endAgain ends the last transaction once more, as a producer does that got no answer, or otherwise than it ended.
func (d *transactionsState) endAgain() {
	if d.ended == 0 || d.open {
		return
	}
	d.endWith("end again, as it did "+fmt.Sprint(d.ended), d.chance(2), d.past)
}

// stale asks with the epoch of the transaction before.
func (d *transactionsState) stale() {
	if d.ended == 0 {
		return
	}
	topic, partition := d.topic(), int32(d.rng.IntN(2))
	switch d.rng.IntN(3) {
	case 0:
		d.retried("write in the epoch before", func(side int) kmsg.Request {
			req := produceRequest(topic, partition, -1, d.batch(side, fmt.Sprint(topic, partition), 1))
			req.TransactionID = new(d.id())
			return versioned(req, 12)
		})
	case 1:
		if d.open { // else it is the same end again
			d.endWith("end in the epoch before", true, d.past)
		}
	case 2:
		v := int16(d.rng.IntN(4))
		d.patiently(fmt.Sprint("add partitions in the epoch before, version ", v), func(side int) kmsg.Request {
			req := kmsg.NewPtrAddPartitionsToTxnRequest()
			req.TransactionalID, req.ProducerID, req.ProducerEpoch = d.id(), d.pids[side], d.past[side]
			req.Topics = append(req.Topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: topic, Partitions: []int32{partition}})
			return versioned(req, v)
		}, func(_ int, r kmsg.Response) string {
			return fmt.Sprint(r.(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode)
		})
	}
}

// finished waits until theirs, which is answered before, has ended its transaction in all partitions.
func (d *transactionsState) finished() {
	for deadline := time.Now().Add(20 * time.Second); d.real() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{d.id()}
		if state := do[*kmsg.DescribeTransactionsResponse](d.theirs, 0, req).TransactionStates[0].State; !strings.HasPrefix(state, "Prepare") {
			return
		}
	}
}

func (d *transactionsState) describeTransactions() {
	id := one(d.differ, d.id(), d.id(), d.name+"nobody")
	d.read("describe the transaction of "+id, func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{id}
		return req
	}, d.all("ProducerEpoch", "StartTimestamp"))
	v, states := int16(d.rng.IntN(3)), [][]string{nil, {"Ongoing"}, {"CompleteCommit", "CompleteAbort"}, {"Empty"}, {"Nonsense"}}[d.rng.IntN(5)]
	pattern := one(d.differ, "^"+d.name+".*", d.name, ".*y")
	d.read(fmt.Sprintf("list transactions in %v, like %s, version %d", states, pattern, v), func(int) kmsg.Request {
		req := kmsg.NewPtrListTransactionsRequest()
		req.StateFilters = states
		if v >= 2 {
			req.TransactionalIDPattern = &pattern
		}
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.ListTransactionsResponse)
		var own []string
		for _, t := range resp.TransactionStates {
			if t.TransactionalID == d.id() {
				own = append(own, t.TransactionState)
			}
		}
		return fmt.Sprint(resp.ErrorCode, own, resp.UnknownStateFilters)
	})
}

// stable reads offsets, where a transaction may be about to change them too.
func (d *transactionsState) stable() {
	v, must := int16(7+d.rng.IntN(3)), d.chance(2)
	topic := d.topic()
	d.read(fmt.Sprintf("offset of %s, stable %v, version %d", topic, must, v), func(int) kmsg.Request {
		req := offsetFetchRequest(d.group(), topic, 0)
		req.RequireStable = must
		return versioned(req, v)
	}, d.all())
}

// committedOnly compares what a reader of what is committed is given, and what others are.
func (d *transactionsState) committedOnly(topic string, partition int32) {
	v := int16(4 + d.rng.IntN(9))
	for isolation := range int8(2) {
		d.read(fmt.Sprintf("read %s/%d, isolation %d, version %d", topic, partition, isolation, v), func(int) kmsg.Request {
			req := fetchRequest(eventlog.Topic{Name: topic}, partition, 0, 0, 0)
			req.IsolationLevel = isolation
			return versioned(req, v)
		}, func(_ int, r kmsg.Response) string {
			p := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
			if p.ErrorCode != 0 {
				return fmt.Sprint("error ", p.ErrorCode)
			}
			var aborted []int64
			for _, a := range p.AbortedTransactions {
				aborted = append(aborted, a.FirstOffset)
			}
			var batches []string
			for rest := p.RecordBatches; len(rest) > 0; {
				b, err := eventlog.CheckBatch(rest)
				if err != nil {
					d.t.Fatal(err)
				}
				batches, rest = append(batches, fmt.Sprint(b.Base(), "+", b.Count(), " ", b.Attributes())), rest[len(b):]
			}
			return fmt.Sprint(p.HighWatermark, p.LastStableOffset, aborted, batches)
		})
	}
}
