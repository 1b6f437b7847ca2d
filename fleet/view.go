package fleet

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Options say how a View is built.
type Options struct {
	Sources []Source // what Place's source is an index into
	// Place tells the source and the record key of a message; false: it belongs to none. It is called for each message.
	Place func(topic, client string) (source int, key string, ok bool)
	// Ends is where the log ended when the view was made: what lies before is history, of which no latency is taken.
	Ends session.Vector

	MaxDevices int // default 200,000, of about 500 bytes each; the one not heard for longest is forgotten
	MaxTracks  int // devices whose recent positions are kept, in about 2 KB each; default 10,000
}

// Source is one route, as the console shows it.
type Source struct {
	Name   string // the log topic
	Kind   string // recorded, simulated or empty
	Label  string // what the map calls it; empty: as Name
	Credit string // what whoever shows its devices must show too
	Fields Fields
}

// StaleAfter is how long a device may say nothing before it is shown as stale.
const StaleAfter = 60 * time.Second

// View is the fleet. Add, Gap and Tick are of one goroutine; everything else is safe for concurrent use.
type View struct {
	o          Options
	extractors []*Extractor
	stages     [stages]metrics.Histogram
	set        atomic.Pointer[frameSet] // of the last tick; nil: nobody looks on

	mu     sync.RWMutex
	ids    map[string]*entry
	slots  []*entry // by slot
	free   []uint32 // slots that nobody has
	gone   []*entry // forgotten since the last tick: their slots are not free yet
	fresh  list
	stale  list
	tracks int

	holes uint64 // in what the view has seen: after each, sequences begin anew
	load  load

	board  board
	totals Totals // what is not counted elsewhere
	refuse [refusals]uint64
}

// New returns an empty view.
func New(o Options) (*View, error) {
	o.MaxDevices, o.MaxTracks = cmp.Or(o.MaxDevices, 200_000), cmp.Or(o.MaxTracks, 10_000)
	v := &View{o: o, ids: map[string]*entry{}, load: load{keep: keepAll}, board: newBoard()}
	for i := range o.Sources {
		e, err := Compile(o.Sources[i].Fields)
		if err != nil {
			return nil, fmt.Errorf("fields of source %q: %w", o.Sources[i].Name, err)
		}
		v.extractors = append(v.extractors, e)
	}
	return v, nil
}

// Sources lists the sources by their ids.
func (v *View) Sources() []Source { return v.o.Sources }

// Add takes stable messages, in log order. It keeps nothing of the batch but topics.
func (v *View) Add(now time.Time, b *session.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	end := v.o.Ends[b.Part]
	var at placed
	for i := range b.Msgs {
		m := &b.Msgs[i]
		v.totals.Records++
		live := m.Offset >= end
		if !live {
			v.totals.History++
		} else if !v.load.afford(m) {
			v.totals.Shed++
			v.holes++
			continue
		}
		if m.Topic != at.topic || m.Client != at.client || i == 0 {
			at = placed{topic: m.Topic, client: m.Client}
			at.source, at.key, at.ok = v.o.Place(m.Topic, m.Client)
		}
		v.take(now, m, &at, live)
	}
}

// placed is where the messages of a topic and a client belong; in a batch many come in a row.
type placed struct {
	topic, client, key string
	source             int
	ok                 bool
}

// load bounds the time that the view takes for live messages: devices come before those who look at them. History is bounded by who
// reads it.
type load struct {
	asked int    // cost of the messages since the last tick
	spent int    // of these, on those that were taken
	keep  uint64 // how many in 1<<32 are taken; all, unless there were too many in the tick before
	ticks uint64
}

// A message costs about as much time as reading so many bytes, beside those of its payload; and what is read in a tick, at most, keeps the
// view below a tenth of a core: about 90,000 messages of 300 bytes.
const (
	messageCost = 256
	maxCost     = 50 << 20
	keepAll     = 1 << 32
)

// afford tells whether there is time for a message. When there are too many, those that are taken are spread evenly: a device that speaks
// at the same moment of each second is not always left out.
func (l *load) afford(m *session.Message) bool {
	cost := messageCost + min(len(m.Payload), maxText)
	l.asked += cost
	const golden = 0x9e3779b97f4a7c15 // its multiples are spread as evenly as can be
	if l.spent > maxCost || (uint64(m.Offset)+l.ticks)*golden>>32 >= l.keep {
		return false
	}
	l.spent += cost
	return true
}

func (l *load) tick() {
	l.keep = keepAll
	if l.asked > maxCost {
		l.keep = keepAll / 10 * 9 * maxCost / uint64(l.asked)
	}
	l.asked, l.spent = 0, 0
	l.ticks++
}

func (v *View) take(now time.Time, m *session.Message, at *placed, live bool) {
	if m.Client == "" || m.Will != 0 {
		v.totals.Foreign++
		return
	}
	source := at.source
	if !at.ok || v.extractors[source].noDevice {
		v.totals.Unplaced++
		return
	}
	p := v.extractors[source].Extract(m, at.key)
	v.refuse[p.Refused]++
	if p.Device == "" {
		return
	}
	e := v.entry(p.Device)
	if e == nil {
		v.refuse[TooMany]++
		return
	}
	v.totals.Messages++
	e.live = live
	order := v.count(e, source, &p)
	lag := v.time(now, e, m, &p, order)
	if p.HasPosition {
		v.begins(e)
	}
	if e.update(m, source, &p, order, lag) {
		v.totals.Positions++
	}
	v.touch(now, e)
}

