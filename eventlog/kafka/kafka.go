// Package kafka is the driver of eventlog on an Apache Kafka cluster, or whatever speaks its protocol (2.8 and later, for
// topic ids). It uses a Kafka client for connections, TLS, SASL, version
// negotiation and administration; produce, fetch and transactions are its own, because the contract is about what happens
// when they fail:
//
//   - An append keeps its producer id, epoch and sequence until the broker's answer is definite. A partition has one batch in
//     flight, a broker one request; while it is on the wire the next gathers, and a little longer
//     where that is few (linger.go).
//   - A claim is a transactional id per partition: a later InitProducerID fences the earlier writer in the brokers, and what
//     the writer appends goes in short transactions, one in flight.
//   - What was fetched is handed on as it is stored, aborted and control batches removed.
//
// Which producers are Millrace's own is written in the compacted topic __millrace_producers before each one's first append,
// together with the epoch of every claim.
//
// Goroutines: one scheduler and one per request in flight for appends without a claim; one per claimed partition with work;
// one per leader for all tails together, and one per leader and tail that catches up; one for a moment per topic that is first written to, which looks how safe it is. Close ends all of them. Nothing is on a local disk. The driver never alters a topic that is
// there, never creates one by the way, and never reads a record that is not stable.
package kafka

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/millrace-io/millrace/eventlog"
)

// Options of a driver. Only Seeds or Client is needed; zero fields take the defaults they name.
type Options struct {
	Seeds    []string  // host:port of some brokers, for those who need nothing else in Client
	Client   []kgo.Opt // what else is to be said of reaching the cluster. It must not set acks or make the client produce or consume
	ClientID string    // as the brokers' logs and quotas know us; "millrace"
	Logger   *slog.Logger

	// Dial opens a connection to a broker's address, over TLS if the cluster wants that; default plain TCP.
	Dial  func(ctx context.Context, address string) (net.Conn, error)
	Login *Login // nil: the cluster does not ask who we are, or sees it from the TLS certificate

	Replication int16            // of topics that are created; 3, or as many as there are brokers
	RoomBytes   int              // of memory, that one partition takes before Room says wait; 4 MiB
	BatchBytes  int              // up to which waiting batches are merged into one; 512 KiB
	TailBytes   int              // what one tail that catches up keeps unpolled; 8 MiB
	RingBytes   int              // what all tails share of the live log; 16 MiB
	Linger      time.Duration    // between the beginnings of requests of few records to a broker; 0: each as soon as it can
	Backoff     time.Duration    // after a first failure, doubled up to 20 times that; 50 ms
	Grace       time.Duration    // how long a topic must be missing before we believe it: brokers learn of topics one by one; 2 s
	TxnTimeout  time.Duration    // after which the cluster aborts what a dead writer left open, unless a later one has done so; longer than a broker may hang; 60 s
	Now         func() time.Time // the node's clock; the system's
	Patience    time.Duration    // how long something is repeated before Health counts it as waiting: leaders move all the time; 3 s
	CloseWait   time.Duration    // how long Close waits for answers before it calls them unknown; 30 s
}

func (o *Options) setDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	setInt := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	if o.ClientID == "" {
		o.ClientID = "millrace"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	setInt(&o.RoomBytes, 4<<20)
	setInt(&o.BatchBytes, 512<<10)
	setInt(&o.TailBytes, 8<<20)
	setInt(&o.RingBytes, 16<<20)
	set(&o.Backoff, 50*time.Millisecond)
	set(&o.Grace, 2*time.Second)
	set(&o.TxnTimeout, 60*time.Second)
	set(&o.Patience, 3*time.Second)
	set(&o.CloseWait, 30*time.Second)
}

// Driver implements eventlog.Driver and eventlog.AtomicAppender.
type Driver struct {
	o      Options
	cl     *kgo.Client // everything but transactions and the live log
	tx     *kgo.Client // transactions: versions held back to the protocol without per-transaction epochs, no retries
	adm    *kadm.Client
	topics *topics
	reg    *registry
	rooms  *rooms
	plain  *producer
	atomic *atomics
	live   *live

	trouble *troubles

	ctx    context.Context // ends when Close has answered everybody
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	ended   chan struct{} // Close is done
	writers map[*writer]struct{}
	tails   map[*tail]struct{}
	vetted  map[eventlog.TopicID]struct{} // topics that were looked at, see vet
	vetting sync.WaitGroup
}

var (
	_ eventlog.Driver         = (*Driver)(nil)
	_ eventlog.AtomicAppender = (*Driver)(nil)
)

