package app

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// mqttClient is a client whose session outlives connections and nodes.
type mqttClient struct {
	w       *world
	c       *sim.Client
	name    string
	life    *life // at hand
	present bool  // a CONNACK has said that the session is there
}

func newMQTTClient(w *world, name string, version packet.Version, o sim.ClientOptions) *mqttClient {
	m := &mqttClient{w: w, name: name}
	o.Connect.Version, o.Connect.ClientID = version, name
	if version == packet.V5 {
		o.Connect.Props = packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: 0xFFFFFFFF}
	}
	o.OnPacket = func(p packet.Packet) bool {
		if d, ok := p.(*packet.Disconnect); ok && m.life != nil && !m.life.over() && !m.life.stopping.Load() {
			w.wrong("%s is sent away: %v %s", name, d.Code, d.Props.ReasonString)
		}
		return false
	}
	o.Dial = func(ctx context.Context) (net.Conn, error) { return m.life.doors.dial(doorMQTT)(ctx) }
	m.c = sim.NewClient(o)
	return m
}

// connect resumes the session, which must be there if it ever was.
func (m *mqttClient) connect(l *life) bool {
	m.life = l
	ctx, cancel := context.WithTimeout(context.Background(), m.w.patience)
	defer cancel()
	ack, err := m.c.Connect(ctx)
	if err != nil {
		if !l.over() {
			m.w.wrong("%s connects: %w", m.name, err)
		}
		return false
	}
	if m.present && !ack.SessionPresent {
		m.w.wrong("%s: the session is gone", m.name)
	}
	m.present = true
	return true
}

// leave ends the connection, in one of the ways there are.
func (m *mqttClient) leave(rng *rand.Rand) {
	if rng.IntN(2) == 0 {
		m.c.Drop()
	} else {
		m.c.Disconnect(packet.Success)
	}
	<-m.c.Done()
}

func version(i int) packet.Version {
	if i%2 == 0 {
		return packet.V5
	}
	return packet.V311
}

// publisher is a device.
type publisher struct {
	*mqttClient
	v5     bool
	states []*retainedTopic
}

// retainedTopic is what was done to a topic that this publisher alone sets and clears.
type retainedTopic struct {
	topic string
	qos   byte
	mu    sync.Mutex
	ops   []*retainedOp
}

type retainedOp struct {
	payload string // "": cleared
	acked   bool
}

func newPublisher(w *world, i int) *publisher {
	p := &publisher{v5: version(i) == packet.V5}
	p.mqttClient = newMQTTClient(w, fmt.Sprint("pub", i), version(i), sim.ClientOptions{Window: 2 + w.rng.IntN(16)})
	for k := range 3 {
		p.states = append(p.states, &retainedTopic{topic: fmt.Sprintf("state/%s/%d", p.name, k), qos: byte(1 + (i+k)%2)})
	}
	return p
}

// live sends messages over some connections.
func (p *publisher) live(l *life, rng *rand.Rand) {
	before := p.c.Stats()
	for left := 30 + rng.IntN(30); left > 0 && !l.over(); {
		if !p.connect(l) {
			return
		}
		burst := 1 + rng.IntN(left)
		left -= burst
		for range burst {
			if err := p.publish(rng); err != nil {
				if !l.over() {
					p.w.wrong("%s publishes: %w", p.name, err)
				}
				break
			}
		}
		if rng.IntN(3) > 0 {
			p.drain(l)
		}
		if left > 0 || rng.IntN(2) == 0 {
			p.leave(rng)
		}
	}
	met.resent.Add(int64(p.c.Stats().Resent - before.Resent))
}

// drain waits until everything is acknowledged.
func (p *publisher) drain(l *life) {
	ctx, cancel := context.WithTimeout(context.Background(), p.w.patience)
	defer cancel()
	if err := p.c.Drain(ctx); err != nil && !l.over() {
		p.w.wrong("%s: %w", p.name, err)
	}
}

