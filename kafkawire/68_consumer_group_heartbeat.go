package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/group"
)

// ConsumerGroupHeartbeat: key 68, versions 0–1. The consumer protocol (KIP-848): the server assigns, uniformly or by ranges.
//
// A member that joins a classic group of consumers makes it one of the consumer protocol; when the last such member leaves and
// classic ones stay it is a classic group again, as with Kafka's group.consumer.migration.policy=bidirectional. Racks are kept and
// not used: there is one broker. Answered when what it says is durable. Expressions (1) are RE2's, and match whole names of topics that clients may know of.
func init() {
	register(0, 1, "s s i32 ns ns i32 *s ns:1+ ns [ uuid *i32 ]", consumerGroupHeartbeat)
}

func consumerGroupHeartbeat(c *conn, req *kmsg.ConsumerGroupHeartbeatRequest) kmsg.Response {
	if refusal := c.checkHeartbeat(req); refusal != nil {
		resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		refusal.set(&resp.ErrorCode, &resp.ErrorMessage)
		return resp
	}
	return c.s.groups.ask(c, req.Group, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.ConsumerHeartbeat(now, who, req)
	})
}

// checkHeartbeat refuses what the group is not asked. Topics that an expression matches are not looked at here: the account is
// refused when it reads them.
func (c *conn) checkHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) *refusal {
	if err := c.mayJoin(req.Group); err != nil && req.Group != "" {
		return refuse(err, "the account may not be a member of the group")
	}
	for _, topic := range req.SubscribedTopicNames {
		if !c.mayTopic(kmsg.ACLOperationDescribe, topic) {
			return refuse(kerr.TopicAuthorizationFailed, "the account may not describe topic "+topic)
		}
	}
	if code, text := group.CheckConsumerHeartbeat(req); code != nil {
		return refuse(code, text)
	}
	return nil
}

// groupTopics are the topics that groups may subscribe to.
type groupTopics struct{ s *Server }

func (t groupTopics) Topic(name string) (group.Topic, bool) {
	topic, ok := t.s.topic(name)
	return groupTopic(topic), ok
}

func (t groupTopics) TopicName(id [16]byte) string {
	topic, _ := t.s.topicByID(id)
	return topic.Name
}

func (t groupTopics) All() []group.Topic {
	var out []group.Topic
	for _, topic := range t.s.listTopics() {
		out = append(out, groupTopic(topic))
	}
	return out
}

func groupTopic(t eventlog.Topic) group.Topic {
	return group.Topic{Name: t.Name, ID: t.ID, Partitions: t.Partitions}
}
