package kafkawire

import (
	"cmp"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// Metadata: key 3, versions 0–13.
//
// There is one broker: this server, at the address that the listener advertises. A topic that does not exist is made when the
// client asks for it, Options.AutoCreate allows it and the name is a user's. A topic named twice is answered once.
func init() {
	register(0, 13, "[ uuid:10+ ns ] i8:4+ i8:8-10 i8:8+", metadata)
}

func metadata(c *conn, req *kmsg.MetadataRequest) kmsg.Response {
	resp := kmsg.NewPtrMetadataResponse()
	host, port := c.advertised()
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = c.s.NodeID, host, port
	resp.Brokers = append(resp.Brokers, b)
	resp.ClusterID = kmsg.StringPtr(c.s.Engine.ClusterID())
	resp.ControllerID = c.s.NodeID
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = c.operations(kmsg.ACLResourceTypeCluster, clusterName)
	}
	if all := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0; all {
		for _, t := range c.s.listTopics() {
			if c.mayTopic(kmsg.ACLOperationDescribe, t.Name) || mutant(mutantListed) {
				resp.Topics = append(resp.Topics, c.s.metadataTopic(t))
			}
		}
	}
	create := c.s.AutoCreate && (req.Version < 4 || req.AllowAutoTopicCreation)
	type naming struct {
		name string
		id   [16]byte
	}
	asked := once[naming]{}
	// Versions 10 and 11 have room for ids, and Kafka takes none there.
	wrong := req.Version < 12 && slices.ContainsFunc(req.Topics, func(t kmsg.MetadataRequestTopic) bool { return t.Topic == nil || t.TopicID != [16]byte{} })
	for i := range req.Topics {
		t := &req.Topics[i]
		by := naming{id: t.TopicID}
		if t.Topic != nil { // then the id says nothing
			by = naming{name: *t.Topic}
		}
		if asked.first(by) && !wrong {
			resp.Topics = append(resp.Topics, c.findMetadata(t, create))
		} else if wrong {
			rt := kmsg.NewMetadataResponseTopic()
			rt.Topic, rt.TopicID, rt.ErrorCode = t.Topic, t.TopicID, kerr.InvalidRequest.Code
			resp.Topics = append(resp.Topics, rt)
		}
	}
	if req.IncludeTopicAuthorizedOperations {
		for i := range resp.Topics {
			if t := &resp.Topics[i]; t.ErrorCode == 0 {
				t.AuthorizedOperations = c.operations(kmsg.ACLResourceTypeTopic, *t.Topic)
			}
		}
	}
	return resp
}

// listTopics lists what clients may know of, by name.
func (s *Server) listTopics() []eventlog.Topic {
	ts := slices.DeleteFunc(slices.Clone(s.Engine.ListTopics()), func(t eventlog.Topic) bool { return !s.visible(t.Name) })
	slices.SortFunc(ts, func(a, b eventlog.Topic) int { return cmp.Compare(a.Name, b.Name) })
	return ts
}

func (c *conn) findMetadata(rt *kmsg.MetadataRequestTopic, create bool) kmsg.MetadataResponseTopic {
	s := c.s
	unknown := kmsg.NewMetadataResponseTopic()
	unknown.Topic, unknown.TopicID = rt.Topic, rt.TopicID
	if rt.Topic == nil {
		t, ok := s.topicByID(rt.TopicID)
		switch {
		case !ok:
			unknown.ErrorCode = kerr.UnknownTopicID.Code
		case !c.mayTopic(kmsg.ACLOperationDescribe, t.Name):
			unknown.ErrorCode = kerr.TopicAuthorizationFailed.Code
		default:
			return s.metadataTopic(t)
		}
		return unknown
	}
	name := *rt.Topic
	if !c.mayTopic(kmsg.ACLOperationDescribe, name) {
		unknown.ErrorCode, unknown.TopicID = kerr.TopicAuthorizationFailed.Code, [16]byte{}
		return unknown
	}
	if t, ok := s.topic(name); ok {
		return s.metadataTopic(t)
	}
	if eventlog.CheckTopicName(name) != nil {
		unknown.ErrorCode = kerr.InvalidTopicException.Code
		return unknown
	}
	unknown.ErrorCode = kerr.UnknownTopicOrPartition.Code
	if !create || isInternal(name) {
		return unknown
	}
	if !c.mayCreate(name) {
		unknown.ErrorCode, unknown.TopicID = kerr.TopicAuthorizationFailed.Code, [16]byte{}
		return unknown
	}
	t, refusal := s.createTopic(eventlog.TopicSpec{Name: name})
	if refusal != nil {
		if t, ok := s.topic(name); ok { // somebody else was faster
			return s.metadataTopic(t)
		}
		refusal.set(&unknown.ErrorCode, nil)
		return unknown
	}
	s.Logger.Info("kafka: topic created because a client asked for it", "topic", name, "partitions", t.Partitions)
	return s.metadataTopic(t)
}

func (s *Server) metadataTopic(t eventlog.Topic) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.Topic, rt.TopicID, rt.IsInternal = kmsg.StringPtr(t.Name), t.ID, isInternal(t.Name)
	rt.Partitions = make([]kmsg.MetadataResponseTopicPartition, t.Partitions)
	self := []int32{s.NodeID}
	for i := range rt.Partitions {
		p := &rt.Partitions[i]
		p.Default()
		p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR = int32(i), s.NodeID, leaderEpoch, self, self
	}
	return rt
}

// createTopic makes a topic, within the limit on partitions.
func (s *Server) createTopic(spec eventlog.TopicSpec) (eventlog.Topic, *refusal) {
	s.creating.Lock()
	defer s.creating.Unlock()
	if refusal := s.roomForPartitions(max(spec.Partitions, 1)); refusal != nil {
		return eventlog.Topic{}, refusal
	}
	t, err := s.Engine.CreateTopic(s.ctx, spec)
	if errors.Is(err, eventlog.ErrInvalid) && len(spec.Config) > 0 {
		return t, refuse(kerr.InvalidConfig, err.Error())
	}
	return t, refused(err)
}
