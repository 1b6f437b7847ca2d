package kafkawire

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/tier"
)

// A producer whose transaction took too long hears what it hears of Apache Kafka, whatever it does next.
func TestRealKafkaTimeout(t *testing.T) {
	addr := os.Getenv("MILLRACE_KAFKA_ONE")
	if addr == "" {
		t.Skip("MILLRACE_KAFKA_ONE IS NOT SET: it is the address of a cluster of one broker (make test-all sets it)")
	}
	n := startOn(t, Options{Rights: all{}}, nil)
	defer n.stop()
	d := newDiffer(t, tier.Seed(), n, addr)
	d.name = fmt.Sprintf("timeout-%x-", time.Now().UnixNano())
	d.kafka()
	topics := newTopicsState(d)
	for _, name := range []string{d.name + "t0", d.name + "t1"} {
		for len(topics.ids[name]) == 0 {
			topics.create(name)
		}
	}
	end := func(version int16, commit bool) func(*transactionsState) {
		return func(s *transactionsState) {
			s.patiently(fmt.Sprintf("end, commit %v, version %d", commit, version), func(side int) kmsg.Request {
				req := kmsg.NewPtrEndTxnRequest()
				req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = s.id(), s.pids[side], s.epochs[side], commit
				return versioned(req, version)
			}, func(side int, r kmsg.Response) string {
				resp := r.(*kmsg.EndTxnResponse)
				return fmt.Sprint(resp.ErrorCode, resp.ErrorCode == 0 && version >= 5 && resp.ProducerEpoch == s.epochs[side]+1)
			})
		}
	}
	again := func(behind int16) func(*transactionsState) {
		return func(s *transactionsState) {
			s.patiently(fmt.Sprint("init, epoch -", behind), func(side int) kmsg.Request {
				req := kmsg.NewPtrInitProducerIDRequest()
				req.TransactionalID, req.TransactionTimeoutMillis = new(s.id()), 60_000
				req.ProducerID, req.ProducerEpoch = s.pids[side], s.epochs[side]-behind
				return versioned(req, 5)
			}, func(side int, r kmsg.Response) string {
				resp := r.(*kmsg.InitProducerIDResponse)
				return fmt.Sprint(resp.ErrorCode, resp.ErrorCode == 0 && resp.ProducerEpoch == s.epochs[side]+1)
			})
		}
	}
	write := func(s *transactionsState) { s.write() }
	next := []func(*transactionsState){end(5, false), end(5, true), end(4, false), end(4, true), again(0), again(-1), write}
	var late []*transactionsState
	for i := range next {
		s := &transactionsState{topicsState: topics, seq: map[string]int32{}, own: fmt.Sprint(i), timeout: 1000}
		for !s.open && d.difference == "" {
			s.init()
			s.write()
		}
		late = append(late, s)
	}
	for i, s := range late {
		for _, c := range []*client{d.ours, d.theirs} {
			waitFor(t, func() bool {
				req := kmsg.NewPtrDescribeTransactionsRequest()
				req.TransactionalIDs = []string{s.id()}
				x := do[*kmsg.DescribeTransactionsResponse](c, 0, req).TransactionStates[0]
				return x.State == "CompleteAbort"
			})
		}
		next[i](s)
		if d.difference != "" {
			t.Error(d.difference)
			d.difference = ""
		}
	}
	d.cleanUp()
}
