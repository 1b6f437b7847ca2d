// Package verify proves that it adds up, or names what does not: for a window of time it compares, per minute, log topic and device, what
// the broker counted (package meter) with the records that are in the log and with what became of their deliveries; it follows the
// devices' own sequence numbers; it looks at every record, and at offsets; and it compares a sender's ledger, if there is one.
//
// It reads the log through eventlog.Log, batch by batch, and writes nothing. It starts no goroutine. Its memory is bounded: rows that
// add up are let go as soon as their minute is over, and beyond Options.MaxRows devices of a topic and minute are added up to one.
//
// What a killed node did not get to count is told as that: never as a loss, and never as complete without a word.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/sim"
)

// Options are where and how.
type Options struct {
	Log   *eventlog.Log
	Table *route.Table
	// Fields are where a route's messages have their sequences, by index of the route; the catch-all has the usual ones.
	Fields []fleet.Fields
	// Routes is the table for who has only topics, see Filter.
	Routes []Filter
	// Embedded: offsets have no holes but those of retention and compaction, and all records of ours are of one node.
	Embedded bool
	// Flush has a running node write its counts. Nil: no node is running on the log.
	Flush func(context.Context) error
	Now   func() time.Time
	// Rest is called after every read, with the time that it took: where others need the processor more. May be nil.
	Rest func(time.Duration)

	MaxRows    int // in memory; default 200,000
	MaxDevices int // whose sequences are followed; default 100,000
	MaxShown   int // findings of one kind; default 100. The others are counted
}

// Request is what to verify.
type Request struct {
	From, To time.Time // receive times; whole minutes are checked
	Topic    string    // log topic; "": all that routes lead to
	Device   string    // record key; "": all
	All      bool      // tell about what adds up, too
	Strict   bool      // losses of QoS 0 are wrong
	Stamps   bool      // tell the stamps of simulated messages, for a ledger that is elsewhere
	Ledger   *sim.Ledger
}

const defaultShown = 100

// ErrUnknownTopic says that a request names a topic to which no route leads.
var ErrUnknownTopic = errors.New("no route leads to this topic")

// check is one run.
type check struct {
	Options
	Request
	from, to int64 // minutes, both in
	emitRow  func(Row) error
	emitErr  error

	topics  map[string]*topicScan
	scans   []*partScan
	runs    runs
	rows    rows
	seqs    sequences
	ledger  *LedgerCheck
	stamps  []Stamp
	dead    deadLetters
	sum     Summary
	totals  map[string]*Counts
	refused map[uint64]uint64 // by run: publishes refused, at its last flush in the window
	turned  uint64
	at      int64 // of the last progress
}

