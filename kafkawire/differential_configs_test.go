package kafkawire

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// configsState is what the script of configs knows.
type configsState struct{ *differ }

func configsScript(d *differ) func() { return (&configsState{differ: d}).step }

// configValues are configs with values that are taken and values that are not. Those that the broker of the test has defaults of its own for (the
// length of segments) are in brokersOwn.
var configValues = []struct {
	name string
	of   []string
}{
	{"cleanup.policy", []string{"delete", "compact", "compact,delete", "delete,compact", "none", "", "compact, delete", "delete,delete"}},
	{"compression.type", []string{"gzip", "producer", "zstd", "uncompressed", "none", "best"}},
	{"compression.gzip.level", []string{"1", "9", "-1", "0", "10"}},
	{"compression.lz4.level", []string{"1", "17", "18", "0"}},
	{"compression.zstd.level", []string{"3", "22", "23", "-131072", "-131073"}},
	{"delete.retention.ms", []string{"0", "1000", "-1", "x"}},
	{"file.delete.delay.ms", []string{"0", "60000", "-1"}},
	{"flush.messages", []string{"1", "100", "0", "-1"}},
	{"flush.ms", []string{"0", "100", "-1"}},
	{"index.interval.bytes", []string{"0", "4096", "-1", "2147483648"}},
	{"local.retention.bytes", []string{"-2", "-1", "-3"}},
	{"local.retention.ms", []string{"-2", "-1", "-3"}},
	{"max.compaction.lag.ms", []string{"1", "1000", "0"}},
	{"max.message.bytes", []string{"1000", "500000", "0", "-1", "1.5", "2147483648"}},
	{"message.timestamp.after.max.ms", []string{"3600000", "0", "-1"}},
	{"message.timestamp.before.max.ms", []string{"3600000", "0", "-1"}},
	{"message.timestamp.type", []string{"CreateTime", "LogAppendTime", "createtime"}},
	{"min.cleanable.dirty.ratio", []string{"0", "0.5", "1", "1.1", "-0.1", "half"}},
	{"min.compaction.lag.ms", []string{"0", "5", "-1"}},
	{"min.insync.replicas", []string{"1", "2", "0"}},
	{"preallocate", []string{"true", "false", "TRUE", "yes"}},
	{"retention.bytes", []string{"-1", "1000", "-2", "99999999999999999999"}},
	{"retention.ms", []string{"-1", "1000", " 5 ", "-2", ""}},
	{"segment.bytes", []string{"1048576", "2147483647", "13", "2147483648"}},
	{"segment.index.bytes", []string{"12", "1000", "3"}}, // Kafka takes 4, and then cannot make the topic
	{"segment.jitter.ms", []string{"0", "7", "-1"}},
	{"segment.ms", []string{"1", "1000", "0"}},
	{"unclean.leader.election.enable", []string{"true", "false", "maybe"}},
	{"remote.log.copy.disable", []string{"true", "false"}},
	{"remote.log.delete.on.disable", []string{"true", "false"}},
	{"remote.storage.enable", []string{"false", "true"}},
	{"follower.replication.throttled.replicas", []string{"*", "0:1", "0:1,1:1", "x"}},
	{"leader.replication.throttled.replicas", []string{"*", "", "0:1"}},
	{"no.such.config", []string{"1"}},
	{"", []string{"1"}},
}

// brokersOwn are the configs whose default is another one at the broker of the test, as scripts/kafka has it, or at a node of the tests.
var brokersOwn = []string{"segment.bytes", "max.message.bytes", "unclean.leader.election.enable", "file.delete.delay.ms", "min.insync.replicas"}

