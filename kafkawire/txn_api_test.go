package kafkawire

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/kafkawire/txn"
)

// txnProducer is a transactional producer that says exactly what it wants.
type txnProducer struct {
	c     *client
	id    string
	pid   int64
	epoch int16
	seqs  map[string]int32
}

func (c *client) transactional(id string) *txnProducer {
	c.t.Helper()
	p := &txnProducer{c: c, id: id}
	if code := p.init(-1, -1); code != 0 {
		c.t.Fatalf("init %q: %v", id, kerr.ErrorForCode(code))
	}
	return p
}

func (p *txnProducer) init(pid int64, epoch int16) int16 {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = &p.id, 300_000, pid, epoch
	resp := do[*kmsg.InitProducerIDResponse](p.c, 5, req)
	if resp.ErrorCode == 0 {
		p.pid, p.epoch, p.seqs = resp.ProducerID, resp.ProducerEpoch, map[string]int32{}
	}
	return resp.ErrorCode
}

// send produces one record in the transaction.
func (p *txnProducer) send(version int16, topic, value string) int16 {
	p.c.t.Helper()
	raw := batchOf(eventlog.None, value)
	raw.SetProducer(p.pid, p.epoch, p.seqs[topic])
	raw.SetTransactional(true)
	raw.Reseal()
	req := produceRequest(topic, 0, -1, raw)
	req.TransactionID = &p.id
	code := do[*kmsg.ProduceResponse](p.c, version, req).Topics[0].Partitions[0].ErrorCode
	if code == 0 {
		p.seqs[topic]++
	}
	return code
}

func (p *txnProducer) mustSend(topic, value string) {
	p.c.t.Helper()
	if code := p.send(12, topic, value); code != 0 {
		p.c.t.Fatalf("send %q: %v", value, kerr.ErrorForCode(code))
	}
}

func (p *txnProducer) end(version int16, commit bool) int16 {
	p.c.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = p.id, p.pid, p.epoch, commit
	resp := do[*kmsg.EndTxnResponse](p.c, version, req)
	if resp.ErrorCode == 0 && version >= 5 {
		p.pid, p.epoch, p.seqs = resp.ProducerID, resp.ProducerEpoch, map[string]int32{}
	}
	return resp.ErrorCode
}

func (p *txnProducer) mustEnd(commit bool) {
	p.c.t.Helper()
	if code := p.end(5, commit); code != 0 {
		p.c.t.Fatalf("end: %v", kerr.ErrorForCode(code))
	}
}

func (p *txnProducer) add(version int16, topics ...string) (codes []int16) {
	p.c.t.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = p.id, p.pid, p.epoch
	for _, name := range topics {
		rt := kmsg.NewAddPartitionsToTxnRequestTopic()
		rt.Topic, rt.Partitions = name, []int32{0}
		req.Topics = append(req.Topics, rt)
	}
	for _, t := range do[*kmsg.AddPartitionsToTxnResponse](p.c, version, req).Topics {
		codes = append(codes, t.Partitions[0].ErrorCode)
	}
	return codes
}

func (p *txnProducer) commitOffset(version int16, group, topic string, at int64) int16 {
	p.c.t.Helper()
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group, req.Generation = p.id, p.pid, p.epoch, group, -1
	rt := kmsg.NewTxnOffsetCommitRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	rp.Offset = at
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return do[*kmsg.TxnOffsetCommitResponse](p.c, version, req).Topics[0].Partitions[0].ErrorCode
}

// offsetOf is a group's offset in partition 0 of a topic.
func (c *client) offsetOf(group, topic string, stable bool) (int64, int16) {
	c.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	rt := kmsg.NewOffsetFetchRequestTopic()
	rt.Topic, rt.Partitions = topic, []int32{0}
	req.Group, req.Topics, req.RequireStable = group, append(req.Topics, rt), stable
	p := do[*kmsg.OffsetFetchResponse](c, 7, req).Topics[0].Partitions[0]
	return p.Offset, p.ErrorCode
}

