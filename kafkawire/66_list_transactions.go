package kafkawire

import (
	"cmp"
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire/txn"
)

// ListTransactions: key 66, versions 0–2; filters by how long they are open from 1 on, by a pattern of their ids from 2 on (RE2, as Kafka
// has it). Ids that the account may not describe are left out.
func init() {
	register(0, 2, "*s *i64 i64:1+ ns:2+", listTransactions)
}

func listTransactions(c *conn, req *kmsg.ListTransactionsRequest) kmsg.Response {
	resp := kmsg.NewPtrListTransactionsResponse()
	var pattern *regexp.Regexp
	if req.TransactionalIDPattern != nil && *req.TransactionalIDPattern != "" {
		var err error
		if pattern, err = regexp.Compile("^(?:" + *req.TransactionalIDPattern + ")$"); err != nil {
			resp.ErrorCode = kerr.InvalidRegularExpression.Code
			return resp
		}
	}
	unknown := once[string]{}
	for _, s := range req.StateFilters {
		if !slices.Contains(txn.StateNames(), s) && unknown.first(s) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, s)
		}
	}
	now, ts := c.s.Now(), c.s.txns
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for id, t := range ts.ids {
		producer, _ := t.Producer()
		since, ongoing := t.Started()
		switch {
		case len(req.StateFilters) > 0 && !slices.Contains(req.StateFilters, t.State().String()),
			len(req.ProducerIDFilters) > 0 && !slices.Contains(req.ProducerIDFilters, producer),
			req.Version >= 1 && req.DurationFilterMillis >= 0 && (!ongoing || now.Sub(since) < time.Duration(req.DurationFilterMillis)*time.Millisecond),
			pattern != nil && !pattern.MatchString(id),
			!c.mayTransact(kmsg.ACLOperationDescribe, id):
			continue
		}
		r := kmsg.NewListTransactionsResponseTransactionState()
		r.TransactionalID, r.ProducerID, r.TransactionState = id, producer, t.State().String()
		resp.TransactionStates = append(resp.TransactionStates, r)
	}
	slices.SortFunc(resp.TransactionStates, func(a, b kmsg.ListTransactionsResponseTransactionState) int {
		return cmp.Compare(a.TransactionalID, b.TransactionalID)
	})
	return resp
}