// brokersConfigs are the configs of a broker that are shown here; but for inter.broker.protocol.version, which Kafka 4.3 has no more and tools look for.
var brokersConfigs = []string{
	"auto.create.topics.enable", "broker.id", "compression.type", "default.replication.factor", "delete.topic.enable", "group.consumer.assignors",
	"group.consumer.heartbeat.interval.ms", "group.consumer.max.size", "group.consumer.migration.policy", "group.consumer.session.timeout.ms",
	"group.initial.rebalance.delay.ms", "group.max.session.timeout.ms", "group.max.size", "group.min.session.timeout.ms",
	"log.cleanup.policy", "log.message.timestamp.type", "log.retention.bytes", "log.retention.ms", "log.segment.bytes",
	"max.connections", "max.incremental.fetch.session.cache.slots", "message.max.bytes", "min.insync.replicas", "node.id", "num.partitions",
	"offsets.retention.minutes", "offsets.topic.replication.factor", "socket.request.max.bytes",
}

func (d *configsState) pick() (name, value string) {
	c := one(d.differ, configValues...)
	return c.name, one(d.differ, c.of...)
}

func (d *configsState) step() {
	topic := d.topic()
	switch d.rng.IntN(10) {
	case 0, 1:
		d.create(topic)
	case 2:
		if d.chance(5) {
			req := kmsg.NewPtrDeleteTopicsRequest()
			req.TopicNames, req.TimeoutMillis = []string{topic}, 10_000
			if answer := d.ask("delete "+topic, func(int) kmsg.Request { return versioned(req, 4) }, d.all()); d.real() && !strings.Contains(answer, "ErrorCode") {
				d.settle(topic, 0)
			}
		}
	case 3, 4:
		d.change(topic)
	case 5:
		d.replace(topic)
	case 8:
		d.others()
	case 9:
		d.alterOthers()
	}
	d.describe(topic)
}

func (d *configsState) create(topic string) {
	v, validate := int16(2+d.rng.IntN(6)), d.chance(4)
	var configs []string
	for range d.rng.IntN(3) {
		name, value := d.pick()
		configs = append(configs, name, value)
	}
	null := d.chance(20)
	answer := d.ask(fmt.Sprintf("create %s with %q, null %v, version %d, validate only %v", topic, configs, null, v, validate), func(int) kmsg.Request {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.ValidateOnly = validate
		t := createTopic(topic, 1, 1, configs...)
		if null {
			t.Configs = append(t.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: "retention.ms"})
		}
		req.Topics = append(req.Topics, t)
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		t := &r.(*kmsg.CreateTopicsResponse).Topics[0]
		t.Configs = slices.DeleteFunc(t.Configs, func(c kmsg.CreateTopicsResponseTopicConfig) bool {
			return slices.Contains(brokersOwn, c.Name) && c.Source != int8(kmsg.ConfigSourceDynamicTopicConfig)
		})
		return d.all("TopicID")(side, r)
	})
	if d.real() && !validate && !strings.Contains(answer, "ErrorCode") {
		d.settle(topic, 1)
	}
}

// others asks for configs that are of no topic. What a broker has is set by its own configuration: what is compared is that it has it, and how it is to be read.
func (d *configsState) others() {
	v := int16(1 + d.rng.IntN(4))
	kind := one(d.differ, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig, 0, 3, 77)
	name := one(d.differ, "1", "1", "", "2", "x", d.group())
	var names []string
	for range d.rng.IntN(3) {
		names = append(names, one(d.differ, brokersConfigs...))
	}
	d.ask(fmt.Sprintf("configs of resource %d %q, %q, version %d", kind, name, names, v), func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeConfigsRequest()
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, names
		req.Resources = append(req.Resources, r)
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		res := &r.(*kmsg.DescribeConfigsResponse).Resources[0]
		if kind == kmsg.ConfigResourceTypeBroker {
			res.Configs = slices.DeleteFunc(res.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool {
				return !slices.Contains(brokersConfigs, c.Name) || name == "" && c.Name == "min.insync.replicas" // which that of the test has made one of all brokers
			})
		}
		return d.all("Value", "Source", "IsDefault", "ConfigSynonyms", "Documentation")(side, r)
	})
}