// fetched is what one fetch of partition 0 gives at an isolation level.
func (c *client) fetched(version int16, topic eventlog.Topic, offset int64, isolation int8) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	req := fetchRequest(topic, 0, offset, 0, 0)
	req.IsolationLevel = isolation
	return do[*kmsg.FetchResponse](c, version, req).Topics[0].Partitions[0]
}

func (c *client) endAt(topic string, isolation int8) int64 {
	c.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = isolation
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp = -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return do[*kmsg.ListOffsetsResponse](c, 5, req).Topics[0].Partitions[0].Offset
}

// TestReadCommitted: what a client of either isolation level is told of open, aborted and committed transactions, in every version.
func TestReadCommitted(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	x, y := c.transactional("x"), c.transactional("y")
	x.mustSend("a", "x1")      // 0
	c.produce("a", 0, "plain") // 1
	y.mustSend("a", "y1")      // 2
	look := func(stable, high int64, aborted ...engine.Aborted) {
		t.Helper()
		for v := int16(4); v <= 17; v++ {
			var p kmsg.FetchResponseTopicPartition
			var told []engine.Aborted
			next := int64(0)
			for more := true; more; { // what is in segments and what is in memory comes in two
				p = c.fetched(v, topic, next, 1)
				for _, a := range p.AbortedTransactions {
					if one := (engine.Aborted{ProducerID: a.ProducerID, First: a.FirstOffset}); !slices.Contains(told, one) {
						told = append(told, one)
					}
				}
				more = len(p.RecordBatches) > 0
				for rest := p.RecordBatches; len(rest) > 0; {
					b, err := eventlog.CheckBatch(rest)
					if err != nil {
						t.Fatal(err)
					}
					next, rest = b.Next(), rest[len(b):]
				}
			}
			if p.LastStableOffset != stable || p.HighWatermark != high || next != stable || !slices.Equal(told, aborted) || p.AbortedTransactions == nil {
				t.Fatalf("version %d: up to %d, %d is stable, %d high, aborted %+v", v, next, p.LastStableOffset, p.HighWatermark, p.AbortedTransactions)
			}
			if p = c.fetched(v, topic, 0, 0); p.AbortedTransactions != nil || p.LastStableOffset != stable || eventlog.RawBatch(p.RecordBatches).Base() != 0 {
				t.Fatalf("version %d, uncommitted: %+v", v, p)
			}
		}
		if committed, all := c.endAt("a", 1), c.endAt("a", 0); committed != stable || all != high {
			t.Fatalf("ends: %d committed, %d of all", committed, all)
		}
	}
	look(0, 3)
	y.mustEnd(false) // 3
	look(0, 4)
	n.restart()
	c = n.dial()
	x.c, y.c = c, c
	look(0, 4)
	x.mustEnd(true) // 4
	look(5, 5, engine.Aborted{ProducerID: y.pid, First: 2})
	x.mustSend("a", "x2")
	x.mustEnd(false)
	look(7, 7, engine.Aborted{ProducerID: y.pid, First: 2}, engine.Aborted{ProducerID: x.pid, First: 5})
	if p := c.fetched(12, topic, 6, 1); p.ErrorCode != 0 || len(p.AbortedTransactions) != 1 {
		t.Errorf("from the marker on: %+v", p)
	}
	if p := c.fetched(12, topic, 8, 1); p.ErrorCode != kerr.OffsetOutOfRange.Code {
		t.Errorf("beyond the end: %+v", p)
	}
}

// TestReadCommittedWaits: a fetch that waits is answered when the last stable offset moves, not when the high watermark does.
func TestReadCommittedWaits(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	x := n.dial().transactional("x")
	waiting := n.dial()
	req := fetchRequest(topic, 0, 0, 1, 20_000)
	req.IsolationLevel = 1
	req.SetVersion(12)
	sent := waiting.send(req)
	got := make(chan kmsg.FetchResponseTopicPartition, 1)
	go func() { got <- waiting.receive(req, sent).(*kmsg.FetchResponse).Topics[0].Partitions[0] }()
	x.mustSend("a", "x1")
	select {
	case p := <-got:
		t.Fatalf("answered while the transaction is open: %+v", p)
	case <-time.After(100 * time.Millisecond):
	}
	x.mustEnd(true)
	if p := <-got; p.LastStableOffset != 2 || len(p.RecordBatches) == 0 {
		t.Fatalf("%+v", p)
	}
}

