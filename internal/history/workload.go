package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Options say what a workload does.
type Options struct {
	Addr    string
	Seed    uint64
	Session time.Duration // of the group's members: how long one that died without a word holds its partitions
	Pause   time.Duration // between two things that a client does, on average
}

// Workload is plain producers, transactional ones, one that copies from topic to topic exactly once, and consumers of what is committed, all of
// which come and go. The server may die at any time, as long as it comes back at the same address.
type Workload struct {
	o      Options
	h      *History
	ctx    context.Context // of all clients
	cancel context.CancelFunc
	quit   chan struct{} // closed when the producers shall end
	copied chan struct{} // closed when all is copied
	making sync.WaitGroup
	others sync.WaitGroup
	copier sync.WaitGroup
}

const (
	plainTopic, txnTopic, inTopic, outTopic = "plain", "txn", "in", "out"
	copyGroup                               = "copy"
)

var partitions = map[string]int32{plainTopic: 2, txnTopic: 3, inTopic: 2, outTopic: 2}

// Start makes the topics and starts the clients.
func Start(ctx context.Context, o Options) (*Workload, error) {
	w := &Workload{o: o, h: New(), quit: make(chan struct{}), copied: make(chan struct{})}
	w.h.Input, w.h.Output = inTopic, outTopic
	w.ctx, w.cancel = context.WithCancel(ctx)
	cl, err := w.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	for topic, n := range partitions {
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, n, 1, nil, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			w.cancel()
			return nil, fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	for i := range 2 {
		w.run(&w.making, i, w.produce)
		w.run(&w.making, 10+i, w.transact)
		w.run(&w.others, 20+i, w.consume)
	}
	w.run(&w.copier, 30, w.copy)
	return w, nil
}

func (w *Workload) run(wg *sync.WaitGroup, i int, f func(i int, rng *rand.Rand)) {
	rng := rand.New(rand.NewPCG(w.o.Seed, uint64(i)))
	wg.Go(func() { f(i, rng) })
}

func (w *Workload) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(w.o.Addr), kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.RetryTimeout(time.Minute),
		kgo.MetadataMinAge(10 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond), kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	}, opts...)...)
}

// away closes a client that nobody waits for: it may take a while to say goodbye to a server that is dead.
func (w *Workload) away(cl *kgo.Client) { w.others.Go(cl.CloseAllowingRebalance) }

// pause is a moment between two things; false when the producers shall end.
func (w *Workload) pause(rng *rand.Rand) bool {
	select {
	case <-w.quit:
		return false
	case <-w.ctx.Done():
		return false
	case <-time.After(time.Duration(rng.Int64N(int64(2*w.o.Pause) + 1))):
		return true
	}
}

// send produces one record, noted before and after.
func (w *Workload) send(cl *kgo.Client, rng *rand.Rand, topic, value string, txn *Txn, done func(error)) {
	w.h.Sent(value, txn)
	r := &kgo.Record{Topic: topic, Partition: rng.Int32N(partitions[topic]), Value: []byte(value)}
	cl.Produce(w.ctx, r, func(r *kgo.Record, err error) {
		if err == nil {
			w.h.Acked(value, Place{r.Topic, r.Partition, r.Offset})
		}
		done(err)
	})
}

// produce writes plain records, without waiting for most of them.
func (w *Workload) produce(i int, rng *rand.Rand) {
	cl, err := w.client()
	if err != nil {
		return
	}
	defer w.away(cl)
	for n := 0; w.pause(rng); n++ {
		topic := plainTopic
		if rng.IntN(3) == 0 {
			topic = inTopic
		}
		w.send(cl, rng, topic, fmt.Sprintf("p%d-%d", i, n), nil, func(error) {})
		if rng.IntN(8) == 0 {
			if cl.Flush(w.ctx) != nil {
				return
			}
		}
	}
	_ = cl.Flush(w.ctx) // what has no answer is not said to have one
}

// transact writes transactions, some of which it aborts, and some of which it leaves open as it dies.
func (w *Workload) transact(i int, rng *rand.Rand) {
	var cl *kgo.Client
	n := 0
	for w.pause(rng) {
		if cl == nil {
			var err error
			if cl, err = w.client(kgo.TransactionalID(fmt.Sprintf("t%d", i)), kgo.TransactionTimeout(time.Minute)); err != nil {
				return
			}
		}
		if !w.transaction(cl, rng, i, &n) {
			w.away(cl)
			cl = nil
		}
	}
	if cl != nil {
		w.away(cl)
	}
}

