package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/group"
)

// OffsetCommit: key 8, versions 2–10; topics by id from 10.
//
// Answered when the offsets are durable. RetentionTimeMillis (2–4) is kept: such an offset goes at its own time. A member of a
// group of the consumer protocol needs version 9; it may say an epoch that it is past, but none from before it got the partition
// (KIP-1251).
func init() {
	register(2, 10, "s i32 s ns:7+ i64:2-4 [ s:0-9 uuid:10+ [ i32 i64 i32:6+ ns ] ]", offsetCommit)
}

func offsetCommit(c *conn, req *kmsg.OffsetCommitRequest) kmsg.Response {
	if refusal := c.mayJoin(req.Group); refusal != nil && req.Group != "" {
		return refuseCommit(req, refusal)
	}
	topics := c.s.committedTopics(req)
	ids := map[string]eventlog.TopicID{}
	for name, t := range topics {
		ids[name] = t.ID
	}
	c.s.groups.committing(ids)
	refused := func(topic string, partition int32) *kerr.Error {
		switch t, ok := topics[topic]; {
		case !ok && req.Version >= 10:
			return kerr.UnknownTopicID
		case !c.mayTopic(kmsg.ACLOperationRead, topic):
			return kerr.TopicAuthorizationFailed
		case !ok || partition < 0 || partition >= t.Partitions:
			return kerr.UnknownTopicOrPartition
		}
		return nil
	}
	return c.s.groups.ask(c, req.Group, true, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.Commit(now, who, req, refused)
	})
}

// refuseCommit answers every partition of a commit alike.
func refuseCommit(req *kmsg.OffsetCommitRequest, refusal *kerr.Error) kmsg.Response {
	resp := kmsg.NewPtrOffsetCommitResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, refusal.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// committedTopics finds the topics of a commit, and gives those that came by id their names, and the others their ids.
func (s *Server) committedTopics(req *kmsg.OffsetCommitRequest) map[string]eventlog.Topic {
	topics := map[string]eventlog.Topic{}
	for i := range req.Topics {
		t := &req.Topics[i]
		var found eventlog.Topic
		var ok bool
		if req.Version >= 10 {
			found, ok = s.topicByID(t.TopicID)
			t.Topic = found.Name
		} else {
			found, ok = s.topic(t.Topic)
			t.TopicID = found.ID
		}
		if ok {
			topics[found.Name] = found
		}
	}
	return topics
}
