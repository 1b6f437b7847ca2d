package fleet

import (
	"encoding/binary"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"
)

// board is the map as the pages were last told, in cells. It is kept while somebody looks on.
type board struct {
	clients int
	lit     bool
	dirty   []uint64 // a bit per slot: may differ from what was told
	cells   map[uint32]*cell
	order   []uint32 // their ids, sorted
	grown   bool     // order lacks some
	n       uint64   // ticks while lit
}

func newBoard() board { return board{cells: map[uint32]*cell{}} }

// changed notes that a device may have to be told of.
func (b *board) changed(slot uint32) {
	for int(slot/64) >= len(b.dirty) {
		b.dirty = append(b.dirty, 0)
	}
	b.dirty[slot/64] |= 1 << (slot % 64)
}

// drawn is a device as the pages were last told.
type drawn struct {
	cell     *cell // nil: it is not on the map
	at       int   // its row in the cell
	lat, lon int32
	state    byte
}

// The state byte of a key row.
const (
	stateSource    = 0x0f // sources from 15 on share 15
	stateNoHeading = 0x10
	stateStale     = 0x20
)

func (e *entry) state() byte {
	s := byte(min(e.source, stateSource))
	if e.heading < 0 {
		s |= stateNoHeading
	}
	if e.stale {
		s |= stateStale
	}
	return s
}

// keyRow is a device as it is now.
func (e *entry) keyRow(b []byte) {
	binary.LittleEndian.PutUint32(b, e.slot)
	binary.LittleEndian.PutUint32(b[4:], uint32(e.drawn.lat))
	binary.LittleEndian.PutUint32(b[8:], uint32(e.drawn.lon))
	binary.LittleEndian.PutUint16(b[12:], centimetres(e.speed))
	b[14] = turn(e.heading)
	b[15] = e.drawn.state
}

const keyBytes = 16

func centimetres(speed float32) uint16 {
	if speed < 0 {
		return math.MaxUint16
	}
	return uint16(min(math.MaxUint16-1, math.Round(float64(speed)*100)))
}

// turn is a heading in 256ths.
func turn(heading float32) byte {
	if heading < 0 {
		return 0
	}
	return byte(int(math.Round(float64(heading)*256/360)) % 256)
}

// cell is one tile of the map: the key rows of the devices in it, and what happened there since the last tick.
type cell struct {
	id      uint32
	rows    []byte   // key rows, in no order
	entries []*entry // whose they are
	whole   []byte   // the section with all rows; nil: to be made

	keys, deltas, lefts    []byte
	nKeys, nDeltas, nLefts uint32
	lastDelta, lastLeft    uint32
	received, sent         int64 // ms, µs: of the newest message that is drawn here since the last tick
}

// Tick builds what changed since the last tick for the clients' frames. Once a second.
func (v *View) Tick(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load.tick()
	v.age(now)
	b := &v.board
	if b.clients == 0 {
		v.darken()
		v.release()
		return
	}
	if !b.lit {
		b.lit = true
		for _, e := range v.ids {
			b.changed(e.slot)
		}
	}
	b.n++
	t := &tick{v: v, now: now}
	t.stride = b.count()/maxSample + 1
	for i, word := range b.dirty {
		for ; word != 0; word &= word - 1 { // slots in order, as the rows want it
			if e := v.slots[i*64+bits.TrailingZeros64(word)]; e != nil {
				t.draw(e)
			}
		}
		b.dirty[i] = 0
	}
	v.release()
	v.set.Store(t.publish())
}

// count is how many slots are dirty.
func (b *board) count() (n int) {
	for _, word := range b.dirty {
		n += bits.OnesCount64(word)
	}
	return n
}

// darken takes everything off the map: nobody looks on.
func (v *View) darken() {
	b := &v.board
	if !b.lit {
		return
	}
	for _, c := range b.cells {
		for _, e := range c.entries {
			e.drawn = drawn{}
		}
	}
	*b = board{n: b.n, dirty: b.dirty, cells: map[uint32]*cell{}}
	clear(b.dirty)
	v.set.Store(nil)
}

// tick is the work of one.
type tick struct {
	v       *View
	now     time.Time
	touched []*cell
	sample  []time.Duration // of the latencies, for the frames' own
	stride  int
	drawn   int
}

// maxSample is how many latencies stand for a frame's.
const maxSample = 32

// draw tells of a device what is new.
func (t *tick) draw(e *entry) {
	heard := e.heard
	e.heard = false
	switch d := &e.drawn; {
	case !e.positioned:
	case e.gone:
		if d.cell != nil {
			t.leave(e)
		}
	case d.cell == nil:
		t.join(e, t.v.board.cell(cellAt(e.lat, e.lon)), heard)
	case moved(d.lat, d.lon, e.lat, e.lon) || d.state != e.state():
		if to := cellAt(e.lat, e.lon); to != d.cell.id {
			t.leave(e)
			t.join(e, t.v.board.cell(to), heard)
		} else {
			t.change(e, heard)
		}
	case mutant("drift"):
		d.lat, d.lon = e.lat, e.lon
	default: // who comes to look now shall see the speed of now
		row := d.cell.rows[d.at*keyBytes:][:keyBytes]
		was := [keyBytes]byte(row)
		if e.keyRow(row); was != [keyBytes]byte(row) {
			d.cell.whole = nil
		}
	}
}

func (b *board) cell(id uint32) *cell {
	c := b.cells[id]
	if c == nil {
		c = &cell{id: id}
		b.cells[id], b.grown = c, true
	}
	return c
}

func (t *tick) touch(c *cell) {
	if c.nKeys+c.nDeltas+c.nLefts == 0 {
		t.touched = append(t.touched, c)
	}
	c.whole = nil
}

