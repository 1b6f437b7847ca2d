//go:build !linux

package transport

import (
	"errors"
	"syscall"
)

// Watch is not there: every connection that is read has its goroutine.
type Watch struct{}

// NewWatch has none to return, and no error.
func NewWatch() (*Watch, error) { return nil, nil }

// Arm is never called here.
func (*Watch) Arm(syscall.RawConn, uint64, bool) error { return errNoWatch }

// Wait is never called here.
func (*Watch) Wait([]uint64) ([]uint64, error) { return nil, errNoWatch }

// Close is never called here.
func (*Watch) Close() {}

var errNoWatch = errors.New("sockets are not watched here")
