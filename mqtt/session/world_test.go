package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// world is a simulated log, clock and network around a real Core. Everything the core asks for stays outstanding until the
// test lets it happen, in any order that the contracts allow: writes to one target in order, appends to one partition in
// order, reads whenever. A crash keeps a prefix of each target's outstanding writes and any subset of the appends; some of the
// appends of QoS 2 arrive after the restart, as a late retry does on Kafka.
type world struct {
	rnd   *rand.Rand
	now   int64
	opts  Options
	core  *Core
	epoch int64

	parts     []*simPart
	targets   []*simTarget
	reads     []*simRead
	histories []*simHistory
	pubs      []*simAppend // outstanding appends, in order
	late      []*simAppend
	slow      []func() // outcomes of appends that are on their way
	fed       []int64  // per part, what the core has seen

	clients      []*simClient
	denied       map[string]bool
	counts       map[string]int
	model        *model
	crashed      bool // Failed was called
	refuse       bool // writes and publishes may be refused now
	refusals     int
	refuseWrites bool // the next write of a sessions partition
	twins        bool // appends may come late, beside the client's own repetition
	arid         bool // time and retention pass quickly
	wavering     bool // clients subscribe again to what they have just unsubscribed, and many writes are refused
	crashes      int
	serial       int
	trace        []string
	err          error
	books        accounts
}

type simPart struct {
	part  Part
	start int64
	next  int64
	time  int64
	recs  []Message
}

type simTarget struct {
	target Target
	part   Part
	recs   []simRecord
	next   int64
	writes []simWrite
}

type simRecord struct {
	offset int64
	StateRecord
}

type simWrite struct {
	token uint64
	recs  []StateRecord
}

type simRead struct {
	token uint64
	pos   Position
	max   int
}

type simAppend struct {
	msg   Message
	token uint64     // of Host.Publish, else 0
	in    *Inbound   // QoS 2 of a client
	owner *simClient //
	conn  *simConn   // that it came on
	id    uint16
}

const retainedBase = 1 << 40 // offsets of the retained topic, to tell its messages apart

var simTopics = []string{"a/1", "a/2", "a/b/c", "b/1", "b/2", "c", "$x/1"}
var simFilters = []string{"a/1", "a/+", "a/#", "b/1", "b/#", "#", "+/1", "c", "$x/#"}

func newWorld(seed uint64) *world {
	w := &world{
		rnd: rand.New(rand.NewPCG(seed, 7)), now: 1_000_000, denied: map[string]bool{}, counts: map[string]int{},
	}
	w.opts = Options{
		MaxQueueBytes: w.pick(4, 16, 64<<10), MaxInflight: w.pick(2, 8, 1024), CheckpointBytes: int64(w.pick(200, 2000, 1<<20)),
		ReadBytes: w.pick(200, 1000, 64<<10), MaxAllSubs: w.pick(0, 0, 0, 5), CopyAfter: time.Duration(w.pick(1, 2000)) * time.Millisecond,
	}
	for i := range 4 {
		p := &simPart{part: Part{Topic: [16]byte{byte(1 + i/2)}, Index: int32(i % 2)}}
		p.next = int64(w.rnd.IntN(3))
		p.start = p.next
		w.parts = append(w.parts, p)
	}
	for i := range 2 {
		w.targets = append(w.targets, &simTarget{target: Target{Partition: int32(i)}, part: Part{[16]byte{0xA0}, int32(i)}})
		w.targets = append(w.targets, &simTarget{target: Target{Retained: true, Partition: int32(i)}, part: Part{[16]byte{0xA1}, int32(i)}, next: retainedBase})
	}
	w.model = newModel(w)
	w.twins, w.arid = w.chance(25), w.chance(25)
	for i := range 4 {
		w.clients = append(w.clients, newSimClient(w, fmt.Sprintf("client%d", i)))
	}
	w.start()
	return w
}

func (w *world) pick(of ...int) int { return of[w.rnd.IntN(len(of))] }

func (w *world) chance(percent int) bool { return w.rnd.IntN(100) < percent }

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.logf("FAIL: %v", w.err)
	}
}

