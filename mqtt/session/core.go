package session

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// Core holds all sessions of the claimed targets. Every call is made by one goroutine, with the owner's clock as now
// (milliseconds since 1970).
//
// A call changes memory and collects records; on its way out it hands them to Host.Write. What a packet promises, the packet
// waits for: the closures given to write run when the outcome is there. So memory may be ahead of the log, but never by
// anything that a client has been told. A write that was refused is undone in memory; a write that is fenced or unknown ends
// the core, because then nobody can say what the log holds.
type Core struct {
	o    Options
	host Host
	now  int64

	epoch   uint64 // the highest epoch of the claims, in the upper half of incarnations
	counter uint32
	seq     uint64 // of sessions, in order of creation

	shards   []*shard
	stores   []*retainedStore
	lanes    map[Target]*lane
	writes   map[uint64][]outcome // by token
	reads    map[uint64]*fetch
	wills    map[uint64]*will // being published, by token
	token    uint64
	unfired  []*will // whose publish was refused
	stale    map[staleKey]*lane
	places   []place
	index    map[Part]int32
	snapshot vector // of the places' next, nil when one has moved
	filter   topic.Tree[*session, *sub]
	cache    matchCache
	policy   uint64 // counts PolicyChanged

	sessions map[Key]*session
	lives    map[Incarnation]*session // persistent sessions
	armed    map[Incarnation]*will    // by the will's own id
	links    map[Conn]*link
	attempts map[Conn]*attempt
	turns    map[Key]*turn
	early    []*attempt // CONNECTs before Ready
	timers   timers
	retained topic.Names[*retained]
	cursors  []*session // waiting until a retained message is stable
	paced    []*session // waiting for another call, to look on
	looks    int        // at retained names that are left to this call
	look     int        // retainedLook, but in tests
	readers  []*link    // waiting for a read to be free
	tallies  []*Tally   // that have something to tell
	retries  []retry

	restoring map[Key]*saved // until Restored
	garbage   []deadKey
	triples   map[Triple]struct{} // seen below their sessions' frontiers
	orphans   []*will             // of sessions that wrote nothing but these
	replaying bool
	anchors   int // first checkpoints that Ready waits for
	failed    bool
	hurry     bool   // a checkpoint is wanted now
	floor     vector // where the replay ended
	buffered  int    // bytes read for sessions and not delivered

	unfiredAt, staleAt int64

	since struct { // the last checkpoint
		bytes int64
		start int64 // when the first change came; 0: none
		cost  int64 // bytes that the last one wrote
	}
	out  Delivery // scratch for Deliver
	pair []pair   // scratch for matching
}

// place is one partition that positions can be in: of the data topics, or of the retained topic. Places are numbered; sets and
// vectors use the numbers.
type place struct {
	part     Part
	next     int64 // the matcher's next offset
	ready    int64 // what the replay must reach
	tailed   bool
	dead     bool // its topic was deleted, or no route leads to it any more
	retained bool
	book     book
}

// vector holds an offset per place. A place beyond its end, or that it never knew, is at 0.
type vector []int64

func (v vector) at(place int32) int64 {
	if int(place) < len(v) {
		return v[place]
	}
	return 0
}

// lane is one claimed target: the writes to it go out in order.
type lane struct {
	target  Target
	part    Part
	recs    []StateRecord
	bytes   int
	pending []outcome

	removals int // of sessions and wills, outstanding
}

// outcome is what to do when a run of records has been written, or refused.
type outcome struct {
	records int
	done    func(results []Result, err error)
}

type deadKey struct {
	lane *lane
	key  []byte
}

const (
	writeBytes = 256 << 10 // of records in one Host.Write, about
	redoEvery  = 1_000     // milliseconds until what was refused is tried again
)

