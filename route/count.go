package route

import (
	"errors"
	"hash/crc32"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/session"
)

// counting is what the store has of the meter; without one nothing is counted. A message is counted as published where it
// enters Append, before anything has been made of it, and as logged from the log's answer: between the two lies all that could lose it.
type counting struct {
	meter   *meter.Meter
	topics  []*meter.Topics // by Table.topics
	discard []*meter.Topics // by route.index, of `store: false` routes
	none    *meter.Topics   // for what no route takes
}

// Unstored begins the name under which the meter counts the messages of a `store: false` route, which has no log topic; the route's
// filter follows. NoRoute is that of what no route takes.
const (
	Unstored = "store: false "
	NoRoute  = "no route"
)

func newCounting(m *meter.Meter, t *Table) counting {
	if m == nil {
		return counting{}
	}
	c := counting{meter: m, none: m.Topic(NoRoute)}
	for _, p := range t.topics {
		c.topics = append(c.topics, m.Topic(p.name))
	}
	c.discard = make([]*meter.Topics, len(t.routes)+1)
	for _, r := range t.routes {
		if r.Discard {
			c.discard[r.index] = m.Topic(Unstored + r.MQTT)
		}
	}
	return c
}

// follow makes the counters of a topic's partitions, which have these ends now.
func (c *counting) follow(p *places, topic int, ends map[eventlog.Part]int64) {
	if c.meter == nil {
		return
	}
	for len(p.counts) <= topic {
		p.counts = append(p.counts, nil)
	}
	t := p.topics[topic]
	list := make([]*meter.Part, t.Partitions)
	for i := range list {
		part := eventlog.Part{Topic: t.ID, Index: int32(i)}
		list[i] = c.meter.Part(part, t.Name, ends[part])
	}
	p.counts[topic] = list
}

func (p *places) counter(topic int, index int32) *meter.Part {
	if p.counts == nil {
		return nil
	}
	return p.counts[topic][index]
}

// cell is where a message is counted; nil without a meter.
func (s *Store) cell(r *resolved, client string, e *entry) *meter.Cell {
	if !e.on {
		return nil
	}
	if c := r.cell.Load(); c != nil && c.Minute() == e.minute && (r.key != nil || c.Is(e.minute, client)) {
		return c
	}
	device := client
	if r.key != nil {
		device = stringOf(r.key)
	}
	topic := s.count.none
	switch {
	case r.route == nil:
	case r.route.Discard:
		topic, device = s.count.discard[r.route.index], ""
	default:
		topic = s.count.topics[r.route.topic]
	}
	c := topic.Cell(e.minute, device)
	r.cell.Store(c)
	return c
}

func (c *counting) digest(payload []byte) uint32 {
	if c.meter == nil {
		return 0
	}
	return Digest(payload)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest is the checksum of a payload that the meter adds up: CRC-32C.
func Digest(payload []byte) uint32 { return crc32.Checksum(payload, castagnoli) }

func tallyOf(c *meter.Cell) *session.Tally {
	if c == nil {
		return nil
	}
	return c.Tally()
}

// tally is that of a record which is read back.
func (c *counting) tally(topic int, r *eventlog.Record) *session.Tally {
	if c.meter == nil {
		return nil
	}
	return c.topics[topic].Cell(meter.Minute(r.Timestamp), stringOf(r.Key)).Tally()
}

// leaveOut takes the tally off messages of the tail that a run before this one has counted as owed.
func (c *counting) leaveOut(p eventlog.Part, msgs []session.Message) {
	if c.meter == nil || len(msgs) == 0 {
		return
	}
	counted := c.meter.Counted(p)
	for i := range msgs {
		if msgs[i].Offset >= counted {
			return
		}
		msgs[i].Tally = nil
	}
}

// entry counts one call of Append, runs of messages of one cell at once.
type entry struct {
	meter.Entry
	on     bool
	minute int64
	cell   *meter.Cell
	n      uint32
}

func (c *counting) enter(lane uint32, now int64) entry {
	if c.meter == nil {
		return entry{}
	}
	return entry{Entry: c.meter.Enter(lane), on: true, minute: meter.Minute(now)}
}

func (e *entry) leave() {
	if e.on {
		e.Leave()
	}
}

func (e *entry) published(c *meter.Cell) {
	if c != e.cell {
		e.settle()
		e.cell = c
	}
	e.n++
}

func (e *entry) settle() {
	if e.cell != nil && e.n > 0 {
		e.cell.Published(e.Entry, e.n)
	}
	e.cell, e.n = nil, 0
}

func (e *entry) refused(c *meter.Cell, reason string) {
	if e.on {
		c.Refused(e.Entry, reason)
	}
}

func (e *entry) unlogged(c *meter.Cell) *session.Tally {
	if !e.on {
		return nil
	}
	c.Unlogged(e.Entry, 1)
	return c.Tally()
}

// planned counts what was accepted for each partition.
func (e *entry) planned(plans []plan) {
	e.settle()
	for i := range plans {
		if p := &plans[i]; p.counter != nil {
			p.counter.Published(e.Entry, p.count)
		}
	}
}

// sent counts what goes to the log.
func (e *entry) sent(out []*outgoing) {
	for _, o := range out {
		if o.counter != nil {
			o.counter.Sent(e.Entry, len(o.from))
		}
	}
}

// run is how many messages in a row of a batch are of one cell.
type run struct {
	cell   *meter.Cell
	n      int
	digest uint32 // of all of them
}

// runOf adds a message to the runs.
func (o *outgoing) runOf(st *step) {
	if n := len(o.runs); n > 0 && o.runs[n-1].cell == st.cell {
		o.runs[n-1].n++
		o.runs[n-1].digest += st.digest
	} else if st.cell != nil {
		o.runs = append(o.runs, run{st.cell, 1, st.digest})
	}
}

// count counts what became of a batch.
func (o *outgoing) count(outcome *eventlog.Outcome) {
	if o.counter == nil {
		return
	}
	e := entry{Entry: o.store.count.meter.EnterAnswer(), on: true}
	defer e.leave()
	if outcome.Err == nil && outcome.Each == nil {
		for _, run := range o.runs {
			run.cell.Logged(e.Entry, uint32(run.n), run.digest)
		}
		o.counter.Logged(e.Entry, len(o.from), outcome.Base+int64(len(o.from)))
		return
	}
	logged, next, i := 0, int64(0), 0
	for _, run := range o.runs {
		n, digest := uint32(0), uint32(0)
		for ; run.n > 0; run.n-- {
			switch r := outcome.At(i); {
			case r.Err == nil:
				n, digest, next = n+1, digest+o.from[i].digest, r.Offset+1
			case errors.Is(r.Err, eventlog.ErrUnknownOutcome), errors.Is(r.Err, eventlog.ErrClosed):
				run.cell.Unknown(e.Entry, 1)
				o.counter.Unknown(e.Entry, 1)
			default:
				run.cell.Failed(e.Entry, reason(r.Err))
				o.counter.Refused(e.Entry, 1)
			}
			i++
		}
		if n > 0 {
			run.cell.Logged(e.Entry, n, digest)
			logged += int(n)
		}
	}
	o.counter.Logged(e.Entry, logged, next)
}
