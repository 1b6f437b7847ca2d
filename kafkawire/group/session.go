package group

import (
	"slices"
	"strings"
	"time"
)

// expect makes sure that the members are looked at when t has come.
func (c *consumer) expect(t time.Time) {
	if !t.IsZero() && (c.due.IsZero() || t.Before(c.due)) {
		c.due = t
	}
}

// tickConsumers removes members that were not heard of, or that keep what they must give up.
func (g *Group) tickConsumers() {
	c := g.consumer
	if c.due.IsZero() || c.due.After(g.now) {
		return
	}
	c.due = time.Time{}
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(g.now) }
	var gone []*consumerMember
	for _, m := range c.members {
		if due(m.deadline) || due(m.owes) {
			gone = append(gone, m)
			m.deadline = g.now.Add(buryEvery) // if it cannot be written, again then
		}
		c.expect(m.deadline)
		if !due(m.owes) {
			c.expect(m.owes)
		}
	}
	slices.SortFunc(gone, func(a, b *consumerMember) int { return strings.Compare(a.id, b.id) })
	g.removeConsumers(c, gone...)
}

// restoredConsumers ends the replay at start-up: every member gets a whole session to be heard of. A member of which the log
// has an assignment only is none.
func (g *Group) restoredConsumers() {
	for id, m := range g.consumer.members {
		if !m.known {
			g.consumer.hold(m, nil, nil)
			delete(g.consumer.members, id)
			continue
		}
		g.aliveConsumer(m)
		if m.owes = (time.Time{}); m.state == unrevoked {
			g.owe(m)
		}
	}
	if g.consumer.onlyClassic() {
		g.consumer.expect(g.now) // there was no time to make it a classic group
	}
}

// aliveConsumer restarts the member's session.
func (g *Group) aliveConsumer(m *consumerMember) {
	session := g.cfg.ConsumerSession
	if m.classic != nil {
		session = m.classic.session
	}
	m.deadline = g.now.Add(session)
	g.consumer.expect(m.deadline)
}

// owe gives a member its rebalance timeout to do what it owes: to give up partitions or, if it is hosted, to join or to sync.
func (g *Group) owe(m *consumerMember) {
	if m.owes = (time.Time{}); m.rebal >= 0 {
		m.owes = g.now.Add(m.rebal)
		g.consumer.expect(m.owes)
	}
}

// oweOnce does so unless its time runs already.
func (g *Group) oweOnce(m *consumerMember) {
	if m.owes.IsZero() {
		g.owe(m)
	}
}
