package kafka

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// topic is what the cluster last said about one topic. It is never changed, only replaced.
type topic struct {
	name    string
	id      eventlog.TopicID
	leaders []int32 // per partition; -1: none at the moment
}

func (t *topic) leader(index int32) int32 {
	if t == nil || index < 0 || int(index) >= len(t.leaders) {
		return -1
	}
	return t.leaders[index]
}

func (t *topic) has(index int32) bool { return t != nil && index >= 0 && int(index) < len(t.leaders) }

// topics caches the cluster's metadata.
type topics struct {
	cl             *kgo.Client
	grace, backoff time.Duration

	asking sync.Mutex // held by whoever asks the cluster

	mu     sync.RWMutex
	at     time.Time // when the last answer was asked for
	byID   map[eventlog.TopicID]*topic
	byName map[string]*topic
}

func (ts *topics) cached(id eventlog.TopicID) *topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byID[id]
}

func (ts *topics) named(name string) *topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byName[name]
}

// all lists the topics of some names, or every topic.
func (ts *topics) all(names []string) (out []*topic) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	for name, t := range ts.byName {
		if len(names) == 0 || slices.Contains(names, name) {
			out = append(out, t)
		}
	}
	return out
}

// refresh asks the cluster about all topics. Callers that ask at the same time share an answer.
func (ts *topics) refresh(ctx context.Context) error {
	asked := time.Now()
	ts.asking.Lock()
	defer ts.asking.Unlock()
	ts.mu.RLock()
	fresh := ts.at.After(asked)
	ts.mu.RUnlock()
	if fresh {
		return nil
	}
	at := time.Now()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil // all
	resp, err := req.RequestWith(ctx, ts.cl)
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	byID, byName := map[eventlog.TopicID]*topic{}, map[string]*topic{}
	for _, rt := range resp.Topics {
		if rt.Topic == nil || rt.ErrorCode != 0 && kerr.ErrorForCode(rt.ErrorCode) != kerr.LeaderNotAvailable {
			continue
		}
		t := &topic{name: *rt.Topic, id: idOf(*rt.Topic, rt.TopicID), leaders: make([]int32, len(rt.Partitions))}
		for i := range t.leaders {
			t.leaders[i] = -1
		}
		for _, p := range rt.Partitions {
			if p.ErrorCode == 0 && t.has(p.Partition) {
				t.leaders[p.Partition] = p.Leader
			}
		}
		byID[t.id], byName[t.name] = t, t
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.at, ts.byID, ts.byName = at, byID, byName
	return nil
}

// idOf is the topic's id, or one made of its name on a cluster that has no ids: there a topic that is deleted and created
// again cannot be told from the old one.
func idOf(name string, id [16]byte) eventlog.TopicID {
	if id == ([16]byte{}) {
		sum := sha256.Sum256([]byte(name))
		return eventlog.TopicID(sum[:16])
	}
	return id
}

// fresh finds a topic in an answer not older than the call.
func (ts *topics) fresh(ctx context.Context, id eventlog.TopicID) (*topic, error) {
	for until, n := time.Now().Add(ts.grace), 0; ; n++ {
		if err := ts.refresh(ctx); err != nil {
			return nil, err
		}
		if t := ts.cached(id); t != nil {
			return t, nil
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("topic %v: %w", id, eventlog.ErrUnknownTopic)
		}
		select {
		case <-time.After(backoff(ts.backoff, n)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// partition finds the topic of a partition, from the cache if it is there.
func (ts *topics) partition(ctx context.Context, p eventlog.Part) (*topic, error) {
	t := ts.cached(p.Topic)
	if !t.has(p.Index) {
		var err error
		if t, err = ts.fresh(ctx, p.Topic); err != nil {
			return nil, err
		}
	}
	if !t.has(p.Index) {
		return nil, fmt.Errorf("partition %v: %w", p, eventlog.ErrUnknownTopic)
	}
	return t, nil
}

// CreateTopic implements eventlog.Driver.
func (d *Driver) CreateTopic(ctx context.Context, spec eventlog.TopicSpec) (eventlog.Topic, error) {
	if err := d.begin(ctx); err != nil {
		return eventlog.Topic{}, err
	}
	if err := eventlog.CheckTopicName(spec.Name); err != nil {
		return eventlog.Topic{}, err
	}
	if spec.Partitions < 0 {
		return eventlog.Topic{}, fmt.Errorf("create topic %q: %w: %d partitions", spec.Name, eventlog.ErrInvalid, spec.Partitions)
	}
	config := map[string]*string{}
	for k, v := range spec.Config {
		config[k] = &v
	}
	parts := spec.Partitions
	if parts == 0 {
		parts = -1
	}
	made, err := d.adm.CreateTopic(ctx, parts, d.o.Replication, config, spec.Name)
	if err != nil {
		failure := d.fail(err, "create topic %q: %s", spec.Name, made.ErrMessage)
		if !errors.Is(err, kerr.TopicAlreadyExists) {
			return eventlog.Topic{}, failure
		}
		t, err := d.describe(ctx, spec.Name)
		if err != nil {
			return eventlog.Topic{}, err
		}
		return t, failure
	}
	id := idOf(spec.Name, made.ID)
	for n := 0; ; n++ { // until the brokers we ask know it, with a leader for each partition
		if err := d.topics.refresh(ctx); err != nil {
			return eventlog.Topic{}, d.fail(err, "create topic %q", spec.Name)
		}
		if t := d.topics.cached(id); t != nil && led(t) {
			return d.describe(ctx, spec.Name)
		}
		if err := d.pause(ctx, n); err != nil {
			return eventlog.Topic{}, d.fail(err, "create topic %q: wait for its leaders", spec.Name)
		}
	}
}

func led(t *topic) bool {
	for i := range t.leaders {
		if t.leaders[i] < 0 {
			return false
		}
	}
	return true
}

func (d *Driver) describe(ctx context.Context, name string) (eventlog.Topic, error) {
	all, err := d.list(ctx, name)
	if err != nil {
		return eventlog.Topic{}, d.fail(err, "describe topic %q", name)
	}
	if len(all) == 0 {
		return eventlog.Topic{}, fmt.Errorf("describe topic %q: %w", name, eventlog.ErrUnknownTopic)
	}
	return all[0], nil
}

// Topics implements eventlog.Driver.
func (d *Driver) Topics(ctx context.Context) ([]eventlog.Topic, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	all, err := d.list(ctx)
	return all, d.fail(err, "list topics")
}

// list describes the topics named, or all.
func (d *Driver) list(ctx context.Context, names ...string) ([]eventlog.Topic, error) {
	if err := d.topics.refresh(ctx); err != nil {
		return nil, err
	}
	found := d.topics.all(names)
	if len(found) == 0 {
		return nil, nil
	}
	names = names[:0:0]
	for _, t := range found {
		names = append(names, t.name)
	}
	described, err := d.adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, err
	}
	var out []eventlog.Topic
	for _, t := range found {
		config := map[string]string{}
		c, err := described.On(t.name, nil)
		if err == nil {
			err = c.Err
		}
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("configs of topic %q: %w", t.name, err)
		}
		for _, entry := range c.Configs {
			if entry.Source == kmsg.ConfigSourceDynamicTopicConfig && entry.Value != nil {
				config[entry.Key] = *entry.Value
			}
		}
		out = append(out, eventlog.Topic{Name: t.name, ID: t.id, Partitions: int32(len(t.leaders)), Config: config})
	}
	return out, nil
}

// ConfigureTopic implements eventlog.Driver.
func (d *Driver) ConfigureTopic(ctx context.Context, name string, set map[string]*string) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	var changes []kadm.AlterConfig
	for k, v := range set {
		c := kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: v}
		if v == nil {
			c.Op = kadm.DeleteConfig
		}
		changes = append(changes, c)
	}
	resps, err := d.adm.AlterTopicConfigs(ctx, changes, name)
	if err != nil {
		return d.fail(err, "configure topic %q", name)
	}
	r, err := resps.On(name, nil)
	if err == nil {
		err = r.Err
	}
	return d.fail(err, "configure topic %q: %s", name, r.ErrMessage)
}

// DeleteTopic implements eventlog.Driver.
func (d *Driver) DeleteTopic(ctx context.Context, name string) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	if _, err := d.adm.DeleteTopic(ctx, name); err != nil {
		return d.fail(err, "delete topic %q", name)
	}
	for n := 0; ; n++ { // until the brokers we ask have dropped it
		was := d.topics.named(name)
		if err := d.topics.refresh(ctx); err != nil {
			return d.fail(err, "delete topic %q", name)
		}
		if now := d.topics.named(name); now == nil || was != nil && now.id != was.id {
			return nil
		}
		if err := d.pause(ctx, n); err != nil {
			return d.fail(err, "delete topic %q: wait for it to go", name)
		}
	}
}

