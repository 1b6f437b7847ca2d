package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/txn"
)

// AddOffsetsToTxn: key 25, versions 0–4.
//
// For transactions of version 1: from version 2 on TxnOffsetCommit does it.
func init() {
	register(0, 4, "s i64 i16 s", addOffsetsToTxn)
}

func addOffsetsToTxn(c *conn, req *kmsg.AddOffsetsToTxnRequest) kmsg.Response {
	resp := kmsg.NewPtrAddOffsetsToTxnResponse()
	if !c.mayTransact(kmsg.ACLOperationWrite, req.TransactionalID) {
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp
	}
	if err := c.mayJoin(req.Group); err != nil {
		resp.ErrorCode = err.Code
		return resp
	}
	_, err := c.s.txns.known(c.ctx, req.TransactionalID, func(t *txn.Txn, _ int64) (txn.Output, *kerr.Error) {
		return t.Add(c.s.Now(), req.ProducerID, req.ProducerEpoch, txnVersion1, 0, offsetsPart)
	})
	if err != nil {
		resp.ErrorCode = fenced(err, req.Version, 2)
	}
	return resp
}
