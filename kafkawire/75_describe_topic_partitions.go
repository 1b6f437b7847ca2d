package kafkawire

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// DescribeTopicPartitions: key 75, version 0. Topics by name, page by page: as many partitions as the client wants, at most
// 2000, and a cursor to where the next page begins. A cursor that names none of the topics, or no partition, is INVALID_REQUEST.
func init() {
	register(0, 0, "[ s ] i32 ?[ s i32 ]", describeTopicPartitions)
}

const maxDescribedPartitions = 2000

func describeTopicPartitions(c *conn, req *kmsg.DescribeTopicPartitionsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	names, all := c.namesToDescribe(req)
	var from kmsg.DescribeTopicPartitionsRequestCursor
	if req.Cursor != nil {
		from = *req.Cursor
		if from.Partition < 0 || !all && !slices.Contains(names, from.Topic) {
			for _, name := range names {
				resp.Topics = append(resp.Topics, unknownPartitions(name, kerr.InvalidRequest))
			}
			return resp
		}
	}
	left := max(min(int(req.ResponsePartitionLimit), maxDescribedPartitions), 1)
	for _, name := range names {
		if name < from.Topic {
			continue
		}
		if left == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name}
			break
		}
		topic, ok := c.s.topic(name)
		switch {
		case !c.mayTopic(kmsg.ACLOperationDescribe, name):
			resp.Topics = append(resp.Topics, unknownPartitions(name, kerr.TopicAuthorizationFailed))
			continue
		case !ok && eventlog.CheckTopicName(name) != nil:
			resp.Topics = append(resp.Topics, unknownPartitions(name, kerr.InvalidTopicException))
			continue
		case !ok:
			resp.Topics = append(resp.Topics, unknownPartitions(name, kerr.UnknownTopicOrPartition))
			continue
		}
		first := int32(0)
		if name == from.Topic {
			first = from.Partition
		}
		last := min(topic.Partitions, first+int32(left))
		resp.Topics = append(resp.Topics, c.describePartitions(topic, first, last))
		left -= max(int(last-first), 0)
		if last < topic.Partitions {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: last}
			break
		}
	}
	return resp
}

// namesToDescribe lists the topics of the request in their order, once each; without any, all that the client may know of.
func (c *conn) namesToDescribe(req *kmsg.DescribeTopicPartitionsRequest) (names []string, all bool) {
	if len(req.Topics) > 0 {
		for _, t := range req.Topics {
			names = append(names, t.Topic)
		}
		slices.Sort(names)
		return slices.Compact(names), false
	}
	for _, t := range c.s.listTopics() {
		if c.mayTopic(kmsg.ACLOperationDescribe, t.Name) {
			names = append(names, t.Name)
		}
	}
	return names, true
}

func unknownPartitions(name string, code *kerr.Error) kmsg.DescribeTopicPartitionsResponseTopic {
	rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	rt.Topic, rt.ErrorCode = &name, code.Code
	return rt
}

func (c *conn) describePartitions(t eventlog.Topic, first, last int32) kmsg.DescribeTopicPartitionsResponseTopic {
	rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	rt.Topic, rt.TopicID, rt.IsInternal = &t.Name, t.ID, isInternal(t.Name)
	rt.AuthorizedOperations = c.operations(kmsg.ACLResourceTypeTopic, t.Name)
	self := []int32{c.s.NodeID}
	for i := first; i < last; i++ {
		rp := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		rp.Partition, rp.LeaderID, rp.LeaderEpoch, rp.Replicas, rp.ISR = i, c.s.NodeID, leaderEpoch, self, self
		rp.EligibleLeaderReplicas, rp.LastKnownELR = []int32{}, []int32{} // may be null by the schema, and Java's Admin stumbles over that
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}
