package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// JoinGroup: key 11, versions 0–9. The classic protocol, with member ids handed out first (4), static members (5) and
// skipped assignments (9). The response comes when the rebalance is complete; the connection waits for it.
func init() {
	register(0, 9, "s i32 i32:1+ s ns:5+ s [ s b ] ns:8+", joinGroup)
}

func joinGroup(c *conn, req *kmsg.JoinGroupRequest) kmsg.Response {
	if refusal := c.mayJoin(req.Group); refusal != nil {
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode, resp.Generation, resp.MemberID = refusal.Code, -1, req.MemberID
		return resp
	}
	return c.s.groups.ask(c, req.Group, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.Join(now, who, req)
	})
}