// transaction is one; false if the client is no good any more.
func (w *Workload) transaction(cl *kgo.Client, rng *rand.Rand, i int, n *int) bool {
	if cl.BeginTransaction() != nil {
		return false
	}
	txn := w.h.Begin()
	var mu sync.Mutex
	var failed error
	for range 1 + rng.IntN(6) {
		topic := txnTopic
		if rng.IntN(4) == 0 {
			topic = plainTopic
		}
		*n++
		w.send(cl, rng, topic, fmt.Sprintf("t%d-%d", i, *n), txn, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
		if rng.IntN(4) == 0 && !w.pause(rng) {
			break
		}
	}
	if rng.IntN(10) == 0 {
		return false // dies
	}
	if cl.Flush(w.ctx) != nil || failed != nil {
		return cl.AbortBufferedRecords(w.ctx) == nil && cl.EndTransaction(w.ctx, kgo.TryAbort) == nil
	}
	if rng.IntN(3) == 0 {
		return cl.EndTransaction(w.ctx, kgo.TryAbort) == nil
	}
	txn.Is(Unsure)
	if cl.EndTransaction(w.ctx, kgo.TryCommit) != nil {
		return false
	}
	txn.Is(Committed)
	return true
}

// consume reads what is committed, from the start, and starts over now and then.
func (w *Workload) consume(i int, rng *rand.Rand) {
	for n := 0; w.pause(rng); n++ {
		from := map[string]map[int32]kgo.Offset{}
		for topic, parts := range partitions {
			from[topic] = map[int32]kgo.Offset{}
			for p := range parts {
				from[topic][p] = kgo.NewOffset().AtStart()
			}
		}
		cl, err := w.client(kgo.ConsumePartitions(from))
		if err != nil {
			return
		}
		show := w.h.Consumer(fmt.Sprintf("consumer %d.%d", i, n))
		for end := time.Now().Add(time.Duration(20+rng.IntN(200)) * time.Millisecond); time.Now().Before(end) && w.pause(rng); {
			ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				show(Place{r.Topic, r.Partition, r.Offset}, string(r.Value))
			})
			cancel()
		}
		w.away(cl)
	}
}

// copy copies each input exactly once: what it writes, and how far it has read, are one transaction. It dies now and then, and another takes
// over, sometimes under another name.
func (w *Workload) copy(i int, rng *rand.Rand) {
	for life := 0; !w.done(); life++ {
		w.copyOnce(rng, life)
		if w.ctx.Err() != nil {
			return
		}
	}
}

func (w *Workload) done() bool {
	select {
	case <-w.copied:
		return true
	case <-w.ctx.Done():
		return true
	default:
		return false
	}
}

func (w *Workload) copyOnce(rng *rand.Rand, life int) {
	var mu sync.Mutex
	fresh := map[int32]bool{} // partitions of which nothing was read since they were assigned
	s, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(w.o.Addr), kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.RetryTimeout(time.Minute),
		kgo.MetadataMinAge(10*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond), kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.TransactionalID(fmt.Sprintf("copy%d", rng.IntN(2))), kgo.TransactionTimeout(time.Minute), kgo.ConsumeTopics(inTopic),
		kgo.ConsumerGroup(copyGroup), kgo.SessionTimeout(w.o.Session), kgo.HeartbeatInterval(w.o.Session/5), kgo.RebalanceTimeout(w.o.Session*2),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range assigned[inTopic] {
				fresh[p] = true
			}
		}))
	if err != nil {
		return
	}
	defer w.others.Go(s.Close)
	for n := 0; !w.done(); n++ {
		ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
		records := s.PollFetches(ctx).Records()
		cancel()
		if len(records) == 0 {
			continue
		}
		mu.Lock()
		for _, r := range records {
			if fresh[r.Partition] {
				w.h.Resumed(copyGroup, inTopic, r.Partition, r.Offset)
				delete(fresh, r.Partition)
			}
		}
		mu.Unlock()
		if !w.copyBatch(s, rng, records, fmt.Sprintf("%d.%d", life, n)) {
			return
		}
	}
}