// start claims, restores, and begins the tail.
func (w *world) start() {
	w.epoch++
	w.crashed = false
	var targets []Target
	for _, t := range w.targets {
		targets = append(targets, t.target)
	}
	w.core = New(w.opts, w, targets)
	w.books = accounts{tallies: map[Part]*Tally{}, sums: map[Part]*sums{}}
	for _, t := range w.targets {
		if err := w.core.Restore(t.target, t.part, w.epoch, t.visit); err != nil {
			w.fail("restore: %v", err)
		}
	}
	ends, starts := Vector{}, Vector{}
	for _, p := range w.parts {
		ends[p.part], starts[p.part] = p.next, p.start
	}
	from := w.core.Restored(w.now, ends, starts)
	w.fed = make([]int64, len(w.parts))
	for i, p := range w.parts {
		w.fed[i] = from[p.part]
	}
}

func (t *simTarget) visit(visit func(int64, StateRecord) error) error {
	for _, r := range t.recs {
		if err := visit(r.offset, r.StateRecord); err != nil {
			return err
		}
	}
	return nil
}

// compact keeps the last record of each key of a target, as the log does now and then.
func (t *simTarget) compact() {
	last := map[string]int64{}
	for _, r := range t.recs {
		last[string(r.Key)] = r.offset
	}
	t.recs = slices.DeleteFunc(t.recs, func(r simRecord) bool { return last[string(r.Key)] != r.offset || r.Value == nil })
}

// Host.

func (w *world) Write(token uint64, to Target, recs []StateRecord) {
	t := w.target(to)
	t.writes = append(t.writes, simWrite{token, recs})
}

func (w *world) target(to Target) *simTarget {
	return w.targets[slices.IndexFunc(w.targets, func(t *simTarget) bool { return t.target == to })]
}

func (w *world) Read(token uint64, pos Position, maxBytes int) {
	w.reads = append(w.reads, &simRead{token, pos, maxBytes})
}

func (w *world) Publish(token uint64, m *Message) {
	if w.denied[m.Client+" "+m.Topic] {
		w.fail("%s: will to %s fired without right", m.Client, m.Topic)
	}
	w.pubs = append(w.pubs, &simAppend{msg: *m, token: token})
}

func (w *world) Allowed(k Key, publish bool, name string) bool { return !w.denied[k.ClientID+" "+name] }

func (w *world) Count(reason string, n int) { w.counts[reason] += n }

func (w *world) Failed(err error) {
	w.logf("core failed: %v", err)
	w.crashed = true
}

// Steps.

// writeOne lets the oldest outstanding write of a target happen.
func (w *world) writeOne(t *simTarget) {
	wr := t.writes[0]
	t.writes = t.writes[1:]
	results := make([]Result, len(wr.recs))
	mode := 0
	if w.refuseWrites && !t.target.Retained {
		mode, w.refuseWrites = 1, false
		w.refusals++
	} else if w.refuse && w.chance(10) {
		mode = w.pick(1, 1, 1, 2)
		w.refusals++
	} else if w.wavering && !w.model.quiet && w.chance(25) {
		mode = 1
		w.refusals++
	}
	for i, r := range wr.recs {
		if mode == 1 || mode == 2 && w.chance(30) {
			results[i].Err = fmt.Errorf("no space")
			continue
		}
		results[i].Pos = Position{t.part, t.append(r)}
	}
	w.logf("write %v: %d records, mode %d", t.target, len(wr.recs), mode)
	w.core.Written(w.now, wr.token, results)
}

func (t *simTarget) append(r StateRecord) int64 {
	off := t.next
	t.next++
	t.recs = append(t.recs, simRecord{off, r})
	return off
}

func (w *world) partOf(name string) int { return int(hash(name) % uint32(len(w.parts))) }

