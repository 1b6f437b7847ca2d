package kafkawire

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	maxInFlight = 128      // requests of one connection that are not answered
	firstLimit  = 64 << 10 // size of requests before the first one made sense
	firstWait   = 10 * time.Second
	smallBuffer = 64 << 10 // requests up to here share a buffer of their connection; larger ones share Options.MaxBuffered
)

// conn is one client's connection.
type conn struct {
	s      *Server
	nc     net.Conn
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	host   string // what to advertise; "": what the client connected to
	port   int32

	listener *ListenerOptions
	address  string                              // the client's
	tls      atomic.Pointer[tls.ConnectionState] // nil: none
	who      atomic.Pointer[principal]           // nil: nobody yet. The reader sets it
	rights   rights
	once     sync.Once   // the reason of its end is counted once
	half     atomic.Bool // has one of Server.half's places

	// The reader's.
	shake    func(context.Context) error // makes the TLS handshake; nil: there is none
	patience *time.Timer                 // with who is nobody
	br       *bufio.Reader
	buf      []byte      // for requests that are done with when their handler returns
	largest  int         // request of those that came whole
	clientID string      // of the last request
	topic    string      // that was produced to last
	produce  request     // Produce, while it is started: who keeps anything of it has copied it; batches may stay where they were read (memoryOf)
	fills    bool        // batches that the log took filled the last Produce over smallBuffer
	proven   atomic.Bool // a request made sense
	heard    atomic.Bool // one that asked for more than which versions we speak
	sasl     *sasl       // nil: no login is on its way
	settled  bool        // who the client is can change no more
	expiry   *time.Timer // of who

	replies replies
	open    sync.WaitGroup // replies not written yet; the reader adds

	watch fetchWatch // the writer's
}

// request is one request, its header taken off.
type request struct {
	api         *api
	version     int16
	correlation int32
	body        []byte
	buffer      *[]byte // that body is in, of bodies; nil: another
	lasts       bool    // body is in memory of its own, that batches may stay in
	held        int64   // of Options.MaxBuffered
	s           *Server
}

// release gives back what the request's bytes hold of Options.MaxBuffered.
func (r *request) release() {
	if r.held > 0 {
		r.s.buffers.Release(r.held)
		r.held = 0
	}
}

// recycle gives back the buffer that the request's bytes are in. Nobody may look at them any more.
func (r *request) recycle() {
	if r.buffer != nil {
		bodies[bodyClass(cap(*r.buffer))].Put(r.buffer)
		r.body, r.buffer = nil, nil
	}
}

// bodies are buffers for Produce requests over smallBuffer, of leastBody bytes and twice as many in each class. Larger ones are not kept.
var bodies [7]sync.Pool

const leastBody = 2 * smallBuffer

// bodyClass is the class of bodies that has n bytes, if there is one.
func bodyClass(n int) int { return bits.Len(uint(n-1) / leastBody) }

func newConn(s *Server, nc net.Conn, o *ListenerOptions, host string, port int32) *conn {
	c := &conn{s: s, nc: nc, listener: o, address: addressText(nc), host: host, port: port, replies: newReplies()}
	if o.TLS != nil {
		c.nc, c.shake = s.Processors.Server(nc, o.TLS(), authPatience)
	}
	c.br = bufio.NewReaderSize(c.nc, 4<<10)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	stop := context.AfterFunc(c.ctx, func() { c.nc.Close() })
	defer stop()
	var writer sync.WaitGroup
	writer.Add(1)
	go func() {
		defer writer.Done()
		defer func() { c.watch.end() }()
		c.guard(c.write)
		for range c.replies.abandon() { // whatever became of the loop, the reader must not wait for it
			c.open.Done()
		}
	}()
	c.guard(c.read)
	c.replies.close()
	writer.Wait()
	for _, t := range []*time.Timer{c.patience, c.expiry} {
		if t != nil {
			t.Stop()
		}
	}
	c.cancel()
	c.nc.Close()
}

