package kafkawire

import (
	"net/netip"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/acl"
)

// CreateAcls: key 30, versions 1–3. Answered when the ACLs are durable and in force. One that is there already is no error; none
// gives somebody the right to alter the cluster, which stands in the configuration's policy only.
func init() {
	register(1, 3, "[ i8 s i8 s s i8 i8 ]", createACLs)
}

func createACLs(c *conn, req *kmsg.CreateACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrCreateACLsResponse()
	refusal := c.mayACL(kmsg.ACLOperationAlter)
	var add []acl.Binding
	var of []int // the results of those
	for i := range req.Creations {
		r := kmsg.NewCreateACLsResponseResult()
		b, wrong := binding(&req.Creations[i])
		switch {
		case refusal != nil:
			refusal.set(&r.ErrorCode, &r.ErrorMessage)
		case wrong != nil:
			wrong.set(&r.ErrorCode, &r.ErrorMessage)
		default:
			add, of = append(add, b), append(of, i)
		}
		resp.Results = append(resp.Results, r)
	}
	if refusal != nil || len(add) == 0 {
		return resp
	}
	made := 0
	for at, failed := range c.s.acls.create(c.ctx, c.account(), add) {
		r := &resp.Results[of[at]]
		if failed.set(&r.ErrorCode, &r.ErrorMessage); failed == nil {
			made++
		}
	}
	c.s.Logger.Info("kafka: ACLs created", "by", c.account(), "count", made)
	return resp
}

func binding(cr *kmsg.CreateACLsRequestCreation) (acl.Binding, *refusal) {
	b := acl.Binding{Resource: cr.ResourceType, Pattern: cr.ResourcePatternType, Name: cr.ResourceName, Principal: cr.Principal,
		Host: cr.Host, Operation: cr.Operation, Permission: cr.PermissionType}
	if a, err := netip.ParseAddr(b.Host); err == nil {
		b.Host = a.Unmap().String()
	}
	if err := b.Check(); err != nil {
		return b, refuse(kerr.InvalidRequest, err.Error())
	}
	if b.Resource == kmsg.ACLResourceTypeCluster && b.Operation == kmsg.ACLOperationAlter && b.Permission == kmsg.ACLPermissionTypeAllow {
		return b, refuse(kerr.PolicyViolation, "who may alter the cluster stands in the configuration: write {who: …, allow: manage, cluster: true} in policy")
	}
	return b, nil
}
