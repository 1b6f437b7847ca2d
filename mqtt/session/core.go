package session

import (
	"cmp"
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
	asked    map[uint64]func([]History)
	reads    map[uint64]*fetch
	copying  map[uint64]copying
	aging    []aged           // in order of time
	wills    map[uint64]*will // being published, by token
	token    uint64
	unfired  []*will // whose publish was refused
	stale    map[staleKey]*lane
	places   []place
	index    map[Part]int32
	snapshot vector // of the places' next, nil when one has moved
	filter   topic.Tree[*session, *sub]
	cache    matchCache
	traffic  traffic
	policy   uint64 // counts PolicyChanged

	groups      map[Key]*group   // by tenant, share name, filter
	spent       map[Key][]doneID // ids of sessions that have ended, which stand for positions of groups
	redo        []func()         // writes that were refused, to be tried again
	sessions    map[Key]*session
	lives       map[Incarnation]*session // persistent sessions
	armed       map[Incarnation]*will    // by the will's own id
	links       map[Conn]*link
	attempts    map[Conn]*attempt
	turns       map[Key]*turn
	early       []*attempt // CONNECTs before Ready
	timers      timers
	retained    RetainedIndex
	cursors     []*session // waiting until a retained message is stable
	paced       []*session // waiting for another call, to look on
	looks       int        // at retained names that are left to this call
	look        int        // retainedLook, but in tests
	readers     []*link    // waiting for a read to be free
	pastReaders []*link    // the same, of history
	pastReads   int
	pastLeft    int // records of history that are left to this call
	replays     replayCount
	scratch     Message // a message of history with a tally of its own
	unrowed     Tally
	tallies     []*Tally // that have something to tell
	counted     Vector   // below, tallies have the deliveries owed already
	retries     []retry

	restoring map[Key]*saved // until Restored
	refilling map[Key]*saved // likewise, of groups
	leases    []savedLease
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

	willBytes   int64  // of all wills
	coming      int    // sessions whose first record is being written
	weight      int    // of all subscriptions
	subsRefused int64  //
	swept       string // the last name that the sweep of retained messages looked at
	sweepAt     int64

	every time.Duration // from the first change to the next checkpoint
	since struct {      // the last checkpoint
		bytes int64
		start int64 // when the first change came; 0: none
		cost  int64 // bytes that the last one wrote
	}
	out  Delivery // scratch for Deliver
	pair []pair   // scratch for matching
}

type deadKey struct {
	lane *lane
	key  []byte
}

