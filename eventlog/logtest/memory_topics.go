package logtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
)

// CreateTopic implements eventlog.Driver.
func (m *Memory) CreateTopic(ctx context.Context, spec eventlog.TopicSpec) (eventlog.Topic, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return eventlog.Topic{}, err
	}
	if err := eventlog.CheckTopicName(spec.Name); err != nil {
		return eventlog.Topic{}, err
	}
	if t := m.c.byName[spec.Name]; t != nil {
		return t.describe(), fmt.Errorf("create topic %q: %w", spec.Name, eventlog.ErrTopicExists)
	}
	if spec.Partitions < 0 {
		return eventlog.Topic{}, fmt.Errorf("create topic %q: %w: %d partitions", spec.Name, eventlog.ErrInvalid, spec.Partitions)
	}
	if spec.Partitions == 0 {
		spec.Partitions = m.c.h.Partitions
	}
	for k := range spec.Config {
		if err := checkConfig(k); err != nil {
			return eventlog.Topic{}, fmt.Errorf("create topic %q: %w", spec.Name, err)
		}
	}
	t := &memTopic{Topic: eventlog.Topic{Name: spec.Name, Partitions: spec.Partitions, Config: maps.Clone(spec.Config)}}
	m.c.born++
	binary.BigEndian.PutUint64(t.ID[:], m.c.rng.Uint64())
	binary.BigEndian.PutUint64(t.ID[8:], m.c.born)
	if t.Config == nil {
		t.Config = map[string]string{}
	}
	for i := range spec.Partitions {
		t.parts = append(t.parts, &memPart{topic: t, part: eventlog.Part{Topic: t.ID, Index: i}})
	}
	m.c.byName[t.Name], m.c.byID[t.ID] = t, t
	return t.describe(), nil
}

// Topics implements eventlog.Driver.
func (m *Memory) Topics(ctx context.Context) ([]eventlog.Topic, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	var out []eventlog.Topic
	for _, name := range slices.Sorted(maps.Keys(m.c.byName)) {
		out = append(out, m.c.byName[name].describe())
	}
	m.c.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out, nil
}

// ConfigureTopic implements eventlog.Driver.
func (m *Memory) ConfigureTopic(ctx context.Context, name string, set map[string]*string) error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return err
	}
	t := m.c.byName[name]
	if t == nil {
		return fmt.Errorf("configure topic %q: %w", name, eventlog.ErrUnknownTopic)
	}
	for k := range set {
		if err := checkConfig(k); err != nil {
			return fmt.Errorf("configure topic %q: %w", name, err)
		}
	}
	for k, v := range set {
		if v == nil {
			delete(t.Config, k)
		} else {
			t.Config[k] = *v
		}
	}
	return nil
}

// DeleteTopic implements eventlog.Driver.
func (m *Memory) DeleteTopic(ctx context.Context, name string) error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return err
	}
	t := m.c.byName[name]
	if t == nil {
		return fmt.Errorf("delete topic %q: %w", name, eventlog.ErrUnknownTopic)
	}
	delete(m.c.byName, name)
	delete(m.c.byID, t.ID)
	for _, member := range m.c.members {
		for _, tail := range member.tails {
			tail.notify()
		}
	}
	return nil
}

// Ends implements eventlog.Driver.
func (m *Memory) Ends(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return m.offsets(ctx, id, (*memPart).stable)
}

// Starts implements eventlog.Driver.
func (m *Memory) Starts(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return m.offsets(ctx, id, func(mp *memPart) int64 { return mp.start })
}

func (m *Memory) offsets(ctx context.Context, id eventlog.TopicID, f func(*memPart) int64) ([]int64, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	t := m.c.byID[id]
	if t == nil {
		return nil, fmt.Errorf("topic %v: %w", id, eventlog.ErrUnknownTopic)
	}
	var out []int64
	for _, mp := range t.parts {
		out = append(out, f(mp))
	}
	return out, nil
}

// Read implements eventlog.Driver.
func (m *Memory) Read(ctx context.Context, pos eventlog.Position, maxBytes int) ([]*eventlog.Batch, int64, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return nil, pos.Offset, err
	}
	mp, err := m.c.part(pos.Part)
	if err != nil {
		return nil, pos.Offset, err
	}
	if pos.Offset < mp.start || pos.Offset > mp.stable() {
		return nil, pos.Offset, &eventlog.OutOfRangeError{Position: pos, Start: mp.start, End: mp.stable()}
	}
	var out []*eventlog.Batch
	next := mp.scan(pos.Offset, mp.stable(), func(e *entry) bool {
		out = append(out, m.c.view(mp, e, false))
		maxBytes -= e.batch.Size()
		return maxBytes > 0
	})
	return out, next, nil
}

// OffsetByTime implements eventlog.Driver.
func (m *Memory) OffsetByTime(ctx context.Context, p eventlog.Part, t int64) (int64, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return -1, err
	}
	mp, err := m.c.part(p)
	if err != nil {
		return -1, err
	}
	found := int64(-1)
	mp.scan(mp.start, mp.stable(), func(e *entry) bool {
		for _, r := range records(e.batch) {
			if r.Offset >= mp.start && r.Timestamp >= t {
				found = r.Offset
				break
			}
		}
		return found < 0
	})
	return found, nil
}

// Trim implements eventlog.Driver.
func (m *Memory) Trim(ctx context.Context, pos eventlog.Position) error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return err
	}
	mp, err := m.c.part(pos.Part)
	if err != nil {
		return err
	}
	if pos.Offset > mp.stable() {
		return &eventlog.OutOfRangeError{Position: pos, Start: mp.start, End: mp.stable()}
	}
	m.c.trim(mp, pos.Offset)
	return nil
}
