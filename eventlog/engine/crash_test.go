package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestPowerLoss lets many lives of a log end by kill -9, by power loss, by one after the other, or by Close; some while the log
// recovers from the last one. Clients keep a ledger of what they sent, what was answered and what they read, and after every
// recovery the log is held against it.
func TestPowerLoss(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	n := uint64(tier.N(2000))
	next := atomic.Uint64{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !t.Failed() {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				if err := newWorld(tier.Seed() + i).run(); err != nil {
					t.Errorf("seed %d: %v", tier.Seed()+i, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%+v", covered())
	if n < 50 {
		return
	}
	for what, times := range covered() {
		if times == 0 {
			t.Errorf("no seed has ever met: %s", what)
		}
	}
}

// met counts what the lives of all seeds have met, so that the test cannot come to test nothing.
var met struct {
	lives, lostInRecovery, replayed, torn, retained, compacted, duplicates, fenced, checkpoints atomic.Int64
	committed, aborted, held, abortedGone, markersGone                                          atomic.Int64
}

func covered() map[string]int64 {
	return map[string]int64{"a life": met.lives.Load(), "a crash within recovery": met.lostInRecovery.Load(),
		"a replay": met.replayed.Load(), "a torn frame": met.torn.Load(), "retention": met.retained.Load(),
		"compaction": met.compacted.Load(), "a duplicate": met.duplicates.Load(), "a fenced writer": met.fenced.Load(),
		"a checkpoint": met.checkpoints.Load(), "a committed transaction": met.committed.Load(),
		"an aborted transaction": met.aborted.Load(), "a transaction open over a restart": met.held.Load(),
		"records of an aborted transaction that compaction took": met.abortedGone.Load(), "markers that it took": met.markersGone.Load()}
}

func (w *world) count(e *Engine) {
	s := e.Stats()
	met.lives.Add(1)
	met.replayed.Add(int64(s.RecoveredBatches))
	met.torn.Add(s.TornBytes)
	met.retained.Add(int64(s.RetainedBytes))
	met.checkpoints.Add(int64(s.Checkpoints))
}

// world is one log through all its lives, and the ledger.
type world struct {
	rng  *rand.Rand
	mem  *vfs.Mem
	opts Options
	now  atomic.Int64 // the system's clock, which jumps

	mu      sync.Mutex
	recs    map[string]*sentRecord
	seen    map[eventlog.Position]string
	ends    map[eventlog.Part]int64
	topics  map[string]*worldTopic
	trims   map[eventlog.Part]*trimmed
	epochs  map[eventlog.Part]int64
	ids     map[int64]bool
	acked   int
	maxTime int64
	streams int
	bad     []error

	producers   []*idempotent
	transactors []*transactor
	txns        []*worldTxn
	cut         chan struct{} // closed when the life at hand has ended by a crash
	dying       atomic.Bool   // set when it begins to
}

type fate uint8

const (
	inFlight fate = iota // sent; nothing definite was heard
	refused
	written // survives kill -9
	durable
)

type sentRecord struct {
	part   eventlog.Part
	stream string
	n      int // ascends in the stream
	key    string
	epoch  int64 // of the claim it was written under, or 0
	txn    *worldTxn
	fate   fate
	offset int64
}

type worldTopic struct {
	id       eventlog.TopicID
	parts    int32
	maybe    bool            // creation, or deletion, has no answer
	configs  map[string]bool // values of retention.ms that it may have
	compact  bool
	retained bool
	txns     bool // it has transactional records
	gone     bool
}

type trimmed struct{ acked, tried int64 }

func newWorld(seed uint64) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 0x706f776572)), mem: vfs.NewMem(),
		recs: map[string]*sentRecord{}, seen: map[eventlog.Position]string{}, ends: map[eventlog.Part]int64{},
		topics: map[string]*worldTopic{}, trims: map[eventlog.Part]*trimmed{}, epochs: map[eventlog.Part]int64{}, ids: map[int64]bool{},
	}
	w.now.Store(1_700_000_000_000)
	w.opts = Options{
		Now:             func() time.Time { return time.UnixMilli(w.now.Add(1)) },
		WALFileBytes:    80 << 10,
		WALFiles:        2 + w.rng.IntN(3),
		CheckpointBytes: int64(16+w.rng.IntN(80)) << 10,
		MemoryBytes:     int64(64+w.rng.IntN(400)) << 10,
		SegmentBytes:    int64(2+w.rng.IntN(14)) << 10,
		ReserveBytes:    1 << 20, MaintainEvery: -1, OpenFiles: 8 + w.rng.IntN(40),
	}
	return w
}

