//go:build !linux && !darwin

package transport

import (
	"errors"
	"net"
	"syscall"
)

// Socket is nil: connections are read and written in the ordinary way, with a small buffer each.
func Socket(net.Conn) syscall.RawConn { return nil }

var errNoSocket = errors.New("no raw sockets here")

// ReadSocket is never called here.
func ReadSocket(uintptr, []byte) (int, bool, error) { return 0, false, errNoSocket }

// WriteSocket is never called here.
func WriteSocket(uintptr, [][]byte) (int, bool, error) { return 0, false, errNoSocket }
