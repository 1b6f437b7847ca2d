package console

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// limited is a listener that lets in so many connections at once, and of one address half as many; more are closed at once. Descriptors are
// for devices and for the log.
type limited struct {
	net.Listener
	most int

	mu   sync.Mutex
	open int
	of   map[netip.Addr]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := client(nc.RemoteAddr().String())
		if l.enter(from) {
			return &connection{Conn: nc, leave: sync.OnceFunc(func() { l.left(from) })}, nil
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

// client is who is at the other end of an address: of IPv6 the network of 64 bits, since that is what one client has.
func client(address string) netip.Addr {
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

// connection ends when its client takes nothing for stall. There is no bound on how long an answer may take in all: a stream has no end,
// and a link may be slow.
type connection struct {
	net.Conn
	leave func()

	mu       sync.Mutex
	deadline time.Time // that somebody else has set
}

const (
	stall = 30 * time.Second
	piece = 8 << 10 // is what must be taken in that time
)

func (c *connection) Write(b []byte) (n int, err error) {
	for {
		part := b[n:min(n+piece, len(b))]
		c.mu.Lock()
		by := time.Now().Add(stall)
		if !c.deadline.IsZero() && c.deadline.Before(by) {
			by = c.deadline
		}
		c.Conn.SetWriteDeadline(by)
		c.mu.Unlock()
		k, err := c.Conn.Write(part)
		n += k
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

func (c *connection) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetDeadline(t)
}

func (c *connection) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetWriteDeadline(t)
}

func (c *connection) Close() error {
	c.leave()
	return c.Conn.Close()
}

type connectionKey struct{}

// withConnection lets a handler find the connection that it answers on.
func withConnection(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, _ := nc.(*connection)
	return context.WithValue(ctx, connectionKey{}, c)
}

// streaming prepares a request's connection for an answer that goes on: the request may take longer than others, and little of the answer waits
// in the system, so that what a slow client gets is not long past.
func streaming(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).SetReadDeadline(time.Time{}) //nolint:errcheck // tests answer without a connection
	if c, _ := r.Context().Value(connectionKey{}).(*connection); c != nil {
		if t, ok := c.Conn.(*net.TCPConn); ok {
			t.SetWriteBuffer(streamBuffer) //nolint:errcheck // a hint
		}
	}
}

const streamBuffer = 64 << 10