func (p *publisher) publish(rng *rand.Rand) error {
	m := &packet.Publish{QoS: byte(1 + rng.IntN(2))}
	var state *retainedTopic
	op := &retainedOp{}
	cleared := false
	switch rng.IntN(10) {
	case 0, 1, 2, 3, 4:
		m.Topic = fmt.Appendf(nil, "fleet/v%d/telemetry", rng.IntN(4))
	case 5, 6:
		m.Topic = fmt.Appendf(nil, "cmd/v%d", rng.IntN(4))
	case 7:
		m.Topic = fmt.Appendf(nil, "misc/%s/%d", p.name, rng.IntN(2))
	default:
		state = p.states[rng.IntN(len(p.states))]
		m.Topic, m.QoS, m.Retain = []byte(state.topic), state.qos, true
		cleared = p.v5 && rng.IntN(3) == 0
		met.retained.Add(1)
	}
	more := rng.IntN(200)
	if rng.IntN(12) == 0 {
		more = rng.IntN(12 << 10)
	}
	s := p.w.send(p.name, m, more, cleared)
	if state != nil {
		op.payload = string(m.Payload)
		state.mu.Lock()
		state.ops = append(state.ops, op)
		state.mu.Unlock()
	}
	s.on = p.c.Stats().Connects
	ctx, cancel := context.WithTimeout(context.Background(), p.w.patience)
	defer cancel()
	err := p.c.Publish(ctx, m, func(code packet.Code) {
		s.doneOn = p.c.Stats().Connects
		if state != nil {
			state.mu.Lock()
			op.acked = true
			state.mu.Unlock()
		}
		p.w.acked(s, code)
	})
	if err != nil && state != nil { // it was never sent
		state.mu.Lock()
		state.ops = slices.DeleteFunc(state.ops, func(o *retainedOp) bool { return o == op })
		state.mu.Unlock()
	}
	return err
}

// watcher is a subscriber.
type watcher struct {
	*mqttClient
	filter packet.Filter
	flaps  bool // unsubscribes and subscribes again
	shared *shared

	mu         sync.Mutex
	conn       int // its connections so far
	reader     *sim.Reader
	retired    []*sim.Reader    // of subscriptions that were ended: nothing is owed to them any more
	want, have bool             // subscribed: asked for, granted
	ended      int64            // while neither: what was sent after this must not come
	got        map[*sending]int // on this connection
	// What was sent before the subscription stood is not owed, but may come: it was in flight, or is a twin of a resend. So it
	// may come late, too: of 36, 48 and 36 again in the log, one who subscribes after the first sees 48 and 36.
	renewed int64
	history []delivery
}

// shared is a shared subscription. What its members get, they get together, in no order.
type shared struct {
	filter  string // without the share's name
	mu      sync.Mutex
	begun   bool
	renewed int64
}

// stands notes that a member has subscribed; with the first one the group begins.
func (g *shared) stands(x *watcher) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.begun {
		g.begun, g.renewed = true, x.w.progress.Load()
		x.reader.Begin()
	}
}

// owed tells whether the group is owed what was sent then.
func (g *shared) owed(index int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.begun && index > g.renewed
}

// newMembers are the subscribers of a shared filter.
func newMembers(w *world, i, n int, share, filter string, qos byte) (list []*watcher) {
	g := &shared{filter: filter}
	for k := range n {
		x := newWatcher(w, i+k, packet.Filter{Filter: "$share/" + share + "/" + filter, QoS: qos})
		x.shared = g
		list = append(list, x)
	}
	return list
}

// delivery is one message as it came, for the story of a failure.
type delivery struct {
	s           *sending
	conn        int
	id          uint16
	qos         byte
	dup, retain bool
}

func newWatcher(w *world, i int, f packet.Filter) *watcher {
	x := &watcher{filter: f}
	o := sim.ClientOptions{OnMessage: x.message}
	v := packet.V5 // a clear is known by its properties
	if strings.HasPrefix(f.Filter, "fleet/") {
		v = packet.V311
	}
	x.mqttClient = newMQTTClient(w, fmt.Sprint("sub", i), v, o)
	return x
}