// New returns an empty core. Targets are all partitions of the sessions and the retained topic, at least one of each; a session
// lives in the one that its key hashes to.
func New(o Options, h Host, targets []Target) *Core {
	o.MaxExpiry = cmp.Or(o.MaxExpiry, 7*24*3600)
	o.MaxQueueBytes = cmp.Or(o.MaxQueueBytes, 64<<10)
	o.MaxInflight = min(cmp.Or(o.MaxInflight, 1024), 32<<10)
	o.MaxSubs = cmp.Or(o.MaxSubs, 10_000)
	o.CheckpointBytes = cmp.Or(o.CheckpointBytes, 32<<20)
	o.CheckpointEvery = cmp.Or(o.CheckpointEvery, 2*time.Second)
	o.ReadBytes = cmp.Or(o.ReadBytes, 64<<10)
	c := &Core{
		o: o, host: h, replaying: true, look: retainedLook,
		lanes: map[Target]*lane{}, writes: map[uint64][]outcome{}, reads: map[uint64]*fetch{}, wills: map[uint64]*will{},
		index: map[Part]int32{}, sessions: map[Key]*session{}, lives: map[Incarnation]*session{}, armed: map[Incarnation]*will{},
		links: map[Conn]*link{}, attempts: map[Conn]*attempt{}, turns: map[Key]*turn{}, restoring: map[Key]*saved{}, triples: map[Triple]struct{}{}, stale: map[staleKey]*lane{},
	}
	c.cache = newMatchCache()
	targets = slices.Clone(targets)
	slices.SortFunc(targets, func(a, b Target) int { return int(a.Partition) - int(b.Partition) })
	for _, t := range targets {
		l := &lane{target: t}
		c.lanes[t] = l
		if t.Retained {
			c.stores = append(c.stores, &retainedStore{lane: l, unstable: map[*retained]struct{}{}})
		} else {
			c.shards = append(c.shards, &shard{lane: l})
		}
	}
	return c
}

// Ready tells whether the replay has reached the ends given to Restored, so that sessions may be resumed. A Connect made
// before waits by itself.
func (c *Core) Ready() bool { return !c.replaying }

// enter begins a call. It is false when the core has failed.
func (c *Core) enter(now int64) bool {
	c.now, c.looks = max(c.now, now), c.look
	return !c.failed
}

// leave ends a call: what it wrote goes out.
func (c *Core) leave() {
	for _, s := range c.shards {
		c.flush(s.lane)
	}
	for _, s := range c.stores {
		c.flush(s.lane)
	}
}

// write appends records to a target; done runs once with their outcome, all or nothing: a mixed outcome ends the core.
func (c *Core) write(l *lane, done func(err error), recs ...StateRecord) {
	c.append(l, func(_ []Result, err error) {
		if done != nil {
			done(err)
		}
	}, recs...)
}

func (c *Core) append(l *lane, done func(results []Result, err error), recs ...StateRecord) {
	size := 0
	for _, r := range recs {
		size += len(r.Key) + len(r.Value)
	}
	if l.bytes > 0 && l.bytes+size > writeBytes {
		c.flush(l)
	}
	l.recs = append(l.recs, recs...)
	l.bytes += size
	l.pending = append(l.pending, outcome{len(recs), done})
}

func (c *Core) flush(l *lane) {
	if len(l.recs) == 0 || c.failed {
		return
	}
	c.token++
	c.writes[c.token] = l.pending
	recs := l.recs
	l.recs, l.pending, l.bytes = nil, nil, 0
	c.host.Write(c.token, l.target, recs)
}

// Written is the outcome of a Host.Write, one result per record.
func (c *Core) Written(now int64, token uint64, results []Result) {
	if !c.enter(now) {
		return
	}
	outcomes, ok := c.writes[token]
	if !ok {
		return
	}
	delete(c.writes, token)
	for _, o := range outcomes {
		if o.records > len(results) {
			c.fail(ErrUnknown)
			return
		}
		err, mixed := verdict(results[:o.records])
		if mixed || errors.Is(err, ErrFenced) || errors.Is(err, ErrUnknown) {
			c.fail(err)
			return
		}
		o.done(results[:o.records], err)
		results = results[o.records:]
	}
	c.leave()
}

// verdict is the first error among results; mixed tells that others succeeded.
func verdict(results []Result) (err error, mixed bool) {
	good := false
	for _, r := range results {
		good = good || r.Err == nil
		if err == nil {
			err = r.Err
		}
	}
	return err, err != nil && good
}

// fail ends the core.
func (c *Core) fail(err error) {
	if !c.failed {
		c.failed = true
		c.host.Failed(err)
	}
}

