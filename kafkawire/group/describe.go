package group

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Describe is the group's part of a DescribeGroups response.
func (g *Group) Describe() kmsg.DescribeGroupsResponseGroup {
	rg := kmsg.NewDescribeGroupsResponseGroup()
	rg.Group, rg.State, rg.ProtocolType = g.name, g.state.String(), g.protocolType
	if g.state == Stable && g.protocol != nil {
		rg.Protocol = *g.protocol
	}
	g.each(func(m *member) {
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.ClientID, rm.ClientHost = m.id, m.instance, m.clientID, m.host
		if g.state == Stable {
			rm.ProtocolMetadata, rm.MemberAssignment = m.metadata(rg.Protocol), m.assignment
		}
		rg.Members = append(rg.Members, rm)
	})
	return rg
}

// ConsumerDescribe is the group's part of a ConsumerGroupDescribe response; ok is false for a classic group.
func (g *Group) ConsumerDescribe() (rg kmsg.ConsumerGroupDescribeResponseGroup, ok bool) {
	rg = kmsg.NewConsumerGroupDescribeResponseGroup()
	rg.Group = g.name
	c := g.consumer
	if c == nil {
		return rg, false
	}
	s := &step{g: g, c: c, next: &consumerMember{}} // of nobody
	rg.State, rg.Epoch, rg.AssignmentEpoch, rg.AssignorName = c.stateName(), c.epoch, c.targetEpoch, s.preferred()
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[id]
		rm := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.RackID, rm.MemberEpoch = m.id, m.instance, m.rack, m.epoch
		rm.ClientID, rm.ClientHost, rm.MemberType = m.clientID, m.host, memberTypeConsumer
		if m.classic != nil {
			rm.MemberType = memberTypeClassic
		}
		rm.SubscribedTopics, rm.SubscribedTopicRegex = m.topics, &m.regex
		rm.Assignment = describeAssignment(m.holds().partitions(), g.cfg.Topics) // what it must give up is its own until it says that it has
		rm.TargetAssignment = describeAssignment(c.target[m.id], g.cfg.Topics)
		rg.Members = append(rg.Members, rm)
	}
	return rg, true
}

const (
	memberTypeClassic  = 0
	memberTypeConsumer = 1
)

func describeAssignment(parts Partitions, topics Topics) kmsg.Assignment {
	a := kmsg.NewAssignment()
	for _, id := range parts.sorted() {
		t := kmsg.NewAssignmentTopicPartition()
		t.TopicID, t.Topic, t.Partitions = id, topics.TopicName(id), parts[id]
		a.TopicPartitions = append(a.TopicPartitions, t)
	}
	return a
}
