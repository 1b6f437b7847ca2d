package kafkawire

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// OffsetFetch: key 9, versions 1–10; several groups from 8, topics by id from 10.
//
// Only durable offsets are told, and with RequireStable (7) none that an open transaction may change: UNSTABLE_OFFSET_COMMIT. A group or partition without an offset has
// offset -1 and no error, as in Kafka. What is named twice is answered once.
// Member id and epoch (9) must be right in a group of the consumer protocol, and are ignored in others.
func init() {
	register(1, 10, "s:0-7 [:0-7 s *i32 ] [:8+ s ns:9+ i32:9+ [ s:0-9 uuid:10+ *i32 ] ] i8:7+", offsetFetch)
}

func offsetFetch(c *conn, req *kmsg.OffsetFetchRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetFetchResponse()
	if req.Version <= 7 {
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group = req.Group
		if req.Topics != nil {
			one.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, len(req.Topics))
		}
		for i, t := range req.Topics {
			one.Topics[i].Topic, one.Topics[i].Partitions = t.Topic, t.Partitions
		}
		req.Groups = append(req.Groups, one)
	}
	asked := once[string]{}
	ended := !c.s.groups.view(c.ctx, func() {
		for i := range req.Groups {
			if g := &req.Groups[i]; asked.first(g.Group) {
				resp.Groups = append(resp.Groups, c.fetchOffsets(req, g))
			}
		}
	})
	if ended {
		return nil
	}
	if req.Version <= 7 {
		singleGroup(resp)
	}
	return resp
}

// fetchOffsets runs in the coordinator's goroutine.
func (c *conn) fetchOffsets(req *kmsg.OffsetFetchRequest, rg *kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	s, version := c.s, req.Version
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group = rg.Group
	if !c.mayGroup(kmsg.ACLOperationDescribe, rg.Group) {
		return refuseGroup(rg, version, kerr.GroupAuthorizationFailed)
	}
	var g *group.Group
	if e := s.groups.groups[rg.Group]; e != nil {
		g = e.g
	}
	if g != nil && version >= 9 {
		if err := g.MayFetch(rg.MemberID, rg.MemberEpoch); err != nil {
			out.ErrorCode = err.Code
			return out
		}
	}
	if rg.Topics == nil {
		out.Topics = c.allOffsets(g, req.RequireStable)
		return out
	}
	type place struct {
		topic     string
		id        [16]byte
		partition int32
	}
	asked := once[place]{}
	for _, t := range rg.Topics {
		ot := kmsg.NewOffsetFetchResponseGroupTopic()
		ot.Topic, ot.TopicID = t.Topic, t.TopicID
		var unknown int16
		if version >= 10 {
			topic, ok := s.topicByID(t.TopicID)
			if ot.Topic = topic.Name; !ok {
				unknown = kerr.UnknownTopicID.Code
			}
		}
		if unknown == 0 && !c.mayTopic(kmsg.ACLOperationDescribe, ot.Topic) {
			unknown = kerr.TopicAuthorizationFailed.Code
		}
		stale := s.groups.stale(ot.Topic)
		for _, p := range t.Partitions {
			if !asked.first(place{t.Topic, t.TopicID, p}) {
				continue
			}
			op := noOffset(p)
			op.ErrorCode = unknown
			if g != nil && !stale && unknown == 0 {
				if o, ok := g.Offset(ot.Topic, p); ok {
					op = committedOffset(p, o)
				}
				if req.RequireStable && g.Unstable(ot.Topic, p) {
					op = unstableOffset(p)
				}
				if req.RequireStable && op.Offset > 0 && mutant(mutantStaleOffset) {
					op.Offset--
				}
			}
			ot.Partitions = append(ot.Partitions, op)
		}
		out.Topics = append(out.Topics, ot)
	}
	return out
}

// refuseGroup answers for a group as a whole. Before version 2 there was no word for that but at each partition.
func refuseGroup(rg *kmsg.OffsetFetchRequestGroup, version int16, refusal *kerr.Error) kmsg.OffsetFetchResponseGroup {
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group, out.ErrorCode = rg.Group, refusal.Code
	if version >= 2 {
		return out
	}
	for _, t := range rg.Topics {
		ot := kmsg.NewOffsetFetchResponseGroupTopic()
		ot.Topic = t.Topic
		for _, p := range t.Partitions {
			op := noOffset(p)
			op.ErrorCode = refusal.Code
			ot.Partitions = append(ot.Partitions, op)
		}
		out.Topics = append(out.Topics, ot)
	}
	return out
}

func (c *conn) allOffsets(g *group.Group, stable bool) []kmsg.OffsetFetchResponseGroupTopic {
	topics := []kmsg.OffsetFetchResponseGroupTopic{}
	if g == nil {
		return topics
	}
	at := map[string]int{}
	g.Offsets(func(topic string, partition int32, o group.Offset) {
		t, ok := c.s.topic(topic)
		if !ok || c.s.groups.stale(topic) || !c.mayTopic(kmsg.ACLOperationDescribe, topic) {
			return
		}
		i, ok := at[topic]
		if !ok {
			i = len(topics)
			at[topic] = i
			ot := kmsg.NewOffsetFetchResponseGroupTopic()
			ot.Topic, ot.TopicID = topic, t.ID
			topics = append(topics, ot)
		}
		op := committedOffset(partition, o)
		if stable && g.Unstable(topic, partition) {
			op = unstableOffset(partition)
		}
		topics[i].Partitions = append(topics[i].Partitions, op)
	})
	slices.SortFunc(topics, func(a, b kmsg.OffsetFetchResponseGroupTopic) int { return cmp.Compare(a.Topic, b.Topic) })
	return topics
}

func noOffset(partition int32) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = partition, -1, -1, kmsg.StringPtr("")
	return p
}

func unstableOffset(partition int32) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := noOffset(partition)
	p.ErrorCode = kerr.UnstableOffsetCommit.Code
	return p
}

func committedOffset(partition int32, o group.Offset) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := noOffset(partition)
	p.Offset, p.LeaderEpoch, p.Metadata = o.At, o.LeaderEpoch, kmsg.StringPtr(o.Metadata)
	return p
}

// singleGroup puts the only group where versions before 8 have it.
func singleGroup(resp *kmsg.OffsetFetchResponse) {
	g := resp.Groups[0]
	resp.ErrorCode, resp.Groups = g.ErrorCode, nil
	for _, t := range g.Topics {
		ot := kmsg.NewOffsetFetchResponseTopic()
		ot.Topic = t.Topic
		for _, p := range t.Partitions {
			op := kmsg.NewOffsetFetchResponseTopicPartition()
			op.Partition, op.Offset, op.LeaderEpoch, op.Metadata, op.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			ot.Partitions = append(ot.Partitions, op)
		}
		resp.Topics = append(resp.Topics, ot)
	}
}
