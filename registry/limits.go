package registry

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// admitted is a listener whose connections know through which door they came.
type admitted struct {
	net.Listener
	door *Door
}

func (l admitted) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{nc, l.door}, nil
}

type conn struct {
	net.Conn
	door *Door
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
