package fleet

import (
	"math"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/session"
)

// entry is what the view knows of one device.
type entry struct {
	id     string
	folded string // the id in lower case, for searches
	slot   uint32
	next   *entry // in the list of the fresh or the stale
	prev   *entry
	stale  bool // in the list of the stale
	gone   bool // forgotten, but not by the pages yet
	heard  bool // since the last tick
	live   bool // its last message is no history

	source   int
	topic    string
	seen     int64 // ms, when its last message was received
	sent     int64 // µs, when that was sent by its own clock; 0: unknown
	lag      int64 // µs between the two, corrected
	sequence uint64
	messages uint64

	positioned     bool
	lat, lon       int32 // 1e-6 degrees
	speed, heading float32

	counts   Sequences
	counters []counter // one for each source it was heard on
	clock    clock
	drawn    drawn
	track    *track
}

// maxTopic bounds what is kept of a topic, bytes.
const maxTopic = 512

// update takes what a message says, and tells whether the device had no position before. An older message than the last, by its sequence,
// says nothing new about where the device is.
func (e *entry) update(m *session.Message, source int, p *Point, order order, lag int64) (positioned bool) {
	e.messages++
	if m.Time < e.seen || order != inOrder {
		e.seen = max(e.seen, m.Time)
		return false
	}
	e.heard = true
	e.seen, e.source, e.sequence = m.Time, source, p.Sequence
	if e.topic != m.Topic {
		e.topic = m.Topic
		if len(e.topic) > maxTopic {
			e.topic = strings.Clone(strings.ToValidUTF8(m.Topic[:maxTopic], ""))
		}
	}
	e.sent = 0
	if !p.Sent.IsZero() {
		e.sent, e.lag = p.Sent.UnixMicro(), lag
	}
	if p.HasPosition {
		positioned, e.positioned = !e.positioned, true
		e.lat, e.lon = micro(p.Lat), micro(p.Lon)
		e.speed, e.heading = p.Speed, p.Heading
		if e.track != nil {
			e.track.add(fix{e.seen, e.lat, e.lon})
		}
	}
	return positioned
}

// micro is degrees as the live channel has them.
func micro(degrees float64) int32 { return int32(math.Round(degrees * 1e6)) }

// public is the device as the console has it.
func (e *entry) public() Device {
	d := Device{
		ID: e.id, Slot: e.slot, Source: e.source, Topic: e.topic, Seen: time.UnixMilli(e.seen), Latency: -1,
		HasPosition: e.positioned, Speed: -1, Heading: -1,
		Sequence: e.sequence, Messages: e.messages, Stale: e.stale, Sequences: e.counts,
	}
	if e.sent != 0 {
		d.Sent = time.UnixMicro(e.sent)
		d.Latency = time.Duration(e.lag) * time.Microsecond
	}
	if e.positioned {
		d.Lat, d.Lon, d.Speed, d.Heading = float64(e.lat)/1e6, float64(e.lon)/1e6, e.speed, e.heading
	}
	if off, skewed := e.clock.offset(); skewed {
		d.Skewed, d.Skew = true, -time.Duration(off)*time.Microsecond
	}
	return d
}

// list is a list of devices, the one heard last in front.
type list struct {
	front, back *entry
	n           int
}

func (l *list) push(e *entry) {
	e.prev, e.next = nil, l.front
	if l.front != nil {
		l.front.prev = e
	} else {
		l.back = e
	}
	l.front = e
	l.n++
}

func (l *list) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.front = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.back = e.prev
	}
	e.prev, e.next = nil, nil
	l.n--
}

// track is the recent positions of a device, in a ring.
type track struct {
	fixes []fix
	first int // the oldest, once the ring is full
}

type fix struct {
	at       int64 // ms
	lat, lon int32
}

const (
	maxFixes   = 120
	fixSpacing = 1000 // ms, at least
)

// add takes a position, unless it is too near to the last one in time or place.
func (t *track) add(f fix) {
	if n := len(t.fixes); n > 0 {
		last := &t.fixes[(t.first+n-1)%n]
		if f.at-last.at < fixSpacing || !moved(last.lat, last.lon, f.lat, f.lon) {
			return
		}
		if n == maxFixes {
			t.fixes[t.first] = f
			t.first = (t.first + 1) % maxFixes
			return
		}
	}
	t.fixes = append(t.fixes, f)
}

func (t *track) public() []Fix {
	out := make([]Fix, 0, len(t.fixes))
	for i := range t.fixes {
		f := &t.fixes[(t.first+i)%len(t.fixes)]
		out = append(out, Fix{At: time.UnixMilli(f.at), Lat: float64(f.lat) / 1e6, Lon: float64(f.lon) / 1e6})
	}
	return out
}
