package fleet

import (
	"cmp"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Query asks for devices. The conditions that are set must all hold.
type Query struct {
	Text   string   // part of the id, in any case
	Box    *Box     // has a position in it
	Slots  []uint32 // is one of these; the first maxSlots are looked at
	Sort   Sort
	Cursor string // Page.Next of the page before
	Limit  int    // 1 to 1,000; default 100
}

// Sort is the order of a query's answer.
type Sort uint8

const (
	ByID   Sort = iota
	BySeen      // last heard first
)

const (
	maxSlots = 1000
	maxLimit = 1000
)

// Page is one page of devices.
type Page struct {
	Devices []Device
	Total   int    // how many match, on all pages
	Next    string // empty: there are no more
}

// Device is the last known state of one device.
type Device struct {
	ID      string
	Slot    uint32
	Source  int    // of its last message
	Topic   string // MQTT topic of its last message
	Seen    time.Time
	Sent    time.Time     // by its own clock; zero: unknown
	Latency time.Duration // of its last message, from sending to receiving, corrected by Skew; negative: unknown

	HasPosition    bool
	Lat, Lon       float64
	Speed, Heading float32 // m/s, degrees; negative: unknown

	Skewed bool
	Skew   time.Duration // how far its clock is ahead of the node's; 0 unless Skewed

	Sequence uint64 // of its last message; 0: none
	Messages uint64
	Stale    bool // nothing for StaleAfter
	Sequences
}

// Detail is a device with its recent track, oldest first.
type Detail struct {
	Device
	Track []Fix
}

// Fix is a position at a (receive) time.
type Fix struct {
	At       time.Time
	Lat, Lon float64
}

// ErrCursor says that a query's cursor is not one.
var ErrCursor = errors.New("not a cursor of this query")

// Devices answers a query. It visits every device, but copies those of the page only.
func (v *View) Devices(q Query) (Page, error) {
	s := search{Query: q, text: strings.ToLower(q.Text)}
	s.Limit = max(1, min(cmp.Or(q.Limit, 100), maxLimit))
	if err := s.parseCursor(); err != nil {
		return Page{}, err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if q.Slots != nil {
		for _, slot := range q.Slots[:min(len(q.Slots), maxSlots)] {
			if int64(slot) < int64(len(v.slots)) {
				s.visit(v.slots[slot])
			}
		}
	} else {
		for _, e := range v.ids {
			s.visit(e)
		}
	}
	return s.page(), nil
}

// search is a query at work: the best so far, one more than a page of them, in order.
type search struct {
	Query
	text  string
	after *mark
	best  []*entry
	total int
}

// mark is the place of a device in the order of a query.
type mark struct {
	seen int64
	id   string
}

func (s *search) visit(e *entry) {
	if e == nil || e.gone || !strings.Contains(e.folded, s.text) {
		return
	}
	if s.Box != nil && (!e.positioned || !s.Box.holds(float64(e.lat)/1e6, float64(e.lon)/1e6)) {
		return
	}
	s.total++
	m := e.mark()
	if s.after != nil && s.compare(m, *s.after) <= 0 || len(s.best) > s.Limit && s.compare(m, s.best[s.Limit].mark()) >= 0 {
		return
	}
	at, twice := slices.BinarySearchFunc(s.best, m, func(e *entry, m mark) int { return s.compare(e.mark(), m) })
	if twice { // a slot that was asked for twice
		s.total--
		return
	}
	s.best = slices.Insert(s.best, at, e)
	s.best = s.best[:min(len(s.best), s.Limit+1)]
}

func (e *entry) mark() mark { return mark{e.seen, e.id} }

func (s *search) compare(a, b mark) int {
	if s.Sort == BySeen {
		if c := cmp.Compare(b.seen, a.seen); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.id, b.id)
}

func (s *search) page() Page {
	p := Page{Total: s.total}
	for i, e := range s.best {
		if i == s.Limit {
			p.Next = s.cursor(s.best[i-1].mark())
			break
		}
		p.Devices = append(p.Devices, e.public())
	}
	return p
}

// A cursor is the mark of the last device of a page, with the order it is of.
func (s *search) cursor(m mark) string {
	text := "i " + m.id
	if s.Sort == BySeen {
		text = strconv.FormatInt(m.seen, 10) + " " + m.id
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

func (s *search) parseCursor() error {
	if s.Cursor == "" {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(s.Cursor)
	kind, id, ok := strings.Cut(string(text), " ")
	if err != nil || !ok || len(id) > maxDeviceID {
		return ErrCursor
	}
	s.after = &mark{id: id}
	if s.Sort == BySeen {
		s.after.seen, err = strconv.ParseInt(kind, 10, 64)
	} else if kind != "i" {
		err = ErrCursor
	}
	if err != nil {
		return ErrCursor
	}
	return nil
}

// Device returns one device. Asking for it also begins its track, if it had none: then the one not heard for longest loses its own.
func (v *View) Device(id string) (Detail, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.ids[id]
	if e == nil {
		return Detail{}, false
	}
	if e.track == nil && v.tracks >= v.o.MaxTracks {
		v.takeTrack(e)
	}
	v.begins(e)
	d := Detail{Device: e.public()}
	if e.track != nil {
		d.Track = e.track.public()
	}
	return d, true
}

// takeTrack makes room for the track of e.
func (v *View) takeTrack(e *entry) {
	for _, l := range []*list{&v.stale, &v.fresh} {
		for old := l.back; old != nil; old = old.prev {
			if old != e && old.track != nil {
				old.track = nil
				v.tracks--
				return
			}
		}
	}
}