// append puts a message into the log.
func (w *world) append(m Message) Position {
	p := w.parts[w.partOf(m.Topic)]
	if w.chance(15) {
		p.next += int64(1 + w.rnd.IntN(2)) // records that MQTT never sees
	}
	m.Offset = p.next
	p.time = max(p.time, m.Time) // a node's times do not go back
	m.Time = p.time
	p.next++
	p.recs = append(p.recs, m)
	w.model.logged(&m)
	w.logf("append %s %s@%d q%d retain %v", m.Payload, m.Topic, m.Offset, m.QoS, m.Retain)
	return Position{p.part, m.Offset}
}

// appendOne lets one outstanding append happen: the oldest, so that a topic's order is that of the calls.
func (w *world) appendOne() {
	a := w.pubs[0]
	w.pubs = w.pubs[1:]
	if w.refuse && w.chance(10) {
		w.refusals++
		w.settle(a, Position{}, fmt.Errorf("no space"))
		return
	}
	pos := w.append(a.msg)
	if w.chance(50) {
		w.slow = append(w.slow, func() { w.settle(a, pos, nil) })
		return
	}
	w.settle(a, pos, nil)
}

func (w *world) settle(a *simAppend, pos Position, err error) {
	switch {
	case a.token != 0:
		w.core.Published(w.now, a.token, Result{pos, err})
	case a.in != nil && err == nil:
		a.in.Stable(a.id, a.msg.QoS2)
		a.owner.pubrec(a.id, a.in, packet.Success)
	case a.in != nil:
		a.in.Refused(a.id, a.msg.QoS2)
		if c := a.owner; c.conn == a.conn {
			c.pubrec(a.id, a.in, packet.QuotaExceeded)
		} else if c.conn != nil && c.conn.asked[a.id] { // it waits for this append: it has to send again
			c.disconnect(Lost, nil)
		}
	}
}

// feed gives the core the next batch of a partition's tail.
func (w *world) feed(i int) {
	p := w.parts[i]
	from := w.fed[i]
	if from < p.start {
		w.logf("gap part %d to %d", i, p.start)
		w.fed[i] = p.start
		w.model.gap(i, p.start)
		w.core.Gap(w.now, p.part, p.start)
		return
	}
	b := Batch{Part: p.part, Base: from, Next: p.next}
	limit := w.pick(1, 2, 5, 100)
	for _, m := range p.recs {
		if m.Offset < from {
			continue
		}
		if len(b.Msgs) == limit {
			b.Next = b.Msgs[limit-1].Offset + 1
			break
		}
		b.Msgs = append(b.Msgs, m)
	}
	if b.Next <= from {
		return
	}
	w.logf("feed part %d [%d,%d)", i, b.Base, b.Next)
	w.books.tag(&b)
	for j := range b.Msgs {
		w.model.matched(i, &b.Msgs[j])
	}
	w.model.reached(i, b.Next)
	w.fed[i] = b.Next
	denied := w.counts[DropDenied]
	w.core.Tail(w.now, &b)
	if denied = w.counts[DropDenied] - denied; denied > 0 {
		w.model.givenUp(denied)
	}
}

// readOne answers an outstanding read.
func (w *world) readOne(n int) {
	r := w.reads[n]
	w.reads = slices.Delete(w.reads, n, n+1)
	for _, t := range w.targets {
		if t.part == r.pos.Part {
			w.readRetained(t, r)
			return
		}
	}
	for _, p := range w.parts {
		if p.part == r.pos.Part {
			w.readPart(p, r)
		}
	}
}

func (w *world) readPart(p *simPart, r *simRead) {
	if r.pos.Offset < p.start {
		w.core.ReadDone(w.now, r.token, Batch{}, fmt.Errorf("read: %w", &GapError{p.start}))
		return
	}
	if w.refuse && w.chance(5) {
		w.core.ReadDone(w.now, r.token, Batch{}, fmt.Errorf("disk"))
		return
	}
	b := Batch{Part: p.part, Base: r.pos.Offset, Next: p.next}
	left := r.max
	for _, m := range p.recs {
		if m.Offset < r.pos.Offset {
			continue
		}
		if left <= 0 {
			b.Next = m.Offset
			break
		}
		b.Msgs = append(b.Msgs, m)
		left -= len(m.Payload) + 1000
	}
	w.books.tag(&b)
	w.core.ReadDone(w.now, r.token, b, nil)
}

