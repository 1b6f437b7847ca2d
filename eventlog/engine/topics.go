package engine

import (
	"context"
	"fmt"
	"io"
	"maps"

	"github.com/millrace-io/millrace/eventlog"
)

// do puts an operation through the commit queue and waits until it is durable, or refused.
func (e *Engine) do(ctx context.Context, run func(s *state) ([]entry, func(), error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	it := itemPool.Get().(*item)
	result := make(chan error, 1)
	it.op = &operation{run: run, done: func(err error) { result <- err }}
	e.put(it, operationBytes)
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", eventlog.ErrUnknownOutcome, ctx.Err())
	}
}

// operationBytes is more than an operation's entries take, a topic's name and configs above all.
const operationBytes = 8 << 10

// maxConfigBytes is the most that the names and values of a topic's configs take together.
const maxConfigBytes = 4 << 10

// CreateTopic implements eventlog.Driver.
func (e *Engine) CreateTopic(ctx context.Context, spec eventlog.TopicSpec) (eventlog.Topic, error) {
	fail := func(t eventlog.Topic, err error) (eventlog.Topic, error) {
		return t, fmt.Errorf("create topic %q: %w", spec.Name, err)
	}
	if err := e.checkSpec(&spec); err != nil {
		return fail(eventlog.Topic{}, err)
	}
	id, err := e.newTopicID()
	if err != nil {
		return fail(eventlog.Topic{}, err)
	}
	var made *topic
	err = e.do(ctx, func(s *state) ([]entry, func(), error) {
		if made = s.names[spec.Name]; made != nil {
			return nil, nil, eventlog.ErrTopicExists
		}
		create := entry{kind: entryCreate, part: eventlog.Part{Topic: id}, name: spec.Name, count: spec.Partitions, configs: spec.Config}
		return []entry{create}, func() { e.showTopic(s.topics[id]) }, nil
	})
	if err != nil {
		t, _ := e.TopicByName(spec.Name)
		return fail(t, err)
	}
	t, ok := e.TopicByID(id)
	if !ok {
		return fail(t, fmt.Errorf("deleted meanwhile: %w", eventlog.ErrUnknownTopic))
	}
	return t, nil
}

func (e *Engine) checkSpec(spec *eventlog.TopicSpec) error {
	if err := eventlog.CheckTopicName(spec.Name); err != nil {
		return err
	}
	if spec.Partitions == 0 {
		spec.Partitions = e.o.DefaultPartitions
	}
	if spec.Partitions < 1 || spec.Partitions > maxPartitions {
		return fmt.Errorf("%w: %d partitions, want 1 to %d", eventlog.ErrInvalid, spec.Partitions, maxPartitions)
	}
	spec.Config = maps.Clone(spec.Config)
	return e.checkConfigs(spec.Config)
}

func (e *Engine) checkConfigs(set map[string]string) error {
	if _, err := e.defaults.parse(set); err != nil {
		return err
	}
	return checkConfigBytes(set)
}

func checkConfigBytes(set map[string]string) error {
	n := 0
	for name, value := range set {
		n += len(name) + len(value)
	}
	if n > maxConfigBytes {
		return fmt.Errorf("%w: topic configs of %d bytes together, at most %d", eventlog.ErrInvalid, n, maxConfigBytes)
	}
	return nil
}

