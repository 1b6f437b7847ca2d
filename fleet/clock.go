package fleet

import "math"

// clock estimates how far a device's clock is off. A message's lag is when it was received minus when it was sent by the device's clock:
// its way, plus how far that clock is behind. The way is never negative, and now and then it is short; so the least lag of the last 5
// to 10 minutes is about how far the clock is behind. A device whose least lag is below -50 ms or above 2 s is called skewed; its latency
// is taken against that least lag. Every other clock is believed.
//
// The limits of that: a clock that is off by less counts as latency; a way that never takes less than 2 s looks like a clock that is behind; and
// a clock that is set back looks like late messages until the minutes are over. That a device that was away and delivers what it kept
// looks late is right: its least lag from before is remembered until five minutes after it is back.
type clock struct {
	least  int64 // µs, of the present span
	before int64 // of the span before
	began  int64 // ms, when the present span did
	n      uint8 // messages, up to enough
}

const (
	span     = 5 * 60 * 1000 // ms
	tooEarly = -50_000       // µs
	tooLate  = 2_000_000     // µs
	enough   = 10            // messages before the latency of a device that is skewed is worth anything
	noLag    = math.MaxInt64
)

// sample takes a message's lag, and when it was received.
func (c *clock) sample(lag, received int64) {
	switch {
	case c.n == 0:
		c.least, c.before, c.began = noLag, noLag, received
	case received-c.began >= span:
		c.least, c.before, c.began = noLag, c.least, received
	}
	c.least = min(c.least, lag)
	c.n = min(c.n+1, enough)
}

// offset is how far the clock is behind, µs; 0 unless the device is skewed.
func (c *clock) offset() (off int64, skewed bool) {
	if c.n == 0 {
		return 0, false
	}
	if off = min(c.least, c.before); off < tooEarly || off > tooLate {
		return off, true
	}
	return 0, false
}

// known tells whether latencies of this device are worth recording.
func (c *clock) known() bool {
	_, skewed := c.offset()
	return c.n > 0 && (!skewed || c.n >= enough)
}
