//go:build linux || darwin

package broker

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawSocket gives access to the descriptor of a plain TCP or Unix connection, so that a read can wait without a buffer and a
// write can be tried without waiting. nil: read and write in the ordinary way.
func rawSocket(nc net.Conn) syscall.RawConn {
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

// readSocket reads what is there; again: nothing yet.
func readSocket(fd uintptr, b []byte) (n int, again bool, err error) {
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

// writeSocket writes what the socket takes; again: it is full.
func writeSocket(fd uintptr, pieces [][]byte) (n int, again bool, err error) {
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