func (e *Engine) newTopicID() (id eventlog.TopicID, err error) {
	if _, err = io.ReadFull(e.o.Rand, id[:]); err != nil {
		return id, fmt.Errorf("draw a topic id: %w", err)
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a version 4 UUID, as Kafka's are
	return id, nil
}

// DeleteTopic implements eventlog.Driver. The files go once a checkpoint no longer knows the topic.
func (e *Engine) DeleteTopic(ctx context.Context, name string) error {
	err := e.do(ctx, func(s *state) ([]entry, func(), error) {
		t := s.names[name]
		if t == nil {
			return nil, nil, eventlog.ErrUnknownTopic
		}
		return []entry{{kind: entryDelete, part: eventlog.Part{Topic: t.id}}}, func() { e.hideTopic(t) }, nil
	})
	if err != nil {
		return fmt.Errorf("delete topic %q: %w", name, err)
	}
	return nil
}

// ConfigureTopic implements eventlog.Driver.
func (e *Engine) ConfigureTopic(ctx context.Context, name string, set map[string]*string) error {
	err := e.do(ctx, func(s *state) ([]entry, func(), error) {
		t := s.names[name]
		if t == nil {
			return nil, nil, eventlog.ErrUnknownTopic
		}
		configs := maps.Clone(t.head.cfg.set)
		if configs == nil {
			configs = map[string]string{}
		}
		changed := map[string]string{}
		for k, v := range set {
			if v == nil {
				if _, known := configDefs[k]; !known {
					return nil, nil, fmt.Errorf("%w: unknown topic config %q", eventlog.ErrInvalid, k)
				}
				delete(configs, k)
				continue
			}
			configs[k], changed[k] = *v, *v
		}
		if err := e.checkConfigs(changed); err != nil {
			return nil, nil, err
		}
		if err := checkConfigBytes(configs); err != nil {
			return nil, nil, err
		}
		return []entry{{kind: entryConfigure, part: eventlog.Part{Topic: t.id}, configs: configs}}, t.reconfigured, nil
	})
	if err != nil {
		return fmt.Errorf("configure topic %q: %w", name, err)
	}
	return nil
}

// reconfigured publishes a topic whose configuration has changed.
func (t *topic) reconfigured() {
	t.publish()
	for _, p := range t.head.parts {
		p.segments.setLimits(t.head.cfg)
	}
}

// CreatePartitions raises the number of a topic's partitions. Whether that is allowed for the topic is the caller's question:
// where a key chooses the partition it breaks the order of keys.
func (e *Engine) CreatePartitions(name string, count int32) error {
	err := e.do(context.Background(), func(s *state) ([]entry, func(), error) {
		t := s.names[name]
		switch {
		case t == nil:
			return nil, nil, eventlog.ErrUnknownTopic
		case int(count) <= len(t.head.parts):
			return nil, nil, fmt.Errorf("%w: it has %d already", eventlog.ErrInvalid, len(t.head.parts))
		case count > maxPartitions:
			return nil, nil, fmt.Errorf("%w: at most %d", eventlog.ErrInvalid, maxPartitions)
		}
		return []entry{{kind: entryPartitions, part: eventlog.Part{Topic: t.id}, count: count}}, t.publish, nil
	})
	if err != nil {
		return fmt.Errorf("raise topic %q to %d partitions: %w", name, count, err)
	}
	return nil
}

// Trim implements eventlog.Driver.
func (e *Engine) Trim(ctx context.Context, pos eventlog.Position) error {
	err := e.do(ctx, func(s *state) ([]entry, func(), error) {
		p, err := s.partition(pos.Part)
		if err != nil {
			return nil, nil, err
		}
		if pos.Offset > p.head.end || pos.Offset < 0 {
			return nil, nil, &eventlog.OutOfRangeError{Position: pos, Start: p.head.start, End: p.head.end}
		}
		if pos.Offset <= p.head.start {
			return nil, nil, nil
		}
		return []entry{{kind: entryStart, part: pos.Part, value: pos.Offset}}, func() { p.moveStart(pos.Offset) }, nil
	})
	if err != nil {
		return fmt.Errorf("trim %v: %w", pos, err)
	}
	return nil
}

// Claim implements eventlog.Driver.
func (e *Engine) Claim(ctx context.Context, at eventlog.Part) (eventlog.Writer, error) {
	w := &writer{e: e, part: at}
	err := e.do(ctx, func(s *state) ([]entry, func(), error) {
		p, err := s.partition(at)
		if err != nil {
			return nil, nil, err
		}
		w.epoch = p.head.claim + 1
		return []entry{{kind: entryClaim, part: at, value: w.epoch}}, nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim %v: %w", at, err)
	}
	return w, nil
}

// writer is one claim. The committer compares its epoch with the last one, in queue order.
type writer struct {
	e     *Engine
	part  eventlog.Part
	epoch int64
}

func (w *writer) Append(b *eventlog.Batch, done func(eventlog.Outcome)) { w.e.appendBatch(b, w, done) }
func (w *writer) Epoch() int64                                          { return w.epoch }

// idBlock is how many producer ids are made durable at once. Those not given out when the process ends are lost, which
// costs nothing: ids are never used again, and there are 2⁶².
const idBlock = 1000

// NewProducerID returns a producer id that was never given out before and never will be again.
func (e *Engine) NewProducerID() (int64, error) {
	e.ids.mu.Lock()
	defer e.ids.mu.Unlock()
	if e.ids.next == e.ids.limit {
		err := e.do(context.Background(), func(s *state) ([]entry, func(), error) {
			e.ids.next, e.ids.limit = s.nextID, s.nextID+idBlock
			return []entry{{kind: entryIDs, value: s.nextID + idBlock}}, nil, nil
		})
		if err != nil {
			e.ids.limit = e.ids.next
			return 0, fmt.Errorf("reserve producer ids: %w", err)
		}
	}
	e.ids.next++
	return e.ids.next - 1, nil
}

// showTopic lets everybody see a topic that is durable now.
func (e *Engine) showTopic(t *topic) {
	t.publish()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.topics[t.id], e.names[t.name] = t, t
}

// hideTopic ends a topic for everybody: reads, tails, those who watch.
func (e *Engine) hideTopic(t *topic) {
	t.publish()
	e.mu.Lock()
	delete(e.topics, t.id)
	if e.names[t.name] == t {
		delete(e.names, t.name)
	}
	e.mu.Unlock()
	e.deleted.add(t)
	e.ring.topicGone()
	for _, p := range t.head.parts {
		p.notify()
	}
}

func (e *Engine) topicByName(name string) *topic {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.names[name]
}

func (e *Engine) topicByID(id eventlog.TopicID) *topic {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.topics[id]
}

// partition finds a partition as everybody sees it.
func (e *Engine) partition(at eventlog.Part) (*partition, error) {
	if t := e.topicByID(at.Topic); t != nil {
		if parts := *t.parts.Load(); at.Index >= 0 && int(at.Index) < len(parts) {
			return parts[at.Index], nil
		}
	}
	return nil, fmt.Errorf("partition %v: %w", at, eventlog.ErrUnknownTopic)
}

// partitions returns a topic's partitions.
func (e *Engine) partitions(id eventlog.TopicID) ([]*partition, error) {
	t := e.topicByID(id)
	if t == nil {
		return nil, fmt.Errorf("topic %v: %w", id, eventlog.ErrUnknownTopic)
	}
	return *t.parts.Load(), nil
}

func (t *topic) describe() eventlog.Topic {
	d := t.bare()
	d.Config = maps.Clone(t.cfg.Load().set)
	return d
}

func (t *topic) bare() eventlog.Topic {
	return eventlog.Topic{Name: t.name, ID: t.id, Partitions: int32(len(*t.parts.Load()))}
}

// BareTopic is TopicByName without the configs, whose copy is most of what that costs: for who asks with every request.
func (e *Engine) BareTopic(name string) (eventlog.Topic, bool) {
	if t := e.topicByName(name); t != nil {
		return t.bare(), true
	}
	return eventlog.Topic{}, false
}

// BareTopicByID is TopicByID without the configs.
func (e *Engine) BareTopicByID(id eventlog.TopicID) (eventlog.Topic, bool) {
	if t := e.topicByID(id); t != nil {
		return t.bare(), true
	}
	return eventlog.Topic{}, false
}

// TopicByName finds a topic.
func (e *Engine) TopicByName(name string) (eventlog.Topic, bool) {
	if t := e.topicByName(name); t != nil {
		return t.describe(), true
	}
	return eventlog.Topic{}, false
}

// TopicByID finds a topic.
func (e *Engine) TopicByID(id eventlog.TopicID) (eventlog.Topic, bool) {
	if t := e.topicByID(id); t != nil {
		return t.describe(), true
	}
	return eventlog.Topic{}, false
}

// ListTopics lists all topics, internal ones too, in no order.
func (e *Engine) ListTopics() []eventlog.Topic {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]eventlog.Topic, 0, len(e.topics))
	for _, t := range e.topics {
		out = append(out, t.describe())
	}
	return out
}

// Topics implements eventlog.Driver.
func (e *Engine) Topics(context.Context) ([]eventlog.Topic, error) {
	if err := e.open(); err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	return e.ListTopics(), nil
}
