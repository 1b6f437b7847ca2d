package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/txn"
)

// AddPartitionsToTxn: key 24, versions 0–3.
//
// For transactions of version 1: from version 2 on Produce does it. All partitions or none: if one cannot be had, the others are
// OPERATION_NOT_ATTEMPTED. 4 and later are what brokers ask each other.
func init() {
	register(0, 3, "s i64 i16 [ s *i32 ]", addPartitionsToTxn)
}

func addPartitionsToTxn(c *conn, req *kmsg.AddPartitionsToTxnRequest) kmsg.Response {
	resp := kmsg.NewPtrAddPartitionsToTxnResponse()
	var parts []txn.Part
	var limited []string
	may, failed := c.mayTransact(kmsg.ACLOperationWrite, req.TransactionalID), false
	for _, t := range req.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		topic, ok := c.s.topic(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition = p
			switch {
			case !may: // then nothing is told of the topics
				rp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
			case !c.mayTopic(kmsg.ACLOperationWrite, t.Topic) || isInternal(t.Topic):
				rp.ErrorCode = kerr.TopicAuthorizationFailed.Code
			case !ok || p < 0 || p >= topic.Partitions:
				rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
			}
			failed = failed || rp.ErrorCode != 0
			parts = append(parts, txn.Part{Topic: t.Topic, Index: p})
			rt.Partitions = append(rt.Partitions, rp)
		}
		limited = append(limited, t.Topic)
		resp.Topics = append(resp.Topics, rt)
	}
	var code int16
	switch {
	case !may, failed:
		code = kerr.OperationNotAttempted.Code
	default:
		_, err := c.s.txns.known(c.ctx, req.TransactionalID, func(t *txn.Txn, _ int64) (txn.Output, *kerr.Error) {
			out, err := t.Add(c.s.Now(), req.ProducerID, req.ProducerEpoch, txnVersion1, 0, parts...)
			for _, topic := range limited {
				if err == nil {
					t.Limit(c.s.txns.limit(topic))
				}
			}
			return out, err
		})
		if err != nil {
			code = fenced(err, req.Version, 2)
		}
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if p := &resp.Topics[i].Partitions[j]; p.ErrorCode == 0 {
				p.ErrorCode = code
			}
		}
	}
	return resp
}
