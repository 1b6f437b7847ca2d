package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/sim"
)

// topicScan is one log topic.
type topicScan struct {
	t       eventlog.Topic
	compact bool
	fresh   int64   // the minute in which it came back after it was deleted; 0: it was not
	cut     []int64 // by partition: the last minute of which retention may have removed records; 0: none
	moved   uint64  // records that lie where the routes led at their time, and would not now
}

// blind is why a row's records may be gone; "": they may not.
func (t *topicScan) blind(minute int64, r *row) Kind {
	cut := slices.Max(t.cut)
	if !r.Others {
		cut = t.cut[route.Partition([]byte(r.Device), t.t.Partitions)]
	}
	switch {
	case t.compact:
		return Compacted
	case minute <= t.fresh:
		return Recreated
	case minute <= cut:
		return Expired
	}
	return ""
}

// partScan reads one partition.
type partScan struct {
	topic    *topicScan
	pos      eventlog.Position
	end      int64
	origin   int64 // where MQTT began to look
	time     int64 // of the newest record of ours so far
	done     bool
	expect   int64 // the next offset, if there are no holes
	counted  int64 // records of ours beyond are too new to be judged
	covers   []cover
	previous int64 // timestamp
	triples  map[session.Triple]int64
}

const (
	scanBytes  = 1 << 20
	slack      = 60_000 // milliseconds: by how much records of ours may be out of order in time
	maxTriples = 50_000 // of one partition
)

