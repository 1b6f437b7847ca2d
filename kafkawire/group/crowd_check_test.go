package group

import (
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (c *crowd) check() {
	c.noTwoOwners()
	c.epochsAreInOrder()
}

// noTwoOwners: of those whose session goes on, as they know and as the coordinator knows.
func (c *crowd) noTwoOwners() {
	c.expire()
	owner := map[part]string{}
	for _, a := range c.members {
		if a.stuck && (c.g.consumer == nil || c.g.consumer.members[a.id] == nil) {
			continue // its time was up: it has what is another's now, and may not commit
		}
		for p := range a.owned {
			if o, taken := owner[p]; taken {
				c.fail("%s and %s both have %v", o, a.id, p)
			}
			owner[p] = a.id
		}
	}
	if c.g.consumer == nil {
		return
	}
	holder := map[part]string{}
	for id, m := range c.g.consumer.members {
		for p := range m.holds().parts() {
			if o, taken := holder[p]; taken {
				c.fail("the coordinator lets %s and %s have %v", o, id, p)
			}
			holder[p] = id
		}
	}
	if !maps.Equal(holder, c.g.consumer.holders) {
		c.fail("holders are %v, noted are %v", holder, c.g.consumer.holders)
	}
}

// parts are the partitions without their topics' order.
func (h held) parts() map[part]int32 {
	out := map[part]int32{}
	for topic, parts := range h {
		for i, since := range parts {
			out[part{topic, i}] = since
		}
	}
	return out
}

// epochsAreInOrder: members behind the target, the target behind the group, what a member has behind its target.
func (c *crowd) epochsAreInOrder() {
	g := c.g.consumer
	if g == nil {
		return
	}
	classics := 0
	if g.targetEpoch > g.epoch {
		c.fail("a target of epoch %d in a group of epoch %d", g.targetEpoch, g.epoch)
	}
	for id, m := range g.members {
		if m.epoch > g.targetEpoch || m.epoch >= 0 && m.previous > m.epoch {
			c.fail("%s is at %d, was at %d, its target at %d", id, m.epoch, m.previous, g.targetEpoch)
		}
		for p, since := range m.holds().parts() {
			if since > g.targetEpoch {
				c.fail("%s has %v since %d, the target is of %d", id, p, since, g.targetEpoch)
			}
		}
		if m.classic != nil {
			classics++
		}
	}
	if classics != g.classics {
		c.fail("%d members speak the classic protocol, noted are %d", classics, g.classics)
	}
}

// commit lets a member commit in all that it has. What another has it may not commit in; who speaks the consumer protocol and
// has a partition may, whatever epoch it has heard of.
func (c *crowd) commit(a *actor) {
	c.expire()
	if len(a.owned) == 0 || !c.lucky() {
		return
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 9, "g", a.id, a.instance, a.epoch
	var parts []part
	for p := range a.owned {
		name := c.topics.TopicName(p.topic)
		if name == "" {
			continue
		}
		parts = append(parts, p)
		req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{Topic: name, TopicID: p.topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: p.index}}})
	}
	for _, t := range c.topics { // and in one more, as who did not notice that it lost it
		p := part{t.ID, c.rng.Int32N(t.Partitions)}
		if _, has := a.owned[p]; !has {
			parts = append(parts, p)
			req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{Topic: t.Name, TopicID: t.ID, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: p.index}}})
		}
		break
	}
	holders := map[part]string{}
	var known *consumerMember
	if c.g.consumer != nil {
		holders, known = maps.Clone(c.g.consumer.holders), c.g.consumer.members[a.id]
	}
	consumer := c.g.consumer != nil
	step := func(who Caller) Output {
		return c.g.Commit(c.now, who, req, func(string, int32) *kerr.Error { return nil })
	}
	c.ask(step, func(r kmsg.Response) {
		for i, t := range r.(*kmsg.OffsetCommitResponse).Topics {
			code := t.Partitions[0].ErrorCode
			if code == kerr.CoordinatorNotAvailable.Code || !consumer {
				continue
			}
			_, has := a.owned[parts[i]]
			if code == 0 && holders[parts[i]] != a.id && (has || a.epoch != known.epoch) { // an epoch that is right is believed, as in Kafka
				c.fail("%s commits in %v, which is %q's", a.id, parts[i], holders[parts[i]])
			}
			if code != 0 && has && known != nil && known.classic == nil && !a.stuck && a.epoch > 0 {
				c.fail("%s has %v and may not commit: %v", a.id, parts[i], kerr.TypedErrorForCode(code))
			}
		}
	})
}