// alterOthers alters configs that are of no topic, or would.
func (d *configsState) alterOthers() {
	kind := one(d.differ, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig)
	name, set := one(d.differ, "1", "1", "", "2", "x", d.group()), one(d.differ, "message.max.bytes", "node.id", "interval.ms", "consumer.session.timeout.ms", "nonsense")
	d.ask(fmt.Sprintf("change resource %d %q: %s", kind, name, set), func(int) kmsg.Request {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.ValidateOnly = true
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = set, new("50000")
		r.ResourceType, r.ResourceName = kind, name
		r.Configs = append(r.Configs, c)
		req.Resources = append(req.Resources, r)
		return versioned(req, 1)
	}, d.all())
}

// change alters a topic's configs one by one.
func (d *configsState) change(topic string) {
	v, validate, kind, name := int16(d.rng.IntN(2)), d.chance(3), kmsg.ConfigResourceTypeTopic, topic
	if d.chance(20) {
		kind, name = one(d.differ, kmsg.ConfigResourceType(0), 3, 77), "1"
	}
	if d.chance(20) {
		name = ""
	}
	var configs []kmsg.IncrementalAlterConfigsRequestResourceConfig
	what := ""
	for range 1 + d.rng.IntN(2) {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		n, value := d.pick()
		c.Name, c.Op = n, one(d.differ, kmsg.IncrementalAlterConfigOpSet, 0, 1, 2, 3)
		if d.chance(3) {
			c.Name, value = "cleanup.policy", one(d.differ, "compact", "delete", "compact,delete")
		}
		if c.Value = &value; d.chance(30) {
			c.Value = nil
		}
		if d.chance(60) {
			c.Op = 9
		}
		configs = append(configs, c)
		what += fmt.Sprintf(" %s %d %q %v;", c.Name, c.Op, value, c.Value == nil)
	}
	d.ask(fmt.Sprintf("change %d %s:%s version %d, validate only %v", kind, name, what, v, validate), func(int) kmsg.Request {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.ValidateOnly = validate
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.Configs = kind, name, configs
		req.Resources = append(req.Resources, r)
		return versioned(req, v)
	}, d.all())
}

// replace sets all of a topic's configs.
func (d *configsState) replace(topic string) {
	v, validate := int16(d.rng.IntN(3)), d.chance(3)
	var configs []kmsg.AlterConfigsRequestResourceConfig
	what := ""
	for range d.rng.IntN(3) {
		c := kmsg.NewAlterConfigsRequestResourceConfig()
		name, value := d.pick()
		if c.Name, c.Value = name, &value; d.chance(30) {
			c.Value = nil
		}
		configs = append(configs, c)
		what += fmt.Sprintf(" %s %q %v;", c.Name, value, c.Value == nil)
	}
	d.ask(fmt.Sprintf("replace %s:%s version %d, validate only %v", topic, what, v, validate), func(int) kmsg.Request {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.ValidateOnly = validate
		r := kmsg.NewAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.Configs = kmsg.ConfigResourceTypeTopic, topic, configs
		req.Resources = append(req.Resources, r)
		return versioned(req, v)
	}, d.all())
}

// describe reads a topic's configs, with where each comes from.
func (d *configsState) describe(topic string) {
	v, synonyms := int16(1+d.rng.IntN(4)), d.chance(2)
	var names []string
	for range d.rng.IntN(3) {
		name, _ := d.pick()
		if names = append(names, name); slices.Contains(brokersOwn, name) {
			return
		}
	}
	all := names == nil
	d.read(fmt.Sprintf("configs of %s, %q, synonyms %v, version %d", topic, names, synonyms, v), func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeSynonyms = synonyms
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, names
		req.Resources = append(req.Resources, r)
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		res := &r.(*kmsg.DescribeConfigsResponse).Resources[0]
		if all {
			res.Configs = slices.DeleteFunc(res.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool { return slices.Contains(brokersOwn, c.Name) })
		}
		return d.all()(side, r)
	})
}
