package kafkawire

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog/engine"
)

// IncrementalAlterConfigs: key 44, versions 0–1. Topics only.
func init() {
	register(0, 1, "[ i8 s [ s i8 ns ] ] i8", incrementalAlterConfigs)
}

func incrementalAlterConfigs(c *conn, req *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	for _, r := range req.Resources {
		rr := kmsg.NewIncrementalAlterConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		refusal := c.mayConfigure(kmsg.ACLOperationAlterConfigs, r.ResourceType, r.ResourceName)
		var set map[string]*string
		if refusal == nil {
			set, refusal = c.s.changeConfigs(&r)
		}
		if refusal == nil {
			refusal = c.s.configure(r.ResourceName, set, req.ValidateOnly)
		}
		refusal.set(&rr.ErrorCode, &rr.ErrorMessage)
		resp.Resources = append(resp.Resources, rr)
	}
	return resp
}

func (s *Server) changeConfigs(r *kmsg.IncrementalAlterConfigsRequestResource) (map[string]*string, *refusal) {
	entries, refusal := s.toAlter(r.ResourceType, r.ResourceName)
	if refusal != nil {
		return nil, refusal
	}
	set, named := map[string]*string{}, once[string]{}
	for i := range r.Configs { // the form of all of them comes before what any of them means
		switch c := &r.Configs[i]; {
		case !named.first(c.Name):
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("config %q is in the request more than once", c.Name))
		case c.Value == nil && c.Op != kmsg.IncrementalAlterConfigOpDelete:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("config %q has no value", c.Name))
		}
	}
	for i := range r.Configs {
		c := &r.Configs[i]
		v, refusal := changedConfig(c, entries)
		if refusal != nil {
			return nil, refusal
		}
		if v != nil || topicConfigKinds[c.Name].kind != 0 { // what is not there needs not be taken away
			set[c.Name] = v
		}
	}
	return set, nil
}

// changedConfig is a config's new value; nil is the default. There is a value, but to delete.
func changedConfig(c *kmsg.IncrementalAlterConfigsRequestResourceConfig, entries []engine.ConfigEntry) (*string, *refusal) {
	i := slices.IndexFunc(entries, func(e engine.ConfigEntry) bool { return e.Name == c.Name })
	switch {
	case c.Op == kmsg.IncrementalAlterConfigOpDelete:
		return nil, nil
	case c.Op == kmsg.IncrementalAlterConfigOpSet:
		return c.Value, nil
	case c.Op != kmsg.IncrementalAlterConfigOpAppend && c.Op != kmsg.IncrementalAlterConfigOpSubtract:
		return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("unknown operation %d on config %q", c.Op, c.Name))
	case i < 0 || topicConfigKinds[c.Name].kind != kmsg.ConfigTypeList:
		return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("config %q is not a list: nothing to append to or subtract from", c.Name))
	}
	list := splitList(entries[i].Value)
	for _, v := range splitList(*c.Value) {
		switch has := slices.Contains(list, v); {
		case c.Op == kmsg.IncrementalAlterConfigOpSubtract:
			list = slices.DeleteFunc(list, func(have string) bool { return have == v })
		case mutant(mutantAppendsOver):
			list = []string{v}
		case !has:
			list = append(list, v)
		}
	}
	joined := strings.Join(list, ",")
	return &joined, nil
}

// splitList leaves spaces where they are, as Kafka does here: what is to be taken away must be spelt as it stands.
func splitList(s string) (list []string) {
	for v := range strings.SplitSeq(s, ",") {
		if v != "" {
			list = append(list, v)
		}
	}
	return list
}
