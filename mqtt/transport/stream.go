package transport

import (
	"errors"
	"io"
	"net"
	"sync"
)

// buffer is for one read of a socket, or for what one write is to bring.
type buffer [bufferBytes]byte

const (
	bufferBytes = 40 << 10
	roundBytes  = 32 << 10  // of the caller's bytes are made ready at once; with all that goes around them they fit in a buffer
	recordBytes = 16 << 10  // the most a TLS record carries; WebSocket frames are no larger, for the sake of clients that bound them
	maxSealed   = 128 << 10 // records that wait: our own answers to a client that takes none
	writeBytes  = 256 << 10 // about what one TryWrite brings
)

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// records are where what one TLS record carries is put together.
var records = sync.Pool{New: func() any { return new([recordBytes]byte) }}

// TryRead reads what has come, without waiting; again: nothing. It is to be called until it says so before waiting for the
// descriptor: what came may carry more than b holds.
func (c *Conn) TryRead(fd uintptr, b []byte) (n int, again bool, err error) {
	c.fd, c.asking, c.drained = fd, true, false
	n, err = c.read(b)
	c.asking = false
	c.keepAhead()
	return n, n == 0 && err == nil, err
}

// Read waits for bytes.
func (c *Conn) Read(b []byte) (n int, err error) {
	if c.raw == nil {
		for n == 0 && err == nil && len(b) > 0 {
			n, err = c.read(b)
		}
		return n, err
	}
	waited := c.raw.Read(func(fd uintptr) bool {
		var again bool
		n, again, err = c.TryRead(fd, b)
		return !again
	})
	if waited != nil {
		return 0, waited
	}
	return n, err
}

// idleReads is how often one call reads what carries nothing. Who sends more of that than fits is not let go on: the call could not be
// ended from outside.
const idleReads = 64

// read reads once, as far as b goes. (0, nil): nothing has come, or nothing that carries something.
func (c *Conn) read(b []byte) (n int, err error) {
	if c.failed != nil {
		return 0, c.failed
	}
	for reads := 1; n == 0 && err == nil; reads++ {
		if reads > idleReads {
			return 0, violation("nothing but control frames and empty ones")
		}
		var got int
		got, err = c.receive(b)
		n = got
		if c.ws != nil && got > 0 {
			var broken error
			if n, broken = c.ws.decode(b[:got]); broken != nil {
				err = broken
			}
		}
		if got == 0 || !c.asking {
			break
		}
	}
	if n > 0 && err != nil {
		c.failed, err = err, nil
	}
	return n, err
}

// receive reads below WebSocket.
func (c *Conn) receive(b []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(b, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	if c.tls == nil {
		return c.take(b)
	}
	for n < len(b) && err == nil {
		var m int
		m, err = c.tls.Read(b[n:])
		if n += m; !c.asking {
			break // it would wait
		}
	}
	var later again
	if errors.As(err, &later) {
		err = nil
	}
	return n, err
}

// take reads from the socket.
func (c *Conn) take(b []byte) (n int, err error) {
	if !c.asking {
		return c.Conn.Read(b)
	}
	if c.drained {
		return 0, nil
	}
	n, nothing, err := ReadSocket(c.fd, b)
	c.drained = nothing || n < len(b)
	return n, err
}

// pull is TLS's read. The socket is read in one go, however small the records.
func (c *Conn) pull(b []byte) (n int, err error) {
	if !c.asking {
		return c.Conn.Read(b)
	}
	if len(c.ahead) == 0 {
		if c.drained {
			return 0, again{}
		}
		if c.buf == nil {
			c.buf = buffers.Get().(*buffer)
		}
		if n, err = c.take(c.buf[:]); err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, again{}
		}
		c.ahead = c.buf[:n]
	}
	n = copy(b, c.ahead)
	c.ahead = c.ahead[n:]
	return n, nil
}

// keepAhead gives the buffer back, and keeps what the caller had no room for.
func (c *Conn) keepAhead() {
	if len(c.ahead) == 0 {
		c.ahead = nil
	}
	if c.buf == nil {
		return
	}
	if c.ahead != nil {
		c.ahead = append([]byte(nil), c.ahead...)
	}
	buffers.Put(c.buf)
	c.buf = nil
}

// Owes tells whether there is something to write beside the pieces that a write did not complete: the rest of what no piece is part of,
// or what is Pending. It is the writer's.
func (c *Conn) Owes() bool { return len(c.unsent) > 0 || c.Pending() }

// Pending tells whether there is something to write that no caller gave: a pong, an answer of TLS. It is asked after each read;
// TryWrite brings it.
func (c *Conn) Pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sealed) > 0 || c.ws != nil && c.ws.pending()
}

