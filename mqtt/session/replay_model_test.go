package session

import (
	"slices"
	"strings"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// modelReplay is one history that a client has asked for: the messages of the log that its filter matches, from where the log said it
// begins up to what the core had matched when it was asked. Each comes, once, in the order of the log, and before what is live. It comes
// again at QoS 0 and 1 only after a crash, at QoS 2 never.
type modelReplay struct {
	session *modelSession
	conn    *simConn
	sub     *modelSub
	opts    packet.Filter
	upTo    []int64
	known   bool // where it begins
	running bool // SUBACK has come
	over    bool // unsubscribed, replaced, or nobody knows
	gap     bool // its first message has to tell of one
	crashes int
	at      int // of the model's clock, when SUBACK was sent
	entries map[pos]*replayEntry
	last    map[string]int64 // per topic, the highest offset that has arrived since, from history or live
}

type replayEntry struct {
	msg   Message
	must  bool
	sent  bool
	got   bool
	apps2 int
}

// askReplays notes what a SUBSCRIBE asks of the past.
func (m *model) askReplays(op *modelOp, s *modelSession, p *packet.Subscribe) {
	all := slices.ContainsFunc(p.Props.User, func(u packet.UserProperty) bool { return u.Name == ReplayFrom })
	for i := range op.items {
		it := &op.items[i]
		if !all && !strings.HasPrefix(p.Filters[i].Filter, ReplayPrefix) {
			continue
		}
		it.replay = &modelReplay{
			session: s, conn: s.conn, sub: it.sub, opts: it.opts, upTo: slices.Clone(m.w.fed), crashes: m.w.crashes,
			entries: map[pos]*replayEntry{}, last: map[string]int64{},
		}
		s.replays = append(s.replays, it.replay)
		m.asked = append(m.asked, it.replay)
	}
}

// takeAsked finds the replays that the core asks for: some may have been refused.
func (m *model) takeAsked(token uint64, asks []HistoryAsk) (list []*modelReplay) {
	if !m.watching {
		return nil
	}
	var conn Conn
	for _, l := range m.w.core.links {
		if l.asking == token {
			conn = l.conn
		}
	}
	for _, ask := range asks {
		i := slices.IndexFunc(m.asked, func(r *modelReplay) bool { return r.sub.filter == ask.Filter && Conn(r.conn) == conn })
		m.asked[i].upTo = slices.Clone(m.w.fed)
		list = append(list, m.asked[i])
		m.asked = slices.Delete(m.asked, i, i+1)
	}
	return list
}

// learn: the log says where histories begin. Questions and answers are in the order of the asks, by token.
func (m *model) learn(token uint64, answers []History) {
	list := m.tokens[token]
	delete(m.tokens, token)
	for i, r := range list {
		h := &answers[i]
		if h.Err != nil {
			continue
		}
		r.known, r.gap = true, h.Lost != 0
		for part, p := range m.w.parts {
			for _, msg := range p.recs {
				if msg.Offset >= h.From[p.part] && msg.Offset < r.upTo[part] && matches(r.sub.filter, msg.Topic) {
					r.entries[pos{part, msg.Offset}] = &replayEntry{msg: msg}
				}
			}
		}
	}
}

// begun: the SUBACK of a SUBSCRIBE with history has come.
func (r *modelReplay) begun(m *model) {
	m.clock++
	r.running, r.crashes, r.at = true, m.w.crashes, m.clock
	id := r.session.client.key.ClientID
	for p, e := range r.entries {
		wanted := !slices.ContainsFunc(r.sub.options(), func(f packet.Filter) bool { return !applies1(f, &e.msg, r.session) })
		e.must = !r.over && wanted && applies1(r.opts, &e.msg, r.session) && !m.w.denied[id+" "+e.msg.Topic] && p.offset >= m.w.parts[p.part].start &&
			!m.twin(p)
	}
	for _, o := range r.session.replays {
		if o != r && o.running && o.sub.filter == r.sub.filter {
			o.end()
		}
	}
}

// twin: the record is a second copy of a message of QoS 2, which is dropped where it is met live; history does not know.
func (m *model) twin(p pos) bool {
	return slices.ContainsFunc(m.dropped, func(e *entry) bool { return e.pos == p })
}

// end: nothing has to come any more.
func (r *modelReplay) end() {
	r.over = true
	for _, e := range r.entries {
		e.must = false
	}
}

// endReplays ends those of a subscription; nil: all.
func (s *modelSession) endReplays(b *modelSub) {
	for _, r := range s.replays {
		if b == nil || r.sub == b || r.sub.filter == b.filter {
			r.end()
		}
	}
}

// excuse has nothing come for what f says.
func (s *modelSession) excuse(f func(p pos, msg *Message) bool) {
	for _, r := range s.replays {
		for p, e := range r.entries {
			if f(p, &e.msg) {
				e.must = false
			}
		}
	}
}

// reoptioned: a subscription with a history may have other options.
func (s *modelSession) reoptioned(f packet.Filter) {
	s.excuse(func(_ pos, msg *Message) bool { return matches(f.Filter, msg.Topic) && !applies1(f, msg, s) })
}

// serves tells whether a delivery is for a history: it may have waited since before the history began.
func (m *model) serves(r *modelReplay, n *simConn, o *simOut) bool {
	cs := m.w.core.sessions[n.client.key]
	if cs == nil || !r.running {
		return true
	}
	e := cs.flight.find(o.d.PacketID)
	i := slices.IndexFunc(cs.histories, func(h *history) bool { return h.sub.filter == r.sub.filter })
	switch {
	case e == nil:
		return true
	case i < 0: // it has ended, perhaps since this was sent for it
		return e.by&wasPast != 0
	}
	return e.by&cs.histories[i].bit != 0
}

// emittedPast tells whether a delivery is one of history, and checks it.
func (m *model) emittedPast(n *simConn, o *simOut, p pos) bool {
	s, id := n.client.session, n.client.key.ClientID
	m.clock++
	o.at = m.clock
	found, fresh, again := false, false, o.d.Dup
	for _, r := range s.replays {
		e := r.entries[p]
		if e == nil {
			continue
		}
		found = true
		if o.d.QoS > 0 && !m.serves(r, n, o) {
			again = true
			continue
		}
		if !e.must && r.running && !r.over && !e.sent && !applies1(r.opts, &e.msg, s) {
			again = true
			wanted := slices.ContainsFunc(r.sub.options(), func(f packet.Filter) bool { return applies1(f, &e.msg, s) })
			r.gap = r.gap && !(wanted && o.d.Replayed && o.d.Gap != 0) // by options that came later it is the first
			continue
		}
		if r.over || !r.running {
			again = again || !e.sent || !r.running || m.w.crashes > r.crashes // nobody knows how it was left
			e.sent = e.sent || r.running && o.d.Replayed && !o.d.Dup          // what is sent again was another's, or is sent
			continue
		}
		if o.d.Replayed && r.gap && o.d.Gap == 0 && !o.d.Dup {
			m.w.fail("%s: replayed %s@%d does not tell of the gap before it", id, o.msg.Payload, p.offset)
		}
		r.gap = r.gap && !o.d.Replayed
		if o.d.QoS == 0 {
			e.must = false // it may be lost on the way
		}
		if o.d.Dup == e.sent || m.w.crashes > r.crashes {
			o.serves = append(o.serves, r)
		}
		o.again = o.again || e.sent && m.w.crashes > r.crashes
		fresh, again = fresh || !e.sent, again || m.w.crashes > r.crashes
		e.sent = e.sent || o.d.Replayed && !o.d.Dup
	}
	switch {
	case o.d.Replayed && !found:
		m.w.fail("%s: %s@%d of %s is replayed, and nobody has asked for it", id, o.msg.Payload, p.offset, o.msg.Topic)
		return true
	case o.d.Replayed && !fresh && !again:
		m.w.fail("%s: %s@%d of %s is replayed twice", id, o.msg.Payload, p.offset, o.msg.Topic)
	case o.d.Replayed && !o.d.Dup && o.msg.expired(m.w.now):
		m.w.fail("%s: replayed %s has expired", id, o.msg.Payload)
	case o.d.Replayed && o.d.Retain && !o.msg.Retain:
		m.w.fail("%s: replayed %s is retained", id, o.msg.Payload)
	}
	return o.d.Replayed || found && o.d.Dup
}

// appPast: the application has a message of history.
func (m *model) appPast(n *simConn, o *simOut, p pos) {
	s, id := n.client.session, n.client.key.ClientID
	if e := s.entries[p]; e != nil {
		e.must = false // it was for the queue as well, perhaps
	}
	for _, r := range o.serves {
		e := r.entries[p]
		if !e.got && !o.again { // else it went out before a crash, and was lost on the way
			r.arrived(m, o, p)
		}
		if o.d.QoS == 2 && (!e.got || !o.d.Dup) {
			if e.apps2++; e.apps2 > 1 {
				m.w.fail("%s: replayed %s@%d of QoS 2 arrived twice", id, o.msg.Payload, p.offset)
			}
		}
		e.got, e.must = true, false
	}
}

// arrived checks the order of what arrives since the history began.
func (r *modelReplay) arrived(m *model, o *simOut, p pos) {
	if last, ok := r.last[o.msg.Topic]; ok && p.offset < last {
		m.w.fail("%s: %s@%d of %s arrived after @%d", r.session.client.key.ClientID, o.msg.Payload, p.offset, o.msg.Topic, last)
	}
	r.last[o.msg.Topic] = max(p.offset, r.last[o.msg.Topic])
}

// appLive: a message that is not history has arrived. All of the history before it has to be there.
func (m *model) appLive(s *modelSession, e *entry, o *simOut, p pos) {
	at := o.at
	if o.d.Dup { // what is sent again keeps its place
		at = e.at
	}
	for _, r := range s.replays {
		if r.over || !r.running || at < r.at || !matches(r.sub.filter, o.msg.Topic) || p.offset < r.upTo[p.part] {
			continue
		}
		if !(e.belated() && m.w.crashes > r.crashes) {
			r.arrived(m, o, p)
		}
		for q, e := range r.entries {
			if e.must && !e.got && q.part == p.part && e.msg.Topic == o.msg.Topic && !e.msg.expired(m.w.now) {
				m.w.fail("%s: %s@%d of %s arrived before @%d of its history", s.client.key.ClientID, o.msg.Payload, p.offset, o.msg.Topic, q.offset)
			}
		}
	}
}

// finishReplays checks what is left at the end of a run.
func (m *model) finishReplays(s *modelSession) {
	for _, r := range s.replays {
		for p, e := range r.entries {
			m.replayed++
			if e.must && !e.got && !e.msg.expired(m.w.now) {
				m.w.fail("%s: %s@%d of %s was never replayed", s.client.key.ClientID, e.msg.Payload, p.offset, e.msg.Topic)
			}
		}
	}
}
