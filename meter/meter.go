// Package meter counts what became of every message, per minute, log topic and device, and keeps the counts in the log topic
// __millrace_meter, where package verify compares them with the log itself.
//
// The minute is that of the record's timestamp, the device is the record's key; so a count says which records it is about. What
// publishers sent is counted where it enters (route's Append), what the log answered where the answer comes, and deliveries by the
// session core through the Tally that each message brings. Counts are added up in memory and written as additive deltas every few
// seconds. Each flush says up to which offset of every partition it counts: what a crash leaves uncounted is known to be uncounted.
//
// A Meter owns one goroutine, which flushes. It is bounded: beyond Options.MaxRows new rows in a minute, devices of a topic share one
// row, as do those whose names have more than 1 KiB. It never looks into a payload (but for a checksum), never refuses or delays a
// message, and never counts one twice.
package meter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Topic is the name of the meter's log topic.
const Topic = eventlog.InternalPrefix + "meter"

// Minute is the minute of a time in milliseconds since 1970.
func Minute(ms int64) int64 { return ms / 60_000 }

// Options say how a Meter is built.
type Options struct {
	Log   *eventlog.Log
	Run   uint64       // names this run of the node; no other run has the same
	Now   func() int64 // milliseconds since 1970, never goes back: the clock of the records
	Every time.Duration
	// Retention is how long counts are kept: as long as the records that are kept longest. 0: the log's default; negative: for ever.
	Retention time.Duration
	Logger    *slog.Logger // default: discards

	// Mapping names how MQTT topics lead to places in the log in this run (route.Table.Mapping), so that a reader of its counts knows when
	// records lie where other routes have led; 0: it is not known.
	Mapping uint64

	// MaxRows is how many rows may begin in a minute; default 65,536. The devices beyond it share one row per topic and minute.
	MaxRows int
}

// Meter counts. It is safe for concurrent use.
type Meter struct {
	o     Options
	topic eventlog.Topic
	part  eventlog.Part
	began int64

	counted eventlog.Vector // what earlier runs counted of deliveries

	gates  [gates]gate
	half   uint8 // where counts go at present; changes while every gate is held
	seed   maphash.Seed
	shards [shards]shard
	fresh  atomic.Int64 // rows that began in this minute
	over   atomic.Int64 // and did not, since there were too many

	mu         sync.Mutex // of the next four
	topics     map[string]*Topics
	parts      []*Part
	byPart     map[eventlog.Part]*Part
	deliveries func(context.Context) []session.Counts
	refused    func() map[string]int64

	flushing sync.Mutex // held by one flush
	seq      uint64
	books    map[bookKey]BookCount // as they were written last
	minute   int64                 // of the last flush
	unsent   []*eventlog.Batch

	quit chan struct{}
	work sync.WaitGroup
}

const (
	gates        = 8
	shards       = 64
	shardCells   = 1024 // of one generation: 131,072 rows in memory at most
	defaultRows  = 64 << 10
	defaultEvery = 5 * time.Second
)

// gate lets counting go on at the same time, but not while the halves change.
type gate struct {
	sync.RWMutex
	_ [40]byte // a cache line of its own
}

// Open makes the meter's topic if it is missing, and finds out how far earlier runs have counted.
func Open(ctx context.Context, o Options) (*Meter, error) {
	o.Every, o.MaxRows = cmp.Or(o.Every, defaultEvery), cmp.Or(o.MaxRows, defaultRows)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	m := &Meter{o: o, began: o.Now(), seed: maphash.MakeSeed(), topics: map[string]*Topics{}, byPart: map[eventlog.Part]*Part{},
		counted: eventlog.Vector{}, quit: make(chan struct{})}
	var err error
	if err = m.openTopic(ctx); err != nil {
		return nil, fmt.Errorf("topic %q: %w", Topic, err)
	}
	m.part = eventlog.Part{Topic: m.topic.ID}
	if err := m.resume(ctx); err != nil {
		return nil, fmt.Errorf("read topic %q: %w", Topic, err)
	}
	return m, nil
}

// openTopic makes the topic, and has it keep counts as long as the records they are about.
func (m *Meter) openTopic(ctx context.Context) (err error) {
	config := map[string]string{}
	if m.o.Retention != 0 {
		config["retention.ms"] = strconv.FormatInt(max(m.o.Retention.Milliseconds(), -1), 10)
	}
	if m.topic, err = m.o.Log.Ensure(ctx, eventlog.TopicSpec{Name: Topic, Partitions: 1, Config: config}); err != nil {
		return err
	}
	if want := config["retention.ms"]; want != "" && m.topic.Config["retention.ms"] != want {
		return m.o.Log.ConfigureTopic(ctx, Topic, map[string]*string{"retention.ms": &want})
	}
	return nil
}

