package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FindCoordinator: key 10, versions 0–5; several keys at once from 4.
//
// This server coordinates every group and every transactional id. 6 adds share groups.
func init() {
	register(0, 5, "s:0-3 i8:1+ *s:4+", findCoordinator)
}

const (
	groupCoordinator = 0
	txnCoordinator   = 1
)

func findCoordinator(c *conn, req *kmsg.FindCoordinatorRequest) kmsg.Response {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if req.Version < 4 {
		one := c.findCoordinator(req.CoordinatorType, req.CoordinatorKey)
		resp.NodeID, resp.Host, resp.Port = one.NodeID, one.Host, one.Port
		resp.ErrorCode, resp.ErrorMessage = one.ErrorCode, one.ErrorMessage
		return resp
	}
	for _, key := range req.CoordinatorKeys {
		resp.Coordinators = append(resp.Coordinators, c.findCoordinator(req.CoordinatorType, key))
	}
	return resp
}

func (c *conn) findCoordinator(kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	r := kmsg.NewFindCoordinatorResponseCoordinator()
	r.Key, r.NodeID, r.Port = key, -1, -1
	switch kind {
	case groupCoordinator:
		if !c.mayGroup(kmsg.ACLOperationDescribe, key) {
			refuse(kerr.GroupAuthorizationFailed, "the account may not see the group").set(&r.ErrorCode, &r.ErrorMessage)
			return r
		}
	case txnCoordinator:
		if !c.mayTransact(kmsg.ACLOperationDescribe, key) {
			refuse(kerr.TransactionalIDAuthorizationFailed, "the account may not see the transactional id").set(&r.ErrorCode, &r.ErrorMessage)
			return r
		}
	default:
		refuse(kerr.InvalidRequest, "no such kind of coordinator").set(&r.ErrorCode, &r.ErrorMessage)
		return r
	}
	r.NodeID = c.s.NodeID
	r.Host, r.Port = c.advertised()
	return r
}
