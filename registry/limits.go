package registry

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// limited is a listener that lets in so many connections at once, and of one address half as many; more are closed at once.
type limited struct {
	net.Listener
	door *Door
	most int

	mu   sync.Mutex
	open int
	of   map[netip.Addr]int
}

// conn is a connection that knows through which door it came.
type conn struct {
	net.Conn
	door  *Door
	leave func()
}

func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(nc.RemoteAddr().String())
		if l.enter(from) {
			return &conn{nc, l.door, sync.OnceFunc(func() { l.left(from) })}, nil
		}
		nc.Close()
	}
}

func (l *limited) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.most || l.of[from] >= max(1, l.most/2) {
		return false
	}
	if l.of == nil {
		l.of = map[netip.Addr]int{}
	}
	l.open++
	l.of[from]++
	return true
}

func (l *limited) left(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.of[from]--; l.of[from] == 0 {
		delete(l.of, from)
	}
}

// addressOf is who is at the other end: of IPv6 the network of 64 bits, since that is what one client has.
func addressOf(address string) netip.Addr {
	p, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Addr{}
	}
	a := p.Addr().Unmap().WithZone("")
	if a.Is6() && !a.IsLoopback() {
		if n, err := a.Prefix(64); err == nil {
			a = n.Addr()
		}
	}
	return a
}

// guesses slows down who tries passwords: so many failures of an address in a minute.
type guesses struct {
	now func() time.Time

	mu    sync.Mutex
	began time.Time
	of    map[netip.Addr]int
}

const (
	maxGuesses   = 20
	maxGuessers  = 10_000
	guessesEvery = time.Minute
)

// many tells whether an address has failed too often.
func (g *guesses) many(from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.now(); now.Sub(g.began) >= guessesEvery || len(g.of) > maxGuessers {
		g.began, g.of = now, map[netip.Addr]int{}
	}
	return g.of[from] >= maxGuesses
}

func (g *guesses) failed(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of == nil {
		g.of = map[netip.Addr]int{}
	}
	g.of[from]++
}
