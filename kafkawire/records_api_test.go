package kafkawire

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestDeleteRecords(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 2, nil)
	n.topic("compacted", 1, map[string]string{"cleanup.policy": "compact"})
	c := n.dial()
	for i := range 5 {
		c.produce("t", 0, fmt.Sprint(i))
	}
	remove := func(v int16, name string, partition int32, to int64) kmsg.DeleteRecordsResponseTopicPartition {
		t.Helper()
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: name, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{
			{Partition: partition, Offset: to}, {Partition: partition, Offset: 0},
		}}}
		ps := do[*kmsg.DeleteRecordsResponse](c, v, req).Topics[0].Partitions
		if len(ps) != 1 {
			t.Fatalf("a partition named twice has %d answers", len(ps))
		}
		return ps[0]
	}
	for _, tc := range []struct {
		version   int16
		topic     string
		partition int32
		to        int64
		want      *kerr.Error
		low       int64
	}{
		{0, "t", 0, 2, nil, 2},
		{1, "t", 0, 1, nil, 2}, // it begins later already
		{2, "t", 0, 6, kerr.OffsetOutOfRange, -1},
		{2, "t", 0, -2, kerr.OffsetOutOfRange, -1},
		{2, "t", 2, 0, kerr.UnknownTopicOrPartition, -1},
		{2, "x", 0, 0, kerr.UnknownTopicOrPartition, -1},
		{2, "compacted", 0, 0, kerr.PolicyViolation, -1},
		{2, offsetsTopic, 0, 0, kerr.InvalidTopicException, -1},
		{2, "t", 1, -1, nil, 0},
	} {
		if p := remove(tc.version, tc.topic, tc.partition, tc.to); p.LowWatermark != tc.low || tc.want == nil && p.ErrorCode != 0 || tc.want != nil && p.ErrorCode != tc.want.Code {
			t.Errorf("%s/%d up to %d: low %d, %v; want %d, %v", tc.topic, tc.partition, tc.to, p.LowWatermark, kerr.ErrorForCode(p.ErrorCode), tc.low, tc.want)
		}
	}
	look := func(at int64) int64 {
		t.Helper()
		req := kmsg.NewPtrListOffsetsRequest()
		req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: at, CurrentLeaderEpoch: -1}}}}
		p := do[*kmsg.ListOffsetsResponse](c, 7, req).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			t.Fatalf("list offsets: %v", kerr.ErrorForCode(p.ErrorCode))
		}
		return p.Offset
	}
	// Row "Timestamps: not below log start after DeleteRecords".
	if start, old := look(earliestOffset), look(0); start != 2 || old != 2 {
		t.Errorf("the log starts at %d, its first record since 1970 is at %d; want 2", start, old)
	}
	if p := do[*kmsg.FetchResponse](c, 12, fetchRequest(topic, 0, 1, 1, 0)).Topics[0].Partitions[0]; p.ErrorCode != kerr.OffsetOutOfRange.Code || p.LogStartOffset > 2 {
		t.Errorf("a fetch before the start: %+v", p)
	}
	if p := remove(2, "t", 0, -1); p.LowWatermark != 5 {
		t.Errorf("up to the high watermark: %+v", p)
	}
	n.restart()
	if c = n.dial(); look(earliestOffset) != 5 || c.produce("t", 0, "x") != 5 {
		t.Error("a restart brings deleted records back, or offsets")
	}
}

func TestOffsetDelete(t *testing.T) {
	n := start(t, Options{})
	n.topic("t", 2, nil)
	c := n.dial()
	remove := func(group string, partitions ...int32) *kmsg.OffsetDeleteResponse {
		t.Helper()
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = "t"
		for _, p := range partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetDeleteRequestTopicPartition{Partition: p})
		}
		req.Topics = append(req.Topics, rt)
		return do[*kmsg.OffsetDeleteResponse](c, 0, req)
	}
	codes := func(r *kmsg.OffsetDeleteResponse) (out []int16) {
		for _, p := range r.Topics[0].Partitions {
			out = append(out, p.ErrorCode)
		}
		return out
	}
	if r := remove("none", 0); r.ErrorCode != kerr.GroupIDNotFound.Code {
		t.Errorf("no group: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	commit(c, "g", "t", 0, 7)
	commit(c, "g", "t", 1, 8)
	if r := remove("g", 0, 5); r.ErrorCode != 0 || !slices.Equal(codes(r), []int16{0, kerr.UnknownTopicOrPartition.Code}) {
		t.Errorf("%+v", r)
	}
	if a, b := committed(c, "g", "t", 0), committed(c, "g", "t", 1); a != -1 || b != 8 {
		t.Errorf("offsets %d and %d, want none and 8", a, b)
	}
	if r := c.pulse(pulse("g", "m", 0, "t")); r.ErrorCode != 0 {
		t.Fatalf("join: %+v", r)
	}
	if r := remove("g", 1); !slices.Equal(codes(r), []int16{kerr.GroupSubscribedToTopic.Code}) {
		t.Errorf("a subscribed topic: %+v", r)
	}
	other := joinRequest("other", "")
	other.ProtocolType = "connect"
	if r := do[*kmsg.JoinGroupResponse](c, 3, other); r.ErrorCode != 0 {
		t.Fatalf("join: %+v", r)
	}
	if r := remove("other", 0); r.ErrorCode != kerr.NonEmptyGroup.Code {
		t.Errorf("members that are no consumers: %+v", r)
	}
	n.restart()
	if c = n.dial(); committed(c, "g", "t", 0) != -1 || committed(c, "g", "t", 1) != 8 {
		t.Error("a restart forgets what was deleted")
	}
}

func TestDescribeLogDirs(t *testing.T) {
	n := start(t, Options{LogDir: "/var/lib/log"})
	n.topic("t", 2, nil)
	n.topic("u", 1, nil)
	c := n.dial()
	c.produce("t", 1, "x")
	for v := int16(1); v <= 4; v++ {
		r := do[*kmsg.DescribeLogDirsResponse](c, v, kmsg.NewPtrDescribeLogDirsRequest())
		if len(r.Dirs) != 1 || r.Dirs[0].Dir != "/var/lib/log" || len(r.Dirs[0].Topics) != 2 || len(r.Dirs[0].Topics[0].Partitions) != 2 ||
			v >= 4 && (r.Dirs[0].TotalBytes <= 0 || r.Dirs[0].UsableBytes <= 0) {
			t.Fatalf("version %d: %+v", v, r)
		}
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: "t", Partitions: []int32{1, 7}}, {Topic: "none", Partitions: []int32{0}}}
		r = do[*kmsg.DescribeLogDirsResponse](c, v, req)
		if ts := r.Dirs[0].Topics; len(ts) != 1 || len(ts[0].Partitions) != 1 || ts[0].Partitions[0].Partition != 1 {
			t.Fatalf("version %d: %+v", v, r)
		}
	}
}