func (w *world) readRetained(t *simTarget, r *simRead) {
	b := Batch{Part: t.part, Base: r.pos.Offset, Next: t.next}
	left := r.max
	for _, rec := range t.recs {
		if rec.offset < r.pos.Offset {
			continue
		}
		if left <= 0 {
			b.Next = rec.offset
			break
		}
		if m, ok := StoredMessage(rec.offset, rec.StateRecord); ok {
			b.Msgs = append(b.Msgs, m)
			left -= len(m.Payload) + 1000
		}
	}
	w.core.ReadDone(w.now, r.token, b, nil)
}

// trim moves the start of a partition, as retention does.
// Mostly it takes nothing that a restart would replay.
func (w *world) trim(i int) {
	p := w.parts[i]
	limit := w.fed[i]
	for _, sh := range w.core.shards {
		limit = min(limit, sh.f.at(w.core.index[p.part]))
	}
	for _, st := range w.core.stores {
		limit = min(limit, st.f.at(w.core.index[p.part]))
	}
	if w.chance(5) {
		limit = p.next
		w.model.wild = true
	}
	if limit <= p.start {
		return
	}
	to := p.start + int64(w.rnd.IntN(int(limit-p.start)+1))
	w.logf("trim part %d to %d", i, to)
	p.start = to
	p.recs = slices.DeleteFunc(p.recs, func(m Message) bool { return m.Offset < to })
	w.model.trimmed(i, to)
}

// crash loses the core, and what the log does not have of what was outstanding.
func (w *world) crash() {
	w.crashes++
	w.logf("crash")
	for _, t := range w.targets {
		keep := w.rnd.IntN(len(t.writes) + 1)
		for _, wr := range t.writes[:keep] {
			for _, r := range wr.recs {
				t.append(r)
			}
		}
		if len(t.writes) > keep && w.chance(50) { // part of one
			recs := t.writes[keep].recs
			for _, r := range recs[:w.rnd.IntN(len(recs)+1)] {
				t.append(r)
			}
		}
		t.writes = nil
		if w.chance(50) {
			t.compact()
		}
	}
	for _, a := range w.pubs {
		switch n := w.rnd.IntN(3); {
		case n == 0:
			w.append(a.msg)
		case n == 1 && w.twins && a.in != nil && a.msg.QoS2.Incarnation != 0:
			w.model.late[string(a.msg.Payload)] = true
			w.late = append(w.late, a)
		}
	}
	w.pubs, w.reads, w.slow, w.histories = nil, nil, nil, nil
	w.model.crash()
	for _, c := range w.clients {
		c.crash()
	}
	w.start()
	w.model.restarted()
}

func (w *world) tick(ms int64) {
	w.now += ms
	w.core.Tick(w.now)
	if w.core.Ready() {
		w.model.ticked()
	}
	w.books.check(w)
}

// simClient is an MQTT client that obeys the standard.
type simClient struct {
	w        *world
	key      Key
	conn     *simConn
	session  *modelSession // what the server keeps for it, as far as the model knows
	received map[uint16]bool
	acks     []*packet.Ack // to be sent, in any order
	sent     map[uint16]*simPub
	order    []uint16 // of sent
	nextID   uint16
	present  bool
	attempts []*simConn             // CONNECTs not answered
	refused  packet.Code            // the last CONNECT
	unsure   bool                   // it has forgotten its session, the server perhaps not
	leases   map[uint16]*groupEntry // by packet id
}

// simPub is a message that a client publishes at QoS 2.
type simPub struct {
	msg      Message
	released bool // PUBREC came
}

func newSimClient(w *world, id string) *simClient {
	return &simClient{w: w, key: Key{"t", "p", id}, received: map[uint16]bool{}, sent: map[uint16]*simPub{}, leases: map[uint16]*groupEntry{}}
}

