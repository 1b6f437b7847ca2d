package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/txn"
)

// EndTxn: key 26, versions 0–5.
//
// Answered when the transaction has ended everywhere, which is one commit of the log. From 5 on (transactions of version 2) the
// producer goes on with the epoch in the response.
func init() {
	register(0, 5, "s i64 i16 i8", endTxn)
}

func endTxn(c *conn, req *kmsg.EndTxnRequest) kmsg.Response {
	resp := kmsg.NewPtrEndTxnResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if !c.mayTransact(kmsg.ACLOperationWrite, req.TransactionalID) && !mutant(mutantUnasked) {
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp
	}
	version := int16(txnVersion1)
	if req.Version >= 5 && !mutant(mutantSameEpoch) {
		version = txnVersion2
	}
	out, err := c.s.txns.known(c.ctx, req.TransactionalID, func(t *txn.Txn, fresh int64) (txn.Output, *kerr.Error) {
		return t.End(c.s.Now(), req.ProducerID, req.ProducerEpoch, version, req.Commit, fresh)
	})
	if err != nil {
		resp.ErrorCode = fenced(err, req.Version, 2)
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = out.ProducerID, out.Epoch
	return resp
}
