package kafkawire

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
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
	for _, c := range r.Configs {
		if c.Value == nil {
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("config %q has no value", c.Name))
		}
		set[c.Name] = c.Value
	}
	return set, nil
}

// toAlter finds the configs of a topic that a client may alter.
func (s *Server) toAlter(kind kmsg.ConfigResourceType, name string) ([]engine.ConfigEntry, *refusal) {
	if kind != kmsg.ConfigResourceTypeTopic {
		return nil, refuse(kerr.InvalidRequest, "only topics' configs can be altered here; the server's are in its configuration file")
	}
	if refusal := s.alterable(name); refusal != nil {
		return nil, refusal
	}
	entries, err := s.Engine.EffectiveConfig(name)
	return entries, refused(err)
}

// configure alters a topic's configs, or only says whether that would be possible.
func (s *Server) configure(topic string, set map[string]*string, validateOnly bool) *refusal {
	if validateOnly {
		values := map[string]string{}
		for name, v := range set {
			if v != nil {
				values[name] = *v
			}
		}
		return s.checkConfigs(values)
	}
	err := s.Engine.ConfigureTopic(s.ctx, topic, set)
	if errors.Is(err, eventlog.ErrInvalid) {
		return refuse(kerr.InvalidConfig, err.Error())
	}
	return refused(err)
}
