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
	raw     syscall.RawConn
	step    func(fd uintptr) (done bool) // made once
	refused bool                         // by the file system: what follows is read and written
	span    engine.Span
	n       int
	err     error
}

// sendfile is the system's call.
type sendfile func(out, in int, off *int64, n int) (int, error)

// sendAtOnce bounds one call, so that a client that takes its time is seen to.
const sendAtOnce = 1 << 20

// sendsFiles tells whether files can go into the connection's socket as they are: not through TLS.
func (c *conn) sendsFiles() bool {
	_, plain := c.nc.(*net.TCPConn)
	return plain
}

func newFileSender(nc net.Conn, send sendfile) (*fileSender, error) {
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &fileSender{raw: raw}
	s.step = func(fd uintptr) bool {
		off := s.span.Off
		s.n, s.err = send(int(fd), int(s.span.Fd), &off, int(min(s.span.Size, sendAtOnce)))
		for s.err == syscall.EINTR {
			s.n, s.err = send(int(fd), int(s.span.Fd), &off, int(min(s.span.Size, sendAtOnce)))
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
		send := o.c.s.sendfile
		if send == nil {
			send = syscall.Sendfile
		}
		s, err := newFileSender(o.c.nc, send)
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
		if s.refused {
			return o.copyFile(s)
		}
		o.c.nc.SetWriteDeadline(time.Now().Add(o.c.s.StallTimeout))
		if err := s.raw.Write(s.step); err != nil {
			return fmt.Errorf("write responses: %w", err)
		}
		if s.refused = refuses(s.err) && s.span.Size == span.Size; s.refused {
			o.c.s.Logger.Debug("kafka: the file system does not send files", "error", s.err)
			continue
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

// refuses tells an error by which a file system says that it has no sendfile.
func refuses(err error) bool {
	return err == syscall.EINVAL || err == syscall.ENOSYS || err == syscall.EOPNOTSUPP
}

// copyFile sends what is left of a span through memory.
func (o *outgoing) copyFile(s *fileSender) error {
	buf := make([]byte, min(s.span.Size, smallFetch))
	for s.span.Size > 0 {
		n, err := syscall.Pread(int(s.span.Fd), buf[:min(s.span.Size, int64(len(buf)))], s.span.Off)
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil && n == 0:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return o.sendFailed(s.span, os.NewSyscallError("pread", err))
		}
		if err := o.write(net.Buffers{buf[:n]}); err != nil {
			return err
		}
		s.span.Off, s.span.Size = s.span.Off+int64(n), s.span.Size-int64(n)
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
