package group

import "time"

// expiryEvery is how often offsets are looked over: expiry is a matter of days, a look costs a walk over all of them.
const expiryEvery = 10 * time.Minute

// Deadline is when Tick has something to do next. A heartbeat or a commit only puts that off: so as not to go through ten thousand
// members for each, Tick then comes once too early.
func (g *Group) Deadline() time.Time {
	if !g.dueKnown {
		g.due, g.dueKnown = g.nextDue(), true
	}
	return g.due
}

func (g *Group) nextDue() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	switch g.state {
	case PreparingRebalance:
		if sooner(g.joinDeadline); g.now.Before(g.initialUntil) {
			sooner(g.initialUntil)
		}
	case CompletingRebalance, Stable:
		for _, m := range g.members {
			if m.owesSync {
				sooner(g.syncDeadline)
				break
			}
		}
	}
	for _, m := range g.members {
		if m.expirable() {
			sooner(m.deadline)
		}
	}
	for _, t := range g.pending {
		sooner(t)
	}
	if g.consumer != nil {
		sooner(g.consumer.due)
	}
	if !g.stored && g.consumer == nil && len(g.offsets) == 0 {
		g.nextLook = time.Time{}
	} else if g.nextLook.IsZero() {
		g.nextLook = g.now.Add(expiryEvery)
	}
	sooner(g.nextLook)
	return next
}

// expirable: a member that waits for our answer cannot be expected to send heartbeats; but a fresh one may have given up.
func (m *member) expirable() bool { return m.fresh || m.joining == nil && m.syncing == nil }

// Tick does what is due: sessions, rebalance timeouts, ids nobody used, offsets nobody needs.
func (g *Group) Tick(now time.Time) Output {
	g.now = now
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	for id, t := range g.pending {
		if due(t) {
			delete(g.pending, id)
		}
	}
	g.each(func(m *member) {
		if m.expirable() && due(m.deadline) {
			g.remove(m)
		}
	})
	if (g.state == CompletingRebalance || g.state == Stable) && due(g.syncDeadline) {
		g.syncDeadline = time.Time{}
		g.each(func(m *member) {
			if m.owesSync {
				g.remove(m)
			}
		})
	}
	if g.state == PreparingRebalance && due(g.initialUntil) {
		g.endInitialDelay()
	}
	if g.state == PreparingRebalance && due(g.joinDeadline) {
		g.completeJoin()
	}
	g.afterRemoval()
	if g.consumer != nil {
		g.tickConsumers()
		g.downgrade()
	}
	if due(g.nextLook) {
		g.nextLook = time.Time{}
		g.expireOffsets()
	}
	return g.take()
}

// endInitialDelay gives a group that is just starting up more time while members keep coming, up to its rebalance timeout.
func (g *Group) endInitialDelay() {
	g.initialUntil = time.Time{}
	if g.initialMore && g.now.Before(g.joinDeadline) {
		g.initialMore = false
		g.initialUntil = g.now.Add(g.cfg.InitialDelay)
		if g.initialUntil.After(g.joinDeadline) {
			g.initialUntil = g.joinDeadline
		}
	}
}

// Restored ends the replay at start-up: every member gets a whole session to be heard of.
func (g *Group) Restored(now time.Time) {
	g.now, g.dueKnown = now, false
	for _, m := range g.members {
		g.alive(m)
	}
	if g.consumer != nil {
		g.restoredConsumers()
	}
	if g.unled {
		g.beginClassic()
	}
}
