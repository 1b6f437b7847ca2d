package vfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// directFile is an osFile's second descriptor: the same file, opened with O_DIRECT by the first WriteDirect.
type directFile struct {
	once sync.Once
	f    atomic.Pointer[os.File] // nil: the system or the file system has none, everything goes through the page cache
}

// WriteDirect uses O_DIRECT. The kernel keeps the page cache and what goes past it in step as long as the two do not touch the same pages at the same time:
// a direct write first writes back and drops the pages that it touches, whatever else lies in them, and a buffered one behind it reads them anew. So
// neither large pages (64 KiB on some machines) nor large folios, which hold blocks written either way, matter to one writer. A sync by the first
// descriptor is of the file, so it covers both ways, and an error of writing back that a direct write meets first is told by that sync all the same.
func (f *osFile) WriteDirect(p []byte, off int64) (n int, err error) {
	if err := checkDirect(f.Name(), p, off); err != nil {
		return 0, err
	}
	f.direct.once.Do(f.openDirect)
	if d := f.direct.f.Load(); d != nil {
		n, err = d.WriteAt(p, off)
		if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EOPNOTSUPP) {
			return n, err
		}
		// What opens so cannot always be written so.
		if f.direct.f.CompareAndSwap(d, nil) {
			_ = d.Close()
		}
	}
	m, err := f.WriteAt(p[n:], off+int64(n))
	return n + m, err
}

// openDirect opens the file that f has open, whatever it is named by now, as f may use it.
func (f *osFile) openDirect() {
	_, _ = f.control("open direct", call{do: func(_ *call, fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		d, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags&unix.O_ACCMODE|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err == nil {
			f.direct.f.Store(os.NewFile(uintptr(d), f.Name()))
		}
		return err
	}})
}

func (f *osFile) Close() error {
	f.direct.once.Do(func() {})
	var err error
	if d := f.direct.f.Swap(nil); d != nil {
		err = d.Close()
	}
	return errors.Join(err, f.File.Close())
}
