package fleet

// counter follows the sequence numbers of one device on one route. It is a live estimate in bounded memory: a number that comes more
// than window after a later one cannot be told from a device that counts anew. Package verify does it exactly.
type counter struct {
	source int
	begun  bool
	holes  uint64 // of the view when it began: after one, it begins again
	first  uint64 // where it began; what lies before was not missed
	top    uint64 // the highest number
	newest int64  // µs, the latest time of sending
	seen   [window / 64]uint64
}

const (
	window  = 256
	maxJump = 1_000_000 // further ahead is no loss, but another count
)

// order is how a message comes after those before it.
type order uint8

const (
	inOrder   order = iota // as far as anybody can tell
	reordered              // after a later one
	repeated               // again
)

// next takes a number, sent at a time (µs; 0: unknown).
func (c *counter) next(n uint64, sent int64, s *Sequences) order {
	newer := sent > c.newest
	c.newest = max(c.newest, sent)
	switch {
	case !c.begun:
		c.begin(n)
	case n > c.top && n-c.top <= maxJump:
		s.Missing += n - c.top - 1
		c.advance(n)
	case n > c.top || c.top-n >= window:
		s.Restarted++
		c.begin(n)
	case c.has(n) && newer: // a number seen before, in a message sent later than all before
		s.Restarted++
		c.begin(n)
	case c.has(n):
		s.Repeated++
		return repeated
	default:
		s.Reordered++
		if n > c.first {
			s.Missing--
		}
		c.set(n)
		return reordered
	}
	return inOrder
}

func (c *counter) begin(n uint64) {
	c.begun, c.first, c.top, c.seen = true, n, n, [window / 64]uint64{}
	c.set(n)
}

// advance makes n the top; the numbers between have not been seen.
func (c *counter) advance(n uint64) {
	if n-c.top >= window {
		c.seen = [window / 64]uint64{}
	}
	for i := c.top + 1; i < n && n-c.top < window; i++ {
		c.seen[i%window/64] &^= 1 << (i % 64)
	}
	c.top = n
	c.set(n)
}

func (c *counter) set(n uint64)      { c.seen[n%window/64] |= 1 << (n % 64) }
func (c *counter) has(n uint64) bool { return c.seen[n%window/64]&(1<<(n%64)) != 0 }

// count takes a message's sequence number, if it has one.
func (v *View) count(e *entry, source int, p *Point) order {
	if p.Sequence == 0 {
		return inOrder
	}
	c := e.counter(source)
	if c.holes != v.holes {
		c.begun, c.holes = false, v.holes
	}
	sent := int64(0)
	if !p.Sent.IsZero() {
		sent = p.Sent.UnixMicro()
	}
	was := e.counts
	o := c.next(p.Sequence, sent, &e.counts)
	t := &v.totals.Sequences
	t.Missing += e.counts.Missing - was.Missing // one less, of a reordered one
	t.Repeated += e.counts.Repeated - was.Repeated
	t.Reordered += e.counts.Reordered - was.Reordered
	t.Restarted += e.counts.Restarted - was.Restarted
	return o
}

// counter finds or makes the device's counter of a source.
func (e *entry) counter(source int) *counter {
	for i := range e.counters {
		if e.counters[i].source == source {
			return &e.counters[i]
		}
	}
	e.counters = append(e.counters, counter{source: source})
	return &e.counters[len(e.counters)-1]
}
