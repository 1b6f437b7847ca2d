package kafkawire

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func commitRequest(group, topic string, partition int32, at int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = partition, at, 0, kmsg.StringPtr("m")
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// commit commits an offset as a consumer that assigns itself.
func commit(c *client, group, topic string, partition int32, at int64) {
	c.t.Helper()
	resp := do[*kmsg.OffsetCommitResponse](c, 8, commitRequest(group, topic, partition, at))
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
		c.t.Fatalf("commit: error %d", code)
	}
}

func offsetFetchRequest(group, topic string, partition int32) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group
	rt := kmsg.NewOffsetFetchRequestTopic()
	rt.Topic, rt.Partitions = topic, []int32{partition}
	req.Topics = append(req.Topics, rt)
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = group
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic, gt.Partitions = topic, []int32{partition}
	rg.Topics = append(rg.Topics, gt)
	req.Groups = append(req.Groups, rg)
	return req
}

// committed is a group's offset.
func committed(c *client, group, topic string, partition int32) int64 {
	c.t.Helper()
	resp := do[*kmsg.OffsetFetchResponse](c, 7, offsetFetchRequest(group, topic, partition))
	if resp.ErrorCode != 0 {
		c.t.Fatalf("offset fetch: error %d", resp.ErrorCode)
	}
	return resp.Topics[0].Partitions[0].Offset
}

func TestOffsets(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 2, nil)
	c := n.dial()
	for v := int16(2); v <= 10; v++ {
		req := commitRequest("g", "a", 0, int64(v))
		req.Topics[0].TopicID = topic.ID
		more := req.Topics[0].Partitions[0]
		more.Partition = 2
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, more)
		ps := do[*kmsg.OffsetCommitResponse](c, v, req).Topics[0].Partitions
		if ps[0].ErrorCode != 0 || ps[1].ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("version %d: %+v", v, ps)
		}
		if at := committed(c, "g", "a", 0); at != int64(v) {
			t.Fatalf("version %d: committed %d", v, at)
		}
	}
	for v := int16(1); v <= 10; v++ {
		req := offsetFetchRequest("g", "a", 0)
		req.Groups[0].Topics[0].TopicID = topic.ID
		req.Groups[0].Topics[0].Partitions = []int32{0, 1}
		req.Topics[0].Partitions = []int32{0, 1}
		resp := do[*kmsg.OffsetFetchResponse](c, v, req)
		var offsets []int64
		if v >= 8 {
			if rt := resp.Groups[0].Topics[0]; v >= 10 && rt.TopicID != topic.ID {
				t.Fatalf("version %d: %+v", v, rt)
			}
			for _, p := range resp.Groups[0].Topics[0].Partitions {
				offsets = append(offsets, p.Offset)
			}
		} else {
			for _, p := range resp.Topics[0].Partitions {
				offsets = append(offsets, p.Offset)
			}
		}
		if !slices.Equal(offsets, []int64{10, -1}) {
			t.Fatalf("version %d: offsets %v", v, offsets)
		}
		if v < 2 {
			continue
		}
		req.Topics, req.Groups[0].Topics = nil, nil // all there are
		resp = do[*kmsg.OffsetFetchResponse](c, v, req)
		if v >= 8 && (len(resp.Groups[0].Topics) != 1 || resp.Groups[0].Topics[0].Partitions[0].Offset != 10) ||
			v < 8 && (len(resp.Topics) != 1 || resp.Topics[0].Partitions[0].Offset != 10) {
			t.Fatalf("version %d, all: %+v", v, resp)
		}
	}
	if at := committed(c, "nobody", "a", 0); at != -1 {
		t.Fatalf("offset %d of a group that is not", at)
	}
	long := commitRequest("g", "a", 0, 1)
	long.Topics[0].Partitions[0].Metadata = kmsg.StringPtr(strings.Repeat("x", maxOffsetMetadata+1))
	if code := do[*kmsg.OffsetCommitResponse](c, 8, long).Topics[0].Partitions[0].ErrorCode; code != kerr.OffsetMetadataTooLarge.Code {
		t.Errorf("long metadata: error %d", code)
	}
	stranger := commitRequest("g", "a", 0, 1)
	stranger.Generation, stranger.MemberID = 3, "who"
	if code := do[*kmsg.OffsetCommitResponse](c, 8, stranger).Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownMemberID.Code {
		t.Errorf("not a member: error %d", code)
	}
	unknown := commitRequest("g", "a", 0, 1)
	unknown.Topics[0].TopicID[1] = 1
	if code := do[*kmsg.OffsetCommitResponse](c, 10, unknown).Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicID.Code {
		t.Errorf("unknown id: error %d", code)
	}
	n.restart()
	if at := committed(n.dial(), "g", "a", 0); at != 10 {
		t.Fatalf("committed %d after a restart", at)
	}
}

