package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

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
	listed, err := d.listed(ctx, t, list)
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

// listing is how long the offsets of a topic are asked for again while a broker of it cannot be reached: until others lead.
const listing = 20 * time.Second

// listed asks for offsets of all partitions, again where leaders are on the move.
func (d *Driver) listed(ctx context.Context, t *topic, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (kadm.ListedOffsets, error) {
	for until, n := time.Now().Add(listing), 0; ; n++ {
		got, err := list(ctx, t.name)
		if err == nil {
			err = got.Error()
		}
		if s := stateOf(err); err == nil || s != Unreachable && s != NoAnswer && s != NoLeader || time.Now().After(until) || d.ctx.Err() != nil {
			if err != nil && len(got) > 0 { // the caller looks at each partition
				return got, nil
			}
			return got, err
		}
		if pauseErr := d.pause(ctx, n); pauseErr != nil {
			return got, fmt.Errorf("%w: %w", pauseErr, err)
		}
		if refreshErr := d.topics.refresh(ctx); refreshErr != nil {
			d.o.Logger.Debug("no metadata from the cluster", "error", refreshErr)
		}
	}
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
