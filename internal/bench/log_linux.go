package main

import (
	"os"
	"syscall"
	"time"
)

// settle waits until the disk has what was written, so that the next load does not pay for it.
func settle() { syscall.Sync() }

func fdatasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// nap sleeps by the system's own timer, which is exact to a tenth of a millisecond; the runtime's is to one.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil)
}