// message is one that has come.
func (x *watcher) message(p *packet.Publish) {
	x.mu.Lock()
	defer x.mu.Unlock()
	met.delivered.Add(1)
	s := x.w.find(p)
	x.history = append(x.history, delivery{s, x.conn, p.PacketID, p.QoS, p.Dup, p.Retain})
	if p.Retain {
		if s == nil {
			x.w.wrong("%s: a retained phantom on %q", x.name, p.Topic)
		}
		return
	}
	if x.reader == nil {
		x.w.wrong("%s got %q before it subscribed", x.name, p.Topic)
		return
	}
	if s == nil {
		x.reader.Got(p)
		return
	}
	if x.shared != nil {
		if x.shared.owed(s.index) {
			x.reader.Got(p)
		}
	} else if s.index > x.renewed {
		x.reader.Got(p)
	}
	if !x.want && !x.have && s.index > x.ended {
		x.w.wrong("%s got %+v after it had unsubscribed", x.name, s.stamp)
	}
	x.got[s]++
	x.w.saw(s)
}

// saw notes that somebody was given a message.
func (w *world) saw(s *sending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.got = true
}

// live comes and goes.
func (x *watcher) live(l *life, rng *rand.Rand) {
	for first := true; first || !l.ending(); first = false {
		if first && rng.IntN(3) > 0 || !first {
			if !x.online(l) {
				return
			}
			x.w.await(l, x.w.progress.Load()+int64(rng.IntN(80)), 50*time.Millisecond)
			if x.flaps && rng.IntN(2) == 0 {
				x.unsubscribe(l)
			}
			if l.ending() && rng.IntN(2) == 0 {
				return // it stays till the node goes
			}
			x.leave(rng)
			x.tally()
		}
		x.w.await(l, x.w.progress.Load()+int64(rng.IntN(60)), 30*time.Millisecond)
	}
}

// online connects, and subscribes unless that is done.
func (x *watcher) online(l *life) bool {
	<-x.c.Done()
	x.tally()
	x.mu.Lock()
	x.conn++
	x.history = append(x.history, delivery{conn: x.conn, id: uint16(l.number)})
	x.mu.Unlock()
	if !x.connect(l) {
		return false
	}
	x.mu.Lock()
	have := x.have
	if !have && !x.want {
		if x.reader != nil {
			x.retired = append(x.retired, x.reader)
			x.renewed = x.w.progress.Load()
		}
		if x.shared != nil {
			x.reader = x.w.ledger.Reader(x.filter.Filter, x.shared.filter, x.filter.QoS)
		} else {
			x.reader = x.w.ledger.Reader(fmt.Sprintf("%s (%d) %s", x.name, len(x.retired), x.filter.Filter), x.filter.Filter, x.filter.QoS)
		}
		x.want = true
	}
	x.mu.Unlock()
	if have {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), x.w.patience)
	defer cancel()
	codes, err := x.c.Subscribe(ctx, x.filter)
	if err == nil && codes[0].Failed() {
		err = &sim.Refused{Code: codes[0]}
	}
	if err != nil {
		if !l.over() {
			x.w.wrong("%s subscribes: %w", x.name, err)
		}
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.have = true
	if x.shared != nil {
		x.shared.stands(x)
		return true
	}
	x.renewed = x.w.progress.Load()
	x.reader.Begin()
	return true
}

