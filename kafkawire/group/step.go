package group

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// step is one request of a member that stays: what will be when its records are durable.
type step struct {
	g *Group
	c *consumer

	next     *consumerMember // the member as it will be
	was      consumerMember  // and as it is
	replaced string          // the static member whose place it takes

	epoch, targetEpoch int32
	hash               int64
	target             map[string]Partitions // as it will be: a map of its own if it changed
	subscribed         bool                  // the subscription changed
	view               *view
}

func (g *Group) newStep(c *consumer) *step {
	return &step{g: g, c: c, epoch: c.epoch, hash: c.hash, targetEpoch: c.targetEpoch, target: c.target}
}

// run takes the group as far as it comes with what the member says of itself, and the member as far as it comes with what it
// says it has.
func (s *step) run(owned []kmsg.ConsumerGroupHeartbeatRequestTopic, says bool) *fault {
	s.subscribe()
	if f := s.fits(); f != nil {
		return f
	}
	s.assign()
	s.reconcile(owned, says)
	s.record()
	return nil
}

// each calls f for every member as it will be, in the order of their ids.
func (s *step) each(f func(*consumerMember)) {
	ids := make([]string, 0, len(s.c.members)+1)
	for id := range s.c.members {
		if id != s.next.id && id != s.replaced {
			ids = append(ids, id)
		}
	}
	ids = append(ids, s.next.id)
	slices.Sort(ids)
	for _, id := range ids {
		if id == s.next.id {
			f(s.next)
		} else {
			f(s.c.members[id])
		}
	}
}

// subscribe begins a new epoch if the member wants something else, or the topics changed.
func (s *step) subscribe() {
	s.subscribed = s.subscribed || s.next.subscription != s.was.subscription
	s.view = s.c.seen
	if s.view == nil || s.subscribed || s.replaced != "" || !s.g.now.Before(s.view.until) {
		s.view = s.look()
		s.c.seen = s.view
	}
	if s.subscribed || s.view.hash != s.hash && s.targetEpoch == s.epoch { // else an assignment is due in any case
		s.epoch++
	}
	s.hash = s.view.hash
}

// fits refuses a member that says too much: all of it is kept, and every expression is tried on every topic.
func (s *step) fits() *fault {
	if s.next.sameMetadata(&s.was) {
		return nil
	}
	n, expressions := 0, map[string]bool{}
	s.each(func(m *consumerMember) {
		n += m.size()
		if m.regex != "" {
			expressions[m.regex] = true
		}
	})
	switch {
	case n > s.g.cfg.MaxBytes:
		s.c.seen = nil
		return &fault{kerr.GroupMaxSizeReached, "The members of the group say more of themselves than can be kept."}
	case len(expressions) > maxExpressions && s.next.regex != s.was.regex:
		s.c.seen = nil
		return &fault{kerr.InvalidRegularExpression, "The members of the group subscribe with too many different expressions."}
	}
	return nil
}

// assign runs the assignor if there is a newer epoch than its last.
func (s *step) assign() {
	if s.targetEpoch >= s.epoch {
		return
	}
	if len(s.c.members) > promptMembers && s.g.now.Before(s.c.assignedAt.Add(assignEvery)) {
		return
	}
	s.c.assignedAt = s.g.now
	var members []subscriber
	s.each(func(m *consumerMember) {
		members = append(members, subscriber{id: m.id, instance: m.instance, topics: s.view.of(m)})
	})
	before := s.target
	s.target = runAssignor(s.preferred(), members, s.view.topics, before)
	s.targetEpoch = s.epoch
}

// preferred is the assignor that most members want.
func (s *step) preferred() string {
	votes := 0
	s.each(func(m *consumerMember) {
		switch {
		case m.assignor == nil:
		case *m.assignor == rangeAssignor:
			votes++
		default:
			votes--
		}
	})
	if votes > 0 {
		return rangeAssignor
	}
	return uniformAssignor
}

// record writes down what the step changed.
func (s *step) record() {
	out, g := &s.g.out, s.g.name
	add := func(r Record) { out.Records = append(out.Records, r) }
	joined := s.c.members[s.next.id] == nil || s.replaced != ""
	if joined || !s.next.sameMetadata(&s.was) {
		add(memberRecord(g, s.next))
	}
	if s.epoch != s.c.epoch || s.hash != s.c.hash || s.g.consumer == nil {
		add(epochRecord(g, s.epoch, s.hash))
	}
	if s.targetEpoch != s.c.targetEpoch {
		s.each(func(m *consumerMember) {
			before := s.c.target[m.id]
			if m == s.next && s.replaced != "" {
				before = s.c.target[s.replaced]
			}
			if !samePartitions(s.target[m.id], before) {
				add(targetRecord(g, m.id, s.target[m.id]))
			}
		})
		add(targetEpochRecord(g, s.targetEpoch))
	}
	if joined || !s.next.sameAssignment(&s.was) {
		add(currentRecord(g, s.next))
	}
}
