package kafkawire

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListGroups: key 16, versions 0–5; filtered by state from 4, by type (classic, consumer) from 5.
func init() {
	register(0, 5, "*s:4+ *s:5+", listGroups)
}

func listGroups(c *conn, req *kmsg.ListGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrListGroupsResponse()
	states, types := filterOf(req.StatesFilter, strings.ToLower), filterOf(req.TypesFilter, strings.ToLower)
	all := c.mayCluster(kmsg.ACLOperationDescribe)
	ended := !c.s.groups.view(c.ctx, func() {
		for name, e := range c.s.groups.groups {
			if !states.wants(strings.ToLower(e.g.StateName())) || !types.wants(strings.ToLower(e.g.Type())) {
				continue
			}
			if !all && !c.mayGroup(kmsg.ACLOperationDescribe, name) {
				continue
			}
			lg := kmsg.NewListGroupsResponseGroup()
			lg.Group, lg.ProtocolType, lg.GroupState, lg.GroupType = name, e.g.ProtocolType(), e.g.StateName(), e.g.Type()
			resp.Groups = append(resp.Groups, lg)
		}
	})
	if ended {
		return nil
	}
	slices.SortFunc(resp.Groups, func(a, b kmsg.ListGroupsResponseGroup) int { return cmp.Compare(a.Group, b.Group) })
	return resp
}
