package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// txn is a transactional producer: one transactional id, one transaction at a time, used by one goroutine. It speaks the
// protocol that every cluster speaks (no epoch per transaction); the weakness of that protocol, a delayed EndTxn that ends
// the next transaction, is met by taking a new epoch after each EndTxn that had to be repeated.
type txn struct {
	d       *Driver
	id      string
	pid     int64
	epoch   int16
	seq     map[eventlog.Part]int32
	renew   bool // the epoch must be renewed before the next transaction
	started bool // init has succeeded once

	coordinator int32 // -1: to be found
}

// errAborted is the reason of records in a transaction that was aborted because of another batch in it.
var errAborted = errors.New("another batch of the transaction was refused")

// asker asks the coordinator of a transaction. The client would do that too, but it keeps to a coordinator that hangs, for as
// long as it hangs: here one that does not answer, or says it is not the one, is looked for anew before the next request.
type asker struct{ t *txn }

func (a asker) Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	t := a.t
	if t.coordinator < 0 {
		node, err := t.find(ctx)
		if err != nil {
			return nil, err
		}
		t.coordinator = node
	}
	asked := t.coordinator
	resp, err := t.d.ask(ctx, t.d.tx, asked, req, t.slow, func() bool {
		node, err := t.find(ctx)
		return err == nil && node != asked
	})
	if err != nil {
		t.coordinator = -1
	}
	return resp, err
}

func (t *txn) slow(err error) { t.d.trouble.add(false, t, err) }

// find asks who coordinates the transactional id.
func (t *txn) find(ctx context.Context) (int32, error) {
	return anyBroker(ctx, len(t.d.topics.brokers())+1, func(ctx context.Context) (int32, error) {
		found, ok := t.d.adm.FindTxnCoordinators(ctx, t.id)[t.id]
		if !ok {
			return -1, fmt.Errorf("find the coordinator: %w", errNoAnswer)
		}
		if found.Err != nil {
			return -1, fmt.Errorf("find the coordinator: %w", found.Err)
		}
		return found.NodeID, nil
	})
}

// heed forgets a coordinator that says it is not the one.
func (t *txn) heed(err error) error {
	if errors.Is(err, kerr.NotCoordinator) || errors.Is(err, kerr.CoordinatorNotAvailable) {
		t.coordinator = -1
	}
	return err
}

// init takes over the transactional id: whoever had it before is fenced, and what he left open is aborted, when it returns.
func (t *txn) init(ctx context.Context) (err error) {
	defer func() { t.d.trouble.end(false, t, err == nil) }()
	t.pid, t.epoch, t.coordinator = -1, -1, -1
	return t.renewEpoch(ctx)
}

// renewEpoch asks for the next epoch; under pid -1, for whatever the id has next.
func (t *txn) renewEpoch(ctx context.Context) error {
	for n := 0; ; n++ {
		req := kmsg.NewPtrInitProducerIDRequest() // another one each time: the client may still look at one that was given up
		req.TransactionalID = &t.id
		req.TransactionTimeoutMillis = int32(t.d.o.TxnTimeout.Milliseconds())
		req.ProducerID, req.ProducerEpoch = t.pid, t.epoch
		resp, err := req.RequestWith(ctx, asker{t})
		if err == nil {
			if err = t.heed(kerr.ErrorForCode(resp.ErrorCode)); err == nil {
				t.pid, t.epoch = resp.ProducerID, resp.ProducerEpoch
				t.seq, t.renew, t.started = map[eventlog.Part]int32{}, false, true
				return t.d.reg.announce(ctx, t.pid, t.epoch)
			}
		}
		if isFenced(err) {
			return fmt.Errorf("init transactional id %q: %w: %w", t.id, eventlog.ErrFenced, err)
		}
		if isFinal(err) || denied(err) && !t.started { // what was never allowed is told; what was taken away may come back
			return fmt.Errorf("init transactional id %q: %w", t.id, translate(err))
		}
		t.d.trouble.add(false, t, err)
		if pauseErr := t.d.pause(ctx, n); pauseErr != nil {
			return fmt.Errorf("init transactional id %q: %w: %w", t.id, pauseErr, err)
		}
	}
}

