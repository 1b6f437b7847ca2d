package engine

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// systemAlarm is a timer of the system's that the runtime waits for as for a socket: the kernel's timers are fine, and
// waiting costs no thread.
type systemAlarm struct {
	file *os.File
	raw  syscall.RawConn
	rung atomic.Bool
	d    time.Duration // of the Sleep at hand
	set  bool
	wait func(fd uintptr) bool // waitNow
	ring func(fd uintptr)
}

func newAlarm() (Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &systemAlarm{file: os.NewFile(uintptr(fd), "timerfd")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a.wait, a.ring = a.waitNow, func(fd uintptr) { setTimer(fd, 1) }
	return a, nil
}

func setTimer(fd uintptr, d time.Duration) bool {
	t := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	return unix.TimerfdSettime(int(fd), 0, &t, nil) == nil
}

// Sleep implements Alarm.
func (a *systemAlarm) Sleep(d time.Duration) {
	a.d, a.set = d, false
	a.raw.Read(a.wait) //nolint:errcheck // closed: there is no sleep
}

// waitNow is asked first when the runtime has forgotten earlier alarms, so the timer is set here; and again when it, or Ring, has
// gone off. Nothing is read from it: setting it makes it unreadable.
func (a *systemAlarm) waitNow(fd uintptr) bool {
	if a.set {
		a.rung.Store(false)
		return true
	}
	a.set = true
	return !setTimer(fd, a.d) || a.rung.Swap(false)
}

// Ring implements Alarm.
func (a *systemAlarm) Ring() {
	a.rung.Store(true)    // Sleep may be about to set the timer
	a.raw.Control(a.ring) //nolint:errcheck // closed: nobody sleeps
}

// Close implements Alarm.
func (a *systemAlarm) Close() error { return a.file.Close() }
