package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/route"
)

// deadLetters are the records of Kafka clients that could not be published, each of which must be in the dead-letter topic, and the messages
// of devices that became dead letters when they came: as many as were counted must be there.
type deadLetters struct {
	counted map[string]uint64 // messages of devices, by topic
	origins map[eventlog.Part]int64
	topics  []eventlog.Topic
	want    map[string]map[eventlog.Part]map[int64]struct{} // by topic
	n       int
	full    bool
}

const maxDead = 200_000

// init reads where in each partition MQTT began to look: records before are nobody's dead letters.
func (d *deadLetters) init(ctx context.Context, c *check, all []eventlog.Topic) error {
	d.counted = map[string]uint64{}
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
	return c.visit(ctx, all[i], 0, func(r *eventlog.Record, _ bool) {
		n, err := strconv.ParseInt(string(r.Value), 10, 64)
		if p, ok := parts[string(r.Key)]; ok && err == nil {
			d.origins[p] = n
		}
	})
}

// visit reads a topic from an offset in partition order.
func (c *check) visit(ctx context.Context, t eventlog.Topic, from int64, f func(r *eventlog.Record, own bool)) error {
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
				if err := b.Each(func(r *eventlog.Record) error { f(r, b.Own); return nil }); err != nil {
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
			err := c.visit(ctx, d.topics[i], 0, func(r *eventlog.Record, _ bool) {
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
	for _, name := range slices.Sorted(maps.Keys(d.counted)) {
		if err := d.letters(ctx, c, name, d.counted[name]); err != nil {
			return err
		}
	}
	if d.full {
		c.find(Finding{Kind: TooMany, Severity: Note, Partition: -1, Offset: -1, Count: maxDead,
			Text: fmt.Sprintf("more than %d records are dead letters: the others were not looked for; choose a shorter window", maxDead)})
	}
	return nil
}

// letters counts the messages of devices in a topic's dead-letter topic. There may be more than were counted, after a crash; of a topic that
// has forgotten its beginning nothing can be said.
func (d *deadLetters) letters(ctx context.Context, c *check, name string, counted uint64) error {
	found := uint64(0)
	if i := slices.IndexFunc(d.topics, func(t eventlog.Topic) bool { return t.Name == name+route.DeadSuffix }); i >= 0 {
		starts, err := c.Log.Starts(ctx, d.topics[i].ID)
		if err != nil {
			return fmt.Errorf("starts of topic %q: %w", d.topics[i].Name, err)
		}
		if slices.ContainsFunc(starts, func(o int64) bool { return o > 0 }) {
			return nil
		}
		err = c.visit(ctx, d.topics[i], 0, func(r *eventlog.Record, own bool) {
			minute := meter.Minute(r.Timestamp)
			if own && minute >= c.from && minute <= c.to && (c.Device == "" || c.Device == string(r.Key)) && route.DeadOnArrival(r) {
				found++
			}
		})
		if err != nil {
			return err
		}
	}
	if found < counted {
		c.find(Finding{Kind: DeadMissing, Severity: Wrong, Topic: name, Partition: -1, Offset: -1, Count: counted - found,
			Text: fmt.Sprintf("%d messages became dead letters for their payload, and %d of them are in %q", counted, found, name+route.DeadSuffix)})
	}
	return nil
}