func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = append(w.bad, fmt.Errorf(format, args...))
}

const (
	wantAcked    = 500
	wantRestarts = 3
	maxLives     = 60
)

func (w *world) run() error {
	for life := 0; ; life++ {
		if life > maxLives {
			return fmt.Errorf("only %d records are durable after %d lives", w.acked, life)
		}
		e, err := w.start()
		if err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
		if e == nil { // the power went while it recovered
			continue
		}
		w.verify(e)
		done := w.acked >= wantAcked && life >= wantRestarts
		if !done && len(w.bad) == 0 {
			w.live(e)
		}
		e.Close()
		w.count(e)
		w.afterwards()
		if len(w.bad) > 0 {
			return fmt.Errorf("life %d: %w", life, errors.Join(w.bad[:min(len(w.bad), 5)]...))
		}
		if done {
			return nil
		}
	}
}

// start opens the log on a file system that may lose power during recovery already, or at some operation later.
func (w *world) start() (*Engine, error) {
	w.now.Add(int64(w.rng.IntN(2_000_000) - 1_000_000))
	w.cut = make(chan struct{})
	w.dying.Store(false)
	crash := w.crasher()
	left := int64(w.rng.IntN(700))
	counts := func(op vfs.Op) bool { return changes[op.Kind] }
	switch w.rng.IntN(4) {
	case 0:
		left = int64(w.rng.IntN(40))
	case 1: // between a commit's write and its sync
		left = int64(w.rng.IntN(100))
		counts = func(op vfs.Op) bool { return op.Kind == vfs.OpDatasync }
	}
	var ops atomic.Int64
	dally := w.rng.IntN(3) == 0
	o := w.opts
	o.FS = vfs.Faults(w.mem, func(op vfs.Op) error {
		if !counts(op) || ops.Add(1) != left {
			return nil
		}
		if dally { // what must not be seen before this is done can be seen now
			for range 200 {
				runtime.Gosched()
			}
		}
		crash()
		return fs.ErrClosed
	})
	e, err := Open(o)
	if err == nil {
		return e, nil
	}
	select {
	case <-w.cut:
		met.lostInRecovery.Add(1)
		w.afterwards()
		return nil, nil
	default:
		return nil, fmt.Errorf("open: %w", err)
	}
}

// changes are the operations that a crash can come before, with another outcome than before the next one.
var changes = map[vfs.Kind]bool{vfs.OpCreate: true, vfs.OpRename: true, vfs.OpRemove: true, vfs.OpMkdir: true, vfs.OpSyncDir: true,
	vfs.OpWrite: true, vfs.OpTruncate: true, vfs.OpSync: true, vfs.OpDatasync: true}

// crasher returns what ends the life at hand: kill -9, power loss, or one after the other.
func (w *world) crasher() func() {
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 1))
	cut, mem := w.cut, w.mem
	return sync.OnceFunc(func() {
		w.dying.Store(true)
		var next *vfs.Mem
		powerLoss := true
		switch rng.IntN(4) {
		case 0:
			next, powerLoss = mem.Kill(), false
		case 1:
			next = mem.Kill().Crash(rng)
		default:
			next = mem.Crash(rng)
		}
		w.mu.Lock()
		w.mem = next
		if powerLoss {
			w.forgetWritten()
		}
		w.mu.Unlock()
		close(cut)
	})
}

// forgetWritten notes that what was written but not synced may be lost. Called with mu held.
func (w *world) forgetWritten() {
	for _, r := range w.recs {
		if r.fate == written {
			r.fate = inFlight
		}
	}
}

// afterwards is the time between two lives: a power cut may follow whatever ended the last one.
func (w *world) afterwards() {
	select {
	case <-w.cut:
		if w.rng.IntN(4) > 0 {
			return
		}
	default:
		if w.rng.IntN(2) == 0 {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem = w.mem.Crash(w.rng)
	w.forgetWritten()
}

// live lets clients work until they are done or the crash comes.
func (w *world) live(e *Engine) {
	if !w.prepare(e) {
		return
	}
	stop := make(chan struct{})
	var readers, clients sync.WaitGroup
	run := func(wg *sync.WaitGroup, f func(e *Engine, rng *rand.Rand)) {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), 2))
		wg.Go(func() { f(e, rng) })
	}
	run(&readers, func(e *Engine, rng *rand.Rand) { w.reader(e, rng, stop) })
	run(&readers, func(e *Engine, rng *rand.Rand) { w.tailer(e, rng, stop) })
	run(&clients, w.appender)
	run(&clients, w.appender)
	run(&clients, w.claimer)
	run(&clients, w.admin)
	for _, tp := range w.transactors {
		run(&clients, func(e *Engine, rng *rand.Rand) { w.transact(e, rng, tp) })
	}
	for _, p := range w.producers {
		run(&clients, func(e *Engine, rng *rand.Rand) { w.produce(e, rng, p) })
	}
	clients.Wait()
	close(stop)
	readers.Wait()
}

