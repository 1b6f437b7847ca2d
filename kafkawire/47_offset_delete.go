package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/group"
)

// OffsetDelete: key 47, version 0. Offsets of topics that a member subscribes to are GROUP_SUBSCRIBED_TO_TOPIC; those of a group
// with members that are no consumers are NON_EMPTY_GROUP. Answered when the tombstones are durable.
func init() {
	register(0, 0, "s [ s [ i32 ] ]", offsetDelete)
}

func offsetDelete(c *conn, req *kmsg.OffsetDeleteRequest) kmsg.Response {
	if !c.mayGroup(kmsg.ACLOperationDelete, req.Group) {
		resp := kmsg.NewPtrOffsetDeleteResponse()
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	topics, denied := map[string]eventlog.Topic{}, map[string]bool{}
	for _, t := range req.Topics {
		if denied[t.Topic] = !c.mayTopic(kmsg.ACLOperationRead, t.Topic); !denied[t.Topic] {
			if found, ok := c.s.topic(t.Topic); ok {
				topics[t.Topic] = found
			}
		}
	}
	refused := func(topic string, partition int32) *kerr.Error {
		switch t, ok := topics[topic]; {
		case denied[topic]:
			return kerr.TopicAuthorizationFailed
		case !ok || partition < 0 || partition >= t.Partitions:
			return kerr.UnknownTopicOrPartition
		}
		return nil
	}
	return c.s.groups.ask(c, req.Group, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.DeleteOffsets(now, who, req, refused)
	})
}