// place returns the number of a partition, a new one if it has none.
func (c *Core) place(p Part) int32 {
	if i, ok := c.index[p]; ok {
		return i
	}
	i := int32(len(c.places))
	c.places = append(c.places, place{part: p})
	c.index[p] = i
	c.snapshot = nil
	return i
}

// next is the matcher's next offset in every place, now. It is shared and never changes.
func (c *Core) next() vector {
	if c.snapshot == nil {
		c.snapshot = make(vector, len(c.places))
		for i := range c.places {
			c.snapshot[i] = c.places[i].next
		}
	}
	return c.snapshot
}

// positions is a vector as it is written: of the places that are tailed.
func (c *Core) positions(v vector) []Position {
	list := make([]Position, 0, len(v))
	for i := range v {
		if p := &c.places[i]; p.tailed && !p.dead {
			list = append(list, Position{p.part, v[i]})
		}
	}
	return list
}

// vector is the reverse of positions.
func (c *Core) vector(list []Position) vector {
	v := make(vector, len(c.places))
	for _, p := range list {
		i := c.place(p.Part)
		for int(i) >= len(v) {
			v = append(v, 0)
		}
		v[i] = p.Offset
	}
	return v
}

func (c *Core) position(place int32, off int64) Position { return Position{c.places[place].part, off} }

func (c *Core) shard(k Key) *shard {
	return c.shards[hash(sessionKey(kindSession, k)[2:])%uint32(len(c.shards))]
}

// hash is FNV-1a. It says which partition a session key or a retained topic is in, for good.
func hash[T string | []byte](s T) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

func (c *Core) incarnation() Incarnation {
	c.counter++
	return Incarnation(c.epoch<<32 | uint64(c.counter))
}

// Packet is a SUBSCRIBE, UNSUBSCRIBE, PUBACK, PUBREC, PUBREL or PUBCOMP of an accepted connection. p is not kept.
func (c *Core) Packet(now int64, conn Conn, p packet.Packet) {
	if !c.enter(now) {
		return
	}
	l := c.links[conn]
	if l == nil {
		return
	}
	switch p := p.(type) {
	case *packet.Subscribe:
		c.subscribe(l, p)
	case *packet.Unsubscribe:
		c.unsubscribe(l, p)
	case *packet.Ack:
		c.ack(l, p)
	}
	c.leave()
}

// Writable says that there is room again in a connection whose Deliver returned false.
func (c *Core) Writable(now int64, conn Conn) {
	if !c.enter(now) {
		return
	}
	if l := c.links[conn]; l != nil {
		l.room = true
		c.pump(l.session)
	}
	c.leave()
}

// Tail is the next batch of stable records of a data partition. b is not kept; the topics and payloads of its messages may be.
func (c *Core) Tail(now int64, b *Batch) {
	if !c.enter(now) {
		return
	}
	i := c.place(b.Part)
	p := &c.places[i]
	p.tailed = true
	for n := range b.Msgs {
		if m := &b.Msgs[n]; m.Offset >= p.next {
			c.message(m, i)
			p = &c.places[i]
		}
	}
	c.advance(i, b.Next)
	c.leave()
}

// message is one stable record, met by the matcher for the first time in this life of the core.
func (c *Core) message(m *Message, place int32) {
	c.since.bytes += int64(len(m.Topic) + len(m.Payload) + 64)
	if m.Will != 0 {
		c.willSeen(m.Will)
	}
	if m.QoS2.Incarnation != 0 && c.duplicate(m, place) {
		c.host.Count(DropDuplicate, 1)
		return
	}
	if m.Retain {
		c.retain(m, place)
	}
	found := c.match(m.Topic)
	for i := range found.targets {
		c.offer(&found.targets[i], m, place)
	}
}

// duplicate tells whether a record of QoS 2 is the second one of its triple, as far as its publisher's session is here. A replay
// for another sessions partition may begin below the frontier of the publisher's own, where its ids are already forgotten.
func (c *Core) duplicate(m *Message, place int32) bool {
	s := c.lives[m.QoS2.Incarnation]
	if s == nil {
		return false
	}
	if c.replaying && m.Offset < s.queue.f.at(place) {
		_, twin := c.triples[m.QoS2]
		c.triples[m.QoS2] = struct{}{}
		return twin
	}
	if !s.inbound.saw(m.QoS2, s.shard.number, c.replaying) {
		return true
	}
	c.touch(s)
	return false
}

