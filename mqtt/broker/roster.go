package broker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// roster holds every connection, in the slot of the tick at which it is next to be looked at. One ticker for all of them: a
// packet costs its connection one atomic store, not a timer.
type roster struct {
	now  atomic.Int64 // in ticks; advances with the ticker
	wall func() time.Time
	idle int64 // ticks after which a connection that is silent may be parked

	mu    sync.Mutex
	slots [rosterSlots + 1]*conn // intrusive lists; the last one is for connections without a limit
}

const (
	tick        = 250 * time.Millisecond
	rosterSlots = 512
	maxTickStep = 4 // a node that was suspended does not time out the clients it could not hear
)

func ticks(d time.Duration) int64 { return int64((d + tick - 1) / tick) }

// touch notes that the client was heard.
func (r *roster) touch(c *conn) { c.heard.Store(r.now.Load()) }

// limit (re)places c: it is overdue when nothing was heard for d; 0: never.
func (r *roster) limit(c *conn, d time.Duration) {
	r.touch(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unlink(c)
	c.patience = int32(min(ticks(d), math.MaxInt32))
	if c.gone {
		return
	}
	r.link(c)
}

// expire notes when c is overdue whatever is heard from it; limit comes later, and places it.
func (r *roster) expire(c *conn, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.until = at.UnixMilli()
}

// expired tells whether that time has come.
func (r *roster) expired(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.untilUp(c) <= 0
}

// untilUp is the time that c has left. Under r.mu.
func (r *roster) untilUp(c *conn) time.Duration {
	if c.until == 0 {
		return math.MaxInt64
	}
	return time.Duration(min(c.until-r.wall().UnixMilli(), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// await has c nudged when it falls idle, once.
func (r *roster) await(c *conn) {
	if !c.parks() || c.b.parkAtOnce {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unlink(c)
	c.doze = r.now.Load() + r.idle + 1
	if !c.gone {
		r.link(c)
	}
}

// isIdle tells whether c is to be parked; else it is looked at again when it may be. Under r.mu.
func (r *roster) isIdle(c *conn, now int64) bool {
	if c.doze == 0 || now < c.doze {
		return false
	}
	c.doze = c.heard.Load() + r.idle + 1
	if now < c.doze {
		return false
	}
	c.doze = 0
	return true
}

func (r *roster) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unlink(c)
	c.gone = true
}

func (r *roster) link(c *conn) {
	slot := rosterSlots
	if c.patience > 0 || c.until > 0 || c.doze > 0 {
		now := r.now.Load()
		due := now + rosterSlots - 1 // whoever has more time is looked at in between: the clock may have been set
		if c.patience > 0 {
			due = min(due, c.heard.Load()+int64(c.patience)+1)
		}
		if c.until > 0 {
			due = min(due, now+ticks(min(r.untilUp(c), rosterSlots*tick)))
		}
		if c.doze > 0 {
			due = min(due, c.doze)
		}
		slot = int(max(due, now+1) % rosterSlots)
	}
	c.slot = int16(slot)
	c.listed = true
	c.next = r.slots[slot]
	if c.next != nil {
		c.next.prev = c
	}
	r.slots[slot] = c
}

func (r *roster) unlink(c *conn) {
	if !c.listed {
		return
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		r.slots[c.slot] = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.next, c.prev, c.listed = nil, nil, false
}

// advance moves time on by one tick and returns who is overdue, and who is idle.
func (r *roster) advance() (overdue, idle []*conn) {
	now := r.now.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := now % rosterSlots
	c := r.slots[slot]
	r.slots[slot] = nil
	for c != nil {
		next := c.next
		c.next, c.prev, c.listed = nil, nil, false
		switch {
		case r.untilUp(c) <= 0:
			overdue = append(overdue, c)
		case c.paused.Load():
			r.touch(c)
		case c.patience > 0 && now > c.heard.Load()+int64(c.patience):
			overdue = append(overdue, c)
			c.heard.Store(now) // looked at again, should it linger
		case r.isIdle(c, now):
			idle = append(idle, c)
		}
		r.link(c)
		c = next
	}
	return overdue, idle
}

// all lists the connections.
func (r *roster) all() (cs []*conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.slots {
		for ; c != nil; c = c.next {
			cs = append(cs, c)
		}
	}
	return cs
}

// run ticks until stop is closed.
func (r *roster) run(stop <-chan struct{}, overdue func(*conn)) {
	t := time.NewTicker(tick)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		passed := int64(time.Since(last) / tick)
		last = last.Add(time.Duration(passed) * tick)
		for range min(passed, maxTickStep) {
			late, idle := r.advance()
			for _, c := range late {
				overdue(c)
			}
			for _, c := range idle {
				c.nudge()
			}
		}
	}
}
