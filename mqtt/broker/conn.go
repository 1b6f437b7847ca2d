package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// conn is one network connection. Its reader is one goroutine, which decodes, appends to the log and hands the rest to the
// owner; it never waits for the disk, nor for another client. While the connection is parked (see park.go) there is none. What is
// to be written is queued by whoever has it (the owner's loop, the store's callbacks, the reader) and written by a flusher. conn is
// the session.Conn of its session.
type conn struct {
	b     *Broker
	lis   *listener
	nc    net.Conn
	layer *transport.Conn // is nc, unless that is the socket
	raw   syscall.RawConn // nil: not a socket

	// Of the reader.
	version   packet.Version // 0 until CONNECT; written under mu
	quiet     bool           // the client wants no reason strings
	bridge    bool           // it is another broker's, of version 3.1 or 3.1.1
	halfOpen  bool
	counted   bool    // among those of its address that are half open
	again     bool    // rest may hold a whole packet: decode before reading
	qos2      bool    // the client has published at QoS 2
	joined    bool    // the owner knows the connection
	idle      bool    // park before reading on
	flow      *flow   // nil: there are no rates to keep to
	inherited int     // ids of inbound that were open before
	expiry    *uint32 // of a DISCONNECT
	asked     uint32  // session expiry of the CONNECT
	sent      uint32  // QoS 1 publishes
	need      int     // size of the packet that begins in rest, if known
	rest      []byte  // of the last burst, not decoded yet
	got       *burst  // by readable
	doing     *burst  // being handled
	owner     *owner  // from CONNECT on; written under mu
	readFn    func(fd uintptr) bool
	aliases   []string
	rights    rights
	key       session.Key

	aliasBytes int32         // of aliases
	keepAlive  uint16        // in force, seconds
	cleanStart bool          // it was asked for
	cause      session.Cause // of its end
	since      time.Duration // when its session was accepted, on the broker's clock; the owner's

	// Of the owner.
	named *outAliases // set by the reader before the owner knows the connection

	// Of the roster.
	next, prev   *conn
	until        int64 // when what the client has shown ends, in milliseconds since 1970; 0: it does not
	doze         int64 // tick at which to see whether it is idle; 0: never
	patience     int32 // ticks
	slot         int16
	listed, gone bool
	heard        atomic.Int64 // tick
	paused       atomic.Bool  // we do not read: the client is not to blame for its silence
	pausedBy     atomic.Int32 // of pauses

	acked atomic.Uint32 // QoS 1 publishes

	bytesIn, messagesIn atomic.Int64 // the reader's

	mu        sync.Mutex
	closing   bool      // nothing is queued any more
	accepted  bool      // CONNACK is queued: deliveries and DISCONNECT may follow
	ackPosted bool      // the mailbox knows of acks
	stopped   bool      // the reader appends nothing any more
	nudged    bool      // the reader's deadline is to park it
	watched   bool      // the lot knows the socket
	dismissed *farewell // how the reader is to end the connection
	maxPacket uint32
	place     uint32      // in the lot; 0: there is a reader
	why       string      // it ended
	holds     func() bool // Principal.Holds
	hello     *hello      // until CONNACK
	inbound   *session.Inbound
	out       outbound
	first     *flight // appends under way, in order
	last      *flight
	inflight  int           // bytes of theirs
	acks      []ack         // for the owner
	packets   int           // SUBSCRIBEs and UNSUBSCRIBEs that the owner has not answered, by their work
	wakeup    chan struct{} // the reader waits for something; see await
	stopping  chan struct{} // closed when it does, if somebody waits for that
	after     chan struct{} // of the connection that this one took the session over from
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP of a client on its way to the owner.
type ack struct {
	kind packet.Type
	code packet.Code
	id   uint16
}

// What of a client may wait for the owner; beyond it the client is not read.
const (
	maxAcks    = 4096
	maxPackets = 64
)

// fault is why we end a connection.
type fault struct {
	code packet.Code
	text string
}

func faultOf(err error) *fault {
	var e *packet.Error
	if errors.As(err, &e) {
		return &fault{e.Code, e.Text}
	}
	return &fault{packet.UnspecifiedError, err.Error()}
}

// serve is the reader's goroutine; first is the one that handles CONNECT. That takes more stack than waiting for packets, and a
// stack that has grown does not shrink to the least again, so another goroutine goes on.
func (c *conn) serve(first bool) {
	handedOn := false
	defer func() { // not survive: its frames would be part of every idle connection's stack
		if r := recover(); r != nil {
			c.b.notePanic("connection", &panicked{r, debug.Stack()})
			c.cut("panic")
			c.abandonBurst()
		}
		if !handedOn {
			defer c.b.conns.Done()
			c.b.survive("end", c.finish)
		}
	}()
	for c.step() {
		if (c.idle || c.b.parkAtOnce) && c.accepted && c.park() {
			handedOn = true
			return
		}
		if first && c.accepted {
			handedOn = true
			go c.serve(false)
			return
		}
	}
}

// halt says that this connection appends nothing any more.
func (c *conn) halt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.stopping != nil {
		close(c.stopping)
		c.stopping = nil
	}
}

