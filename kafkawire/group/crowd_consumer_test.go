package group

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// turnOfConsumer is a heartbeat of the consumer protocol.
func (c *crowd) turnOfConsumer(a *actor) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.SetVersion(1)
	req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = "g", a.id, a.epoch, a.instance
	// What it was told to give up it gives up now; a partition that it was given it begins with.
	if a.told != nil {
		for p := range a.owned {
			if !a.told[p] && !c.greedy && !a.stuck {
				delete(a.owned, p)
			}
		}
		for p := range a.told {
			if _, ok := a.owned[p]; !ok {
				a.owned[p] = a.epoch
			}
		}
	}
	if a.full || a.told != nil {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for p := range a.owned {
			if a.told[p] || a.stuck {
				req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: p.topic, Partitions: []int32{p.index}})
			}
		}
	}
	if a.full || a.epoch == joinEpoch {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.ServerAssignor = int32(crowdRebal.Milliseconds()), a.topics, a.assignor
		if a.regex {
			req.SubscribedTopicNames, req.SubscribedTopicRegex = []string{}, kmsg.StringPtr("t[0-2]")
		} else {
			req.SubscribedTopicRegex = kmsg.StringPtr("")
		}
	}
	if !c.lucky() {
		a.full = true
		if c.late = append(c.late, req); len(c.late) > 20 {
			c.late = c.late[1:]
		}
		return // the request is lost, or comes late
	}
	if code, text := CheckConsumerHeartbeat(req); code != nil {
		c.fail("%s: %s", code, text)
		return
	}
	c.ask(c.heartbeat(req), func(resp kmsg.Response) {
		if !c.lucky() {
			a.full = true // as clients do, who cannot know what they missed
			return        // the response is
		}
		c.answered(a, resp.(*kmsg.ConsumerGroupHeartbeatResponse))
	})
}

func (c *crowd) heartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) func(Caller) Output {
	return func(who Caller) Output { return c.g.ConsumerHeartbeat(c.now, who, req) }
}

// deliverLate lets heartbeats arrive that were on their way for so long that their members are two epochs further. One of the
// epoch before is believed, by Kafka's rule: it is taken for that of a member to which the last response got lost.
func (c *crowd) deliverLate() {
	for _, req := range c.late {
		if c.g.consumer == nil || req.MemberEpoch == joinEpoch {
			continue
		}
		if m := c.g.consumer.members[req.MemberID]; m != nil && req.MemberEpoch < m.previous {
			c.ask(c.heartbeat(req), func(kmsg.Response) {})
		}
	}
}

func (c *crowd) answered(a *actor, resp *kmsg.ConsumerGroupHeartbeatResponse) {
	switch err := kerr.TypedErrorForCode(resp.ErrorCode); err {
	case nil:
	case kerr.CoordinatorNotAvailable, kerr.UnreleasedInstanceID, kerr.GroupMaxSizeReached:
		return // it tries again
	case kerr.FencedMemberEpoch, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.GroupIDNotFound:
		a.lost()
		return
	default:
		c.fail("heartbeat of %s: %v", a.id, err)
		return
	}
	if *resp.MemberID != a.id {
		c.fail("%s is answered as %s", a.id, *resp.MemberID)
	}
	a.lastBeat, a.epoch, a.full = c.now, resp.MemberEpoch, false
	if resp.Assignment != nil {
		a.told = map[part]bool{}
		for _, t := range resp.Assignment.Topics {
			for _, i := range t.Partitions {
				a.told[part{t.TopicID, i}] = true
			}
		}
	}
}

func (c *crowd) leaveConsumer(a *actor, again bool) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = "g", a.id, leaveEpoch, a.instance
	if a.instance != nil && again {
		req.MemberEpoch = staticLeaveEpoch
	}
	c.ask(c.heartbeat(req), func(kmsg.Response) {})
}

// again is the next process of a static member, which comes under another id.
func (c *crowd) again(a *actor) {
	c.ids++
	next := &actor{id: fmt.Sprint("m", c.ids), instance: a.instance, topics: a.topics, regex: a.regex, full: true, lastBeat: c.now, owned: map[part]int32{}}
	if a.classic != nil {
		next.id, next.classic = "", &classicActor{gen: -1}
	}
	c.members = append(c.members, next)
	c.beat(next)
}
