package session

import (
	"cmp"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// Dispatch: who gets a message of a group. Members that are connected and have room take turns. While none has, positions stay in the
// queue; what comes then is read back when one has room, oldest first. So positions are handed out in order, but what several
// members do with them at the same time is in no order, and what one gives back comes after what others got meanwhile.
//
// The policy and the limits of a client are asked of the member chosen; if it may not have the message the next one is asked. If none
// with room may have it, but another member may or might, the position is set aside until one of those has room or anything
// about the members or the policy changes; what comes after it does not wait. Only if no member at all may have it is it dropped.

// offerGroup hands a message that the matcher has just met to a group that it matches.
func (c *Core) offerGroup(t *target, m *Message, place int32) {
	g := t.session.group
	a := c.effective(t, m, place, m.Offset)
	switch {
	case a.none:
	case c.replaying:
		if a.qos > 0 && m.Offset >= g.queue.f.at(place) && g.taken[spot{place, m.Offset}] == nil {
			c.enqueue(&g.session, m, place)
		}
	case a.qos == 0 && g.online == 0:
	case a.pending || !g.reads.live || !c.shareLive(g, m, place):
		if a.qos > 0 {
			c.enqueue(&g.session, m, place)
			c.boundAside(g)
		} else {
			c.trail(&g.session, m, place)
		}
		c.dispatch(g)
	}
}

// shareLive hands a message out straight from the match. It is false if no member can have it now.
func (c *Core) shareLive(g *group, m *Message, place int32) bool {
	if m.expired(c.now) {
		c.owe(m.Tally, place)
		c.drop(m.Tally, place, DropExpired)
		return true
	}
	to, reason, _ := c.choose(g, m)
	switch {
	case to != nil && !c.grant(to, m, place):
		return false
	case to != nil:
		c.owe(m.Tally, place)
	case reason != "":
		c.owe(m.Tally, place)
		c.drop(m.Tally, place, reason)
	default:
		return false
	}
	return true
}

// shareUnlogged hands out a message that is not in the log.
func (c *Core) shareUnlogged(t *target, m *Message) {
	g := t.session.group
	if a := c.effective(t, m, 0, -1); a.none || a.pending || g.online == 0 || c.replaying {
		return
	}
	c.owe(m.Tally, unplaced)
	to, reason, _ := c.choose(g, m)
	switch {
	case to != nil:
		c.deliver0(to.session.link, m, unplaced, &applies{ids: to.ids}, m.Retain && to.sub.opts.rap, byQueue)
	case reason != "":
		c.drop(m.Tally, unplaced, reason)
	default:
		c.drop(m.Tally, unplaced, DropQoS0Full)
	}
}

// takes tells whether a member has room.
func (c *Core) takes(m *member) bool { return m.sub != nil && !m.sub.pending && c.roomy(m.session) }

// roomy tells whether a session has room for a delivery of a group.
func (c *Core) roomy(s *session) bool {
	l := s.link
	switch {
	case l == nil, !l.open(c), l.resend < s.flight.len():
		return false
	case !s.flight.hasID():
		c.hurry = true // a checkpoint frees some
		return false
	}
	return true
}

// lack has a member offered the next room of its connection. All that have to be are in link.lacking, so that room costs
// what is done with it, and not a look at each of thousands of groups.
func (m *member) lack() {
	l := m.session.link
	if m.sub == nil || l == nil || m.lacks {
		return
	}
	m.lacks = true
	l.lacking = append(l.lacking, m)
}

// nextLacking takes out the member whose turn it is.
func (l *link) nextLacking() *member {
	m := l.lacking[l.lacked]
	m.lacks = false
	l.lacking[l.lacked] = nil
	if l.lacked++; 2*l.lacked >= len(l.lacking) { // in the same memory
		n := copy(l.lacking, l.lacking[l.lacked:])
		clear(l.lacking[n:])
		l.lacking, l.lacked = l.lacking[:n], 0
	}
	return m
}

// spare offers the room that a session has to those of its groups that lack it, one after the other.
func (c *Core) spare(s *session) {
	for l := s.link; s.link == l && l.lacked < len(l.lacking) && c.roomy(s); {
		m := l.nextLacking()
		if !c.takes(m) {
			continue // it has left, or comes back when it is durable
		}
		g := m.group
		if !m.listed {
			m.listed = true
			g.open = append(g.open, m)
		}
		if m.wanted {
			m.wanted = false
			g.anew()
		}
		if c.dispatch(g); m.lacks {
			return // what it lacks the others lack, too; the next room is theirs first
		}
	}
}

// choose returns the member that a message goes to, and the turn goes on. If there is none, reason tells why nobody may
// have it; "": somebody may, or might, later. soon: when there is room.
func (c *Core) choose(g *group, m *Message) (to *member, reason string, soon bool) {
	asked := false
	for n := len(g.open); n > 0; n-- {
		if g.turn >= len(g.open) {
			g.turn = 0
		}
		o := g.open[g.turn]
		if !c.takes(o) {
			o.listed = false
			o.lack()
			last := len(g.open) - 1
			g.open[g.turn], g.open[last] = g.open[last], nil
			g.open = g.open[:last]
			continue
		}
		g.turn++
		switch {
		case min(o.sub.opts.qos, m.QoS) == 0 && len(o.session.link.held) > 0:
			soon = true // behind those it would be lost with the connection, while another could still have it
			o.lack()
		case c.refuses(o, m) == "":
			return o, "", false
		default:
			asked = true
		}
	}
	if soon || !asked {
		return nil, "", true
	}
	reason = DropDenied
	for _, o := range g.members {
		switch {
		case o.sub == nil:
		case o.session.link == nil:
			if c.host.Allowed(o.session.key, false, m.Topic) {
				return nil, "", false
			}
		default:
			switch why := c.refuses(o, m); {
			case why == "":
				o.wanted = true
				o.lack()
				return nil, "", false
			case why != DropDenied:
				reason = why
			}
		}
	}
	return nil, reason, false
}

// refuses tells why a connected member may not have a message, or "".
func (c *Core) refuses(o *member, m *Message) string {
	l := o.session.link
	switch {
	case !c.host.Allowed(o.session.key, false, m.Topic) && !spared(DropDenied, "shared"):
		return DropDenied
	case l.maxPacket > 0 && publishSize(m, o.ids, l.version) > uint64(l.maxPacket):
		return DropTooLarge
	}
	return ""
}

// grant starts the delivery to the member chosen, which has room. It is false if there is no packet id.
func (c *Core) grant(to *member, m *Message, place int32) bool {
	g, l, opts := to.group, to.session.link, to.sub.opts
	qos, retain := min(opts.qos, m.QoS), m.Retain && opts.rap
	switch {
	case qos == 0:
		c.deliver0(l, m, place, &applies{ids: to.ids}, retain, byQueue)
	case !c.launch(l, m, place, &applies{options: options{qos: qos}, ids: to.ids}, retain, 0, to):
		to.lack()
		return false
	}
	g.pass(place, m.Offset)
	c.touch(&g.session)
	return true
}

// pass notes that a position has been met.
func (g *group) pass(place int32, off int64) {
	for int(place) >= len(g.floor) {
		g.floor = append(g.floor, 0)
	}
	g.floor[place] = max(g.floor[place], off+1)
}

// dispatch hands out what is queued, as far as members have room.
func (c *Core) dispatch(g *group) {
	if g.ended || c.replaying {
		return
	}
	for len(g.open) > 0 && !g.reads.live && c.dispatchOne(g) {
	}
	if !g.reads.live && c.buffered > maxBuffered && !g.reads.awaits() {
		c.dropBuffers(&g.reads)
	}
}

// dispatchOne deals with the oldest position. It is false if there is none, or if it must wait.
func (c *Core) dispatchOne(g *group) bool {
	set, m, wait := c.oldest(g)
	switch {
	case wait:
		return false
	case m == nil:
		c.dropBuffers(&g.reads)
		g.queue.dropFleeting() // and empty sets
		g.reads.live = true
		return false
	}
	owed := set.runs.has(m.Offset)
	if set.merged && !c.stillGroups(g, set, m) {
		if owed {
			c.places[set.place].book.lose(1)
		}
		c.without(g, set, m.Offset)
		return true
	}
	reason := DropExpired
	var to *member
	soon := false
	if !m.expired(c.now) {
		to, reason, soon = c.choose(g, m)
	}
	switch {
	case soon:
		return false
	case to == nil && reason == "" && owed:
		if g.aside == nil {
			g.aside = map[int32]int64{}
		}
		g.aside[set.place] = m.Offset + 1
		return true
	}
	if to != nil && !c.grant(to, m, set.place) {
		return false
	}
	if !owed { // of QoS 0, which is owed once its turn has come
		c.owe(m.Tally, set.place)
	}
	if to == nil {
		c.drop(m.Tally, set.place, cmp.Or(reason, DropQoS0Full))
	}
	c.without(g, set, m.Offset)
	return true
}

// boundAside gives the older half of what is set aside up when it has grown beyond what a queue may be: it cannot merge, since what lies between
// has been handed out.
func (c *Core) boundAside(g *group) {
	if g.aside == nil || g.queue.bytes() <= 2*c.o.MaxQueueBytes {
		return
	}
	for i := range g.queue.sets {
		set := &g.queue.sets[i]
		end, half := g.aside[set.place], set.count/2
		for n := range set.runs.all {
			if half--; half < 0 || n.from >= end {
				end = min(end, n.from)
				break
			}
		}
		c.gone(set.place, set.clear(run{0, end}), DropDenied)
	}
	c.touch(&g.session)
}

// stillGroups tells whether a position in a set whose runs have merged is the group's.
func (c *Core) stillGroups(g *group, set *set, m *Message) bool {
	switch {
	case !topic.Match(g.sub.filter, m.Topic), m.Offset < g.sub.start.at(set.place), g.taken[spot{set.place, m.Offset}] != nil:
		return false
	}
	return min(m.QoS, g.sub.opts.qos) > 0 || set.fleeting.has(m.Offset)
}

// oldest returns the message to be handed out next, the oldest of all partitions. Without one, wait tells that it is being read.
func (c *Core) oldest(g *group) (first *set, m *Message, wait bool) {
	var time int64
	for i := range g.queue.sets {
		set := &g.queue.sets[i]
		off, ok := set.next(g.aside[set.place])
		if !ok {
			continue
		}
		if set.timed != off+1 {
			m, waits := c.readGroup(g, set)
			wait = wait || waits
			if m == nil {
				continue
			}
			set.timed, set.time = m.Offset+1, m.when(c.now)
		}
		if first == nil || set.time < time {
			first, time = set, set.time
		}
	}
	if wait || first == nil {
		return nil, nil, wait
	}
	if m, wait = c.readGroup(g, first); m == nil && !wait {
		return c.oldest(g) // nothing was left of it
	}
	return first, m, wait
}

// readGroup returns the next message of a set that is not set aside, dropping positions that turn out to be no message.
func (c *Core) readGroup(g *group, set *set) (m *Message, wait bool) {
	for {
		off, ok := set.next(g.aside[set.place])
		if !ok {
			return nil, false
		}
		m, next, ok := c.fetch(&g.reads, set.place, off)
		if !ok {
			return nil, true
		}
		if m != nil && m.Offset == off {
			return m, false
		}
		if m != nil {
			next = m.Offset
		}
		exact := !set.merged
		switch n := set.clear(run{off, next}); {
		case exact:
			c.gone(set.place, n, DropGap)
		default:
			c.places[set.place].book.lose(n)
		}
		c.touch(&g.session)
	}
}

// without takes a position out of the queue.
func (c *Core) without(g *group, set *set, off int64) {
	set.clear(run{off, off + 1})
	g.pass(set.place, off)
	c.touch(&g.session)
}