// step reads once and acts on what came.
func (c *conn) step() bool {
	s, data, err := c.read()
	if err != nil {
		return c.readFailed(err)
	}
	if c.accepted { // before that, only a whole CONNECT counts
		c.b.roster.touch(c)
	}
	c.consume(s, data)
	connect, fault, stop, wait, hold, why := s.connect, s.fault, s.stop, s.wait, s.hold, s.why
	s.free()
	switch {
	case fault != nil && c.accepted:
		c.end(fault.code, fault.text)
		return false
	case fault != nil:
		c.turnAway(fault)
		return false
	case stop:
		if c.cause == session.Normal {
			c.leave()
		}
		return false
	case connect != nil:
		return c.open(connect)
	}
	c.awaitRoom(wait, hold, why)
	return true
}

func (c *conn) readFailed(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.wasNudged() {
		c.idle = true
		return true
	}
	var broken *transport.Error
	switch {
	case c.b.stopping(), c.isDismissed() != nil:
		c.depart()
	case errors.Is(err, os.ErrDeadlineExceeded): // end has been called
	case errors.As(err, &broken): // the transport has a last word
		c.mu.Lock()
		if c.closing {
			c.mu.Unlock()
			return false
		}
		c.endLocked(broken.Reason)
	case errors.Is(err, io.EOF):
		c.cut("connection_closed_by_client")
	default:
		c.cut("connection_lost")
	}
	return false
}

// await blocks the reader until done holds, which is asked under c.mu, or also is closed, or the connection or broker ends.
func (c *conn) await(done func() bool, also <-chan struct{}, stop <-chan struct{}) {
	for {
		c.mu.Lock()
		if c.closing || done() {
			c.mu.Unlock()
			return
		}
		if c.wakeup == nil {
			c.wakeup = make(chan struct{})
		}
		wakeup := c.wakeup
		c.mu.Unlock()
		select {
		case <-wakeup:
		case <-also:
			return
		case <-stop:
			return
		}
	}
}

// wakeReader lets the reader look again. Under c.mu.
func (c *conn) wakeReader() {
	if c.wakeup != nil {
		close(c.wakeup)
		c.wakeup = nil
	}
}

func (c *conn) isDismissed() *farewell {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dismissed
}

// awaitLanded waits for the outcome of every append, so that a client that we send away has its acks.
func (c *conn) awaitLanded() {
	c.await(func() bool { return c.first == nil }, nil, c.b.hurry)
}

var (
	longAgo    = time.Unix(1, 0) // a read deadline that wakes the reader
	noDeadline time.Time
)

// end ends the connection from our side, once: DISCONNECT with the code (5.0), then the socket. Any goroutine.
func (c *conn) end(code packet.Code, text string) { c.endAs(code, text, label(code)) }

// endAs is end with a reason of its own for the counter.
func (c *conn) endAs(code packet.Code, text, why string) {
	d := &packet.Disconnect{Code: code}
	d.Props.Has, d.Props.ReasonString = packet.PReasonString, text
	c.endWith(d, why)
}

