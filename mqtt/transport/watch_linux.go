package transport

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch tells when sockets that nobody reads have something to read: an epoll instance of its own, beside the runtime's, which wants
// a goroutine for each. The runtime waits for it as for a socket, so waiting costs no thread. It forgets a socket when that is closed.
type Watch struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

// NewWatch returns a Watch that watches nothing yet.
func NewWatch() (*Watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what makes the runtime wait for it
		unix.Close(fd) //nolint:errcheck // nothing is in it
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "epoll")}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	return w, nil
}

// Arm has Wait return the token once, as soon as the socket has bytes, its end or an error; at once, if it has them already. A token
// armed before for the same socket is forgotten. known: the socket was armed before. Any goroutine.
func (w *Watch) Arm(socket syscall.RawConn, token uint64, known bool) error {
	op, other := unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_MOD
	if known {
		op, other = other, op
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	var err error
	failed := w.raw.Control(func(own uintptr) {
		closed := socket.Control(func(fd uintptr) {
			err = unix.EpollCtl(int(own), op, int(fd), &e)
			if err == unix.EEXIST || err == unix.ENOENT { // a copy of the descriptor, in a child that is being started, may outlive it
				err = unix.EpollCtl(int(own), other, int(fd), &e)
			}
		})
		err = errors.Join(err, closed)
	})
	return errors.Join(failed, err)
}

const watchRun = 64 // tokens of one Wait, at most

// Wait waits until sockets have something, and returns their tokens in buf. One goroutine; Close ends it, with os.ErrClosed.
func (w *Watch) Wait(buf []uint64) ([]uint64, error) {
	var events [watchRun]unix.EpollEvent // on the stack
	n := 0
	var err error
	waited := w.raw.Read(func(fd uintptr) bool {
		n, err = unix.EpollWait(int(fd), events[:min(len(buf), watchRun)], 0)
		if err == unix.EINTR {
			n, err = 0, nil
			return true // Wait is called again
		}
		return n != 0
	})
	switch err = errors.Join(waited, err); {
	case w.closed.Load():
		return nil, os.ErrClosed
	case err != nil:
		return nil, fmt.Errorf("wait for sockets: %w", err)
	}
	for i := range n {
		buf[i] = uint64(uint32(events[i].Fd)) | uint64(uint32(events[i].Pad))<<32
	}
	return buf[:n], nil
}

// Close ends Wait.
func (w *Watch) Close() {
	w.closed.Store(true)
	w.file.Close()
}
