// Package bridge joins this log with other MQTT brokers: what is published here goes out to them, what is published there comes in.
//
// A bridge reads the log itself, from a position that advances only when the remote has acknowledged what lies before it. The log is
// its buffer: days without a connection cost disk, not memory, and neither a restart here nor one there loses what was acknowledged
// to a device. At QoS 1 a message may arrive twice, after a lost connection or a crash; at QoS 2 once, for as long as the remote keeps
// its session, since packet ids and what they stand for are written down before they are used. Messages of one key keep their order.
//
// What comes in is acknowledged to the remote once it is durable in the log, and is then a message like any device's, of the client
// bridge:NAME. At QoS 2 a message that was on its way when this process died may come twice.
//
// A Set owns, for each bridge, one goroutine that keeps the connection, one that reads the log, one that writes down how far it is, two of the
// MQTT client, and one more where the buffer is bounded in bytes. On disk is the compacted log topic __millrace_bridges
// (docs/formats/bridges.md). A bridge holds at most one window of messages and what one poll of the log brought. It never decides what
// a message means, and it never skips one without counting it.
package bridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Store is what a bridge needs of the routes: package route's Store.
type Store interface {
	// Append, Data and Read are broker.Store's.
	Append(msgs []session.Message, done func(results []session.Result)) (wait <-chan struct{})
	Data(ctx context.Context) (starts, ends session.Vector, err error)
	Read(ctx context.Context, pos session.Position, maxBytes int) (session.Batch, error)
	// Follow is a tail for who only looks on.
	Follow(from session.Vector) (broker.Tail, error)
}

// Options say how a Set is built. Log, Store and Milliseconds are required.
type Options struct {
	Log     *eventlog.Log
	Store   Store
	Bridges []Spec
	// Milliseconds since 1970, never back: the clock of the log's records.
	Milliseconds func() int64
	Now          func() time.Time // default time.Now
	Random       func() float64   // in [0,1), for pauses; default math/rand
	Rand         io.Reader        // for the name of a new log; default crypto/rand
	Logger       *slog.Logger     // default: discards
	// Admits tells whether there is room for one more retained message; nil: always.
	Admits func(topic string, payload int) bool

	SaveEvery   time.Duration // how often positions are written that nobody waits for; default 1 s
	GiveUpAfter time.Duration // see suspect; default 10 minutes
}

// Spec is one bridge.
type Spec struct {
	Name       string
	Remote     string // what to call it
	Dial       func(ctx context.Context) (net.Conn, error)
	Version    packet.Version // 3.1.1 or 5.0; default 5.0
	ClientID   string
	Username   string
	Password   func() ([]byte, error) // asked at each connection; nil: none
	CleanStart bool                   // a new session at the remote with each connection
	KeepAlive  time.Duration          // default 60 s
	Patience   time.Duration          // how long an answer may take; default half of KeepAlive
	Private    bool                   // 3.1.1: say that this is a bridge, while the remote takes it
	StateTopic string                 // at the remote, retained: 1 while there is a connection, 0 without; "": none

	Out, In  []Topic
	MaxAge   time.Duration // messages that have waited for longer are dropped; 0: none
	MaxBytes int64         // of payloads waiting; beyond it the oldest are dropped; 0: no bound
	Window   int           // messages on their way to the remote; default 64, on 3.1.1 20, at most 1000
	// MaxPacket is the largest packet that the remote may send. It is told so on MQTT 5; before, what is larger is discarded as it
	// comes. 0: MQTT's own limit.
	MaxPacket int
	Retry     bool // send again what the remote has refused; else it is dropped

	RetryMin, RetryMax time.Duration // pauses between attempts to connect; default 1 s and 30 s
	// PerMinute is how many connections it makes within a minute at most, whatever the pauses; default 10: a Millrace at the other end
	// bans who loses 15.
	PerMinute int
}

