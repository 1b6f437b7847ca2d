package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// Heartbeat: key 12, versions 0–4.
func init() {
	register(0, 4, "s i32 s ns:3+", heartbeat)
}

func heartbeat(c *conn, req *kmsg.HeartbeatRequest) kmsg.Response {
	if refusal := c.mayJoin(req.Group); refusal != nil {
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = refusal.Code
		return resp
	}
	return c.s.groups.ask(c, req.Group, false, func(g *group.Group, now time.Time, who group.Caller) group.Output {
		return g.Heartbeat(now, who, req)
	})
}