// guard runs one of the connection's loops, and ends the connection with it. A panic is a bug of ours; it costs the client
// that found it its connection, not the others theirs.
func (c *conn) guard(loop func() error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.stats.panics.Add(1)
			c.s.Logger.Error("kafka: panic", "remote", c.nc.RemoteAddr().String(), "panic", p, "stack", string(debug.Stack()))
			c.end()
		}
	}()
	err := loop()
	var lost *endedError
	if errors.As(err, &lost) && c.ctx.Err() == nil {
		c.count(lost.reason)
		c.s.Logger.Debug("kafka: connection ended", "remote", c.nc.RemoteAddr().String(), "error", err)
	}
	if errors.Is(err, errDraining) || errors.Is(err, errAnswered) {
		return // what was read is answered yet
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || c.ctx.Err() != nil {
		c.end()
		return
	}
	switch {
	case lost != nil:
		c.end()
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.s.stats.stalled.Add(1)
	case errors.Is(err, errUnsupported):
		c.s.stats.unsupported.Add(1)
	case errors.Is(err, errBadRequest):
		c.s.stats.badRequests.Add(1)
	}
	c.s.Logger.Debug("kafka: connection ended", "remote", c.nc.RemoteAddr().String(), "error", err)
	c.end()
}

// end makes both loops stop. The reader's is let go by the closed socket, the writer's by it and the context.
func (c *conn) end() {
	c.cancel()
	c.nc.Close()
}

var (
	errBadRequest  = errors.New("bad request")
	errUnsupported = errors.New("unsupported request")
	errDraining    = errors.New("the server closes")
	errAnswered    = errors.New("nothing more is read from the client")
)

