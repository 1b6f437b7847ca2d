package session

import (
	"slices"
	"strings"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// Groups, as the reference model knows them: for every shared filter the list of messages that are to go to one of its subscribers.
// A delivery of a group is told from a session's own by its subscription id.

var simShared = []string{"$share/x/a/#", "$share/x/#", "$share/y/a/+", "$share/y/b/1"}

const sharedIDs = 100

type modelGroup struct {
	name    string // the whole filter
	filter  string
	start   []int64
	entries map[pos]*groupEntry
}

// groupEntry is one message that a group is owed.
type groupEntry struct {
	group  *modelGroup
	msg    Message
	pos    pos
	must   bool
	via    []*modelSub // pending ones that would make it a must
	holder *modelSession
	conn   *simConn // that it was last sent on
	id     uint16
	sent   int // crashes when it was last sent, plus 1; 0: not sent
	done   bool
	doneAt int // crashes then
	apps2  int
}

func sharedFilter(name string) (filter string, ok bool) {
	_, filter, ok, _ = topic.ParseShared(name)
	return filter, ok
}

func sharedID(name string) uint32 { return uint32(sharedIDs + slices.Index(simShared, name)) }

// group returns the group of a shared filter, begun now if it is not there.
func (m *model) group(name string) *modelGroup {
	g := m.groups[name]
	if g == nil {
		filter, _ := sharedFilter(name)
		g = &modelGroup{name: name, filter: filter, start: slices.Clone(m.w.fed), entries: map[pos]*groupEntry{}}
		m.groups[name] = g
	}
	return g
}

// each visits the subscriptions of a group that are there, or may be.
func (m *model) each(g *modelGroup, visit func(s *modelSession, b *modelSub)) {
	for _, s := range m.sessions() {
		for _, b := range s.subs {
			if b.filter == g.name {
				visit(s, b)
			}
		}
	}
}

// doubtful: the session may have ended.
func (s *modelSession) doubtful(now int64) bool {
	return s.loose || s.client.session != s || s.offlineAt != 0 && (s.expiry == 0 || s.changed || now >= s.offlineAt+int64(s.expiry)*1000)
}

// firm: surely a member, who surely takes the topic at QoS 1 or 2.
func (m *model) firm(s *modelSession, b *modelSub, name string) bool {
	return b.certain && !b.ending && !b.lost && !s.doubtful(m.w.now) && !m.w.denied[s.client.key.ClientID+" "+name] &&
		!slices.ContainsFunc(b.options(), func(f packet.Filter) bool { return f.QoS == 0 })
}

// regroup excuses what no surely present member could have had at this time, and forgets groups that have ended.
func (m *model) regroup() {
	for name, g := range m.groups {
		there := false
		firm := map[string]bool{}
		m.each(g, func(s *modelSession, b *modelSub) {
			there = true
			for _, t := range simTopics {
				firm[t] = firm[t] || m.firm(s, b, t)
			}
		})
		if !there {
			delete(m.groups, name)
			continue
		}
		for _, e := range g.entries {
			if !firm[e.msg.Topic] {
				e.must = false
			}
			if h := e.holder; h != nil && (h.doubtful(m.w.now) || m.w.denied[h.client.key.ClientID+" "+e.msg.Topic]) {
				e.must = false
			}
		}
	}
}

// matchedGroups: the core is about to see a record.
func (m *model) matchedGroups(p pos, msg *Message, twin bool) {
	m.regroup()
	for _, g := range m.groups {
		if !matches(g.filter, msg.Topic) || p.offset < g.start[p.part] {
			continue
		}
		e := &groupEntry{group: g, msg: *msg, pos: p}
		g.entries[p] = e
		if msg.QoS == 0 || twin {
			continue
		}
		m.each(g, func(s *modelSession, b *modelSub) {
			switch {
			case m.firm(s, b, msg.Topic):
				e.must = true
			case !b.certain && !b.lost && !b.ending:
				e.via = append(e.via, b)
			}
		})
	}
}

// undropGroups makes a duplicate that was dropped no error.
func (m *model) undropGroups(d *entry) {
	for _, g := range m.groups {
		if g.entries[d.pos] == nil && matches(g.filter, d.msg.Topic) && d.pos.offset >= g.start[d.pos.part] {
			g.entries[d.pos] = &groupEntry{group: g, msg: d.msg, pos: d.pos}
		}
	}
}

// joined: a subscription that was pending is durable.
func (m *model) joined(s *modelSession, b *modelSub) {
	g := m.groups[b.filter]
	if g == nil {
		return
	}
	m.inHand(s, b) // at the options that it had
	for _, e := range g.entries {
		if slices.Contains(e.via, b) && m.firm(s, b, e.msg.Topic) && e.holder == nil && !e.done {
			e.must = true
		}
		e.via = nil
	}
}

// doubtGroup: nobody knows whether a subscription is there.
func (m *model) doubtGroup(b *modelSub) {
	if g := m.groups[b.filter]; g != nil {
		for _, e := range g.entries {
			e.via = slices.DeleteFunc(e.via, func(x *modelSub) bool { return x == b })
		}
	}
}

// inHand remembers what a session that has left may still be sent: it was its turn before.
func (m *model) inHand(s *modelSession, b *modelSub) {
	cs := m.w.core.sessions[s.client.key]
	if cs == nil || m.groups[b.filter] == nil {
		return
	}
	has := func(place int32, off int64) {
		for p, e := range m.groups[b.filter].entries {
			if m.w.core.index[m.w.parts[p.part].part] == place && p.offset == off {
				s.inHand = append(s.inHand, e)
			}
		}
	}
	for _, d := range cs.flight.all() {
		if d.lease != nil {
			has(d.place, d.offset)
		}
	}
	if cs.link != nil {
		for _, h := range cs.link.held {
			has(h.place, h.msg.Offset)
		}
	}
}

// groupOf tells which group a delivery is of; nil: none.
func (m *model) groupOf(n *simConn, o *simOut, p pos) (e *groupEntry, shared bool) {
	s := n.client.session
	for _, id := range o.d.SubIDs {
		if id >= sharedIDs {
			name := simShared[id-sharedIDs]
			for _, e := range s.inHand {
				if e.group.name == name && e.pos == p {
					return e, true
				}
			}
			if e := n.client.leases[o.d.PacketID]; e != nil && o.d.Dup && e.group.name == name && e.pos == p {
				return e, true
			}
			if g := m.groups[name]; g != nil {
				return g.entries[p], true
			}
			return nil, true
		}
	}
	if e := n.client.leases[o.d.PacketID]; o.d.Dup && e != nil && e.pos == p {
		return e, true
	}
	if !o.d.Dup {
		delete(n.client.leases, o.d.PacketID)
	} else if d := m.w.core.sessions[n.client.key].flight.find(o.d.PacketID); m.w.crashes > 0 && d.lease != nil {
		// It was being sent when the crash came, and the session has left the group since: nobody has seen it.
		if g := m.groups["$share/"+d.lease.group.key.Principal+"/"+d.lease.group.key.ClientID]; g != nil && g.entries[p] != nil && g.entries[p].holder == s {
			return g.entries[p], true
		}
		return &groupEntry{group: &modelGroup{}, msg: o.msg, pos: p, holder: s}, true
	}
	return nil, false
}

// emittedGroup checks a delivery of a group.
func (m *model) emittedGroup(n *simConn, o *simOut, e *groupEntry, p pos) {
	w, c, s := m.w, n.client, n.client.session
	id := c.key.ClientID
	if e == nil {
		w.fail("%s: %s@%d of %s is not owed to the group %v", id, o.msg.Payload, p.offset, o.msg.Topic, o.d.SubIDs)
		return
	}
	o.group = e
	name := e.group.name
	b := s.sub(name)
	switch {
	case string(e.msg.Payload) != string(o.msg.Payload):
		w.fail("%s: %s@%d has another payload", id, o.msg.Payload, p.offset)
	case e.holder != nil && e.holder != s:
		w.fail("%s: %s@%d of %s is %s's at QoS 2", id, o.msg.Payload, p.offset, name, e.holder.client.key.ClientID)
	case e.holder != nil && !o.d.Dup:
		w.fail("%s: %s@%d of %s sent again without DUP", id, o.msg.Payload, p.offset, name)
	case e.holder == nil && o.d.Dup && !slices.Contains(s.inHand, e) && !m.kept(n, e, b, o) && (o.d.QoS < 2 || w.crashes == 0): // a crash leaves open whether it was sent
		w.fail("%s: %s@%d of %s has DUP the first time it is this member's", id, o.msg.Payload, p.offset, name)
	case o.d.Dup:
	case e.done && e.doneAt == w.crashes:
		w.fail("%s: %s@%d of %s is done", id, o.msg.Payload, p.offset, name)
	case e.sent == w.crashes+1 && e.conn != nil && !e.conn.dead:
		w.fail("%s: %s@%d of %s is leased to %s", id, o.msg.Payload, p.offset, name, e.conn.client.key.ClientID)
	case o.msg.expired(w.now):
		w.fail("%s: %s has expired", id, o.msg.Payload)
	case b == nil && !slices.Contains(s.inHand, e):
		w.fail("%s: %s@%d of %s, which it has left", id, o.msg.Payload, p.offset, name)
	case b != nil && b.certain && !b.ending && len(b.pend) == 0 && b.unsubs == 0 && o.d.QoS != min(b.opts.QoS, e.msg.QoS) && !slices.Contains(s.inHand, e):
		w.fail("%s: %s@%d of %s at QoS %d, subscribed at %d", id, o.msg.Payload, p.offset, name, o.d.QoS, b.opts.QoS)
	}
	e.conn, e.sent, e.id = n, w.crashes+1, o.d.PacketID
	switch o.d.QoS {
	case 0:
		e.done, e.doneAt, e.conn = true, w.crashes, nil
	case 1:
		n.leases[o.d.PacketID], c.leases[o.d.PacketID] = e, e
	case 2:
		e.holder, c.leases[o.d.PacketID] = s, e
	}
}

// kept: what a session has been sent before it left the group, perhaps, is its own to complete, on its next connection too. So is what it was
// sent by a group that has ended with it.
func (m *model) kept(n *simConn, e *groupEntry, b *modelSub, o *simOut) bool {
	left := b == nil || !b.certain || m.groups[e.group.name] != e.group
	return left && !e.done && n.client.leases[o.d.PacketID] == e
}

// appGroup: a member's application has a message.
func (m *model) appGroup(n *simConn, o *simOut) {
	if e := o.group; o.d.QoS == 2 {
		if e.apps2++; e.apps2 > 1 {
			m.w.fail("%s: %s@%d of QoS 2 arrived twice in %s", n.client.key.ClientID, e.msg.Payload, e.pos.offset, e.group.name)
		}
		e.done, e.doneAt = true, m.w.crashes
	}
}

// ackedGroup: a member acknowledges, or refuses.
func (m *model) ackedGroup(n *simConn, a *packet.Ack) {
	if e := n.leases[a.PacketID]; e != nil && a.Kind == packet.PUBACK {
		delete(n.leases, a.PacketID)
		e.done, e.doneAt, e.conn = true, m.w.crashes, nil
	}
	if e := n.client.leases[a.PacketID]; e != nil && a.Kind == packet.PUBREC && a.Code.Failed() {
		e.must = false
	}
}

// restarted: what was being sent at QoS 2 when the crash came is its session's, although nobody has seen it.
func (m *model) restarted() {
	for _, g := range m.groups {
		cg := m.w.core.groups[Key{"t", strings.Split(g.name, "/")[1], g.filter}]
		if cg == nil {
			continue
		}
		for p, e := range g.entries {
			t := cg.taken[spot{m.w.core.index[m.w.parts[p.part].part], p.offset}]
			if t == nil || e.holder != nil {
				continue
			}
			e.must = e.must && !t.over
			for _, s := range m.sessions() {
				if s.client.key == t.key {
					e.holder = s
				}
			}
		}
	}
}

// givenUp: the core has counted messages as denied while it took a batch. A group whose members may not have, or have no room for, more than it
// keeps set aside gives the older half of that up. Those are in no place any more that a position of the group can be in.
func (m *model) givenUp(denied int) {
	var list []*groupEntry
	for _, g := range m.groups {
		cg := m.w.core.groups[Key{"t", strings.Split(g.name, "/")[1], g.filter}]
		if cg == nil {
			continue
		}
		kept := map[spot]bool{}
		cg.groupRuns(func(place int32, off int64) { kept[spot{place, off}] = true })
		for p, e := range g.entries {
			sp := spot{m.w.core.index[m.w.parts[p.part].part], p.offset}
			set := cg.queue.find(sp.place)
			if e.must && !e.done && e.holder == nil && cg.taken[sp] == nil && !kept[sp] && p.offset < cg.aside[sp.place] && (set == nil || !set.runs.has(p.offset)) {
				list = append(list, e)
			}
		}
	}
	for _, e := range list {
		e.must = e.must && len(list) > denied // else something else has lost one
	}
}

// finishGroups checks what is left at the end of a run.
func (m *model) finishGroups() {
	m.regroup()
	for _, g := range m.groups {
		for p, e := range g.entries {
			if e.must && !e.done && !e.msg.expired(m.w.now) {
				m.w.fail("%s@%d of %s was acknowledged by nobody in %s", e.msg.Payload, p.offset, e.msg.Topic, g.name)
			}
			if e.done {
				m.shared++
			}
		}
	}
}

func isShared(name string) bool { return strings.HasPrefix(name, "$share/") }
