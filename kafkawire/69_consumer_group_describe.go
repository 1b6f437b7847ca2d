package kafkawire

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConsumerGroupDescribe: key 69, versions 0–1. Groups of the consumer protocol; others, and those that do not exist, are
// GROUP_ID_NOT_FOUND. One named twice is answered once.
func init() {
	register(0, 1, "*s i8", consumerGroupDescribe)
}

func consumerGroupDescribe(c *conn, req *kmsg.ConsumerGroupDescribeRequest) kmsg.Response {
	resp := kmsg.NewPtrConsumerGroupDescribeResponse()
	asked := once[string]{}
	ended := !c.s.groups.view(c.ctx, func() {
		for _, name := range req.Groups {
			if asked.first(name) {
				resp.Groups = append(resp.Groups, c.describeConsumerGroup(name))
			}
		}
	})
	if ended {
		return nil
	}
	if req.IncludeAuthorizedOperations {
		for i := range resp.Groups {
			if resp.Groups[i].ErrorCode == 0 {
				resp.Groups[i].AuthorizedOperations = c.operations(kmsg.ACLResourceTypeGroup, resp.Groups[i].Group)
			}
		}
	}
	return resp
}

// describeConsumerGroup runs in the coordinator's goroutine.
func (c *conn) describeConsumerGroup(name string) kmsg.ConsumerGroupDescribeResponseGroup {
	rg := kmsg.NewConsumerGroupDescribeResponseGroup()
	rg.Group = name
	if !c.mayGroup(kmsg.ACLOperationDescribe, name) {
		rg.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return rg
	}
	missing := fmt.Sprintf("Group %s not found.", name)
	if e := c.s.groups.groups[name]; e != nil {
		if described, ok := e.g.ConsumerDescribe(); ok {
			if c.mayDescribeTopicsOf(&described) {
				return described
			}
			refuse(kerr.TopicAuthorizationFailed, "the group has topics that the account may not describe").set(&rg.ErrorCode, &rg.ErrorMessage)
			return rg
		}
		missing = fmt.Sprintf("Group %s is not a consumer group.", name)
	}
	refuse(kerr.GroupIDNotFound, missing).set(&rg.ErrorCode, &rg.ErrorMessage)
	return rg
}

// mayDescribeTopicsOf tells whether nothing in a group's description is of a topic that the account may not know of.
func (c *conn) mayDescribeTopicsOf(rg *kmsg.ConsumerGroupDescribeResponseGroup) bool {
	asked := once[string]{}
	denied := func(topic string) bool {
		return topic != "" && asked.first(topic) && !c.mayTopic(kmsg.ACLOperationDescribe, topic)
	}
	for i := range rg.Members {
		m := &rg.Members[i]
		for _, topic := range m.SubscribedTopics {
			if denied(topic) {
				return false
			}
		}
		for _, t := range slices.Concat(m.Assignment.TopicPartitions, m.TargetAssignment.TopicPartitions) {
			if denied(t.Topic) {
				return false
			}
		}
	}
	return true
}
