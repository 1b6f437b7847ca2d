package kafkawire

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog/engine"
)

// DescribeConfigs: key 32, versions 1–4. Topics, and the few of a broker's configs that tools look for. No documentation texts.
// A resource named twice is answered once.
func init() {
	register(1, 4, "[ i8 s *s ] i8:1+ i8:3+", describeConfigs)
}

func describeConfigs(c *conn, req *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	asked := once[resource]{}
	for _, r := range req.Resources {
		if !asked.first(resource{r.ResourceType, r.ResourceName}) {
			continue
		}
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		refusal := c.mayConfigure(kmsg.ACLOperationDescribeConfigs, r.ResourceType, r.ResourceName)
		var configs []kmsg.DescribeConfigsResponseResourceConfig
		if refusal == nil {
			configs, refusal = c.s.configs(r.ResourceType, r.ResourceName)
		}
		refusal.set(&rr.ErrorCode, &rr.ErrorMessage)
		for _, cfg := range configs {
			if r.ConfigNames != nil && !slices.Contains(r.ConfigNames, cfg.Name) {
				continue
			}
			if !req.IncludeSynonyms {
				cfg.ConfigSynonyms = nil
			}
			rr.Configs = append(rr.Configs, cfg)
		}
		resp.Resources = append(resp.Resources, rr)
	}
	return resp
}

func (s *Server) configs(kind kmsg.ConfigResourceType, name string) ([]kmsg.DescribeConfigsResponseResourceConfig, *refusal) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if _, ok := s.topic(name); !ok {
			return nil, refuse(kerr.UnknownTopicOrPartition, fmt.Sprintf("no topic %q", name))
		}
		return s.topicConfigs(name)
	case kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger:
		switch {
		case kind == kmsg.ConfigResourceTypeBroker && name == "": // what clients have set for all brokers: nothing
			return nil, nil
		case name != strconv.Itoa(int(s.NodeID)):
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("no broker %q: there is only %d", name, s.NodeID))
		case kind == kmsg.ConfigResourceTypeBroker:
			return s.brokerConfigs(), nil
		}
		return nil, nil // there are no loggers
	case kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, refuse(kerr.InvalidRequest, "the resource has no name")
		}
		return nil, nil // there are none
	}
	return nil, refuse(kerr.InvalidRequest, "configs are of topics or of brokers")
}

func (s *Server) topicConfigs(name string) ([]kmsg.DescribeConfigsResponseResourceConfig, *refusal) {
	entries, err := s.Engine.EffectiveConfig(name)
	if err != nil {
		return nil, refused(err)
	}
	out := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(entries))
	for _, e := range entries {
		out = append(out, s.describeTopicConfig(e))
	}
	return out, nil
}

