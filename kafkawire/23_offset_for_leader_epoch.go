package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// OffsetForLeaderEpoch: key 23, versions 2–4.
//
// There is one epoch, 0, and it ends where the log does: nothing that a consumer read is ever taken back.
func init() {
	register(2, 4, "i32:3+ [ s [ i32 i32 i32 ] ]", offsetForLeaderEpoch)
}

func offsetForLeaderEpoch(c *conn, req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		topic, ok := c.s.topic(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, -1, -1
			switch {
			case !c.mayTopic(kmsg.ACLOperationDescribe, t.Topic):
				rp.ErrorCode = kerr.TopicAuthorizationFailed.Code
			case !ok || p.Partition < 0 || p.Partition >= topic.Partitions:
				rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
			case p.CurrentLeaderEpoch > leaderEpoch:
				rp.ErrorCode = kerr.UnknownLeaderEpoch.Code
			case p.LeaderEpoch == leaderEpoch:
				end, err := c.edge(c.s.Engine.Ends, eventlog.Part{Topic: topic.ID, Index: p.Partition})
				if err != nil {
					rp.ErrorCode = code(err).Code
					break
				}
				rp.LeaderEpoch, rp.EndOffset = leaderEpoch, end
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