// commit appends shots of different partitions in one transaction. On nil they are committed, with their bases set.
// Otherwise nothing of them is or will be in the log, unless the error is ErrUnknownOutcome. After an error that is
// ErrFenced or ErrUnknownOutcome the transactional id belongs to somebody else, or must be taken over anew. If one shot was
// refused for what it is, its error is in refused.
func (t *txn) commit(ctx context.Context, shots []*shot) (refused map[*shot]error, err error) {
	defer func() { t.d.trouble.end(false, t, err == nil) }()
	if t.renew {
		if err := t.renewEpoch(ctx); err != nil {
			return nil, err
		}
	}
	for _, s := range shots {
		s.notAhead(t.d.o.Now())
		s.aim(t.pid, t.epoch, t.seq[s.part], true)
		s.maybe = false
	}
	if err := t.enter(ctx, shots); err != nil {
		return nil, err
	}
	for _, s := range shots {
		err := t.send(ctx, s)
		if errors.Is(err, eventlog.ErrFenced) || isDone(err) { // without an end it is aborted by whoever comes next, or by its time-out
			return nil, err
		}
		if err != nil {
			if finishErr := t.finish(ctx, false); errors.Is(finishErr, eventlog.ErrFenced) {
				return nil, finishErr
			}
			return map[*shot]error{s: err}, errAborted
		}
	}
	return nil, t.finish(ctx, true)
}

// enter adds the partitions to the transaction.
func (t *txn) enter(ctx context.Context, shots []*shot) error {
	for n := 0; ; n++ {
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = t.id, t.pid, t.epoch
		for _, s := range shots {
			of, err := t.d.topics.partition(ctx, s.part)
			if err != nil {
				return fmt.Errorf("append to %v: %w", s.part, err)
			}
			rt := kmsg.NewAddPartitionsToTxnRequestTopic()
			rt.Topic, rt.Partitions = of.name, []int32{s.part.Index}
			req.Topics = append(req.Topics, rt)
		}
		resp, err := req.RequestWith(ctx, asker{t})
		if err == nil {
			err = t.heed(worst(resp))
		}
		switch {
		case err == nil:
			return nil
		case isFenced(err):
			return fmt.Errorf("begin transaction %q: %w: %w", t.id, eventlog.ErrFenced, err)
		case isFinal(err):
			return fmt.Errorf("begin transaction %q: %w", t.id, translate(err))
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			if refreshErr := t.d.topics.refresh(ctx); refreshErr != nil {
				err = errors.Join(err, refreshErr)
			}
		}
		t.d.trouble.add(false, t, err)
		if pauseErr := t.d.pause(ctx, n); pauseErr != nil {
			return fmt.Errorf("begin transaction %q: %w: %w", t.id, pauseErr, err)
		}
	}
}

// worst is the error that decides about an AddPartitionsToTxn: one that is not just the echo of another.
func worst(resp *kmsg.AddPartitionsToTxnResponse) (err error) {
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			if e := kerr.ErrorForCode(rp.ErrorCode); e != nil && (err == nil || err == kerr.OperationNotAttempted) {
				err = e
			}
		}
	}
	return err
}