func joinRequest(group, id string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = group, id, 10_000, 10_000
	req.ProtocolType = "consumer"
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", []byte("what "+id+" wants")
	req.Protocols = append(req.Protocols, p)
	return req
}

// join makes a member of a group, with the id handed out first where the version has that.
func join(c *client, version int16, group string) *kmsg.JoinGroupResponse {
	c.t.Helper()
	resp := do[*kmsg.JoinGroupResponse](c, version, joinRequest(group, ""))
	if version >= 4 {
		if resp.ErrorCode != kerr.MemberIDRequired.Code || resp.MemberID == "" {
			c.t.Fatalf("join version %d: %+v", version, resp)
		}
		resp = do[*kmsg.JoinGroupResponse](c, version, joinRequest(group, resp.MemberID))
	}
	if resp.ErrorCode != 0 {
		c.t.Fatalf("join version %d: %+v", version, resp)
	}
	return resp
}

func syncRequest(group string, joined *kmsg.JoinGroupResponse, assignments ...string) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.Generation, req.MemberID = group, joined.Generation, joined.MemberID
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for i := 0; i < len(assignments); i += 2 {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = assignments[i], []byte(assignments[i+1])
		req.GroupAssignment = append(req.GroupAssignment, a)
	}
	return req
}

func beat(c *client, version int16, group string, joined *kmsg.JoinGroupResponse) int16 {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.Generation, req.MemberID = group, joined.Generation, joined.MemberID
	return do[*kmsg.HeartbeatResponse](c, version, req).ErrorCode
}

func leave(c *client, version int16, group, id string) int16 {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, id
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = id
	req.Members = append(req.Members, m)
	resp := do[*kmsg.LeaveGroupResponse](c, version, req)
	if version >= 3 && resp.ErrorCode == 0 {
		return resp.Members[0].ErrorCode
	}
	return resp.ErrorCode
}

func TestGroupEveryVersion(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	for v := int16(0); v <= 9; v++ {
		group := string(rune('a' + v))
		j := join(c, v, group)
		if j.Generation != 1 || j.LeaderID != j.MemberID || *j.Protocol != "range" || len(j.Members) != 1 {
			t.Fatalf("version %d: %+v", v, j)
		}
		sync := do[*kmsg.SyncGroupResponse](c, min(v, 5), syncRequest(group, j, j.MemberID, "all of it"))
		if sync.ErrorCode != 0 || string(sync.MemberAssignment) != "all of it" {
			t.Fatalf("version %d: %+v", v, sync)
		}
		if code := beat(c, min(v, 4), group, j); code != 0 {
			t.Fatalf("version %d: heartbeat: error %d", v, code)
		}
		own := commitRequest(group, "a", 0, 42)
		own.Generation, own.MemberID = j.Generation, j.MemberID
		if code := do[*kmsg.OffsetCommitResponse](c, 8, own).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatalf("version %d: commit: error %d", v, code)
		}
		own.Generation++
		if code := do[*kmsg.OffsetCommitResponse](c, 8, own).Topics[0].Partitions[0].ErrorCode; code != kerr.IllegalGeneration.Code {
			t.Fatalf("version %d: commit of another generation: error %d", v, code)
		}
		describe := kmsg.NewPtrDescribeGroupsRequest()
		describe.Groups = []string{group, "nobody"}
		d := do[*kmsg.DescribeGroupsResponse](c, min(v, 6), describe)
		if g := d.Groups[0]; g.State != "Stable" || g.Protocol != "range" || len(g.Members) != 1 || g.Members[0].ClientID != "test" ||
			g.Members[0].ClientHost != "/127.0.0.1" || string(g.Members[0].MemberAssignment) != "all of it" {
			t.Fatalf("version %d: %+v", v, g)
		}
		if g := d.Groups[1]; g.State != "Dead" || v >= 6 && g.ErrorCode != kerr.GroupIDNotFound.Code {
			t.Fatalf("version %d: %+v", v, g)
		}
		del := kmsg.NewPtrDeleteGroupsRequest()
		del.Groups = []string{group, "nobody"}
		dr := do[*kmsg.DeleteGroupsResponse](c, min(v, 2), del)
		if dr.Groups[0].ErrorCode != kerr.NonEmptyGroup.Code || dr.Groups[1].ErrorCode != kerr.GroupIDNotFound.Code {
			t.Fatalf("version %d: %+v", v, dr)
		}
		if code := leave(c, min(v, 5), group, j.MemberID); code != 0 {
			t.Fatalf("version %d: leave: error %d", v, code)
		}
		if code := beat(c, min(v, 4), group, j); code != kerr.UnknownMemberID.Code {
			t.Fatalf("version %d: heartbeat of who left: error %d", v, code)
		}
		if at := committed(c, group, "a", 0); at != 42 {
			t.Fatalf("version %d: committed %d", v, at)
		}
		del.Groups = del.Groups[:1]
		if dr := do[*kmsg.DeleteGroupsResponse](c, min(v, 2), del); dr.Groups[0].ErrorCode != 0 {
			t.Fatalf("version %d: %+v", v, dr)
		}
		if at := committed(c, group, "a", 0); at != -1 {
			t.Fatalf("version %d: committed %d in a deleted group", v, at)
		}
	}
	for v := int16(0); v <= 5; v++ {
		if resp := do[*kmsg.ListGroupsResponse](c, v, kmsg.NewPtrListGroupsRequest()); len(resp.Groups) != 0 {
			t.Fatalf("version %d: deleted groups listed: %+v", v, resp.Groups)
		}
	}
	n.restart()
	if resp := do[*kmsg.ListGroupsResponse](n.dial(), 5, kmsg.NewPtrListGroupsRequest()); len(resp.Groups) != 0 {
		t.Fatalf("deleted groups are back after a restart: %+v", resp.Groups)
	}
}