func (c *Core) advance(place int32, next int64) {
	p := &c.places[place]
	if next <= p.next {
		return
	}
	p.next = next
	c.snapshot = nil
	if c.since.start == 0 {
		c.since.start = c.now
	}
	if c.replaying && next >= p.ready {
		c.tryReady()
	}
}

// Unlogged is a message of a `store: false` route: effective QoS 0, for connected subscribers only. m is not kept.
func (c *Core) Unlogged(now int64, m *Message) {
	if !c.enter(now) {
		return
	}
	found := c.match(m.Topic)
	for i := range found.targets {
		c.offerUnlogged(&found.targets[i], m)
	}
	c.leave()
}

// Gap says that the tail jumped: the records of p before next are gone.
func (c *Core) Gap(now int64, p Part, next int64) {
	if !c.enter(now) {
		return
	}
	i := c.place(p)
	c.places[i].tailed = true
	if lost := next - c.places[i].next; lost > 0 {
		c.host.Count(DropGap, int(min(lost, math.MaxInt32)))
	}
	for _, s := range c.ordered() {
		if set := s.queue.find(i); set != nil {
			c.lose(s, i, set.cut(next), DropGap)
		}
	}
	c.advance(i, next)
	c.leave()
}

// Deleted says that a topic is gone.
func (c *Core) Deleted(now int64, topic [16]byte) {
	if !c.enter(now) {
		return
	}
	for i := range c.places {
		if p := &c.places[i]; p.part.Topic == topic && !p.dead {
			p.dead = true
			c.snapshot = nil
			for _, s := range c.ordered() {
				if set := s.queue.find(int32(i)); set != nil {
					c.lose(s, int32(i), set.cut(math.MaxInt64), DropTopicDeleted)
				}
			}
		}
	}
	c.tryReady()
	c.leave()
}

// lose counts queued positions that are gone, and lets the session go on with what is left.
func (c *Core) lose(s *session, place int32, n int64, reason string) {
	if n > 0 {
		c.gone(place, n, reason)
		c.touch(s)
		c.pump(s)
	}
}

// ordered lists the sessions in order of creation.
func (c *Core) ordered() []*session {
	list := make([]*session, 0, len(c.sessions))
	for _, s := range c.sessions {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *session) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

// PolicyChanged says that Host.Allowed may now answer otherwise.
func (c *Core) PolicyChanged(now int64) {
	if c.enter(now) {
		c.policy++
	}
}

// Tick does what is due and returns when it wants to be called again (math.MaxInt64: no need).
func (c *Core) Tick(now int64) (next int64) {
	if !c.enter(now) {
		return math.MaxInt64
	}
	next = math.MaxInt64
	if !c.replaying {
		next = min(c.pace(), c.fireTimers(), c.retryReads(), c.retryWills(), c.tryAgain(), c.flushRetained(false), c.checkpointDue())
	}
	c.leave()
	return next
}

// Busy tells whether writes, a checkpoint or wills are under way.
func (c *Core) Busy() bool {
	if c.failed {
		return false
	}
	return len(c.writes) > 0 || len(c.wills) > 0 || c.hurry || c.checkpointing()
}

// Stats are gauges.
type Stats struct {
	Sessions      int   // all, connected or not
	Connected     int   // with a connection
	Subscriptions int   //
	Retained      int   // topics with a retained message, or with the mark of one that was removed
	QueueBytes    int64 // memory of all sets of positions
	Behind        int   // sessions that are connected and not at the frontier
	Inflight      int   // deliveries not yet acknowledged
	ReplayBytes   int64 // of log since the last checkpoint
}

// Stats returns the gauges of now. It visits every session.
func (c *Core) Stats() Stats {
	st := Stats{
		Sessions: len(c.sessions), Connected: len(c.links), Subscriptions: c.filter.Len(),
		Retained: c.retained.Len(), ReplayBytes: c.since.bytes,
	}
	for _, s := range c.sessions {
		st.QueueBytes += int64(s.queue.bytes())
		st.Inflight += s.flight.len()
		if s.link != nil && !s.link.live {
			st.Behind++
		}
	}
	return st
}
