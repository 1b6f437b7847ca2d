package console

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/millrace-io/millrace/internal/admission"
)

// admitted is a listener whose connections are connections.
type admitted struct{ net.Listener }

func (l admitted) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &connection{Conn: nc}, nil
}

// connection ends when its client takes nothing for stall. There is no bound on how long an answer may take in all: a stream has no end,
// and a link may be slow.
type connection struct {
	net.Conn

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
		nc := c.Conn
		if a, ok := nc.(*admission.Conn); ok {
			nc = a.NetConn()
		}
		if t, ok := nc.(*net.TCPConn); ok {
			t.SetWriteBuffer(streamBuffer) //nolint:errcheck // a hint
		}
	}
}

const streamBuffer = 64 << 10
