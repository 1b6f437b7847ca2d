package route

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// Spec is one route as its author wrote it.
type Spec struct {
	// MQTT is a filter: `fleet/{vehicle}/telemetry`, with + and # where no name is needed, `{rest...}` for one or more last levels.
	MQTT string
	// Topic is the log topic; empty only with Discard.
	Topic string
	// Key is the template of the record key, `{vehicle}`; empty: the client id.
	Key string
	// Partitions of the log topic; 0: as they are, 8 for a new topic.
	Partitions int32
	// Retention is how long records are kept; 0: the log's default, negative: for ever.
	Retention time.Duration
	// Compression of the batches that devices' messages are put in.
	Compression eventlog.Codec
	// Compact keeps the last record of each key (and, if Retention is set, at most that long).
	Compact bool
	// AckMemory answers publishers before the message is durable: it survives a crash of the process, not a power cut.
	AckMemory bool
	// Both lets records of Kafka clients reach MQTT. In only, otherwise.
	Both bool
	// Spill has messages wait on the local disk for the cluster; they are acknowledged when they are there.
	Spill bool
	// Discard is `store: false`: messages go to connected subscribers and nowhere else.
	Discard bool
	// Payloads looks at devices' payloads before they are accepted; nil: nobody does.
	Payloads Payloads
	// Invalid is what becomes of a message whose payload Payloads finds wrong.
	Invalid Invalid
	// Where says where the route was written, for messages.
	Where string
}

// Payloads says what payloads a route takes. It is asked by many goroutines at once, for every message, and keeps nothing of what it is shown.
type Payloads interface {
	// Validate returns why a payload is wrong, or nil.
	Validate(payload []byte) error
}

// Invalid is what becomes of a message with a wrong payload.
type Invalid uint8

const (
	// Warn accepts it like any other, and counts it.
	Warn Invalid = iota
	// DeadLetter accepts it, and puts it into the dead-letter topic instead.
	DeadLetter
	// Refuse refuses it.
	Refuse
)

func (s *Spec) String() string {
	if s.Where != "" {
		return fmt.Sprintf("route %q (%s)", s.MQTT, s.Where)
	}
	return fmt.Sprintf("route %q", s.MQTT)
}

const (
	// CatchAllTopic is where messages go that no route claims.
	CatchAllTopic = "mqtt"
	// DefaultPartitions of a routed topic that does not say.
	DefaultPartitions = 8
	builtIn           = "built in"
	// DeadSuffix makes a topic's dead-letter topic from its name.
	DeadSuffix = ".dlq"
)

// Table is the compiled routes. It is pure and immutable.
type Table struct {
	routes []*route // narrower ones before wider ones: the first match is the most specific
	topics []*topicPlan
}

// route is one compiled Spec.
type route struct {
	Spec
	pattern pattern
	key     keyTemplate
	topic   int // index into Table.topics; -1 for Discard
	index   int // among the Specs; -1: the catch-all that is built in
}

// topicPlan is one log topic as its routes want it.
type topicPlan struct {
	name       string
	partitions int32
	config     map[string]string
	compact    bool
	spill      bool
	reverse    *route // the route that renders records of Kafka clients, or nil
	letters    bool   // messages of devices may become dead letters, too
	by         *route // the first route that named the topic
}

// Mapping is a hash of how MQTT topics lead to log topics and keys: two tables with the same one put every message in the same place. It is
// never 0.
func (t *Table) Mapping() uint64 {
	h := fnv.New64a()
	for _, r := range t.routes {
		fmt.Fprintf(h, "%q %q %q %v\n", r.MQTT, r.Topic, r.Key, r.Discard)
	}
	return max(h.Sum64(), 1)
}

