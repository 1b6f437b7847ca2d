// Package route is the only mapping between MQTT and the log: which log topic, key and partition a message goes to, what its
// record looks like (docs/records.md), and which MQTT topic a record of a Kafka client reaches. Store implements the broker's
// Store over an eventlog.Log.
//
// A Store owns one goroutine, which writes dead letters, and one for each topic that is being made again after somebody
// deleted it. On disk are the routes'
// log topics, their dead-letter topics, and three compacted internal topics: __millrace_sessions and __millrace_retained, whose
// records package session encodes, and __millrace_routes, which remembers where in each partition MQTT began to look (see
// origin.go).
//
// It looks into no payload, but has somebody look who knows its schema, where a route says so; and it will never alter a topic beyond
// what a route's author wrote.
package route

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
	"github.com/millrace-io/millrace/spill"
)

// Options say how a Store is built.
type Options struct {
	Log    *eventlog.Log
	Routes []Spec
	// Now is the time in milliseconds since 1970; it never goes backwards. Required.
	Now func() int64
	// Unlogged is given each message of a `store: false` route; it must not block, and copies what it keeps.
	Unlogged func(*session.Message)
	Logger   *slog.Logger // default: discards
	Meter    *meter.Meter // counts messages; nil: nobody does
	// Spill opens what takes the messages of routes with Spill, in front of these topics, once they are there.
	Spill func(ctx context.Context, topics []string, on spill.Hooks) (*spill.Spill, error)

	SessionPartitions  int32 // of a new __millrace_sessions; default 4
	RetainedPartitions int32 // of a new __millrace_retained; default 4
	// MaxPacket is the largest MQTT packet the broker takes, bytes; new topics take records of that size. Default 1 MiB.
	MaxPacket int
}

// The internal topics.
const (
	sessionsTopic = eventlog.InternalPrefix + "sessions"
	retainedTopic = eventlog.InternalPrefix + "retained"
	routesTopic   = eventlog.InternalPrefix + "routes"
)

// Store is the broker's Store over a log. It is safe for concurrent use.
type Store struct {
	log    *eventlog.Log
	table  *Table
	now    func() int64
	logger *slog.Logger

	unlogged  func(*session.Message)
	maxRecord int
	count     counting

	cache    *cache
	places   atomic.Pointer[places]
	moving   sync.Mutex // held while places change
	sessions eventlog.Topic
	retained eventlog.Topic
	routes   eventlog.Topic
	dead     *deadLetters
	spill    *spill.Spill   // nil: no route has one
	work     sync.WaitGroup // topics that are being made again

	gates   []gate // as Table.topics
	absent  absent
	samples samples
	stats   counters
}

var _ broker.Store = (*Store)(nil)

// places tells where the table's topics are in the log at present: a topic that is deleted and made again moves.
type places struct {
	topics  []eventlog.Topic // as Table.topics
	byID    map[eventlog.TopicID]int
	letters []eventlog.Topic        // their dead-letter topics, of those with routes that put messages there; without an id otherwise
	origins map[eventlog.Part]int64 // where in each partition MQTT began to look
	counts  [][]*meter.Part         // by topic and partition; nil without a meter
}

func (p *places) clone() *places {
	return &places{topics: slices.Clone(p.topics), byID: maps.Clone(p.byID), letters: slices.Clone(p.letters), origins: maps.Clone(p.origins),
		counts: slices.Clone(p.counts)}
}

// Open checks the routes, makes the topics that are missing, and returns the store. It refuses topics whose partitions are not
// what the routes ask for.
func Open(ctx context.Context, o Options) (*Store, error) {
	table, err := Compile(o.Routes)
	if err != nil {
		return nil, err
	}
	s := &Store{
		log: o.Log, table: table, now: o.Now, unlogged: o.Unlogged, cache: newCache(), gates: make([]gate, len(table.topics)),
		logger:    cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
		maxRecord: cmp.Or(o.MaxPacket, 1<<20) + recordOverhead,
	}
	s.count = newCounting(o.Meter, table)
	if s.unlogged == nil {
		s.unlogged = func(*session.Message) {}
	}
	if err := s.openTopics(ctx); err != nil {
		return nil, err
	}
	if err := s.openInternal(ctx, o); err != nil {
		return nil, err
	}
	if err := s.openSpill(ctx, o); err != nil {
		return nil, err
	}
	s.dead = newDeadLetters(s)
	return s, nil
}

// Close ends the store's goroutines. The log stays open; appends that are under way are still answered.
func (s *Store) Close() {
	s.dead.close()
	s.work.Wait()
	for i := range s.gates {
		s.gates[i].end()
	}
	if s.spill != nil {
		if err := s.spill.Close(); err != nil {
			s.logger.Error("the local log of what waits for the cluster is not closed cleanly; the next start recovers it", "err", err)
		}
	}
}

