package kafkawire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/kafkawire/txn"
)

// stateTopic holds what transactions must not forget, in Kafka's own formats.
const stateTopic = "__transaction_state"

const (
	carriedTimeout = time.Minute // of a transaction in whose partitions devices wait for what follows
	heldLong       = time.Minute // an open transaction older than that is worth a warning
	maxTxnParts    = 2000        // partitions of one transaction: its end is one commit
	maxAllTxnParts = 500_000     // of all of them together: what is open is in memory
	txnTickAtLeast = 10 * time.Second
)

// transactions coordinates all transactions, under one lock. What a transaction says in the log is in the order in which it is said here:
// whoever appends for it does so with the lock held, behind the record that covers it, so that no crash and no race leaves a batch outside
// of the transaction it was meant for. Nothing waits for the disk under the lock.
type transactions struct {
	log     Engine
	now     func() time.Time
	logger  *slog.Logger
	cfg     *txn.Config
	maxIDs  int
	carries func(topic string) bool
	groups  *coordinator
	part    eventlog.Part
	wake    chan struct{}
	ended   chan struct{}

	mu      sync.Mutex
	ids     map[string]*txn.Txn
	nextDue time.Time // nothing is due before; zero: ever
}

// newTransactions restores the transactions from the log and starts the goroutine that ends those that take too long, which ends with ctx.
func newTransactions(ctx context.Context, o *Options, groups *coordinator) (*transactions, error) {
	ts := &transactions{
		log: o.Engine, now: o.Now, logger: o.Logger, maxIDs: o.MaxTransactionalIDs, carries: o.Carries, groups: groups,
		cfg:  &txn.Config{MaxTimeout: o.MaxTransactionTimeout, Expiry: o.TransactionalIDExpiry, MaxParts: maxTxnParts, Room: &txn.Room{Parts: maxAllTxnParts}},
		wake: make(chan struct{}, 1), ended: make(chan struct{}), ids: map[string]*txn.Txn{},
	}
	var err error
	if ts.part, err = ownTopic(ctx, o.Engine, stateTopic, map[string]string{"segment.bytes": strconv.Itoa(offsetsSegment)}); err != nil {
		return nil, err
	}
	if err := ts.restore(ctx); err != nil {
		return nil, err
	}
	if err := ts.reconcile(ctx); err != nil {
		return nil, err
	}
	go ts.run(ctx)
	return ts, nil
}

// restore replays the records of the topic. One that does not parse is skipped, and said.
func (ts *transactions) restore(ctx context.Context) error {
	if _, err := replayTopic(ctx, ts.log, stateTopic, ts.part, ts.replay); err != nil {
		return err
	}
	for _, t := range ts.ids {
		if t.Forgettable() {
			delete(ts.ids, t.ID())
			continue
		}
		for _, p := range t.Parts() {
			t.Limit(ts.limit(p.Topic))
		}
		ts.expect(t.Deadline())
	}
	return nil
}

func (ts *transactions) replay(r *eventlog.Record) error {
	rec := txn.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}
	id, ok := txn.NameOf(rec.Key)
	if !ok {
		return nil // of a kind we do not keep
	}
	t := ts.ids[id]
	if t == nil {
		t = txn.New(id, ts.cfg)
		ts.ids[id] = t
	}
	if err := t.Replay(rec); err != nil {
		ts.logger.Warn("kafka: record of a transaction skipped", "offset", r.Offset, "error", err)
	}
	return nil
}