// compareWithReplay: what a group knows that replayed the log, the group knows that wrote it.
func (c *crowd) compareWithReplay(again *Group) {
	if !c.g.stored && c.g.consumer == nil && again.consumer != nil && len(again.consumer.members) == 0 {
		return // an empty group gave way to members who join yet; that could not be written, or is not
	}
	if again.Type() != c.g.Type() {
		c.fail("replay made a %s group of a %s group", again.Type(), c.g.Type())
		return
	}
	for topic, parts := range c.g.offsets {
		for i := range parts {
			if _, ok := again.offsets[topic][i]; !ok {
				c.fail("replay lost the offset of %s/%d", topic, i)
			}
		}
	}
	if c.g.consumer == nil {
		if again.stored && c.g.state == Stable && (again.generation != c.g.generation || !maps.EqualFunc(again.members, c.g.members, func(x, y *member) bool {
			return slices.Equal(x.assignment, y.assignment) && samePtr(x.instance, y.instance)
		})) {
			c.fail("replay lost a generation, or a member of it")
		}
		return
	}
	a, b := c.g.consumer, again.consumer
	if a.epoch != b.epoch || a.targetEpoch != b.targetEpoch || a.hash != b.hash || a.classics != b.classics || !maps.Equal(a.holders, b.holders) ||
		!maps.Equal(a.static, b.static) {
		c.fail("replay lost an epoch, or who holds what")
	}
	if !maps.EqualFunc(a.members, b.members, func(x, y *consumerMember) bool {
		return x.sameMetadata(y) && x.sameAssignment(y) && x.known && y.known
	}) {
		c.fail("replay lost a member, or something of it")
	}
	if !maps.EqualFunc(a.target, b.target, samePartitions) {
		c.fail("replay lost a target")
	}
}

// settle lets everybody who is left go on, with nothing failing, until they must have come to rest.
func (c *crowd) settle() {
	c.calm = true
	for _, a := range c.members {
		a.away = false
	}
	for range aWhile {
		c.pass(time.Second)
		for _, a := range c.members {
			c.beat(a)
		}
		if c.check(); c.why != "" {
			return
		}
	}
	c.compareWithReplay(c.replayed())
	if len(c.members) == 0 {
		return
	}
	if name := c.g.StateName(); name != "Stable" {
		c.fail("%s group is %s although nothing happens any more", c.g.Type(), name)
	}
	c.everybodyIsThere()
	c.everythingAssigned()
}

// everybodyIsThere, and nobody else; in a group of the protocol that they speak.
func (c *crowd) everybodyIsThere() {
	there, here, classic := map[string]bool{}, map[string]bool{}, true
	for _, a := range c.members {
		here[a.id] = true
		classic = classic && a.classic != nil
	}
	if classic != (c.g.Type() == Classic) {
		c.fail("a %s group, all speak the classic protocol: %v", c.g.Type(), classic)
	}
	for id := range c.g.members {
		there[id] = true
	}
	if c.g.consumer != nil {
		for id := range c.g.consumer.members {
			there[id] = true
		}
	}
	if !maps.Equal(there, here) {
		c.fail("members are %v, the group has %v", here, there)
	}
}

func (c *crowd) everythingAssigned() {
	wanted, owned := map[part]bool{}, map[part]bool{}
	least, most, alike := 1<<30, 0, c.g.consumer != nil
	for _, a := range c.members {
		for _, t := range c.topics {
			match, _ := compileTopics("t[0-2]")
			if a.regex && match.MatchString(t.Name) || !a.regex && slices.Contains(a.topics, t.Name) {
				for i := range t.Partitions {
					wanted[part{t.ID, i}] = true
				}
			}
		}
		for p := range a.owned {
			owned[p] = true
		}
		least, most = min(least, len(a.owned)), max(most, len(a.owned))
		alike = alike && a.assignor == nil && a.regex == c.members[0].regex && subscriptionOf(dedup(a.topics), "") == subscriptionOf(dedup(c.members[0].topics), "")
	}
	if !maps.Equal(wanted, owned) {
		c.fail("wanted are %v, owned are %v", wanted, owned)
	}
	if alike && most-least > 1 {
		c.fail("members that want the same have %d and %d partitions", least, most)
	}
}

func dedup(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