func (s Spec) withDefaults() Spec {
	s.Version = cmp.Or(s.Version, packet.V5)
	s.KeepAlive = cmp.Or(s.KeepAlive, time.Minute)
	s.Patience = cmp.Or(s.Patience, max(s.KeepAlive/2, minPatience))
	usual := 64
	if s.Version < packet.V5 {
		usual = safeWindow
	}
	s.Window = min(cmp.Or(s.Window, usual), maxWindow)
	s.RetryMin = cmp.Or(s.RetryMin, time.Second)
	s.RetryMax = max(cmp.Or(s.RetryMax, 30*time.Second), s.RetryMin)
	s.PerMinute = cmp.Or(s.PerMinute, 10)
	s.Private = s.Private && s.Version < packet.V5
	return s
}

// safeWindow is how many messages of QoS 2 every remote takes on 3.1.1, where it cannot say so: a Mosquitto with its defaults drops what is more,
// and acknowledges it, since PUBREC has no place for a refusal.
const safeWindow = 20

// Set is the bridges of a node.
type Set struct {
	o       Options
	ledger  *ledger
	self    string // what this log is called in loop guards
	bridges []*bridge
}

// bridge is one of them.
type bridge struct {
	set    *Set
	spec   Spec
	client string // of its records
	log    *slog.Logger
	mqtt   *client.Client

	books     *books
	sender    *sender
	receiver  *receiver
	keeper    *keeper
	backlog   *backlog // nil: no bound in bytes
	counters  counters
	condition condition
	private   atomic.Bool
	quota     atomic.Int64
	scratch   []byte // the sender's

	// Of run.
	made       []time.Time // the last PerMinute connections
	barren     int         // connections without progress
	alone      int         // of these, with suspected alone
	aloneSince time.Time
	suspected  *flight

	mu     sync.Mutex
	up     chan struct{} // closed while there is a connection
	limits limits
	remote []string // filters subscribed to
	lost   int      // sessions, of the client's count

	ctx    context.Context // until Close
	cancel context.CancelFunc
	work   sync.WaitGroup // all but the keeper
	saving context.CancelFunc
}

// Open claims the bridges' topic and finds out how far each bridge is; one that is new begins at the log's end. From then on what is
// published is for the bridges. They connect with Start.
func Open(ctx context.Context, o Options) (*Set, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = mathrand.Float64
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.SaveEvery, o.GiveUpAfter = cmp.Or(o.SaveEvery, time.Second), cmp.Or(o.GiveUpAfter, 10*time.Minute)
	s := &Set{o: o}
	if len(o.Bridges) == 0 {
		return s, nil
	}
	var err error
	if s.ledger, err = openLedger(ctx, o.Log, o.Milliseconds); err != nil {
		return nil, err
	}
	if s.self, err = s.ledger.self(ctx, o.Rand); err != nil {
		return nil, err
	}
	starts, ends, err := o.Store.Data(ctx)
	if err != nil {
		return nil, err
	}
	for i := range o.Bridges {
		b, err := s.open(ctx, o.Bridges[i].withDefaults(), starts, ends)
		if err != nil {
			return nil, fmt.Errorf("bridge %q: %w", o.Bridges[i].Name, err)
		}
		s.bridges = append(s.bridges, b)
	}
	return s, nil
}

