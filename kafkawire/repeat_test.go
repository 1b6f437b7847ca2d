package kafkawire

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A request that names the same thing a thousand times gets no response, and causes no work, of a thousand times the size.
func TestNamedOverAndOver(t *testing.T) {
	const times = 1000
	n := start(t, Options{})
	topic := n.topic("a", 100, nil)
	c := n.dial()
	c.produce("a", 0, "v")
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "g", -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "a", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 7, LeaderEpoch: -1}}}}
	if resp := do[*kmsg.OffsetCommitResponse](c, 8, commit); resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", resp)
	}

	if resp := do[*kmsg.MetadataResponse](c, 9, metadataOf(slices.Repeat([]string{"a"}, times)...)); len(resp.Topics) != 1 {
		t.Errorf("Metadata: %d topics", len(resp.Topics))
	}
	byID := kmsg.NewPtrMetadataRequest()
	byID.Topics = slices.Repeat([]kmsg.MetadataRequestTopic{{TopicID: topic.ID}}, times)
	if resp := do[*kmsg.MetadataResponse](c, 12, byID); len(resp.Topics) != 1 {
		t.Errorf("Metadata by id: %d topics", len(resp.Topics))
	}

	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Resources = slices.Repeat([]kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "a"}}, times)
	if resp := do[*kmsg.DescribeConfigsResponse](c, 4, configs); len(resp.Resources) != 1 {
		t.Errorf("DescribeConfigs: %d resources", len(resp.Resources))
	}

	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = slices.Repeat([]string{"g"}, times)
	if resp := do[*kmsg.DescribeGroupsResponse](c, 5, describe); len(resp.Groups) != 1 {
		t.Errorf("DescribeGroups: %d groups", len(resp.Groups))
	}

	offsets := kmsg.NewPtrOffsetFetchRequest()
	offsets.Groups = slices.Repeat([]kmsg.OffsetFetchRequestGroup{{Group: "g", Topics: slices.Repeat([]kmsg.OffsetFetchRequestGroupTopic{
		{Topic: "a", Partitions: make([]int32, times)}}, 3)}}, times/100)
	got := do[*kmsg.OffsetFetchResponse](c, 9, offsets)
	if len(got.Groups) != 1 || len(got.Groups[0].Topics[0].Partitions) != 1 || len(got.Groups[0].Topics[1].Partitions) != 0 {
		t.Errorf("OffsetFetch: %d groups", len(got.Groups))
	} else if o := got.Groups[0].Topics[0].Partitions[0].Offset; o != 7 {
		t.Errorf("OffsetFetch: offset %d", o)
	}

	list := kmsg.NewPtrListOffsetsRequest()
	list.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "a", Partitions: slices.Repeat([]kmsg.ListOffsetsRequestTopicPartition{
		{CurrentLeaderEpoch: -1, Timestamp: -1}}, times)}}
	if ps := do[*kmsg.ListOffsetsResponse](c, 7, list).Topics[0].Partitions; len(ps) != 1 || ps[0].ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("ListOffsets: %d partitions, the first with error %d", len(ps), ps[0].ErrorCode)
	}

	fetch := fetchRequest(topic, 0, 0, 1, 0)
	fetch.Topics[0].Partitions = slices.Repeat(fetch.Topics[0].Partitions, times)
	for i, p := range do[*kmsg.FetchResponse](c, 12, fetch).Topics[0].Partitions {
		if want := []int16{0, kerr.InvalidRequest.Code}[min(i, 1)]; p.ErrorCode != want || (len(p.RecordBatches) > 0) != (i == 0) {
			t.Fatalf("Fetch: partition named for the %d. time: error %d, %d bytes", i+1, p.ErrorCode, len(p.RecordBatches))
		}
	}
}