const (
	// recordOverhead is what a record's headers and batch may add to an MQTT packet: a client id, names of headers.
	recordOverhead = 128 << 10
	// Overhead is what a record, or the dead letter of one, may have beside an MQTT packet.
	Overhead = recordOverhead + maxForeignHeaderBytes
	// kafkaMaxMessage is Kafka's default for max.message.bytes.
	kafkaMaxMessage = 1<<20 + 12
)

func (s *Store) openTopics(ctx context.Context) error {
	p := &places{byID: map[eventlog.TopicID]int{}}
	for i, plan := range s.table.topics {
		t, err := s.openTopic(ctx, plan)
		if err != nil {
			return err
		}
		p.topics = append(p.topics, t)
		p.byID[t.ID] = i
		var letters eventlog.Topic
		if plan.letters {
			if letters, err = s.log.Ensure(ctx, s.letterTopic(plan, t)); err != nil {
				return fmt.Errorf("%v: dead-letter topic: %w", plan.by, err)
			}
		}
		p.letters = append(p.letters, letters)
	}
	s.places.Store(p)
	return nil
}

// openTopic finds or makes a route's topic.
func (s *Store) openTopic(ctx context.Context, plan *topicPlan) (eventlog.Topic, error) {
	spec := eventlog.TopicSpec{Name: plan.name, Partitions: cmp.Or(plan.partitions, DefaultPartitions), Config: map[string]string{}}
	for k, v := range plan.config {
		spec.Config[k] = v
	}
	if s.maxRecord > kafkaMaxMessage {
		spec.Config["max.message.bytes"] = strconv.Itoa(s.maxRecord)
	}
	t, err := s.log.Ensure(ctx, spec)
	if err != nil {
		return t, fmt.Errorf("%v: %w", plan.by, err)
	}
	if plan.partitions != 0 && t.Partitions != plan.partitions {
		return t, fmt.Errorf("%v asks for %d partitions, but topic %q has %d, and changing them would break the order of its keys; "+
			"write partitions: %d, or choose another topic", plan.by, plan.partitions, plan.name, t.Partitions, t.Partitions)
	}
	return t, s.configure(ctx, t, spec.Config, plan)
}

// configure brings a topic that was there to what its route says; what the route does not mention stays.
func (s *Store) configure(ctx context.Context, t eventlog.Topic, want map[string]string, plan *topicPlan) error {
	set := map[string]*string{}
	for k, v := range want {
		if k == "max.message.bytes" {
			if have, err := strconv.Atoi(t.Config[k]); err == nil && have >= s.maxRecord {
				continue
			}
		}
		if t.Config[k] != v {
			set[k] = &v
			s.logger.Info("topic config changed to what its route says", "topic", t.Name, "config", k, "was", t.Config[k], "is", v)
		}
	}
	if len(set) == 0 {
		return nil
	}
	if err := s.log.ConfigureTopic(ctx, t.Name, set); err != nil {
		return fmt.Errorf("%v: configure topic %q: %w", plan.by, t.Name, err)
	}
	return nil
}

func (s *Store) openInternal(ctx context.Context, o Options) error {
	state := map[string]string{ // small segments, since only rolled ones are compacted
		"cleanup.policy": "compact", "segment.bytes": strconv.Itoa(4 << 20), "segment.ms": strconv.Itoa(3600_000),
		"min.cleanable.dirty.ratio": "0.3", "delete.retention.ms": strconv.Itoa(3600_000), "max.message.bytes": strconv.Itoa(s.maxRecord),
	}
	for _, t := range []struct {
		into       *eventlog.Topic
		name       string
		partitions int32
		setting    string
	}{
		{&s.sessions, sessionsTopic, o.SessionPartitions, "session_partitions"},
		{&s.retained, retainedTopic, o.RetainedPartitions, "retained_partitions"},
		{&s.routes, routesTopic, 1, ""},
	} {
		var err error
		*t.into, err = s.log.Ensure(ctx, eventlog.TopicSpec{Name: t.name, Partitions: cmp.Or(t.partitions, 4), Config: state})
		if err != nil {
			return fmt.Errorf("topic %q: %w", t.name, err)
		}
		if err := s.widen(ctx, *t.into); err != nil {
			return err
		}
		if t.partitions != 0 && t.into.Partitions != t.partitions {
			return fmt.Errorf("topic %q has %d partitions, the configuration asks for %d, and changing them would lose sessions; "+
				"write %s: %d", t.name, t.into.Partitions, t.partitions, t.setting, t.into.Partitions)
		}
	}
	return s.openOrigins(ctx)
}

