package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// SyncGroup: key 14, versions 0–5. Answered when the leader's assignment is durable.
func init() {
	register(0, 5, "s i32 s ns:3+ ns:5+ ns:5+ [ s b ]", syncGroup)
}

func syncGroup(c *conn, req *kmsg.SyncGroupRequest) kmsg.Response {
	if refusal := c.mayJoin(req.Group); refusal != nil {
		resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
		resp.ErrorCode = refusal.Code
		return resp
	}
	return c.s.groups.ask(c, req.Group, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.Sync(now, who, req)
	})
}