// topicConfigKinds are how the values of topics' configs are read, and under which name a broker has the default, as tools show it.
var topicConfigKinds = map[string]struct {
	kind    kmsg.ConfigType
	brokers string // none: it is not one config there
}{
	"cleanup.policy":                          {kmsg.ConfigTypeList, "log.cleanup.policy"},
	"compression.gzip.level":                  {kmsg.ConfigTypeInt, "compression.gzip.level"},
	"compression.lz4.level":                   {kmsg.ConfigTypeInt, "compression.lz4.level"},
	"compression.type":                        {kmsg.ConfigTypeString, "compression.type"},
	"compression.zstd.level":                  {kmsg.ConfigTypeInt, "compression.zstd.level"},
	"delete.retention.ms":                     {kmsg.ConfigTypeLong, "log.cleaner.delete.retention.ms"},
	"file.delete.delay.ms":                    {kmsg.ConfigTypeLong, "log.segment.delete.delay.ms"},
	"flush.messages":                          {kmsg.ConfigTypeLong, "log.flush.interval.messages"},
	"flush.ms":                                {kmsg.ConfigTypeLong, ""},
	"follower.replication.throttled.replicas": {kmsg.ConfigTypeList, ""},
	"index.interval.bytes":                    {kmsg.ConfigTypeInt, "log.index.interval.bytes"},
	"leader.replication.throttled.replicas":   {kmsg.ConfigTypeList, ""},
	"local.retention.bytes":                   {kmsg.ConfigTypeLong, "log.local.retention.bytes"},
	"local.retention.ms":                      {kmsg.ConfigTypeLong, "log.local.retention.ms"},
	"max.compaction.lag.ms":                   {kmsg.ConfigTypeLong, "log.cleaner.max.compaction.lag.ms"},
	"max.message.bytes":                       {kmsg.ConfigTypeInt, "message.max.bytes"},
	"message.timestamp.after.max.ms":          {kmsg.ConfigTypeLong, "log.message.timestamp.after.max.ms"},
	"message.timestamp.before.max.ms":         {kmsg.ConfigTypeLong, "log.message.timestamp.before.max.ms"},
	"message.timestamp.type":                  {kmsg.ConfigTypeString, "log.message.timestamp.type"},
	"min.cleanable.dirty.ratio":               {kmsg.ConfigTypeDouble, "log.cleaner.min.cleanable.ratio"},
	"min.compaction.lag.ms":                   {kmsg.ConfigTypeLong, "log.cleaner.min.compaction.lag.ms"},
	"min.insync.replicas":                     {kmsg.ConfigTypeInt, "min.insync.replicas"},
	"preallocate":                             {kmsg.ConfigTypeBoolean, "log.preallocate"},
	"remote.log.copy.disable":                 {kmsg.ConfigTypeBoolean, ""},
	"remote.log.delete.on.disable":            {kmsg.ConfigTypeBoolean, ""},
	"remote.storage.enable":                   {kmsg.ConfigTypeBoolean, ""},
	"retention.bytes":                         {kmsg.ConfigTypeLong, "log.retention.bytes"},
	"retention.ms":                            {kmsg.ConfigTypeLong, ""},
	"segment.bytes":                           {kmsg.ConfigTypeInt, "log.segment.bytes"},
	"segment.index.bytes":                     {kmsg.ConfigTypeInt, "log.index.size.max.bytes"},
	"segment.jitter.ms":                       {kmsg.ConfigTypeLong, ""},
	"segment.ms":                              {kmsg.ConfigTypeLong, ""},
	"unclean.leader.election.enable":          {kmsg.ConfigTypeBoolean, "unclean.leader.election.enable"},
}

// canonicalConfig writes a value as Kafka shows it once it has read it.
func canonicalConfig(name, value string) string {
	trimmed := strings.TrimSpace(value)
	switch topicConfigKinds[name].kind {
	case kmsg.ConfigTypeInt, kmsg.ConfigTypeLong:
		return trimmed
	case kmsg.ConfigTypeBoolean:
		return strings.ToLower(trimmed)
	case kmsg.ConfigTypeDouble:
		f, err := strconv.ParseFloat(trimmed, 64)
		if err != nil {
			return value
		}
		if text := strconv.FormatFloat(f, 'f', -1, 64); strings.Contains(text, ".") {
			return text
		}
		return strconv.FormatFloat(f, 'f', 1, 64)
	case kmsg.ConfigTypeList:
		seen := once[string]{}
		return strings.Join(slices.DeleteFunc(splitList(value), func(v string) bool { return !seen.first(v) }), ",")
	}
	return value
}

func (s *Server) describeTopicConfig(e engine.ConfigEntry) kmsg.DescribeConfigsResponseResourceConfig {
	kind := topicConfigKinds[e.Name]
	c := describeConfig(e.Name, e.Value, configSource(e.Source))
	c.ConfigType = kind.kind
	if c.IsDefault {
		c.ConfigSynonyms = nil
	}
	if kind.brokers != "" {
		syn := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
		syn.Name, syn.Value, syn.Source = kind.brokers, kmsg.StringPtr(s.Engine.DefaultConfig(e.Name)), kmsg.ConfigSourceDefaultConfig
		c.ConfigSynonyms = append(c.ConfigSynonyms, syn)
	}
	return c
}

func configSource(s engine.ConfigSource) kmsg.ConfigSource {
	if s == engine.TopicSet {
		return kmsg.ConfigSourceDynamicTopicConfig
	}
	return kmsg.ConfigSourceDefaultConfig
}

func describeConfig(name, value string, source kmsg.ConfigSource) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.Source = name, kmsg.StringPtr(value), source
	c.IsDefault = source == kmsg.ConfigSourceDefaultConfig
	syn := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
	syn.Name, syn.Value, syn.Source = name, c.Value, source
	c.ConfigSynonyms = append(c.ConfigSynonyms, syn)
	return c
}