func (c *conn) endWith(d *packet.Disconnect, why string) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	if c.accepted && c.version == packet.V5 {
		c.answer(d)
	}
	c.endLocked(why)
}

// endLocked finishes what end began; it releases c.mu.
func (c *conn) endLocked(why string) {
	c.closing, c.why = true, why
	flush := c.schedule()
	c.rouse()
	c.mu.Unlock()
	if flush {
		c.b.flushers.push(c)
	}
	c.nc.SetReadDeadline(longAgo)
}

// cut ends the connection at once, without a word. Any goroutine.
func (c *conn) cut(why string) {
	c.mu.Lock()
	if !c.closing {
		c.closing, c.why = true, why
		c.rouse()
	}
	c.mu.Unlock()
	c.nc.Close()
}

// lingerFor is how long a client that we have sent away may take to close its side. Closing first could make the system throw
// away our last packet, if bytes of the client are still unread.
const (
	lingerFor   = time.Second
	lingerBytes = 1 << 20
)

func (c *conn) linger() {
	nc := c.nc
	if c.layer != nil {
		nc = c.layer.Socket()
	}
	nc.SetReadDeadline(time.Now().Add(lingerFor))
	b := make([]byte, 512)
	for total := 0; total < lingerBytes; {
		n, err := nc.Read(b)
		if err != nil {
			return
		}
		total += n
	}
}

// closeWrite is called once everything queued is written, after the end was asked for.
func (c *conn) closeWrite() {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	c.nc.Close()
}

// leave follows the client's DISCONNECT. The socket stays until the core has closed it, that is, until the removal of the will
// is durable.
func (c *conn) leave() {
	c.halt()
	c.tellOwner()
	ctx, cancel := context.WithTimeout(c.b.ctx, leaveWithin)
	defer cancel()
	c.await(func() bool { return false }, ctx.Done(), c.b.hurry)
}

const leaveWithin = 10 * time.Second

// ownedBy tells whether o has the connection's session.
func (c *conn) ownedBy(o *owner) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owner == o
}

// tellOwner says, once, that the connection is over.
func (c *conn) tellOwner() {
	if c.joined {
		c.joined = false
		c.owner.post(func(now int64) { c.owner.disconnected(now, c) })
	}
}

// finish is the reader's last act.
func (c *conn) finish() {
	c.halt()
	c.mu.Lock()
	ended := c.closing
	c.closing = true
	if c.why == "" {
		c.why = "client_disconnect"
	}
	why, accepted := c.why, c.accepted
	c.mu.Unlock()
	c.tellEnd(accepted, why)
	c.tellOwner()
	if ended {
		c.linger()
	}
	c.nc.Close()
	c.b.roster.remove(c)
	c.leaveHalfOpen()
	c.mu.Lock()
	c.drop()
	c.mu.Unlock()
	if accepted {
		c.b.stats.ended.add(why, 1)
	} else {
		c.b.stats.turned.add(why, 1)
	}
	c.b.flaps(c.key, c.nc.RemoteAddr(), accepted, why)
	c.lis.connections.Add(-1)
	c.b.stats.connections.Add(-1)
}

func (c *conn) leaveHalfOpen() {
	if c.halfOpen {
		c.halfOpen = false
		if c.counted {
			c.b.half.leave(c.nc.RemoteAddr())
		}
		c.lis.halfOpen.Add(-1)
		c.b.stats.halfOpen.Add(-1)
	}
}

// overdue is the roster's: the client has been silent for too long, or its time is up.
func (c *conn) overdue() {
	c.mu.Lock()
	accepted := c.accepted
	c.mu.Unlock()
	switch {
	case c.b.roster.expired(c):
		c.lose(credentialExpired, "what the client authenticated with has expired")
	case accepted:
		c.end(packet.KeepAliveTimeout, "nothing heard for one and a half times the keep-alive")
	default:
		c.cut("connect_timeout")
	}
}