// TestTransactionRules: version 1 of transactions, and what is refused.
func TestTransactionRules(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	n.topic("b", 1, nil)
	c := n.dial()
	x := c.transactional("x")
	want := func(what string, got int16, want *kerr.Error) {
		t.Helper()
		code := int16(0)
		if want != nil {
			code = want.Code
		}
		if got != code {
			t.Errorf("%s: %v, want %v", what, kerr.ErrorForCode(got), want)
		}
	}
	want("not added", x.send(9, "a", "1"), kerr.InvalidTxnState)
	want("not added, to who can abort", x.send(11, "a", "1"), kerr.TransactionAbortable)
	for v := int16(0); v <= 3; v++ {
		if codes := x.add(v, "a", "nowhere", offsetsTopic); !slices.Equal(codes, []int16{kerr.OperationNotAttempted.Code, kerr.UnknownTopicOrPartition.Code, kerr.TopicAuthorizationFailed.Code}) {
			t.Errorf("version %d: %v", v, codes)
		}
		want("add", x.add(v, "a")[0], nil)
	}
	want("added", x.send(9, "a", "1"), nil)
	want("another", x.send(9, "b", "1"), kerr.InvalidTxnState)
	for v := int16(0); v <= 4; v++ {
		req := kmsg.NewPtrAddOffsetsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = "x", x.pid, x.epoch, "g"
		want("add offsets", do[*kmsg.AddOffsetsToTxnResponse](c, v, req).ErrorCode, nil)
	}
	for v := int16(0); v <= 5; v++ {
		want("commit an offset", x.commitOffset(v, "g", "a", int64(10+v)), nil)
	}
	want("commit an offset of no topic", x.commitOffset(5, "g", "nowhere", 1), kerr.UnknownTopicOrPartition)
	if at, code := c.offsetOf("g", "a", false); at != -1 || code != 0 {
		t.Errorf("before its commit the offset is %d, error %d", at, code)
	}
	if _, code := c.offsetOf("g", "a", true); code != kerr.UnstableOffsetCommit.Code {
		t.Errorf("error %d", code)
	}
	for v := int16(0); v <= 4; v++ {
		want("end", x.end(v, true), nil)
	}
	if at, code := c.offsetOf("g", "a", true); at != 15 || code != 0 {
		t.Errorf("the offset is %d, error %d", at, code)
	}
	want("after its end", x.send(9, "a", "2"), kerr.InvalidTxnState)
	want("abort, after it was committed", x.end(4, false), kerr.InvalidTxnState)

	late := *x
	late.seqs = map[string]int32{"a": 1, "b": 0}
	x.mustSend("a", "2")
	want("commit", x.end(5, true), nil)
	want("late", late.send(12, "a", "3"), kerr.InvalidProducerEpoch)
	want("late, elsewhere", late.send(12, "b", "3"), kerr.InvalidProducerEpoch)
	want("late add", late.add(3, "a")[0], kerr.ProducerFenced)
	want("late add, of old", late.add(1, "a")[0], kerr.InvalidProducerEpoch)
	want("late offset", late.commitOffset(5, "g", "a", 1), kerr.InvalidProducerEpoch)
	want("an end that was not heard of", late.end(5, true), nil)

	successor := c.transactional("x")
	want("fenced", x.end(5, true), kerr.ProducerFenced)
	want("fenced, of old", x.end(1, true), kerr.InvalidProducerEpoch)
	want("fenced recovery", x.init(x.pid, x.epoch), kerr.ProducerFenced)
	want("recovery", successor.init(successor.pid, successor.epoch), nil)
	successor.mustSend("a", "4")
	successor.mustEnd(false)

	nobody := &txnProducer{c: c, id: "nobody", pid: 3}
	want("of nobody", nobody.send(12, "a", "x"), kerr.InvalidProducerIDMapping)
	want("of nobody", nobody.end(5, true), kerr.InvalidProducerIDMapping)
	want("of nobody", nobody.add(3, "a")[0], kerr.InvalidProducerIDMapping)
	want("of nobody", nobody.commitOffset(5, "g", "a", 1), kerr.InvalidProducerIDMapping)
	for _, ms := range []int32{0, -1, 3_600_001} {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = kmsg.StringPtr("y"), ms
		want("timeout", do[*kmsg.InitProducerIDResponse](c, 5, req).ErrorCode, kerr.InvalidTransactionTimeout)
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = kmsg.StringPtr(""), 1000
	want("no name", do[*kmsg.InitProducerIDResponse](c, 5, req).ErrorCode, kerr.InvalidRequest)
}

// TestSuccessorAborts: who takes a transactional id over aborts what was left open, offsets too.
func TestSuccessorAborts(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	commit(c, "g", "a", 0, 3)
	x := c.transactional("x")
	x.mustSend("a", "lost")
	if code := x.commitOffset(5, "g", "a", 7); code != 0 {
		t.Fatal(code)
	}
	n.restart()
	c = n.dial()
	if _, code := c.offsetOf("g", "a", true); code != kerr.UnstableOffsetCommit.Code {
		t.Errorf("after a restart: error %d", code)
	}
	next := c.transactional("x")
	if next.pid != x.pid || next.epoch <= x.epoch {
		t.Errorf("producer %d, epoch %d after %d, %d", next.pid, next.epoch, x.pid, x.epoch)
	}
	if at, code := c.offsetOf("g", "a", true); at != 3 || code != 0 {
		t.Errorf("the offset is %d, error %d", at, code)
	}
	if p := c.fetched(12, topic, 0, 1); p.LastStableOffset != 2 || len(p.AbortedTransactions) != 1 {
		t.Errorf("%+v", p)
	}
	x.c = c
	if code := x.send(12, "a", "zombie"); code != kerr.InvalidProducerEpoch.Code {
		t.Errorf("the old one: %v", kerr.ErrorForCode(code))
	}
}

// TestPendingOffsets: of a plain commit and one in a transaction the later one counts, by the order of the log, and a restart forgets neither.
func TestPendingOffsets(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	x, y := c.transactional("x"), c.transactional("y")
	x.commitOffset(5, "first", "a", 4)
	n.restart()
	c = n.dial()
	x.c, y.c = c, c
	x.mustEnd(true)
	if got, _ := c.offsetOf("first", "a", false); got != 4 {
		t.Errorf("a first offset, whose transaction was open over a restart, is %d", got)
	}
	at := func(want int64) {
		t.Helper()
		if got, _ := c.offsetOf("g", "a", false); got != want {
			t.Errorf("the offset is %d, want %d", got, want)
		}
	}
	again := func(want int64) {
		t.Helper()
		at(want)
		n.restart()
		c = n.dial()
		x.c, y.c = c, c
		at(want)
	}
	x.commitOffset(5, "g", "a", 5)
	commit(c, "g", "a", 0, 6)
	again(6)
	x.mustEnd(true)
	again(6)
	x.commitOffset(5, "g", "a", 7)
	y.commitOffset(5, "g", "a", 8)
	y.mustEnd(true)
	again(8)
	x.mustEnd(true)
	again(8)
	x.commitOffset(5, "g", "a", 9)
	commit(c, "other", "a", 0, 1) // beyond what is stable
	x.mustEnd(false)
	again(8)
	if got, _ := c.offsetOf("other", "a", false); got != 1 {
		t.Errorf("the other group's is %d", got)
	}
	x.commitOffset(5, "g", "a", 10)
	commit(c, "other", "a", 0, 2)
	again(8)
	if got, _ := c.offsetOf("other", "a", false); got != 2 {
		t.Errorf("the other group's is %d", got)
	}
	x.mustEnd(true)
	again(10)
}

// TestTransactionTimeout: one that takes too long is aborted, and its producer can only abort and go on; sooner where devices wait, and it is told of.
func TestTransactionTimeout(t *testing.T) {
	var late atomic.Int64
	n := start(t, Options{
		Now:     func() time.Time { return time.Now().Add(time.Duration(late.Load())) },
		Carries: func(topic string) bool { return topic == "devices" },
	})
	slow, fast := n.topic("slow", 1, nil), n.topic("devices", 1, nil)
	c := n.dial()
	x, y := c.transactional("x"), c.transactional("y")
	x.mustSend("slow", "1")
	y.mustSend("devices", "1")
	if held := n.srv.HeldTransactions(); len(held) != 0 {
		t.Errorf("held: %+v", held)
	}
	pass := func(d time.Duration) {
		late.Add(int64(d))
		n.srv.txns.mu.Lock()
		n.srv.txns.nextDue = n.srv.Now()
		n.srv.txns.mu.Unlock()
		n.srv.txns.wake <- struct{}{}
	}
	pass(59 * time.Second)
	n.restart() // which forgets nothing of it
	c = n.dial()
	x.c, y.c = c, c
	pass(2 * time.Second)
	poll(t, "the one that devices wait for is aborted", func() bool { return c.fetched(12, fast, 0, 1).LastStableOffset == 2 })
	if p := c.fetched(12, slow, 0, 1); p.LastStableOffset != 0 {
		t.Errorf("%+v", p)
	}
	if code := y.end(5, true); code != kerr.InvalidTxnState.Code {
		t.Errorf("its commit: %v", kerr.ErrorForCode(code))
	}
	if code := y.end(4, false); code != kerr.ProducerFenced.Code {
		t.Errorf("its abort, in a version that gives no epochs: %v", kerr.ErrorForCode(code))
	}
	if code := y.end(5, false); code != 0 {
		t.Errorf("its abort: %v", kerr.ErrorForCode(code))
	}
	held := n.srv.HeldTransactions()
	if len(held) != 1 || held[0].TransactionalID != "x" || held[0].ProducerID != x.pid || held[0].Topic != "slow" {
		t.Errorf("held: %+v", held)
	}
	if s := n.srv.Stats(); s.OpenTransactions != 1 || s.TransactionalIDs != 2 || s.OldestTransaction.IsZero() {
		t.Errorf("%+v", s)
	}
	pass(240 * time.Second)
	poll(t, "the other one, too", func() bool { return c.fetched(12, slow, 0, 1).LastStableOffset == 2 })
	pass(8 * 24 * time.Hour)
	poll(t, "nobody uses them", func() bool { return n.srv.Stats().TransactionalIDs == 0 })
	n.restart()
	if s := n.srv.Stats(); s.TransactionalIDs != 0 {
		t.Errorf("after a restart: %+v", s)
	}
}

func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestReconcile: a transaction that a partition has open and its coordinator knows nothing of is the transaction's, if that is open, and
// aborted, if not.
func TestReconcile(t *testing.T) {
	n := start(t, Options{})
	a, b := n.topic("a", 1, nil), n.topic("b", 1, nil)
	c := n.dial()
	x := c.transactional("x")
	x.mustSend("a", "1")
	behind := func(topic eventlog.Topic, pid int64, epoch int16) { // as if the coordinator's record had been refused
		raw := batchOf(eventlog.None, "behind")
		raw.SetProducer(pid, epoch, 0)
		raw.SetTransactional(true)
		raw.Reseal()
		done := make(chan engine.Produced, 1)
		n.eng.ProduceAs(eventlog.Part{Topic: topic.ID}, raw, engine.AcksDurable, engine.Producing{Transactional: true, Fresh: true}, func(p engine.Produced) { done <- p })
		if p := <-done; p.Err != nil {
			t.Fatal(p.Err)
		}
	}
	behind(b, x.pid, x.epoch)
	behind(a, 777, 3)
	n.restart()
	c = n.dial()
	x.c = c
	if p := c.fetched(12, a, 0, 1); p.HighWatermark != 3 || p.LastStableOffset != 0 { // the marker of 777
		t.Errorf("%+v", p)
	}
	x.mustEnd(true)
	if p := c.fetched(12, b, 0, 1); p.LastStableOffset != 2 || len(p.AbortedTransactions) != 0 {
		t.Errorf("%+v", p)
	}
	if p := c.fetched(12, a, 0, 1); p.LastStableOffset != 4 || len(p.AbortedTransactions) != 1 {
		t.Errorf("%+v", p)
	}
}

// TestDescribeTransactions: what administrators see.
func TestDescribeTransactions(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	n.topic("b", 1, nil)
	c := n.dial()
	x, y := c.transactional("x-1"), c.transactional("y-2")
	x.mustSend("b", "1")
	x.mustSend("a", "1")
	y.mustSend("a", "1")
	y.mustEnd(true)

	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{"x-1", "y-2", "z", "x-1"}
	states := do[*kmsg.DescribeTransactionsResponse](c, 0, req).TransactionStates
	if len(states) != 3 || states[2].ErrorCode != kerr.TransactionalIDNotFound.Code {
		t.Fatalf("%+v", states)
	}
	if s := states[0]; s.State != "Ongoing" || s.ProducerID != x.pid || s.TimeoutMillis != 300_000 || s.StartTimestamp <= 0 || len(s.Topics) != 2 || s.Topics[0].Topic != "a" {
		t.Errorf("%+v", s)
	}
	if s := states[1]; s.State != "CompleteCommit" || s.StartTimestamp != -1 || len(s.Topics) != 0 || s.ProducerEpoch != y.epoch {
		t.Errorf("%+v", s)
	}

	list := func(version int16, f func(*kmsg.ListTransactionsRequest)) string {
		t.Helper()
		req := kmsg.NewPtrListTransactionsRequest()
		f(req)
		resp := do[*kmsg.ListTransactionsResponse](c, version, req)
		var ids []string
		for _, s := range resp.TransactionStates {
			ids = append(ids, s.TransactionalID+" "+s.TransactionState)
		}
		if resp.ErrorCode != 0 {
			ids = append(ids, kerr.ErrorForCode(resp.ErrorCode).Error())
		}
		return strings.Join(append(ids, resp.UnknownStateFilters...), ",")
	}
	all := "x-1 Ongoing,y-2 CompleteCommit"
	for v := int16(0); v <= 2; v++ {
		if got := list(v, func(*kmsg.ListTransactionsRequest) {}); got != all {
			t.Errorf("version %d: %s", v, got)
		}
	}
	for _, tc := range []struct {
		want string
		f    func(*kmsg.ListTransactionsRequest)
	}{
		{"x-1 Ongoing,Lost", func(r *kmsg.ListTransactionsRequest) { r.StateFilters = []string{"Ongoing", "PrepareCommit", "Lost"} }},
		{"y-2 CompleteCommit", func(r *kmsg.ListTransactionsRequest) { r.ProducerIDFilters = []int64{y.pid} }},
		{"x-1 Ongoing", func(r *kmsg.ListTransactionsRequest) { r.DurationFilterMillis = 0 }},
		{"", func(r *kmsg.ListTransactionsRequest) { r.DurationFilterMillis = 3_600_000 }},
		{"y-2 CompleteCommit", func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("y-.*") }},
		{"", func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("y") }},
	} {
		if got := list(2, tc.f); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
	if got := list(2, func(r *kmsg.ListTransactionsRequest) { r.TransactionalIDPattern = kmsg.StringPtr("(") }); !strings.Contains(got, "INVALID_REGULAR_EXPRESSION") {
		t.Error(got)
	}

	dp := kmsg.NewPtrDescribeProducersRequest()
	rt := kmsg.NewDescribeProducersRequestTopic()
	rt.Topic, rt.Partitions = "a", []int32{0, 1, 0}
	dp.Topics = append(dp.Topics, rt)
	parts := do[*kmsg.DescribeProducersResponse](c, 0, dp).Topics[0].Partitions
	if len(parts) != 2 || parts[1].ErrorCode != kerr.UnknownTopicOrPartition.Code || len(parts[0].ActiveProducers) != 2 {
		t.Fatalf("%+v", parts)
	}
	if p := parts[0].ActiveProducers[0]; p.ProducerID != x.pid || p.CurrentTxnStartOffset != 0 || p.LastSequence != 0 || p.LastTimestamp <= 0 {
		t.Errorf("%+v", p)
	}
	if p := parts[0].ActiveProducers[1]; p.ProducerID != y.pid || p.CurrentTxnStartOffset != -1 || p.LastSequence != -1 || p.ProducerEpoch != 1 {
		t.Errorf("%+v", p)
	}
}

