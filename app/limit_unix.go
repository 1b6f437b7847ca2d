//go:build unix

package app

import "golang.org/x/sys/unix"

// raiseFileLimit asks for as many descriptors as the system allows, and returns how many that are; 0: it does not say.
func raiseFileLimit() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	want := l
	want.Cur = want.Max
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &want) == nil {
		return uint64(want.Cur) //nolint:unconvert // signed on some systems
	}
	return uint64(l.Cur) //nolint:unconvert // signed on some systems
}