func TestDescribeTopicPartitions(t *testing.T) {
	n := start(t, Options{})
	for name, parts := range map[string]int32{"a": 3, "b": 1, "c": 4} {
		n.topic(name, parts, nil)
	}
	c := n.dial()
	pages := func(limit int32, names ...string) (out []string) {
		t.Helper()
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for _, name := range names {
			req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
		}
		for {
			r := do[*kmsg.DescribeTopicPartitionsResponse](c, 0, req)
			for _, rt := range r.Topics {
				if rt.ErrorCode != 0 {
					out = append(out, *rt.Topic+" "+kerr.TypedErrorForCode(rt.ErrorCode).Message)
				}
				for _, p := range rt.Partitions {
					out = append(out, fmt.Sprint(*rt.Topic, p.Partition))
					if p.EligibleLeaderReplicas == nil || p.LastKnownELR == nil {
						t.Errorf("null for %s/%d: Java's Admin cannot describe the topic then", *rt.Topic, p.Partition)
					}
				}
			}
			out = append(out, "|")
			if r.NextCursor == nil {
				return out
			}
			req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: r.NextCursor.Topic, Partition: r.NextCursor.Partition}
		}
	}
	for _, tc := range []struct {
		limit int32
		names []string
		want  []string
	}{
		{2000, nil, []string{"a0", "a1", "a2", "b0", "c0", "c1", "c2", "c3", "|"}},
		{3, nil, []string{"a0", "a1", "a2", "|", "b0", "c0", "c1", "|", "c2", "c3", "|"}},
		{2, []string{"c", "a"}, []string{"a0", "a1", "|", "a2", "c0", "|", "c1", "c2", "|", "c3", "|"}},
		{0, []string{"b", "no", "b"}, []string{"b0", "|", "no UNKNOWN_TOPIC_OR_PARTITION", "|"}},
	} {
		if got := pages(tc.limit, tc.names...); !slices.Equal(got, tc.want) {
			t.Errorf("limit %d, topics %q: %q, want %q", tc.limit, tc.names, got, tc.want)
		}
	}
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "a"}}
	req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "b"}
	if r := do[*kmsg.DescribeTopicPartitionsResponse](c, 0, req); r.Topics[0].ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("a cursor at another topic: %+v", r)
	}
}

// validate_only says what would happen, of names and values alike, and does nothing.
func TestValidateOnly(t *testing.T) {
	n := start(t, Options{})
	n.topic("t", 1, nil)
	c := n.dial()
	for _, tc := range []struct {
		name, value string
		want        int16
	}{
		{"retention.ms", "1000", 0},
		{"retention.ms", "soon", kerr.InvalidConfig.Code},
		{"cleanup.policy", "burn", kerr.InvalidConfig.Code},
		{"no.such", "1", kerr.InvalidConfig.Code},
	} {
		create := kmsg.NewPtrCreateTopicsRequest()
		create.ValidateOnly = true
		ct := kmsg.NewCreateTopicsRequestTopic()
		ct.Topic, ct.NumPartitions, ct.ReplicationFactor = "new", 1, 1
		ct.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: tc.name, Value: &tc.value}}
		create.Topics = append(create.Topics, ct)
		alter := kmsg.NewPtrAlterConfigsRequest()
		alter.ValidateOnly = true
		alter.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
			Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: tc.name, Value: &tc.value}}}}
		incremental := kmsg.NewPtrIncrementalAlterConfigsRequest()
		incremental.ValidateOnly = true
		incremental.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
			Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: tc.name, Value: &tc.value}}}}
		got := []int16{
			do[*kmsg.CreateTopicsResponse](c, 7, create).Topics[0].ErrorCode,
			do[*kmsg.AlterConfigsResponse](c, 2, alter).Resources[0].ErrorCode,
			do[*kmsg.IncrementalAlterConfigsResponse](c, 1, incremental).Resources[0].ErrorCode,
		}
		if want := []int16{tc.want, tc.want, tc.want}; !slices.Equal(got, want) {
			t.Errorf("%s=%s: errors %v, want %v", tc.name, tc.value, got, want)
		}
	}
	if _, ok := n.eng.TopicByName("new"); ok {
		t.Error("the topic was created")
	}
}
