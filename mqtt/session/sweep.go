package session

import "math"

const (
	sweepLook  = 4096   // names that the sweep looks at in one go
	sweepPause = 1_000  // milliseconds between them
	sweepRest  = 30_000 // milliseconds between one sweep of all names and the next
)

// sweepRetained removes retained messages that have expired, slowly: nobody is given them any more, it is only their memory and their
// records. It returns when it wants to go on.
func (c *Core) sweepRetained() int64 {
	if c.retained.names.Len() == 0 {
		return math.MaxInt64
	}
	if c.now < c.sweepAt {
		return c.sweepAt
	}
	looks := sweepLook
	last, done := c.retained.names.ScanN("#", c.swept, &looks, func(_ string, r *retained) bool {
		if r.expires > 0 && r.expires <= c.now && !r.cleared && r.msg == nil {
			c.expireRetained(r)
		}
		return true
	})
	for _, st := range c.stores {
		c.removeCleared(st) // most lie below the frontier already
	}
	c.swept, c.sweepAt = last, c.now+sweepPause
	if done {
		c.swept, c.sweepAt = "", c.now+sweepRest
	}
	return c.sweepAt
}

// expireRetained makes the entry of an expired message the mark of a removed one: its record stays until no replay can bring an older
// message back, and does there as the mark.
func (c *Core) expireRetained(r *retained) {
	c.host.Count(DropRetainedExpired, 1)
	c.retained.put(r, 0, true)
	r.store.cleared = append(r.store.cleared, r)
	if c.since.start == 0 {
		c.since.start = c.now // the frontier is to move
	}
}
