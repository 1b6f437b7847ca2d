package kafkawire

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Row "Topic ids": what was deleted and made again has a new id, and the old one is nobody's.
func TestProduceByTopicID(t *testing.T) {
	n := start(t, Options{})
	old := n.topic("t", 1, nil)
	c := n.dial()
	produce := func(id [16]byte, partition int32) kmsg.ProduceResponseTopicPartition {
		t.Helper()
		req := produceRequest("", partition, -1, batchOf(0, "v"))
		req.Topics[0].TopicID = id
		resp := do[*kmsg.ProduceResponse](c, 13, req)
		if resp.Topics[0].TopicID != id {
			t.Fatalf("the response is about %x", resp.Topics[0].TopicID)
		}
		return resp.Topics[0].Partitions[0]
	}
	if p := produce(old.ID, 0); p.ErrorCode != 0 || p.BaseOffset != 0 {
		t.Fatalf("%+v", p)
	}
	if p := produce(old.ID, 1); p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("no such partition: %+v", p)
	}
	if err := n.eng.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	again := n.topic("t", 1, nil)
	if again.ID == old.ID {
		t.Fatal("the new topic has the old one's id")
	}
	if p := produce(old.ID, 0); p.ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("the old topic: %+v", p)
	}
	if p := produce(again.ID, 0); p.ErrorCode != 0 || p.BaseOffset != 0 {
		t.Errorf("the new topic: %+v", p)
	}
	internal, _ := n.eng.TopicByName(offsetsTopic)
	if p := produce(internal.ID, 0); p.ErrorCode == 0 {
		t.Error("a topic of the server's own is written by its id")
	}
}

