package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// TestNodePowerLoss lets many lives of a whole node end by kill -9, by power loss, by one after the other, or in good order; some
// while the node is still starting. Devices, subscribers and Kafka clients keep a ledger of what they sent, what was acknowledged
// and what they got, and at the end of each seed, when everything owed has been delivered, it is held against the log.
func TestNodePowerLoss(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // it makes much that is soon forgotten
	n := uint64(tier.Dear(2000))
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range 2 * max(2, runtime.GOMAXPROCS(0)) { // lives wait more than they work
		wg.Go(func() {
			for !t.Failed() {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				w := newWorld(tier.Seed() + i)
				if err := w.run(); err != nil {
					t.Errorf("seed %d (MILLRACE_SEED=%d): %v\nthe node said:\n%s", w.seed, w.seed, err, w.said.tail())
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%+v", covered())
	if n < 50 || t.Failed() {
		return
	}
	for what, times := range covered() {
		if times == 0 {
			t.Errorf("no seed has ever met: %s", what)
		}
	}
}

// met counts what all seeds have met, so that the test cannot come to test nothing.
var met struct {
	lives, lostInStart, crashes, acked, resent, delivered, retained, wills, commits, produced, reread, again, compacted, checkpoints, replayed, torn atomic.Int64
}

func covered() map[string]int64 {
	return map[string]int64{
		"a life": met.lives.Load(), "a crash within a start": met.lostInStart.Load(), "a crash": met.crashes.Load(),
		"an acked message": met.acked.Load(), "a resent message": met.resent.Load(), "a delivery": met.delivered.Load(),
		"a retained message": met.retained.Load(), "a will": met.wills.Load(), "a committed offset": met.commits.Load(),
		"a record of a Kafka client": met.produced.Load(), "a record read as Kafka": met.reread.Load(),
		"a duplicate at QoS 1": met.again.Load(), "compaction of session state": met.compacted.Load(),
		"a checkpoint": met.checkpoints.Load(), "a replay": met.replayed.Load(), "a torn frame": met.torn.Load(),
	}
}

const (
	wantAcked = 500
	wantLives = 4 // three restarts
	maxLives  = 60
)

// world is one node through all its lives, its clients, and the ledger.
type world struct {
	seed     uint64
	rng      *rand.Rand
	patience time.Duration
	tcp      bool // loopback instead of pipes: the broker waits for and writes to real sockets
	mem      *vfs.Mem
	jumped   atomic.Int64 // how far the clock is ahead of the system's
	said     logBuffer
	tune     tuning
	cluster  *clusterWorld // nil: the log is embedded
	marks    map[string]bool

	ledger   *sim.Ledger
	progress atomic.Int64 // messages sent
	acks     atomic.Int64

	publishers []*publisher
	watchers   []*watcher
	wills      []*willing
	producer   *kafkaProducer
	committer  *kafkaCommitter
	reader     *kafkaReader

	settled bool // the last life is over

	mu    sync.Mutex
	sent  map[sim.Stamp]*sending // without Due
	again []again
	order []logRecord
	bad   []error
}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 0x6e6f6465))
	w := &world{
		seed: seed, rng: rng, patience: 30 * time.Second, tcp: rng.IntN(4) == 0, mem: vfs.NewMem(),
		ledger: sim.NewLedger(), sent: map[sim.Stamp]*sending{}, marks: map[string]bool{},
	}
	walFiles, checkpoint, memory, segment := 2+rng.IntN(2), int64(24+rng.IntN(200))<<10, int64(1+rng.IntN(3))<<20, int64(8+rng.IntN(56))<<10
	openFiles := 8 + rng.IntN(40)
	w.tune.engine = func(o *engine.Options) {
		o.WALFileBytes, o.WALFiles, o.CheckpointBytes, o.MemoryBytes = 672<<10, walFiles, checkpoint, memory
		o.SegmentBytes, o.ReserveBytes, o.MaintainEvery, o.OpenFiles = segment, 1<<20, -1, openFiles
	}
	every, bytes := time.Duration(1+rng.IntN(40))*time.Millisecond, int64(2+rng.IntN(60))<<10
	inflight, queue, read, outbound := 2+rng.IntN(40), 64<<rng.IntN(6), 512<<rng.IntN(5), 4<<10<<rng.IntN(6)
	w.tune.broker = func(o *broker.Options) {
		o.Session.CheckpointEvery, o.Session.CheckpointBytes, o.Session.MaxInflight = every, bytes, inflight
		o.Session.MaxQueueBytes, o.Session.ReadBytes, o.Limits.OutboundBytes = queue, read, outbound
	}
	for i := range 3 {
		w.publishers = append(w.publishers, newPublisher(w, i))
	}
	for i, f := range []packet.Filter{
		{Filter: "#", QoS: 2}, {Filter: "fleet/+/telemetry", QoS: 1}, {Filter: "fleet/v1/telemetry", QoS: 2},
		{Filter: "cmd/+", QoS: 2}, {Filter: "misc/#", QoS: 1}, {Filter: "state/#", QoS: 2}, {Filter: "fleet/v2/telemetry", QoS: 2},
	} {
		w.watchers = append(w.watchers, newWatcher(w, i, f))
	}
	w.watchers[len(w.watchers)-1].flaps = true
	w.watchers = append(w.watchers, newMembers(w, len(w.watchers), 2, "pair", "fleet/#", byte(1+seed%2))...)
	w.producer, w.committer, w.reader = newKafkaProducer(w), newKafkaCommitter(w), newKafkaReader(w)
	return w
}

func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = append(w.bad, fmt.Errorf(format, args...))
}

// err is what has been found so far.
func (w *world) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.bad[:min(len(w.bad), 8)]...)
}

