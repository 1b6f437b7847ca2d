package sim

import (
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// radio is a connection over a device's network: what goes through it is late, slow, and, once the coverage in which it was made is
// over, gone. It owns two goroutines, one for each direction, that end some time after Close: what was written before is still
// delivered, if there is coverage.
type radio struct {
	net.Conn // below
	c        *coverage
	spell    int
	up, down *lane
	closing  sync.Once
	closed   chan struct{}
}

const (
	pieceSize = 1400
	laneSize  = 64 << 10 // bytes on their way in one direction; more wait
)

func newRadio(conn net.Conn, c *coverage, spell int) *radio {
	r := &radio{Conn: conn, c: c, spell: spell, closed: make(chan struct{})}
	r.up, r.down = newLane(c, c.n.Up), newLane(c, c.n.Down)
	c.radios.Go(r.send)
	go r.fetch()
	return r
}

// alive tells whether the coverage in which the connection was made goes on.
func (r *radio) alive() bool {
	spell, covered, _ := r.c.now()
	return covered && spell == r.spell
}

// Write puts bytes on their way.
func (r *radio) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		k := min(len(p)-n, pieceSize)
		if !r.up.put(piece{b: append([]byte(nil), p[n:n+k]...)}, r.closed) {
			return n, net.ErrClosed
		}
		n += k
	}
	return len(p), nil
}

// Read returns what has come. A connection without coverage says nothing, until it is closed.
func (r *radio) Read(p []byte) (int, error) {
	for {
		got, ok := r.down.take(r.closed, nil)
		if !ok {
			return 0, net.ErrClosed
		}
		if !r.alive() {
			continue // vanished
		}
		if got.err != nil {
			return 0, got.err
		}
		n := copy(p, got.b)
		if n < len(got.b) {
			r.down.back(piece{b: got.b[n:], due: got.due})
		}
		return n, nil
	}
}

// Close ends the connection for this side. The other side hears of it if there is coverage.
func (r *radio) Close() error {
	r.closing.Do(func() { close(r.closed) })
	return nil
}

// send delivers what is written. It closes the connection below, or, without coverage, leaves it as it is.
func (r *radio) send() {
	for {
		p, ok := r.up.take(nil, r.closed)
		if !ok {
			break
		}
		if r.alive() {
			if _, err := r.Conn.Write(p.b); err != nil {
				break
			}
		}
	}
	<-r.closed
	if r.alive() {
		r.Conn.Close()
	} else {
		r.c.bury(r.Conn)
	}
}

// fetch takes in what comes from the other side.
func (r *radio) fetch() {
	buf := make([]byte, pieceSize)
	for {
		n, err := r.Conn.Read(buf)
		if n > 0 && !r.down.put(piece{b: append([]byte(nil), buf[:n]...)}, r.closed) {
			return
		}
		if err != nil {
			r.down.put(piece{err: err}, r.closed)
			return
		}
	}
}

// lane is one direction: pieces in order, each with the time at which it arrives.
type lane struct {
	n    *Network
	rate int

	mu    sync.Mutex
	dice  *rand.Rand
	queue []piece
	size  int
	free  time.Time // when the radio is free for the next piece
	last  time.Time // when the last piece arrives
	some  chan struct{}
	room  chan struct{}
}

type piece struct {
	b   []byte
	due time.Time
	err error // instead: the other side's end
}

func newLane(c *coverage, rate int) *lane {
	return &lane{n: c.n, rate: rate, dice: c.newDice(), some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put adds a piece; false: stop came first.
func (l *lane) put(p piece, stop <-chan struct{}) bool {
	for {
		select {
		case <-stop:
			return false
		default:
		}
		l.mu.Lock()
		if l.size < laneSize {
			p.due = l.arrival(len(p.b))
			l.queue = append(l.queue, p)
			l.size += len(p.b)
			l.mu.Unlock()
			wakeUp(l.some)
			return true
		}
		l.mu.Unlock()
		select {
		case <-l.room:
		case <-stop:
			return false
		}
	}
}

// arrival is when a piece of a size arrives that is sent now, behind those before.
func (l *lane) arrival(size int) time.Time {
	at := time.Now()
	if l.free.After(at) {
		at = l.free
	}
	if l.dice.Float64() < l.n.Stall {
		at = at.Add(l.n.StallFor.draw(l.dice))
	}
	if l.rate > 0 {
		at = at.Add(time.Duration(float64(size) / float64(l.rate) * float64(time.Second)))
	}
	l.free = at
	at = at.Add(l.n.Latency + time.Duration(l.dice.Float64()*float64(l.n.Jitter)))
	if at.Before(l.last) {
		at = l.last
	}
	l.last = at
	return at
}

// take waits for the next piece to arrive; false: stop came first, or last did and nothing is left.
func (l *lane) take(stop, last <-chan struct{}) (piece, bool) {
	for {
		l.mu.Lock()
		var p piece
		some := len(l.queue) > 0
		if some {
			p = l.queue[0]
		}
		l.mu.Unlock()
		if !some {
			select {
			case <-l.some:
			case <-stop:
				return piece{}, false
			case <-last:
				if !l.left() {
					return piece{}, false
				}
			}
			continue
		}
		if wait := time.Until(p.due); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-stop:
				timer.Stop()
				return piece{}, false
			}
		}
		l.mu.Lock()
		l.queue = l.queue[1:]
		l.size -= len(p.b)
		l.mu.Unlock()
		wakeUp(l.room)
		return p, true
	}
}

func (l *lane) left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) > 0
}

// back returns the rest of a piece that was taken.
func (l *lane) back(p piece) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append([]piece{p}, l.queue...)
	l.size += len(p.b)
}
