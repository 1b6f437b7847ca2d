package session

import (
	"math"
	"slices"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// group is the sessions with one shared subscription ($share/NAME/FILTER of one tenant): each message that the filter matches goes
// to one of them. It begins with its first subscription, where the matcher then is, and ends with its last one, whether their
// sessions are connected or not.
//
// What is matched, checkpointed and restored is its queue, in the same way as a session's. So it is kept as a session that never has a
// client: the key is tenant, share name and filter; the link has no connection and only reads. Core.sessions does not have it.
//
// A position of the group is at any time in one place:
//   - in the queue;
//   - leased: in the flight of a member, at QoS 1 until it is acknowledged, at QoS 2 until the PUBLISH leaves. When the member's
//     connection is lost it comes back to the queue;
//   - in limbo: a lease of QoS 2 on its way back, whose out/id is being removed;
//   - taken: from the PUBLISH on a delivery of QoS 2 belongs to the member's session for good, and ends with it. The out/id, durable
//     before that, names the group, and stays until a checkpoint covers the position.
//
// All but the taken ones are in what a checkpoint writes, so a crash puts leases back into the queue. The out/ids of members may be in other
// partitions than the group's records: a restore reads all of them before it fills groups, and no position that one of them names
// goes into a queue.
type group struct {
	session
	sub     *sub            // the filter, with the group's start and the highest QoS of its members; it is what the tree has
	members []*member       // in order of joining, with those that have left and still hold leases
	byQoS   [3]int          // subscriptions
	ready   int             // of them durable
	online  int             // of them with a connection
	open    []*member       // those that had room when last looked at
	turn    int             // in open, whose it is
	reads   link            // of the queue; live when nothing of it can be handed out now
	floor   vector          // of what lies below, some has been handed out: runs that begin there do not merge
	aside   map[int32]int64 // by place: what is queued below is set aside
	taken   map[spot]*taken
	limbo   map[spot]*limbo
	leaving int  // sessions whose removal is being written
	buried  bool // ended, and its records are removed
}

// member is a session in a group.
type member struct {
	group   *group
	session *session
	sub     *sub // nil: it has left
	ids     []uint32
	rap     bool
	leases  int
	at      int  // in session.shares
	listed  bool // in group.open
	lacks   bool // in link.lacking
	wanted  bool // something was set aside that it may have
	qos     byte // with ready: as the group counts it
	ready   bool
}

// spot is a position.
type spot struct {
	place  int32
	offset int64
}

// join makes a subscription that of a member.
func (c *Core) join(s *session, b *sub, k Key) {
	g := c.groups[k]
	if g == nil {
		g = c.found(k, c.incarnation(), c.next())
	}
	if b.member != nil { // UNSUBSCRIBE and SUBSCRIBE at once
		b.member.sub = b
		c.appraise(b.member)
		return
	}
	m := &member{group: g, session: s, sub: b, at: len(s.shares)}
	b.member = m
	g.members = append(g.members, m)
	s.shares = append(s.shares, m)
	if s.link != nil {
		g.online++
	}
	g.byQoS[0]++
	c.weight += subWeight(b.filter)
	c.appraise(m)
}

// found makes a group.
func (c *Core) found(k Key, inc Incarnation, from vector) *group {
	c.seq++
	g := &group{taken: map[spot]*taken{}, limbo: map[spot]*limbo{}}
	g.session = session{
		key: k, seq: c.seq, inc: inc, shard: c.shard(k), durable: true, inbound: newInbound(0), group: g, link: &g.reads,
		saved: true, // perhaps: an earlier group of this key may have left a record
	}
	g.reads = link{session: &g.session, room: true}
	g.sub = &sub{filter: k.ClientID, pending: true, start: from}
	g.queue.subs.set(g.sub)
	c.groups[k] = g
	c.weight += subWeight(g.sub.filter)
	c.filter.Set(g.sub.filter, &g.session, g.sub)
	g.shard.starts = append(g.shard.starts, start{&g.session, g.sub})
	c.touch(&g.session)
	return g
}

// appraise counts a member as its subscription is now.
func (c *Core) appraise(m *member) {
	g, b := m.group, m.sub
	g.uncount(m)
	if m.qos, m.ready = b.opts.qos, !b.pending; m.ready {
		g.ready++
	}
	g.byQoS[m.qos]++
	m.ids, m.rap = nil, b.opts.rap
	if b.opts.id != 0 {
		m.ids = []uint32{b.opts.id}
	}
	c.appraiseGroup(g)
	m.lack()
}

func (g *group) uncount(m *member) {
	g.byQoS[m.qos]--
	if m.ready {
		g.ready--
	}
}

// appraiseGroup makes the group's own subscription what its members' amount to.
func (c *Core) appraiseGroup(g *group) {
	qos := byte(0)
	for q := range g.byQoS {
		if g.byQoS[q] > 0 {
			qos = byte(q)
		}
	}
	pending := g.ready == 0
	if g.sub.opts.qos == qos && g.sub.pending == pending {
		return
	}
	if mutant("group-from-now") && g.sub.pending && !pending {
		g.sub.start = c.next()
	}
	g.sub.opts.qos, g.sub.pending = qos, pending
	c.filter.Set(g.sub.filter, &g.session, g.sub)
}

func (g *group) subscriptions() int { return g.byQoS[0] + g.byQoS[1] + g.byQoS[2] }

// withdraw ends a member's subscription. What it holds it may still complete.
func (c *Core) withdraw(b *sub) {
	m := b.member
	if m.sub != b {
		return
	}
	g, s := m.group, m.session
	g.uncount(m)
	m.sub, m.ready = nil, false
	c.weight -= subWeight(b.filter)
	s.unshare(m)
	if s.link != nil {
		c.offline(g)
	}
	g.prune(m)
	if g.subscriptions() == 0 {
		c.endGroup(g)
		return
	}
	c.appraiseGroup(g)
	g.anew()
	c.dispatch(g)
}

// unshare takes a member out of a session's; the last one takes its place, for there may be thousands.
func (s *session) unshare(m *member) {
	last := len(s.shares) - 1
	s.shares[m.at] = s.shares[last]
	s.shares[m.at].at = m.at
	s.shares[last] = nil
	s.shares = s.shares[:last]
}

// prune forgets a member that has left and holds nothing.
func (g *group) prune(m *member) {
	if m.sub == nil && m.leases == 0 {
		g.members = slices.DeleteFunc(g.members, func(x *member) bool { return x == m })
	}
}

// offline: one member less is connected. QoS 0 does not wait for anybody to come back.
func (c *Core) offline(g *group) {
	if g.online--; g.online > 0 {
		return
	}
	c.forgetFleeting(&g.queue)
	if !g.reads.awaits() {
		c.dropBuffers(&g.reads)
	}
}

// connected: a session's connection is there.
func (c *Core) connected(s *session) {
	for _, m := range s.shares {
		m.group.online++
		m.group.anew()
		m.lacks = false // it was so on the connection before
		m.lack()
	}
}

// left: nobody will find a session any more whose members these were.
func (c *Core) left(shares []*member) {
	for _, m := range shares {
		m.group.leaving--
		c.bury(m.group)
	}
}

func (c *Core) dispatchAll(groups []*group) {
	for _, g := range groups {
		c.dispatch(g)
	}
}

// anew has what was set aside looked at again.
func (g *group) anew() {
	if g.aside != nil {
		g.aside, g.reads.live = nil, false
	}
}

// endGroup ends a group that has lost its last subscription. What is still queued nobody will have.
func (c *Core) endGroup(g *group) {
	c.forgetFleeting(&g.queue)
	if n := g.queue.owed() + int64(len(g.limbo)); n > 0 {
		c.host.Count(DropGroupEnded, int(min(n, math.MaxInt32)))
	}
	for i := range g.queue.sets {
		c.places[g.queue.sets[i].place].book.lose(g.queue.sets[i].offsets)
	}
	for sp := range g.limbo {
		c.places[sp.place].book.lose(1)
	}
	g.ended = true
	delete(c.groups, g.key)
	c.filter.Delete(g.sub.filter, &g.session)
	c.weight -= subWeight(g.sub.filter)
	c.dropBuffers(&g.reads)
	g.link, g.queue, g.open = nil, queue{}, nil
	c.bury(g)
}

// bury removes the records of a group that has ended, once no crash can bring it back: none of its members' sessions either.
func (c *Core) bury(g *group) {
	if !g.ended || g.leaving > 0 || g.buried {
		return
	}
	g.buried = true
	if c.groups[g.key] == nil { // else a new one will write its own
		c.write(g.shard.lane, nil, StateRecord{Key: sessionKey(kindGroup, g.key)})
	}
	c.dropOuts(g, func(t *taken) bool { return t.over })
	g.taken = nil
}

// queues lists everything that has a queue, in order of creation: sessions and groups.
func (c *Core) queues() []*session {
	list := c.ordered()
	for _, g := range c.groups {
		list = append(list, &g.session)
	}
	slices.SortFunc(list, bySeq)
	return list
}

// Group is a shared subscription, to be looked at.
type Group struct {
	Tenant, Name, Filter string
	Queued               int64 // positions that no member has; with Leased: what is not done
	Leased               int
	Members              []Member
}

// Member is a session in a group.
type Member struct {
	Key       Key
	QoS       byte
	Connected bool
	Leased    int // deliveries that it has not acknowledged
}

// Groups lists the shared subscriptions by tenant, name and filter.
func (c *Core) Groups() []Group {
	list := make([]Group, 0, len(c.groups))
	for _, k := range sortedGroups(c.groups) {
		g := c.groups[k]
		v := Group{Tenant: k.Tenant, Name: k.Principal, Filter: k.ClientID, Queued: g.queue.owed() + int64(len(g.limbo))}
		for _, m := range g.members {
			v.Leased += m.leases
			if m.sub != nil {
				v.Members = append(v.Members, Member{m.session.key, m.sub.opts.qos, m.session.link != nil, m.leases})
			}
		}
		list = append(list, v)
	}
	return list
}

// sharedKey is the key of the group that a filter is about, if it is one of a shared subscription.
func sharedKey(tenant, filter string) (k Key, shared bool, err error) {
	share, rest, shared, err := topic.ParseShared(filter)
	return Key{tenant, share, rest}, shared, err
}