// reconcile compares what is open in partitions with what is known of transactions. A partition's record may have been refused where
// the batch after it was not: the transaction has the partition all the same. What belongs to no transaction is aborted, or nobody would
// ever end it.
func (ts *transactions) reconcile(ctx context.Context) error {
	open, err := ts.log.OpenTransactions(ctx)
	if err != nil {
		return err
	}
	ts.mu.Lock()
	owner := map[int64]*txn.Txn{}
	for _, t := range ts.ids {
		if t.State() == txn.Ongoing {
			id, _ := t.Producer()
			owner[id] = t
		}
	}
	orphans := map[int64]*engine.End{}
	for _, o := range open {
		topic, _ := ts.log.TopicByID(o.Part.Topic)
		if t := owner[o.ProducerID]; t != nil {
			_, epoch := t.Producer()
			if out, err := t.Add(ts.now(), o.ProducerID, epoch, txnVersion2, ts.limit(topic.Name), txn.Part{Topic: topic.Name, Index: o.Part.Index}); err == nil {
				ts.write(t, out)
				continue
			}
		}
		end := orphans[o.ProducerID]
		if end == nil {
			end = &engine.End{ProducerID: o.ProducerID}
			orphans[o.ProducerID] = end
		}
		end.Epoch, end.Parts = max(end.Epoch, o.Epoch), append(end.Parts, o.Part)
	}
	ts.mu.Unlock()
	for _, end := range orphans {
		ts.logger.Warn("kafka: a transaction that nobody knows of is aborted", "producer", end.ProducerID, "partitions", len(end.Parts))
		done := make(chan error, 1)
		ts.log.EndTransaction(*end, func(err error) { done <- err })
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, eventlog.ErrNoSpace) {
				return fmt.Errorf("abort the transaction of producer %d: %w", end.ProducerID, err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		ts.groups.endTxn(end.ProducerID, false, func() {})
	}
	return nil
}

// limit caps the timeout of transactions in a topic.
func (ts *transactions) limit(topic string) time.Duration {
	if ts.carries(topic) {
		return carriedTimeout
	}
	return 0
}

// Versions of transactions: how clients speak them (KIP-890).
const (
	txnVersion1 = 1
	txnVersion2 = 2
)

// ask has a transactional id take in a request and waits until what it says is durable. ErrorCode as the coordinator has it; see fenced.
func (ts *transactions) ask(ctx context.Context, id string, step func(t *txn.Txn, fresh int64) (txn.Output, *kerr.Error)) (txn.Output, *kerr.Error) {
	fresh := int64(-1)
	for {
		ts.mu.Lock()
		t := ts.ids[id]
		if t == nil {
			t = txn.New(id, ts.cfg)
		}
		if t.NeedsID() && fresh < 0 { // ids come from the log: not under the lock
			ts.mu.Unlock()
			var err error
			if fresh, err = ts.log.NewProducerID(); err != nil {
				return txn.Output{}, kerr.CoordinatorNotAvailable
			}
			continue
		}
		out, err := step(t, fresh)
		if err != nil || out.Record == nil {
			ts.mu.Unlock()
			return out, err
		}
		if ts.ids[id] == nil && len(ts.ids) >= ts.maxIDs {
			ts.mu.Unlock()
			return txn.Output{}, kerr.PolicyViolation
		}
		ts.ids[id] = t
		done := ts.write(t, out)
		ts.mu.Unlock()
		select {
		case err := <-done:
			if err != nil {
				return out, txnCode(err)
			}
			return out, out.Refusal
		case <-ctx.Done():
			return out, kerr.CoordinatorNotAvailable
		}
	}
}

// known is ask for who must have the id already.
func (ts *transactions) known(ctx context.Context, id string, step func(t *txn.Txn, fresh int64) (txn.Output, *kerr.Error)) (txn.Output, *kerr.Error) {
	ts.mu.Lock()
	t := ts.ids[id]
	ts.mu.Unlock()
	if t == nil {
		return txn.Output{}, kerr.InvalidProducerIDMapping
	}
	return ts.ask(ctx, id, step)
}

// write appends what a step wants written, and takes in what became of it. Called with mu held.
func (ts *transactions) write(t *txn.Txn, out txn.Output) <-chan error {
	done := make(chan error, 1)
	if out.Record == nil {
		done <- nil
		return done
	}
	var bl eventlog.Builder
	bl.Add(ts.now().UnixMilli(), out.Record.Key, out.Record.Value, nil)
	b, _, err := bl.Batch(ts.part, eventlog.None)
	if err != nil { // without compression nothing can fail
		panic(err)
	}
	if out.End == nil {
		ts.log.AppendAtomic([]*eventlog.Batch{b}, func(o []eventlog.Outcome) { // atomic: it keeps its place before what it covers
			ts.settle(t, out, o[0].Err)
			done <- o[0].Err
		})
		ts.expect(t.Deadline())
		return done
	}
	end := engine.End{ProducerID: out.End.ProducerID, Epoch: out.End.Epoch, Commit: out.End.Commit, State: b}
	for _, p := range out.End.Parts {
		if topic, ok := ts.log.TopicByName(p.Topic); ok {
			end.Parts = append(end.Parts, eventlog.Part{Topic: topic.ID, Index: p.Index})
		}
	}
	ts.log.EndTransaction(end, func(err error) {
		ts.settle(t, out, err)
		if err != nil {
			done <- err
			return
		}
		ts.groups.endTxn(end.ProducerID, end.Commit, func() { done <- nil })
	})
	return done
}

// settle takes in what became of an output. Of one with an unknown outcome nothing does: the log is closed for good.
func (ts *transactions) settle(t *txn.Txn, out txn.Output, err error) {
	if errors.Is(err, eventlog.ErrUnknownOutcome) {
		return
	}
	if err != nil && !errors.Is(err, eventlog.ErrClosed) {
		ts.logger.Error("kafka: transaction's record not written", "transactional_id", t.ID(), "error", err)
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.Settle(out, err == nil); t.Forgettable() && ts.ids[t.ID()] == t {
		delete(ts.ids, t.ID())
	}
	if due := t.Deadline(); err != nil && !due.IsZero() {
		ts.expect(maxTime(due, ts.now().Add(time.Second))) // what could not be written is tried again, not at once
	} else {
		ts.expect(due)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// txnCode is what a producer hears when the records were not written: try again, except with what never fits.
func txnCode(err error) *kerr.Error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, eventlog.ErrTooLarge) || errors.Is(err, eventlog.ErrInvalid):
		return kerr.UnknownServerError
	}
	return kerr.CoordinatorNotAvailable
}

// fenced is the code of an error for a request that knows PRODUCER_FENCED only from a version on.
func fenced(err *kerr.Error, version, since int16) int16 {
	if err == kerr.ProducerFenced && version < since {
		return kerr.InvalidProducerEpoch.Code
	}
	return err.Code
}

// within has something appended for a transaction: by appending, at once and without waiting. From version 2 of transactions on that gives it
// the partition, if it does not have it; before, it must.
func (ts *transactions) within(id string, producer int64, epoch int16, version int16, p txn.Part, appending func()) *kerr.Error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.ids[id]
	if t == nil {
		return kerr.InvalidProducerIDMapping
	}
	if version < txnVersion2 {
		if err := t.Check(producer, epoch, p); err != nil {
			return err
		}
	} else {
		out, err := t.Add(ts.now(), producer, epoch, version, ts.limit(p.Topic), p)
		if err != nil {
			return err
		}
		ts.write(t, out) // nobody waits: what is appended behind it is durable no sooner
	}
	appending()
	return nil
}