// TestTransactionsAreBounded: there is a bound on what clients can make the server remember.
func TestTransactionsAreBounded(t *testing.T) {
	n := start(t, Options{MaxTransactionalIDs: 2})
	c := n.dial()
	c.transactional("a")
	c.transactional("b")
	p := &txnProducer{c: c, id: "c"}
	if code := p.init(-1, -1); code != kerr.PolicyViolation.Code {
		t.Errorf("%v", kerr.ErrorForCode(code))
	}
	c.transactional("a")
}

// TestTransactionStateIsKafkas: the records of __transaction_state are those that Kafka's tools read.
func TestTransactionStateIsKafkas(t *testing.T) {
	n := start(t, Options{ShowInternal: true})
	n.topic("a", 1, nil)
	c := n.dial()
	x := c.transactional("x")
	x.mustSend("a", "1")
	x.mustEnd(true)
	topic, _ := n.eng.TopicByName(stateTopic)
	var states []kmsg.TransactionState
	for _, b := range n.stored(topic, 0) {
		recs, err := eventlog.NewRawBatch(eventlog.Part{}, b).Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			var k kmsg.TxnMetadataKey
			var v kmsg.TxnMetadataValue
			if err := k.ReadFrom(r.Key); err != nil || k.TransactionalID != "x" {
				t.Fatalf("%+v, %v", k, err)
			}
			if err := v.ReadFrom(r.Value); err != nil || v.ProducerID != x.pid || v.TimeoutMillis != 300_000 {
				t.Fatalf("%+v, %v", v, err)
			}
			states = append(states, v.State)
		}
	}
	if !slices.Equal(states, []kmsg.TransactionState{0, 1, 4}) {
		t.Errorf("%v", states)
	}
	if code := c.transactional("y").send(12, stateTopic, "x"); code != kerr.InvalidTopicException.Code {
		t.Errorf("a client writes the topic: %v", kerr.ErrorForCode(code))
	}
}

