package engine

import (
	"sync/atomic"
	"time"
)

// clock is the node's time, which never goes back.
type clock struct {
	now  func() time.Time
	last atomic.Int64
}

func (c *clock) read() int64 {
	t := c.now().UnixMilli()
	for {
		last := c.last.Load()
		if t <= last {
			return last
		}
		if c.last.CompareAndSwap(last, t) {
			return t
		}
	}
}

// Now is the node's time in milliseconds since 1970, for the timestamps of records. It never goes back: after a restart it is
// at least what any durable record was stamped with, whatever the system's clock says.
func (e *Engine) Now() int64 { return e.clock.read() }
