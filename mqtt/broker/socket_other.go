//go:build !linux && !darwin

package broker

import (
	"errors"
	"net"
	"syscall"
)

// rawSocket is nil: connections are read and written in the ordinary way, with a small buffer each.
func rawSocket(net.Conn) syscall.RawConn { return nil }

var errNoSocket = errors.New("no raw sockets here")

func readSocket(uintptr, []byte) (int, bool, error) { return 0, false, errNoSocket }

func writeSocket(uintptr, [][]byte) (int, bool, error) { return 0, false, errNoSocket }
