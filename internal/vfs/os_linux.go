package vfs

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxIOV is the system's bound on buffers per call.
const maxIOV = 1024

func (f *osFile) Datasync() error {
	_, err := f.control("fdatasync", call{do: func(_ *call, fd int) error { return unix.Fdatasync(fd) }})
	return err
}

// StartWriteback queues the dirty pages for writing; it waits only where the device's queue is full.
func (f *osFile) StartWriteback(off, n int64) {
	_, _ = f.control("sync_file_range", call{off: off, n: n, do: func(c *call, fd int) error {
		return unix.SyncFileRange(fd, c.off, c.n, unix.SYNC_FILE_RANGE_WRITE)
	}})
}

func (f *osFile) Writev(bufs [][]byte, off int64) (n int, err error) {
	for len(bufs) > 0 {
		if len(bufs) == 1 {
			k, err := f.WriteAt(bufs[0], off)
			return n + k, err
		}
		k, want, err := f.pwritev(bufs[:min(len(bufs), maxIOV)], off)
		n, off = n+k, off+int64(k)
		if err != nil {
			return n, err
		}
		if k == want {
			bufs = bufs[min(len(bufs), maxIOV):]
			continue
		}
		// A short write: finish its buffers one by one, which also meets the error that cut it.
		for ; len(bufs) > 0 && k >= len(bufs[0]); bufs = bufs[1:] {
			k -= len(bufs[0])
		}
		m, err := f.WriteAt(bufs[0][k:], off)
		n, off, bufs = n+m, off+int64(m), bufs[1:]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f *osFile) pwritev(bufs [][]byte, off int64) (n, want int, err error) {
	for _, b := range bufs {
		want += len(b)
	}
	n, err = f.control("pwritev", call{bufs: bufs, off: off, do: func(c *call, fd int) (err error) {
		c.done, err = unix.Pwritev(fd, c.bufs, c.off)
		return err
	}})
	if err != nil {
		n = 0
	} else if n == 0 && want > 0 {
		err = &fs.PathError{Op: "pwritev", Path: f.Name(), Err: syscall.EIO}
	}
	return n, want, err
}
