package kafkawire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/eventlog/engine"
)

// fileSender sends parts of files from the page cache into a connection's socket. It has an offset of its own for each: what the standard
// library offers goes by the file's position, which all who read a segment share. It belongs to the connection's writer.
type fileSender struct {
	raw  syscall.RawConn
	step func(fd uintptr) (done bool) // made once
	span engine.Span
	n    int
	err  error
}

// sendAtOnce bounds one call, so that a client that takes its time is seen to.
const sendAtOnce = 1 << 20

// sendsFiles tells whether files can go into the connection's socket as they are: not through TLS.
func (c *conn) sendsFiles() bool {
	_, plain := c.nc.(*net.TCPConn)
	return plain
}

func newFileSender(nc net.Conn) (*fileSender, error) {
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &fileSender{raw: raw}
	s.step = func(fd uintptr) bool {
		off := s.span.Off
		s.n, s.err = syscall.Sendfile(int(fd), int(s.span.Fd), &off, int(min(s.span.Size, sendAtOnce)))
		for s.err == syscall.EINTR {
			s.n, s.err = syscall.Sendfile(int(fd), int(s.span.Fd), &off, int(min(s.span.Size, sendAtOnce)))
		}
		return s.err != syscall.EAGAIN // else: when the socket has room
	}
	return s, nil
}

// cork has the socket wait for full segments, or not wait any more.
func (s *fileSender) cork(on int) error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, on) })
	return errors.Join(cerr, err)
}

// sender returns what sends files, made when the first is sent.
func (o *outgoing) sender() (*fileSender, error) {
	if o.send == nil {
		s, err := newFileSender(o.c.nc)
		if err != nil {
			return nil, fmt.Errorf("send from files: %w", err)
		}
		o.send = s
	}
	return o.send, nil
}

// sendFile sends a part of a file. Its size stands in the response already, so where the file does not give it the connection ends.
func (o *outgoing) sendFile(span engine.Span) error {
	s, err := o.sender()
	if err != nil {
		return err
	}
	for s.span = span; s.span.Size > 0; {
		o.c.nc.SetWriteDeadline(time.Now().Add(o.c.s.StallTimeout))
		if err := s.raw.Write(s.step); err != nil {
			return fmt.Errorf("write responses: %w", err)
		}
		if s.err == nil && s.n == 0 {
			s.err = io.ErrUnexpectedEOF
		}
		if s.err != nil {
			return o.sendFailed(span, os.NewSyscallError("sendfile", s.err))
		}
		s.span.Off, s.span.Size = s.span.Off+int64(s.n), s.span.Size-int64(s.n)
		o.c.s.stats.bytesOut.Add(uint64(s.n))
		o.c.s.stats.fromFiles.Add(uint64(s.n))
	}
	s.span = engine.Span{}
	return nil
}

// sendFailed tells a file that cannot be read from a client that is gone.
func (o *outgoing) sendFailed(span engine.Span, err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("write responses: %w", err)
	}
	span.Distrust()
	o.c.s.Logger.Error("kafka: a segment does not give what was read of it before", "remote", o.c.nc.RemoteAddr().String(), "error", err)
	return fmt.Errorf("send records from a file: %w", err)
}