// story tells what became of the first stream that came out of order, or twice at QoS 2: as it came, and as the log has it. In
// order is what can be laid on the log's records, each first coming on a later one: of 36, 48 and, resent, 36 in the log, one who
// subscribes after the first is rightly given 48 and 36.
func (x *watcher) story() (text string) {
	type stream struct{ device, topic string }
	offsets := map[*sending][]int64{}
	for _, r := range x.w.order {
		offsets[r.s] = append(offsets[r.s], r.offset)
	}
	last, seen := map[stream]int64{}, map[*sending]bool{}
	var bad *sending
	for _, d := range x.history {
		if d.s == nil || d.retain {
			continue
		}
		s := stream{d.s.stamp.Device, d.s.topic}
		if seen[d.s] {
			if d.qos == 2 {
				bad = d.s
				break
			}
			continue
		}
		seen[d.s] = true
		later := slices.IndexFunc(offsets[d.s], func(o int64) bool { return o+1 > last[s] })
		if later < 0 {
			bad = d.s
			break
		}
		last[s] = offsets[d.s][later] + 1
	}
	if bad == nil {
		return ""
	}
	text = fmt.Sprintf("%s (%s) of %s on %s, as it came:", x.name, x.filter.Filter, bad.stamp.Device, bad.topic)
	conn := 0
	for _, d := range x.history {
		if d.s == nil {
			conn, text = d.conn, text+fmt.Sprintf("\n  connection %d, in life %d", d.conn, d.id)
		} else if d.s.stamp.Device == bad.stamp.Device && d.s.topic == bad.topic {
			text += fmt.Sprintf("\n    %d (qos %d, id %d, dup %v, retain %v)", d.s.stamp.Sequence, d.qos, d.id, d.dup, d.retain)
			if conn != d.conn {
				text += fmt.Sprintf(" on connection %d", d.conn)
			}
		}
	}
	text += "\nin the log:"
	for _, r := range x.w.order {
		if r.s.stamp.Device == bad.stamp.Device && r.s.topic == bad.topic {
			text += fmt.Sprintf(" %d@%d", r.s.stamp.Sequence, r.offset)
		}
	}
	return text
}

func (x *watcher) unsubscribe(l *life) {
	ctx, cancel := context.WithTimeout(context.Background(), x.w.patience)
	defer cancel()
	x.mu.Lock()
	x.have = false // it may be gone from now on
	x.mu.Unlock()
	if _, err := x.c.Unsubscribe(ctx, x.filter.Filter); err != nil {
		if !l.over() {
			x.w.wrong("%s unsubscribes: %w", x.name, err)
		}
		// It stands or it does not: the next SUBSCRIBE begins a new one, to which what comes meanwhile is counted.
		x.mu.Lock()
		defer x.mu.Unlock()
		x.retired = append(x.retired, x.reader)
		x.renewed = x.w.progress.Load()
		x.reader = x.w.ledger.Reader(fmt.Sprintf("%s (%d) %s", x.name, len(x.retired), x.filter.Filter), x.filter.Filter, x.filter.QoS)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.want, x.ended = false, x.w.progress.Load()
}

// tally closes the account of a connection: what came more than once on it must be in the log more than once.
func (x *watcher) tally() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for s, n := range x.got {
		if n > 1 {
			met.again.Add(1)
			x.w.twice(x.name, s, n)
		}
	}
	x.got = map[*sending]int{}
}

// willing is a client with a will. It connects once.
type willing struct {
	c        *sim.Client
	s        *sending
	up       bool // CONNACK came
	left     bool // DISCONNECT was sent
	dropped  bool // it cut the connection
	uncalled bool // the will must not fire
	unsure   bool // the node was stopped in good order while it was connected
	past     bool // the node's life is over
}

// owed tells whether the will must have fired.
func (x *willing) owed() bool { return x.up && !x.left && !x.unsure }

// lifeEnds says that the life of the node has ended, by a crash or in good order.
func (x *willing) lifeEnds(crash bool) {
	switch {
	case x.past || crash:
	case x.left:
		x.uncalled = true
	case x.up && !x.dropped:
		x.unsure = true
	}
	x.past = true
}