// widen has an internal topic that was made when packets were smaller take the largest ones of now.
func (s *Store) widen(ctx context.Context, t eventlog.Topic) error {
	const name = "max.message.bytes"
	if have, err := strconv.Atoi(t.Config[name]); err != nil || have >= s.maxRecord {
		return nil //nolint:nilerr // a cluster that does not say what it is takes its own default
	}
	want := strconv.Itoa(s.maxRecord)
	if err := s.log.ConfigureTopic(ctx, t.Name, map[string]*string{name: &want}); err != nil {
		return fmt.Errorf("topic %q: make room for the largest packets (%s=%s): %w", t.Name, name, want, err)
	}
	return nil
}

// resolve finds out what a topic alone decides.
func (s *Store) resolve(name string) *resolved {
	r := &resolved{name: name}
	if topic.ValidateName(bytesOf(name)) != nil {
		return r
	}
	if r.route = s.table.find(name); r.route == nil || r.route.Discard || r.route.key.fromClient() {
		return r
	}
	r.key = bytesOf(r.route.key.render(r.route.pattern.bind(name)))
	r.parts = s.topicOf(s.places.Load(), r.route).Partitions
	r.part = partition(r.key, r.parts)
	return r
}

// parts lists the partitions that carry MQTT messages.
func (p *places) parts() (parts []eventlog.Part) {
	for _, t := range p.topics {
		for i := range t.Partitions {
			parts = append(parts, eventlog.Part{Topic: t.ID, Index: i})
		}
	}
	return parts
}

// Fixed says why the number of partitions of a topic must not change, or "" if it may.
func (s *Store) Fixed(topic string) (reason string) {
	for _, plan := range s.table.topics {
		if plan.name == topic {
			return fmt.Sprintf("the MQTT %v needs its keys to stay where they are", plan.by)
		}
	}
	return ""
}

// absent are the routed topics that were deleted and are not there again.
type absent struct {
	mu sync.Mutex
	of map[eventlog.TopicID]error // why not; nil: it is being made
}

// topicGone makes a deleted topic again, and lets the tails follow the new one. What is published meanwhile waits before its gate.
func (s *Store) topicGone(id eventlog.TopicID) {
	if i, routed := s.places.Load().byID[id]; routed {
		g := &s.gates[i]
		g.mu.Lock()
		s.closeGate(g, i, id)
		g.mu.Unlock()
	}
	s.absent.mu.Lock()
	defer s.absent.mu.Unlock()
	if _, known := s.absent.of[id]; known {
		return // another partition of it said so before
	}
	if s.absent.of == nil {
		s.absent.of = map[eventlog.TopicID]error{}
	}
	s.absent.of[id] = nil
	s.work.Go(func() { s.moveUntilDone(id) })
}

// moveUntilDone repeats move: who deleted the topic may make another in its place that the routes cannot use, and mend that.
func (s *Store) moveUntilDone(id eventlog.TopicID) {
	ctx := s.dead.ctx
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		i, routed := s.places.Load().byID[id]
		err := s.move(ctx, id)
		if err == nil && routed {
			s.release(ctx, &s.gates[i], id)
		}
		s.absent.mu.Lock()
		again := err == nil && routed && s.gates[i].isGone(id) // it was there, and went before this was over: nobody else is told
		if err == nil && !again || ctx.Err() != nil {
			delete(s.absent.of, id)
			s.absent.mu.Unlock()
			return
		}
		if err != nil && s.absent.of[id] == nil {
			s.logger.Error("a deleted topic cannot be made again; its publishers wait", "err", err)
		}
		s.absent.of[id] = err
		s.absent.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (s *Store) move(ctx context.Context, id eventlog.TopicID) error {
	s.moving.Lock()
	defer s.moving.Unlock()
	old := s.places.Load()
	i, there := old.byID[id]
	if !there {
		return s.moveLetters(ctx, old, id)
	}
	t, err := s.openTopic(ctx, s.table.topics[i])
	if err != nil {
		return err
	}
	if was := old.topics[i].Partitions; t.Partitions != was { // it is empty, or nearly: keys find new places together
		s.logger.Warn("a routed topic came back with another number of partitions", "topic", t.Name, "was", was, "is", t.Partitions)
	}
	p := old.clone()
	p.topics[i] = t
	delete(p.byID, id)
	p.byID[t.ID] = i
	fresh := map[eventlog.Part]int64{}
	for n := range t.Partitions {
		fresh[eventlog.Part{Topic: t.ID, Index: n}] = 0
	}
	maps.Copy(p.origins, fresh)
	if err := s.saveOrigins(ctx, fresh); err != nil {
		return err
	}
	s.count.follow(p, i, fresh)
	s.places.Store(p)
	s.dead.follow(t)
	s.logger.Warn("a routed topic was deleted and made again", "topic", t.Name)
	return nil
}

// sessionPart and logPart convert between session's words and the log's.
func sessionPart(p eventlog.Part) session.Part { return session.Part{Topic: p.Topic, Index: p.Index} }
func logPart(p session.Part) eventlog.Part     { return eventlog.Part{Topic: p.Topic, Index: p.Index} }
