package engine

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
)

// configDef is one topic config of Kafka's: its default and what values it takes.
type configDef struct {
	value string // the default
	check func(string) error
}

// configDefs are the topic configs that we act on (see newTopicConfig) or keep so that tools see them again. A name that is
// not here is refused.
var configDefs = map[string]configDef{
	"cleanup.policy":                          {"delete", policies},
	"compression.gzip.level":                  {"-1", gzipLevel},
	"compression.lz4.level":                   {"9", between(1, 17)},
	"compression.type":                        {"producer", oneOf("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")},
	"compression.zstd.level":                  {"3", between(-131072, 22)},
	"delete.retention.ms":                     {"86400000", atLeast(0)},
	"file.delete.delay.ms":                    {"60000", atLeast(0)},
	"flush.messages":                          {maxInt64, atLeast(1)},
	"flush.ms":                                {maxInt64, atLeast(0)},
	"follower.replication.throttled.replicas": {"", throttled},
	"index.interval.bytes":                    {"4096", between(0, math.MaxInt32)},
	"leader.replication.throttled.replicas":   {"", throttled},
	"local.retention.bytes":                   {"-2", atLeast(-2)},
	"local.retention.ms":                      {"-2", atLeast(-2)},
	"max.compaction.lag.ms":                   {maxInt64, atLeast(1)},
	"max.message.bytes":                       {"1048588", between(0, math.MaxInt32)},
	"message.timestamp.after.max.ms":          {"3600000", atLeast(0)},
	"message.timestamp.before.max.ms":         {maxInt64, atLeast(0)},
	"message.timestamp.type":                  {"CreateTime", oneOf("CreateTime", "LogAppendTime")},
	"min.cleanable.dirty.ratio":               {"0.5", ratio},
	"min.compaction.lag.ms":                   {"0", atLeast(0)},
	"min.insync.replicas":                     {"1", between(1, math.MaxInt32)},
	"preallocate":                             {"false", oneOf("true", "false")},
	"remote.log.copy.disable":                 {"false", oneOf("true", "false")},
	"remote.log.delete.on.disable":            {"false", oneOf("true", "false")},
	"remote.storage.enable":                   {"false", oneOf("false")},
	"retention.bytes":                         {"-1", atLeast(math.MinInt64)},
	"retention.ms":                            {"604800000", atLeast(-1)},
	"segment.bytes":                           {"1073741824", between(minSegmentBytes, math.MaxInt32)},
	"segment.index.bytes":                     {"10485760", between(4, math.MaxInt32)},
	"segment.jitter.ms":                       {"0", atLeast(0)},
	"segment.ms":                              {"604800000", atLeast(1)},
	"unclean.leader.election.enable":          {"false", oneOf("true", "false")},
}

const (
	maxInt64        = "9223372036854775807"
	minSegmentBytes = 1 << 20 // smaller ones only make files
)

// throttled takes a list of partition:broker, or all of them.
func throttled(v string) error {
	for pair := range strings.SplitSeq(v, ",") {
		partition, broker, ok := strings.Cut(strings.TrimSpace(pair), ":")
		if v == "" || v == "*" {
			break
		}
		for _, n := range []string{partition, broker} {
			if _, err := strconv.ParseUint(n, 10, 31); !ok || err != nil {
				return fmt.Errorf("a list of partition:broker, or *")
			}
		}
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if slices.Contains(values, v) {
			return nil
		}
		return fmt.Errorf("one of %s", strings.Join(values, " | "))
	}
}

func gzipLevel(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < -1 || n == 0 || n > 9 {
		return fmt.Errorf("1 to 9, or -1")
	}
	return nil
}

// policies takes any of Kafka's, as often as they like, and none, by which everything is kept (KIP-1161).
func policies(v string) error {
	for p := range strings.SplitSeq(v, ",") {
		if p = strings.TrimSpace(p); v != "" && p != "delete" && p != "compact" {
			return fmt.Errorf("delete | compact | delete,compact, or nothing")
		}
	}
	return nil
}

func atLeast(low int64) func(string) error { return between(low, math.MaxInt64) }

func between(low, high int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			return fmt.Errorf("a whole number")
		case n < low:
			return fmt.Errorf("at least %d", low)
		case n > high:
			return fmt.Errorf("at most %d", high)
		}
		return nil
	}
}

func ratio(v string) error {
	if f, err := strconv.ParseFloat(v, 64); err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("a number from 0 to 1")
	}
	return nil
}