// simConn is one connection of a client.
type simConn struct {
	suback   *packet.Suback // the last one
	w        *world
	client   *simClient
	r        *Connect
	at       int64
	crashes  int
	accepted bool
	dead     bool
	closing  bool // DISCONNECT 0x00 was sent: Close is awaited
	room     int
	full     bool
	out      []simOut
	wire     map[uint16]byte // packet ids of deliveries not complete on this connection, and their QoS
	inbound  *Inbound
	will     *modelWill
	ops      map[uint16]*modelOp
	asked    map[uint16]bool // ids published on it at QoS 2
	opID     uint16
	code     packet.Code            // of Close
	codes    []packet.Code          // of the last SUBACK or UNSUBACK
	leases   map[uint16]*groupEntry // by packet id, of QoS 1
}

type simOut struct {
	serves []*modelReplay
	again  bool // some of those had it before a crash
	at     int  // of the model's clock
	d      Delivery
	msg    Message
	p      packet.Packet
	group  *groupEntry
}

func (c *simClient) connect() {
	w := c.w
	r := &Connect{
		Key: c.key, Version: packet.V5, CleanStart: w.chance(20), Expiry: uint32(w.pick(0, 5, 100, 100, 100)),
		ReceiveMaximum: uint16(w.pick(1, 2, 5, 100)),
	}
	c.connectWith(r, w.pick(1, 3, 1000))
}

func (c *simClient) connectWith(r *Connect, room int) {
	w := c.w
	n := &simConn{w: w, client: c, r: r, at: w.now, crashes: w.crashes, room: room, wire: map[uint16]byte{}, ops: map[uint16]*modelOp{}, asked: map[uint16]bool{}, leases: map[uint16]*groupEntry{}}
	if !w.model.quiet && w.chance(40) {
		n.will = w.model.newWill(n)
		r.Will = n.will.packet
	}
	w.logf("%s connect clean %v expiry %d max %d room %d will %s", c.key.ClientID, r.CleanStart, r.Expiry, r.ReceiveMaximum, room, n.will)
	if old := c.conn; old != nil { // the server will find out
		if !old.accepted {
			w.model.unanswered(old)
		}
		c.cut()
	}
	if r.CleanStart = r.CleanStart || c.unsure; r.CleanStart {
		c.forget()
		c.unsure = true
	}
	c.conn, c.refused = n, 0
	c.attempts = append(c.attempts, n)
	w.core.Connect(w.now, n, r)
}

func (n *simConn) Accept(a Accepted) {
	if n.accepted || n.dead {
		n.w.fail("%s: Accept twice, or after the end", n.client.key.ClientID)
	}
	n.w.logf("%s accepted, present %v", n.client.key.ClientID, a.SessionPresent)
	n.accepted, n.inbound = true, a.Inbound
	n.client.answered(n)
	n.w.model.accepted(n, a)
	if n.client.conn == n { // else it has given this connection up
		n.client.unsure = false
		n.client.connected(a.SessionPresent)
	}
}

func (n *simConn) Refuse(code packet.Code, reason string) {
	n.w.logf("%s refused %v %s", n.client.key.ClientID, code, reason)
	if n.accepted || n.dead {
		n.w.fail("%s: Refuse after the end", n.client.key.ClientID)
	}
	n.client.answered(n)
	n.client.refused = code
	n.w.model.refused(n)
	n.end()
}

func (n *simConn) Close(code packet.Code, reason string) {
	n.w.logf("%s closed %v %s", n.client.key.ClientID, code, reason)
	n.code = code
	if n.dead && !n.closing {
		n.w.fail("%s: Close after the end", n.client.key.ClientID)
	}
	if n.closing {
		n.w.model.closed(n)
	} else {
		n.w.model.lost(n, Lost)
	}
	n.closing = false
	n.end()
}

func (c *simClient) answered(n *simConn) {
	c.attempts = slices.DeleteFunc(c.attempts, func(x *simConn) bool { return x == n })
}

// end is the end of the network connection for the client.
func (n *simConn) end() {
	n.dead = true
	n.out = nil
	if c := n.client; c.conn == n {
		c.cut()
	}
}

// cut leaves a client without connection. If its session expires at once the client forgets it too.
func (c *simClient) cut() {
	if c.conn.r.Expiry == 0 && c.conn.accepted {
		c.forget()
	}
	c.conn, c.acks = nil, nil
}

