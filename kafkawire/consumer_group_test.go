package kafkawire

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// pulse is a heartbeat of the consumer protocol that says everything.
func pulse(group, id string, epoch int32, topics ...string) *kmsg.ConsumerGroupHeartbeatRequest {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = group, id, epoch
	if epoch == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = 10_000, topics
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	return req
}

// owning lets a heartbeat say what its member has.
func owning(req *kmsg.ConsumerGroupHeartbeatRequest, topic [16]byte, parts ...int32) *kmsg.ConsumerGroupHeartbeatRequest {
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: topic, Partitions: parts}}
	return req
}

func (c *client) pulse(req *kmsg.ConsumerGroupHeartbeatRequest) *kmsg.ConsumerGroupHeartbeatResponse {
	c.t.Helper()
	return do[*kmsg.ConsumerGroupHeartbeatResponse](c, 1, req)
}

// A group of two members, by hand: the first gives up half of what it has before the second gets it.
func TestConsumerGroup(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 4, nil)
	c := n.dial()
	parts := func(r *kmsg.ConsumerGroupHeartbeatResponse) []int32 {
		t.Helper()
		switch {
		case r.ErrorCode != 0:
			t.Fatalf("%v: %s", kerr.ErrorForCode(r.ErrorCode), *r.ErrorMessage)
		case r.Assignment == nil:
			return nil
		case len(r.Assignment.Topics) == 0:
			return []int32{}
		}
		return r.Assignment.Topics[0].Partitions
	}
	want := func(r *kmsg.ConsumerGroupHeartbeatResponse, epoch int32, have []int32) {
		t.Helper()
		if got := parts(r); r.MemberEpoch != epoch || !slices.Equal(got, have) || (got == nil) != (have == nil) {
			t.Fatalf("epoch %d, assigned %v; want %d, %v", r.MemberEpoch, got, epoch, have)
		}
	}
	want(c.pulse(pulse("g", "a", 0, "t")), 1, []int32{0, 1, 2, 3})
	want(c.pulse(owning(pulse("g", "a", 1), topic.ID, 0, 1, 2, 3)), 1, nil)
	want(c.pulse(pulse("g", "b", 0, "t")), 2, []int32{}) // all is a's yet
	want(c.pulse(owning(pulse("g", "a", 1), topic.ID, 0, 1, 2, 3)), 1, []int32{0, 1})
	want(c.pulse(pulse("g", "b", 2)), 2, nil)
	want(c.pulse(owning(pulse("g", "a", 1), topic.ID, 0, 1)), 2, nil)
	want(c.pulse(pulse("g", "b", 2)), 2, []int32{2, 3})

	// The commit of a member that has not heard of the new epoch yet counts for what it has had since before (KIP-1251).
	commitAs := func(id string, epoch, partition int32) int16 {
		req := commitRequest("g", "t", partition, 7)
		req.MemberID, req.Generation = id, epoch
		return do[*kmsg.OffsetCommitResponse](c, 9, req).Topics[0].Partitions[0].ErrorCode
	}
	for _, tc := range []struct {
		id               string
		epoch, partition int32
		want             *kerr.Error
	}{
		{"a", 2, 0, nil},
		{"a", 1, 0, nil},
		{"a", 0, 0, kerr.StaleMemberEpoch},
		{"a", 3, 0, kerr.StaleMemberEpoch},
		{"a", 1, 3, kerr.StaleMemberEpoch}, // it gave that up
		{"b", 1, 2, kerr.StaleMemberEpoch}, // and b did not have it then
		{"b", 2, 2, nil},
		{"x", 2, 2, kerr.UnknownMemberID},
	} {
		if got := commitAs(tc.id, tc.epoch, tc.partition); kerr.ErrorForCode(got) != error(tc.want) && (tc.want != nil || got != 0) {
			t.Errorf("commit of %s with epoch %d in partition %d: %v, want %v", tc.id, tc.epoch, tc.partition, kerr.ErrorForCode(got), tc.want)
		}
	}
	// Inside a transaction the same rule holds, under another name.
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis = kmsg.StringPtr("x"), 60_000
	producer := do[*kmsg.InitProducerIDResponse](c, 4, init)
	inTxn := func(id string, epoch, partition int32) int16 {
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = "x", "g", producer.ProducerID, producer.ProducerEpoch
		req.MemberID, req.Generation = id, epoch
		req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Partition: partition, Offset: 9}}}}
		return do[*kmsg.TxnOffsetCommitResponse](c, 5, req).Topics[0].Partitions[0].ErrorCode
	}
	for _, tc := range []struct {
		epoch, partition int32
		want             int16
	}{{2, 0, 0}, {1, 0, 0}, {3, 0, kerr.IllegalGeneration.Code}, {1, 3, kerr.IllegalGeneration.Code}} {
		if got := inTxn("a", tc.epoch, tc.partition); got != tc.want {
			t.Errorf("commit in a transaction with epoch %d in partition %d: %v", tc.epoch, tc.partition, kerr.ErrorForCode(got))
		}
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.ProducerID, end.ProducerEpoch = "x", producer.ProducerID, producer.ProducerEpoch
	if r := do[*kmsg.EndTxnResponse](c, 5, end); r.ErrorCode != 0 {
		t.Errorf("abort: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	old := commitRequest("g", "t", 0, 7)
	old.MemberID, old.Generation = "a", 2
	if got := do[*kmsg.OffsetCommitResponse](c, 8, old).Topics[0].Partitions[0].ErrorCode; got != kerr.UnsupportedVersion.Code {
		t.Errorf("commit in version 8: %v", kerr.ErrorForCode(got))
	}
	fetch := offsetFetchRequest("g", "t", 0)
	fetch.Groups[0].MemberID, fetch.Groups[0].MemberEpoch = kmsg.StringPtr("a"), 1
	if got := do[*kmsg.OffsetFetchResponse](c, 9, fetch).Groups[0]; got.ErrorCode != kerr.StaleMemberEpoch.Code {
		t.Errorf("offsets for a past epoch: %+v", got)
	}
	fetch.Groups[0].MemberEpoch = 2
	if got := do[*kmsg.OffsetFetchResponse](c, 9, fetch).Groups[0]; got.ErrorCode != 0 || got.Topics[0].Partitions[0].Offset != 7 {
		t.Errorf("offsets: %+v", got)
	}

	n.restart()
	c = n.dial()
	want(c.pulse(owning(pulse("g", "a", 2), topic.ID, 0, 1)), 2, nil)
	want(c.pulse(owning(pulse("g", "a", 1), topic.ID, 0)), 2, nil) // the response with epoch 2 got lost
	for _, tc := range []struct {
		name string
		req  *kmsg.ConsumerGroupHeartbeatRequest
		want *kerr.Error
	}{
		{"past epoch, with what it must not have", owning(pulse("g", "a", 1), topic.ID, 3), kerr.FencedMemberEpoch},
		{"epoch to come", pulse("g", "a", 3), kerr.FencedMemberEpoch},
		{"nobody", pulse("g", "x", 2), kerr.UnknownMemberID},
		{"no group", pulse("none", "x", 2), kerr.GroupIDNotFound},
		{"no id", pulse("g", "", 0, "t"), kerr.InvalidRequest},
		{"no group id", pulse("", "a", 0, "t"), kerr.InvalidRequest},
	} {
		if r := c.pulse(tc.req); r.ErrorCode != tc.want.Code {
			t.Errorf("%s: %v, want %v", tc.name, kerr.ErrorForCode(r.ErrorCode), tc.want)
		}
	}
	listed := do[*kmsg.ListGroupsResponse](c, 5, &kmsg.ListGroupsRequest{TypesFilter: []string{"consumer"}})
	if len(listed.Groups) != 1 || listed.Groups[0].GroupState != "Stable" || listed.Groups[0].GroupType != "consumer" || listed.Groups[0].ProtocolType != "consumer" {
		t.Errorf("listed: %+v", listed.Groups)
	}
	if d := do[*kmsg.DescribeGroupsResponse](c, 6, &kmsg.DescribeGroupsRequest{Groups: []string{"g"}}).Groups[0]; d.ErrorCode != kerr.GroupIDNotFound.Code || d.State != "Dead" {
		t.Errorf("described as a classic group: %+v", d)
	}
	d := do[*kmsg.ConsumerGroupDescribeResponse](c, 1, &kmsg.ConsumerGroupDescribeRequest{Groups: []string{"g", "none"}})
	if g := d.Groups[0]; g.ErrorCode != 0 || g.State != "Stable" || g.Epoch != 2 || g.AssignmentEpoch != 2 || g.AssignorName != "uniform" || len(g.Members) != 2 ||
		!slices.Equal(g.Members[1].Assignment.TopicPartitions[0].Partitions, []int32{2, 3}) || g.Members[1].TargetAssignment.TopicPartitions[0].Topic != "t" {
		t.Errorf("described: %+v", g)
	}
	if d.Groups[1].ErrorCode != kerr.GroupIDNotFound.Code {
		t.Errorf("described although there is none: %+v", d.Groups[1])
	}
	if r := do[*kmsg.JoinGroupResponse](c, 9, joinRequest("g", "")); r.ErrorCode != kerr.InconsistentGroupProtocol.Code {
		t.Errorf("a classic member joins: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if r := do[*kmsg.DeleteGroupsResponse](c, 2, &kmsg.DeleteGroupsRequest{Groups: []string{"g"}}); r.Groups[0].ErrorCode != kerr.NonEmptyGroup.Code {
		t.Errorf("deleted with members in it: %v", kerr.ErrorForCode(r.Groups[0].ErrorCode))
	}
	for id, epoch := range map[string]int32{"a": 2, "b": 2} {
		leave := pulse("g", id, epoch)
		leave.MemberEpoch = -1
		if r := c.pulse(leave); r.ErrorCode != 0 || r.MemberEpoch != -1 {
			t.Fatalf("leave: %+v", r)
		}
	}
	join(c, 9, "g") // without members, the group may be one of the other protocol
	if at := committed(c, "g", "t", 0); at != 7 {
		t.Errorf("committed %d after the change of protocol", at)
	}
	if r := c.pulse(pulse("g", "a", 0, "t")); r.ErrorCode != kerr.GroupIDNotFound.Code {
		t.Errorf("a member of the consumer protocol joins a classic group: %v", kerr.ErrorForCode(r.ErrorCode))
	}
}

// franz-go's consumers with the server's assignment: every record, through joins, leaves, a restart and a new topic that only an
// expression names.
func TestFranzServerSideBalancer(t *testing.T) {
	n := start(t, Options{ConsumerHeartbeat: 50 * time.Millisecond, ConsumerSession: 5 * time.Second})
	n.topic("app-a", 6, nil)
	n.topic("other", 1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	got := map[string]int{}
	consume := func(opts ...kgo.Opt) (stop func()) {
		cl, err := kgo.NewClient(append([]kgo.Opt{
			kgo.SeedBrokers(n.addr), kgo.ConsumerGroup("g"), kgo.ServerSideBalancer(), kgo.MetadataMinAge(50 * time.Millisecond),
			kgo.MetadataMaxAge(500 * time.Millisecond), kgo.ConsumeTopics("^app-.*"), kgo.ConsumeRegex(), kgo.AutoCommitInterval(100 * time.Millisecond),
		}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() {
			for ctx.Err() == nil {
				cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
					mu.Lock()
					got[string(r.Value)]++
					mu.Unlock()
				})
			}
		})
		return func() {
			cancel()
			done.Wait()
			cl.Close()
		}
	}
	next := 0
	writer, err := kgo.NewClient(kgo.SeedBrokers(n.addr), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	arrives := func(topic string) {
		t.Helper()
		from := next
		for range 60 {
			r := &kgo.Record{Topic: topic, Value: []byte(fmt.Sprint(next))}
			if err := writer.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			next++
		}
		for ctx.Err() == nil {
			missing := 0
			mu.Lock()
			for i := from; i < next; i++ {
				if got[fmt.Sprint(i)] == 0 {
					missing++
				}
			}
			mu.Unlock()
			if missing == 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("not all records arrive")
	}
	stopA := consume()
	arrives("app-a")
	stopB := consume(kgo.InstanceID("b"))
	arrives("app-a")
	stopC := consume()
	arrives("app-a")
	n.restart()
	arrives("app-a")
	n.topic("app-b", 3, nil)
	arrives("app-b")
	stopA()
	arrives("app-a")
	adm := kadm.NewClient(writer)
	groups, err := adm.DescribeConsumerGroups(ctx, "g")
	if err != nil || len(groups["g"].Members) != 2 || groups["g"].AssignorName != "uniform" {
		t.Fatalf("%+v, %v", groups, err)
	}
	stopB()
	stopC()
	if err := ctx.Err(); err != nil {
		t.Fatal(err)
	}
}

// Static members of the consumer protocol: -2 keeps the place for whoever comes with the same instance id, -1 gives it up.
func TestConsumerGroupStatic(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 4, nil)
	c := n.dial()
	static := func(id string, epoch int32) *kmsg.ConsumerGroupHeartbeatRequest {
		req := pulse("g", id, epoch, "t")
		req.InstanceID = kmsg.StringPtr("i")
		return req
	}
	refused := func(what string, req *kmsg.ConsumerGroupHeartbeatRequest, want *kerr.Error) {
		t.Helper()
		if r := c.pulse(req); r.ErrorCode != want.Code {
			t.Errorf("%s: %v, want %v", what, kerr.ErrorForCode(r.ErrorCode), want)
		}
	}
	first := c.pulse(static("a", 0))
	if first.ErrorCode != 0 || len(first.Assignment.Topics) != 1 {
		t.Fatalf("%+v", first)
	}
	refused("another while it is there", static("b", 0), kerr.UnreleasedInstanceID)
	refused("an instance nobody knows", func() *kmsg.ConsumerGroupHeartbeatRequest {
		req := static("a", 1)
		req.InstanceID = kmsg.StringPtr("j")
		return req
	}(), kerr.UnknownMemberID)
	if r := c.pulse(static("a", -2)); r.ErrorCode != 0 || r.MemberEpoch != -2 {
		t.Fatalf("left for a while: %+v", r)
	}
	n.restart()
	c = n.dial()
	if r := c.pulse(pulse("g", "other", 0, "t")); r.ErrorCode != 0 || len(r.Assignment.Topics) != 0 {
		t.Fatalf("the place is kept, and what belongs to it: %+v", r)
	}
	again := c.pulse(static("b", 0))
	if again.ErrorCode != 0 || again.Assignment == nil || len(again.Assignment.Topics) != 1 || len(again.Assignment.Topics[0].Partitions) != 2 {
		t.Fatalf("it is there again: %+v, %v", again, again.Assignment)
	}
	refused("the old process", static("a", 1), kerr.FencedInstanceID)
	refused("the old process leaves", static("a", -1), kerr.FencedInstanceID)
	if r := c.pulse(owning(pulse("g", "other", 2), topic.ID)); r.ErrorCode != 0 || r.Assignment == nil || len(r.Assignment.Topics[0].Partitions) != 2 {
		t.Fatalf("the other half: %+v", r)
	}
	if r := c.pulse(static("b", -1)); r.ErrorCode != 0 {
		t.Fatalf("left: %+v", r)
	}
	if r := c.pulse(static("c", 0)); r.ErrorCode != 0 {
		t.Fatalf("after it has left: %+v", r)
	}
}

// What a heartbeat may ask for, and what it may not.
func TestConsumerGroupHeartbeatForms(t *testing.T) {
	n := start(t, Options{MaxGroupMembers: 2, MaxGroups: 3})
	n.topic("app-a", 1, nil)
	n.topic("app-b", 1, nil)
	n.topic("other", 1, nil)
	c := n.dial()
	regex := func(group, expr string) *kmsg.ConsumerGroupHeartbeatRequest {
		req := pulse(group, "m", 0)
		req.SubscribedTopicRegex = &expr
		return req
	}
	if r := c.pulse(regex("r", "app-.")); r.ErrorCode != 0 || len(r.Assignment.Topics) != 2 {
		t.Errorf("an expression: %+v, %v", r, r.Assignment)
	}
	if r := c.pulse(regex("all", ".*")); r.ErrorCode != 0 || len(r.Assignment.Topics) != 3 {
		t.Errorf("an expression that matches the server's own topics: %+v, %v", r, r.Assignment)
	}
	ranges := pulse("ranges", "m", 0, "app-a")
	ranges.ServerAssignor = kmsg.StringPtr("range")
	if r := c.pulse(ranges); r.ErrorCode != 0 {
		t.Errorf("range: %+v", r)
	}
	if d := do[*kmsg.ConsumerGroupDescribeResponse](c, 0, &kmsg.ConsumerGroupDescribeRequest{Groups: []string{"ranges"}}); d.Groups[0].AssignorName != "range" {
		t.Errorf("range: %+v", d.Groups[0])
	}
	for name, tc := range map[string]struct {
		req  *kmsg.ConsumerGroupHeartbeatRequest
		want *kerr.Error
	}{
		"a broken expression": {regex("r", "("), kerr.InvalidRegularExpression},
		"an assignor of its own": {func() *kmsg.ConsumerGroupHeartbeatRequest {
			req := pulse("ranges", "m", 0, "app-a")
			req.ServerAssignor = kmsg.StringPtr("mine")
			return req
		}(), kerr.UnsupportedAssignor},
		"no rebalance timeout": {func() *kmsg.ConsumerGroupHeartbeatRequest {
			req := pulse("ranges", "m", 0, "app-a")
			req.RebalanceTimeoutMillis = -1
			return req
		}(), kerr.InvalidRequest},
		"a fourth group":   {pulse("fourth", "m", 0, "app-a"), kerr.GroupMaxSizeReached},
		"a strange epoch":  {pulse("r", "m", -3), kerr.InvalidRequest},
		"-2 of a dynamic":  {pulse("r", "m", -2), kerr.InvalidRequest},
		"-1 of a stranger": {pulse("r", "x", -1), kerr.UnknownMemberID},
	} {
		if r := c.pulse(tc.req); r.ErrorCode != tc.want.Code {
			t.Errorf("%s: %v, want %v", name, kerr.ErrorForCode(r.ErrorCode), tc.want)
		}
	}
	if r := c.pulse(pulse("r", "n", 0, "app-a")); r.ErrorCode != 0 {
		t.Errorf("a second member: %+v", r)
	}
	if r := c.pulse(pulse("r", "o", 0, "app-a")); r.ErrorCode != kerr.GroupMaxSizeReached.Code {
		t.Errorf("a third member: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	old := pulse("ranges", "", 0, "app-a") // version 0 leaves the id to the server
	if r := do[*kmsg.ConsumerGroupHeartbeatResponse](c, 0, old); r.ErrorCode != 0 || r.MemberID == nil || *r.MemberID == "" {
		t.Errorf("version 0: %+v", r)
	}
}

// Who is not heard of is out, and what it had is others'.
func TestConsumerGroupSessionTimeout(t *testing.T) {
	n := start(t, Options{ConsumerSession: 300 * time.Millisecond, ConsumerHeartbeat: 50 * time.Millisecond})
	n.topic("t", 2, nil)
	c := n.dial()
	if r := c.pulse(pulse("g", "lost", 0, "t")); r.ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	epoch := c.pulse(pulse("g", "m", 0, "t")).MemberEpoch
	for began := time.Now(); ; {
		r := c.pulse(pulse("g", "m", epoch))
		if r.ErrorCode != 0 {
			t.Fatalf("%v", kerr.ErrorForCode(r.ErrorCode))
		}
		if epoch = r.MemberEpoch; r.Assignment != nil && len(r.Assignment.Topics) == 1 && len(r.Assignment.Topics[0].Partitions) == 2 {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("the lost member keeps what it had")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if r := c.pulse(pulse("g", "lost", 1)); r.ErrorCode != kerr.UnknownMemberID.Code {
		t.Errorf("the lost member: %v", kerr.ErrorForCode(r.ErrorCode))
	}
}
