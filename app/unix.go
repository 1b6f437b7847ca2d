package app

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// unixListener listens on a Unix socket, and removes it at the end if it is still its own.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
}

// listenUnix makes the socket under another name, so that nobody meets it before it has its permissions, and moves it over what a
// program that has died left behind.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if mode == 0 {
		mode = 0o600
	}
	if was, err := os.Lstat(path); err == nil {
		if was.Mode()&fs.ModeSocket == 0 {
			return nil, errors.New("there is a file of that name that is no socket: remove it, or choose another")
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, errors.New("another program listens there: stop it, or choose another path")
		} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is a socket of that name that cannot be asked whose it is: %w", err)
		}
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	u := &unixListener{UnixListener: l, path: path}
	if err = os.Chmod(fresh, mode); err == nil {
		if u.made, err = os.Lstat(fresh); err == nil {
			err = os.Rename(fresh, path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return u, nil
}

func (u *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: u.path, Net: "unix"} }

func (u *unixListener) Close() error {
	err := u.UnixListener.Close()
	if is, e := os.Lstat(u.path); err == nil && e == nil && os.SameFile(is, u.made) {
		err = os.Remove(u.path)
	}
	return err
}