var worldTopics = map[string]map[string]string{
	"plain":   nil,
	"claimed": nil,
	"sized":   {"retention.bytes": "9000"},
	"compact": {"cleanup.policy": "compact", "delete.retention.ms": "0", "min.cleanable.dirty.ratio": "0.1"},
	"stamped": {"message.timestamp.type": "LogAppendTime"},

	"txn":        nil,
	"txnsized":   {"retention.bytes": "6000"},
	"txncompact": {"cleanup.policy": "compact", "delete.retention.ms": "0", "min.cleanable.dirty.ratio": "0.1"},
	"txnstate":   nil,
}

// prepare makes topics and producers that are not there yet.
func (w *world) prepare(e *Engine) bool {
	for _, name := range []string{"plain", "claimed", "sized", "compact", "stamped", "txn", "txnsized", "txncompact", "txnstate"} {
		if _, ok := w.topics[name]; !ok && !w.create(e, name, 1+int32(w.rng.IntN(3)), worldTopics[name]) {
			return false
		}
	}
	for len(w.producers) < 2 {
		id, err := e.NewProducerID()
		if err != nil {
			return false
		}
		if w.ids[id] || id >= FirstOwnProducerID {
			w.wrong("producer id %d was given out before, or is reserved", id)
		}
		w.ids[id] = true
		w.producers = append(w.producers, &idempotent{id: id, seqs: map[eventlog.Part]int32{}})
	}
	return w.prepareTxns(e)
}

func (w *world) create(e *Engine, name string, parts int32, config map[string]string) bool {
	t, err := e.CreateTopic(context.Background(), eventlog.TopicSpec{Name: name, Partitions: parts, Config: config})
	switch {
	case err == nil:
		wt := &worldTopic{id: t.ID, parts: parts, configs: map[string]bool{"": true}}
		wt.compact, wt.retained = config["cleanup.policy"] == "compact", config["retention.bytes"] != ""
		wt.txns = name == "txn" || name == "txnsized" || name == "txncompact"
		w.mu.Lock()
		w.topics[name] = wt
		w.mu.Unlock()
		return true
	case errors.Is(err, eventlog.ErrTopicExists): // made in an earlier life, which ended before it could say so
		wt := &worldTopic{id: t.ID, parts: t.Partitions, configs: map[string]bool{"": true}}
		wt.compact, wt.retained = config["cleanup.policy"] == "compact", config["retention.bytes"] != ""
		wt.txns = name == "txn" || name == "txnsized" || name == "txncompact"
		w.mu.Lock()
		w.topics[name] = wt
		w.mu.Unlock()
		return true
	case !errors.Is(err, eventlog.ErrClosed):
		w.wrong("create topic: %w", err)
	}
	return false
}

func (w *world) somePart(rng *rand.Rand, names ...string) (string, eventlog.Part) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := names[rng.IntN(len(names))]
	t := w.topics[name]
	return name, eventlog.Part{Topic: t.id, Index: rng.Int32N(t.parts)}
}

// stream begins a sequence of records whose order must be kept.
func (w *world) stream(kind string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams++
	return fmt.Sprintf("%s%d", kind, w.streams)
}

// note enters a record into the ledger and returns its value.
func (w *world) note(rng *rand.Rand, r *sentRecord) []byte {
	id := fmt.Sprintf("%s-%v-%d", r.stream, r.part.Index, r.n)
	w.mu.Lock()
	defer w.mu.Unlock()
	r.offset = -1
	w.recs[id] = r
	pad := rng.IntN(200)
	if rng.IntN(30) == 0 {
		pad = rng.IntN(5000) // a batch with a checksum of its own in the WAL
	}
	return []byte(id + "|" + strings.Repeat("x", pad))
}

// answered enters what became of a batch.
func (w *world) answered(recs []*sentRecord, base int64, err error, early bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range recs {
		switch {
		case err == nil && early:
			select {
			case <-w.cut: // it was answered before the cut, or never
			default:
				r.fate, r.offset = written, base+int64(i)
			}
		case err == nil:
			if r.fate != durable {
				w.acked++
			}
			r.fate, r.offset = durable, base+int64(i)
		case !errors.Is(err, eventlog.ErrUnknownOutcome):
			r.fate = refused
		}
	}
}