func (n *simConn) Send(p packet.Packet) {
	if n.dead || !n.accepted {
		n.w.fail("%s: Send outside the connection", n.client.key.ClientID)
		return
	}
	switch p := p.(type) {
	case *packet.Suback:
		n.codes, n.suback = p.Codes, p
		n.w.logf("%s answered %d: %v", n.client.key.ClientID, p.PacketID, p.Codes)
		n.w.model.answered(n, p)
		return
	case *packet.Ack:
		q := *p
		n.out = append(n.out, simOut{p: &q})
	}
}

func (n *simConn) Deliver(d *Delivery) bool {
	w := n.w
	if n.dead || !n.accepted {
		w.fail("%s: Deliver outside the connection", n.client.key.ClientID)
		return false
	}
	if n.full {
		w.fail("%s: Deliver without room", n.client.key.ClientID)
	}
	o := simOut{d: *d, msg: *d.Msg}
	w.logf("%s <- %s %s@%d q%d id %d dup %v retain %v ids %v", n.client.key.ClientID, d.Msg.Payload, d.Msg.Topic, d.Msg.Offset, d.QoS, d.PacketID, d.Dup, d.Retain, d.SubIDs)
	o.d.Msg = nil
	if d.QoS > 0 {
		if _, taken := n.wire[d.PacketID]; taken || d.PacketID == 0 {
			w.fail("%s: packet id %d is taken", n.client.key.ClientID, d.PacketID)
		}
		n.wire[d.PacketID] = d.QoS
		if len(n.wire) > int(n.r.ReceiveMaximum) {
			w.fail("%s: receive maximum exceeded", n.client.key.ClientID)
		}
	}
	w.model.emitted(n, &o)
	n.out = append(n.out, o)
	n.full = len(n.out) >= n.room
	return !n.full
}

// connected: the client has its CONNACK, and sends again what is not complete.
func (c *simClient) connected(present bool) {
	c.present = present
	c.acks = nil
	if !present {
		c.forget()
	}
}

// forget drops the client's side of the session.
func (c *simClient) forget() {
	clear(c.received)
	clear(c.leases)
	for _, id := range c.order {
		c.w.model.forget(c.sent[id])
	}
	clear(c.sent)
	c.order = nil
}

// resend: the first thing a client does on a resumed session.
func (c *simClient) resend() {
	c.present = false
	for _, id := range slices.Clone(c.order) {
		p := c.sent[id]
		if p.released {
			c.w.core.Packet(c.w.now, c.conn, &packet.Ack{Kind: packet.PUBREL, PacketID: id})
		} else {
			c.publish2(id, p)
		}
		if c.conn == nil {
			return
		}
	}
}

// publish sends a new message.
func (c *simClient) publish() {
	w := c.w
	w.serial++
	m := Message{
		Offset: -1, Time: w.now, Topic: simTopics[w.rnd.IntN(len(simTopics))], Payload: fmt.Appendf(nil, "m%d", w.serial),
		QoS: byte(w.rnd.IntN(3)), Retain: w.chance(25), Client: c.key.ClientID,
	}
	if w.chance(10) {
		m.Props = &Props{HasExpiry: true, Expiry: uint32(w.pick(1, 10, 100))}
	}
	if m.Retain && m.QoS < 2 && w.chance(25) {
		m.Clear, m.Payload = true, nil
	}
	if m.QoS == 2 {
		if c.conn == nil || !c.conn.accepted || c.conn.dead || c.present || len(c.sent) > 3 {
			return
		}
		for c.nextID = c.nextID%5 + 1; c.sent[c.nextID] != nil; c.nextID = c.nextID%5 + 1 {
		}
		p := &simPub{msg: m}
		w.model.pub(p)
		c.sent[c.nextID] = p
		c.order = append(c.order, c.nextID)
		c.publish2(c.nextID, p)
		return
	}
	w.pubs = append(w.pubs, &simAppend{msg: m})
}

