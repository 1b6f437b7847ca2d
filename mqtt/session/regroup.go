package session

import (
	"cmp"
	"maps"
	"slices"
)

// savedLease is an out/id that names a group, as restored.
type savedLease struct {
	session *session // nil: it has ended
	key     Key
	id      uint16
	v       outValue
}

// rejoin restores a member. Its record says which group it was a member of, and where that began. If several say otherwise, a session
// has come back whose end a crash has undone, and the group is the newest.
func (c *Core) rejoin(s *session, b *sub, inc Incarnation, from vector) {
	k, _, _ := sharedKey(s.key.Tenant, b.filter)
	g := c.groups[k]
	switch {
	case g == nil:
		c.found(k, inc, from)
	case inc > g.inc:
		g.inc, g.sub.start = inc, from
	case inc == g.inc: // a record that was written later may know less of it
		for i := range from {
			if i >= len(g.sub.start) {
				g.sub.start = append(g.sub.start, 0)
			}
			g.sub.start[i] = max(g.sub.start[i], from[i])
		}
	}
	c.join(s, b, k)
}

// restoreGroups fills the queues of the groups, once all their members are there, and gives the positions of QoS 2 to those that have
// taken them.
func (c *Core) restoreGroups() {
	groups := map[Incarnation]*group{}
	for _, k := range sortedGroups(c.groups) {
		g := c.groups[k]
		groups[g.inc] = g
		sv := c.refilling[k]
		if sv == nil {
			sv = &saved{}
		}
		c.restoreQueue(&g.session, sv)
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.refilling), compareKey) {
		if sv := c.refilling[k]; c.groups[k] == nil && sv.queue != nil {
			c.garbage = append(c.garbage, deadKey{c.shard(k).lane, sessionKey(kindGroup, k)})
		}
	}
	slices.SortFunc(c.leases, func(a, b savedLease) int {
		return cmp.Or(compareKey(a.key, b.key), cmp.Compare(a.id, b.id))
	})
	for i := range c.leases {
		c.restoreLease(&c.leases[i], groups[c.leases[i].v.group])
	}
}

func (c *Core) restoreLease(sl *savedLease, g *group) {
	lane := c.shard(sl.key).lane
	if g == nil {
		if sl.session == nil {
			c.garbage = append(c.garbage, deadKey{lane, idKey(kindOut, sl.key, sl.id)})
		}
		return
	}
	place := c.place(sl.v.pos.Part)
	if p := &c.places[place]; !p.tailed {
		p.dead = true
	}
	sp := spot{place, sl.v.pos.Offset}
	g.taken[sp] = &taken{lane: lane, key: sl.key, id: sl.id, over: sl.session == nil}
	if set := g.queue.find(place); set != nil && !mutant("forget-taken") {
		set.runs.remove(sp.offset)
	}
	s := sl.session
	if s == nil {
		c.reserve(sl.key, doneID{offset: sp.offset, place: place, id: sl.id, shared: true})
		return
	}
	i := slices.IndexFunc(g.members, func(m *member) bool { return m.session == s })
	if i < 0 {
		i = len(g.members)
		g.members = append(g.members, &member{group: g, session: s}) // it has left, with this in its hands
	}
	g.members[i].leases++
	s.flight.find(sl.id).lease = g.members[i]
}
