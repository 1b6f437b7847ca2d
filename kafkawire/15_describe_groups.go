package kafkawire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/group"
)

// DescribeGroups: key 15, versions 0–6. A group that does not exist, or speaks the consumer protocol, is Dead, and
// GROUP_ID_NOT_FOUND from 6. One named twice is answered once.
func init() {
	register(0, 6, "*s i8:3+", describeGroups)
}

func describeGroups(c *conn, req *kmsg.DescribeGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeGroupsResponse()
	asked := once[string]{}
	ended := !c.s.groups.view(c.ctx, func() {
		for _, name := range req.Groups {
			if asked.first(name) {
				resp.Groups = append(resp.Groups, c.describeGroup(name, req.Version))
			}
		}
	})
	if ended {
		return nil
	}
	if req.IncludeAuthorizedOperations {
		for i := range resp.Groups {
			if g := &resp.Groups[i]; g.ErrorCode != kerr.GroupAuthorizationFailed.Code {
				g.AuthorizedOperations = c.operations(kmsg.ACLResourceTypeGroup, g.Group)
			}
		}
	}
	return resp
}

// describeGroup runs in the coordinator's goroutine.
func (c *conn) describeGroup(name string, version int16) kmsg.DescribeGroupsResponseGroup {
	if !c.mayGroup(kmsg.ACLOperationDescribe, name) {
		rg := kmsg.NewDescribeGroupsResponseGroup()
		rg.Group, rg.ErrorCode = name, kerr.GroupAuthorizationFailed.Code
		return rg
	}
	missing := fmt.Sprintf("no group %q", name)
	if e := c.s.groups.groups[name]; e != nil {
		if e.g.Type() == group.Classic {
			return e.g.Describe()
		}
		missing = fmt.Sprintf("Group %s is not a classic group.", name)
	}
	rg := kmsg.NewDescribeGroupsResponseGroup()
	rg.Group, rg.State = name, group.Dead.String()
	if version >= 6 {
		refuse(kerr.GroupIDNotFound, missing).set(&rg.ErrorCode, &rg.ErrorMessage)
	}
	return rg
}