// open makes one bridge.
func (s *Set) open(ctx context.Context, spec Spec, starts, ends session.Vector) (*bridge, error) {
	b := &bridge{set: s, spec: spec, client: ClientID(spec.Name), books: newBooks(spec.Window), up: make(chan struct{}),
		log: s.o.Logger.With("bridge", spec.Name)}
	if spec.Version < packet.V5 && spec.Window > safeWindow && len(spec.Out) > 0 {
		b.log.Warn("the window is larger than what a Mosquitto takes unless its max_inflight_messages is raised too: it acknowledges messages of QoS 2 beyond that, and drops them",
			"window", spec.Window, "usual", safeWindow, "remote", spec.Remote)
	}
	b.condition.set(Connecting, s.o.Now())
	b.private.Store(spec.Private)
	b.quota.Store(int64(spec.Window))
	b.receiver = &receiver{b: b, open: map[uint16]*arrival{}}
	b.keeper = newKeeper(b)
	b.sender = &sender{b: b}
	if spec.MaxBytes > 0 {
		b.backlog = &backlog{b: b, anew: make(chan struct{}, 1)}
	}
	b.mqtt = client.New(client.Options{Dial: spec.Dial, Connect: b.greeting(), Window: 2 * maxWindow, OwnIDs: firstID, Patience: spec.Patience,
		ManualAcks: true, OnMessage: b.receiver.message, OnRepeated: b.receiver.repeated, OnPacket: b.receiver.packet, OnLink: b.linked,
		MaxPacket: spec.MaxPacket, OnDiscarded: b.receiver.discarded,
		Prepare: b.prepare, Quota: func() int { return int(b.quota.Load()) }})
	b.mqtt.Await(true)
	value, known := s.ledger.values[string(bridgeKey(spec.Name))]
	if len(spec.Out) == 0 { // nothing is read
		starts, ends = nil, nil
	}
	var was saved
	if known {
		var err error
		if was, err = decodeSaved(value); err != nil {
			return nil, fmt.Errorf("record of topic %q: %w", StateTopic, err)
		}
		b.remote = was.remote
	}
	if len(was.positions) == 0 {
		for part, end := range ends {
			b.books.read(part, end)
		}
		first, _ := b.books.snapshot()
		first.remote = b.remote
		return b, s.ledger.save(ctx, bridgeKey(spec.Name), first.encode())
	}
	flights, parts := was.restore(b.books, starts, ends)
	for i, f := range flights {
		if err := b.restore(ctx, f, session.Position{Part: parts[i], Offset: f.offset}); err != nil {
			return nil, err
		}
	}
	if len(was.received) == 0 {
		return b, nil
	}
	for _, id := range was.received {
		b.mqtt.RestoreReceived(id)
		b.receiver.open[id] = &arrival{qos: 2, id: id, state: stored}
	}
	now, _ := b.books.snapshot()
	now.remote = b.remote
	return b, s.ledger.save(ctx, bridgeKey(spec.Name), now.encode()) // the list is good for this process only
}

// restore puts a QoS 2 message on its way again that was on its way when an earlier process ended. One that the remote may have under
// its packet id, and that cannot be sent again, is released there.
func (b *bridge) restore(ctx context.Context, f *flight, pos session.Position) error {
	var p *packet.Publish
	if f.state == sent {
		m, err := b.reread(ctx, pos)
		if err != nil {
			return err
		}
		if m != nil {
			o := outgoing{msg: m}
			if o.topic, o.name, _ = b.wanted(m); o.topic != nil && b.sender.encode(&o, limits{qos: 2, retain: true}) == "" && o.pub.QoS == 2 {
				p = o.pub
			}
		}
		if p == nil {
			b.counters.drop(DropGap, 1)
			f.state, f.told = released, true
		}
	}
	f.told = f.state == released
	p2 := packet.Publish{QoS: 2}
	if p != nil {
		p2 = *p
	}
	return b.mqtt.Restore(f.id, p, f.state == released, func(step client.Step, code packet.Code) { b.step(f, &p2, step, code) })
}

// reread reads one message of the log again; nil: it is gone.
func (b *bridge) reread(ctx context.Context, pos session.Position) (*session.Message, error) {
	batch, err := b.set.o.Store.Read(ctx, pos, 1)
	if errors.Is(err, session.ErrGap) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range batch.Msgs {
		if m := &batch.Msgs[i]; m.Offset == pos.Offset {
			return m, nil
		}
	}
	return nil, nil
}

// Start connects the bridges, and lets them read.
func (s *Set) Start() error {
	for _, b := range s.bridges {
		if len(b.spec.Out) == 0 {
			b.start()
			continue
		}
		tail, err := s.o.Store.Follow(b.books.vector())
		if err != nil {
			return fmt.Errorf("bridge %q: %w", b.spec.Name, err)
		}
		b.sender.tail = tail
		b.start()
	}
	return nil
}