// TestListFilters: what a client filters a list by, millions of values or a slow pattern, is not gone through for each entry, nor while
// others wait for the transactions.
func TestListFilters(t *testing.T) {
	ts := &transactions{ids: map[string]*txn.Txn{}}
	for i := range 20_000 {
		id := fmt.Sprint("id-", i)
		ts.ids[id] = txn.New(id, &txn.Config{})
	}
	c := &conn{s: &Server{Options: Options{Now: time.Now}, txns: ts}}
	req := kmsg.NewPtrListTransactionsRequest()
	for i := range 1_000_000 {
		req.ProducerIDFilters = append(req.ProducerIDFilters, int64(i))
	}
	began := time.Now()
	if resp := listTransactions(c, req).(*kmsg.ListTransactionsResponse); len(resp.TransactionStates) != 0 {
		t.Errorf("%d are listed that nobody asked for", len(resp.TransactionStates))
	}
	if took := time.Since(began); took > 3*time.Second { // one by one it is twenty billion comparisons
		t.Errorf("it took %v", took)
	}
	req.ProducerIDFilters = append(req.ProducerIDFilters, -1)
	if resp := listTransactions(c, req).(*kmsg.ListTransactionsResponse); len(resp.TransactionStates) != len(ts.ids) {
		t.Errorf("%d are listed", len(resp.TransactionStates))
	}
}