// resume reads how far deliveries were counted by those who came before.
func (m *Meter) resume(ctx context.Context) error {
	last, err := lastTime(ctx, m.o.Log, m.part)
	if err != nil || last < 0 {
		return err
	}
	r, err := NewReader(ctx, m.o.Log, last-fullEvery)
	if err != nil {
		return err
	}
	for {
		f, err := r.Next(ctx)
		if f == nil || err != nil {
			return err
		}
		for i := range f.Books {
			b := &f.Books[i]
			m.counted[b.Part] = max(m.counted[b.Part], b.Matched)
		}
	}
}

// Counted is the offset below which the deliveries of a partition were counted by earlier runs.
func (m *Meter) Counted(p eventlog.Part) int64 { return m.counted[p] }

// Sources are what a flush asks for what the meter does not count itself. Each may be nil.
type Sources struct {
	// Deliveries hands over what the session cores have counted since the last call.
	Deliveries func(context.Context) []session.Counts
	// Refused is how many publishes were refused before a route saw them, by reason, since the run began.
	Refused func() map[string]int64
}

// Start writes the first flush, which says where in each partition this run begins, and then flushes now and then.
func (m *Meter) Start(ctx context.Context) error {
	if err := m.Flush(ctx); err != nil {
		return err
	}
	m.work.Go(func() {
		tick := time.NewTicker(m.o.Every)
		defer tick.Stop()
		failing := false
		for {
			select {
			case <-tick.C:
			case <-m.quit:
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), flushTime)
			err := m.Flush(ctx)
			cancel()
			if err != nil && !failing && !errors.Is(err, eventlog.ErrClosed) {
				m.o.Logger.Warn("counts of messages cannot be written, and wait", "topic", Topic, "err", err)
			}
			failing = err != nil
		}
	})
	return nil
}

const flushTime = 10 * time.Second

// Follow sets the sources.
func (m *Meter) Follow(s Sources) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deliveries, m.refused = s.Deliveries, s.Refused
}

// Close writes the last flush, which says that nothing is uncounted. The log stays open.
func (m *Meter) Close(ctx context.Context) error {
	select {
	case <-m.quit:
		return nil
	default:
	}
	close(m.quit)
	m.work.Wait()
	return m.flush(ctx, true)
}

// Flush writes what has been counted. Once it returns, everything that was answered before the call is in the log topic.
func (m *Meter) Flush(ctx context.Context) error { return m.flush(ctx, false) }

func (m *Meter) flush(ctx context.Context, clean bool) error {
	m.flushing.Lock()
	defer m.flushing.Unlock()
	if len(m.unsent) > 0 { // the last one failed; under the same number, so that it counts once
		if err := m.send(ctx); err != nil {
			return err
		}
	}
	f := m.collect(ctx, clean)
	if f.empty() {
		return nil
	}
	var err error
	if m.unsent, err = f.batches(m.part); err != nil {
		return fmt.Errorf("encode flush: %w", err)
	}
	m.seq++
	return m.send(ctx)
}

// send writes what is unsent. A batch whose outcome is not known is sent again: readers know a flush by its number.
func (m *Meter) send(ctx context.Context) error {
	for len(m.unsent) > 0 {
		b := m.unsent[0]
		own := eventlog.NewRawBatch(b.Part, slices.Clone(b.Raw())) // the log owns what it is given
		o, err := m.o.Log.AppendWait(ctx, own)
		for i := 0; i < b.Len() && err == nil; i++ {
			err = o.At(i).Err
		}
		if err != nil {
			return fmt.Errorf("append to topic %q: %w", Topic, err)
		}
		m.unsent = m.unsent[1:]
	}
	return nil
}