// TryWrite writes what the socket takes of the pieces, without waiting. n counts those of their bytes that are written with all
// that belongs to them; the next call is to begin with the rest. again: the socket is full.
func (c *Conn) TryWrite(fd uintptr, pieces [][]byte) (n int, again bool, err error) {
	if c.tls == nil && c.ws == nil {
		return WriteSocket(fd, pieces)
	}
	for n < writeBytes {
		more, err := c.ready(pieces, n)
		if err != nil || !more {
			return n, false, err
		}
		m, full, err := WriteSocket(fd, [][]byte{c.unsent})
		n += c.sent(m)
		if err != nil || full {
			return n, full, err
		}
	}
	return n, false, nil
}

// WriteSome writes some of the pieces, and waits for the socket. n is as in TryWrite.
func (c *Conn) WriteSome(pieces [][]byte) (n int, err error) {
	if c.tls == nil && c.ws == nil {
		if len(pieces) == 0 {
			return 0, nil
		}
		return c.Conn.Write(pieces[0][:min(len(pieces[0]), roundBytes)])
	}
	more, err := c.ready(pieces, 0)
	if err != nil || !more {
		return 0, err
	}
	m, err := c.Conn.Write(c.unsent)
	return c.sent(m), err
}

// Write writes all of b, and waits for the socket.
func (c *Conn) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.WriteSome([][]byte{b[n:]})
		n += m
	}
	return n, err
}

// ready makes the next bytes ready, unless there are some; more: there are.
func (c *Conn) ready(pieces [][]byte, skip int) (more bool, err error) {
	if len(c.unsent) > 0 {
		return true, nil
	}
	if c.tls == nil {
		c.wbuf = buffers.Get().(*buffer)
		c.unsent = c.wbuf[:0]
		for full := true; full && c.carries <= roundBytes-recordBytes; {
			var carried int
			c.unsent, carried = c.fill(c.unsent, recordBytes, pieces, skip+c.carries)
			c.carries += carried
			full = carried == recordBytes
		}
	} else if err = c.seal(pieces, skip); err != nil {
		return false, err
	}
	if len(c.unsent) > 0 {
		return true, nil
	}
	c.release()
	if size(pieces, skip+1) > skip {
		return false, net.ErrClosed // Close has been said
	}
	return false, nil
}

// seal puts pieces into TLS records.
func (c *Conn) seal(pieces [][]byte, skip int) error {
	r := records.Get().(*[recordBytes]byte)
	defer records.Put(r)
	for c.carries <= roundBytes-recordBytes {
		b, carried := c.fill(r[:0], recordBytes-maxAround, pieces, skip+c.carries)
		if len(b) == 0 {
			break
		}
		if _, err := c.tls.Write(b); err != nil {
			return err
		}
		c.carries += carried
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsent, c.wbuf = c.sealed, c.sbuf
	c.sealed, c.sbuf = nil, nil
	return nil
}

// fill appends up to n bytes of the pieces, and what WebSocket has to say before them and around them.
func (c *Conn) fill(b []byte, n int, pieces [][]byte, skip int) (filled []byte, carried int) {
	n = min(n, size(pieces, skip+n)-skip)
	if c.ws != nil {
		c.mu.Lock()
		b = c.ws.appendDue(b)
		closed := c.ws.said
		c.mu.Unlock()
		if closed || n <= 0 {
			return b, 0
		}
		b = appendHeader(b, opBinary, n)
	}
	for _, p := range pieces {
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		part := p[skip:min(len(p), skip+n-carried)]
		skip = 0
		b = append(b, part...)
		if carried += len(part); carried == n {
			break
		}
	}
	return b, carried
}

// size is that of the pieces, as far as it is of interest.
func size(pieces [][]byte, enough int) (n int) {
	for _, p := range pieces {
		if n += len(p); n >= enough {
			return enough
		}
	}
	return n
}

// sent notes that the socket has taken m bytes, and returns how many of the caller's that completes.
func (c *Conn) sent(m int) (completed int) {
	if c.unsent = c.unsent[m:]; len(c.unsent) > 0 {
		return 0
	}
	completed = c.carries
	c.release()
	return completed
}

func (c *Conn) release() {
	if c.wbuf != nil {
		buffers.Put(c.wbuf)
	}
	c.unsent, c.carries, c.wbuf = nil, 0, nil
}

// CloseWrite says good-bye, as far as the socket takes it at once, and ends our side. It is the writer's last call.
func (c *Conn) CloseWrite() error {
	if c.ws != nil {
		c.mu.Lock()
		c.ws.bye()
		c.mu.Unlock()
		c.farewell()
	}
	if c.tls != nil {
		c.tls.CloseWrite() //nolint:errcheck // the client may have gone
		c.farewell()
	}
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// farewell writes what is pending. A socket that is full gets none: nobody reads there.
func (c *Conn) farewell() {
	if c.raw == nil {
		c.WriteSome(nil) //nolint:errcheck // the client may have gone
		return
	}
	c.raw.Write(func(fd uintptr) bool { //nolint:errcheck // the same
		c.TryWrite(fd, nil) //nolint:errcheck // the same
		return true
	})
}

var _ io.ReadWriteCloser = (*Conn)(nil)
