package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// DescribeProducers: key 61, version 0.
//
// The idempotent and transactional producers that a partition remembers. There is one coordinator, in its first epoch.
func init() {
	register(0, 0, "[ s *i32 ]", describeProducers)
}

func describeProducers(c *conn, req *kmsg.DescribeProducersRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeProducersResponse()
	asked := once[eventlog.Part]{}
	for _, t := range req.Topics {
		rt := kmsg.NewDescribeProducersResponseTopic()
		rt.Topic = t.Topic
		topic, ok := c.s.topic(t.Topic)
		for _, i := range t.Partitions {
			rp := kmsg.NewDescribeProducersResponseTopicPartition()
			rp.Partition = i
			part := eventlog.Part{Topic: topic.ID, Index: i}
			switch {
			case !c.mayTopic(kmsg.ACLOperationRead, t.Topic):
				refuse(kerr.TopicAuthorizationFailed, "the account may not read the topic").set(&rp.ErrorCode, &rp.ErrorMessage)
			case !ok || i < 0 || i >= topic.Partitions:
				refuse(kerr.UnknownTopicOrPartition, "no such topic or partition").set(&rp.ErrorCode, &rp.ErrorMessage)
			case !asked.first(part):
				continue
			default:
				c.describeProducers(part, &rp)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (c *conn) describeProducers(part eventlog.Part, rp *kmsg.DescribeProducersResponseTopicPartition) {
	producers, err := c.s.Engine.Producers(c.ctx, part)
	if err != nil {
		refused(err).set(&rp.ErrorCode, &rp.ErrorMessage)
		return
	}
	for _, p := range producers {
		a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		a.ProducerID, a.ProducerEpoch, a.LastSequence, a.LastTimestamp = p.ID, int32(p.Epoch), p.LastSequence, p.Active
		a.CoordinatorEpoch, a.CurrentTxnStartOffset = 0, p.TxnFirst
		rp.ActiveProducers = append(rp.ActiveProducers, a)
	}
}
