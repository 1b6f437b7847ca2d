package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/fleet"
)

// sequences follows the numbers that devices put into their messages. A number that is missing, that comes again or late is named. What
// a route's fields.sequence says counts the messages of one device on that route; the simulator's counts all messages of a device.
type sequences struct {
	c          *check
	extractors map[int]*fleet.Extractor
	streams    map[streamKey]*stream
	left       int // devices that are too many
	qos1       uint64
}

type streamKey struct {
	route  int // everyRoute: the numbers count all messages of the device
	device string
}

const everyRoute = -2

// sighting is a record with a number.
type sighting struct {
	part   *partScan
	offset int64
	time   int64
	route  int
	device string
	number uint64
	qos    byte
	digest uint32
}

// stream is one device's numbers.
type stream struct {
	key      streamKey
	topic    string
	now, was *life // since it began anew, and before
	missing  []Span
	n        uint64 // of missing, also those that are not listed
	late     int64  // time of what came after the last of missing
	qos      [3]uint64
}

// life is the numbers of a device between two restarts.
type life struct {
	began   int64
	newest  int64
	first   uint64
	spans   []span
	highest []high // per partition
	recent  [16]seen
	at      int
}

type span struct {
	Span
	time int64 // of its first record
}

type high struct {
	part *partScan
	n    uint64
}

type seen struct {
	n      uint64
	digest uint32
}

const (
	maxSpans  = 512 // holes that may still be filled, per device
	maxListed = 20  // missing numbers that are named, per device, in runs
	tail      = 10_000
)

func (q *sequences) init(c *check) {
	q.c, q.extractors, q.streams = c, map[int]*fleet.Extractor{}, map[streamKey]*stream{}
}

// extractor finds the fields of a route's messages. What cannot be compiled was refused with the configuration.
func (q *sequences) extractor(index int) *fleet.Extractor {
	e := q.extractors[index]
	if e == nil {
		var err error
		if e, err = fleet.Compile(q.c.fieldsOf(index)); err != nil {
			e, _ = fleet.Compile(fleet.Fields{})
		}
		q.extractors[index] = e
	}
	return e
}

func (q *sequences) saw(s *sighting) {
	k := streamKey{everyRoute, s.device}
	if q.c.fieldsOf(s.route).Sequence != "" {
		k.route = s.route
	}
	st := q.streams[k]
	if st == nil {
		if len(q.streams) >= q.c.MaxDevices {
			q.left++
			return
		}
		k.device = strings.Clone(s.device)
		st = &stream{key: k, topic: s.part.topic.t.Name, now: newLife(s)}
		q.streams[k] = st
	}
	st.qos[min(s.qos, 2)]++
	q.c.sum.Sequenced++
	l := st.now
	if st.was != nil && s.time < l.began {
		l = st.was // a partition that is read later
	}
	switch {
	case l.has(s.number):
		q.again(st, l, s)
	case s.number < l.first && s.time > l.newest && s.number <= 1:
		q.restart(st, s)
	case s.number < l.first && s.time > l.newest && s.qos == 1:
		q.qos1++ // its first copy is from before the window
	default:
		q.add(st, l, s)
	}
}

func newLife(s *sighting) *life {
	return &life{began: s.time, newest: s.time, first: s.number}
}

// has tells whether a number was there.
func (l *life) has(n uint64) bool {
	i, found := slices.BinarySearchFunc(l.spans, n, func(s span, n uint64) int { return cmp.Compare(s.From, n) })
	return found || i > 0 && n <= l.spans[i-1].To
}

// add enters a number that was not there.
func (q *sequences) add(st *stream, l *life, s *sighting) {
	if h := l.high(s.part); s.number < h.n {
		q.tell(st, s, SequenceOrder, fmt.Sprintf("number %d comes after number %d", s.number, h.n))
	} else {
		h.n = s.number
	}
	l.first, l.newest = min(l.first, s.number), max(l.newest, s.time)
	l.recent[l.at%len(l.recent)] = seen{s.number, s.digest}
	l.at++
	l.insert(s.number, s.time)
	if len(l.spans) > maxSpans {
		st.give(Span{l.spans[0].To + 1, l.spans[1].From - 1}, l.spans[1].time)
		l.spans[1].From = l.spans[0].From
		l.spans = slices.Delete(l.spans, 0, 1)
	}
}

func (l *life) high(p *partScan) *high {
	for i := range l.highest {
		if l.highest[i].part == p {
			return &l.highest[i]
		}
	}
	l.highest = append(l.highest, high{part: p})
	return &l.highest[len(l.highest)-1]
}

func (l *life) insert(n uint64, time int64) {
	i, _ := slices.BinarySearchFunc(l.spans, n, func(s span, n uint64) int { return cmp.Compare(s.From, n) })
	below, above := i > 0 && l.spans[i-1].To+1 == n, i < len(l.spans) && l.spans[i].From == n+1
	switch {
	case below && above:
		l.spans[i-1].To = l.spans[i].To
		l.spans = slices.Delete(l.spans, i, i+1)
	case below:
		l.spans[i-1].To = n
	case above:
		l.spans[i].From, l.spans[i].time = n, time
	default:
		l.spans = slices.Insert(l.spans, i, span{Span{n, n}, time})
	}
}

