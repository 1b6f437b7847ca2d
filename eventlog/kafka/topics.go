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
	copies  int     // replicas of the partition that has the fewest
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
	nodes  []int32   // brokers that were up then
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
	for _, t := range described(resp) {
		byID[t.id], byName[t.name] = t, t
	}
	var nodes []int32
	for _, b := range resp.Brokers {
		nodes = append(nodes, b.NodeID)
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.at, ts.nodes, ts.byID, ts.byName = at, nodes, byID, byName
	return nil
}

// described is every topic that an answer knows.
func described(resp *kmsg.MetadataResponse) (all []*topic) {
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
			if t.copies == 0 || len(p.Replicas) < t.copies {
				t.copies = len(p.Replicas)
			}
		}
		all = append(all, t)
	}
	return all
}

func (ts *topics) brokers() []int32 {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.nodes
}

// everywhere asks each broker what it knows of a name, nil if nothing, and says whether ok likes every answer. Brokers learn
// of topics one by one: what one has answered, the next may not know yet. A broker that does not answer does not count: it
// learns what it missed before it is let serve again.
func (ts *topics) everywhere(ctx context.Context, name string, ok func(*topic) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, node := range ts.brokers() {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, ts.cl.Broker(int(node)))
		if err != nil {
			continue
		}
		var t *topic
		if all := described(resp); len(all) > 0 {
			t = all[0]
		}
		if !ok(t) {
			return false
		}
	}
	return true
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
	copies, err := d.replication(ctx)
	if err != nil {
		return eventlog.Topic{}, d.fail(err, "create topic %q", spec.Name)
	}
	if two := "2"; copies >= 3 && config[minISR] == nil {
		config[minISR] = &two
	}
	made, err := d.adm.CreateTopic(ctx, parts, copies, config, spec.Name)
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
	known := func(t *topic) bool { return t != nil && t.id == id }
	for n := 0; ; n++ { // until every broker knows it, with a leader for each partition
		if err := d.topics.refresh(ctx); err != nil {
			return eventlog.Topic{}, d.fail(err, "create topic %q", spec.Name)
		}
		if t := d.topics.cached(id); t != nil && led(t) && d.topics.everywhere(ctx, spec.Name, known) {
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

// describe describes a topic that is known to be there: a broker that has not heard of it is asked again.
func (d *Driver) describe(ctx context.Context, name string) (eventlog.Topic, error) {
	for until, n := time.Now().Add(d.o.Grace), 0; ; n++ {
		all, err := d.list(ctx, name)
		if err == nil && len(all) > 0 {
			return all[0], nil
		}
		if err == nil && time.Now().After(until) {
			err = eventlog.ErrUnknownTopic
		}
		if err == nil {
			err = d.pause(ctx, n)
		}
		if err != nil {
			return eventlog.Topic{}, d.fail(err, "describe topic %q", name)
		}
	}
}

// Topics implements eventlog.Driver.
func (d *Driver) Topics(ctx context.Context) ([]eventlog.Topic, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	all, err := d.list(ctx)
	return all, d.fail(err, "list topics")
}

// list describes the topics named, or all. One broker says which there are and another how they are configured: a topic that
// the second does not know is asked for again, until it has been missing for long enough.
func (d *Driver) list(ctx context.Context, names ...string) ([]eventlog.Topic, error) {
	for until, n := time.Now().Add(d.o.Grace), 0; ; n++ {
		if err := d.topics.refresh(ctx); err != nil {
			return nil, err
		}
		found := d.topics.all(names)
		configs, err := d.configs(ctx, found)
		if err != nil {
			return nil, err
		}
		if len(configs) < len(found) && time.Now().Before(until) {
			if err := d.pause(ctx, n); err != nil {
				return nil, err
			}
			continue
		}
		var out []eventlog.Topic
		for _, t := range found {
			c, ok := configs[t.name]
			if !ok {
				continue // deleted meanwhile
			}
			delete(c.set, minISR)
			out = append(out, eventlog.Topic{Name: t.name, ID: t.id, Partitions: int32(len(t.leaders)), Config: c.set})
		}
		return out, nil
	}
}

// config is what is known of a topic's configs.
type config struct {
	set       map[string]string // what was set for the topic
	effective map[string]string // what holds, the brokers' defaults included
}

// configs asks for the configs of topics, by name; those that are gone are not in it. A topic that we may see but not ask about
// is somebody else's, and has none to show.
func (d *Driver) configs(ctx context.Context, of []*topic) (map[string]config, error) {
	var names []string
	for _, t := range of {
		names = append(names, t.name)
	}
	return describeConfigs(ctx, d.cl, names...)
}

func describeConfigs(ctx context.Context, to kmsg.Requestor, names ...string) (map[string]config, error) {
	if len(names) == 0 {
		return nil, nil
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, name := range names {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		req.Resources = append(req.Resources, r)
	}
	resp, err := req.RequestWith(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("describe configs: %w", err)
	}
	out := map[string]config{}
	for _, r := range resp.Resources {
		switch err := kerr.ErrorForCode(r.ErrorCode); err {
		case nil, kerr.TopicAuthorizationFailed:
		case kerr.UnknownTopicOrPartition:
			continue
		default:
			return nil, fmt.Errorf("configs of topic %q: %w", r.ResourceName, err)
		}
		c := config{set: map[string]string{}, effective: map[string]string{}}
		for _, e := range r.Configs {
			if e.Value == nil {
				continue
			}
			c.effective[e.Name] = *e.Value
			if e.Source == kmsg.ConfigSourceDynamicTopicConfig {
				c.set[e.Name] = *e.Value
			}
		}
		out[r.ResourceName] = c
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
	if err != nil {
		return d.fail(err, "configure topic %q: %s", name, r.ErrMessage)
	}
	// The change is made; this is for who asks next. A value that the cluster words in its own way is never told as it was set.
	for until, n := time.Now().Add(d.o.Grace), 0; !d.configured(ctx, name, set) && time.Now().Before(until); n++ {
		if d.pause(ctx, n) != nil {
			break
		}
	}
	return nil
}

// configured asks every broker for the configs of a topic and says whether all tell what was set.
func (d *Driver) configured(ctx context.Context, name string, set map[string]*string) bool {
	if d.topics.refresh(ctx) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, node := range d.topics.brokers() {
		all, err := describeConfigs(ctx, d.cl.Broker(int(node)), name)
		if err != nil {
			continue
		}
		is := all[name].set
		for k, want := range set {
			if have, ok := is[k]; ok != (want != nil) || ok && have != *want {
				return false
			}
		}
	}
	return true
}

// DeleteTopic implements eventlog.Driver.
func (d *Driver) DeleteTopic(ctx context.Context, name string) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	deleted, err := d.adm.DeleteTopic(ctx, name)
	if err != nil {
		return d.fail(err, "delete topic %q", name)
	}
	was := idOf(name, deleted.ID)
	dropped := func(t *topic) bool { return t == nil || t.id != was }
	for n := 0; ; n++ { // until every broker has dropped it
		if err := d.topics.refresh(ctx); err != nil {
			return d.fail(err, "delete topic %q", name)
		}
		if dropped(d.topics.named(name)) && d.topics.everywhere(ctx, name, dropped) {
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