// Ends implements eventlog.Driver.
func (d *Driver) Ends(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return d.offsets(ctx, id, "ends", d.adm.ListCommittedOffsets)
}

// Starts implements eventlog.Driver.
func (d *Driver) Starts(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return d.offsets(ctx, id, "starts", d.adm.ListStartOffsets)
}

func (d *Driver) offsets(ctx context.Context, id eventlog.TopicID, what string,
	list func(context.Context, ...string) (kadm.ListedOffsets, error),
) ([]int64, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	t, err := d.topics.fresh(ctx, id)
	if err != nil {
		return nil, d.fail(err, "%s of topic %v", what, id)
	}
	out := make([]int64, len(t.leaders))
	listed, err := list(ctx, t.name)
	if err != nil {
		return nil, d.fail(err, "%s of topic %q", what, t.name)
	}
	for i := range out {
		o, ok := listed.Lookup(t.name, int32(i))
		if !ok {
			return nil, fmt.Errorf("%s of topic %q: partition %d: %w", what, t.name, i, eventlog.ErrUnknownTopic)
		}
		if o.Err != nil {
			return nil, d.fail(o.Err, "%s of topic %q: partition %d", what, t.name, i)
		}
		out[i] = o.Offset
	}
	return out, nil
}

// OffsetByTime implements eventlog.Driver.
func (d *Driver) OffsetByTime(ctx context.Context, p eventlog.Part, at int64) (int64, error) {
	if err := d.begin(ctx); err != nil {
		return -1, err
	}
	t, err := d.topics.fresh(ctx, p.Topic)
	if err != nil || !t.has(p.Index) {
		if err == nil {
			err = eventlog.ErrUnknownTopic
		}
		return -1, d.fail(err, "offset by time in %v", p)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = readCommitted
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = t.name
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp = p.Index, max(at, 0) // negative times are questions of another kind
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, d.cl)
	if err != nil {
		return -1, d.fail(err, "offset by time in %v", p)
	}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			return rp.Offset, d.fail(kerr.ErrorForCode(rp.ErrorCode), "offset by time in %v", p)
		}
	}
	return -1, fmt.Errorf("offset by time in %v: %w", p, eventlog.ErrUnknownTopic)
}

// Trim implements eventlog.Driver.
func (d *Driver) Trim(ctx context.Context, pos eventlog.Position) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	t, err := d.topics.fresh(ctx, pos.Topic)
	if err != nil || !t.has(pos.Index) {
		if err == nil {
			err = eventlog.ErrUnknownTopic
		}
		return d.fail(err, "trim %v", pos)
	}
	starts, err := d.Starts(ctx, pos.Topic)
	if err != nil {
		return d.fail(err, "trim %v", pos)
	}
	if pos.Offset <= starts[pos.Index] {
		return nil
	}
	ends, err := d.Ends(ctx, pos.Topic)
	if err != nil {
		return d.fail(err, "trim %v", pos)
	}
	if end := ends[pos.Index]; pos.Offset > end {
		return fmt.Errorf("trim: %w", &eventlog.OutOfRangeError{Position: pos, Start: starts[pos.Index], End: end})
	}
	offsets := kadm.Offsets{}
	offsets.AddOffset(t.name, pos.Index, pos.Offset, -1)
	resps, err := d.adm.DeleteRecords(ctx, offsets)
	if err != nil {
		return d.fail(err, "trim %v", pos)
	}
	return d.fail(resps.Error(), "trim %v", pos)
}
