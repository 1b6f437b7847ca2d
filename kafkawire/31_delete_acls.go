package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/acl"
)

// DeleteAcls: key 31, versions 1–3. Answered when it is durable, and in force.
func init() {
	register(1, 3, "[ i8 ns i8 ns ns i8 i8 ]", deleteACLs)
}

func deleteACLs(c *conn, req *kmsg.DeleteACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteACLsResponse()
	resp.Results = make([]kmsg.DeleteACLsResponseResult, len(req.Filters))
	refusal := c.mayACL(kmsg.ACLOperationAlter)
	var filters []acl.Filter
	var of []int
	for i := range req.Filters {
		f, r := &req.Filters[i], &resp.Results[i]
		r.Default()
		filter := acl.Filter{Resource: f.ResourceType, Pattern: f.ResourcePatternType, Name: f.ResourceName,
			Principal: f.Principal, Host: f.Host, Operation: f.Operation, Permission: f.PermissionType}
		switch err := filter.Check(); {
		case refusal != nil:
			refusal.set(&r.ErrorCode, &r.ErrorMessage)
		case err != nil:
			refuse(kerr.InvalidRequest, err.Error()).set(&r.ErrorCode, &r.ErrorMessage)
		default:
			filters, of = append(filters, filter), append(of, i)
		}
	}
	if refusal != nil || len(filters) == 0 {
		return resp
	}
	count := 0
	for at, gone := range c.s.acls.remove(c.ctx, filters) {
		r := &resp.Results[of[at]]
		gone.refusal.set(&r.ErrorCode, &r.ErrorMessage)
		for _, b := range gone.bindings {
			m := kmsg.NewDeleteACLsResponseResultMatchingACL()
			m.ResourceType, m.ResourcePatternType, m.ResourceName = b.Resource, b.Pattern, b.Name
			m.Principal, m.Host, m.Operation, m.PermissionType = b.Principal, b.Host, b.Operation, b.Permission
			r.MatchingACLs = append(r.MatchingACLs, m)
			count++
		}
	}
	c.s.Logger.Info("kafka: ACLs deleted", "by", c.account(), "count", count)
	return resp
}
