// Package transport is what may stand between a socket and MQTT: the header of a proxy, TLS, WebSocket, or one within the other.
//
// A Conn does two things, one after the other. First Open: handshakes that wait, on a goroutine that the caller gives. From then on
// it is a codec with a socket's manners: TryRead and TryWrite never wait and keep no buffer while there is nothing to do, so an
// idle connection costs what its keys and the state of a frame cost, and one goroutine can write for many. Where a socket has no
// descriptor to be asked (Windows, pipes), Read and WriteSome wait, as sockets do.
//
// The package starts no goroutines, sets no deadlines and has nothing on disk: who accepted the connection closes it when it takes too long.
// It will never buffer what a peer announces, only what a peer sent, and no more of that than one read.
package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/millrace-io/millrace/internal/certs"
)

// Options are what a listener speaks below MQTT. The zero Options are plain MQTT.
type Options struct {
	// Proxies are the networks whose connections begin with a PROXY header, which says who the client is. On a Unix socket everybody
	// is one, if there are any.
	Proxies []netip.Prefix
	// PlainOthers serves whoever is not a proxy as they come. Otherwise they are refused.
	PlainOthers bool
	TLS         *certs.Source // nil: none
	WebSocket   *WebSocket    // nil: none
}

// None tells whether there is nothing between the socket and MQTT.
func (o *Options) None() bool { return len(o.Proxies) == 0 && o.TLS == nil && o.WebSocket == nil }

// Name is the transport's, for people.
func (o *Options) Name() string {
	switch {
	case o.TLS != nil && o.WebSocket != nil:
		return "wss"
	case o.WebSocket != nil:
		return "ws"
	case o.TLS != nil:
		return "tls"
	}
	return "tcp"
}

// Proxied tells whether a PROXY header comes first from an address.
func (o *Options) Proxied(a net.Addr) bool {
	if len(o.Proxies) == 0 {
		return false
	}
	switch a := a.(type) {
	case *net.TCPAddr:
		ip := a.AddrPort().Addr().Unmap().WithZone("")
		for _, p := range o.Proxies {
			if p.Contains(ip) {
				return true
			}
		}
		return false
	case *net.UnixAddr:
		return true
	}
	return false
}

