package kafkawire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog/engine"
)

// AlterConfigs: key 33, versions 0–2. Topics only; what a request does not name goes back to its default.
func init() {
	register(0, 2, "[ i8 s [ s ns ] ] i8", alterConfigs)
}

func alterConfigs(c *conn, req *kmsg.AlterConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrAlterConfigsResponse()
	for _, r := range req.Resources {
		rr := kmsg.NewAlterConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		refusal := c.mayConfigure(kmsg.ACLOperationAlterConfigs, r.ResourceType, r.ResourceName)
		var set map[string]*string
		if refusal == nil {
			set, refusal = c.s.replaceConfigs(&r)
		}
		if refusal == nil {
			refusal = c.s.configure(r.ResourceName, set, req.ValidateOnly)
		}
		refusal.set(&rr.ErrorCode, &rr.ErrorMessage)
		resp.Resources = append(resp.Resources, rr)
	}
	return resp
}

// replaceConfigs is the change that makes a topic's configs those of the request.
func (s *Server) replaceConfigs(r *kmsg.AlterConfigsRequestResource) (map[string]*string, *refusal) {
	entries, refusal := s.toAlter(r.ResourceType, r.ResourceName)
	if refusal != nil {
		return nil, refusal
	}
	set := map[string]*string{}
	for _, e := range entries {
		if e.Source == engine.TopicSet {
			set[e.Name] = nil
		}
	}
	named := once[string]{}
	for _, c := range r.Configs {
		switch {
		case !named.first(c.Name):
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("config %q is in the request more than once", c.Name))
		case c.Value == nil:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("config %q has no value", c.Name))
		}
		set[c.Name] = c.Value
	}
	return set, nil
}

// toAlter finds the configs of a topic that a client may alter; the defaults where there is no such topic, which configure says after it has
// looked at the values, as Kafka does.
func (s *Server) toAlter(kind kmsg.ConfigResourceType, name string) ([]engine.ConfigEntry, *refusal) {
	switch {
	case kind != kmsg.ConfigResourceTypeTopic:
		return nil, refuse(kerr.InvalidRequest, "only topics' configs can be altered here; the server's are in its configuration file")
	case isInternal(name):
		return nil, refuse(kerr.InvalidTopicException, internalTopic)
	}
	if entries, err := s.Engine.EffectiveConfig(name); err == nil {
		return entries, nil
	}
	return s.Engine.ConfigWith(nil), nil
}

// configure alters a topic's configs, or only says whether that would be possible.
func (s *Server) configure(topic string, set map[string]*string, validateOnly bool) *refusal {
	if topic == "" {
		return refuse(kerr.InvalidRequest, "configs are altered topic by topic")
	}
	values := map[string]string{}
	for name, v := range set {
		if v != nil {
			values[name] = canonicalConfig(name, *v)
			set[name] = kmsg.StringPtr(values[name])
		}
	}
	if refusal := s.checkConfigs(values); refusal != nil {
		return refusal
	}
	if refusal := s.alterable(topic); refusal != nil || validateOnly {
		return refusal
	}
	return refused(s.Engine.ConfigureTopic(s.ctx, topic, set))
}
