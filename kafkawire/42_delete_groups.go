package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// DeleteGroups: key 42, versions 0–3. Only groups without members. Answered when the tombstones are durable.
func init() {
	register(0, 3, "*s", deleteGroups)
}

func deleteGroups(c *conn, req *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	for _, name := range req.Groups {
		if !c.mayGroup(kmsg.ACLOperationDelete, name) {
			rg := kmsg.NewDeleteGroupsResponseGroup()
			rg.Group = name
			refuse(kerr.GroupAuthorizationFailed, "the account may not delete the group").set(&rg.ErrorCode, &rg.ErrorMessage)
			resp.Groups = append(resp.Groups, rg)
			continue
		}
		one, ok := c.s.groups.ask(c, name, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
			return g.Delete(now, who)
		}).(*kmsg.DeleteGroupsResponse)
		if !ok {
			return nil
		}
		for _, rg := range one.Groups {
			if err := kerr.TypedErrorForCode(rg.ErrorCode); err != nil {
				rg.ErrorMessage = &err.Description
			}
			resp.Groups = append(resp.Groups, rg)
		}
	}
	return resp
}
