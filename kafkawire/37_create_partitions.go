package kafkawire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions: key 37, versions 0–3.
//
// A topic whose partition count is fixed (Options.Fixed: a key must stay in its partition) is POLICY_VIOLATION, with the reason.
func init() {
	register(0, 3, "[ s i32 [ *i32 ] ] i32 i8", createPartitions)
}

func createPartitions(c *conn, req *kmsg.CreatePartitionsRequest) kmsg.Response {
	resp := kmsg.NewPtrCreatePartitionsResponse()
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewCreatePartitionsResponseTopic()
		rt.Topic = t.Topic
		refusal := refuse(kerr.TopicAuthorizationFailed, "the account may not alter the topic")
		if c.mayTopic(kmsg.ACLOperationAlter, t.Topic) {
			refusal = c.s.grow(t, req.ValidateOnly)
		}
		refusal.set(&rt.ErrorCode, &rt.ErrorMessage)
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (s *Server) grow(t *kmsg.CreatePartitionsRequestTopic, validateOnly bool) *refusal {
	if refusal := s.alterable(t.Topic); refusal != nil {
		return refusal
	}
	if reason := s.Fixed(t.Topic); reason != "" {
		return refuse(kerr.PolicyViolation, reason)
	}
	s.creating.Lock()
	defer s.creating.Unlock()
	topic, _ := s.Engine.TopicByName(t.Topic)
	more := t.Count - topic.Partitions
	switch {
	case more <= 0:
		return refuse(kerr.InvalidPartitions, fmt.Sprintf("the topic has %d partitions; there can only be more", topic.Partitions))
	case t.Assignment != nil && len(t.Assignment) != int(more):
		return refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("an assignment is for the %d new partitions", more))
	}
	if refusal := s.roomForPartitions(more); refusal != nil || validateOnly {
		return refusal
	}
	return refused(s.Engine.CreatePartitions(t.Topic, t.Count))
}
