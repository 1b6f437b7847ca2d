//go:build linux || darwin

package transport

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket gives access to the descriptor of a TCP or Unix connection, so that a read can wait without a buffer and a write can be
// tried without waiting. nil: read and write in the ordinary way.
func Socket(nc net.Conn) syscall.RawConn {
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, _ := nc.SyscallConn()
		return raw
	case *net.UnixConn:
		raw, _ := nc.SyscallConn()
		return raw
	}
	return nil
}

// ReadSocket reads what is there; again: nothing yet.
func ReadSocket(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err := unix.Read(int(fd), b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, true, nil
		case err != nil:
			return 0, false, err
		case n == 0:
			return 0, false, io.EOF
		}
		return n, false, nil
	}
}

const maxPieces = 512 // of one writev; the systems allow 1,024

// WriteSocket writes what the socket takes; again: it is full.
func WriteSocket(fd uintptr, pieces [][]byte) (n int, again bool, err error) {
	for {
		if len(pieces) == 1 {
			n, err = unix.Write(int(fd), pieces[0])
		} else {
			n, err = unix.Writev(int(fd), pieces[:min(len(pieces), maxPieces)])
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, true, nil
		}
		return max(n, 0), false, err
	}
}
