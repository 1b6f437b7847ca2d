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