// Compile checks the routes and returns their table, with the catch-all added unless some route claims every topic. All that is
// wrong comes back at once, joined.
func Compile(specs []Spec) (*Table, error) {
	t := &Table{}
	var errs []error
	for i, s := range slices.Concat(specs, []Spec{{MQTT: "#", Topic: CatchAllTopic, Where: builtIn}}) {
		r, err := compile(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", &s, err))
			continue
		}
		r.index = i
		if i == len(specs) {
			if slices.ContainsFunc(t.routes, func(o *route) bool { return r.pattern.within(&o.pattern) }) {
				continue
			}
			r.index = -1
		}
		t.routes = append(t.routes, r)
	}
	if len(errs) == 0 {
		errs = append(errs, t.checkOverlaps()...)
		errs = append(errs, t.planTopics()...)
		errs = append(errs, t.checkReverse()...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortStableFunc(t.routes, func(a, b *route) int {
		return cmp.Or(cmp.Compare(len(b.pattern.levels), len(a.pattern.levels)),
			cmp.Compare(b.pattern.literals(), a.pattern.literals()), compareBool(a.pattern.multi, b.pattern.multi))
	})
	return t, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func compile(s Spec) (*route, error) {
	p, err := parsePattern(s.MQTT)
	if err != nil {
		return nil, err
	}
	k, err := parseKey(s.Key, &p)
	if err != nil {
		return nil, err
	}
	r := &route{Spec: s, pattern: p, key: k, topic: -1}
	if s.Discard {
		switch {
		case s.Both:
			return nil, errors.New("store: false keeps no records, so direction: both has nothing to read; remove one of them")
		case s.Topic != "" || s.Key != "" || s.Partitions != 0 || s.Retention != 0 || s.Compression != 0 || s.Compact || s.AckMemory || s.Spill:
			return nil, errors.New("store: false keeps no records; remove topic, key, partitions, retention, compression, compact, ack and spill")
		case s.Invalid == DeadLetter:
			return nil, errors.New("store: false keeps no records, so there are no dead letters; check the schema with warn or reject")
		}
		return r, nil
	}
	if s.Spill && s.Invalid == DeadLetter {
		return nil, errors.New("spill: true keeps no dead letters on the local disk; check the schema with warn or reject")
	}
	if err := checkTopicName(s.Topic); err != nil {
		return nil, err
	}
	if s.Partitions < 0 || s.Partitions > 10_000 {
		return nil, fmt.Errorf("partitions: %d is not between 1 and 10000", s.Partitions)
	}
	if s.Both {
		if err := k.invertible(&p); err != nil {
			return nil, fmt.Errorf("direction: both is not possible: %w; or set direction: in", err)
		}
	}
	return r, nil
}

func checkTopicName(s string) error {
	switch {
	case s == "":
		return errors.New("topic is missing")
	case len(s) > 249-len(DeadSuffix):
		return fmt.Errorf("topic %q is longer than %d characters", s, 249-len(DeadSuffix))
	case s == "." || s == "..":
		return fmt.Errorf("topic %q is not a name", s)
	case strings.HasPrefix(s, "__"):
		return fmt.Errorf("topic %q: names that begin with __ are internal", s)
	case strings.HasSuffix(s, DeadSuffix):
		return fmt.Errorf("topic %q: names that end in %s are dead-letter topics", s, DeadSuffix)
	}
	for _, c := range []byte(s) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			return fmt.Errorf("topic %q: only letters, digits and . _ - are allowed", s)
		}
	}
	return nil
}

// checkOverlaps makes sure that of any two routes that share a topic one is narrower, so that the order of routes never matters.
func (t *Table) checkOverlaps() (errs []error) {
	for i, a := range t.routes {
		for _, b := range t.routes[:i] {
			in, out := a.pattern.within(&b.pattern), b.pattern.within(&a.pattern)
			switch {
			case in && out:
				errs = append(errs, fmt.Errorf("%v and %v match the same topics; remove one", b, a))
			case !in && !out && a.pattern.overlaps(&b.pattern):
				errs = append(errs, fmt.Errorf("%v and %v both match some topics and neither is the narrower one; make one narrower", b, a))
			}
		}
	}
	return errs
}

func (t *Table) planTopics() (errs []error) {
	for _, r := range t.routes {
		if r.Discard {
			continue
		}
		plan := &topicPlan{name: r.Topic, partitions: r.Partitions, config: r.config(), compact: r.Compact, spill: r.Spill, by: r}
		r.topic = slices.IndexFunc(t.topics, func(o *topicPlan) bool { return o.name == r.Topic })
		if r.topic < 0 {
			r.topic = len(t.topics)
			t.topics = append(t.topics, plan)
		}
		have := t.topics[r.topic]
		have.letters = have.letters || r.Invalid == DeadLetter
		asOthers := r.Where == builtIn // the catch-all takes its topic as others want it
		if !asOthers && (have.partitions != plan.partitions || !maps.Equal(have.config, plan.config)) {
			errs = append(errs, fmt.Errorf("%v and %v share topic %q but differ in partitions, retention or compact; "+
				"write the same in both", have.by, r, r.Topic))
		}
		if have.spill != plan.spill {
			errs = append(errs, fmt.Errorf("%v and %v share topic %q but differ in spill: what waits would be overtaken; write the same in both", have.by, r, r.Topic))
		}
		if r.Both && have.reverse != nil {
			errs = append(errs, fmt.Errorf("%v and %v both have direction: both on topic %q, so a record's key does not tell "+
				"its MQTT topic; give one of them another topic", have.reverse, r, r.Topic))
		} else if r.Both {
			have.reverse = r
		}
	}
	return errs
}

// config is what the route asks of its topic, in Kafka's names. Only what was written is there.
func (r *route) config() map[string]string {
	c := map[string]string{}
	if r.Compact {
		c["cleanup.policy"] = "compact"
	}
	if r.Retention != 0 {
		if r.Compact {
			c["cleanup.policy"] = "compact,delete"
		}
		c["retention.ms"] = strconv.FormatInt(max(-1, r.Retention.Milliseconds()), 10)
	}
	return c
}

// checkReverse makes sure that what a reversible route renders comes back to its log topic.
func (t *Table) checkReverse() (errs []error) {
	for _, r := range t.routes {
		for _, o := range t.routes {
			if r.Both && o != r && o.topic != r.topic && o.pattern.within(&r.pattern) {
				errs = append(errs, fmt.Errorf("%v: direction: both is not possible: some topics it renders belong to the narrower %v; "+
					"set direction: in, or give both the same log topic", r, o))
			}
		}
	}
	return errs
}

// find is the route of a valid topic name, or nil.
func (t *Table) find(topic string) *route {
	for _, r := range t.routes {
		if r.pattern.match(topic) {
			return r
		}
	}
	return nil
}