func (w *world) appender(e *Engine, rng *rand.Rand) {
	stream := w.stream("a")
	var pending sync.WaitGroup
	defer pending.Wait()
	counts := map[eventlog.Part]int{}
	for range 25 + rng.IntN(30) {
		name, p := w.somePart(rng, "plain", "plain", "sized", "compact", "stamped", "txn", "txncompact")
		var bl eventlog.Builder
		var recs []*sentRecord
		for range 1 + rng.IntN(4) {
			r := &sentRecord{part: p, stream: stream + name, n: counts[p]}
			counts[p]++
			if name == "compact" || name == "txncompact" {
				r.key = strconv.Itoa(rng.IntN(5))
			}
			value := w.note(rng, r)
			var key []byte
			if r.key != "" {
				key = []byte(r.key)
			}
			bl.Add(e.Now(), key, value, nil)
			recs = append(recs, r)
		}
		codec := eventlog.None
		if rng.IntN(8) == 0 {
			codec = eventlog.Snappy
		}
		b, _, err := bl.Batch(p, codec)
		if err != nil {
			w.wrong("build: %w", err)
			return
		}
		b.Early = rng.IntN(6) == 0
		pending.Add(1)
		closed := make(chan struct{})
		early := b.Early
		e.Append(b, func(o eventlog.Outcome) {
			w.answered(recs, o.Base, o.Err, early)
			if o.Err != nil && !errors.Is(o.Err, eventlog.ErrClosed) {
				w.wrong("append to %s: %w", name, o.Err)
			}
			if o.Err != nil {
				close(closed)
			}
			pending.Done()
		})
		if rng.IntN(4) == 0 {
			pending.Wait()
		}
		select {
		case <-closed:
			return
		default:
		}
	}
}

// claimer takes a partition over, appends, and lets an earlier writer try too.
func (w *world) claimer(e *Engine, rng *rand.Rand) {
	var old eventlog.Writer
	for range 2 + rng.IntN(3) {
		_, p := w.somePart(rng, "claimed")
		p.Index = 0
		wr, err := e.Claim(context.Background(), p)
		if err != nil {
			return
		}
		w.mu.Lock()
		if wr.Epoch() <= w.epochs[p] {
			w.bad = append(w.bad, fmt.Errorf("claim of epoch %d after %d", wr.Epoch(), w.epochs[p]))
		}
		w.epochs[p] = wr.Epoch()
		w.mu.Unlock()
		if old != nil {
			if err := w.write(e, rng, old, p, 1); err != nil && !errors.Is(err, eventlog.ErrFenced) && !errors.Is(err, eventlog.ErrClosed) || err == nil {
				w.wrong("an append by the writer before: %v, want it fenced", err)
			}
			met.fenced.Add(1)
		}
		if err := w.write(e, rng, wr, p, 1+rng.IntN(6)); err != nil {
			return
		}
		old = wr
	}
}

func (w *world) write(e *Engine, rng *rand.Rand, wr eventlog.Writer, p eventlog.Part, n int) error {
	stream := w.stream("c")
	results := make(chan error, n)
	for i := range n {
		r := &sentRecord{part: p, stream: stream, n: i, epoch: wr.Epoch()}
		var bl eventlog.Builder
		bl.Add(e.Now(), nil, w.note(rng, r), nil)
		b, _, err := bl.Batch(p, eventlog.None)
		if err != nil {
			return err
		}
		wr.Append(b, func(o eventlog.Outcome) {
			w.answered([]*sentRecord{r}, o.Base, o.Err, false)
			results <- o.Err
		})
	}
	var first error
	for range n {
		if err := <-results; first == nil {
			first = err
		}
	}
	return first
}

// idempotent is a foreign producer that resends, under the same sequence, what it had no answer for.
type idempotent struct {
	id      int64
	seqs    map[eventlog.Part]int32
	unacked []*idempotentBatch
	n       int
}

type idempotentBatch struct {
	part eventlog.Part
	raw  []byte // as sent; the engine owns what it is given
	recs []*sentRecord
	done bool
}

