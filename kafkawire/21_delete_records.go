package kafkawire

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// DeleteRecords: key 21, versions 0–2. The log's start moves to the offset, or to the high watermark for -1; one that is at or
// before the start changes nothing. Answered when that is durable. A topic that is only compacted is POLICY_VIOLATION. A
// partition named twice is answered once.
func init() {
	register(0, 2, "[ s [ i32 i64 ] ] i32", deleteRecords)
}

const toHighWatermark = -1

func deleteRecords(c *conn, req *kmsg.DeleteRecordsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteRecordsResponse()
	asked := once[string]{}
	for _, t := range req.Topics {
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		topic, refusal := c.toDeleteFrom(t.Topic)
		for _, p := range t.Partitions {
			if !asked.first(fmt.Sprint(p.Partition, " ", t.Topic)) {
				continue
			}
			rp := kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition, rp.LowWatermark = p.Partition, -1
			err := refusal
			if err == nil {
				rp.LowWatermark, err = c.deleteBefore(topic, p.Partition, p.Offset)
			}
			err.set(&rp.ErrorCode, nil)
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// toDeleteFrom finds a topic whose records a client may delete.
func (c *conn) toDeleteFrom(name string) (eventlog.Topic, *refusal) {
	if !c.mayTopic(kmsg.ACLOperationDelete, name) {
		return eventlog.Topic{}, refuse(kerr.TopicAuthorizationFailed, "the account may not delete the topic's records")
	}
	if refusal := c.s.alterable(name); refusal != nil {
		return eventlog.Topic{}, refusal
	}
	entries, err := c.s.Engine.EffectiveConfig(name)
	if err != nil {
		return eventlog.Topic{}, refused(err)
	}
	for _, e := range entries {
		if e.Name == "cleanup.policy" && !strings.Contains(e.Value, "delete") {
			return eventlog.Topic{}, refuse(kerr.PolicyViolation, "the topic's cleanup.policy does not have delete")
		}
	}
	topic, _ := c.s.Engine.TopicByName(name)
	return topic, nil
}

// deleteBefore moves a partition's start and returns where it is.
func (c *conn) deleteBefore(topic eventlog.Topic, index int32, to int64) (low int64, r *refusal) {
	if index < 0 || index >= topic.Partitions {
		return -1, refuse(kerr.UnknownTopicOrPartition, "no such partition")
	}
	part := eventlog.Part{Topic: topic.ID, Index: index}
	high, err := c.edge(c.s.Engine.Highs, part)
	if err != nil {
		return -1, refused(err)
	}
	if to == toHighWatermark {
		to = high
	}
	if to < 0 || to > high {
		return -1, refuse(kerr.OffsetOutOfRange, fmt.Sprintf("the partition ends at %d", high))
	}
	if err := c.s.Engine.Trim(c.ctx, eventlog.Position{Part: part, Offset: to}); err != nil {
		return -1, refused(err)
	}
	if low, err = c.edge(c.s.Engine.Starts, part); err != nil {
		return -1, refused(err)
	}
	return low, nil
}
