package session

import (
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// subscribe adds or replaces subscriptions. A new filter enters the tree at once, as pending, and starts where the matcher is:
// what it matches from now on is collected. SUBACK and delivery wait until it is durable; if the write is refused, the filter
// goes again. What somebody before has refused stays refused. A filter that is there already gets the new options once they are durable, and keeps its start.
func (c *Core) subscribe(l *link, p *packet.Subscribe) {
	if c.waits(l, p) {
		return
	}
	s, a := l.session, c.asksOf(l, p)
	codes := make([]packet.Code, len(a.filters))
	var changes []change
	id := uint32(0)
	if len(p.Props.SubscriptionIDs) > 0 {
		id = p.Props.SubscriptionIDs[0]
	}
	for i := range a.filters {
		f := &a.filters[i]
		if codes[i] = f.Refused; !codes[i].Failed() {
			codes[i] = a.code(i)
		}
		if !codes[i].Failed() {
			codes[i] = c.checkFilter(s, f)
		}
		if codes[i].Failed() || !a.wanted(i) && c.unchanged(s, f, id) {
			continue
		}
		ch := c.change(s, f, id)
		ch.index = i
		if a.wanted(i) {
			c.await(s, a, &ch, len(changes))
		}
		changes = append(changes, ch)
	}
	pid := p.PacketID
	write := func(kept []change) { c.writeSubs(l, pid, a, codes, kept) }
	if len(a.of) > 0 {
		c.ask(l, a, codes, changes, write)
	} else {
		write(changes)
	}
}

// writeSubs makes the changes of a SUBSCRIBE durable, and answers it.
func (c *Core) writeSubs(l *link, pid uint16, a *asks, codes []packet.Code, changes []change) {
	s, asking := l.session, l.asking
	var recs []StateRecord
	for i := range changes {
		if ch := &changes[i]; s.durable {
			ch.says = ch.asksFor()
			recs = append(recs, c.recordOf(s, ch.sub, ch.opts, ch.sub.owes, ch.says))
		}
	}
	done := func(err error) {
		for _, ch := range changes {
			if err == nil {
				c.commit(s, ch)
			} else {
				c.refuse(s, ch)
			}
		}
		for i := range codes {
			if err != nil && !codes[i].Failed() || codes[i].Failed() && l.version < packet.V5 {
				codes[i] = packet.UnspecifiedError
			}
		}
	}
	answer := &packet.Suback{Kind: packet.SUBACK, PacketID: pid, Codes: codes, Props: a.props()}
	if len(recs) == 0 {
		done(nil)
		c.suback(l, answer)
		c.resume(l, asking)
		return
	}
	early := mutant("early-suback")
	if early {
		c.suback(l, answer)
	}
	c.write(s.shard.lane, func(err error) {
		done(err)
		if !early {
			c.suback(l, answer)
		}
		c.pump(s)
		c.resume(l, asking)
	}, recs...)
}

// suback answers, if the connection is still there.
func (c *Core) suback(l *link, answer *packet.Suback) {
	if s := l.session; s.link == l && !s.ended {
		l.conn.Send(answer)
		c.pump(s)
	}
}

// checkFilter returns the QoS granted, or why the filter is refused.
func (c *Core) checkFilter(s *session, f *packet.Filter) packet.Code {
	k, shared, err := sharedKey(s.key.Tenant, f.Filter)
	if err != nil || f.QoS > 2 || !shared && topic.ValidateFilter(f.Filter) != nil {
		return packet.TopicFilterInvalid
	}
	w := subWeight(f.Filter)
	all := w
	if shared && c.groups[k] == nil {
		all += subWeight(k.ClientID)
	}
	b := s.queue.subs.get(f.Filter)
	if b == nil && (s.queue.subs.weight+w > c.o.MaxSubs || c.weight+all > c.o.MaxAllSubs) {
		c.subsRefused++
		return packet.QuotaExceeded
	}
	if b != nil && b.ending > 0 && b.depth() >= maxReplaced {
		return packet.QuotaExceeded
	}
	return packet.Code(f.QoS)
}

// maxReplaced bounds how often one filter may be unsubscribed and subscribed again before the log has answered: what each of them had is
// looked at for every message.
const maxReplaced = 32

// depth is how many subscriptions one may fall back on.
func (b *sub) depth() (n int) {
	for b = b.old; b != nil; b = b.old {
		n++
	}
	return n
}

// change is what a SUBSCRIBE does to one subscription, once it is durable.
type change struct {
	sub  *sub
	opts options
	owes bool // retained messages
	asOf vector

	isNew   bool
	index   int      // of the filter in its packet
	history *history // nil: none is asked for
	says    *history // in its record
}

// unchanged tells whether a SUBSCRIBE says nothing that is not durable already: devices subscribe again whenever they connect.
func (c *Core) unchanged(s *session, f *packet.Filter, id uint32) bool {
	b := s.queue.subs.get(f.Filter)
	return b != nil && !b.pending && b.writes == 0 && b.ending == 0 && b.opts == subOptions(f, id) &&
		(f.RetainHandling != 0 || c.noneRetained(f.Filter))
}

func subOptions(f *packet.Filter, id uint32) options {
	return options{qos: f.QoS, noLocal: f.NoLocal, rap: f.RetainAsPublished, id: id}
}

// noneRetained tells whether surely no retained message matches a filter.
func (c *Core) noneRetained(filter string) bool {
	looks := fewLooks
	none := true
	_, done := c.retained.names.ScanN(filter, "", &looks, func(_ string, r *retained) bool {
		none = r.cleared
		return none
	})
	return none && done
}

const fewLooks = 64

// change makes a change, and puts a subscription with a new filter into the tree.
func (c *Core) change(s *session, f *packet.Filter, id uint32) change {
	opts := subOptions(f, id)
	b := s.queue.subs.get(f.Filter)
	isNew := b == nil || b.ending > 0
	if isNew {
		old := b
		if b = (&sub{filter: f.Filter, opts: opts, pending: s.durable, old: old}); old != nil {
			c.cutShort(s, old.history)
			b.member = old.member // a session is one member of a group
		}
		s.queue.subs.set(b)
		c.begins(s, b)
	}
	b.writes++
	ch := change{sub: b, opts: opts, isNew: isNew}
	if b.member == nil && (f.RetainHandling == 0 || f.RetainHandling == 1 && isNew) {
		ch.owes, ch.asOf = true, c.next()
		b.owes, b.asOf, b.queued = true, ch.asOf, false // what is written from now on says so
	}
	return ch
}

// begins puts a new subscription into the tree. A shared one begins where its group does.
func (c *Core) begins(s *session, b *sub) {
	if k, shared, _ := sharedKey(s.key.Tenant, b.filter); shared {
		c.join(s, b, k)
		return
	}
	if s.durable || !s.queue.empty() {
		b.start = c.next()
	}
	c.plant(s, b)
	if s.durable {
		s.shard.starts = append(s.shard.starts, start{s, b})
	}
}

func (c *Core) commit(s *session, ch change) {
	c.answered(s, &ch)
	if s.ended {
		return
	}
	b := ch.sub
	b.writes--
	b.pending, b.opts = false, ch.opts
	c.supersede(s, b)
	h := ch.history
	if h == nil {
		h = ch.says // the record with which it was asked for may have been refused
	}
	if s.queue.subs.get(b.filter) != b { // unsubscribed, and subscribed anew
		b.queued = b.queued && !ch.owes
		if h != nil && h != b.history {
			c.beginHistory(s, h)
			c.cutShort(s, h)
		}
		return
	}
	c.plant(s, b) // the options count in matches
	c.touch(s)
	if ch.owes {
		b.queued = false
		s.scan(cursor{sub: b, asOf: ch.asOf})
	}
	if h != nil && h != b.history {
		c.beginHistory(s, h)
	}
}

// refuse undoes a change. A pending subscription stays while another write may still make it durable.
func (c *Core) refuse(s *session, ch change) {
	c.answered(s, &ch)
	b := ch.sub
	b.writes--
	b.gone = b.gone || b.pending && b.writes == 0
	switch {
	case s.ended:
	case b.gone && s.queue.subs.get(b.filter) == b:
		c.fallBack(s, b)
	case ch.owes && !s.scans(b):
		b.queued = true
		c.touch(s)
	}
}

// supersede forgets what a subscription took the place of: its record, or the one that removed it, is in the log behind theirs.
func (c *Core) supersede(s *session, b *sub) {
	for old := b.old; old != nil; old = old.old {
		c.endHistory(s, old.history)
	}
	b.old = nil
}

// fallBack takes out a subscription that was refused. The one whose place it took is there again, unless it has been removed since.
func (c *Core) fallBack(s *session, b *sub) {
	old := b.old
	for old != nil && old.gone {
		old = old.old
	}
	if old == nil || mutant("forget-replaced") {
		c.removeSub(s, b)
		return
	}
	for x := b; x != old; x = x.old { // an UNSUBSCRIBE of theirs removes it
		x.heir = old
		old.ending += x.ending
	}
	s.queue.subs.set(old)
	if old.member != nil {
		old.member.sub = old
	}
	c.plant(s, old)
	if old.owes && !old.queued && !old.pending && !s.scans(old) {
		s.scan(cursor{sub: old, asOf: old.asOf})
	}
	c.touch(s)
}

func (c *Core) removeSub(s *session, b *sub) {
	s.queue.subs.delete(b)
	c.supersede(s, b)
	s.unscan(b.filter)
	c.endHistory(s, b.history)
	c.uproot(s, b)
}

// plant puts a subscription into the tree, or puts it there anew.
func (c *Core) plant(s *session, b *sub) {
	if b.member != nil {
		c.appraise(b.member)
		return
	}
	if _, there := c.filter.Set(b.filter, s, b); !there {
		c.weight += subWeight(b.filter)
	}
}

func (c *Core) uproot(s *session, b *sub) {
	if b.member != nil {
		c.withdraw(b)
		return
	}
	if _, ok := c.filter.Delete(b.filter, s); ok {
		c.weight -= subWeight(b.filter)
	}
}

// unsubscribe removes subscriptions once that is durable; till then they go on.
func (c *Core) unsubscribe(l *link, p *packet.Unsubscribe) {
	if c.waits(l, p) {
		return
	}
	s := l.session
	codes := make([]packet.Code, len(p.Filters))
	gone := make([]*sub, len(p.Filters))
	var recs []StateRecord
	for i, f := range p.Filters {
		f, _, _ = PlainFilter(f)
		b := s.queue.subs.get(f)
		if b == nil {
			codes[i] = packet.NoSubscriptionExisted
			continue
		}
		b.ending++
		gone[i] = b
		if s.durable {
			recs = append(recs, StateRecord{Key: subKey(s.key, f)})
		}
	}
	done := func(err error) {
		for i, b := range gone {
			if b == nil || s.ended {
				continue
			}
			for b.heir != nil {
				b = b.heir
			}
			b.ending--
			switch {
			case err != nil:
				codes[i] = packet.UnspecifiedError
			case s.queue.subs.get(b.filter) == b:
				c.removeSub(s, b)
			default:
				b.gone = true
				c.supersede(s, b)
				c.endHistory(s, b.history)
			}
		}
		c.touch(s)
	}
	answer := &packet.Suback{Kind: packet.UNSUBACK, PacketID: p.PacketID, Codes: codes}
	if len(recs) == 0 {
		done(nil)
		c.suback(l, answer)
		return
	}
	c.write(s.shard.lane, func(err error) {
		done(err)
		if err != nil && l.version < packet.V5 { // its UNSUBACK cannot say no
			if s.link == l {
				c.kick(s)
			}
			return
		}
		c.suback(l, answer)
		c.pump(s)
	}, recs...)
}

// record is the subscription as it is once the change is made. It says that retained messages are owed until a checkpoint has
// written their positions.
func (c *Core) record(s *session, b *sub, opts options, owes bool) StateRecord {
	return c.recordOf(s, b, opts, owes, b.history)
}

func (c *Core) recordOf(s *session, b *sub, opts options, owes bool, h *history) StateRecord {
	v := subValue{inc: s.inc, opts: opts, start: c.positions(b.start), owes: owes}
	if owes {
		v.owed = c.positions(b.asOf)
	}
	if b.member != nil {
		g := b.member.group
		v.group, v.start = g.inc, c.positions(g.sub.start)
	}
	if h != nil {
		v.history = h.value(c)
	}
	return StateRecord{subKey(s.key, b.filter), v.append(nil)}
}