// read takes requests off the socket and starts them, one after another.
func (c *conn) read() error {
	if err := c.admit(); err != nil {
		return err
	}
	for c.ctx.Err() == nil {
		r, err := c.next()
		if err != nil {
			return err
		}
		c.s.stats.requests[r.api.key].Add(1)
		rep, err := r.api.start(c, r)
		ends := err != nil
		if ends {
			if end := (*endedError)(nil); !errors.As(err, &end) {
				return fmt.Errorf("%w: %s version %d: %w", errBadRequest, r.api.name, r.version, err)
			}
		}
		if rep == nil {
			return err
		}
		c.proven.Store(true)
		if r.api.key != int16(kmsg.ApiVersions) {
			c.heard.Store(true)
		}
		c.open.Add(1)
		if !c.replies.put(c.ctx, rep) {
			c.open.Done()
		}
		if ends {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
	}
	return c.ctx.Err()
}

// next reads one request and checks its shape.
func (c *conn) next() (*request, error) {
	if c.heard.Load() && c.s.draining() {
		return nil, errDraining
	}
	wait := c.s.IdleTimeout
	if !c.proven.Load() {
		wait = min(wait, firstWait)
	}
	c.readWithin(wait)
	head, err := c.br.Peek(6) // the size, and the API key behind it
	if err != nil {
		if c.s.draining() {
			return nil, errDraining
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && c.proven.Load() && len(head) == 0 {
			return nil, io.EOF // merely idle
		}
		return nil, err
	}
	size, key := int(int32(binary.BigEndian.Uint32(head))), int16(binary.BigEndian.Uint16(head[4:]))
	if c.sasl != nil && c.sasl.bare {
		return c.bareMessage(size)
	}
	limit := c.s.MaxRequestBytes
	if !c.proven.Load() || c.who.Load() == nil {
		limit = min(limit, firstLimit)
	}
	if err := c.allowedNow(key); err != nil {
		return nil, err
	}
	if size < 8 || size > limit {
		return nil, fmt.Errorf("%w: %d bytes, want 8 to %d", errBadRequest, size, limit)
	}
	if _, err := c.br.Discard(4); err != nil {
		return nil, err
	}
	r := &c.produce
	if key != int16(kmsg.Produce) {
		r = new(request)
	}
	*r = request{s: c.s}
	b, err := c.body(r, size, memoryOf(key, size, c.largest, c.fills))
	if err != nil {
		return nil, err
	}
	c.s.stats.bytesIn.Add(uint64(4 + size))
	if err := c.parse(r, b); err != nil {
		r.release()
		r.recycle()
		return nil, err
	}
	return r, nil
}

// bareMessage reads a message of a login that stands in no request.
func (c *conn) bareMessage(size int) (*request, error) {
	if size < 0 || size > maxToken {
		return nil, fmt.Errorf("%w: %d bytes of SASL", errBadRequest, size)
	}
	if _, err := c.br.Discard(4); err != nil {
		return nil, err
	}
	r := &request{api: bareAuthenticate, s: c.s}
	var err error
	r.body, err = c.body(r, size, grown)
	return r, err
}

// readWithin bounds how long the next reads may take. When the server closes they take no time at all.
func (c *conn) readWithin(d time.Duration) {
	c.nc.SetReadDeadline(time.Now().Add(d))
	if c.s.draining() {
		c.stopReading()
	}
}

// stopReading ends the reads. Only a client that just came is heard once: see firstGrace.
func (c *conn) stopReading() {
	var grace time.Duration
	if !c.heard.Load() {
		grace = firstGrace
	}
	c.nc.SetReadDeadline(time.Now().Add(grace))
}

// memory is where the bytes of a request go.
type memory uint8

const (
	shared  memory = iota // into a buffer that the next one will use
	grown                 // into some of its own
	lasting               // into some of its own that what comes of it may stay in
)

// maxLasting is the largest request that batches stay in: as long as there is one the memory of all is kept, and it is not to be more than
// that of the largest batch.
const maxLasting = 512 << 10

// memoryOf chooses. A Produce of some size is read to where the log may keep its batches, all of it made at once: not for more than twice of what
// the client has sent before, and only if batches filled the last one, for where they do not they are copied, and the memory was made for nothing.
func memoryOf(key int16, size, largest int, fills bool) memory {
	if key == int16(kmsg.Produce) && fills && size > smallBuffer && size <= min(maxLasting, 2*largest) {
		return lasting
	}
	return shared
}

// body reads the bytes of a request.
func (c *conn) body(r *request, size int, to memory) ([]byte, error) {
	if size > smallBuffer {
		if err := c.s.buffers.Acquire(c.ctx, int64(size)); err != nil {
			return nil, err
		}
		r.held = int64(size)
	}
	b := c.buffer(r, size, to)
	for at := 0; ; {
		c.readWithin(c.s.StallTimeout)
		n, err := io.ReadFull(c.br, b[at:])
		if at += n; err != nil {
			r.release()
			if c.s.draining() {
				return nil, errDraining
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: cut off after %d of %d bytes: %w", errBadRequest, at, size, err)
			}
			return nil, err
		}
		if at == size {
			break
		}
		b = r.grow(b, size)
	}
	if to == shared && len(b) <= smallBuffer {
		c.buf = b[:cap(b)]
	}
	c.largest = max(c.largest, size)
	return b, nil
}

// buffer is where a request's first bytes go. What is there already has room for all of it; what must be made grows with what arrives, not
// with what was announced.
func (c *conn) buffer(r *request, size int, to memory) []byte {
	if to == lasting {
		r.lasts = true
		return unset(size)
	}
	if class := bodyClass(size); to == shared && size > smallBuffer && class < len(bodies) {
		if kept, ok := bodies[class].Get().(*[]byte); ok {
			r.buffer = kept
			return (*kept)[:size]
		}
	}
	if to == shared && cap(c.buf) >= min(size, smallBuffer) {
		return c.buf[:min(size, cap(c.buf))]
	}
	return make([]byte, min(size, smallBuffer))
}

// unset makes a slice of bytes that are anything, for who reads into all of it at once: to clear them would cost half of what a copy does.
func unset(n int) []byte {
	var b strings.Builder // it does not clear
	b.Grow(n)
	b.WriteByte(0)
	return unsafe.Slice(unsafe.StringData(b.String()), n)
}

// grow makes room for more of a request. What has room for all of it may serve others.
func (r *request) grow(b []byte, size int) []byte {
	room := 4 * len(b)
	if class := bodyClass(size); room >= size && class < len(bodies) {
		grown := make([]byte, leastBody<<class)
		r.buffer = &grown
		copy(grown, b)
		return grown[:size]
	}
	grown := make([]byte, min(size, room))
	copy(grown, b)
	return grown
}

// parse takes the header off and checks the shape of the rest.
func (c *conn) parse(r *request, b []byte) error {
	key, version := int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:]))
	r.correlation = int32(binary.BigEndian.Uint32(b[4:]))
	if r.api = lookup(key); r.api == nil {
		return fmt.Errorf("%w: API key %d", errUnsupported, key)
	}
	r.version = version
	if version < r.api.min || version > r.api.max {
		if key == int16(kmsg.ApiVersions) {
			r.body = nil
			return nil // answered, so that the client can do better (KIP-511)
		}
		return fmt.Errorf("%w: %s version %d, want %d to %d", errUnsupported, r.api.name, version, r.api.min, r.api.max)
	}
	flexible := version >= r.api.flexible
	w := walker{b: b[8:]}
	n := w.length(2)
	if n > maxString {
		n = maxString + 1
	}
	id := w.b[:min(n, len(w.b))]
	if w.skip(n); flexible {
		w.flexible = true
		w.tags(nil)
	}
	if w.err != nil || n > maxString {
		return fmt.Errorf("%w: %s header: %w", errBadRequest, r.api.name, errors.Join(w.err, errTruncated))
	}
	if c.clientID != string(id) {
		c.clientID = string(id)
	}
	if r.body = w.b; r.api.decodes {
		return nil
	}
	if err := r.api.shape.walk(w.b, version, flexible); err != nil {
		return fmt.Errorf("%w: %s version %d: %w", errBadRequest, r.api.name, version, err)
	}
	return nil
}

