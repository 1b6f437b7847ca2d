package kafkawire

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/txn"
)

// InitProducerId: key 22, versions 0–5.
//
// An idempotent producer gets an id that nobody had before, at epoch 0, whatever it had (as in Kafka). A transactional id keeps its
// producer's, at the next epoch: whoever had it is fenced, and what it left open aborted. 6 is two-phase commit.
func init() {
	register(0, 5, "ns i32 i64:3+ i16:3+", initProducerID)
}

func initProducerID(c *conn, req *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		c.initTransactional(req, resp)
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

func (c *conn) initTransactional(req *kmsg.InitProducerIDRequest, resp *kmsg.InitProducerIDResponse) {
	id, want, wantEpoch := *req.TransactionalID, int64(-1), int16(-1)
	if req.Version >= 3 {
		want, wantEpoch = req.ProducerID, req.ProducerEpoch
	}
	switch {
	case id == "" || (want < 0) != (wantEpoch < 0):
		resp.ErrorCode = kerr.InvalidRequest.Code
		return
	case !c.mayTransact(kmsg.ACLOperationWrite, id):
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return
	}
	out, err := c.s.txns.ask(c.ctx, id, func(t *txn.Txn, fresh int64) (txn.Output, *kerr.Error) {
		return t.Init(c.s.Now(), time.Duration(req.TransactionTimeoutMillis)*time.Millisecond, want, wantEpoch, fresh)
	})
	if err != nil {
		resp.ErrorCode = fenced(err, req.Version, 4)
		return
	}
	resp.ProducerID, resp.ProducerEpoch = out.ProducerID, out.Epoch
}
