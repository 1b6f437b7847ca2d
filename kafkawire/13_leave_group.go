package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// LeaveGroup: key 13, versions 0–5; several members at once, by instance id too, from 3.
func init() {
	register(0, 5, "s s:0-2 [:3+ s ns ns:5+ ]", leaveGroup)
}

func leaveGroup(c *conn, req *kmsg.LeaveGroupRequest) kmsg.Response {
	if refusal := c.mayJoin(req.Group); refusal != nil {
		resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
		resp.ErrorCode = refusal.Code
		return resp
	}
	return c.s.groups.ask(c, req.Group, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.Leave(now, who, req)
	})
}
