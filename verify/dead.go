package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/route"
)

// deadLetters are the records of Kafka clients that could not be published: each must be in the dead-letter topic.
type deadLetters struct {
	origins map[eventlog.Part]int64
	topics  []eventlog.Topic
	want    map[string]map[eventlog.Part]map[int64]struct{} // by topic
	n       int
	full    bool
}

const maxDead = 200_000

// init reads where in each partition MQTT began to look: records before are nobody's dead letters.
func (d *deadLetters) init(ctx context.Context, c *check, all []eventlog.Topic) error {
	d.origins, d.topics, d.want = map[eventlog.Part]int64{}, all, map[string]map[eventlog.Part]map[int64]struct{}{}
	i := slices.IndexFunc(all, func(t eventlog.Topic) bool { return t.Name == route.OriginsTopic })
	if i < 0 {
		return nil
	}
	parts := map[string]eventlog.Part{}
	for _, t := range all {
		for n := range t.Partitions {
			p := eventlog.Part{Topic: t.ID, Index: n}
			parts[p.String()] = p
		}
	}
	return c.visit(ctx, all[i], 0, func(r *eventlog.Record) {
		n, err := strconv.ParseInt(string(r.Value), 10, 64)
		if p, ok := parts[string(r.Key)]; ok && err == nil {
			d.origins[p] = n
		}
	})
}

// visit reads a topic from an offset in partition order.
func (c *check) visit(ctx context.Context, t eventlog.Topic, from int64, f func(*eventlog.Record)) error {
	ends, err := c.Log.Ends(ctx, t.ID)
	if err != nil {
		return fmt.Errorf("ends of topic %q: %w", t.Name, err)
	}
	for i := range t.Partitions {
		pos := eventlog.Position{Part: eventlog.Part{Topic: t.ID, Index: i}, Offset: from}
		for pos.Offset < ends[i] {
			batches, next, err := c.Log.Read(ctx, pos, scanBytes)
			var low *eventlog.OutOfRangeError
			if errors.As(err, &low) && pos.Offset < low.Start {
				pos.Offset = low.Start
				continue
			}
			if err != nil {
				return fmt.Errorf("read topic %q: %w", t.Name, err)
			}
			for _, b := range batches {
				if err := b.Each(func(r *eventlog.Record) error { f(r); return nil }); err != nil {
					return fmt.Errorf("read topic %q at %d: %w", t.Name, b.Base(), err)
				}
			}
			if next <= pos.Offset {
				break
			}
			pos.Offset = next
		}
	}
	return nil
}

// expect notes a dead letter that must be there, unless MQTT has not come to it yet.
func (d *deadLetters) expect(p *partScan, offset int64) {
	if d.n >= maxDead {
		d.full = true
		return
	}
	name := p.topic.t.Name
	if d.want[name] == nil {
		d.want[name] = map[eventlog.Part]map[int64]struct{}{}
	}
	if d.want[name][p.pos.Part] == nil {
		d.want[name][p.pos.Part] = map[int64]struct{}{}
	}
	d.want[name][p.pos.Part][offset] = struct{}{}
	d.n++
}

// finish looks for them.
func (d *deadLetters) finish(ctx context.Context, c *check) error {
	for _, name := range sortedNames(d.want) {
		want := d.want[name]
		if i := slices.IndexFunc(d.topics, func(t eventlog.Topic) bool { return t.Name == name+route.DeadSuffix }); i >= 0 {
			ids := map[string]eventlog.TopicID{}
			for p := range want {
				ids[p.Topic.String()] = p.Topic
			}
			err := c.visit(ctx, d.topics[i], 0, func(r *eventlog.Record) {
				if id, part, offset, ok := route.DeadSource(r); ok {
					delete(want[eventlog.Part{Topic: ids[id], Index: part}], offset)
				}
			})
			if err != nil {
				return err
			}
		}
		for p, left := range want {
			for offset := range left {
				if offset < c.runs.matched[p] {
					c.find(Finding{Kind: DeadMissing, Severity: Wrong, Topic: name, Partition: p.Index, Offset: offset, Count: 1,
						Text: fmt.Sprintf("the record of a Kafka client cannot be published to MQTT, and is not in %q either", name+route.DeadSuffix)})
				}
			}
		}
	}
	if d.full {
		c.find(Finding{Kind: TooMany, Severity: Note, Partition: -1, Offset: -1, Count: maxDead,
			Text: fmt.Sprintf("more than %d records are dead letters: the others were not looked for; choose a shorter window", maxDead)})
	}
	return nil
}