// copyBatch is one transaction; false if the member is no good any more, or dies.
func (w *Workload) copyBatch(s *kgo.GroupTransactSession, rng *rand.Rand, records []*kgo.Record, attempt string) bool {
	if s.Begin() != nil {
		return false
	}
	txn := w.h.Begin()
	next := map[int32]int64{}
	var mu sync.Mutex
	var failed error
	for _, r := range records {
		w.send(s.Client(), rng, outTopic, string(r.Value)+copyMark+attempt, txn, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
		next[r.Partition] = max(next[r.Partition], r.Offset+1)
	}
	if rng.IntN(12) == 0 {
		return false // dies
	}
	try := kgo.TransactionEndTry(rng.IntN(8) > 0)
	if s.Client().Flush(w.ctx) != nil || failed != nil {
		try = kgo.TryAbort
	}
	if try == kgo.TryCommit {
		txn.Is(Unsure)
	}
	committed, err := s.End(w.ctx, try)
	if err != nil {
		return false
	}
	if !committed {
		txn.Is(Aborted)
		return true
	}
	txn.Is(Committed)
	for p, at := range next {
		w.h.Position(copyGroup, inTopic, p, at)
	}
	return true
}

// copyMark stands between a copied value and the attempt to copy it.
const copyMark = "|copy "

// original is the value that a copy is of.
func original(value string) string {
	v, _, _ := strings.Cut(value, copyMark)
	return v
}

// Finish ends the clients in good order, waits until everything is copied, reads what is there in the end, and says what is wrong. The server
// must live by now.
func (w *Workload) Finish() ([]Anomaly, error) {
	defer w.cancel()
	close(w.quit)
	w.making.Wait()
	cl, err := w.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	err = w.abortLeft(cl, "t10", "t11")
	if err == nil {
		err = w.awaitCopies(kadm.NewClient(cl))
	}
	close(w.copied)
	w.copier.Wait()
	if err == nil {
		err = w.abortLeft(cl, "copy0", "copy1")
	}
	if err == nil {
		err = w.readFinal(kadm.NewClient(cl))
	}
	w.cancel()
	w.others.Wait()
	if err != nil {
		return nil, err
	}
	return w.h.Check(), nil
}

// abortLeft takes transactional ids over, which aborts what was left open.
func (w *Workload) abortLeft(cl *kgo.Client, ids ...string) error {
	for _, id := range ids {
		for {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = &id, 60_000, -1, -1
			resp, err := req.RequestWith(w.ctx, cl)
			if err == nil {
				err = kerr.ErrorForCode(resp.ErrorCode)
			}
			if err == nil {
				break
			}
			if w.ctx.Err() != nil || !kerr.IsRetriable(err) {
				return fmt.Errorf("take over %s: %w", id, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

// awaitCopies waits until the group has committed all inputs.
func (w *Workload) awaitCopies(adm *kadm.Client) error {
	for {
		ends, err := adm.ListCommittedOffsets(w.ctx, inTopic)
		if err != nil {
			return fmt.Errorf("list the ends of %s: %w", inTopic, err)
		}
		at, err := adm.FetchOffsets(w.ctx, copyGroup)
		if err != nil {
			return fmt.Errorf("fetch the offsets of %s: %w", copyGroup, err)
		}
		behind := false
		ends.Each(func(o kadm.ListedOffset) {
			committed, ok := at.Lookup(o.Topic, o.Partition)
			behind = behind || o.Offset > 0 && (!ok || committed.At < o.Offset)
		})
		if !behind {
			return nil
		}
		select {
		case <-w.ctx.Done():
			return fmt.Errorf("the copies do not come to an end: %w", w.ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// readFinal reads what is committed, all of it.
func (w *Workload) readFinal(adm *kadm.Client) error {
	from := map[string]map[int32]kgo.Offset{}
	left := map[Place]int64{}
	for topic, parts := range partitions {
		from[topic] = map[int32]kgo.Offset{}
		for p := range parts {
			from[topic][p] = kgo.NewOffset().AtStart()
		}
		ends, err := adm.ListCommittedOffsets(w.ctx, topic)
		if err != nil {
			return fmt.Errorf("list the ends of %s: %w", topic, err)
		}
		ends.Each(func(o kadm.ListedOffset) {
			if o.Offset > 0 {
				left[Place{Topic: o.Topic, Part: o.Partition}] = o.Offset - 1
			}
		})
	}
	cl, err := w.client(kgo.ConsumePartitions(from), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	for len(left) > 0 {
		fs := cl.PollFetches(w.ctx)
		if err := fs.Err0(); err != nil {
			return fmt.Errorf("read what is there in the end; left is %v: %w", left, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			part := Place{Topic: r.Topic, Part: r.Partition}
			if last, ok := left[part]; ok && r.Offset >= last {
				delete(left, part)
			}
			if !r.Attrs.IsControl() {
				w.h.Final(Place{r.Topic, r.Partition, r.Offset}, string(r.Value))
			}
		})
	}
	return nil
}