// Open connects to the cluster and reads which producers are ours. The topic that says so is created if it is not there.
func Open(ctx context.Context, o Options) (*Driver, error) {
	o.setDefaults()
	cl, err := o.client()
	if err != nil {
		return nil, err
	}
	old := kversion.Stable()
	for key, version := range map[int16]int16{keyProduce: 11, keyInitProducerID: 4, keyAddPartitionsToTxn: 3, keyEndTxn: 4} {
		old.SetMaxKeyVersion(key, version)
	}
	tx, err := o.client(kgo.MaxVersions(old), kgo.RequestRetries(0))
	if err != nil {
		cl.Close()
		return nil, err
	}
	d := &Driver{
		o: o, cl: cl, tx: tx, adm: kadm.NewClient(cl), ended: make(chan struct{}), trouble: newTroubles(o.Patience),
		writers: map[*writer]struct{}{}, tails: map[*tail]struct{}{}, vetted: map[eventlog.TopicID]struct{}{},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.topics = newTopics(cl, o.Grace, o.Backoff)
	d.rooms = &rooms{limit: o.RoomBytes, of: map[eventlog.Part]*room{}}
	d.reg = &registry{d: d, own: map[int64]int16{}, claims: map[string]int64{}, foreign: map[int64]struct{}{}}
	if err := d.reg.open(ctx); err != nil {
		d.cancel()
		cl.Close()
		tx.Close()
		return nil, fmt.Errorf("open the log on Kafka: %w", err)
	}
	if d.live, err = newLive(d); err != nil {
		d.cancel()
		cl.Close()
		tx.Close()
		return nil, err
	}
	d.plain = newProducer(d)
	d.atomic = &atomics{d: d, txn: txn{d: d, id: eventlog.InternalPrefix + "atomic-" + randomName()}, end: make(chan struct{})}
	return d, nil
}

func randomName() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails, and a name that repeats would only be fenced
	return hex.EncodeToString(b)
}

// NewClient makes a client for those who look at a cluster instead of keeping a log on it. They reach it as a driver does; more is theirs to say.
func NewClient(o Options, more ...kgo.Opt) (*kgo.Client, error) {
	o.setDefaults()
	return o.client(more...)
}

// client makes a client of the cluster that starts no work of its own.
func (o *Options) client(more ...kgo.Opt) (*kgo.Client, error) {
	// Everything is repeated until its answer is definite, so a request that a hung broker holds need not be waited for for long.
	opts := []kgo.Opt{kgo.ClientID(o.ClientID), kgo.RequestTimeoutOverhead(5 * time.Second)}
	how, err := o.reach()
	if err != nil {
		return nil, err
	}
	opts = append(opts, how...)
	cl, err := kgo.NewClient(append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w: %w", eventlog.ErrInvalid, err)
	}
	return cl, nil
}

// begin says whether an operation may start.
func (d *Driver) begin(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return eventlog.ErrClosed
	}
	return ctx.Err()
}

// fail gives an error its words: what was done to what, and the sentinel that callers branch on.
func (d *Driver) fail(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if d.begin(context.Background()) != nil {
		err = eventlog.ErrClosed
	}
	return fmt.Errorf(format+": %w", append(args, translate(err))...)
}

// Append implements eventlog.Driver.
func (d *Driver) Append(b *eventlog.Batch, done func(eventlog.Outcome)) { d.plain.append(b, done) }

// AppendAtomic implements eventlog.AtomicAppender: one transaction. There is no order between it and Append.
func (d *Driver) AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	d.atomic.append(batches, done)
}

// Room implements eventlog.Driver.
func (d *Driver) Room(p eventlog.Part) <-chan struct{} { return d.rooms.wait(p) }

// Hurry makes a Close that waits for answers call them unknown now.
func (d *Driver) Hurry() { d.cancel() }

// Close implements eventlog.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		<-d.ended
		return nil
	}
	d.closed = true
	writers, tails := d.writers, d.tails
	d.writers, d.tails = nil, nil
	d.mu.Unlock()

	for t := range tails {
		t.Close()
	}
	d.live.close()
	// What is in the queues has CloseWait to get through; then the answers are unknown, or refused if nothing was sent.
	timer := time.AfterFunc(d.o.CloseWait, d.cancel)
	defer timer.Stop()
	var wg sync.WaitGroup
	wg.Go(d.plain.close)
	wg.Go(d.atomic.close)
	for w := range writers {
		wg.Go(w.close)
	}
	wg.Wait()
	d.cancel()
	d.vetting.Wait()
	d.cl.Close()
	d.tx.Close()
	d.rooms.close()
	close(d.ended)
	return nil
}

// pause waits for a turn of backoff, the n-th in a row, or for ctx.
func (d *Driver) pause(ctx context.Context, n int) error {
	return sleep(ctx, backoff(d.o.Backoff, n))
}

func backoff(first time.Duration, n int) time.Duration {
	return min(first<<min(n, 10), 20*first)
}

// rooms counts the bytes that wait for an answer, per partition.
type rooms struct {
	limit int

	mu     sync.Mutex
	closed bool
	of     map[eventlog.Part]*room
}

type room struct {
	bytes int
	free  chan struct{} // non-nil while somebody was told to wait
}

func (r *rooms) take(p eventlog.Part, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[p] == nil {
		r.of[p] = &room{}
	}
	r.of[p].bytes += n
}

func (r *rooms) give(p eventlog.Part, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.of[p]
	o.bytes -= n
	if o.free != nil && o.bytes < r.limit {
		close(o.free)
		o.free = nil
	}
	if o.bytes == 0 {
		delete(r.of, p)
	}
}

func (r *rooms) bytes() (sum int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.of {
		sum += int64(o.bytes)
	}
	return sum
}

func (r *rooms) wait(p eventlog.Part) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.of[p]
	if r.closed || o == nil || o.bytes < r.limit {
		return nil
	}
	if o.free == nil {
		o.free = make(chan struct{})
	}
	return o.free
}

func (r *rooms) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, o := range r.of {
		if o.free != nil {
			close(o.free)
			o.free = nil
		}
	}
}

// isDone tells an error of a context or a closed client from one of the cluster.
func isDone(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrClientClosed)
}