// time takes a message's latency so far and returns the first part of it, until it was received, µs. One that came before is no measure.
func (v *View) time(now time.Time, e *entry, m *session.Message, p *Point, order order) (lag int64) {
	if p.Sent.IsZero() || order == repeated {
		return 0
	}
	sent, received := p.Sent.UnixMicro(), m.Time*1000
	_, was := e.clock.offset()
	e.clock.sample(received-sent, m.Time)
	off, skewed := e.clock.offset()
	if was != skewed {
		v.totals.Skewed += 1 - 2*asInt(was)
	}
	lag = max(0, received-sent-off)
	if e.live && e.clock.known() {
		v.stages[stageReceive].Record(time.Duration(lag) * time.Microsecond)
		v.stages[stageCommit].Record(time.Duration(now.UnixMicro()-sent-off) * time.Microsecond)
	}
	return lag
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// entry finds or makes a device; nil: too many have been forgotten since the last tick.
func (v *View) entry(id string) *entry {
	if e := v.ids[id]; e != nil {
		return e
	}
	if len(v.ids) >= v.o.MaxDevices {
		if len(v.gone) >= max(1000, v.o.MaxDevices/4) {
			return nil
		}
		v.forget(cmp.Or(v.stale.back, v.fresh.back))
	}
	e := &entry{id: strings.Clone(id), speed: -1, heading: -1}
	e.folded = strings.ToLower(e.id)
	if n := len(v.free); n > 0 {
		e.slot, v.free = v.free[n-1], v.free[:n-1]
		v.slots[e.slot] = e
	} else {
		e.slot = uint32(len(v.slots))
		v.slots = append(v.slots, e)
	}
	v.ids[e.id] = e
	v.fresh.push(e)
	return e
}

// forget drops a device. Its slot is free once the pages have been told.
func (v *View) forget(e *entry) {
	v.listOf(e).remove(e)
	delete(v.ids, e.id)
	v.gone = append(v.gone, e)
	v.totals.Forgotten++
	if e.positioned {
		v.totals.Positions--
	}
	if _, skewed := e.clock.offset(); skewed {
		v.totals.Skewed--
	}
	if e.track != nil {
		e.track = nil
		v.tracks--
	}
	e.gone = true
	v.board.changed(e.slot)
	if mutant("reuse") {
		v.release()
	}
}

func (v *View) listOf(e *entry) *list {
	if e.stale {
		return &v.stale
	}
	return &v.fresh
}

// touch puts a device that was heard in its place.
func (v *View) touch(now time.Time, e *entry) {
	v.listOf(e).remove(e)
	e.stale = now.UnixMilli()-e.seen > StaleAfter.Milliseconds()
	v.listOf(e).push(e)
	v.board.changed(e.slot)
}

// age makes those stale that were not heard for a while. The fresh are in the order in which they were heard, so the oldest come first.
func (v *View) age(now time.Time) {
	for e := v.fresh.back; e != nil && now.UnixMilli()-e.seen > StaleAfter.Milliseconds(); e = v.fresh.back {
		v.fresh.remove(e)
		e.stale = true
		v.stale.push(e)
		v.board.changed(e.slot)
	}
}

// release frees the slots of those that the pages were told to be gone.
func (v *View) release() {
	for _, e := range v.gone {
		v.slots[e.slot] = nil
		v.free = append(v.free, e.slot)
	}
	v.gone = nil
}

// begins begins a track, if there is room for one.
func (v *View) begins(e *entry) {
	if e.track == nil && v.tracks < v.o.MaxTracks {
		e.track = &track{}
		v.tracks++
	}
}

// Gap says that messages were lost to the view: what is missing in sequences now is not the devices' fault.
func (v *View) Gap() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.totals.Gaps++
	v.holes++
}

// Stage is how long after their sending messages got somewhere, by the devices' clocks as far as they can be trusted (see clock).
type Stage struct {
	Name      string // receive, commit (the view has it), console (a frame has it), browser (it is drawn)
	Histogram *metrics.Histogram
}

const (
	stageReceive = iota
	stageCommit
	stageConsole
	stageBrowser
	stages
)

// Stages lists the stages in order. Their histograms live as long as the view.
func (v *View) Stages() []Stage {
	h := &v.stages
	return []Stage{{"receive", &h[stageReceive]}, {"commit", &h[stageCommit]}, {"console", &h[stageConsole]}, {"browser", &h[stageBrowser]}}
}

// Totals is the fleet in numbers.
type Totals struct {
	Devices   int // known now
	Positions int // of these, with a position
	Stale     int // of these, not heard for StaleAfter
	Skewed    int // of these, with a clock that is off
	Clients   int // pages that look on

	Records   uint64            // that there were: Messages, Foreign, Unplaced, Shed, and what was refused for its device
	History   uint64            // of these, received before the view began
	Messages  uint64            // of known devices
	Foreign   uint64            // left out, since no device sent them: records of Kafka clients, wills
	Unplaced  uint64            // left out: of no source, or of a source without devices
	Shed      uint64            // left out, since there were too many in a second: devices come before those who look at them
	Forgotten uint64            // devices
	Gaps      uint64            // holes in the log that the view went over
	Refused   map[string]uint64 // by Refusal; those of positions are of messages that were taken
	Sequences
}

// Sequences counts what sequence numbers tell.
type Sequences struct {
	Missing   uint64 // numbers passed over and not seen since
	Repeated  uint64 // numbers seen again
	Reordered uint64 // numbers that came after a later one
	Restarted uint64 // times that a device began to count anew
}

// Totals returns the fleet in numbers.
func (v *View) Totals() Totals {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t := v.totals
	t.Devices, t.Stale, t.Clients = len(v.ids), v.stale.n, v.board.clients
	t.Refused = map[string]uint64{}
	for r := NotRefused + 1; r < refusals; r++ {
		t.Refused[r.String()] = v.refuse[r]
	}
	return t
}
