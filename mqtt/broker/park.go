package broker

import (
	"errors"
	"net"
	"os"
	"sync"

	"github.com/millrace-io/millrace/mqtt/transport"
)

// An idle connection is parked: its reader ends, which gives its stack back, and the lot watches its socket. Whatever comes, or
// whoever ends the connection, starts a reader again, which goes on where the last one left off; so everything that only a reader does,
// its final duties above all, is still done by one. Only plain sockets are parked, and only between packets.
//
// It is the roster's ticker that finds a connection idle and wakes its reader with a read deadline; the reader parks itself. conn.place says
// whether it has, under c.mu, which is what makes a parked connection have exactly one successor to its reader.

// lot is where connections are parked. Its goroutine is Broker.runLot.
type lot struct {
	opened sync.Once
	watch  *transport.Watch // nil: nothing is parked

	mu     sync.Mutex
	places []place
	free   uint32 // first of the list; 0: none
	shut   bool
}

// place is one parked connection's, or free.
type place struct {
	c     *conn
	turn  uint32 // counts who was here: what was said of them is not meant for who is here now
	after uint32 // the next that is free
}

// enter finds a place for c. False: none is given any more.
func (l *lot) enter(c *conn) (token uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return 0, false
	}
	at := l.free
	if at != 0 {
		l.free = l.places[at].after
	} else {
		if len(l.places) == 0 {
			l.places = append(l.places, place{}) // 0 is nobody's
		}
		at = uint32(len(l.places))
		l.places = append(l.places, place{})
	}
	p := &l.places[at]
	p.c = c
	return uint64(p.turn)<<32 | uint64(at), true
}

// leave frees a place.
func (l *lot) leave(at uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.places[at]
	p.c, p.after = nil, l.free
	p.turn++
	l.free = at
}

// who is parked where the token says; nil: it has left.
func (l *lot) who(token uint64) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := uint32(token)
	if uint64(at) >= uint64(len(l.places)) || l.places[at].turn != uint32(token>>32) {
		return nil
	}
	return l.places[at].c
}

// close shuts the lot, and lists who is in it.
func (l *lot) close() (cs []*conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	for _, p := range l.places {
		if p.c != nil {
			cs = append(cs, p.c)
		}
	}
	return cs
}

// openLot prepares parking, with the first connection that may be parked: a broker without sockets waits for none. Without a watch the broker works as well, with a goroutine for every
// connection.
func (b *Broker) openLot() {
	if b.o.Limits.ParkAfter < 0 {
		return
	}
	watch, err := transport.NewWatch()
	if err != nil {
		b.o.Logger.Warn("idle connections keep their goroutines", "error", err)
	}
	if watch == nil {
		return
	}
	b.lot.watch = watch
	b.work.Go(b.runLot)
}

// runLot gives connections their readers back when something comes. Close ends it, when all connections are gone.
func (b *Broker) runLot() {
	var buf [64]uint64
	for {
		tokens, err := b.lot.watch.Wait(buf[:])
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				b.o.Logger.Error("idle connections keep their goroutines from now on", "error", err)
			}
			break
		}
		for _, token := range tokens {
			if c := b.lot.who(token); c != nil {
				c.resume(uint32(token))
			}
		}
	}
	for _, c := range b.lot.close() {
		c.mu.Lock()
		c.rouse()
		c.mu.Unlock()
	}
}

// resume is the lot's: c, which is parked at a place, has something to read.
func (c *conn) resume(at uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.place == at { // else it has been roused meanwhile
		c.unpark()
	}
}

// parks tells whether c is ever parked.
func (c *conn) parks() bool { return c.raw != nil && c.layer == nil && c.b.lot.watch != nil }

// nudge is the roster's: nothing was heard for a while. The reader, if it is waiting for bytes, parks.
func (c *conn) nudge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accepted && !c.closing && c.dismissed == nil && c.place == 0 {
		c.nudged = true
		c.nc.SetReadDeadline(longAgo)
	}
}

// wasNudged tells the reader, whose deadline has passed, whether that was to park it and nothing else. Who ends a connection says so
// first, then sets the deadline: so the deadline is lifted first, then it is asked.
func (c *conn) wasNudged() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.nudged {
		return false
	}
	c.nudged = false
	if c.closing {
		return false
	}
	c.nc.SetReadDeadline(noDeadline)
	return c.dismissed == nil && !c.b.stopping()
}

// park ends the reader's part for now, if nothing is half done; true: c is another goroutine's. What has come since the last read, or
// comes before the socket is watched, is told by the watch at once.
func (c *conn) park() bool {
	c.idle = false
	if !c.parks() || c.rest != nil || c.need != 0 || c.again {
		c.b.roster.await(c)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.accepted || c.closing || c.dismissed != nil || c.b.stopping() {
		return false
	}
	token, ok := c.b.lot.enter(c)
	if !ok {
		return false
	}
	if err := c.b.lot.watch.Arm(c.raw, token, c.watched); err != nil {
		c.b.lot.leave(uint32(token))
		if !errors.Is(err, net.ErrClosed) {
			c.b.samples.warn("an idle connection keeps its goroutine", "error", err)
		}
		return false
	}
	c.watched = true
	c.place = uint32(token)
	c.b.stats.parked.Add(1)
	return true
}

// unpark gives c a reader again. Under c.mu.
func (c *conn) unpark() {
	c.b.lot.leave(c.place)
	c.place = 0
	c.b.stats.parked.Add(-1)
	c.b.roster.await(c)
	go c.serve(false)
}

// rouse sees to it that there is a reader, and that it looks at what it waits for. Whoever ends a connection calls it, or nobody would
// do what a reader does at the end. Under c.mu.
func (c *conn) rouse() {
	c.wakeReader()
	if c.place != 0 {
		c.unpark()
	}
}