func (b *bridge) start() {
	b.ctx, b.cancel = context.WithCancel(context.Background())
	saving, stop := context.WithCancel(context.Background())
	b.saving = stop
	go b.keeper.run(saving)
	b.work.Go(func() { b.run(b.ctx) })
	if b.sender.tail != nil {
		b.work.Go(func() { b.sender.run(b.ctx) })
	}
	if b.sender.tail != nil && b.backlog != nil {
		b.work.Go(func() { b.backlog.run(b.ctx) })
	}
}

// Close ends the bridges: nothing more is sent, and what is on its way is waited for, for a moment. The log and the routes stay open.
func (s *Set) Close(ctx context.Context) error {
	var all sync.WaitGroup
	for _, b := range s.bridges {
		if b.ctx != nil {
			all.Go(func() { b.close(ctx) })
		}
	}
	all.Wait()
	return nil
}

// drainTime is how long a bridge that ends waits for the remote's acknowledgements.
const drainTime = 2 * time.Second

func (b *bridge) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	b.cancel()
	b.mqtt.Await(false)
	b.receiver.end()
	_ = b.mqtt.Drain(ctx) // what is left is sent again by the next process
	for !b.receiver.idle() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	b.announce(ctx, "0")
	b.mqtt.Disconnect(packet.Success)
	b.work.Wait()
	b.mqtt.Disconnect(packet.Success) // a connection that was being made
	if b.sender.tail != nil {
		b.sender.tail.Close()
	}
	b.receiver.leave()
	_ = b.keeper.save(ctx)
	b.saving()
	<-b.keeper.done
	b.condition.set(Stopped, b.set.o.Now())
}

// linked hears of connections from the client.
func (b *bridge) linked(up bool) {
	if !up {
		return
	}
	lost := b.mqtt.Stats().Lost
	b.mu.Lock()
	present := !b.spec.CleanStart && lost == b.lost
	b.lost = lost
	b.mu.Unlock()
	b.receiver.renew(present)
}

func (b *bridge) subscribed() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.remote
}

// setSubscribed says what is subscribed to from now on, and returns what was.
func (b *bridge) setSubscribed(filters []string) (old []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, b.remote = b.remote, filters
	return old
}

// failed notes an error, and logs it now and then.
func (b *bridge) failed(what string, err error) {
	err = fmt.Errorf("%s: %w", what, err)
	if b.condition.fail(what, err, b.set.o.Now()) {
		b.log.Warn("the bridge has a problem", "remote", b.spec.Remote, "err", err)
	}
}

// fence ends a bridge that another node has taken over.
func (b *bridge) fence(err error) {
	b.failed("another node on this log runs the bridges", err)
	b.condition.set(Fenced, b.set.o.Now())
	b.cancel()
	b.mqtt.Drop()
}

// Taken is how many messages of remotes were handed to the store, how many of these it refused, and how many it has not answered yet.
func (s *Set) Taken() (handed, refused, appending int64) {
	for _, b := range s.bridges {
		c := &b.counters
		refused += c.refused.Load()
		answered := c.answered.Load()
		h := c.handed.Load() // last: what comes meanwhile is on its way
		handed += h
		appending += h - answered
	}
	return handed, refused, appending
}

// Status tells how each bridge is.
func (s *Set) Status(ctx context.Context) ([]Status, error) {
	list := []Status{}
	if len(s.bridges) == 0 {
		return list, nil
	}
	_, ends, err := s.o.Store.Data(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range s.bridges {
		list = append(list, b.status(ends))
	}
	return list, nil
}

func (b *bridge) status(ends session.Vector) Status {
	c, m := &b.counters, b.mqtt.Stats()
	st := Status{Name: b.spec.Name, Remote: b.spec.Remote, Connects: uint64(m.Connects), Resent: uint64(m.Resent),
		Sent: c.sent.Load(), Acked: c.acked.Load(), Received: c.received.Load(), Stored: c.stored.Load(), Dropped: c.drops()}
	b.condition.fill(&st)
	var oldest int64
	st.InFlight, oldest, st.Behind = b.books.waiting(ends)
	if oldest > 0 {
		st.Lag = max(0, float64(b.set.o.Now().UnixMilli()-oldest)/1000)
	}
	return st
}
