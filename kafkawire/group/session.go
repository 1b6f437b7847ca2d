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
		if due(m.deadline) || due(m.revokeBy) {
			gone = append(gone, m)
			m.deadline = g.now.Add(buryEvery) // if it cannot be written, again then
		}
		c.expect(m.deadline)
		if !due(m.revokeBy) {
			c.expect(m.revokeBy)
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
		g.armRevocation(m)
	}
}

// aliveConsumer restarts the member's session.
func (g *Group) aliveConsumer(m *consumerMember) {
	m.deadline = g.now.Add(g.cfg.ConsumerSession)
	g.consumer.expect(m.deadline)
}

// armRevocation gives a member that must give up partitions its rebalance timeout to do so.
func (g *Group) armRevocation(m *consumerMember) {
	if m.revokeBy = (time.Time{}); m.state == unrevoked && m.rebal >= 0 {
		m.revokeBy = g.now.Add(m.rebal)
		g.consumer.expect(m.revokeBy)
	}
}
