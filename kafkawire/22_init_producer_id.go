package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId: key 22, versions 0–5.
//
// An idempotent producer gets an id that nobody had before, at epoch 0, whatever it had (as in Kafka). Transactional ids are
// refused. 6 is two-phase commit.
func init() {
	register(0, 5, "ns i32 i64:3+ i16:3+", initProducerID)
}

func initProducerID(c *conn, req *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp
	}
	if !c.mayCluster(kmsg.ACLOperationIdempotentWrite) && !c.mayAny(kmsg.ACLOperationWrite, kmsg.ACLResourceTypeTopic) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	id, err := c.s.Engine.NewProducerID()
	if err != nil {
		resp.ErrorCode = code(err).Code
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}
