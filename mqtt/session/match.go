package session

import (
	"cmp"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// target is one session that a topic matches, with the sum of its matching subscriptions worked out.
type target struct {
	session *session
	subs    []*sub
	options          // the highest QoS; rap if any; noLocal if any
	ids     []uint32 // subscription ids
	mixed   bool     // not all apply alike: work the sum out per message (no-local, pending, start vectors)
	allowed bool     // the policy's answer, as of policy
	policy  uint64   // 0: not asked yet
}

// matched is the result of matching a topic, good while the tree's epoch for it is the same.
type matched struct {
	epoch   uint64
	targets []target
	count   TopicCount // of what has come on the topic, but for its name
}

// matchCache keeps matches by topic. It is cleared when it is full: what is in use comes back at once.
type matchCache struct {
	topics map[string]*matched
	size   int // targets, and names by their length
}

const (
	cachedTopics  = 64 << 10
	cachedTargets = 256 << 10
	nameBytes     = 64 // of names count as one target
)

func newMatchCache() matchCache { return matchCache{topics: map[string]*matched{}} }

type pair struct {
	session *session
	sub     *sub
}

// match returns the sessions that a topic matches, in order of their creation.
func (c *Core) match(name string) *matched {
	epoch := c.filter.Epoch(name)
	m := c.cache.topics[name]
	if m != nil && m.epoch == epoch {
		return m
	}
	if m == nil {
		if len(c.cache.topics) >= cachedTopics || c.cache.size >= cachedTargets {
			c.traffic.fold(c.cache.topics)
			c.cache = newMatchCache()
		}
		m = &matched{}
		c.cache.topics[strings.Clone(name)] = m
		c.cache.size += len(name) / nameBytes
	}
	c.cache.size -= len(m.targets)
	m.epoch, m.targets = epoch, c.build(name)
	c.cache.size += len(m.targets)
	return m
}

func (c *Core) build(name string) []target {
	c.pair = c.pair[:0]
	c.filter.Match(name, func(s *session, b *sub) { c.pair = append(c.pair, pair{s, b}) })
	if len(c.pair) == 0 {
		return nil
	}
	slices.SortStableFunc(c.pair, func(a, b pair) int { return cmp.Compare(a.session.seq, b.session.seq) })
	all := make([]*sub, len(c.pair))
	n := 0
	for i, p := range c.pair {
		all[i] = p.sub
		if i == 0 || p.session != c.pair[i-1].session {
			n++
		}
	}
	targets := make([]target, 0, n)
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && c.pair[j].session == c.pair[i].session {
			j++
		}
		targets = append(targets, sum(c.pair[i].session, all[i:j:j]))
		i = j
	}
	clear(c.pair)
	return targets
}

// sum works out what several matching subscriptions of one session amount to, if they all apply.
func sum(s *session, subs []*sub) target {
	t := target{session: s, subs: subs}
	for _, b := range subs {
		t.add(b)
		t.mixed = t.mixed || b.opts.noLocal || b.pending || b.start != nil || b.asking > 0 || b.gap.untold() != 0
	}
	return t
}

func (t *target) add(b *sub) {
	t.qos = max(t.qos, b.opts.qos)
	t.rap = t.rap || b.opts.rap
	if b.opts.id != 0 && !slices.Contains(t.ids, b.opts.id) {
		t.ids = append(t.ids, b.opts.id)
	}
}

// applies says what the subscriptions of a target amount to for one message.
type applies struct {
	options
	ids     []uint32
	none    bool   // no subscription applies
	pending bool   // wait: a subscription that is not durable yet makes a difference
	tells   bool   // the client is to be told of a gap in what came before
	who     askers // of a position that histories want: those whose subscriptions apply
}

// effective is the sum for a message at a position. Where a subscription that is not durable yet would change whether or at
// which QoS the message is delivered, the answer is pending: the position is collected until that is known. A retained message
// that was asked for (place is of the retained topic) and a message without a position are not compared with start vectors.
func (c *Core) effective(t *target, m *Message, place int32, off int64) applies {
	all := applies{options: options{qos: min(t.qos, m.QoS), rap: t.rap}, ids: t.ids}
	if !t.mixed {
		return all
	}
	n, waiting, pending, asking, tells := 0, byte(0), false, false, false
	for _, b := range t.subs {
		if !c.reaches(t.session, b, m, place, off) {
			continue
		}
		if b.pending || b.asking > 0 {
			pending, asking = true, asking || b.asking > 0 && !mutant("replay-overtaken")
			waiting = max(waiting, min(b.most(), m.QoS))
		}
		if !b.pending {
			n, tells = n+1, tells || b.tells()
		}
	}
	if all.tells = tells; n == len(t.subs) && !asking {
		return all
	}
	var part target
	for _, b := range t.subs {
		if !b.pending && c.reaches(t.session, b, m, place, off) {
			part.add(b)
		}
	}
	a := applies{options: options{qos: min(part.qos, m.QoS), rap: part.rap}, ids: part.ids, none: n == 0 && !pending, tells: tells}
	if pending && (asking && off >= 0 || n == 0 || waiting > a.qos) {
		a.pending, a.qos = true, max(a.qos, waiting)
	}
	return a
}

// reaches tells whether a subscription that matches the topic of a message is to have it as a live one. While it is pending, so is
// what is to become of the messages of the one whose place it took.
func (c *Core) reaches(s *session, b *sub, m *Message, place int32, off int64) bool {
	return (off < 0 || c.places[place].retained || off >= b.start.at(place)) && !b.ownMessage(s, m) ||
		b.pending && b.old != nil && c.reaches(s, b.old, m, place, off)
}

// most is the highest QoS that a subscription may turn out to have.
func (b *sub) most() byte {
	qos := b.opts.qos
	if b.pending && b.old != nil {
		qos = max(qos, b.old.most())
	}
	return qos
}

// ownMessage tells whether a message is the session's own, which the subscription does not want.
func (b *sub) ownMessage(s *session, m *Message) bool {
	return b.opts.noLocal && m.Client != "" && m.Client == s.key.ClientID
}

// amounts says what the subscriptions of a target amount to for a position that somebody has asked for.
func (c *Core) amounts(t *target, m *Message, place int32, off int64, by askers) applies {
	if by &^= tells; by > byQueue {
		return c.pastSum(t, m, place, off, by)
	}
	return c.effective(t, m, place, off)
}

// target finds what one session's subscriptions make of a topic, nil if none matches.
func (c *Core) target(s *session, name string) *target {
	if len(s.queue.subs.list) > shortSubs {
		found := c.match(name)
		i, ok := slices.BinarySearchFunc(found.targets, s.seq, func(t target, seq uint64) int { return cmp.Compare(t.session.seq, seq) })
		if !ok {
			return nil
		}
		return &found.targets[i]
	}
	l := s.link
	epoch := c.filter.Epoch(name)
	if l.last.name == name && l.last.epoch == epoch {
		if len(l.last.target.subs) == 0 {
			return nil
		}
		return &l.last.target
	}
	var subs []*sub
	for _, b := range s.queue.subs.list {
		if b.member == nil && topic.Match(b.filter, name) {
			subs = append(subs, b)
		}
	}
	l.last.name, l.last.epoch, l.last.target = name, epoch, sum(s, subs)
	if len(subs) == 0 {
		return nil
	}
	return &l.last.target
}

// allowed is the policy's answer for delivering a topic to the session of a target.
func (c *Core) allowed(t *target, name string) bool {
	if t.policy != c.policy+1 {
		t.allowed = c.host.Allowed(t.session.key, false, name)
		t.policy = c.policy + 1
	}
	return t.allowed
}