// brokerConfigs are what tools read to know what a broker can do. They are set by the server's own configuration.
func (s *Server) brokerConfigs() []kmsg.DescribeConfigsResponseResourceConfig {
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for _, x := range []struct {
		kind        kmsg.ConfigType
		name, value string
	}{
		{kmsg.ConfigTypeBoolean, "auto.create.topics.enable", strconv.FormatBool(s.AutoCreate)},
		{kmsg.ConfigTypeInt, "broker.id", strconv.Itoa(int(s.NodeID))},
		{kmsg.ConfigTypeString, "compression.type", s.Engine.DefaultConfig("compression.type")},
		{kmsg.ConfigTypeInt, "default.replication.factor", "1"},
		{kmsg.ConfigTypeBoolean, "delete.topic.enable", "true"},
		{kmsg.ConfigTypeList, "group.consumer.assignors", "uniform,range"},
		{kmsg.ConfigTypeInt, "group.consumer.heartbeat.interval.ms", strconv.FormatInt(s.ConsumerHeartbeat.Milliseconds(), 10)},
		{kmsg.ConfigTypeInt, "group.consumer.max.size", strconv.Itoa(s.MaxGroupMembers)},
		{kmsg.ConfigTypeString, "group.consumer.migration.policy", "bidirectional"},
		{kmsg.ConfigTypeInt, "group.consumer.session.timeout.ms", strconv.FormatInt(s.ConsumerSession.Milliseconds(), 10)},
		{kmsg.ConfigTypeInt, "group.initial.rebalance.delay.ms", strconv.FormatInt(s.RebalanceDelay.Milliseconds(), 10)},
		{kmsg.ConfigTypeInt, "group.max.session.timeout.ms", strconv.FormatInt(s.MaxSession.Milliseconds(), 10)},
		{kmsg.ConfigTypeInt, "group.max.size", strconv.Itoa(s.MaxGroupMembers)},
		{kmsg.ConfigTypeInt, "group.min.session.timeout.ms", strconv.FormatInt(s.MinSession.Milliseconds(), 10)},
		{kmsg.ConfigTypeString, "inter.broker.protocol.version", "4.0"},
		{kmsg.ConfigTypeList, "log.cleanup.policy", s.Engine.DefaultConfig("cleanup.policy")},
		{kmsg.ConfigTypeString, "log.message.timestamp.type", s.Engine.DefaultConfig("message.timestamp.type")},
		{kmsg.ConfigTypeLong, "log.retention.bytes", s.Engine.DefaultConfig("retention.bytes")},
		{kmsg.ConfigTypeLong, "log.retention.ms", s.Engine.DefaultConfig("retention.ms")},
		{kmsg.ConfigTypeInt, "log.segment.bytes", s.Engine.DefaultConfig("segment.bytes")},
		{kmsg.ConfigTypeInt, "max.connections", strconv.Itoa(s.MaxConnections)},
		{kmsg.ConfigTypeInt, "max.incremental.fetch.session.cache.slots", strconv.Itoa(s.MaxFetchSessions)},
		{kmsg.ConfigTypeInt, "message.max.bytes", s.Engine.DefaultConfig("max.message.bytes")},
		{kmsg.ConfigTypeInt, "min.insync.replicas", "1"},
		{kmsg.ConfigTypeInt, "node.id", strconv.Itoa(int(s.NodeID))},
		{kmsg.ConfigTypeInt, "num.partitions", strconv.Itoa(int(s.Engine.DefaultPartitions()))},
		{kmsg.ConfigTypeInt, "offsets.retention.minutes", strconv.Itoa(int(s.OffsetRetention.Minutes()))},
		{kmsg.ConfigTypeShort, "offsets.topic.replication.factor", "1"},
		{kmsg.ConfigTypeInt, "socket.request.max.bytes", strconv.Itoa(s.MaxRequestBytes)},
	} {
		c := describeConfig(x.name, x.value, kmsg.ConfigSourceStaticBrokerConfig)
		c.ConfigType, c.ReadOnly = x.kind, true
		out = append(out, c)
	}
	return out
}
