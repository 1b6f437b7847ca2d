//go:build !linux

package vfs

// Datasync is Sync: F_FULLFSYNC on macOS, FlushFileBuffers on Windows.
func (f *osFile) Datasync() error { return f.Sync() }

// StartWriteback does nothing: the system has no such hint.
func (f *osFile) StartWriteback(off, n int64) {}

// directFile is nothing: what is written goes through the system's cache.
type directFile struct{}

func (f *osFile) WriteDirect(p []byte, off int64) (int, error) {
	if err := checkDirect(f.Name(), p, off); err != nil {
		return 0, err
	}
	return f.WriteAt(p, off)
}

func (f *osFile) Writev(bufs [][]byte, off int64) (int, error) { return writeEach(f, bufs, off) }