// open finds out what there is to read.
func (c *check) open(ctx context.Context) error {
	all, err := c.Log.Topics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	names := c.Table.Topics()
	if c.Topic != "" && !slices.Contains(names, c.Topic) {
		return fmt.Errorf("topic %q: %w; they lead to %s", c.Topic, ErrUnknownTopic, strings.Join(names, ", "))
	}
	if err := c.dead.init(ctx, c, all); err != nil {
		return err
	}
	for _, t := range all {
		if slices.Contains(names, t.Name) && (c.Topic == "" || c.Topic == t.Name) {
			if err := c.openTopic(ctx, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *check) openTopic(ctx context.Context, t eventlog.Topic) error {
	starts, err := c.Log.Starts(ctx, t.ID)
	if err != nil {
		return fmt.Errorf("starts of topic %q: %w", t.Name, err)
	}
	ends, err := c.Log.Ends(ctx, t.ID)
	if err != nil {
		return fmt.Errorf("ends of topic %q: %w", t.Name, err)
	}
	ts := &topicScan{t: t, compact: strings.Contains(t.Config["cleanup.policy"], "compact"), cut: make([]int64, t.Partitions)}
	c.topics[t.Name] = ts
	for i := range t.Partitions {
		p := eventlog.Part{Topic: t.ID, Index: i}
		at, err := c.Log.OffsetByTime(ctx, p, c.from*60_000)
		if err != nil {
			return fmt.Errorf("find a time in topic %q: %w", t.Name, err)
		}
		if starts[i] > 0 && (at == starts[i] || starts[i] == ends[i]) { // else what is gone is older than the window
			ts.cut[i] = math.MaxInt64 // until a record is met
		}
		s := &partScan{topic: ts, pos: eventlog.Position{Part: p, Offset: at}, end: ends[i], origin: c.dead.origins[p],
			time: c.from * 60_000, expect: at, counted: math.MaxInt64, triples: map[session.Triple]int64{}}
		s.done = at < 0 || at >= s.end
		c.scans = append(c.scans, s)
	}
	if ts.compact {
		c.find(Finding{Kind: Compacted, Severity: Note, Topic: t.Name, Partition: -1, Offset: -1,
			Text: "the topic keeps the last record of each key only: records are not compared with counts, nor sequences followed"})
	}
	return nil
}

// next reads on.
func (p *partScan) next(ctx context.Context, c *check) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	batches, next, err := c.Log.Read(ctx, p.pos, scanBytes)
	var low *eventlog.OutOfRangeError
	switch {
	case errors.As(err, &low) && p.pos.Offset < low.Start:
		p.pos.Offset, p.expect = low.Start, low.Start
		p.topic.cut[p.pos.Index] = math.MaxInt64
		p.done = p.pos.Offset >= p.end
		return nil
	case errors.Is(err, eventlog.ErrCorrupt):
		c.find(p.finding(Corrupt, p.pos.Offset, "from here on nothing of the partition can be read: "+err.Error()))
		p.done = true
		return nil
	case err != nil:
		return fmt.Errorf("read topic %q, partition %d at %d: %w", p.topic.t.Name, p.pos.Index, p.pos.Offset, err)
	}
	for _, b := range batches {
		if p.batch(c, b); p.done {
			return nil
		}
	}
	if next <= p.pos.Offset {
		next = p.end
	}
	p.hole(c, min(next, p.end))
	p.pos.Offset = next
	p.done = next >= p.end
	return nil
}

func (p *partScan) finding(k Kind, offset int64, text string) Finding {
	return Finding{Kind: k, Severity: Wrong, Topic: p.topic.t.Name, Partition: p.pos.Index, Offset: offset, Text: text}
}

// hole tells that there is nothing between the expected offset and next.
func (p *partScan) hole(c *check, next int64) {
	if next > p.expect && c.Embedded && !p.topic.compact {
		f := p.finding(Hole, p.expect, fmt.Sprintf("offset %d is missing", p.expect))
		if f.Count = uint64(next - p.expect); f.Count > 1 {
			f.Text = fmt.Sprintf("offsets %d to %d are missing", p.expect, next-1)
		}
		c.find(f)
	}
	p.expect = max(p.expect, next)
}

func (p *partScan) batch(c *check, b *eventlog.Batch) {
	if raw := b.Raw(); raw != nil {
		if _, err := eventlog.CheckBatch(raw); err != nil {
			c.find(p.finding(Corrupt, b.Base(), "the batch is not intact: "+err.Error()))
			p.expect = max(p.expect, b.Next())
			return
		}
	}
	err := b.Each(func(r *eventlog.Record) error {
		if r.Offset < p.pos.Offset || r.Offset >= p.end {
			return nil
		}
		if r.Offset < p.expect {
			c.find(p.finding(Corrupt, r.Offset, fmt.Sprintf("offset %d comes after offset %d", r.Offset, p.expect-1)))
		} else {
			p.hole(c, r.Offset)
		}
		p.expect = r.Offset + 1
		if b.Own {
			p.ours(c, r)
		} else {
			p.foreign(c, r)
		}
		return nil
	})
	if err != nil {
		c.find(p.finding(Corrupt, b.Base(), "the batch cannot be decoded: "+err.Error()))
		p.expect = max(p.expect, b.Next())
	}
	p.hole(c, min(b.Next(), p.end))
}

// ours looks at a record that a node made of an MQTT message.
func (p *partScan) ours(c *check, r *eventlog.Record) {
	if r.Timestamp < p.previous-slack {
		f := p.finding(TimeBack, r.Offset, fmt.Sprintf("the record is %d s older than the one before it", (p.previous-r.Timestamp)/1000))
		f.Severity = Note
		c.find(f)
	}
	p.previous = r.Timestamp
	minute := meter.Minute(r.Timestamp)
	if r.Offset >= p.counted {
		return
	}
	if p.time = max(p.time, r.Timestamp); p.time >= (c.to+1)*60_000+slack && c.Embedded {
		p.done = true
	}
	if cut := &p.topic.cut[p.pos.Index]; *cut == math.MaxInt64 {
		*cut = minute // the first that is left
	}
	if minute < c.from || minute > c.to || c.Device != "" && c.Device != string(r.Key) {
		return
	}
	c.sum.Records++
	var m session.Message
	if err := route.Decode(r, &m); err != nil {
		c.find(p.finding(Corrupt, r.Offset, "the record is none of Millrace's: "+err.Error()))
		return
	}
	row := c.rows.at(minute, p.topic.t.Name, string(r.Key), false)
	counted := p.covered(r.Offset)
	if counted {
		row.Found++
		row.sum += route.Digest(r.Value)
	} else {
		row.Uncounted++
		c.rows.uncounted++
	}
	place, ok := c.Table.Place(m.Topic, m.Client)
	if !ok || place.Topic != p.topic.t.Name || place.Key != string(r.Key) || route.Partition(r.Key, p.topic.t.Partitions) != p.pos.Index {
		if key := route.Partition(r.Key, p.topic.t.Partitions) == p.pos.Index; key && p.routedOtherwise(r.Offset, c.Table.Mapping()) {
			p.topic.moved++
			return
		}
		c.find(p.misplaced(r, &m, place, ok))
		return
	}
	if !p.topic.compact {
		p.twin(c, r, &m)
		c.sequence(p, r, &m, place)
	}
}

func (p *partScan) misplaced(r *eventlog.Record, m *session.Message, place route.Place, ok bool) Finding {
	f := p.finding(Misplaced, r.Offset, fmt.Sprintf("a message of %q has key %q here, but no route takes it", clip(m.Topic), clip(string(r.Key))))
	if ok {
		f.Text = fmt.Sprintf("a message of %q has key %q here, but its route leads to topic %q with key %q, partition by key",
			clip(m.Topic), clip(string(r.Key)), place.Topic, clip(place.Key))
	}
	f.Device = clip(string(r.Key))
	return f
}

func clip(s string) string { return strings.Clone(s[:min(len(s), 200)]) }

// tellMoved tells of records that the routes of their time put here.
func (t *topicScan) tellMoved(c *check) {
	if t.moved > 0 {
		c.find(Finding{Kind: Rerouted, Severity: Note, Topic: t.t.Name, Partition: -1, Offset: -1, Count: t.moved,
			Text: fmt.Sprintf("%d records lie where the routes led when they came; the routes of now lead elsewhere. They are counted; their sequences are not followed", t.moved)})
	}
}

// covered tells whether some run has counted an offset.
func (p *partScan) covered(off int64) bool {
	for _, c := range p.covers {
		if off >= c.from && off < c.to {
			return true
		}
	}
	return false
}

// routedOtherwise tells whether a record was written by a run of a node with other routes: that which has counted it, or else the last one
// that had begun before it and was killed before it could.
func (p *partScan) routedOtherwise(off int64, mapping uint64) bool {
	other := func(c *cover) bool { return c.mapping != 0 && c.mapping != mapping }
	var last *cover
	for i := range p.covers {
		c := &p.covers[i]
		if off < c.from {
			continue
		}
		if off < c.to && other(c) {
			return true
		}
		if last == nil || c.from >= last.from {
			last = c
		}
	}
	return last != nil && off >= last.to && other(last)
}

// twin tells that a QoS 2 message is there twice. On a cluster that can be, after a node has crashed: every reader knows it by its mark.
func (p *partScan) twin(c *check, r *eventlog.Record, m *session.Message) {
	if m.QoS2.Incarnation == 0 {
		return
	}
	if first, there := p.triples[m.QoS2]; there {
		f := p.finding(Twin, r.Offset, fmt.Sprintf("the same QoS 2 message of %q is at offset %d already", clip(m.Client), first))
		if f.Device = clip(string(r.Key)); !c.Embedded {
			f.Severity = Note
		}
		c.find(f)
		return
	}
	if len(p.triples) >= maxTriples {
		clear(p.triples)
	}
	p.triples[m.QoS2] = r.Offset
}

// sequence follows the number that a message has, if it has one.
func (c *check) sequence(p *partScan, r *eventlog.Record, m *session.Message, place route.Place) {
	stamp, stamped := stampOf(m)
	if stamped && (c.ledger != nil || c.Stamps) {
		c.stamp(Stamp{Device: stamp.Device, Sequence: stamp.Sequence, Content: sim.ContentHash([]byte(m.Topic), m.Payload)})
	}
	device, number := stamp.Device, stamp.Sequence
	if c.fieldsOf(place.Route).Sequence != "" || !stamped {
		point := c.seqs.extractor(place.Route).Extract(m, place.Key)
		device, number = point.Device, point.Sequence
	}
	if number > 0 && device != "" {
		c.seqs.saw(&sighting{part: p, offset: r.Offset, time: r.Timestamp, route: place.Route, device: device, number: number,
			qos: m.QoS, digest: route.Digest(m.Payload)})
	}
}

func stampOf(m *session.Message) (sim.Stamp, bool) {
	pub := packet.Publish{Payload: m.Payload}
	if m.Props != nil {
		pub.Props.User = m.Props.User
	}
	return sim.ReadStamp(&pub)
}

// foreign looks at a record that a Kafka client has produced.
func (p *partScan) foreign(c *check, r *eventlog.Record) {
	minute := meter.Minute(r.Timestamp)
	if minute < c.from || minute > c.to || c.Device != "" && c.Device != string(r.Key) {
		return
	}
	c.sum.Records++
	row := c.rows.at(minute, p.topic.t.Name, string(r.Key), false)
	row.Foreign++
	if err := c.Table.Foreign(p.topic.t.Name, r); err != nil && !errors.Is(err, route.ErrSkipped) && r.Offset >= p.origin {
		row.Dead++
		c.dead.expect(p, r.Offset)
	}
}

// fieldsOf is where the messages of a route have their sequence.
func (c *check) fieldsOf(index int) fleet.Fields {
	if index >= 0 && index < len(c.Fields) {
		return c.Fields[index]
	}
	return fleet.Fields{}
}
