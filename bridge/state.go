package bridge

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/millrace-io/millrace/mqtt/session"
)

// The records of __millrace_bridges, as docs/formats/bridges.md describes them: how far each bridge is, and the name of this log. Bytes that
// are no record of ours decode to errState, never to a panic or an allocation larger than they are.
const (
	stateVersion = 1
	kindBridge   = 'b' // key: the bridge's name
	kindSelf     = 's' // value: what this log is called in loop guards
)

var errState = errors.New("not a record of a bridge")

// saved is what a bridge's record says.
type saved struct {
	positions session.Vector
	flights   []savedFlight // QoS 2, in the order of sending
	remote    []string      // filters subscribed to at the remote
	received  []uint16      // QoS 2 from the remote: stored and not released; only when the bridge has ended in good order
}

type savedFlight struct {
	part   session.Part
	offset int64
	time   int64
	id     uint16
	state  state
}

func bridgeKey(name string) []byte { return append([]byte{stateVersion, kindBridge}, name...) }

func selfKey() []byte { return []byte{stateVersion, kindSelf} }

func (s *saved) encode() []byte {
	b := []byte{stateVersion}
	b = binary.AppendUvarint(b, uint64(len(s.positions)))
	parts := make([]session.Part, 0, len(s.positions))
	for p := range s.positions {
		parts = append(parts, p)
	}
	slices.SortFunc(parts, compareParts)
	for _, p := range parts {
		b = appendPart(b, p)
		b = binary.AppendUvarint(b, uint64(s.positions[p]))
	}
	b = binary.AppendUvarint(b, uint64(len(s.flights)))
	for _, f := range s.flights {
		b = appendPart(b, f.part)
		b = binary.AppendUvarint(b, uint64(f.offset))
		b = binary.AppendUvarint(b, uint64(f.time))
		b = binary.BigEndian.AppendUint16(b, f.id)
		b = append(b, byte(f.state))
	}
	b = binary.AppendUvarint(b, uint64(len(s.remote)))
	for _, f := range s.remote {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.received)))
	for _, id := range s.received {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return b
}

func compareParts(a, b session.Part) int {
	if c := slices.Compare(a.Topic[:], b.Topic[:]); c != 0 {
		return c
	}
	return int(a.Index) - int(b.Index)
}

func appendPart(b []byte, p session.Part) []byte {
	return binary.AppendUvarint(append(b, p.Topic[:]...), uint64(p.Index))
}

func decodeSaved(b []byte) (s saved, err error) {
	r := stateReader{b: b}
	if r.byte() != stateVersion {
		return s, errState
	}
	s.positions = session.Vector{}
	for range r.count(18) {
		p := r.part()
		s.positions[p] = r.offset()
	}
	for range r.count(22) {
		f := savedFlight{part: r.part(), offset: r.offset(), time: r.offset()}
		if id := r.take(2); id != nil {
			f.id = binary.BigEndian.Uint16(id)
		}
		f.state = state(r.byte())
		if f.state > done || f.id == 0 {
			r.bad = true
		}
		s.flights = append(s.flights, f)
	}
	for range r.count(1) {
		s.remote = append(s.remote, string(r.take(int(min(r.int(), 1<<16)))))
	}
	for range r.count(2) {
		if id := r.take(2); id != nil {
			s.received = append(s.received, binary.BigEndian.Uint16(id))
		}
	}
	if r.bad || len(r.b) > 0 {
		return saved{}, errState
	}
	return s, nil
}

// stateReader reads; bad once anything is wrong.
type stateReader struct {
	b   []byte
	bad bool
}

func (r *stateReader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	t := r.b[:n]
	r.b = r.b[n:]
	return t
}

func (r *stateReader) byte() byte {
	if t := r.take(1); t != nil {
		return t[0]
	}
	return 0
}

func (r *stateReader) int() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *stateReader) offset() int64 {
	v := r.int()
	if v > 1<<62 {
		r.bad = true
		return 0
	}
	return int64(v)
}

// count is how many things follow, of at least size bytes each.
func (r *stateReader) count(size int) int {
	n := r.int()
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *stateReader) part() (p session.Part) {
	copy(p.Topic[:], r.take(16))
	n := r.int()
	if n > 1<<31-1 {
		r.bad = true
		return p
	}
	p.Index = int32(n)
	return p
}

// restore makes the books of a record. What has a position and is no more in the log is left out.
func (s *saved) restore(b *books, starts, ends session.Vector) (flights []*flight, parts []session.Part) {
	for part, at := range s.positions {
		if _, there := ends[part]; there {
			b.page(part).next = min(at, ends[part])
		}
	}
	for part := range ends {
		if _, known := s.positions[part]; !known { // a topic that a route has named since
			b.page(part).next = starts[part]
		}
	}
	for _, sf := range s.flights {
		if _, there := b.pages[sf.part]; !there && sf.state != released {
			continue
		}
		f := &flight{offset: sf.offset, time: sf.time, id: sf.id, state: sf.state, order: b.order, early: true}
		b.order++
		b.put(sf.part, f)
		if sf.state != done {
			b.ids = slices.DeleteFunc(b.ids, func(id uint16) bool { return id == f.id }) // until it is done
			flights, parts = append(flights, f), append(parts, sf.part)
		}
	}
	return flights, parts
}