// expect makes sure that the goroutine looks at the transactions when t has come. Called with mu held.
func (ts *transactions) expect(t time.Time) {
	if t.IsZero() || !ts.nextDue.IsZero() && !t.Before(ts.nextDue) {
		return
	}
	ts.nextDue = t
	select {
	case ts.wake <- struct{}{}:
	default:
	}
}

// run ends transactions that take too long, and forgets ids that nobody uses.
func (ts *transactions) run(ctx context.Context) {
	defer close(ts.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ts.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(ts.tick())
	}
}

func (ts *transactions) wait() { <-ts.ended }

// tick does what is due and returns when to come back.
func (ts *transactions) tick() time.Duration {
	now := ts.now()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.nextDue.IsZero() || ts.nextDue.After(now) {
		return ts.until(now)
	}
	ts.nextDue = time.Time{}
	for _, t := range ts.ids {
		if due := t.Deadline(); due.IsZero() || due.After(now) {
			ts.expect(due)
			continue
		}
		if t.State() == txn.Ongoing {
			id, epoch := t.Producer()
			ts.logger.Warn("kafka: a transaction took too long and is aborted, its producer fenced", "transactional_id", t.ID(),
				"producer", id, "epoch", epoch, "partitions", len(t.Parts()))
		}
		if t.NeedsID() {
			ts.tickWithID(t)
			continue
		}
		if out := t.Tick(now, -1); out.Record != nil {
			ts.write(t, out)
		}
	}
	return ts.until(now)
}

// tickWithID is tick for a producer whose epochs are used up: its successor's id comes from the log, not under the lock.
func (ts *transactions) tickWithID(t *txn.Txn) {
	go func() {
		fresh, err := ts.log.NewProducerID()
		ts.mu.Lock()
		defer ts.mu.Unlock()
		if err != nil {
			ts.expect(ts.now().Add(time.Second))
		} else if out := t.Tick(ts.now(), fresh); out.Record != nil {
			ts.write(t, out)
		}
	}()
}

func (ts *transactions) until(now time.Time) time.Duration {
	if ts.nextDue.IsZero() {
		return txnTickAtLeast
	}
	return min(max(ts.nextDue.Sub(now), time.Millisecond), txnTickAtLeast)
}

// HeldTransaction is one that is open for long. What it holds back nobody reads who reads only what is committed, devices among them.
type HeldTransaction struct {
	TransactionalID string
	ProducerID      int64
	Since           time.Time
	Topic           string // one of those it holds back, and
	Partitions      int    // how many partitions there are
}

// HeldTransactions lists the transactions that are open for long, the oldest first.
func (s *Server) HeldTransactions() (held []HeldTransaction) {
	ts := s.txns
	now := ts.now()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.ids {
		since, ongoing := t.Started()
		if !ongoing || now.Sub(since) < heldLong {
			continue
		}
		h := HeldTransaction{TransactionalID: t.ID(), Since: since, Partitions: len(t.Parts())}
		h.ProducerID, _ = t.Producer()
		for _, p := range t.Parts() {
			if h.Topic = p.Topic; ts.carries(p.Topic) {
				break
			}
		}
		held = append(held, h)
	}
	slices.SortFunc(held, func(a, b HeldTransaction) int { return a.Since.Compare(b.Since) })
	return held
}

// counts is how many ids are known, how many transactions are open, and since when the oldest is.
func (ts *transactions) counts() (ids, open int, oldest time.Time) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.ids {
		if since, ongoing := t.Started(); ongoing {
			if open++; oldest.IsZero() || since.Before(oldest) {
				oldest = since
			}
		}
	}
	return len(ts.ids), open, oldest
}