// topicConfig is a topic's configuration, parsed. It never changes: a new one takes its place.
type topicConfig struct {
	set map[string]string // as given

	compact, delete             bool
	retentionMs, retentionBytes int64 // -1: none
	segmentBytes, segmentMs     int64
	maxMessageBytes             int
	logAppendTime               bool
	beforeMaxMs, afterMaxMs     int64
	deleteRetentionMs           int64
	minLagMs, maxLagMs          int64
	minDirtyRatio               float64
}

// topicDefaults are what a topic is when nothing is set, on this node.
type topicDefaults struct {
	values          map[string]string // where they differ from Kafka's
	maxMessageLimit int               // the largest batch this log can take
}

func newTopicDefaults(o *Options) topicDefaults {
	retention := o.DefaultRetention.Milliseconds()
	if retention < 0 {
		retention = -1
	}
	d := topicDefaults{
		maxMessageLimit: int(min(maxAppend(o.WALFileBytes), math.MaxInt32)),
		values: map[string]string{
			"retention.ms":  strconv.FormatInt(retention, 10),
			"segment.bytes": strconv.FormatInt(o.SegmentBytes, 10),
		},
	}
	if def, _ := strconv.Atoi(configDefs["max.message.bytes"].value); def > d.maxMessageLimit {
		d.values["max.message.bytes"] = strconv.Itoa(d.maxMessageLimit)
	}
	return d
}

func (d *topicDefaults) value(name string) string {
	if v, ok := d.values[name]; ok {
		return v
	}
	return configDefs[name].value
}

// check says what is wrong with one config.
func (d *topicDefaults) check(name, value string) error {
	def, ok := configDefs[name]
	if !ok {
		return fmt.Errorf("%w: unknown topic config %q", eventlog.ErrInvalid, name)
	}
	if err := def.check(value); err != nil {
		return fmt.Errorf("%w: topic config %s=%q: want %w", eventlog.ErrInvalid, name, value, err)
	}
	if n, _ := strconv.Atoi(value); name == "max.message.bytes" && n > d.maxMessageLimit {
		return fmt.Errorf("%w: topic config %s=%s: this log takes at most %d (a quarter of a WAL file)", eventlog.ErrInvalid, name,
			value, d.maxMessageLimit)
	}
	return nil
}

// parse checks what was set and makes it a configuration.
func (d *topicDefaults) parse(set map[string]string) (*topicConfig, error) {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := d.check(name, set[name]); err != nil {
			return nil, err
		}
	}
	return d.build(set), nil
}

// build reads a configuration that was checked when it was set. What is not valid any more (the node's limits are smaller
// now) counts as not set.
func (d *topicDefaults) build(set map[string]string) *topicConfig {
	c := &topicConfig{set: maps.Clone(set)}
	get := func(name string) string {
		if v, ok := set[name]; ok && d.check(name, v) == nil {
			return v
		}
		return d.value(name)
	}
	num := func(name string) int64 {
		n, _ := strconv.ParseInt(get(name), 10, 64) // checked
		return n
	}
	policy := get("cleanup.policy")
	c.compact = strings.Contains(policy, "compact")
	c.delete = strings.Contains(policy, "delete")
	c.retentionMs, c.retentionBytes = num("retention.ms"), num("retention.bytes")
	c.segmentBytes, c.segmentMs = num("segment.bytes"), num("segment.ms")
	c.maxMessageBytes = int(num("max.message.bytes"))
	c.logAppendTime = get("message.timestamp.type") == "LogAppendTime"
	c.beforeMaxMs, c.afterMaxMs = num("message.timestamp.before.max.ms"), num("message.timestamp.after.max.ms")
	c.deleteRetentionMs = num("delete.retention.ms")
	c.minLagMs, c.maxLagMs = num("min.compaction.lag.ms"), num("max.compaction.lag.ms")
	c.minDirtyRatio, _ = strconv.ParseFloat(get("min.cleanable.dirty.ratio"), 64)
	return c
}

// EffectiveConfig lists every config of a topic, in order of name, as it is in effect.
func (e *Engine) EffectiveConfig(name string) ([]ConfigEntry, error) {
	t := e.topicByName(name)
	if t == nil {
		return nil, fmt.Errorf("topic %q: %w", name, eventlog.ErrUnknownTopic)
	}
	return e.ConfigWith(t.cfg.Load().set), nil
}

// ConfigWith is EffectiveConfig of a topic with these configs, whether or not there is one.
func (e *Engine) ConfigWith(set map[string]string) []ConfigEntry {
	out := make([]ConfigEntry, 0, len(configDefs))
	for _, n := range slices.Sorted(maps.Keys(configDefs)) {
		entry := ConfigEntry{Name: n, Value: e.defaults.value(n), Source: Default}
		if v, ok := set[n]; ok {
			entry.Value, entry.Source = v, TopicSet
		}
		out = append(out, entry)
	}
	return out
}
