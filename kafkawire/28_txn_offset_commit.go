package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// TxnOffsetCommit: key 28, versions 0–5.
//
// Answered when the offsets are durable; they count once the transaction is committed. From 3 on members of a group say who they are
// (KIP-447); from 5 on (transactions of version 2) the offsets become a part of the transaction by this, before by AddOffsetsToTxn. 6, which names
// topics by id, Apache Kafka 4.3 does not have yet.
func init() {
	register(0, 5, "s s i64 i16 i32:3+ s:3+ ns:3+ [ s [ i32 i64 i32:2+ ns ] ]", txnOffsetCommit)
}

func txnOffsetCommit(c *conn, req *kmsg.TxnOffsetCommitRequest) kmsg.Response {
	if req.Version < 3 {
		req.Generation = -1
	}
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	var all *kerr.Error
	if !c.mayTransact(kmsg.ACLOperationWrite, req.TransactionalID) {
		all = kerr.TransactionalIDAuthorizationFailed
	} else if err := c.mayJoin(req.Group); err != nil {
		all = err
	}
	if all != nil {
		for _, t := range req.Topics {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: all.Code})
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp
	}
	topics := map[string]eventlog.Topic{}
	ids := map[string]eventlog.TopicID{}
	for i := range req.Topics {
		t := &req.Topics[i]
		if topic, ok := c.s.topic(t.Topic); ok && c.mayTopic(kmsg.ACLOperationRead, t.Topic) {
			topics[t.Topic], ids[t.Topic], t.TopicID = topic, topic.ID, topic.ID
		}
	}
	c.s.groups.committing(ids)
	return c.s.groups.commitTxn(c, req, func(topic string, partition int32) *kerr.Error {
		switch t, ok := topics[topic]; {
		case !c.mayTopic(kmsg.ACLOperationRead, topic):
			return kerr.TopicAuthorizationFailed
		case !ok || partition < 0 || partition >= t.Partitions:
			return kerr.UnknownTopicOrPartition
		}
		return nil
	})
}