// Section "What frameworks call beyond produce and consume": Connect makes its own topics, with more replicas than there are
// brokers, and will not start unless it sees that they are compacted; Streams leaves the replicas open and deletes what it has
// read; MirrorMaker adds partitions; all of them look after offsets.
func TestWhatFrameworksCall(t *testing.T) {
	n := start(t, Options{})
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	compact := map[string]*string{"cleanup.policy": kmsg.StringPtr("compact"), "min.insync.replicas": kmsg.StringPtr("1"), "unclean.leader.election.enable": kmsg.StringPtr("false")}
	for _, tc := range []struct {
		name       string
		partitions int32
		replicas   int16
	}{
		{"connect-offsets", 25, 3}, {"connect-status", 5, 3}, {"connect-configs", 1, 3}, {"app-store-changelog", 4, -1},
	} {
		if _, err := adm.CreateTopic(ctx, tc.partitions, tc.replicas, compact, tc.name); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		configs, err := adm.DescribeTopicConfigs(ctx, tc.name)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(configs[0].Configs, func(c kadm.Config) bool { return c.Key == "cleanup.policy" })
		if i < 0 || configs[0].Configs[i].MaybeValue() != "compact" {
			t.Fatalf("%s is not seen to be compacted: %+v", tc.name, configs[0])
		}
		d, err := adm.ListTopics(ctx, tc.name)
		if err != nil || len(d[tc.name].Partitions) != int(tc.partitions) {
			t.Fatalf("%s: %+v, %v", tc.name, d, err)
		}
	}
	if _, err := adm.CreateTopic(ctx, 2, -1, nil, "app-repartition"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "app-repartition", Value: []byte("v"), Key: []byte("k")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := adm.ListEndOffsets(ctx, "app-repartition")
	if err != nil {
		t.Fatal(err)
	}
	if deleted, err := adm.DeleteRecords(ctx, ends.Offsets()); err != nil || deleted.Error() != nil {
		t.Fatalf("delete records: %v, %v", deleted, err)
	}
	starts, err := adm.ListStartOffsets(ctx, "app-repartition")
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(end kadm.ListedOffset) {
		if at, _ := starts.Lookup(end.Topic, end.Partition); at.Offset != end.Offset {
			t.Errorf("partition %d begins at %d, want %d", end.Partition, at.Offset, end.Offset)
		}
	})
	if r, err := adm.UpdatePartitions(ctx, 5, "app-repartition"); err != nil || r["app-repartition"].Err != nil {
		t.Errorf("more partitions: %v, %v", r, err)
	}
	if err := adm.CommitAllOffsets(ctx, "mirror", ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	if at, err := adm.FetchOffsets(ctx, "mirror"); err != nil || len(at["app-repartition"]) != 2 {
		t.Errorf("offsets: %v, %v", at, err)
	}
	if groups, err := adm.ListGroups(ctx); err != nil || groups["mirror"].State != "Empty" {
		t.Errorf("groups: %v, %v", groups, err)
	}
	if r, err := adm.DeleteOffsets(ctx, "mirror", ends.Offsets().TopicsSet()); err != nil || r.Error() != nil {
		t.Errorf("delete offsets: %v, %v", r, err)
	}
	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	if err != nil || len(dirs) != 1 {
		t.Errorf("log directories: %v, %v", dirs, err)
	}
}

// Section "Topic configs that must round-trip": each is taken, told again with its source, altered, and set back.
func TestTopicConfigsRoundTrip(t *testing.T) {
	n := start(t, Options{})
	n.topic("t", 1, nil)
	c := n.dial()
	for name, values := range map[string][2]string{
		"cleanup.policy": {"compact", "compact,delete"}, "retention.ms": {"1000", "-1"}, "retention.bytes": {"1048576", "-1"},
		"segment.bytes": {"1048576", "2097152"}, "segment.ms": {"60000", "1"}, "max.message.bytes": {"1000", "100000"}, "compression.type": {"zstd", "producer"},
		"message.timestamp.type": {"LogAppendTime", "CreateTime"}, "message.timestamp.before.max.ms": {"1", "2"}, "message.timestamp.after.max.ms": {"1", "2"},
		"delete.retention.ms": {"1", "2"}, "min.compaction.lag.ms": {"1", "2"}, "max.compaction.lag.ms": {"1", "2"}, "min.cleanable.dirty.ratio": {"0.1", "0.9"},
		"flush.messages": {"1", "2"}, "flush.ms": {"1", "2"}, "min.insync.replicas": {"2", "1"}, "unclean.leader.election.enable": {"true", "false"},
		"preallocate": {"true", "false"}, "index.interval.bytes": {"1", "2"}, "segment.index.bytes": {"1000", "2000"}, "segment.jitter.ms": {"1", "2"},
		"file.delete.delay.ms": {"1", "2"}, "local.retention.ms": {"1", "2"}, "local.retention.bytes": {"1", "2"}, "remote.storage.enable": {"false", "false"},
		"compression.gzip.level": {"1", "9"}, "compression.lz4.level": {"1", "17"}, "compression.zstd.level": {"1", "22"},
	} {
		before := *config(c, 4, "t", name).Value
		for _, v := range values {
			if code := alter(c, "t", name, v, kmsg.IncrementalAlterConfigOpSet); code != 0 {
				t.Errorf("%s=%s: %v", name, v, kerr.ErrorForCode(code))
				continue
			}
			if got := config(c, 4, "t", name); *got.Value != v || got.Source != kmsg.ConfigSourceDynamicTopicConfig {
				t.Errorf("%s=%s is told as %s, from %v", name, v, *got.Value, got.Source)
			}
		}
		if code := alter(c, "t", name, "", kmsg.IncrementalAlterConfigOpDelete); code != 0 {
			t.Errorf("%s: cannot be set back: %v", name, kerr.ErrorForCode(code))
		}
		if got := config(c, 4, "t", name); *got.Value != before || got.Source != kmsg.ConfigSourceDefaultConfig {
			t.Errorf("%s was %s, and is %s again, from %v", name, before, *got.Value, got.Source)
		}
	}
	// What tools read of a broker to know what it can do, and of groups of the consumer protocol.
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: strconv.Itoa(int(n.srv.NodeID))}}
	have := map[string]string{}
	for _, cfg := range do[*kmsg.DescribeConfigsResponse](c, 4, req).Resources[0].Configs {
		have[cfg.Name] = *cfg.Value
		if cfg.Source != kmsg.ConfigSourceStaticBrokerConfig || !cfg.ReadOnly {
			t.Errorf("%+v", cfg)
		}
	}
	for name, want := range map[string]string{
		"inter.broker.protocol.version": "4.0", "delete.topic.enable": "true", "auto.create.topics.enable": "false", "default.replication.factor": "1",
		"num.partitions": "2", "log.retention.ms": "604800000", "message.max.bytes": "520192",
		"group.consumer.session.timeout.ms": "45000", "group.consumer.heartbeat.interval.ms": "5000", "group.consumer.assignors": "uniform,range",
		"group.consumer.migration.policy": "bidirectional", "max.incremental.fetch.session.cache.slots": "1000",
	} {
		if have[name] != want {
			t.Errorf("broker config %s is %q, want %q", name, have[name], want)
		}
	}
}