// publish2 is a PUBLISH of QoS 2 as the broker treats it.
func (c *simClient) publish2(id uint16, p *simPub) {
	in := c.conn.inbound
	c.conn.asked[id] = true
	t, state := in.Begin(id)
	c.w.logf("%s publishes %s id %d: %v %v", c.key.ClientID, p.msg.Payload, id, state, t)
	switch state {
	case Fresh:
		m := p.msg
		m.QoS2, m.Time = t, c.w.now
		c.w.pubs = append(c.w.pubs, &simAppend{msg: m, in: in, owner: c, conn: c.conn, id: id})
	case Open:
		c.pubrec(id, in, packet.Success)
	}
}

// pubrec reaches the client if it is on the session that the message was published on.
func (c *simClient) pubrec(id uint16, in *Inbound, code packet.Code) {
	if c.conn != nil && c.conn.accepted && !c.conn.dead && c.conn.inbound == in {
		c.conn.out = append(c.conn.out, simOut{p: &packet.Ack{Kind: packet.PUBREC, PacketID: id, Code: code}})
	}
}

// receive takes the next thing off the network.
func (c *simClient) receive() {
	n := c.conn
	o := n.out[0]
	n.out = n.out[1:]
	switch p := o.p.(type) {
	case nil:
		c.delivered(n, &o)
	case *packet.Ack:
		c.w.logf("%s gets %d id %d code %v", c.key.ClientID, p.Kind, p.PacketID, p.Code)
		switch p.Kind {
		case packet.PUBREL:
			delete(c.received, p.PacketID)
			c.acks = append(c.acks, &packet.Ack{Kind: packet.PUBCOMP, PacketID: p.PacketID})
		case packet.PUBREC:
			if s := c.sent[p.PacketID]; s == nil {
				break
			} else if s.released = !p.Code.Failed(); s.released {
				c.w.model.received(s)
				c.acks = append(c.acks, &packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID})
			} else {
				c.complete(p.PacketID, true)
			}
		case packet.PUBCOMP:
			if s := c.sent[p.PacketID]; s != nil && s.released {
				c.complete(p.PacketID, false)
			}
		}
	}
	if n.full && len(n.out) < n.room {
		n.full = false
		c.w.core.Writable(c.w.now, n)
	}
}

func (c *simClient) complete(id uint16, failed bool) {
	c.w.model.complete(c.sent[id], failed)
	delete(c.sent, id)
	c.order = slices.DeleteFunc(c.order, func(x uint16) bool { return x == id })
}

func (c *simClient) delivered(n *simConn, o *simOut) {
	switch o.d.QoS {
	case 0:
		c.w.model.app(n, o)
	case 1:
		c.w.model.app(n, o)
		c.acks = append(c.acks, &packet.Ack{Kind: packet.PUBACK, PacketID: o.d.PacketID, Code: c.verdict(o)})
	case 2:
		if code := c.verdict(o); code != 0 && !c.received[o.d.PacketID] {
			c.acks = append(c.acks, &packet.Ack{Kind: packet.PUBREC, PacketID: o.d.PacketID, Code: code})
			return
		}
		if !c.received[o.d.PacketID] {
			c.received[o.d.PacketID] = true
			c.w.model.app(n, o)
		} else if !o.d.Dup {
			c.w.fail("%s: id %d of QoS 2 used for %s while it is open", c.key.ClientID, o.d.PacketID, o.msg.Payload)
		}
		c.acks = append(c.acks, &packet.Ack{Kind: packet.PUBREC, PacketID: o.d.PacketID})
	}
}

// verdict is the code that a client acknowledges a message with. A member of a group refuses some.
func (c *simClient) verdict(o *simOut) packet.Code {
	if o.group != nil && !c.w.model.quiet && c.w.chance(5) {
		return packet.QuotaExceeded
	}
	return packet.Success
}

// ack sends one of the acks that the client owes.
func (c *simClient) ack(i int) {
	a := c.acks[i]
	c.acks = slices.Delete(c.acks, i, i+1)
	if a.Kind == packet.PUBACK || a.Kind == packet.PUBCOMP || a.Code.Failed() {
		delete(c.conn.wire, a.PacketID)
	}
	c.w.model.ackedGroup(c.conn, a)
	c.w.logf("%s sends %d id %d", c.key.ClientID, a.Kind, a.PacketID)
	c.w.core.Packet(c.w.now, c.conn, a)
}