// collect takes everything that was counted so far.
func (m *Meter) collect(ctx context.Context, clean bool) *Flush {
	m.mu.Lock()
	deliveries, refused := m.deliveries, m.refused
	m.mu.Unlock()
	f := &Flush{Run: m.o.Run, Seq: m.seq, Began: m.began, Clean: clean, Mapping: m.o.Mapping}
	rows := rowIndex{f: f, at: map[*Cell]int{}}
	if deliveries != nil {
		for _, c := range deliveries(ctx) {
			rows.deliveries(&c)
		}
	}
	cells, half := m.flip()
	for _, c := range cells {
		rows.cell(c, half)
	}
	f.Time = m.o.Now()
	full := Minute(f.Time) != m.minute || clean
	if Minute(f.Time) != m.minute {
		m.minute = Minute(f.Time)
		m.fresh.Store(0)
	}
	m.changedBooks(f, full)
	m.mu.Lock()
	for _, p := range m.parts {
		if changed := p.fold(half); changed || full {
			f.Parts = append(f.Parts, p.total)
		}
	}
	m.mu.Unlock()
	f.Overflow = uint64(m.over.Load())
	if refused != nil {
		for reason, n := range refused() {
			f.Refused = append(f.Refused, Count{reason, uint64(n)})
		}
		slices.SortFunc(f.Refused, func(a, b Count) int { return cmp.Compare(a.Name, b.Name) })
	}
	f.full = full
	return f
}

type bookKey struct {
	part eventlog.Part
	life uint64
}

// changedBooks leaves out the books that are as they were written last.
func (m *Meter) changedBooks(f *Flush, full bool) {
	if full || m.books == nil {
		m.books = map[bookKey]BookCount{} // those of cores that are no more are forgotten
	}
	f.Books = slices.DeleteFunc(f.Books, func(b BookCount) bool {
		k := bookKey{b.Part, b.Life}
		was, known := m.books[k]
		if known && !b.Known { // it was not the time to make them
			b.Known, b.Book = was.Known, was.Book
		}
		m.books[k] = b
		return known && was == b
	})
}

// fullEvery is how far back one finds, at most, the last flush that names every partition, milliseconds.
const fullEvery = 3 * 60_000

// flip lets counts go to the other half, and returns the cells that counted in this one, which is at rest now.
func (m *Meter) flip() (cells []*Cell, half uint8) {
	for i := range m.gates {
		m.gates[i].Lock()
	}
	half = m.half
	m.half ^= 1
	for i := range m.gates {
		m.gates[i].Unlock()
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		cells = append(cells, s.listed[half]...)
		s.listed[half] = nil
		s.mu.Unlock()
	}
	return cells, half
}

// rowIndex gathers rows; a cell has one.
type rowIndex struct {
	f  *Flush
	at map[*Cell]int
}

func (x *rowIndex) row(c *Cell) *Row {
	i, ok := x.at[c]
	if !ok {
		i = len(x.f.Rows)
		x.at[c] = i
		x.f.Rows = append(x.f.Rows, Row{Minute: c.minute, Topic: c.topic.name, Device: c.device, Over: c.over})
	}
	return &x.f.Rows[i]
}

// cell takes what a cell has counted in a half that is at rest.
func (x *rowIndex) cell(c *Cell, half uint8) {
	h := &c.halves[half]
	h.listed.Store(false)
	r := x.row(c)
	r.add(Published, uint64(h.published.Swap(0)))
	r.add(Logged, uint64(h.logged.Swap(0)))
	r.add(Digest, uint64(h.digest.Swap(0)))
	r.add(Unknown, uint64(h.unknown.Swap(0)))
	r.add(Unlogged, uint64(h.unlogged.Swap(0)))
	c.mu.Lock()
	reasons := h.reasons
	h.reasons = nil
	c.mu.Unlock()
	for _, n := range reasons {
		r.add(n.Name, n.N)
	}
}

func (x *rowIndex) deliveries(c *session.Counts) {
	for i := range c.Tallies {
		t := &c.Tallies[i]
		cell, ok := t.Row.(*Cell)
		if !ok {
			continue
		}
		r := x.row(cell)
		r.add(Owed, uint64(t.Owed))
		r.add(Delivered, uint64(t.Delivered))
		for _, d := range t.Dropped {
			r.add(DroppedPrefix+d.Reason, uint64(d.N))
		}
	}
	books := map[session.Part]int{}
	for i := range c.Books {
		books[c.Books[i].Part] = i
	}
	for p, next := range c.Matched {
		b := BookCount{Part: eventlog.Part{Topic: p.Topic, Index: p.Index}, Life: uint64(c.Life), Matched: next}
		if i, ok := books[p]; ok {
			b.Known, b.Book = true, c.Books[i]
		}
		x.f.Books = append(x.f.Books, b)
	}
	slices.SortFunc(x.f.Books, func(a, b BookCount) int {
		return cmp.Or(cmp.Compare(a.Life, b.Life), slices.Compare(a.Part.Topic[:], b.Part.Topic[:]), cmp.Compare(a.Part.Index, b.Part.Index))
	})
}
