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
	states := filterOf(req.StateFilters, func(s string) string { return s })
	producers := filterOf(req.ProducerIDFilters, func(id int64) int64 { return id })
	known := txn.StateNames()
	for s := range states {
		if !slices.Contains(known, s) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, s)
		}
	}
	slices.Sort(resp.UnknownStateFilters)
	now := c.s.Now()
	for _, t := range c.s.txns.list() {
		open := now.Sub(t.since)
		switch {
		case !states.wants(t.state), !producers.wants(t.producer),
			req.Version >= 1 && req.DurationFilterMillis >= 0 && (t.since.IsZero() || open < time.Duration(req.DurationFilterMillis)*time.Millisecond),
			!c.mayTransact(kmsg.ACLOperationDescribe, t.id),
			pattern != nil && !pattern.MatchString(t.id):
			continue
		}
		r := kmsg.NewListTransactionsResponseTransactionState()
		r.TransactionalID, r.ProducerID, r.TransactionState = t.id, t.producer, t.state
		resp.TransactionStates = append(resp.TransactionStates, r)
	}
	slices.SortFunc(resp.TransactionStates, func(a, b kmsg.ListTransactionsResponseTransactionState) int {
		return cmp.Compare(a.TransactionalID, b.TransactionalID)
	})
	return resp
}

// listed is a transactional id as it is listed.
type listed struct {
	id, state string
	producer  int64
	since     time.Time // zero: no transaction is open
}

// list copies what is listed: what clients filter it by takes what time it takes, and not under the lock that every transaction needs.
func (ts *transactions) list() []listed {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	all := make([]listed, 0, len(ts.ids))
	for id, t := range ts.ids {
		l := listed{id: id, state: t.State().String()}
		l.producer, _ = t.Producer()
		if since, ongoing := t.Started(); ongoing {
			l.since = since
		}
		all = append(all, l)
	}
	return all
}
