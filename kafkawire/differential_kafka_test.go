package kafkawire

import (
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafka has the script wait for what Apache Kafka does after it has answered.
func (d *differ) kafka() {
	retry := func(what string, done func() bool) {
		d.t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				d.t.Fatalf("Kafka: %s does not come", what)
			}
		}
	}
	retry("the coordinator", func() bool { // and what it keeps, the first time
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey = d.group()
		return do[*kmsg.FindCoordinatorResponse](d.theirs, 3, req).ErrorCode == 0
	})
	retry("the group's partition", func() bool {
		return do[*kmsg.OffsetFetchResponse](d.theirs, 7, offsetFetchRequest(d.group(), "x", 0)).ErrorCode == 0
	})
	retry("the coordinator of transactions", func() bool {
		find, id, start := kmsg.NewPtrFindCoordinatorRequest(), d.name+"first", kmsg.NewPtrInitProducerIDRequest()
		find.CoordinatorKey, find.CoordinatorType = id, 1
		start.TransactionalID, start.TransactionTimeoutMillis = &id, 60_000
		return do[*kmsg.FindCoordinatorResponse](d.theirs, 3, find).ErrorCode == 0 && do[*kmsg.InitProducerIDResponse](d.theirs, 3, start).ErrorCode == 0
	})
	d.settle = func(topic string, partitions int32) {
		d.t.Helper()
		retry(topic, func() bool {
			req := kmsg.NewPtrListOffsetsRequest()
			req.ReplicaID = -1
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic = topic
			for i := range max(partitions, 1) {
				rp := kmsg.NewListOffsetsRequestTopicPartition()
				rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = i, -1, -1
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
			for _, p := range do[*kmsg.ListOffsetsResponse](d.theirs, 7, req).Topics[0].Partitions {
				if want := partitions > 0; (p.ErrorCode == 0) != want || !want && p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
					return false
				}
			}
			return true
		})
		if partitions == 0 {
			for i := range int32(2) { // its offsets go with it
				retry("the end of offsets in "+topic, func() bool { return committed(d.theirs, d.group(), topic, i) < 0 })
			}
		}
	}
}

// cleanUp deletes the topics of the script, which nobody needs there any more.
func (d *differ) cleanUp() {
	meta := do[*kmsg.MetadataResponse](d.theirs, 5, kmsg.NewPtrMetadataRequest())
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	for _, t := range meta.Topics {
		if strings.HasPrefix(*t.Topic, d.name) {
			req.TopicNames = append(req.TopicNames, *t.Topic)
		}
	}
	do[*kmsg.DeleteTopicsResponse](d.theirs, 4, req)
}
