//go:build !linux

package vfs

// Datasync is Sync: F_FULLFSYNC on macOS, FlushFileBuffers on Windows.
func (f *osFile) Datasync() error { return f.Sync() }

// StartWriteback does nothing: the system has no such hint.
func (f *osFile) StartWriteback(off, n int64) {}

func (f *osFile) Writev(bufs [][]byte, off int64) (int, error) { return writeEach(f, bufs, off) }
