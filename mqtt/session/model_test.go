package session

import (
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// model is the reference: for every session a plain list of the messages it is owed, kept by rules that a reader can check
// against the standard. It is told what happens to the world and what the core sends, and complains.
//
// "must" means that the message has to arrive before the end; "may" (present in the list, without must) that it is no error if
// it does. What depends on a write that was outstanding at a crash is a may until the client has asked again.
type model struct {
	w        *world
	quiet    bool // the end of a run: no new trouble
	watching bool // what is delivered
	wild     bool // retention has passed things that only replays would have shown
	seen     [8]int64
	view     map[string]*modelRetained
	triples  map[Triple]bool
	dropped  []*entry        // duplicates
	late     map[string]bool // payloads that entered the log late: this copy or the client's repetition counts
	wills    []*modelWill
	pubs     map[string]*modelPub
	lastRun  int64                     // of the core's timers
	copies   int                       // that kept a message from retention
	asked    []*modelReplay            // by the SUBSCRIBE that is being handed over
	tokens   map[uint64][]*modelReplay // by Host.History
	replayed int                       // messages of histories
	clock    int                       // counts what is sent to clients
	groups   map[string]*modelGroup
	shared   int // messages that groups have had
	fellBack int // subscriptions that were there again
}

type modelRetained struct {
	msg  Message
	part int
}

type modelPub struct {
	logged   int
	received bool // PUBREC
	done     bool
	free     bool // nothing is promised any more
}

type modelWill struct {
	client    *simClient
	packet    *packet.Will
	payload   string
	delay     uint32
	accepted  bool
	lostAt    int64
	fireBy    int64
	must      bool // it has to fire
	never     bool // it must not
	logged    int
	uncertain bool
	denied    bool // when it was to be set
}

type pos struct {
	part   int
	offset int64
}

// modelSession is one life of a session.
type modelSession struct {
	client    *simClient
	expiry    uint32
	durable   bool
	offlineAt int64
	changed   bool // its expiry was changed by a DISCONNECT
	loose     bool // a crash has left open whether it is there
	subs      []*modelSub
	entries   map[pos]*entry
	rets      map[string]*retEntry
	last      map[string]int64 // per topic, the highest offset that arrived
	replays   []*modelReplay
	late      bool          // a SUBSCRIBE has waited for an earlier one: which retained messages it is owed is decided then
	inHand    []*groupEntry // of groups that it has left
	conn      *simConn
}

type modelSub struct {
	filter  string
	start   []int64 // it may match from here on
	since   []int64 // it surely does
	opts    packet.Filter
	pend    []packet.Filter // asked for, not answered
	certain bool
	ending  bool
	id      uint32
	lost    bool // whether it is there is in doubt
	refused bool // the SUBSCRIBE that made it was refused
	unsubs  int  // outstanding
	old     *modelSub
	aside   bool      // another one is in its place, and it comes back if that one is refused
	gone    bool      // it does not
	heir    *modelSub // that came back when this one was refused
}

type entry struct {
	msg      Message
	pos      pos
	must     bool
	excused  bool
	forbid   bool
	via      []*modelSub // pending ones that would make it a must
	emitted  int
	crashes  int // at its last emission
	apps     int
	apps2    int
	conn     *simConn // on which it was matched
	restless bool     // options changed since
	at       int      // of the model's clock, when it was sent first
}

type retEntry struct {
	msg     Message
	by      *modelSub // which asked last
	must    bool
	allowed int
	emitted int
	crashes int
	apps2   int
}

type modelOp struct {
	unsub bool
	items []opItem
	late  bool // it waits for an earlier one
}

type opItem struct {
	sub    *modelSub
	opts   packet.Filter
	rets   []string
	since  []int64
	old    []packet.Filter // of the one that an UNSUBSCRIBE is removing
	exists bool
	doubt  bool // whether the retained messages are asked for
	id     uint32
	replay *modelReplay
}

func newModel(w *world) *model {
	return &model{w: w, watching: true, view: map[string]*modelRetained{}, tokens: map[uint64][]*modelReplay{}, triples: map[Triple]bool{}, late: map[string]bool{}, pubs: map[string]*modelPub{}, groups: map[string]*modelGroup{}}
}

func (m *model) sessions() (list []*modelSession) {
	for _, c := range m.w.clients {
		if c.session != nil {
			list = append(list, c.session)
		}
	}
	return list
}

// options are all that may be in force for a subscription.
func (b *modelSub) options() []packet.Filter { return append([]packet.Filter{b.opts}, b.pend...) }

func applies1(o packet.Filter, msg *Message, s *modelSession) bool {
	return !(o.NoLocal && msg.Client == s.client.key.ClientID)
}

// reach tells how a subscription stands to a message: whether it may match, and whether it surely does at QoS 1 or 2.
func (b *modelSub) reach(s *modelSession, msg *Message, p pos) (may, sure bool) {
	if isShared(b.filter) || !matches(b.filter, msg.Topic) || p.part >= 0 && p.offset < b.start[p.part] {
		return false, false
	}
	sure = true
	for _, o := range b.options() {
		if applies1(o, msg, s) {
			may = true
			sure = sure && min(o.QoS, msg.QoS) > 0 && (p.part < 0 || p.offset >= b.since[p.part])
		} else {
			sure = false
		}
	}
	return may, sure
}

// matched: the core is about to see a record.
func (m *model) matched(part int, msg *Message) {
	if msg.Offset < m.seen[part] {
		return
	}
	p := pos{part, msg.Offset}
	twin := false
	if t := msg.QoS2; t.Incarnation != 0 {
		seen := m.triples[t]
		m.triples[t] = true
		twin = seen || m.late[string(msg.Payload)]
		if seen && !m.wild && m.w.core.lives[t.Incarnation] != nil {
			// A duplicate. Runs that merge may take it in, and a second crash may show it without the first copy.
			m.dropped = append(m.dropped, &entry{msg: *msg, pos: p, excused: true})
			if m.w.opts.MaxQueueBytes < 1000 {
				m.undrop()
			}
			return
		}
	}
	if msg.Retain {
		m.retain(part, msg)
	}
	m.matchedGroups(p, msg, twin)
	for _, s := range m.sessions() {
		e := &entry{msg: *msg, pos: p, conn: s.conn}
		any := false
		for _, b := range s.subs {
			_, sure := b.reach(s, msg, p)
			// With other options it may be owed after a replay, so no-local does not count here.
			any = any || matches(b.filter, msg.Topic) && p.offset >= b.start[part]
			e.restless = e.restless || matches(b.filter, msg.Topic) && (b.unsubs > 0 || !b.certain || len(b.pend) > 0)
			switch {
			case sure && b.certain && !b.ending && !twin:
				e.must = true
			case sure && !b.certain && !b.lost && !twin:
				e.via = append(e.via, b)
			}
			for old := b.old; old != nil; old = old.old {
				if _, sure := old.reach(s, msg, p); sure && old.certain && !old.gone && !twin {
					e.via = append(e.via, old)
				}
			}
		}
		if any {
			if m.w.denied[s.client.key.ClientID+" "+msg.Topic] {
				e.must, e.excused = false, true
			}
			s.entries[p] = e
		}
	}
}

// undrop makes duplicates that were dropped no error.
func (m *model) undrop() {
	for _, d := range m.dropped {
		m.undropGroups(d)
		for _, s := range m.sessions() {
			if s.entries[d.pos] == nil {
				e := *d
				s.entries[d.pos] = &e
			}
		}
	}
}

func (m *model) reached(part int, next int64) { m.seen[part] = max(m.seen[part], next) }

func (m *model) gap(part int, next int64) { m.seen[part] = max(m.seen[part], next) }

func (m *model) trimmed(part int, to int64) {
	for _, s := range m.sessions() {
		s.excuse(func(p pos, _ *Message) bool { return p.part == part && p.offset < to })
		for p, e := range s.entries {
			if p.part == part && p.offset < to && !m.copied(s, p) {
				e.must, e.excused = false, true
			}
		}
	}
	for _, g := range m.groups {
		for p, e := range g.entries {
			if p.part == part && p.offset < to {
				e.must, e.via = false, nil
			}
		}
	}
}

// copied: retention cannot take it from the session, since a copy of it is in the log.
func (m *model) copied(s *modelSession, p pos) bool {
	cs := m.w.core.sessions[s.client.key]
	if cs == nil {
		return false
	}
	place := m.w.core.index[m.w.parts[p.part].part]
	return slices.ContainsFunc(cs.flight.all(), func(d flown) bool {
		cp := cs.flight.copyOf(d.id)
		if d.place == place && d.offset == p.offset && d.lease == nil && cp != nil && cp.at >= 0 {
			m.copies++
			return true
		}
		return false
	})
}

func (m *model) retain(part int, msg *Message) {
	old := m.view[msg.Topic]
	if old != nil {
		if old.msg.Offset > msg.Offset { // a topic is in one partition
			return
		}
		for _, s := range m.sessions() {
			if r := s.rets[string(old.msg.Payload)]; r != nil {
				r.must = false
			}
		}
	}
	m.view[msg.Topic] = &modelRetained{*msg, part}
}

// logged: a record has entered the log.
func (m *model) logged(msg *Message) {
	if p := m.pubs[string(msg.Payload)]; p != nil {
		p.logged++
	}
	for _, w := range m.wills {
		if w.payload == string(msg.Payload) {
			if w.logged++; w.logged > 1 && !m.wild {
				m.w.fail("will %s fired twice", w.payload)
			}
		}
	}
}

// Sessions.

func (m *model) newWill(n *simConn) *modelWill {
	w := m.w
	w.serial++
	will := &modelWill{client: n.client, payload: fmt.Sprintf("w%d", w.serial), delay: uint32(w.pick(0, 0, 3, 50))}
	will.packet = &packet.Will{
		QoS: byte(w.rnd.IntN(3)), Retain: w.chance(20), Topic: simTopics[w.rnd.IntN(len(simTopics))], Payload: []byte(will.payload),
	}
	if will.delay > 0 {
		will.packet.Props.Has, will.packet.Props.WillDelay = packet.PWillDelay, will.delay
	}
	if w.denied[n.client.key.ClientID+" "+will.packet.Topic] {
		will.uncertain, will.denied = true, true
	}
	m.wills = append(m.wills, will)
	return will
}

func (m *model) accepted(n *simConn, a Accepted) {
	defer m.regroup()
	c := n.client
	s := c.session
	can := s != nil && !n.r.CleanStart && (s.expiry > 0 || s.loose)
	switch {
	case a.SessionPresent && !can && (s == nil || !s.loose || n.r.CleanStart):
		m.w.fail("%s: session present where there can be none", c.key.ClientID)
		return
	case !a.SessionPresent && can && !s.loose && (s.offlineAt == 0 || n.at < s.offlineAt+int64(s.expiry)*1000):
		m.w.fail("%s: session is gone: %d at %d, offline %d expiry %d", c.key.ClientID, m.w.now, n.at, s.offlineAt, s.expiry)
	case a.SessionPresent && s.offlineAt != 0 && !s.loose && !s.changed && s.expiry > 0 && m.lastRun >= s.offlineAt+int64(s.expiry)*1000 && n.at > m.lastRun:
		m.w.fail("%s: session should have expired", c.key.ClientID)
	}
	if a.SessionPresent && s.loose {
		s.blur()
	}
	for _, w := range m.wills {
		if w.lostAt != 0 && w.accepted && w.client == c {
			w.resumed(m.w, n, a.SessionPresent)
		}
	}
	if !a.SessionPresent {
		s = &modelSession{
			client: c, entries: map[pos]*entry{}, rets: map[string]*retEntry{}, last: map[string]int64{}, durable: n.r.Expiry > 0,
		}
		c.session = s
	}
	s.expiry, s.offlineAt, s.conn, s.changed, s.loose = n.r.Expiry, 0, n, false, false
	if n.will != nil {
		if n.will.denied {
			m.w.fail("%s: a will to %s was taken without right", c.key.ClientID, n.will.packet.Topic)
		}
		n.will.accepted = true
	}
}

// resumed: the client is back. A will that has not fired by now must not fire, unless the session has ended.
func (w *modelWill) resumed(world *world, n *simConn, present bool) {
	if w.logged > 0 || w.never {
		return
	}
	switch {
	case w.uncertain:
	case !present || w.delay == 0:
		// It fires, or has: the session ended, or there was no delay.
	case n.at < w.fireBy && n.crashes == world.crashes:
		w.must, w.never = false, !world.pending(w.payload)
	default:
		w.must = false
	}
}

func (w *world) pending(payload string) bool {
	return slices.ContainsFunc(w.pubs, func(a *simAppend) bool { return string(a.msg.Payload) == payload })
}

// doubt: nobody knows whether a subscription is there.
func (s *modelSession) doubt(b *modelSub) {
	for b.heir != nil {
		b = b.heir
	}
	s.client.w.model.doubtGroup(b)
	b.certain, b.lost, b.ending = false, true, false
	s.supersede(b, b.aside)
	s.endReplays(b)
	for _, r := range s.rets {
		r.must = r.must && r.by != b
	}
	for _, e := range s.entries {
		e.via = slices.DeleteFunc(e.via, func(x *modelSub) bool { return x == b })
	}
}

func (s *modelSession) blur() {
	for _, b := range s.subs {
		s.doubt(b)
	}
	for _, e := range s.entries {
		e.must, e.excused = false, true
	}
	s.endReplays(nil)
	for _, r := range s.rets {
		r.must = false
		r.allowed += 2
	}
}

func (m *model) refused(n *simConn) {
	if n.will != nil && !n.will.accepted {
		n.will.never = true
	}
}

// lost: the network connection has ended.
func (m *model) lost(n *simConn, cause Cause) {
	defer m.regroup()
	c, w := n.client, n.will
	s := c.session
	if !n.accepted {
		m.unanswered(n)
		return
	}
	if s == nil || s.conn != n {
		return
	}
	s.conn, s.offlineAt = nil, m.w.now
	for _, r := range s.rets {
		if r.msg.QoS == 0 {
			r.must = false
		}
	}
	for _, op := range n.ops { // not answered: the client will ask again
		for _, it := range op.items {
			if it.replay != nil {
				s.endReplays(it.sub)
			}
			if op.unsub || !it.exists {
				s.doubt(it.sub)
			}
		}
	}
	s.recompute()
	if w == nil {
		return
	}
	w.lostAt, w.fireBy = m.w.now, m.w.now+int64(min(w.delay, s.expiry))*1000
	if cause == Normal {
		w.uncertain = true
	} else {
		w.must = !w.uncertain
	}
}

// closed: the server has closed after a DISCONNECT 0x00.
func (m *model) closed(n *simConn) {
	if w := n.will; w != nil && m.w.refusals == 0 {
		w.never = true
	}
}

// unanswered: nobody knows what became of a CONNECT.
func (m *model) unanswered(n *simConn) {
	c := n.client
	if n.will != nil {
		n.will.uncertain = true
	}
	for _, w := range m.wills { // it may have resumed the session of those
		w.uncertain = w.uncertain || w.client == c && w.lostAt != 0
	}
	if c.session == nil && n.r.Expiry > 0 {
		c.session = &modelSession{
			client: c, entries: map[pos]*entry{}, rets: map[string]*retEntry{}, last: map[string]int64{}, expiry: n.r.Expiry, offlineAt: m.w.now, loose: true,
		}
	}
	s := c.session
	if s == nil {
		return
	}
	if n.r.CleanStart || n.r.Expiry == 0 || s.expiry == 0 || s.loose || m.w.now >= s.offlineAt+int64(s.expiry)*1000 && s.offlineAt != 0 {
		// It may have been replaced. A client that does not know begins anew.
		s.loose, s.durable = true, s.durable || n.r.Expiry > 0
		c.forget()
		c.unsure = true
		return
	}
	s.expiry, s.changed = min(s.expiry, n.r.Expiry), true
}

func (m *model) crash() {
	defer m.regroup()
	m.undrop()
	for _, c := range m.w.clients {
		for _, n := range c.attempts {
			m.unanswered(n)
		}
		c.attempts = nil
		s := c.session
		if n := c.conn; n != nil && n.will != nil && n.accepted && n.will.lostAt == 0 {
			w := n.will
			w.lostAt, w.fireBy, w.must = m.w.now, m.w.now+int64(w.delay)*1000, !w.uncertain
		}
		if s == nil {
			continue
		}
		if s.offlineAt != 0 && (s.changed || s.expiry == 0 || m.w.now >= s.offlineAt+int64(s.expiry)*1000) {
			s.loose = true
		}
		if !s.durable && !s.loose {
			c.session = nil
			continue
		}
		if n := s.conn; n != nil {
			for _, op := range n.ops {
				for _, it := range op.items {
					if it.replay != nil {
						s.endReplays(it.sub)
					}
					if op.unsub || !it.exists {
						s.doubt(it.sub)
					}
				}
			}
			s.recompute()
		}
		for _, r := range s.rets { // asked for again while it was under way at QoS 2: after a crash that counts as one
			r.must = r.must && r.allowed == 1
		}
		s.conn = nil
		if s.offlineAt == 0 {
			s.offlineAt = m.w.now
		}
	}
	for _, w := range m.wills {
		if w.lostAt != 0 && w.logged == 0 && !w.never {
			w.fireBy = 1 << 60 // timers run from the restart
		}
	}
}

func (m *model) ticked() {
	m.lastRun = m.w.now
	m.regroup()
}

// Subscriptions.

func (s *modelSession) sub(filter string) *modelSub {
	for i := len(s.subs) - 1; i >= 0; i-- {
		if s.subs[i].filter == filter {
			return s.subs[i]
		}
	}
	return nil
}

func (m *model) subscribe(n *simConn, p *packet.Subscribe) {
	m.regroup()
	s := n.client.session
	op := &modelOp{late: m.w.core.links[n].asking != 0}
	n.ops[p.PacketID] = op
	s.late = s.late || op.late
	id := uint32(0)
	if len(p.Props.SubscriptionIDs) > 0 {
		id = p.Props.SubscriptionIDs[0]
	}
	for _, f := range p.Filters {
		f.Filter, _, _ = PlainFilter(f.Filter)
		b := s.sub(f.Filter)
		it := opItem{opts: f, id: id, since: slices.Clone(m.w.fed), exists: b != nil && !b.ending}
		if isShared(f.Filter) {
			m.group(f.Filter)
		}
		start := slices.Clone(m.w.fed)
		since := start
		if b != nil && b.ending { // a crash may bring it back
			start = b.start
			it.old = b.options()
			s.setAside(b)
		}
		if !it.exists {
			b = &modelSub{filter: f.Filter, opts: f, id: id, start: start, since: since, pend: slices.Clone(it.old), old: b}
			s.subs = append(s.subs, b)
		} else {
			b.pend = append(b.pend, f)
		}
		it.sub = b
		for _, e := range s.entries {
			if matches(f.Filter, e.msg.Topic) {
				e.restless = true
				e.forbid = e.forbid && !it.exists // other options, the same start
			}
		}
		if !isShared(f.Filter) && (f.RetainHandling == 0 || f.RetainHandling == 1 && (!it.exists || !b.certain)) {
			it.rets = m.owe(s, b)
		}
		it.doubt = f.RetainHandling == 1 && it.exists
		op.items = append(op.items, it)
		s.reoptioned(f)
	}
	m.askReplays(op, s, p)
}

// owe notes the retained messages that a subscription asks for.
func (m *model) owe(s *modelSession, b *modelSub) (list []string) {
	for name, r := range m.view {
		if r.msg.Clear || !matches(b.filter, name) {
			continue
		}
		key := string(r.msg.Payload)
		re := s.rets[key]
		if re == nil {
			re = &retEntry{msg: r.msg}
			s.rets[key] = re
		}
		re.allowed++
		list = append(list, key)
	}
	return list
}

func (s *modelSession) drop(b *modelSub) {
	s.endReplays(b)
	for _, r := range s.rets {
		r.must = r.must && r.by != b
	}
	s.subs = slices.DeleteFunc(s.subs, func(x *modelSub) bool { return x == b })
}

// setAside takes out a subscription that another one takes the place of while it is ending. What it was owed it is owed again if neither
// is written.
func (s *modelSession) setAside(b *modelSub) {
	for _, e := range s.entries {
		if _, sure := b.reach(s, &e.msg, e.pos); sure && b.certain && e.must {
			e.via = append(e.via, b)
		}
	}
	b.aside = true
	s.drop(b)
	s.recompute()
}

// supersede forgets those whose place a subscription took, which is written; and itself, if it is not.
func (s *modelSession) supersede(b *modelSub, itself bool) {
	for old := b; old != nil; old = old.old {
		if old == b && !itself {
			continue
		}
		old.gone = true
		for _, e := range s.entries {
			if slices.Contains(e.via, old) {
				e.via = slices.DeleteFunc(e.via, func(x *modelSub) bool { return x == old })
				e.excused = e.excused || !e.must
			}
		}
	}
	b.old = nil
}

// fallBack: a subscription was refused, and the one whose place it took is there again.
func (m *model) fallBack(s *modelSession, b *modelSub) {
	b.gone = true
	old := b.old
	for old != nil && old.gone {
		old = old.old
	}
	if b.aside || old == nil {
		return
	}
	for x := b; x != old; x = x.old {
		x.heir = old
		old.unsubs += x.unsubs
	}
	old.aside, old.ending = false, old.unsubs > 0
	s.subs = append(s.subs, old)
	m.fellBack++
	if !isShared(old.filter) {
		s.due(old)
	}
}

// due: what waited for it to be known that a subscription is there.
func (s *modelSession) due(b *modelSub) {
	for _, e := range s.entries {
		if slices.Contains(e.via, b) && !e.excused && e.apps == 0 {
			_, sure := b.reach(s, &e.msg, e.pos)
			e.must = e.must || sure
		}
		e.via = slices.DeleteFunc(e.via, func(x *modelSub) bool { return x == b })
	}
}

func (m *model) unsubscribe(n *simConn, p *packet.Unsubscribe) {
	defer m.regroup()
	op := &modelOp{unsub: true}
	n.ops[p.PacketID] = op
	for _, f := range p.Filters {
		if b := n.client.session.sub(f); b != nil {
			b.ending = true
			b.unsubs++
			n.client.session.endReplays(b)
			op.items = append(op.items, opItem{sub: b})
			for _, e := range n.client.session.entries {
				e.restless = e.restless || matches(f, e.msg.Topic)
			}
		}
	}
}

// answered: SUBACK or UNSUBACK.
func (m *model) answered(n *simConn, p *packet.Suback) {
	s, op := n.client.session, n.ops[p.PacketID]
	if op == nil && !m.watching {
		return
	}
	if op == nil {
		m.w.fail("%s: an answer to nothing", n.client.key.ClientID)
		return
	}
	delete(n.ops, p.PacketID)
	for i, it := range op.items {
		code, b := p.Codes[i], it.sub
		if op.unsub {
			for b.heir != nil {
				b = b.heir
			}
			b.unsubs--
		}
		for _, f := range it.old { // whether it is gone is decided, too
			b.pend = removeFirst(b.pend, f)
		}
		if code.Failed() && m.w.refusals == 0 && (code != packet.QuotaExceeded || m.w.opts.MaxAllSubs == 0 && it.replay == nil) {
			m.w.fail("%s: %s answered %v", n.client.key.ClientID, b.filter, code)
		}
		switch {
		case op.unsub && code.Failed():
			b.ending = b.unsubs > 0
		case op.unsub:
			m.inHand(s, b)
			s.drop(b)
			s.supersede(b, true)
		case code.Failed():
			if it.exists {
				b.pend = removeFirst(b.pend, it.opts)
			} else {
				b.refused = true
			}
			if b.refused && !b.certain && len(b.pend) == 0 {
				s.drop(b)
				m.fallBack(s, b)
			}
		default:
			if it.exists {
				b.pend = removeFirst(b.pend, it.opts)
			}
			if b.lost {
				b.since = it.since
			}
			b.opts, b.id, b.certain, b.lost = it.opts, it.id, true, false
			s.supersede(b, false)
			m.committed(s, b, it)
		}
		switch {
		case it.replay == nil:
		case code.Failed():
			it.replay.end()
		default:
			it.replay.begun(m)
		}
	}
	m.postpone(n)
	s.recompute()
	if op.unsub {
		m.forbid(s)
	}
	m.regroup()
}

// postpone notes where subscriptions begin whose SUBSCRIBE still waits behind another one: it is taken up right after an answer, this one
// or a later one. One that an earlier SUBSCRIBE has not made, since it was refused, does not begin with that one, either.
func (m *model) postpone(n *simConn) {
	waits := map[*modelOp]bool{}
	for _, p := range m.w.core.links[n].later.packets {
		if p, ok := p.(*packet.Subscribe); ok && n.ops[p.PacketID] != nil {
			waits[n.ops[p.PacketID]] = true
		}
	}
	for op := range waits {
		for i := range op.items {
			it := &op.items[i]
			it.since = slices.Clone(m.w.fed)
			if !it.sub.certain && !it.sub.lost && !m.taken(n, it.sub, waits) {
				it.sub.since = it.since
			}
		}
	}
}

// taken tells whether the core has taken up a SUBSCRIBE that would make a subscription, and not answered it.
func (m *model) taken(n *simConn, b *modelSub, waits map[*modelOp]bool) bool {
	for _, op := range n.ops {
		if !op.unsub && !waits[op] && slices.ContainsFunc(op.items, func(it opItem) bool { return it.sub == b }) {
			return true
		}
	}
	return false
}

func removeFirst(list []packet.Filter, f packet.Filter) []packet.Filter {
	if i := slices.Index(list, f); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

func (m *model) committed(s *modelSession, b *modelSub, it opItem) {
	if isShared(b.filter) {
		m.joined(s, b)
		return
	}
	s.due(b)
	if b.aside || b.gone { // the one in its place asks for itself
		return
	}
	for _, key := range it.rets {
		r := s.rets[key]
		now := m.view[r.msg.Topic]
		if string(now.msg.Payload) != key || !applies1(it.opts, &r.msg, s) || m.w.denied[s.client.key.ClientID+" "+r.msg.Topic] {
			continue
		}
		if min(it.opts.QoS, r.msg.QoS) > 0 && !it.doubt {
			r.must, r.by = true, b
		}
	}
}

// recompute excuses what no subscription surely matches any more.
func (s *modelSession) recompute() {
	for _, e := range s.entries {
		if e.must && !s.sure(&e.msg, e.pos) {
			e.must, e.excused = false, !slices.ContainsFunc(e.via, func(b *modelSub) bool { return b.aside && !b.gone })
		}
	}
	for _, r := range s.rets {
		asked := r.by == nil || !slices.ContainsFunc(r.by.options(), func(f packet.Filter) bool { return f.QoS == 0 })
		if r.must && !(asked && s.sure(&r.msg, pos{-1, 0})) {
			r.must = false
		}
	}
}

func (s *modelSession) sure(msg *Message, p pos) bool {
	return slices.ContainsFunc(s.subs, func(b *modelSub) bool {
		_, sure := b.reach(s, msg, p)
		return sure && b.certain
	})
}

// forbid: after UNSUBACK only what is in flight may still come.
func (m *model) forbid(s *modelSession) {
	cs := m.w.core.sessions[s.client.key]
	if cs == nil {
		return
	}
	for p, e := range s.entries {
		may := slices.ContainsFunc(s.subs, func(b *modelSub) bool {
			may, _ := b.reach(s, &e.msg, p)
			return may
		})
		place := m.w.core.index[m.w.parts[p.part].part]
		flying := slices.ContainsFunc(cs.flight.all(), func(d flown) bool { return d.place == place && d.offset == p.offset })
		held := cs.link != nil && slices.ContainsFunc(cs.link.held, func(h held) bool { return h.msg.Topic == e.msg.Topic && h.msg.Offset == p.offset })
		if !may && !flying && !held {
			e.forbid = true
		}
	}
}

// deny: a client may no longer receive a topic.
func (m *model) deny(c *simClient, name string) {
	defer m.regroup()
	if s := c.session; s != nil {
		s.excuse(func(_ pos, msg *Message) bool { return msg.Topic == name })
		for _, e := range s.entries {
			if e.msg.Topic == name {
				e.must, e.excused = false, true
			}
		}
		for _, r := range s.rets {
			if r.msg.Topic == name {
				r.must = false
			}
		}
	}
	for _, w := range m.wills {
		if w.client == c && w.packet.Topic == name {
			w.must, w.uncertain = false, true
		}
	}
}

// Deliveries.

func (m *model) emitted(n *simConn, o *simOut) {
	w, c := m.w, n.client
	s, id := c.session, c.key.ClientID
	if !m.watching {
		return
	}
	if w.denied[id+" "+o.msg.Topic] {
		w.fail("%s: %s delivered without right", id, o.msg.Topic)
	}
	if o.msg.Offset < 0 {
		return // not in the log, and owed to nobody
	}
	if o.msg.Offset >= retainedBase {
		m.emittedRetained(s, o)
		return
	}
	p := pos{w.partOf(o.msg.Topic), o.msg.Offset}
	if e, shared := m.groupOf(n, o, p); shared {
		m.emittedGroup(n, o, e, p)
		return
	}
	if m.emittedPast(n, o, p) {
		return
	}
	e := s.entries[p]
	switch {
	case e == nil:
		w.fail("%s: %s@%d of %s is not owed", id, o.msg.Payload, o.msg.Offset, o.msg.Topic)
		return
	case e.forbid && !(o.d.Dup && w.crashes > 0): // an id whose removal a crash has lost is sent again
		w.fail("%s: %s@%d of %s after UNSUBACK", id, o.msg.Payload, o.msg.Offset, o.msg.Topic)
	case !o.d.Dup && e.emitted > 0 && (e.crashes == w.crashes):
		w.fail("%s: %s@%d of %s sent again without DUP", id, o.msg.Payload, o.msg.Offset, o.msg.Topic)
	case o.d.Dup && e.emitted == 0 && w.crashes == 0:
		w.fail("%s: %s@%d of %s has DUP the first time", id, o.msg.Payload, o.msg.Offset, o.msg.Topic)
	case !o.d.Dup && o.msg.expired(w.now):
		w.fail("%s: %s has expired", id, o.msg.Payload)
	case string(e.msg.Payload) != string(o.msg.Payload):
		w.fail("%s: %s@%d has another payload", id, o.msg.Payload, o.msg.Offset)
	}
	if e.conn == n && e.emitted == 0 && !e.restless && !o.d.Dup {
		m.exactly(s, e, o)
	}
	if !o.d.Dup || e.emitted == 0 {
		e.at = o.at
	}
	e.emitted++
	e.crashes = w.crashes
}

// exactly checks QoS, retain flag and subscription ids of a delivery where nothing is in doubt.
func (m *model) exactly(s *modelSession, e *entry, o *simOut) {
	qos, rap, any := byte(0), false, false
	var ids []uint32
	for _, b := range s.subs {
		if !b.certain || b.ending || len(b.pend) > 0 {
			return
		}
		if may, _ := b.reach(s, &e.msg, e.pos); may {
			any = true
			qos, rap = max(qos, min(b.opts.QoS, e.msg.QoS)), rap || b.opts.RetainAsPublished
			if b.id != 0 && !slices.Contains(ids, b.id) {
				ids = append(ids, b.id)
			}
		}
	}
	if !any {
		m.w.fail("%s: %s@%d is not owed", s.client.key.ClientID, e.msg.Payload, e.pos.offset)
	}
	got := slices.Clone(o.d.SubIDs)
	slices.Sort(got)
	slices.Sort(ids)
	if o.d.QoS != qos || o.d.Retain != (rap && e.msg.Retain) || !slices.Equal(got, ids) {
		m.w.fail("%s: %s@%d at QoS %d retain %v ids %v, want %d %v %v", s.client.key.ClientID, e.msg.Payload, e.pos.offset,
			o.d.QoS, o.d.Retain, got, qos, rap && e.msg.Retain, ids)
	}
}

func (m *model) emittedRetained(s *modelSession, o *simOut) {
	id := s.client.key.ClientID
	if slices.ContainsFunc(o.d.SubIDs, func(id uint32) bool { return id >= sharedIDs }) {
		m.w.fail("%s: retained %s for a shared subscription", id, o.msg.Payload)
	}
	r := s.rets[string(o.msg.Payload)]
	if r == nil {
		if !m.wild && len(m.dropped) == 0 && len(m.late) == 0 && !s.late { // a second crash may show a duplicate without the first copy
			m.w.fail("%s: retained %s is not owed", id, o.msg.Payload)
		}
		return
	}
	if !o.d.Retain {
		m.w.fail("%s: retained %s without the retain flag", id, o.msg.Payload)
	}
	if !o.d.Dup && o.msg.expired(m.w.now) {
		m.w.fail("%s: retained %s has expired", id, o.msg.Payload)
	}
	if r.crashes != m.w.crashes {
		r.crashes, r.emitted = m.w.crashes, 0
	}
	if !o.d.Dup {
		limit := r.allowed
		if m.w.crashes > 0 { // once from the restored set, once from the cursor that begins again
			limit *= 2
		}
		if r.emitted++; r.emitted > limit && len(m.late) == 0 && !s.late {
			m.w.fail("%s: retained %s sent %d times, asked for %d times", id, o.msg.Payload, r.emitted, r.allowed)
		}
	}
}

// app: the client's application has a message.
func (m *model) app(n *simConn, o *simOut) {
	s := n.client.session
	id := n.client.key.ClientID
	if o.group != nil {
		m.appGroup(n, o)
		return
	}
	if o.msg.Offset >= retainedBase {
		r := s.rets[string(o.msg.Payload)]
		if r == nil {
			return
		}
		r.must = false
		if o.d.QoS == 2 {
			if r.apps2++; r.apps2 > r.allowed && len(m.late) == 0 && !s.late {
				m.w.fail("%s: retained %s of QoS 2 arrived %d times, asked for %d times", id, o.msg.Payload, r.apps2, r.allowed)
			}
		}
		return
	}
	p := pos{m.w.partOf(o.msg.Topic), o.msg.Offset}
	if o.d.Replayed {
		m.appPast(n, o, p)
		return
	}
	e := s.entries[p]
	if e == nil {
		return
	}
	if e.must = false; e.apps == 0 {
		m.appLive(s, e, o, p)
	}
	if e.apps++; e.apps == 1 {
		if last, ok := s.last[o.msg.Topic]; ok && p.offset < last && !(e.belated() && m.w.crashes > 0) {
			m.w.fail("%s: %s@%d of %s arrived after @%d", id, o.msg.Payload, p.offset, o.msg.Topic, last)
		}
		s.last[o.msg.Topic] = max(p.offset, s.last[o.msg.Topic])
	}
	if o.d.QoS == 2 {
		if e.apps2++; e.apps2 > 1 {
			m.w.fail("%s: %s@%d of QoS 2 arrived twice", id, o.msg.Payload, p.offset)
		}
	}
}

// belated: after a crash the replay goes by the options and the policy of now, so what was dropped before, or lost on the way at QoS 0,
// may still come, behind what came in its place.
func (e *entry) belated() bool { return e.restless || e.excused || e.msg.Props != nil }

// Messages that clients publish at QoS 2.

func (m *model) pub(p *simPub) *modelPub {
	key := string(p.msg.Payload)
	if m.pubs[key] == nil {
		m.pubs[key] = &modelPub{}
	}
	return m.pubs[key]
}

func (m *model) received(p *simPub) { m.pub(p).received = true }
func (m *model) forget(p *simPub)   { m.pub(p).free = true }
func (m *model) complete(p *simPub, failed bool) {
	if failed {
		m.pub(p).free = true
	} else {
		m.pub(p).done = true
	}
}

// finish checks what is left at the end of a run.
func (m *model) finish() {
	w := m.w
	m.finishGroups()
	for _, s := range m.sessions() {
		for p, e := range s.entries {
			if e.must && !e.msg.expired(w.now) {
				w.fail("%s: %s@%d of %s never arrived", s.client.key.ClientID, e.msg.Payload, p.offset, e.msg.Topic)
			}
		}
		for _, r := range s.rets {
			if r.must && !m.wild && !m.late[string(r.msg.Payload)] && !r.msg.expired(w.now) {
				w.fail("%s: retained %s of %s never arrived", s.client.key.ClientID, r.msg.Payload, r.msg.Topic)
			}
		}
		m.finishReplays(s)
	}
	for key, p := range m.pubs {
		switch {
		case m.wild:
		case p.received && p.logged == 0:
			w.fail("%s had its PUBREC and is not in the log", key)
		case p.logged > 1 && !p.free && !w.twins:
			w.fail("%s is %d times in the log", key, p.logged)
		case !p.free && !p.done:
			w.fail("%s: the handshake never ended", key)
		}
	}
	for _, will := range m.wills {
		switch {
		case will.must && will.logged == 0 && !will.uncertain:
			w.fail("will %s never fired", will.payload)
		case will.never && will.logged > 0 && !will.uncertain:
			w.fail("will %s fired", will.payload)
		}
	}
}

func (w *modelWill) String() string {
	if w == nil {
		return "none"
	}
	return fmt.Sprintf("%s delay %d", w.payload, w.delay)
}