func TestListGroups(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	commit(c, "offsets only", "a", 0, 1)
	join(n.dial(), 3, "joined")
	list := func(version int16, states, types []string) (names []string) {
		req := kmsg.NewPtrListGroupsRequest()
		req.StatesFilter, req.TypesFilter = states, types
		for _, g := range do[*kmsg.ListGroupsResponse](c, version, req).Groups {
			names = append(names, g.Group+" "+g.ProtocolType+" "+g.GroupState)
		}
		return names
	}
	for _, tc := range []struct {
		version       int16
		states, types []string
		want          []string
	}{
		{0, nil, nil, []string{"joined consumer ", "offsets only  "}},
		{4, nil, nil, []string{"joined consumer CompletingRebalance", "offsets only  Empty"}},
		{4, []string{"empty"}, nil, []string{"offsets only  Empty"}},
		{5, []string{"Stable"}, nil, nil},
		{5, nil, []string{"classic"}, []string{"joined consumer CompletingRebalance", "offsets only  Empty"}},
		{5, nil, []string{"consumer"}, nil},
	} {
		if got := list(tc.version, tc.states, tc.types); !slices.Equal(got, tc.want) {
			t.Errorf("version %d, %v %v: %q, want %q", tc.version, tc.states, tc.types, got, tc.want)
		}
	}
}

// A waiting JoinGroup holds up its own connection only.
func TestJoinWaitsAlone(t *testing.T) {
	n := start(t, Options{})
	first, second := n.dial(), n.dial()
	j := join(first, 3, "g")
	waiting := joinRequest("g", "")
	waiting.SetVersion(3)
	id := second.send(waiting)
	waitFor(t, func() bool { return beat(first, 4, "g", j) == kerr.RebalanceInProgress.Code })
	again := joinRequest("g", j.MemberID)
	again.SetVersion(3)
	j = do[*kmsg.JoinGroupResponse](first, 3, again)
	k := second.receive(waiting, id).(*kmsg.JoinGroupResponse)
	if j.Generation != 2 || k.Generation != 2 || len(j.Members) != 2 || len(k.Members) != 0 || k.LeaderID != j.MemberID {
		t.Fatalf("%+v\n%+v", j, k)
	}
	// The follower's sync waits for the leader's, which is answered when the assignment is durable.
	sync := syncRequest("g", k)
	sync.SetVersion(5)
	id = second.send(sync)
	if r := do[*kmsg.SyncGroupResponse](first, 5, syncRequest("g", j, j.MemberID, "1", k.MemberID, "2")); string(r.MemberAssignment) != "1" {
		t.Fatalf("%+v", r)
	}
	if r := second.receive(sync, id).(*kmsg.SyncGroupResponse); string(r.MemberAssignment) != "2" {
		t.Fatalf("%+v", r)
	}
	// After a restart both are still members, with what they had.
	n.restart()
	first, second = n.dial(), n.dial()
	if a, b := beat(first, 4, "g", j), beat(second, 4, "g", k); a != 0 || b != 0 {
		t.Fatalf("heartbeats after a restart: errors %d, %d", a, b)
	}
	if r := do[*kmsg.SyncGroupResponse](second, 5, syncRequest("g", k)); string(r.MemberAssignment) != "2" {
		t.Fatalf("after a restart: %+v", r)
	}
}