func (c *simClient) disconnect(cause Cause, expiry *uint32) {
	n := c.conn
	c.w.logf("%s disconnects %d expiry %v", c.key.ClientID, cause, expiry)
	n.closing = cause == Normal && n.accepted
	n.dead = true
	c.w.model.lost(n, cause)
	if expiry != nil && c.session != nil {
		c.session.expiry, c.session.changed = *expiry, true
	}
	closing := n.closing
	c.w.core.Disconnected(c.w.now, n, cause, expiry)
	if !closing {
		n.end()
	}
	if c.conn == n {
		c.cut()
	}
}

func (c *simClient) crash() {
	if n := c.conn; n != nil {
		n.dead = true
		c.cut()
	}
}

func (c *simClient) subscribe() {
	w := c.w
	p := &packet.Subscribe{}
	if w.chance(40) {
		p.Props.SubscriptionIDs = []uint32{uint32(1 + w.rnd.IntN(5))}
	}
	for range 1 + w.rnd.IntN(2) {
		p.Filters = append(p.Filters, packet.Filter{
			Filter: simFilters[w.rnd.IntN(len(simFilters))], QoS: byte(w.rnd.IntN(3)), NoLocal: w.chance(15),
			RetainAsPublished: w.chance(30), RetainHandling: byte(w.pick(0, 0, 1, 2)),
		})
	}
	if l := w.core.links[c.conn]; l != nil && l.asking != 0 {
		w.asksHistory(p) // when a group begins that waits for an earlier SUBSCRIBE, nobody can see
	} else if w.chance(40) {
		f := packet.Filter{Filter: simShared[w.rnd.IntN(len(simShared))], QoS: byte(w.pick(0, 1, 1, 2, 2)), RetainAsPublished: w.chance(30)}
		p.Filters, p.Props.SubscriptionIDs = []packet.Filter{f}, []uint32{sharedID(f.Filter)}
	} else {
		w.asksHistory(p)
	}
	c.ask(p)
}

// ask sends a SUBSCRIBE.
func (c *simClient) ask(p *packet.Subscribe) {
	n, w := c.conn, c.w
	n.opID++
	p.PacketID = n.opID
	w.logf("%s subscribes %+v %v", c.key.ClientID, p.Filters, p.Props.User)
	w.model.subscribe(n, p)
	w.core.Packet(w.now, n, p)
}

func (c *simClient) unsubscribe() {
	n := c.conn
	n.opID++
	p := &packet.Unsubscribe{PacketID: n.opID, Filters: []string{simFilters[c.w.rnd.IntN(len(simFilters))]}}
	if s := c.session; s != nil && len(s.subs) > 0 && c.w.chance(80) {
		p.Filters[0] = s.subs[c.w.rnd.IntN(len(s.subs))].filter
	}
	c.w.logf("%s unsubscribes %v", c.key.ClientID, p.Filters)
	c.w.model.unsubscribe(n, p)
	c.w.core.Packet(c.w.now, n, p)
	if c.w.wavering && c.conn == n && !n.dead {
		c.subscribeTo(p.Filters[0])
		if c.w.chance(30) && c.conn == n && !n.dead {
			c.unsubscribe()
		}
	}
}

// subscribeTo subscribes to one filter.
func (c *simClient) subscribeTo(filter string) {
	f := packet.Filter{Filter: filter, QoS: byte(c.w.rnd.IntN(3)), RetainHandling: byte(c.w.pick(0, 0, 1, 2))}
	p := &packet.Subscribe{Filters: []packet.Filter{f}}
	if l := c.w.core.links[c.conn]; l != nil && l.asking != 0 && isShared(filter) {
		return
	}
	if isShared(filter) {
		p.Props.SubscriptionIDs = []uint32{sharedID(filter)}
	} else {
		c.w.asksHistory(p)
	}
	c.ask(p)
}

func matches(filter, name string) bool { return topic.Match(filter, name) }
