package kafkatool

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topic is one of a list.
type Topic struct {
	Name       string `json:"name"`
	Internal   bool   `json:"internal"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
	Records    *int64 `json:"records"` // from first to last offset; what compaction took away is counted. nil: it is not known
	Error      string `json:"error,omitempty"`
}

// TopicDetail is a topic as it is described.
type TopicDetail struct {
	Name       string      `json:"name"`
	ID         string      `json:"id,omitempty"`
	Internal   bool        `json:"internal"`
	Records    int64       `json:"records"`
	Partitions []Partition `json:"partitions"`
	Configs    []Config    `json:"configs"`
	Unknown    string      `json:"configs_error,omitempty"` // why there are no configs
}

// Partition is one of a topic.
type Partition struct {
	ID       int32   `json:"partition"`
	Leader   int32   `json:"leader"` // -1: there is none
	Replicas []int32 `json:"replicas"`
	InSync   []int32 `json:"in_sync"`
	Start    int64   `json:"start"`
	End      int64   `json:"end"`
	Error    string  `json:"error,omitempty"`
}

// Config is one of a topic.
type Config struct {
	Name   string  `json:"name"`
	Value  *string `json:"value"` // nil: it is secret
	Source string  `json:"source"`
	Set    bool    `json:"set"` // for this topic
}

// Topics lists the topics, internal ones only if they are asked for.
func (c *Cluster) Topics(ctx context.Context, internal bool) ([]Topic, error) {
	all, err := c.adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the topics: %w", tidy(err))
	}
	list, names := []Topic{}, []string{}
	for _, d := range all.Sorted() {
		if d.IsInternal && !internal {
			continue
		}
		t := Topic{Name: d.Topic, Internal: d.IsInternal, Partitions: len(d.Partitions), Replicas: d.Partitions.NumReplicas()}
		if d.Err != nil {
			t.Error = d.Err.Error()
		}
		list, names = append(list, t), append(names, d.Topic)
	}
	if len(names) == 0 {
		return list, nil
	}
	// One partition that cannot be asked says nothing of the others.
	starts, _ := c.adm.ListStartOffsets(ctx, names...)
	ends, _ := c.adm.ListEndOffsets(ctx, names...)
	for i := range list {
		if n, ok := count(starts[list[i].Name], ends[list[i].Name], list[i].Partitions); ok {
			list[i].Records = &n
		}
	}
	return list, nil
}

// count adds up partitions, if all are known.
func count(starts, ends map[int32]kadm.ListedOffset, partitions int) (n int64, ok bool) {
	for p, s := range starts {
		e, there := ends[p]
		if !there || s.Err != nil || e.Err != nil {
			return 0, false
		}
		n += e.Offset - s.Offset
	}
	return n, len(starts) == partitions && partitions > 0
}

// topic finds a topic by its exact name.
func (c *Cluster) topic(ctx context.Context, name string) (kadm.TopicDetail, error) {
	all, err := c.adm.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("ask for the topic %q: %w", name, tidy(err))
	}
	d, ok := all[name]
	switch {
	case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		return d, fmt.Errorf("%w: %q", ErrNoTopic, name)
	case d.Err != nil:
		return d, fmt.Errorf("topic %q: %w", name, d.Err)
	}
	return d, nil
}

// Describe tells all about a topic.
func (c *Cluster) Describe(ctx context.Context, name string) (*TopicDetail, error) {
	d, err := c.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &TopicDetail{Name: d.Topic, Internal: d.IsInternal, Partitions: []Partition{}, Configs: []Config{}}
	if d.ID != (kadm.TopicID{}) {
		t.ID = hex.EncodeToString(d.ID[:])
	}
	starts, _ := c.adm.ListStartOffsets(ctx, name) // what is wrong with one is that one's
	ends, _ := c.adm.ListEndOffsets(ctx, name)
	for _, p := range d.Partitions.Sorted() {
		one := Partition{ID: p.Partition, Leader: p.Leader, Replicas: p.Replicas, InSync: p.ISR, Start: -1, End: -1}
		s, hasStart := starts[name][p.Partition]
		e, hasEnd := ends[name][p.Partition]
		switch bad := cmp.Or(p.Err, s.Err, e.Err); {
		case bad != nil:
			one.Error = bad.Error()
		case !hasStart || !hasEnd:
			one.Error = "its leader does not answer"
		default:
			one.Start, one.End = s.Offset, e.Offset
			t.Records += e.Offset - s.Offset
		}
		t.Partitions = append(t.Partitions, one)
	}
	if t.Configs, err = c.configs(ctx, name); err != nil {
		t.Configs, t.Unknown = []Config{}, err.Error()
	}
	return t, nil
}

func (c *Cluster) configs(ctx context.Context, name string) ([]Config, error) {
	all, err := c.adm.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return nil, tidy(err)
	}
	list := []Config{}
	for _, r := range all {
		if r.Err != nil {
			return nil, said(r.Err, r.ErrMessage)
		}
		for _, k := range r.Configs {
			list = append(list, Config{Name: k.Key, Value: k.Value, Source: k.Source.String(), Set: k.Source == kmsg.ConfigSourceDynamicTopicConfig})
		}
	}
	slices.SortFunc(list, func(a, b Config) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// NewTopic is one to be made. Zero partitions and replicas are as many as the cluster does by default.
type NewTopic struct {
	Name       string            `json:"name"`
	Partitions int32             `json:"partitions"`
	Replicas   int16             `json:"replicas"`
	Configs    map[string]string `json:"configs,omitempty"`
}

// Create makes a topic, or with dry only finds out whether the cluster would. made is false of one that was there, if that will do.
func (c *Cluster) Create(ctx context.Context, t NewTopic, thereWillDo, dry bool) (made bool, err error) {
	if err := named(t.Name); err != nil {
		return false, err
	}
	if t.Partitions < 0 || t.Replicas < 0 {
		return false, fmt.Errorf("%w: partitions and replicas are at least 1", ErrAsked)
	}
	configs := map[string]*string{}
	for k, v := range t.Configs {
		configs[k] = &v
	}
	create := c.adm.CreateTopics
	if dry {
		create = c.adm.ValidateCreateTopics
	}
	res, err := create(ctx, cmp.Or(t.Partitions, -1), cmp.Or(t.Replicas, -1), configs, t.Name)
	if err == nil {
		r := res[t.Name]
		err = said(r.Err, r.ErrMessage)
	}
	if thereWillDo && errors.Is(err, kerr.TopicAlreadyExists) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create topic %q: %w", t.Name, tidy(err))
	}
	return true, nil
}

// named refuses what no cluster takes as the name of a topic.
func named(name string) error {
	ok := name != "" && name != "." && name != ".." && len(name) <= 249
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	if !ok {
		return fmt.Errorf("%w: %q cannot be the name of a topic: up to 249 of a-z A-Z 0-9 . _ -", ErrAsked, name)
	}
	return nil
}

// Delete deletes a topic.
func (c *Cluster) Delete(ctx context.Context, name string) error {
	res, err := c.adm.DeleteTopics(ctx, name)
	if err == nil {
		r := res[name]
		err = said(r.Err, r.ErrMessage)
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("%w: %q", ErrNoTopic, name)
	}
	if err != nil {
		return fmt.Errorf("delete topic %q: %w", name, tidy(err))
	}
	return nil
}

// Change is what alters in a topic.
type Change struct {
	What string  `json:"what"` // a config, or "partitions"
	Old  *string `json:"old"`  // nil: it is secret, or not known
	New  *string `json:"new"`  // nil: the cluster's default
}

// Altering says what is to be altered.
type Altering struct {
	Set        map[string]string
	Unset      []string
	Partitions int32 // 0: as they are
}

// Alter alters a topic, or with dry only asks whether the cluster would, and says what changes.
func (c *Cluster) Alter(ctx context.Context, name string, a Altering, dry bool) ([]Change, error) {
	d, err := c.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	now, err := c.configs(ctx, name)
	if err != nil && !errors.Is(err, kerr.TopicAuthorizationFailed) { // who may alter it may perhaps not see it
		return nil, fmt.Errorf("ask for the configs of %q: %w", name, err)
	}
	changes, todo := a.configs(now)
	if a.Partitions != 0 {
		have := len(d.Partitions)
		if int(a.Partitions) < have {
			return nil, fmt.Errorf("%w: %q has %d partitions, and there cannot be fewer", ErrAsked, name, have)
		}
		if int(a.Partitions) > have {
			was, will := strconv.Itoa(have), strconv.Itoa(int(a.Partitions))
			changes = append(changes, Change{"partitions", &was, &will})
		}
	}
	if len(todo) > 0 {
		alter := c.adm.AlterTopicConfigs
		if dry {
			alter = c.adm.ValidateAlterTopicConfigs
		}
		res, err := alter(ctx, todo, name)
		for _, r := range res {
			err = cmp.Or(err, said(r.Err, r.ErrMessage))
		}
		if err != nil {
			return nil, fmt.Errorf("alter the configs of %q: %w", name, tidy(err))
		}
	}
	if int(a.Partitions) > len(d.Partitions) {
		more := c.adm.UpdatePartitions
		if dry {
			more = c.adm.ValidateUpdatePartitions
		}
		res, err := more(ctx, int(a.Partitions), name)
		if err == nil {
			err = said(res[name].Err, res[name].ErrMessage)
		}
		if err != nil && len(todo) > 0 && !dry {
			err = fmt.Errorf("%w (its configs are altered)", tidy(err))
		}
		if err != nil {
			return nil, fmt.Errorf("give %q %d partitions: %w", name, a.Partitions, tidy(err))
		}
	}
	return changes, nil
}

func (a *Altering) configs(now []Config) ([]Change, []kadm.AlterConfig) {
	changes, old := []Change{}, map[string]*string{}
	for _, k := range now {
		old[k.Name] = k.Value
	}
	var todo []kadm.AlterConfig
	for _, k := range slices.Sorted(maps.Keys(a.Set)) {
		v := a.Set[k]
		changes, todo = append(changes, Change{k, old[k], &v}), append(todo, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	for _, k := range a.Unset {
		changes, todo = append(changes, Change{k, old[k], nil}), append(todo, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
	}
	return changes, todo
}