func (w *world) produce(e *Engine, rng *rand.Rand, p *idempotent) {
	for range 6 + rng.IntN(10) {
		_, part := w.somePart(rng, "plain", "sized")
		for len(p.unacked) < 1+rng.IntN(4) {
			p.unacked = append(p.unacked, w.nextBatch(rng, p, part, e.Now()))
		}
		var sent sync.WaitGroup
		failed := false
		var mu sync.Mutex
		for _, b := range p.unacked {
			sent.Add(1)
			e.Produce(b.part, slices.Clone(b.raw), AcksDurable, func(r Produced) {
				defer sent.Done()
				mu.Lock()
				defer mu.Unlock()
				switch {
				case r.Err == nil:
					w.answered(b.recs, r.Base, nil, false)
					b.done = true
				case !errors.Is(r.Err, eventlog.ErrClosed):
					w.wrong("produce sequence %d to %v: %w", eventlog.RawBatch(b.raw).BaseSequence(), b.part, r.Err)
					failed = true
				default:
					failed = true
				}
			})
		}
		sent.Wait()
		p.unacked = slices.DeleteFunc(p.unacked, func(b *idempotentBatch) bool { return b.done })
		if failed {
			return
		}
		if rng.IntN(5) == 0 { // the answer got lost on the way, and the client sends again
			w.resend(e, rng, p)
		}
	}
}

// resend sends a batch that was answered once more; it must be answered as the first time.
func (w *world) resend(e *Engine, rng *rand.Rand, p *idempotent) {
	_, part := w.somePart(rng, "plain")
	b := w.nextBatch(rng, p, part, e.Now())
	p.unacked = append(p.unacked, b)
	first := produceNow(e, b)
	if first.Err != nil {
		return
	}
	again := produceNow(e, b)
	if again.Err == nil && (again.Base != first.Base || !again.Duplicate) {
		w.wrong("a duplicate of offset %d is answered %+v", first.Base, again)
	}
	met.duplicates.Add(1)
	w.answered(b.recs, first.Base, nil, false)
	p.unacked = p.unacked[:len(p.unacked)-1]
}

func produceNow(e *Engine, b *idempotentBatch) Produced {
	c := make(chan Produced, 1)
	e.Produce(b.part, slices.Clone(b.raw), AcksDurable, func(r Produced) { c <- r })
	return <-c
}

func (w *world) nextBatch(rng *rand.Rand, p *idempotent, part eventlog.Part, now int64) *idempotentBatch {
	b := &idempotentBatch{part: part}
	var bl eventlog.Builder
	for range 1 + rng.IntN(4) {
		r := &sentRecord{part: part, stream: fmt.Sprintf("p%d", p.id), n: p.n}
		p.n++
		bl.Add(now, nil, w.note(rng, r), nil)
		b.recs = append(b.recs, r)
	}
	batch, _, err := bl.Batch(part, eventlog.None)
	if err != nil {
		panic(err)
	}
	raw := batch.Raw()
	raw.SetProducer(p.id, 0, p.seqs[part])
	raw.Reseal()
	p.seqs[part] += raw.Count()
	b.raw = raw
	return b
}

// admin changes what there is: topics, configs, starts; and has retention and compaction run.
func (w *world) admin(e *Engine, rng *rand.Rand) {
	ctx := context.Background()
	for range 3 + rng.IntN(8) {
		var err error
		switch rng.IntN(6) {
		case 0, 1:
			err = e.Maintain(ctx)
		case 2:
			err = w.trim(e, rng)
		case 3:
			err = w.configure(e, rng)
		case 4:
			err = w.short(e, rng)
		case 5:
			err = e.checkpoint()
		}
		if err != nil {
			if !errors.Is(err, eventlog.ErrClosed) && !w.isCut() {
				w.wrong("admin: %w", err)
			}
			return
		}
	}
}

func (w *world) trim(e *Engine, rng *rand.Rand) error {
	_, p := w.somePart(rng, "plain", "claimed")
	ends, err := e.Ends(context.Background(), p.Topic)
	if err != nil || ends[p.Index] == 0 {
		return err
	}
	to := rng.Int64N(ends[p.Index]/4 + 1)
	w.mu.Lock()
	t := w.trims[p]
	if t == nil {
		t = &trimmed{}
		w.trims[p] = t
	}
	t.tried = max(t.tried, to)
	w.mu.Unlock()
	if err = e.Trim(context.Background(), eventlog.Position{Part: p, Offset: to}); err == nil {
		w.mu.Lock()
		t.acked = max(t.acked, to)
		w.mu.Unlock()
	}
	return err
}

func (w *world) configure(e *Engine, rng *rand.Rand) error {
	ms := strconv.Itoa(1_000_000_000 + rng.IntN(1_000_000))
	w.mu.Lock()
	t := w.topics["stamped"]
	t.configs[ms] = true
	w.mu.Unlock()
	err := e.ConfigureTopic(context.Background(), "stamped", map[string]*string{"retention.ms": &ms})
	if err == nil {
		w.mu.Lock()
		t.configs = map[string]bool{ms: true}
		w.mu.Unlock()
	}
	return err
}

