// Package admission bounds what those cost who are not known yet: how many connections there may be, in all and of one client, and how
// many TLS handshakes compute at once. It is of no protocol, so that every kind of listener has the same bounds.
//
// It starts no goroutines, keeps nothing on disk, and knows nobody: it never decides who somebody is.
package admission

import (
	"net"
	"net/netip"
	"sync"
)

// Client is who is at the other end of an address, to count connections by: the address, or of IPv6 the network of 64 bits, since that is
// what one client has. What is no address of IP is one client.
func Client(address string) netip.Addr {
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

// ClientOf is Client of a connection.
func ClientOf(nc net.Conn) netip.Addr {
	if tcp, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return Client(tcp.AddrPort().String())
	}
	return Client(nc.RemoteAddr().String())
}

// Places are taken by connections: so many, and of one client so many. Safe for concurrent use.
type Places struct {
	Most, OfOne int

	mu    sync.Mutex
	taken int
	of    map[netip.Addr]int
}

// Enter takes a place; false: there is none.
func (p *Places) Enter(from netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.Most || p.of[from] >= p.OfOne {
		return false
	}
	if p.of == nil {
		p.of = map[netip.Addr]int{}
	}
	p.taken++
	p.of[from]++
	return true
}

// Leave gives back a place that Enter took.
func (p *Places) Leave(from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.of[from]--; p.of[from] == 0 {
		delete(p.of, from)
	}
}

// Taken is how many are.
func (p *Places) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// Limit returns a listener that lets in so many connections of l at once, and of one client half as many; more are closed at once. Its
// connections are Conns.
func Limit(l net.Listener, most int) net.Listener {
	return &limited{Listener: l, places: Places{Most: most, OfOne: max(1, most/2)}}
}

type limited struct {
	net.Listener
	places Places
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := ClientOf(nc)
		if l.places.Enter(from) {
			return &Conn{Conn: nc, leave: sync.OnceFunc(func() { l.places.Leave(from) })}, nil
		}
		nc.Close()
	}
}

// Conn is a connection that has a place until it is closed.
type Conn struct {
	net.Conn
	leave func()
}

// NetConn is the connection as it was accepted.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.leave()
	return c.Conn.Close()
}