// leave takes a device out of its cell.
func (t *tick) leave(e *entry) {
	c, at := e.drawn.cell, e.drawn.at
	t.touch(c)
	if !mutant("stay") {
		c.lefts = binary.AppendUvarint(c.lefts, uint64(e.slot-c.lastLeft))
		c.lastLeft = e.slot
		c.nLefts++
	}
	last := len(c.entries) - 1
	moved := c.entries[last]
	c.entries[at] = moved
	moved.drawn.at = at
	copy(c.rows[at*keyBytes:], c.rows[last*keyBytes:])
	c.entries[last] = nil
	c.entries, c.rows = c.entries[:last], c.rows[:last*keyBytes]
	e.drawn = drawn{}
}

// join puts a device into a cell.
func (t *tick) join(e *entry, c *cell, heard bool) {
	t.touch(c)
	e.drawn = drawn{cell: c, at: len(c.entries), lat: e.lat, lon: e.lon, state: e.state()}
	c.entries = append(c.entries, e)
	c.rows = append(c.rows, make([]byte, keyBytes)...)
	t.key(e, heard)
}

// change tells of a device within its cell: by a delta row where that can say it.
func (t *tick) change(e *entry, heard bool) {
	d, c := &e.drawn, e.drawn.cell
	t.touch(c)
	state := e.state()
	dy, dx := int64(e.lat)-int64(d.lat), int64(e.lon)-int64(d.lon)
	short := state == d.state&^stateStale
	d.lat, d.lon, d.state = e.lat, e.lon, state
	if !short {
		t.key(e, heard)
		return
	}
	c.deltas = binary.AppendUvarint(c.deltas, uint64(e.slot-c.lastDelta))
	c.deltas = binary.AppendVarint(c.deltas, dy)
	c.deltas = binary.AppendVarint(c.deltas, dx)
	c.deltas = append(c.deltas, turn(e.heading))
	c.lastDelta = e.slot
	c.nDeltas++
	e.keyRow(c.rows[d.at*keyBytes:])
	t.heard(e, heard)
}

// key tells all of a device.
func (t *tick) key(e *entry, heard bool) {
	c := e.drawn.cell
	r := c.rows[e.drawn.at*keyBytes:][:keyBytes]
	e.keyRow(r)
	c.keys = append(c.keys, r...)
	c.nKeys++
	t.heard(e, heard)
}

// heard takes the latency of what is told.
func (t *tick) heard(e *entry, heard bool) {
	if !heard || !e.live {
		return
	}
	off, _ := e.clock.offset()
	if c := e.drawn.cell; e.seen > c.received {
		c.received, c.sent = e.seen, 0
		if e.sent != 0 && e.clock.known() {
			c.sent = e.sent + off
		}
	}
	if e.sent == 0 || !e.clock.known() {
		return
	}
	lag := time.Duration(t.now.UnixMicro()-e.sent-off) * time.Microsecond
	t.v.stages[stageConsole].Record(lag)
	if t.drawn++; t.drawn%t.stride == 0 {
		t.sample = append(t.sample, lag)
	}
}

// frameSet is what a tick has for the clients. It is immutable, and they share it.
type frameSet struct {
	n      uint64
	at     time.Time
	cells  []cellFrame // by id
	sample []time.Duration
}

// cellFrame is a cell as two ready sections: for who has it, and for who has not.
type cellFrame struct {
	id             uint32
	change         []byte // nil: nothing happened
	whole          []byte // nil: nobody is there any more
	received, sent int64  // of change
}

func (t *tick) publish() *frameSet {
	b := &t.v.board
	if b.grown {
		b.order, b.grown = slices.AppendSeq(b.order[:0], maps.Keys(b.cells)), false
		slices.Sort(b.order)
	}
	set := &frameSet{n: b.n, at: t.now, cells: make([]cellFrame, 0, len(b.order)), sample: t.sample}
	for _, id := range b.order {
		c := b.cells[id]
		f := cellFrame{id: id, change: c.section(), received: c.received, sent: c.sent}
		if len(c.entries) > 0 {
			if c.whole == nil {
				c.whole = appendSection(make([]byte, 0, sectionBytes+len(c.rows)), id|wholeCell, uint32(len(c.entries)), 0, 0)
				c.whole = append(c.whole, c.rows...)
			}
			f.whole = c.whole
		} else {
			delete(b.cells, id)
			b.grown = true
		}
		set.cells = append(set.cells, f)
		c.keys, c.deltas, c.lefts, c.received, c.sent = c.keys[:0], c.deltas[:0], c.lefts[:0], 0, 0
		c.nKeys, c.nDeltas, c.nLefts, c.lastDelta, c.lastLeft = 0, 0, 0, 0, 0
	}
	return set
}

const (
	sectionBytes = 16
	wholeCell    = 1 << 31
)

func appendSection(b []byte, id, keys, deltas, lefts uint32) []byte {
	b = binary.LittleEndian.AppendUint32(b, id)
	b = binary.LittleEndian.AppendUint32(b, keys)
	b = binary.LittleEndian.AppendUint32(b, deltas)
	return binary.LittleEndian.AppendUint32(b, lefts)
}

// section is what happened in the cell; nil: nothing.
func (c *cell) section() []byte {
	if c.nKeys+c.nDeltas+c.nLefts == 0 {
		return nil
	}
	b := make([]byte, 0, sectionBytes+len(c.keys)+len(c.deltas)+len(c.lefts))
	b = appendSection(b, c.id, c.nKeys, c.nDeltas, c.nLefts)
	b = append(b, c.keys...)
	b = append(b, c.deltas...)
	return append(b, c.lefts...)
}