// short makes a topic, appends to it and deletes it.
func (w *world) short(e *Engine, rng *rand.Rand) error {
	name := w.stream("short")
	w.mu.Lock()
	w.topics[name] = &worldTopic{maybe: true}
	w.mu.Unlock()
	t, err := e.CreateTopic(context.Background(), eventlog.TopicSpec{Name: name, Partitions: 2})
	if err != nil {
		return err
	}
	wt := &worldTopic{id: t.ID, parts: 2, configs: map[string]bool{"": true}}
	w.mu.Lock()
	w.topics[name] = wt
	w.mu.Unlock()
	p := eventlog.Part{Topic: t.ID, Index: rng.Int32N(2)}
	r := &sentRecord{part: p, stream: name}
	var bl eventlog.Builder
	bl.Add(e.Now(), nil, w.note(rng, r), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		return err
	}
	o := make(chan eventlog.Outcome, 1)
	e.Append(b, func(out eventlog.Outcome) { o <- out })
	out := <-o
	w.answered([]*sentRecord{r}, out.Base, out.Err, false)
	if out.Err != nil || rng.IntN(3) == 0 {
		return out.Err
	}
	w.mu.Lock()
	wt.maybe = true
	w.mu.Unlock()
	if err = e.DeleteTopic(context.Background(), name); err == nil {
		w.mu.Lock()
		wt.gone = true
		w.mu.Unlock()
	}
	return err
}

// sawBatch enters what a reader was given.
func (w *world) sawBatch(b *eventlog.Batch) {
	err := b.Each(func(r *eventlog.Record) error {
		id, _, _ := strings.Cut(string(r.Value), "|")
		pos := eventlog.Position{Part: b.Part, Offset: r.Offset}
		w.mu.Lock()
		defer w.mu.Unlock()
		if was, ok := w.seen[pos]; ok && was != id {
			w.bad = append(w.bad, fmt.Errorf("%v was %q and is %q", pos, was, id))
		}
		w.seen[pos] = id
		if sent := w.recs[id]; sent != nil && sent.txn != nil && sent.txn.fate != txnCommitting && sent.txn.fate != txnCommitted {
			w.bad = append(w.bad, fmt.Errorf("%v: %q is read, and transaction %d has fate %d", pos, id, sent.txn.n, sent.txn.fate))
		}
		if b.Own {
			w.maxTime = max(w.maxTime, r.Timestamp)
		}
		w.ends[b.Part] = max(w.ends[b.Part], r.Offset+1)
		return nil
	})
	if err != nil {
		w.wrong("a batch that was read: %w", err)
	}
}

func (w *world) allParts() (parts []eventlog.Part) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.topics {
		for i := range t.parts {
			parts = append(parts, eventlog.Part{Topic: t.id, Index: i})
		}
	}
	return parts
}

// reader reads what became stable as soon as it did.
func (w *world) reader(e *Engine, rng *rand.Rand, stop chan struct{}) {
	parts := w.allParts()
	moved := make(chan eventlog.Part, 64)
	defer e.Watch(parts, func(p eventlog.Part) {
		select {
		case moved <- p:
		default:
		}
	})()
	for {
		var p eventlog.Part
		select {
		case <-stop:
			return
		case p = <-moved:
		}
		ends, err := e.Ends(context.Background(), p.Topic)
		if err != nil {
			continue
		}
		pos := eventlog.Position{Part: p, Offset: max(0, ends[p.Index]-1-int64(rng.IntN(6)))}
		var batches []*eventlog.Batch
		if rng.IntN(2) == 0 {
			batches, _, err = e.Read(context.Background(), pos, 4000)
		} else {
			batches, err = w.fetch(e, pos, 4000)
		}
		var out *eventlog.OutOfRangeError
		if err != nil && !errors.As(err, &out) && !errors.Is(err, eventlog.ErrUnknownTopic) && !w.isCut() {
			w.wrong("read %v: %w", pos, err)
		}
		for _, b := range batches {
			w.sawBatch(b)
		}
	}
}