// mortals come and go, each with its will.
func (w *world) mortals(l *life, rng *rand.Rand) {
	for range rng.IntN(4) {
		w.await(l, w.progress.Load()+int64(rng.IntN(40)), 30*time.Millisecond)
		if l.over() {
			return
		}
		n := len(w.wills)
		p := &packet.Publish{Topic: fmt.Appendf(nil, "will/%d", n%3), QoS: 2}
		x := &willing{s: w.send(fmt.Sprint("mortal", n), p, 20, false)}
		will := &packet.Will{QoS: p.QoS, Topic: string(p.Topic), Payload: p.Payload}
		connect := packet.Connect{Version: version(n), CleanStart: rng.IntN(2) == 0, ClientID: fmt.Sprint("mortal", n), Will: will}
		if connect.Version == packet.V5 && rng.IntN(2) == 0 {
			connect.Props = packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: 100_000}
			if rng.IntN(20) == 0 {
				will.Props = packet.Properties{Has: packet.PWillDelay, WillDelay: 1}
			}
		}
		x.c = sim.NewClient(sim.ClientOptions{Dial: l.doors.dial(doorMQTT), Connect: connect})
		w.wills = append(w.wills, x)
		ctx, cancel := context.WithTimeout(context.Background(), w.patience)
		_, err := x.c.Connect(ctx)
		cancel()
		if err != nil {
			if !l.over() {
				w.wrong("%s connects: %w", connect.ClientID, err)
			}
			return
		}
		x.up = true
		switch rng.IntN(3) {
		case 0:
			x.c.Drop()
			x.dropped = true
		case 1:
			x.left = true
			x.c.Disconnect(packet.Success)
		}
	}
}

// checkRetained asks, as somebody new, for what is retained: for each topic the last acknowledged value or one sent later.
func (w *world) checkRetained(l *life) {
	var mu sync.Mutex
	got, live := map[string]string{}, 0
	end := fmt.Sprintf("state/check/%d", w.progress.Load())
	c := sim.NewClient(sim.ClientOptions{
		Dial: l.doors.dial(doorMQTT), Connect: packet.Connect{Version: version(int(w.rng.Uint32() % 2)), ClientID: "checker", CleanStart: true},
		OnMessage: func(p *packet.Publish) {
			mu.Lock()
			defer mu.Unlock()
			topic := string(p.Topic)
			if !p.Retain {
				if topic == end {
					live++
				}
				return
			}
			if _, twice := got[topic]; twice {
				w.wrong("retained %s came twice", topic)
			}
			got[topic] = string(p.Payload)
		},
	})
	defer func() { c.Drop(); <-c.Done() }()
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	fail := func(err error) bool {
		if err != nil && !l.over() {
			w.wrong("check retained: %w", err)
		}
		return err != nil
	}
	if _, err := c.Connect(ctx); fail(err) {
		return
	}
	if _, err := c.Subscribe(ctx, packet.Filter{Filter: "state/#", QoS: 1}); fail(err) {
		return
	}
	var states []*retainedTopic
	for _, p := range w.publishers {
		states = append(states, p.states...)
	}
	if !w.until(l, "what is retained has come to somebody new", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !slices.ContainsFunc(states, func(s *retainedTopic) bool { return s.must() && got[s.topic] == "" })
	}) {
		return
	}
	p := &packet.Publish{Topic: []byte(end), QoS: 1}
	s := w.send("checker", p, 0, false)
	if err := c.Publish(ctx, p, func(code packet.Code) { w.acked(s, code) }); fail(err) {
		return
	}
	if !w.until(l, "the end of the retained check has come", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return live > 0
	}) {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	for _, s := range states {
		if !slices.Contains(s.allowed(), got[s.topic]) {
			stamp, _ := sim.ReadStamp(&packet.Publish{Payload: []byte(got[s.topic])})
			w.wrong("retained on %s is %s %d, want %s", s.topic, stamp.Device, stamp.Sequence, s.describe())
		}
		delete(got, s.topic)
	}
	for topic := range got {
		w.wrong("retained on %s, where nobody set anything", topic)
	}
}

// allowed are the values that the topic may have; "" is none.
func (s *retainedTopic) allowed() (values []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	values = []string{""}
	for _, op := range s.ops {
		if op.acked {
			values = values[:0]
		}
		values = append(values, op.payload)
	}
	return values
}

// must tells whether there is a value for sure.
func (s *retainedTopic) must() bool { return !slices.Contains(s.allowed(), "") }

func (s *retainedTopic) describe() (text string) {
	for _, v := range s.allowed() {
		stamp, _ := sim.ReadStamp(&packet.Publish{Payload: []byte(v)})
		text += fmt.Sprintf(" %s %d", stamp.Device, stamp.Sequence)
	}
	return "one of:" + text
}