// send appends one shot to its partition, uncommitted, and repeats that until the answer is definite.
func (t *txn) send(ctx context.Context, s *shot) error {
	var missing int
	for n := 0; ; n++ {
		of, err := t.d.topics.partition(ctx, s.part)
		if err != nil {
			return fmt.Errorf("append to %v: %w", s.part, err)
		}
		req := newProduce(&t.id)
		addProduce(req, of, s.part.Index, s.raw)
		leader := of.leader(s.part.Index)
		answer, err := t.d.ask(ctx, t.d.tx, leader, req, t.slow, func() bool { return t.d.movedFrom(leader, of, s.part.Index) })
		v := elsewhere
		if resp, _ := answer.(*kmsg.ProduceResponse); err == nil {
			a, ok := answerOf(resp, of, s.part.Index)
			if !ok {
				err = errNoAnswer
			} else if v, err = judge(a.ErrorCode); v == accepted {
				s.base = a.BaseOffset
				t.seq[s.part] = after(t.seq[s.part], s.count)
				return nil
			}
		}
		switch {
		case v == stateless:
			return fmt.Errorf("append to %v: %w: %w", s.part, eventlog.ErrFenced, err)
		case v == rejected:
			t.renew = t.renew || s.maybe // the partition's sequence is in doubt
			return fmt.Errorf("append to %v: %w", s.part, translate(err))
		case v == gone:
			// The name is there but not for this broker, or the topic went between: refresh finds out which.
			if missing++; missing > 3 {
				if _, err := t.d.topics.fresh(ctx, s.part.Topic); err != nil {
					return fmt.Errorf("append to %v: %w", s.part, err)
				}
			}
		case errors.Is(err, kerr.InvalidTimestamp):
			s.retime(t.d.o.Now())
		case v != later:
			s.maybe = true
		}
		t.d.trouble.add(false, t, err)
		if refreshErr := t.d.topics.refresh(ctx); refreshErr != nil {
			err = errors.Join(err, refreshErr)
		}
		if pauseErr := t.d.pause(ctx, n); pauseErr != nil {
			return fmt.Errorf("append to %v: %w: %w", s.part, pauseErr, err)
		}
	}
}

// finish commits or aborts. An EndTxn whose answer is lost is repeated; if it is never answered, the outcome of a commit is
// unknown.
func (t *txn) finish(ctx context.Context, commit bool) error {
	maybe := false
	for n := 0; ; n++ {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = t.id, t.pid, t.epoch, commit
		resp, err := req.RequestWith(ctx, asker{t})
		answered := err == nil
		if answered {
			err = t.heed(kerr.ErrorForCode(resp.ErrorCode))
		}
		switch {
		case err == nil:
			t.renew = t.renew || maybe
			return nil
		case isFenced(err) || isFinal(err):
			if commit && maybe {
				return unknown(err)
			}
			return fmt.Errorf("end transaction %q: %w: %w", t.id, eventlog.ErrFenced, err)
		case !answered || !notApplied(err):
			maybe = true
		}
		t.d.trouble.add(false, t, err)
		if pauseErr := t.d.pause(ctx, n); pauseErr != nil {
			if commit && maybe {
				return unknown(fmt.Errorf("end transaction %q: %w: %w", t.id, pauseErr, err))
			}
			return fmt.Errorf("end transaction %q: %w: %w", t.id, pauseErr, err)
		}
	}
}

// notApplied says of a coordinator's error that the request changed nothing.
func notApplied(err error) bool {
	return denied(err) || errors.Is(err, kerr.NotCoordinator) || errors.Is(err, kerr.CoordinatorLoadInProgress) || errors.Is(err, kerr.ConcurrentTransactions)
}

// isFenced says that the transaction is not ours any more: somebody took over the id, or it lasted too long, or was forgotten.
func isFenced(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidTxnState) || errors.Is(err, kerr.InvalidProducerEpoch) ||
		errors.Is(err, kerr.InvalidProducerIDMapping) || errors.Is(err, kerr.TransactionalIDNotFound)
}

// isFinal says of an error that the same request will not do better later.
func isFinal(err error) bool {
	return errors.Is(err, kerr.InvalidTransactionTimeout) ||
		errors.Is(err, kerr.InvalidRequest) || errors.Is(err, kerr.UnsupportedVersion)
}