// Run verifies and tells emit what it finds, a Summary last. An error means that it could not be checked.
func Run(ctx context.Context, o Options, r Request, emit func(Row) error) (Summary, error) {
	o.MaxRows, o.MaxDevices, o.MaxShown = cmp.Or(o.MaxRows, 200_000), cmp.Or(o.MaxDevices, 100_000), cmp.Or(o.MaxShown, defaultShown)
	if soon := o.Now().Add(24 * time.Hour); r.To.After(soon) {
		r.To = soon // nothing is there yet
	}
	if !r.From.Before(r.To) {
		return Summary{}, fmt.Errorf("the window from %v to %v is empty", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	c := &check{Options: o, Request: r, emitRow: emit, from: meter.Minute(r.From.UnixMilli()), to: meter.Minute(r.To.UnixMilli() - 1),
		topics: map[string]*topicScan{}, totals: map[string]*Counts{}, refused: map[uint64]uint64{}}
	c.rows.init(c)
	c.seqs.init(c)
	c.runs.init(c)
	c.sum = Summary{From: c.from * 60_000, To: (c.to + 1) * 60_000, Kinds: map[Kind]uint64{}, Routes: o.Routes}
	if r.Ledger != nil {
		c.ledger = NewLedgerCheck(r.Ledger)
	}
	if err := c.run(ctx); err != nil {
		return c.sum, err
	}
	return c.sum, c.emitErr
}

func (c *check) run(ctx context.Context) error {
	if c.Flush != nil {
		if err := c.Flush(ctx); err != nil {
			return fmt.Errorf("have the node write its counts: %w", err)
		}
	}
	flushes, err := meter.NewReader(ctx, c.Log, (c.from-before)*60_000)
	if err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	if err := c.runs.read(ctx, flushes.Again()); err != nil { // the log was opened after its end: it has every record that is counted
		return err
	}
	c.trim()
	for m := c.from; m <= c.to && !c.idle(); m = max(m+1, c.earliest()) {
		if err := c.minute(ctx, flushes, m); err != nil {
			return err
		}
	}
	if err := c.flushes(ctx, flushes, 1<<62); err != nil {
		return err
	}
	if err := c.dead.finish(ctx, c); err != nil {
		return err
	}
	if err := c.finish(); err != nil {
		return err
	}
	return ctx.Err()
}

// trim leaves out what a running node logs while it is being verified, and has not written counts about.
func (c *check) trim() {
	for _, s := range c.scans {
		s.covers = c.runs.covers[s.pos.Part]
		s.topic.fresh = c.runs.recreated(s.topic.t.Name, s.topic.t.ID)
		if next, live := c.runs.counted[s.pos.Part]; live {
			s.counted = next
		}
	}
}

// before is how many minutes before the window counts are read: the totals of a run are written once a minute.
const before = 3

// minute goes on to the end of a minute, with the log and with the counts.
func (c *check) minute(ctx context.Context, flushes *meter.Reader, m int64) error {
	end := (m + 1) * 60_000
	for _, p := range c.scans {
		for !p.done && p.time < end {
			began := c.Now()
			if err := p.next(ctx, c); err != nil {
				return err
			}
			if c.Rest != nil {
				c.Rest(c.Now().Sub(began))
			}
			c.progress(m)
			if c.emitErr != nil {
				return c.emitErr
			}
		}
	}
	if err := c.flushes(ctx, flushes, end+late); err != nil {
		return err
	}
	c.rows.settle(m - 1)
	return nil
}

// late is how much later than its minute a count is written, usually, milliseconds.
const late = 15_000

// earliest is the minute that the partition which is furthest behind has come to.
func (c *check) earliest() int64 {
	t := int64(math.MaxInt64)
	for _, p := range c.scans {
		if !p.done {
			t = min(t, p.time)
		}
	}
	return meter.Minute(t)
}

// idle tells that nothing is left to read of the log.
func (c *check) idle() bool {
	return !slices.ContainsFunc(c.scans, func(p *partScan) bool { return !p.done })
}

// flushes takes the counts that were written before a time.
func (c *check) flushes(ctx context.Context, r *meter.Reader, until int64) error {
	for c.rows.time < until {
		f, err := r.Next(ctx)
		if err != nil {
			return err
		}
		if f == nil {
			c.rows.time = 1 << 62
			if r.Broken > 0 {
				c.find(Finding{Kind: Corrupt, Severity: Wrong, Topic: meter.Topic, Partition: -1, Offset: -1, Count: uint64(r.Broken),
					Text: fmt.Sprintf("%d records of the counts are not what the meter writes", r.Broken)})
			}
			break
		}
		c.rows.time = f.Time
		for i := range f.Rows {
			c.count(&f.Rows[i])
		}
		if f.Time >= c.from*60_000 && f.Time < (c.to+1)*60_000+late {
			n := uint64(0)
			for _, r := range f.Refused {
				n += r.N
			}
			if was, known := c.refused[f.Run]; known {
				c.turned += n - was
			} else if f.Began >= c.from*60_000 {
				c.turned += n
			}
			c.refused[f.Run] = n
		}
	}
	return nil
}

// count takes one row of the meter.
func (c *check) count(r *meter.Row) {
	if r.Minute < c.from || r.Minute > c.to || c.Topic != "" && r.Topic != c.Topic || c.Device != "" && r.Device != c.Device {
		return
	}
	k := c.rows.at(r.Minute, r.Topic, r.Device, r.Over)
	for _, n := range r.Counts {
		switch n.Name {
		case meter.Published:
			k.Published += n.N
		case meter.Logged:
			k.Logged += n.N
		case meter.Digest:
			k.digest += uint32(n.N)
		case meter.Unknown:
			k.Unknown += n.N
		case meter.Unlogged:
			k.Unlogged += n.N
		case meter.Owed:
			k.Owed += n.N
		case meter.Delivered:
			k.Delivered += n.N
		default:
			switch prefix, reason, _ := strings.Cut(n.Name, ":"); prefix + ":" {
			case meter.RefusedPrefix:
				add(&k.Refused, reason, n.N)
				if reason == route.DeadLettered {
					c.dead.counted[r.Topic] += n.N
				}
			case meter.FailedPrefix:
				add(&k.Failed, reason, n.N)
			case meter.DroppedPrefix:
				add(&k.Dropped, reason, n.N)
			}
		}
	}
}

func add(m *map[string]uint64, key string, n uint64) {
	if *m == nil {
		*m = map[string]uint64{}
	}
	(*m)[key] += n
}

func total(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// find tells a finding, or only counts it if there were many of its kind.
func (c *check) find(f Finding) {
	if c.sum.count(&f, c.Strict); c.sum.Kinds[f.Kind] <= uint64(c.MaxShown) {
		c.emit(Row{Finding: &f})
	}
}

// count puts a finding into the sums. With strict, losses of QoS 0 are wrong.
func (s *Summary) count(f *Finding, strict bool) {
	if f.Severity == Loss && strict {
		f.Severity = Wrong
	}
	switch f.Severity {
	case Wrong:
		s.Wrong++
	case Loss:
		s.Losses++
	case Note:
		s.Notes++
	}
	s.Kinds[f.Kind]++
}

// emit passes a row on; after an error nothing more is told.
func (c *check) emit(r Row) {
	if c.emitErr == nil {
		c.emitErr = c.emitRow(r)
	}
}

// progress tells how far it is, now and then.
func (c *check) progress(m int64) {
	now := c.Now().UnixMilli()
	if now-c.at < 500 {
		return
	}
	c.at = now
	c.emit(Row{Progress: &Progress{Records: c.sum.Records, Minute: m * 60_000, Done: int((m - c.from) * 100 / (c.to - c.from + 1))}})
}

// stamp tells a stamp to whoever has the ledger.
func (c *check) stamp(s Stamp) {
	if c.ledger != nil {
		c.ledger.Saw(s)
	}
	if !c.Stamps {
		return
	}
	s.Device = strings.Clone(s.Device)
	if c.stamps = append(c.stamps, s); len(c.stamps) >= 256 {
		c.tellStamps()
	}
}

func (c *check) tellStamps() {
	if len(c.stamps) > 0 {
		c.emit(Row{Stamps: c.stamps})
		c.stamps = nil
	}
}

// finish makes the result of what was gathered.
func (c *check) finish() error {
	c.tellStamps()
	c.runs.finish()
	c.rows.finish()
	for _, name := range sortedNames(c.topics) {
		c.topics[name].tellMoved(c)
	}
	if c.sum.Records == 0 && c.sum.Kinds[NotRouted] > 0 {
		return errors.New("no route of this configuration leads to the topics that have records: name the node's own with --config")
	}
	c.seqs.finish()
	if c.turned > 0 {
		c.find(Finding{Kind: Refusals, Severity: Note, Partition: -1, Offset: -1, Count: c.turned,
			Text: fmt.Sprintf("%d publishes were refused, for any reason; their senders were told, at QoS 1 and 2", c.turned)})
	}
	if c.ledger != nil {
		c.ledger.Finish(c.Routes, c.find)
	}
	for _, name := range sortedNames(c.totals) {
		c.emit(Row{Counts: c.totals[name]})
	}
	s := &c.sum
	s.Complete = s.Wrong == 0
	s.Text = s.words()
	c.emit(Row{Summary: s})
	return nil
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (s *Summary) words() string {
	window := fmt.Sprintf("%d records from %s to %s", s.Records, clock(s.From), clock(s.To))
	switch {
	case s.Wrong > 0:
		return fmt.Sprintf("NOT COMPLETE: %s; %d findings are wrong", window, s.Wrong)
	case s.Runs == 0:
		return fmt.Sprintf("nothing is known to be missing, but nobody counted: %s", window)
	case s.Losses > 0:
		return fmt.Sprintf("complete: %s; but %d findings are losses of QoS 0, where nothing is promised", window, s.Losses)
	case s.Notes > 0:
		return fmt.Sprintf("complete, as far as it is known: %s; see the notes", window)
	}
	return "complete: " + window
}

func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05Z") }