// fetch is Read by what clients fetch with.
func (w *world) fetch(e *Engine, pos eventlog.Position, maxBytes int) (batches []*eventlog.Batch, err error) {
	if pos.Topic == w.topicID("txn") || pos.Topic == w.topicID("txnsized") || pos.Topic == w.topicID("txncompact") {
		f, err := e.FetchCommitted(pos.Part, pos.Offset, maxBytes, true)
		if err != nil {
			return nil, err
		}
		return committedOf(&f, pos.Part)
	}
	f, err := e.FetchRaw(pos.Part, pos.Offset, maxBytes, true)
	for raw := f.Raw; len(raw) > 0 && err == nil; {
		var b eventlog.RawBatch
		if b, err = eventlog.CheckBatch(raw); err == nil {
			batches = append(batches, eventlog.NewRawBatch(pos.Part, b))
			raw = raw[len(b):]
		}
	}
	return batches, err
}

func (w *world) isCut() bool { return w.dying.Load() }

// tailer follows two topics and holds the sequence against its own count.
func (w *world) tailer(e *Engine, rng *rand.Rand, stop chan struct{}) {
	from := eventlog.Vector{}
	next := map[eventlog.Part]int64{}
	shown := &followed{seen: map[eventlog.Position]bool{}}
	begun := map[eventlog.Part]int64{}
	for _, name := range []string{"plain", "claimed", "compact", "txn"} {
		w.mu.Lock()
		t := w.topics[name]
		w.mu.Unlock()
		starts, err := e.Starts(context.Background(), t.id)
		if err != nil {
			return
		}
		for i := range t.parts {
			p := eventlog.Part{Topic: t.id, Index: i}
			from[p] = starts[i]
			next[p], begun[p] = starts[i], starts[i]
		}
	}
	defer func() { w.missed(shown, w.topicID("txn"), begun, next) }()
	tail, err := e.Tail(from)
	if err != nil {
		return
	}
	defer tail.Close()
	var events []eventlog.Event
	for {
		select {
		case <-stop:
			return
		case <-tail.Wake():
		}
		events, err = tail.Poll(events[:0], 1+rng.IntN(20_000))
		if err != nil {
			if !w.isCut() {
				w.wrong("tail: %w", err)
			}
			return
		}
		for _, ev := range events {
			if ev.Kind == eventlog.Records {
				w.sawBatch(ev.Batch)
				shown.batch(ev.Batch)
				if ev.Batch.Next() <= next[ev.Part] {
					w.wrong("tail of %v at %d is given [%d, %d) again", ev.Part, next[ev.Part], ev.Batch.Base(), ev.Batch.Next())
				}
				if ev.Batch.Base() > next[ev.Part] && ev.Part.Topic != w.topicID("compact") && ev.Part.Topic != w.topicID("txn") {
					w.wrong("tail of %v jumps from %d to %d without a gap", ev.Part, next[ev.Part], ev.Batch.Base())
				}
			}
			next[ev.Part] = ev.Next
		}
	}
}

func (w *world) topicID(name string) eventlog.TopicID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.topics[name].id
}

// verify holds a recovered log against the ledger.
func (w *world) verify(e *Engine) {
	if now := e.Now(); now < w.maxTime {
		w.wrong("the clock went back from %d to %d", w.maxTime, now)
	}
	found := &rawTxns{fates: map[string]txnFate{}}
	for name, t := range w.topics {
		got, ok := e.TopicByName(name)
		switch {
		case t.gone && ok:
			w.wrong("deleted topic %q is back", name)
		case !ok && !t.gone && !t.maybe:
			w.wrong("topic %q is lost", name)
		case ok && t.id != (eventlog.TopicID{}) && got.ID != t.id:
			w.wrong("topic %q has id %v, was %v", name, got.ID, t.id)
		case ok && t.configs != nil && !t.configs[got.Config["retention.ms"]]:
			w.wrong("topic %q has retention %q, want one of %v", name, got.Config["retention.ms"], t.configs)
		}
		if !ok || t.gone {
			w.topics[name] = &worldTopic{gone: !t.maybe || t.gone, maybe: t.maybe}
			continue
		}
		if t.maybe {
			w.topics[name] = &worldTopic{id: got.ID, parts: got.Partitions, configs: map[string]bool{got.Config["retention.ms"]: true}}
			t = w.topics[name]
		}
		for i := range t.parts {
			if name == "txnstate" { // see verifyTxns
				continue
			}
			w.verifyPart(e, t, eventlog.Part{Topic: t.id, Index: i}, found)
		}
	}
	if w.topics["txnstate"] != nil && len(w.transactors) > 0 && !w.isCut() {
		w.verifyTxns(e, found)
	}
}