// fork gives an actor dice of its own.
func (w *world) fork() *rand.Rand { return rand.New(rand.NewPCG(w.rng.Uint64(), 1)) }

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.jumped.Load())) }

func (w *world) run() error {
	for number := 0; ; number++ {
		if number > maxLives {
			return fmt.Errorf("only %d messages are acknowledged after %d lives", w.acks.Load(), number)
		}
		last := number >= wantLives && w.acks.Load() >= wantAcked
		l, err := w.start(number, last)
		if err != nil {
			return fmt.Errorf("life %d: %w", number, err)
		}
		if l == nil { // the power went while it started
			continue
		}
		met.lives.Add(1)
		if last {
			w.settle(l)
		} else {
			w.live(l)
		}
		w.end(l)
		if err := w.err(); err != nil {
			return fmt.Errorf("life %d: %w", number, err)
		}
		if last {
			return nil
		}
	}
}

// life is one life of the node.
type life struct {
	number   int
	node     *Node
	doors    *memoryDoors
	crash    func()
	dying    atomic.Bool   // set before the crash
	stopping atomic.Bool   // set before it ends in good order
	cut      chan struct{} // closed after it
	quiet    chan struct{} // closed when nobody sends any more

	doom *time.Timer // of a life on a cluster: when it ends badly
	bury func()      // the rest of it
}

// over tells whether the life ends by a crash.
func (l *life) over() bool { return l.dying.Load() }

// ending tells whether the life is over or nearly so.
func (l *life) ending() bool {
	select {
	case <-l.quiet:
		return true
	default:
		return l.over()
	}
}

const powerlossConfig = `
log: {partitions: 2, session_partitions: 2, retained_partitions: 2}
limits: {packet_bytes: 16384, flapping: {losses: 0}} # on a busy machine a life is long, and its clients come and go all the time
routes:
- {mqtt: "fleet/{vehicle}/telemetry", topic: telemetry, key: "{vehicle}", partitions: 3}
- {mqtt: "cmd/{vehicle}", topic: commands, key: "{vehicle}", partitions: 2, direction: both}
- {mqtt: "state/#", topic: states, partitions: 2, compression: snappy}
`

