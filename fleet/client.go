package fleet

import (
	"encoding/binary"
	"math"
	"sync"
	"time"
)

// Client is one page's place in the live channel. Its methods are safe for concurrent use.
type Client struct {
	v *View

	mu     sync.Mutex
	closed bool
	shown  *area // nil: nothing yet
	need   bool
	seq    uint32   // of the last frame
	n      uint64   // of the tick it was of
	held   []uint32 // cells of which the page has everything up to that tick, by id
	spare  []uint32
	sent   [64]sentFrame // the last ones, by seq
}

// sentFrame is what is remembered of a frame until it is seen.
type sentFrame struct {
	seq    uint32
	at     time.Time
	sample []time.Duration
}

// NewClient returns a client that sees nothing until SetView. It costs until it is closed.
func (v *View) NewClient() *Client {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.board.clients++
	return &Client{v: v}
}

// Close ends the client.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed, c.held = true, nil
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	c.v.board.clients--
}

// SetView says what the page shows; false: the box is none. The zoom decides nothing: at each the same rows are sent.
func (c *Client) SetView(b Box, zoom float64) bool {
	if !b.valid() || math.IsNaN(zoom) {
		return false
	}
	a := b.cells()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = &a
	return true
}

// NeedKey has the next frame begin anew.
func (c *Client) NeedKey() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.need = true
}

const (
	frameBytes  = 32
	flagAnew    = 1
	maxSections = math.MaxUint16
)

// Frame returns the frame of the last tick, to be sent; false: it was taken already, or there is no tick or view yet. Not to send a
// frame makes a hole in the sequence, so ask when there is room.
func (c *Client) Frame() (frame []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := c.v.set.Load()
	if c.closed || c.shown == nil || set == nil || set.n == c.n {
		return nil, false
	}
	f := assembly{set: set, anew: c.need || set.n != c.n+1 || c.seq == 0, sections: make([][]byte, 0, len(set.cells)), held: c.spare[:0]}
	if f.anew {
		c.held = c.held[:0]
	}
	c.assemble(&f)
	c.held, c.spare = f.held, c.held
	c.need, c.n = false, set.n
	c.seq++
	c.sent[c.seq%uint32(len(c.sent))] = sentFrame{c.seq, set.at, set.sample}
	return f.bytes(c.seq), true
}

// assembly is a frame in the making.
type assembly struct {
	set            *frameSet
	anew           bool
	sections       [][]byte
	held           []uint32 // after the frame
	received, sent int64    // the newest message
}

// assemble merges the cells of the tick with those that the page has, both by id.
func (c *Client) assemble(f *assembly) {
	has := c.held
	for i := range f.set.cells {
		s := &f.set.cells[i]
		held := len(has) > 0 && has[0] == s.id
		if held {
			has = has[1:]
		}
		shown := c.shown.holds(s.id)
		switch full := len(f.sections) == maxSections; {
		case full: // the page has it no more, so that it gets the cell whole when there is room
		case held && shown:
			f.newest(s)
			f.add(s.change)
			f.hold(s)
		case shown && s.whole != nil:
			f.newest(s)
			f.add(s.whole)
			f.hold(s)
		case held && !mutant("keep"):
			f.add(appendSection(nil, s.id|wholeCell, 0, 0, 0))
		}
	}
}

func (f *assembly) add(section []byte) {
	if section != nil {
		f.sections = append(f.sections, section)
	}
}

func (f *assembly) hold(s *cellFrame) {
	if s.whole != nil {
		f.held = append(f.held, s.id)
	}
}

func (f *assembly) newest(s *cellFrame) {
	if s.received > f.received {
		f.received, f.sent = s.received, s.sent
	}
}

func (f *assembly) bytes(seq uint32) []byte {
	size := frameBytes
	for _, s := range f.sections {
		size += len(s)
	}
	b := append(make([]byte, 0, size), 1, 0)
	if f.anew {
		b[1] |= flagAnew
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(f.sections)))
	b = binary.LittleEndian.AppendUint32(b, seq)
	for _, ms := range [...]float64{float64(f.set.at.UnixMicro()) / 1e3, float64(f.received), float64(f.sent) / 1e3} {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(ms))
	}
	for _, s := range f.sections {
		b = append(b, s...)
	}
	return b
}

// maxDrawing is how long after its tick a frame may be seen.
const maxDrawing = 5 * time.Minute

// Seen says that a frame was drawn, at a time of the node's clock; false: that cannot be. Each frame counts once. What was drawn is as much
// older than what the frame had as it took to get there.
func (c *Client) Seen(seq uint32, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.sent[seq%uint32(len(c.sent))]
	way := at.Sub(f.at)
	if seq == 0 || f.seq != seq || way < -time.Second || way > maxDrawing {
		return false
	}
	for _, lag := range f.sample {
		c.v.stages[stageBrowser].Record(max(0, lag+way))
	}
	f.seq, f.sample = 0, nil
	return true
}