// answer is a reply that is known already.
func (r *request) answer(resp kmsg.Response) *reply {
	rep := &reply{}
	rep.frame.set(r, resp)
	return rep
}

// set encodes a response.
func (f *frame) set(r *request, resp kmsg.Response) {
	if resp == nil {
		return
	}
	resp.SetVersion(r.version)
	b := r.header(make([]byte, 0, 256))
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	f.bufs = append(f.bufs[:0], b)
}

// header begins a response frame: room for the length, correlation id, and tags in flexible versions. The header of
// ApiVersions is always the old one: who reads it does not know yet what we speak.
func (r *request) header(b []byte) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(r.correlation))
	if r.version >= r.api.flexible && r.api.key != int16(kmsg.ApiVersions) {
		b = append(b, 0)
	}
	return b
}

// advertised is the address that clients of this connection should use.
func (c *conn) advertised() (host string, port int32) {
	host, port = c.host, c.port
	if a, ok := c.nc.LocalAddr().(*net.TCPAddr); ok {
		if host == "" {
			host = a.IP.String()
			if a.Zone != "" {
				host += "%" + a.Zone
			}
		}
		if port == 0 {
			port = int32(a.Port)
		}
	}
	return host, port
}

// remoteHost is the client's address, as groups show it.
func (c *conn) remoteHost() string {
	if c.address != "" {
		return "/" + c.address
	}
	return c.nc.RemoteAddr().String()
}

// addressText is a client's address, without the port; "": it has none.
func addressText(nc net.Conn) string {
	a, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return a.AddrPort().Addr().Unmap().WithZone("").String()
}