func TestSessionTimeout(t *testing.T) {
	n := start(t, Options{MinSession: 50 * time.Millisecond})
	c := n.dial()
	req := joinRequest("g", "")
	req.SessionTimeoutMillis = 100
	j := do[*kmsg.JoinGroupResponse](c, 3, req)
	if r := do[*kmsg.SyncGroupResponse](c, 5, syncRequest("g", j)); r.ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{"g"}
	waitFor(t, func() bool {
		return do[*kmsg.DescribeGroupsResponse](c, 5, describe).Groups[0].State == "Empty"
	})
	if code := beat(c, 4, "g", j); code != kerr.UnknownMemberID.Code {
		t.Fatalf("heartbeat: error %d", code)
	}
	req.SessionTimeoutMillis = 10
	if r := do[*kmsg.JoinGroupResponse](c, 3, req); r.ErrorCode != kerr.InvalidSessionTimeout.Code {
		t.Fatalf("%+v", r)
	}
}

func TestGroupsNeedNames(t *testing.T) {
	n := start(t, Options{})
	c := n.dial()
	if r := do[*kmsg.JoinGroupResponse](c, 9, joinRequest("", "")); r.ErrorCode != kerr.InvalidGroupID.Code {
		t.Errorf("join: %+v", r)
	}
	if r := do[*kmsg.SyncGroupResponse](c, 5, syncRequest("", &kmsg.JoinGroupResponse{})); r.ErrorCode != kerr.InvalidGroupID.Code {
		t.Errorf("sync: %+v", r)
	}
	if code := beat(c, 4, "", &kmsg.JoinGroupResponse{}); code != kerr.InvalidGroupID.Code {
		t.Errorf("heartbeat: error %d", code)
	}
	if code := leave(c, 5, "", "m"); code != kerr.InvalidGroupID.Code {
		t.Errorf("leave: error %d", code)
	}
}

func TestTooManyGroups(t *testing.T) {
	n := start(t, Options{MaxGroups: 2})
	n.topic("a", 1, nil)
	c := n.dial()
	commit(c, "one", "a", 0, 1)
	j := join(c, 3, "two")
	if r := do[*kmsg.JoinGroupResponse](c, 3, joinRequest("three", "")); r.ErrorCode != kerr.GroupMaxSizeReached.Code {
		t.Fatalf("join: %+v", r)
	}
	if r := do[*kmsg.OffsetCommitResponse](c, 8, commitRequest("three", "a", 0, 1)); r.Topics[0].Partitions[0].ErrorCode != kerr.GroupMaxSizeReached.Code {
		t.Fatalf("commit: %+v", r)
	}
	commit(c, "one", "a", 0, 2)
	leave(c, 2, "two", j.MemberID)
	del := kmsg.NewPtrDeleteGroupsRequest()
	del.Groups = []string{"two"}
	do[*kmsg.DeleteGroupsResponse](c, 2, del)
	join(c, 3, "three")
}

// The log of offsets is compacted behind the groups' back, and a restart finds the last ones all the same.
func TestOffsetsSurviveCompaction(t *testing.T) {
	n := start(t, Options{})
	const partitions, rounds = 1000, 150
	n.topic("a", partitions, nil)
	c := n.dial()
	for round := range int64(rounds) {
		req := commitRequest("g", "a", 0, round)
		p := req.Topics[0].Partitions[0]
		for i := range int32(partitions - 1) {
			p.Partition, p.Offset = i+1, round+int64(i)
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
		}
		do[*kmsg.OffsetCommitResponse](c, 8, req)
	}
	topic, _ := n.eng.TopicByName(offsetsTopic)
	size := func() int64 {
		sizes, err := n.eng.PartSizes(topic.ID)
		if err != nil {
			t.Fatal(err)
		}
		return sizes[0]
	}
	before := size()
	if err := n.eng.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := size(); after > before*3/4 {
		t.Fatalf("%d bytes before compaction, %d after", before, after)
	}
	n.restart()
	c = n.dial()
	for _, i := range []int32{1, 500, partitions - 1} {
		if at := committed(c, "g", "a", i); at != rounds-1+int64(i-1) {
			t.Fatalf("partition %d: committed %d", i, at)
		}
	}
}
