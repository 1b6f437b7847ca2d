package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/acl"
)

// DescribeAcls: key 29, versions 1–3. SECURITY_DISABLED where there is no policy, for then ACLs count for nothing.
func init() {
	register(1, 3, "i8 ns i8 ns ns i8 i8", describeACLs)
}

func describeACLs(c *conn, req *kmsg.DescribeACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeACLsResponse()
	filter := acl.Filter{Resource: req.ResourceType, Pattern: req.ResourcePatternType, Name: req.ResourceName,
		Principal: req.Principal, Host: req.Host, Operation: req.Operation, Permission: req.PermissionType}
	refusal := c.mayACL(kmsg.ACLOperationDescribe)
	if err := filter.Check(); refusal == nil && err != nil {
		refusal = refuse(kerr.InvalidRequest, err.Error())
	}
	if refusal.set(&resp.ErrorCode, &resp.ErrorMessage); refusal != nil {
		return resp
	}
	type resource struct {
		kind    acl.Resource
		pattern acl.Pattern
		name    string
	}
	at := map[resource]int{}
	for _, b := range c.s.acls.set.Load().Matching(&filter) {
		of := resource{b.Resource, b.Pattern, b.Name}
		i, there := at[of]
		if !there {
			i = len(resp.Resources)
			at[of] = i
			r := kmsg.NewDescribeACLsResponseResource()
			r.ResourceType, r.ResourcePatternType, r.ResourceName = b.Resource, b.Pattern, b.Name
			resp.Resources = append(resp.Resources, r)
		}
		a := kmsg.NewDescribeACLsResponseResourceACL()
		a.Principal, a.Host, a.Operation, a.PermissionType = b.Principal, b.Host, b.Operation, b.Permission
		resp.Resources[i].ACLs = append(resp.Resources[i].ACLs, a)
	}
	return resp
}

// mayACL refuses who may not see or change ACLs.
func (c *conn) mayACL(op kmsg.ACLOperation) *refusal {
	return c.mayAdminister(op, "without a policy everything is allowed, and ACLs count for nothing: write a policy in the configuration")
}

// mayAdminister refuses who may not see (Describe) or change (Alter) what says who may do what and who is who. Where everything is
// allowed that is not: whoever came in could become somebody else.
func (c *conn) mayAdminister(op kmsg.ACLOperation, withoutPolicy string) *refusal {
	switch {
	case c.s.Rights == nil:
		return refuse(kerr.SecurityDisabled, withoutPolicy)
	case !c.mayCluster(op):
		return refuse(kerr.ClusterAuthorizationFailed, "the account may not administer the cluster")
	}
	return nil
}
