package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// DeleteGroups: key 42, versions 0–2. Only groups without members. Answered when the tombstones are durable.
func init() {
	register(0, 2, "*s", deleteGroups)
}

func deleteGroups(c *conn, req *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	for _, name := range req.Groups {
		if !c.mayGroup(kmsg.ACLOperationDelete, name) {
			rg := kmsg.NewDeleteGroupsResponseGroup()
			rg.Group, rg.ErrorCode = name, kerr.GroupAuthorizationFailed.Code
			resp.Groups = append(resp.Groups, rg)
			continue
		}
		one, ok := c.s.groups.ask(c, name, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
			return g.Delete(now, who)
		}).(*kmsg.DeleteGroupsResponse)
		if !ok {
			return nil
		}
		resp.Groups = append(resp.Groups, one.Groups...)
	}
	return resp
}