// start begins a life, on files that may lose power at any change that is made to them, in the start already. The last life does
// not end so.
func (w *world) start(number int, last bool) (*life, error) {
	if w.cluster != nil {
		return w.startOnCluster(number, last)
	}
	if w.rng.IntN(2) == 0 { // never back: that is the engine's own test
		w.jumped.Add(w.rng.Int64N(int64(2 * time.Hour)))
	}
	l := &life{number: number, doors: newMemoryDoors(w.tcp), cut: make(chan struct{}), quiet: make(chan struct{})}
	l.crash = w.crasher(l)
	files := vfs.FS(w.mem)
	if !last {
		files = vfs.Faults(w.mem, w.faults(l))
	}
	c, err := config.Parse(powerlossConfig, "test")
	if err != nil {
		return nil, err
	}
	c.Listeners = config.Listeners{MQTT: []config.MQTT{{Bind: "127.0.0.1:0"}}, Kafka: []config.Kafka{{Bind: "127.0.0.1:0"}}}
	l.node, err = Start(context.Background(), Options{
		Config: c, Version: "test", Files: files, Now: w.now, Listen: l.doors.listen, tune: w.tune,
		Logger: slog.New(slog.NewTextHandler(&w.said, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err == nil {
		l.doors.open(l.node)
		return l, nil
	}
	if !l.over() {
		return nil, fmt.Errorf("start: %w", err)
	}
	<-l.cut
	met.lostInStart.Add(1)
	w.afterwards(l)
	return nil, nil
}

// changes are the operations that a crash can come before, with another outcome than before the next one.
var changes = map[vfs.Kind]bool{vfs.OpCreate: true, vfs.OpRename: true, vfs.OpRemove: true, vfs.OpMkdir: true, vfs.OpSyncDir: true,
	vfs.OpWrite: true, vfs.OpTruncate: true, vfs.OpSync: true, vfs.OpDatasync: true}

// faults lets the power go before some operation.
func (w *world) faults(l *life) func(vfs.Op) error {
	left := int64(100 + w.rng.IntN(1500))
	counts := func(op vfs.Op) bool { return changes[op.Kind] }
	switch w.rng.IntN(8) {
	case 0: // while it starts
		left = int64(w.rng.IntN(100))
	case 1, 2, 3: // between a commit's write and its sync
		left = int64(w.rng.IntN(500))
		counts = func(op vfs.Op) bool { return op.Kind == vfs.OpDatasync }
	case 4: // within a checkpoint
		left = int64(w.rng.IntN(100))
		counts = func(op vfs.Op) bool {
			return op.Kind == vfs.OpRename || op.Kind == vfs.OpSyncDir || op.Kind == vfs.OpSync
		}
	}
	var ops atomic.Int64
	dally := w.rng.IntN(3) == 0
	return func(op vfs.Op) error {
		if !counts(op) || ops.Add(1) != left {
			return nil
		}
		if dally { // what must not be seen before this is done can be seen now
			for range 200 {
				runtime.Gosched()
			}
		}
		l.crash()
		return fs.ErrClosed
	}
}

// crasher returns what ends the life at hand: kill -9, power loss, or one after the other.
func (w *world) crasher(l *life) func() {
	rng, mem := w.fork(), w.mem
	return sync.OnceFunc(func() {
		l.dying.Store(true)
		var next *vfs.Mem
		switch rng.IntN(4) {
		case 0:
			next = mem.Kill()
		case 1:
			next = mem.Kill().Crash(rng)
		default:
			next = mem.Crash(rng)
		}
		w.mu.Lock()
		w.mem = next
		w.mu.Unlock()
		met.crashes.Add(1)
		close(l.cut)
		l.doors.cut()
	})
}

// afterwards is the time between two lives: a power cut may follow whatever ended the last one.
func (w *world) afterwards(l *life) {
	if l.over() && w.rng.IntN(4) > 0 || w.rng.IntN(2) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem = w.mem.Crash(w.rng)
}

// live lets clients work until they are done or the crash comes.
func (w *world) live(l *life) {
	var senders, others sync.WaitGroup
	run := func(wg *sync.WaitGroup, f func(*life, *rand.Rand)) {
		rng := w.fork()
		wg.Go(func() { f(l, rng) })
	}
	if w.cluster == nil {
		w.committer.check(l)
	}
	if w.rng.IntN(3) == 0 {
		w.checkRetained(l)
	}
	for _, x := range w.watchers {
		run(&others, x.live)
	}
	if w.cluster == nil { // whose clients are its own
		run(&others, w.reader.live)
		run(&senders, w.producer.live)
		run(&senders, w.committer.live)
		run(&senders, w.maintain)
	}
	for _, p := range w.publishers {
		run(&senders, p.live)
	}
	run(&senders, w.mortals)
	senders.Wait()
	close(l.quiet)
	others.Wait()
}

// maintain compacts now and then.
func (w *world) maintain(l *life, rng *rand.Rand) {
	for range rng.IntN(3) {
		w.await(l, w.progress.Load()+int64(rng.IntN(40)), 20*time.Millisecond)
		if err := l.node.engine.Maintain(context.Background()); err != nil && !l.over() {
			w.wrong("maintain: %w", err)
		}
	}
	s := l.node.engine.Stats()
	met.checkpoints.Add(int64(s.Checkpoints))
	met.replayed.Add(int64(s.RecoveredBatches))
	met.torn.Add(s.TornBytes)
}

// await waits until so many messages were sent, the life ends, or time is up.
func (w *world) await(l *life, progress int64, most time.Duration) {
	for deadline := time.Now().Add(most); w.progress.Load() < progress && !l.ending() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// until waits for something that must come about; the crash ends the wait too.
func (w *world) until(l *life, what string, ok func() bool) bool {
	deadline := time.Now().Add(w.patience)
	for pause := 100 * time.Microsecond; !ok(); pause = min(2*pause, 5*time.Millisecond) {
		if l.over() {
			return false
		}
		if time.Now().After(deadline) {
			w.wrong("it never came about that %s", what)
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// end ends the life: by its crash if that has come, else in good order or by a crash now.
func (w *world) end(l *life) {
	done := l.node.broker.Ready()
	if w.rng.IntN(2) == 0 && !w.settled {
		l.crash()
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	go func() {
		select {
		case <-l.cut: // nothing is answered any more
			cancel()
		case <-ctx.Done():
		}
	}()
	if l.doom != nil && !l.doom.Stop() {
		<-l.cut // it is on its way
	}
	l.stopping.Store(true)
	err := l.node.Stop(ctx)
	if l.bury != nil {
		defer l.bury()
	}
	if !l.over() {
		if err != nil {
			w.wrong("stop: %w", err)
		}
		if !done {
			w.wrong("stopped before the sessions were restored")
		}
		select {
		case err := <-l.node.Failed():
			w.wrong("the node failed: %w", err)
		default:
		}
	} else {
		<-l.cut
	}
	for _, x := range w.wills {
		x.lifeEnds(l.over())
	}
	l.doors.cut()
	for _, p := range w.publishers {
		<-p.c.Done()
	}
	for _, x := range w.watchers {
		<-x.c.Done()
	}
	for _, x := range w.wills {
		<-x.c.Done()
	}
	w.afterwards(l)
}

// sending is one message on its way into the log.
type sending struct {
	stamp      sim.Stamp
	topic      string
	ref        int
	index      int64 // of all that were sent
	on, doneOn int   // the publisher's connection that it was first sent on, and that it was acknowledged on
	copies     int   // in the log
	got        bool
}

// send enters a message of a device, and makes its payload: the stamp and some more. A clear has an empty payload, and the stamp
// in its properties.
func (w *world) send(device string, p *packet.Publish, more int, clear bool) *sending {
	s := &sending{stamp: sim.Stamp{Device: device, Sequence: w.ledger.Last(device) + 1}, topic: string(p.Topic)}
	if clear {
		p.Props.User = []packet.UserProperty{{Name: sim.PropDevice, Value: device}, {Name: sim.PropSequence, Value: fmt.Sprint(s.stamp.Sequence)}}
	} else {
		p.Payload = stamped(s.stamp, more)
	}
	s.ref = w.ledger.Sent(device, s.stamp.Sequence, p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[s.stamp] = s
	s.index = w.progress.Add(1)
	return s
}

// acked enters the answer.
func (w *world) acked(s *sending, code packet.Code) {
	w.ledger.Acked(s.ref, code)
	if code.Failed() {
		w.wrong("%+v was refused: %v", s.stamp, code)
		return
	}
	w.acks.Add(1)
	met.acked.Add(1)
}

// find returns the message that somebody was given, nil for a phantom, which the ledger notes.
func (w *world) find(p *packet.Publish) *sending {
	stamp, _ := sim.ReadStamp(p)
	stamp.Due = time.Time{}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[stamp]
}

// tail is the end of what was said.
func (l *logBuffer) tail() string {
	lines := strings.Split(l.String(), "\n")
	return strings.Join(slices.Clip(lines[max(0, len(lines)-25):]), "\n")
}
