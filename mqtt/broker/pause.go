package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Why a connection is not read for a while. Reading on is always what ends it; nothing is dropped.
const (
	pausedLog       = "log_has_no_room"
	pausedTotal     = "inbound_total"
	pausedListener  = "inbound_of_listener"
	pausedClient    = "inbound_of_client"
	pausedOwner     = "sessions_behind"
	pausedAnswers   = "answers_not_taken"
	pausedMessages  = "message_rate"
	pausedBytes     = "byte_rate"
	pausedHandshake = "connect_rate"
)

// pauses are the reasons that pause may be given.
var pauses = []string{pausedLog, pausedTotal, pausedListener, pausedClient, pausedOwner, pausedAnswers, pausedMessages, pausedBytes}

// pausedFor says why the client is not read at the moment; "": it is.
func (c *conn) pausedFor() string {
	if i := c.pausedBy.Load(); c.paused.Load() && i >= 0 {
		return pauses[i]
	}
	return ""
}

// awaitRoom holds the reader, and with it the client, while the log, a budget or the owner is behind, the client takes no answers, or
// it is ahead of its rates.
func (c *conn) awaitRoom(full <-chan struct{}, hold time.Duration, why string) {
	if full != nil {
		c.pause(pausedLog, nil, full)
	}
	for room := c.b.inbound.full(); room != nil && c.goesOn(); room = c.b.inbound.full() {
		c.pause(pausedTotal, nil, room)
	}
	for room := c.lis.inbound.full(); room != nil && c.goesOn(); room = c.lis.inbound.full() {
		c.pause(pausedListener, nil, room)
	}
	if why := c.behind(); why != "" {
		c.pause(why, c.caughtUp, nil)
	}
	if hold > 0 {
		over := make(chan struct{})
		t := time.AfterFunc(hold, func() { close(over) })
		c.pause(why, nil, over)
		t.Stop()
	}
}

// pause waits until done holds, which is asked under c.mu, or also is closed. One of them may be nil.
func (c *conn) pause(why string, done func() bool, also <-chan struct{}) {
	began := c.b.clock()
	c.pausedBy.Store(int32(slices.Index(pauses, why)))
	c.paused.Store(true)
	c.b.stats.paused.Add(1)
	c.b.stats.pausedNow.add(why, 1)
	c.await(func() bool { return c.dismissed != nil || done != nil && done() }, also, c.b.stop)
	c.b.stats.paused.Add(-1)
	c.b.stats.pausedNow.add(why, -1)
	c.b.roster.touch(c)
	c.paused.Store(false)
	c.b.stats.pauses.add(why, 1)
	c.b.stats.pausedFor.add(why, int((c.b.clock() - began).Microseconds()))
}

// goesOn tells whether the connection is to be read on at all.
func (c *conn) goesOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closing && c.dismissed == nil && !c.b.stopping()
}

// behind names what of the client's waits too long for somebody; "": nothing does.
func (c *conn) behind() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.acks) > maxAcks || c.packets > maxPackets:
		return pausedOwner
	case c.out.answers > maxAnswers, c.out.answers > fewAnswers && c.b.tooManyAnswers():
		return pausedAnswers
	case c.inflight > c.b.o.Limits.InboundBytes:
		return pausedClient
	}
	return ""
}

// caughtUp tells whether enough of it has gone. Under c.mu.
func (c *conn) caughtUp() bool {
	return len(c.acks) <= maxAcks/2 && c.packets <= maxPackets/2 && c.inflight <= c.b.o.Limits.InboundBytes/2 &&
		(c.out.answers <= fewAnswers/2 || c.out.answers <= maxAnswers/2 && !c.b.tooManyAnswers())
}

// budget bounds bytes that many share. Who finds it used up waits until half of it is free. It is passed by what was being read then.
type budget struct {
	limit int64 // 0: none
	used  atomic.Int64
	mu    sync.Mutex
	room  chan struct{} // closed when there is room again; nil: nobody waits
}

func (g *budget) take(n int) {
	if g.limit > 0 {
		g.used.Add(int64(n))
	}
}

func (g *budget) give(n int) {
	if g.limit == 0 || n == 0 {
		return
	}
	if left, half := g.used.Add(int64(-n)), g.limit/2; left <= half && left+int64(n) > half {
		g.wake()
	}
}

func (g *budget) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.room != nil {
		close(g.room)
		g.room = nil
	}
}

func (g *budget) over() bool { return g.limit > 0 && g.used.Load() > g.limit }

// full is nil while there is room.
func (g *budget) full() <-chan struct{} {
	if !g.over() {
		return nil
	}
	g.mu.Lock()
	if g.room == nil {
		g.room = make(chan struct{})
	}
	room := g.room
	g.mu.Unlock()
	if g.used.Load() <= g.limit/2 { // it became free before anybody could be told
		g.wake()
	}
	return room
}