// again decides what a number means that was there: sent again, as QoS 1 allows, or the device began anew, or something is wrong.
func (q *sequences) again(st *stream, l *life, s *sighting) {
	known, same := false, false
	for _, r := range l.recent[:min(l.at, len(l.recent))] {
		if r.n == s.number {
			known, same = true, r.digest == s.digest
		}
	}
	switch {
	case s.number <= 1 && !same && l == st.now && s.time > l.newest:
		q.restart(st, s)
	case known && !same:
		q.tell(st, s, SequenceAltered, fmt.Sprintf("number %d comes again, with another payload", s.number))
	case s.qos == 1:
		q.qos1++
	default:
		q.tell(st, s, SequenceRepeated, fmt.Sprintf("number %d, sent at QoS %d, is there twice", s.number, s.qos))
	}
}

// restart begins a device's numbers anew.
func (q *sequences) restart(st *stream, s *sighting) {
	q.c.find(Finding{Kind: SequenceRestart, Severity: Note, Topic: s.part.topic.t.Name, Partition: s.part.pos.Index, Offset: s.offset,
		Device: st.key.device, Count: 1, Text: fmt.Sprintf("%q began anew at number %d, after %d", clip(st.key.device), s.number, st.now.last())})
	if st.was != nil {
		st.close(st.was)
	}
	st.was, st.now = st.now, newLife(s)
	q.add(st, st.now, s)
}

func (l *life) last() uint64 {
	if len(l.spans) == 0 {
		return 0
	}
	return l.spans[len(l.spans)-1].To
}

func (q *sequences) tell(st *stream, s *sighting, k Kind, text string) {
	q.c.find(Finding{Kind: k, Severity: Wrong, Minute: s.time / 60_000 * 60_000, Topic: s.part.topic.t.Name, Partition: s.part.pos.Index, Offset: s.offset,
		Device: st.key.device, Numbers: []Span{{s.number, s.number}}, Count: 1, Text: fmt.Sprintf("of %q: ", clip(st.key.device)) + text})
}

// give notes a hole that nothing has filled.
func (st *stream) give(hole Span, time int64) {
	st.n += hole.To - hole.From + 1
	st.late = time
	if len(st.missing) < maxListed {
		st.missing = append(st.missing, hole)
	}
}

// close gives all holes of a life.
func (st *stream) close(l *life) {
	for i := 1; i < len(l.spans); i++ {
		st.give(Span{l.spans[i-1].To + 1, l.spans[i].From - 1}, l.spans[i].time)
	}
}

// finish names what is missing.
func (q *sequences) finish() {
	c := q.c
	c.sum.Devices = len(q.streams)
	list := make([]*stream, 0, len(q.streams))
	for _, st := range q.streams {
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b *stream) int {
		return cmp.Or(cmp.Compare(a.key.device, b.key.device), cmp.Compare(a.key.route, b.key.route))
	})
	for _, st := range list {
		if st.was != nil {
			st.close(st.was)
		}
		q.dropTail(st.now)
		if st.close(st.now); st.n > 0 {
			q.missing(st)
		}
	}
	if q.qos1 > 0 {
		c.sum.Kinds[SequenceQoS1] = q.qos1
	}
	if q.left > 0 {
		c.find(Finding{Kind: TooMany, Severity: Note, Partition: -1, Offset: -1, Count: uint64(q.left),
			Text: fmt.Sprintf("the numbers of %d devices were followed; %d messages of others were not", len(q.streams), q.left)})
	}
}

// dropTail forgets the last spans of a device that is still sending: what is missing before them may be on its way, in another partition.
func (q *sequences) dropTail(l *life) {
	if q.c.Flush == nil {
		return
	}
	for n := len(l.spans); n > 1 && l.spans[n-1].time > q.c.Now().UnixMilli()-tail; n = len(l.spans) {
		l.spans = l.spans[:n-1]
	}
}

func (q *sequences) missing(st *stream) {
	c := q.c
	f := Finding{Kind: SequenceMissing, Severity: Wrong, Minute: st.late / 60_000 * 60_000, Topic: st.topic, Partition: -1, Offset: -1,
		Device: st.key.device, Numbers: st.missing, Count: st.n}
	which := numbers(st.missing)
	if len(st.missing) >= maxListed {
		which += ", …"
	}
	f.Text = fmt.Sprintf("of %q: number %s missing", clip(st.key.device), which+" is")
	if st.n > 1 {
		f.Text = fmt.Sprintf("of %q: %d numbers are missing: %s", clip(st.key.device), st.n, which)
	}
	everywhere := st.key.route == everyRoute
	excuse, refused, unlogged, cut := "", c.turned, uint64(0), false
	for name, k := range c.totals {
		refused = max(refused, total(k.Refused)+total(k.Failed))
		if everywhere {
			unlogged += k.Unlogged
		}
		if t := c.topics[name]; t != nil {
			cut = cut || slices.Max(t.cut) > 0
		}
	}
	switch {
	case everywhere && c.Topic != "":
		return // the others may be in another topic
	case everywhere && (c.ledger != nil || c.Stamps):
		f.Severity, excuse = Note, "the ledger tells whether they were acknowledged"
	case st.qos[0] > 0:
		f.Kind, f.Severity, excuse = QoS0Lost, Loss, "the device sends at QoS 0, where nothing is promised"
	case st.n <= refused+unlogged:
		f.Severity, excuse = Note, fmt.Sprintf("%d publishes were refused, %d went to routes with store: false", refused, unlogged)
	case cut:
		f.Severity, excuse = Note, "retention has removed records"
	}
	if excuse != "" {
		f.Text += " (" + excuse + ")"
	}
	c.find(f)
}
