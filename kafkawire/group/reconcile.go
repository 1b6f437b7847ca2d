package group

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// reconcile takes the member as far towards its target as what it and the others hold allows. owned is what it says it has,
// if it says so.
func (s *step) reconcile(owned []kmsg.ConsumerGroupHeartbeatRequestTopic, says bool) {
	m := s.next
	switch m.state {
	case stable:
		if m.epoch == s.targetEpoch {
			s.trim()
			return
		}
		s.advance(m.epoch, owned, says)
	case unrevoked:
		if !says || m.revoke.any(owned) {
			s.trim()
			return
		}
		s.advance(min(m.epoch+1, s.targetEpoch), owned, says)
	default:
		s.advance(m.epoch, owned, says)
	}
}

// trim takes away at once what the member does not subscribe to any more.
func (s *step) trim() {
	m := s.next
	if !s.subscribed {
		return
	}
	subscribed := s.view.of(m)
	keep, revoke := held{}, maps.Clone(m.revoke)
	for topic, parts := range m.assigned {
		if subscribed.has(topic) {
			keep[topic] = parts
			continue
		}
		if revoke == nil {
			revoke = held{}
		}
		all := maps.Clone(revoke[topic])
		if all == nil {
			all = map[int32]int32{}
		}
		maps.Copy(all, parts)
		revoke[topic] = all
	}
	if len(keep) < len(m.assigned) {
		m.state, m.assigned, m.revoke = unrevoked, keep, revoke
	}
}

// advance gives the member its target, as far as it is free; but first it must give up what is not in it. epoch is the one it
// has earned.
func (s *step) advance(epoch int32, owned []kmsg.ConsumerGroupHeartbeatRequestTopic, says bool) {
	m := s.next
	keep, drop, take, wait := s.divide()
	m.previous = s.was.epoch
	if len(drop) > 0 && (!says || drop.any(owned)) && !mutant(mutantNoWait) {
		m.state, m.epoch, m.assigned, m.revoke = unrevoked, epoch, keep, drop
		return
	}
	for _, p := range take {
		keep.put(p, s.targetEpoch)
	}
	m.state, m.epoch, m.assigned, m.revoke = stable, s.targetEpoch, keep, nil
	if wait {
		m.state = unreleased
	}
}

// divide compares what the member has with its target. wait says that another member holds some of it.
func (s *step) divide() (keep, drop held, take []part, wait bool) {
	m := s.next
	keep, drop = held{}, held{}
	subscribed := s.view.of(m)
	wanted := map[part]bool{}
	for topic, parts := range s.target[m.id] {
		if !subscribed.has(topic) {
			continue
		}
		for _, i := range parts {
			p := part{topic, i}
			wanted[p] = true
			if _, has := m.assigned[topic][i]; has {
				continue
			}
			if h := s.c.holders[p]; h == "" || h == m.id || h == s.replaced || mutant(mutantTakeHeld) {
				take = append(take, p)
			} else {
				wait = true
			}
		}
	}
	for topic, parts := range m.assigned {
		for i, since := range parts {
			if p := (part{topic, i}); wanted[p] {
				keep.put(p, since)
			} else {
				drop.put(p, since)
			}
		}
	}
	return keep, drop, take, wait
}

func (h held) put(p part, epoch int32) {
	if h[p.topic] == nil {
		h[p.topic] = map[int32]int32{}
	}
	h[p.topic][p.index] = epoch
}

// any tells whether one of these partitions is in h.
func (h held) any(topics []kmsg.ConsumerGroupHeartbeatRequestTopic) bool {
	for _, t := range topics {
		for _, i := range t.Partitions {
			if _, ok := h[t.TopicID][i]; ok {
				return true
			}
		}
	}
	return false
}

// contains tells whether all of these partitions are in h.
func (h held) contains(topics []kmsg.ConsumerGroupHeartbeatRequestTopic) bool {
	for _, t := range topics {
		for _, i := range t.Partitions {
			if _, ok := h[t.TopicID][i]; !ok {
				return false
			}
		}
	}
	return true
}

func (h held) equal(o held) bool {
	return maps.EqualFunc(h, o, func(a, b map[int32]int32) bool { return maps.Equal(a, b) })
}

// partitions are h without the epochs.
func (h held) partitions() Partitions {
	out := Partitions{}
	for topic, parts := range h {
		out[topic] = slices.Sorted(maps.Keys(parts))
	}
	return out
}

func (h held) response() *kmsg.ConsumerGroupHeartbeatResponseAssignment {
	a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
	a.Topics = []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{}
	parts := h.partitions()
	for _, topic := range parts.sorted() {
		t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
		t.TopicID, t.Partitions = topic, parts[topic]
		a.Topics = append(a.Topics, t)
	}
	return &a
}

// sorted are the topics in the order of their ids.
func (p Partitions) sorted() [][16]byte {
	return slices.SortedFunc(maps.Keys(p), func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
}

func samePartitions(a, b Partitions) bool { return maps.EqualFunc(a, b, slices.Equal[[]int32]) }

// hold replaces what a member holds, and takes note of it for the others.
func (c *consumer) hold(m *consumerMember, assigned, revoke held) {
	for _, h := range []held{m.assigned, m.revoke} {
		for topic, parts := range h {
			for i := range parts {
				if p := (part{topic, i}); c.holders[p] == m.id {
					delete(c.holders, p)
				}
			}
		}
	}
	m.assigned, m.revoke = assigned, revoke
	for _, h := range []held{assigned, revoke} {
		for topic, parts := range h {
			for i := range parts {
				c.holders[part{topic, i}] = m.id
			}
		}
	}
}