// Error is why a connection ends, with a reason for counters.
type Error struct {
	Reason string
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func failed(reason, text string) error { return &Error{reason, errors.New(text)} }

// Gate grants the right to compute: handshakes cost a hundred times what messages do, and whoever asks for enough of them at once
// must not keep the processors from those who are in.
type Gate interface {
	Enter() error // waits; an error ends the handshake
	Leave()
}

// Conn is a connection. One goroutine at a time may read, one write; Close and the deadlines may be used by any.
type Conn struct {
	net.Conn // the socket
	o        *Options
	raw      syscall.RawConn // nil: the socket waits
	tls      *tls.Conn
	ws       *frames
	remote   net.Addr // as a proxy says; nil: the socket's
	local    net.Addr
	identity string
	pass     certs.Pass // of the client's certificate; written under mu

	// Of the handshake.
	gate    Gate
	granted bool
	open    bool // it is over

	// Of the reader.
	fd      uintptr
	asking  bool    // reads do not wait
	drained bool    // the socket had nothing more
	ahead   []byte  // read, not yet decrypted
	buf     *buffer // that holds it, if one does
	early   []byte  // came behind the HTTP request
	failed  error

	// Of the writer.
	unsent  []byte  // made ready, not yet taken by the socket
	carries int     // how many bytes of the caller's it is
	wbuf    *buffer // that holds it, if one does

	mu     sync.Mutex
	shaken bool    // TLS stands; Recheck may look at it
	sealed []byte  // TLS records not yet taken by the writer
	sbuf   *buffer // that holds them, if one does
}

// New makes a connection of a socket. Open comes first.
func New(nc net.Conn, o *Options) *Conn { return &Conn{Conn: nc, o: o, raw: Socket(nc)} }

// Raw is for waiting until TryRead or TryWrite may have something to do; nil: use Read and WriteSome.
func (c *Conn) Raw() syscall.RawConn { return c.raw }

// RemoteAddr is the client's, which a proxy may have told. Not before ReadProxy.
func (c *Conn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

// LocalAddr is what the client connected to.
func (c *Conn) LocalAddr() net.Addr {
	if c.local != nil {
		return c.local
	}
	return c.Conn.LocalAddr()
}

// Socket is what the connection runs over: who has ended it may read on there until the peer has ended it too.
func (c *Conn) Socket() net.Conn { return c.Conn }

// Identity is the name in the certificate that the client has shown and proved; "": none.
func (c *Conn) Identity() string { return c.identity }

// TLS is the state of TLS; nil: there is none.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	cs := c.tls.ConnectionState()
	return &cs
}

// Open does what comes before MQTT, but for the proxy's header. It waits for the client.
func (c *Conn) Open(g Gate) error {
	if c.o.TLS != nil {
		if err := c.openTLS(g); err != nil {
			return err
		}
	}
	if c.o.WebSocket != nil {
		if err := c.upgrade(c.o.WebSocket); err != nil {
			return err
		}
	}
	c.open = true
	return nil
}

func (c *Conn) openTLS(g Gate) error {
	c.gate = g
	t := tls.Server((*wire)(c), c.o.TLS.Config())
	err := t.Handshake()
	c.leaveGate()
	c.gate = nil
	if err != nil {
		reason, named := certs.Refused(err)
		return &Error{reason, named}
	}
	c.mu.Lock()
	c.tls, c.shaken = t, true
	c.mu.Unlock()
	// Once more, now that Recheck sees the connection: the files may have changed while the client took its time.
	if err := c.verify(); err != nil {
		return err
	}
	c.identity = c.pass.Name
	return nil
}

// verify checks the client's certificate as if it were shown now.
func (c *Conn) verify() error {
	pass, err := c.o.TLS.Verify(c.tls.ConnectionState())
	if err != nil {
		reason, named := certs.Refused(err)
		return &Error{reason, named}
	}
	c.mu.Lock()
	c.pass = pass
	c.mu.Unlock()
	return nil
}

func (c *Conn) leaveGate() {
	if c.granted {
		c.granted = false
		c.gate.Leave()
	}
}

// Recheck looks at the client's certificate with today's eyes: whether the files that say whom to trust still do. Any goroutine.
func (c *Conn) Recheck() error {
	c.mu.Lock()
	shaken, pass := c.shaken, c.pass
	c.mu.Unlock()
	if !shaken || !c.o.TLS.Mutual() || c.o.TLS.Valid(pass) {
		return nil
	}
	return c.verify()
}

// wire is the Conn as its TLS sees it: the socket during the handshake, then what TryRead and TryWrite give and take.
type wire Conn

// again is what the end of what has come is to TLS: a reason to be asked later.
type again struct{}

func (again) Error() string   { return "nothing has come" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

func (w *wire) Read(b []byte) (int, error) {
	c := (*Conn)(w)
	if c.gate == nil {
		return c.pull(b)
	}
	c.leaveGate() // whoever makes us wait does not keep others waiting
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	if err := c.gate.Enter(); err != nil {
		return 0, err
	}
	c.granted = true
	return n, nil
}

func (w *wire) Write(b []byte) (int, error) {
	c := (*Conn)(w)
	if !c.open {
		return c.Conn.Write(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sealed)+len(b) > maxSealed {
		return 0, errors.New("the client asks for more than it takes")
	}
	if c.sealed == nil {
		c.sbuf = buffers.Get().(*buffer)
		c.sealed = c.sbuf[:0]
	}
	c.sealed = append(c.sealed, b...)
	return len(b), nil
}
