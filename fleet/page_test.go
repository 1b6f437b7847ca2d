package fleet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// page is a page of the console as docs/live.md has it: it knows nothing but frames.
type page struct {
	seq   uint32
	slots map[uint32]*shown
	gap   bool // a frame is missing: nothing counts until one begins anew

	tick, received, sent float64
}

// shown is one device on the page.
type shown struct {
	cell     uint32
	lat, lon int32
	heading  byte
	speed    uint16
	state    byte
	fresh    bool // has a key row in this frame
	name     string
}

var errFrame = errors.New("a frame that is none")

// reader reads a frame and remembers that it was too short.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u32() uint32     { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) time() float64   { return math.Float64frombits(binary.LittleEndian.Uint64(r.take(8))) }
func (r *reader) uvarint() uint64 { return varint(r, binary.Uvarint) }
func (r *reader) varint() int64   { return varint(r, binary.Varint) }

func varint[T int64 | uint64](r *reader, read func([]byte) (T, int)) T {
	v, n := read(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// apply takes a frame. name tells whose a slot is, as the page would ask when it sees a slot first.
func (p *page) apply(frame []byte, name func(slot uint32) string) error {
	r := &reader{b: frame}
	head := r.take(4)
	seq := r.u32()
	p.tick, p.received, p.sent = r.time(), r.time(), r.time()
	if r.bad || head[0] != 1 || head[1]&^flagAnew != 0 {
		return errFrame
	}
	switch {
	case head[1]&flagAnew != 0:
		p.slots, p.gap = map[uint32]*shown{}, false
	case p.gap || seq != p.seq+1:
		p.gap = true
	}
	p.seq = seq
	if p.gap {
		return nil
	}
	for range binary.LittleEndian.Uint16(head[2:]) {
		if err := p.section(r); err != nil {
			return err
		}
	}
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: %d bytes left", errFrame, len(r.b))
	}
	for slot, s := range p.slots {
		if s.fresh = false; s.name == "" {
			s.name = name(slot)
		}
	}
	return nil
}

func (p *page) section(r *reader) error {
	cell, keys, deltas, lefts := r.u32(), r.u32(), r.u32(), r.u32()
	if cell&wholeCell != 0 {
		cell &^= wholeCell
		for slot, s := range p.slots {
			if s.cell == cell {
				delete(p.slots, slot)
			}
		}
	}
	for range keys {
		p.key(r, cell)
	}
	slot := uint32(0)
	for i := range deltas {
		gap := uint32(r.uvarint())
		dy, dx := r.varint(), r.varint()
		heading := r.take(1)[0]
		slot += gap
		s := p.slots[slot]
		if r.bad || s == nil || s.cell != cell || i > 0 && gap == 0 {
			return fmt.Errorf("%w: a delta of slot %d in cell %d, %+v", errFrame, slot, cell, s)
		}
		s.lat, s.lon, s.heading = int32(int64(s.lat)+dy), int32(int64(s.lon)+dx), heading
		s.state &^= stateStale
	}
	slot = 0
	for i := range lefts {
		gap := uint32(r.uvarint())
		slot += gap
		s := p.slots[slot]
		if r.bad || s == nil || i > 0 && gap == 0 {
			return fmt.Errorf("%w: slot %d left cell %d, %+v", errFrame, slot, cell, s)
		}
		if s.cell == cell {
			delete(p.slots, slot)
		}
	}
	return nil
}

func (p *page) key(r *reader, cell uint32) {
	slot := r.u32()
	s := &shown{cell: cell, fresh: true, lat: int32(r.u32()), lon: int32(r.u32())}
	rest := r.take(4)
	s.speed, s.heading, s.state = binary.LittleEndian.Uint16(rest), rest[2], rest[3]
	if was := p.slots[slot]; was != nil { // it moved, or said more
		s.name = was.name
	}
	p.slots[slot] = s
}
