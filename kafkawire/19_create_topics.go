package kafkawire

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// CreateTopics: key 19, versions 2–7.
//
// Any replication factor from 1 on is taken and 1 is what there is: frameworks ask for 3 by default. A manual assignment says
// how many partitions, nothing else. Unknown configs are INVALID_CONFIG.
func init() {
	register(2, 7, "[ s i32 i16 [ i32 *i32 ] [ s ns ] ] i32 i8:1+", createTopics)
}

func createTopics(c *conn, req *kmsg.CreateTopicsRequest) kmsg.Response {
	resp := kmsg.NewPtrCreateTopicsResponse()
	times := map[string]int{}
	for i := range req.Topics {
		times[req.Topics[i].Topic]++
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Topic, -1, -1
		var refusal *refusal
		switch n := times[t.Topic]; {
		case n == 0:
			continue // it had its answer
		case n > 1:
			times[t.Topic] = 0
			refusal = refuse(kerr.InvalidRequest, "the topic is in the request more than once")
		default:
			refusal = c.createOne(t, &rt, req.ValidateOnly)
		}
		refusal.set(&rt.ErrorCode, &rt.ErrorMessage)
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (c *conn) createOne(t *kmsg.CreateTopicsRequestTopic, rt *kmsg.CreateTopicsResponseTopic, validateOnly bool) *refusal {
	s := c.s
	if !c.mayCreate(t.Topic) {
		return refuse(kerr.TopicAuthorizationFailed, "the account may not create the topic")
	}
	if err := eventlog.CheckTopicName(t.Topic); err != nil {
		return refuse(kerr.InvalidTopicException, err.Error())
	}
	if isInternal(t.Topic) {
		return refuse(kerr.InvalidTopicException, internalTopic)
	}
	if _, ok := s.Engine.TopicByName(t.Topic); ok {
		return refuse(kerr.TopicAlreadyExists, fmt.Sprintf("topic %q already exists", t.Topic))
	}
	spec, refusal := topicSpec(t)
	if refusal != nil {
		return refusal
	}
	if t.ReplicationFactor > 1 {
		s.oneReplica.Do(func() {
			s.Logger.Info("kafka: a client asks for more than one replica of a topic; there is one, as there is one node. This is said once",
				"topic", t.Topic, "replicas", t.ReplicationFactor)
		})
	}
	topic := eventlog.Topic{Partitions: cmp.Or(spec.Partitions, s.Engine.DefaultPartitions())}
	if validateOnly {
		if refusal := s.roomForPartitions(topic.Partitions); refusal != nil {
			return refusal
		}
		refusal = s.checkConfigs(spec.Config)
	} else {
		topic, refusal = s.createTopic(spec)
	}
	if refusal != nil {
		return refusal
	}
	rt.TopicID = topic.ID
	if !c.mayTopic(kmsg.ACLOperationDescribeConfigs, t.Topic) {
		rt.ConfigErrorCode = kerr.TopicAuthorizationFailed.Code
		return nil
	}
	rt.NumPartitions, rt.ReplicationFactor = topic.Partitions, 1
	written := map[string]*string{} // what is set is repeated as the client wrote it
	for _, cfg := range t.Configs {
		written[cfg.Name] = cfg.Value
	}
	for _, e := range s.Engine.ConfigWith(spec.Config) {
		rc := kmsg.NewCreateTopicsResponseTopicConfig()
		rc.Name, rc.Value, rc.Source = e.Name, cmp.Or(written[e.Name], &e.Value), int8(configSource(e.Source))
		rt.Configs = append(rt.Configs, rc)
	}
	return nil
}

// topicSpec reads what a client wants.
func topicSpec(t *kmsg.CreateTopicsRequestTopic) (eventlog.TopicSpec, *refusal) {
	spec := eventlog.TopicSpec{Name: t.Topic, Partitions: t.NumPartitions, Config: map[string]string{}}
	switch n := len(t.ReplicaAssignment); {
	case n > 0 && (t.NumPartitions != -1 || t.ReplicationFactor != -1):
		return spec, refuse(kerr.InvalidRequest, "an assignment leaves partitions and replication factor at -1")
	case n > 0:
		if spec.Partitions = int32(n); !consecutive(t.ReplicaAssignment) {
			return spec, refuse(kerr.InvalidReplicaAssignment, "an assignment names every partition from 0 on once, with replicas on different nodes")
		}
	case t.NumPartitions == -1:
		spec.Partitions = 0 // the log's default
	case t.NumPartitions < 1:
		return spec, refuse(kerr.InvalidPartitions, "partitions: at least 1, or -1 for the default")
	}
	if t.ReplicationFactor < 1 && t.ReplicationFactor != -1 {
		return spec, refuse(kerr.InvalidReplicationFactor, "replication factor: at least 1, or -1 for the default")
	}
	for _, cfg := range t.Configs {
		if cfg.Value == nil {
			return spec, refuse(kerr.InvalidConfig, fmt.Sprintf("config %q has no value", cfg.Name))
		}
		spec.Config[cfg.Name] = canonicalConfig(cfg.Name, *cfg.Value)
	}
	return spec, nil
}

func consecutive(assignment []kmsg.CreateTopicsRequestTopicReplicaAssignment) bool {
	seen := make([]bool, len(assignment))
	for _, a := range assignment {
		if a.Partition < 0 || int(a.Partition) >= len(seen) || seen[a.Partition] || len(a.Replicas) == 0 {
			return false
		}
		if replicas := (once[int32]{}); slices.ContainsFunc(a.Replicas, func(r int32) bool { return !replicas.first(r) }) {
			return false
		}
		seen[a.Partition] = true
	}
	return true
}
