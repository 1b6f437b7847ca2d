package kafkawire

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/eventlog"
)

// edge is one partition's entry in what Starts or Ends says of its topic.
func (c *conn) edge(of func(context.Context, eventlog.TopicID) ([]int64, error), p eventlog.Part) (int64, error) {
	offsets, err := of(c.ctx, p.Topic)
	if err != nil {
		return -1, err
	}
	if int(p.Index) >= len(offsets) {
		return -1, fmt.Errorf("partition %v: %w", p, eventlog.ErrUnknownTopic)
	}
	return offsets[p.Index], nil
}

// roomForPartitions refuses n more partitions when there would be too many.
func (s *Server) roomForPartitions(n int32) *refusal {
	total := int64(n)
	for _, t := range s.Engine.ListTopics() {
		total += int64(t.Partitions)
	}
	if total > int64(s.MaxPartitions) {
		return refuse(kerr.PolicyViolation, fmt.Sprintf("that would make %d partitions, this server has at most %d", total, s.MaxPartitions))
	}
	return nil
}

// alterable refuses a change of a topic that does not exist or is not the clients' to change.
func (s *Server) alterable(name string) *refusal {
	if isInternal(name) {
		return refuse(kerr.InvalidTopicException, internalTopic)
	}
	if _, ok := s.Engine.TopicByName(name); !ok {
		return refuse(kerr.UnknownTopicOrPartition, fmt.Sprintf("no topic %q", name))
	}
	return nil
}

// checkConfigs refuses configs that no topic has, or values that they do not take.
func (s *Server) checkConfigs(values map[string]string) *refusal {
	if err := s.Engine.CheckConfig(values); err != nil {
		return refuse(kerr.InvalidConfig, err.Error())
	}
	return nil
}