func (w *world) verifyPart(e *Engine, t *worldTopic, p eventlog.Part, found *rawTxns) {
	ctx := context.Background()
	starts, err := e.Starts(ctx, p.Topic)
	if err != nil {
		w.wrong("starts: %w", err)
		return
	}
	ends, _ := e.Ends(ctx, p.Topic)
	start, end := starts[p.Index], ends[p.Index]
	if end < w.ends[p] {
		w.wrong("%v ends at %d, it was read to %d", p, end, w.ends[p])
	}
	trim := w.trims[p]
	if trim == nil {
		trim = &trimmed{}
	}
	if start < trim.acked || start > trim.tried && !t.retained {
		w.wrong("%v starts at %d; trimmed to %d, at most %d", p, start, trim.acked, trim.tried)
	}
	if t.txns {
		log, order, err := w.scanTxnPart(e, p, t, start, found)
		if err != nil {
			if !w.isCut() {
				w.wrong("scan %v: %w", p, err)
			}
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		latest := map[string]int64{}
		for _, o := range order {
			if r := w.recs[log[o]]; t.compact && r != nil {
				latest[r.key] = o
			}
		}
		w.checkOrder(p, t, start, end, log, order)
		w.checkNothingLost(p, t, start, log, latest)
		return
	}
	log := map[int64]string{}
	latest := map[string]int64{} // key to offset
	var order []int64
	for at := start; at < end; {
		batches, next, err := e.Read(ctx, eventlog.Position{Part: p, Offset: at}, 1<<20)
		if err != nil && w.isCut() {
			return
		}
		if err != nil || next <= at {
			w.wrong("read %v from %d: next %d, %v", p, at, next, err)
			return
		}
		for _, b := range batches {
			w.sawBatch(b)
			_ = b.Each(func(r *eventlog.Record) error {
				if r.Offset < start {
					return nil
				}
				id, _, _ := strings.Cut(string(r.Value), "|")
				log[r.Offset] = id
				order = append(order, r.Offset)
				if t.compact {
					latest[string(r.Key)] = r.Offset
				}
				return nil
			})
		}
		at = next
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkOrder(p, t, start, end, log, order)
	w.checkNothingLost(p, t, start, log, latest)
}

// checkOrder: offsets ascend without holes, everything was sent, here, once and in this order, and not refused.
func (w *world) checkOrder(p eventlog.Part, t *worldTopic, start, end int64, log map[int64]string, order []int64) {
	wrong := func(format string, args ...any) {
		w.bad = append(w.bad, fmt.Errorf("%v: "+format, append([]any{p}, args...)...))
	}
	if t.compact {
		met.compacted.Add(end - start - int64(len(order)))
	} else if int64(len(order)) != end-start && !t.txns {
		wrong("%d records in [%d, %d)", len(order), start, end)
	}
	last := map[string]int{}
	once := map[string]int64{}
	epoch := int64(0)
	for i, o := range order {
		if i > 0 && o <= order[i-1] {
			wrong("offset %d after %d", o, order[i-1])
		}
		r := w.recs[log[o]]
		switch {
		case r == nil || r.part != p:
			wrong("record %q at %d was never sent here", log[o], o)
			continue
		case r.fate == refused:
			wrong("record %q at %d was refused", log[o], o)
		case r.epoch < epoch:
			wrong("record %q of claim %d at %d, after one of claim %d", log[o], r.epoch, o, epoch)
		}
		epoch = r.epoch
		if at, twice := once[log[o]]; twice {
			wrong("record %q is at %d and %d", log[o], at, o)
		}
		once[log[o]] = o
		if n, ok := last[r.stream]; ok && r.n <= n {
			wrong("record %q at %d comes after number %d of its stream", log[o], o, n)
		}
		last[r.stream] = r.n
	}
}

// checkNothingLost: what was answered, or read, is where it was, but for what retention took and compaction replaced.
func (w *world) checkNothingLost(p eventlog.Part, t *worldTopic, start int64, log map[int64]string, latest map[string]int64) {
	superseded := func(id string, offset int64) bool {
		return t.compact && w.recs[id] != nil && latest[w.recs[id].key] > offset
	}
	for id, r := range w.recs {
		if r.part == p && (r.fate == durable || r.fate == written) && r.offset >= start && log[r.offset] != id && !superseded(id, r.offset) {
			w.bad = append(w.bad, fmt.Errorf("%v: record %q was answered (%d) with offset %d, where %q is now", p, id, r.fate, r.offset, log[r.offset]))
		}
	}
	for pos, id := range w.seen {
		if pos.Part == p && pos.Offset >= start && log[pos.Offset] != id && !superseded(id, pos.Offset) {
			w.bad = append(w.bad, fmt.Errorf("%v: record %q was read, and now %q is there", pos, id, log[pos.Offset]))
		}
	}
}
