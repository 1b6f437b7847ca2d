package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/txn"
)

// DescribeTransactions: key 65, version 0. Topics that the account may not describe are left out, as in Kafka.
func init() {
	register(0, 0, "*s", describeTransactions)
}

func describeTransactions(c *conn, req *kmsg.DescribeTransactionsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeTransactionsResponse()
	asked := once[string]{}
	for _, id := range req.TransactionalIDs {
		if asked.first(id) {
			resp.TransactionStates = append(resp.TransactionStates, c.describeTransaction(id))
		}
	}
	return resp
}

func (c *conn) describeTransaction(id string) kmsg.DescribeTransactionsResponseTransactionState {
	r := kmsg.NewDescribeTransactionsResponseTransactionState()
	r.TransactionalID = id
	if !c.mayTransact(kmsg.ACLOperationDescribe, id) {
		r.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return r
	}
	ts := c.s.txns
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.ids[id]
	if t == nil {
		r.ErrorCode = kerr.TransactionalIDNotFound.Code
		return r
	}
	r.State, r.TimeoutMillis = t.State().String(), int32(t.Timeout().Milliseconds())
	r.StartTimestamp = -1
	r.ProducerID, r.ProducerEpoch = t.Producer()
	if since, ongoing := t.Started(); ongoing {
		r.StartTimestamp = since.UnixMilli()
	}
	c.describeParts(t, &r)
	return r
}

func (c *conn) describeParts(t *txn.Txn, r *kmsg.DescribeTransactionsResponseTransactionState) {
	for _, p := range t.Parts() {
		if !c.mayTopic(kmsg.ACLOperationDescribe, p.Topic) {
			continue
		}
		if n := len(r.Topics); n == 0 || r.Topics[n-1].Topic != p.Topic {
			rt := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
			rt.Topic = p.Topic
			r.Topics = append(r.Topics, rt)
		}
		rt := &r.Topics[len(r.Topics)-1]
		rt.Partitions = append(rt.Partitions, p.Index)
	}
}