// New returns an empty core. Targets are all partitions of the sessions and the retained topic, at least one of each; a session
// lives in the one that its key hashes to.
func New(o Options, h Host, targets []Target) *Core {
	o.MaxExpiry = cmp.Or(o.MaxExpiry, 7*24*3600)
	o.MaxQueueBytes = cmp.Or(o.MaxQueueBytes, 64<<10)
	o.MaxInflight = min(cmp.Or(o.MaxInflight, 4096), 32<<10)
	o.MaxSubs = cmp.Or(o.MaxSubs, 10_000)
	o.MaxSessions = cmp.Or(o.MaxSessions, 1_000_000)
	o.MaxAllSubs = cmp.Or(o.MaxAllSubs, 2_000_000)
	o.MaxRetained = cmp.Or(o.MaxRetained, 1_000_000)
	o.MaxRetainedBytes = cmp.Or(o.MaxRetainedBytes, 1<<30)
	o.MaxWillBytes = cmp.Or(o.MaxWillBytes, 256<<20)
	o.CheckpointBytes = cmp.Or(o.CheckpointBytes, 32<<20)
	o.CheckpointEvery = cmp.Or(o.CheckpointEvery, 2*time.Second)
	o.ReadBytes = cmp.Or(o.ReadBytes, 64<<10)
	o.CopyAfter = cmp.Or(o.CopyAfter, time.Minute)
	o.MaxReplays = min(cmp.Or(o.MaxReplays, 8), maxHistories-2)
	o.MaxAllReplays = cmp.Or(o.MaxAllReplays, 256)
	c := &Core{
		o: o, host: h, replaying: true, look: retainedLook, every: o.CheckpointEvery / soonAfterRestore,
		lanes: map[Target]*lane{}, writes: map[uint64][]outcome{}, asked: map[uint64]func([]History){}, reads: map[uint64]*fetch{}, copying: map[uint64]copying{}, wills: map[uint64]*will{},
		index: map[Part]int32{}, sessions: map[Key]*session{}, lives: map[Incarnation]*session{}, armed: map[Incarnation]*will{},
		links: map[Conn]*link{}, attempts: map[Conn]*attempt{}, turns: map[Key]*turn{}, restoring: map[Key]*saved{}, refilling: map[Key]*saved{}, groups: map[Key]*group{}, spent: map[Key][]doneID{}, triples: map[Triple]struct{}{}, stale: map[staleKey]*lane{},
	}
	c.cache = newMatchCache()
	c.retained.max, c.retained.maxBytes = o.MaxRetained, o.MaxRetainedBytes
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
	c.now, c.looks, c.pastLeft = max(c.now, now), c.look, pastLook
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

// fail ends the core.
func (c *Core) fail(err error) {
	if !c.failed {
		c.failed = true
		c.host.Failed(err)
	}
}

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

// ordered lists the sessions in order of creation.
func (c *Core) ordered() []*session {
	list := make([]*session, 0, len(c.sessions))
	for _, s := range c.sessions {
		list = append(list, s)
	}
	slices.SortFunc(list, bySeq)
	return list
}

func bySeq(a, b *session) int { return cmp.Compare(a.seq, b.seq) }

// PolicyChanged says that Host.Allowed may now answer otherwise.
func (c *Core) PolicyChanged(now int64) {
	if c.enter(now) {
		c.policy++
		for _, k := range sortedGroups(c.groups) {
			c.groups[k].anew()
			c.dispatch(c.groups[k])
		}
		c.leave()
	}
}

// Tick does what is due and returns when it wants to be called again (math.MaxInt64: no need).
func (c *Core) Tick(now int64) (next int64) {
	if !c.enter(now) {
		return math.MaxInt64
	}
	next = math.MaxInt64
	if !c.replaying {
		next = min(c.pace(), c.fireTimers(), c.retryReads(), c.retryWills(), c.tryAgain(), c.flushRetained(false), c.sweepRetained(), c.copyOpen(), c.checkpointDue())
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
	Sessions       int   // all, connected or not
	Connected      int   // with a connection
	Subscriptions  int   // shared ones included
	Groups         int   // of shared subscriptions
	GroupQueue     int64 // positions that groups hold and no member of them has
	SubsRefused    int64 // since the core began, because there were too many
	ReplaysRefused ReplaysRefused
	Retained       int   // topics with a retained message
	RetainedBytes  int64 // of their names and payloads
	WillBytes      int64 // of all wills
	QueueBytes     int64 // memory of all sets of positions
	Behind         int   // sessions that are connected and not at the frontier
	Inflight       int   // deliveries not yet acknowledged
	Replays        int   // of history, under way
	ReplayBytes    int64 // of log since the last checkpoint
}

// Stats returns the gauges of now. It visits every session.
func (c *Core) Stats() Stats {
	st := Stats{
		Sessions: len(c.sessions), Connected: len(c.links), Subscriptions: c.filter.Len() - len(c.groups), Groups: len(c.groups), SubsRefused: c.subsRefused, Replays: c.replays.all, ReplaysRefused: c.replays.refused,
		Retained: c.retained.live, RetainedBytes: c.retained.bytes, WillBytes: c.willBytes, ReplayBytes: c.since.bytes,
	}
	for _, s := range c.sessions {
		st.QueueBytes += int64(s.queue.bytes())
		st.Inflight += s.flight.len()
		if s.link != nil && !s.link.live {
			st.Behind++
		}
		st.Subscriptions += len(s.shares)
	}
	for _, g := range c.groups {
		st.QueueBytes += int64(g.queue.bytes())
		st.GroupQueue += g.queue.owed() + int64(len(g.limbo))
	}
	return st
}
