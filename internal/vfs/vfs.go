// Package vfs is the only door to files. Everything in Millrace that keeps state on disk takes an FS, so that the same code
// runs on the operating system, on a file system in memory that loses power, and on one that fails on demand.
//
// The package starts no goroutines. Names are slash-separated and relative to the FS's root; a name that escapes the root is
// refused.
package vfs

import (
	"errors"
	"io/fs"
	"path"
)

// ErrLocked says that another process holds the directory.
var ErrLocked = errors.New("in use by another process")

// FS is a directory tree. Its methods are safe for concurrent use.
//
// What survives a power cut: bytes of a file after its Sync or Datasync; a name (created, renamed, removed) after SyncDir of
// its directory. Anything else may survive in any subset.
type FS interface {
	// Create makes a file, truncating one that is there, open for reading and writing.
	Create(name string) (File, error)
	// Open opens a file for reading and writing. fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	// OpenRead opens a file for reading.
	OpenRead(name string) (File, error)
	// Rename moves a file over another, atomically.
	Rename(oldname, newname string) error
	Remove(name string) error
	// RemoveAll removes a tree; nothing there is not an error.
	RemoveAll(name string) error
	MkdirAll(name string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock named by a file, held until the returned function is called or the process ends.
	// ErrLocked if another holder lives.
	Lock(name string) (unlock func() error, err error)
	// Free returns the bytes free and in total on the volume.
	Free() (free, total int64, err error)
}

// File is an open file. WriteAt, ReadAt may be called concurrently.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Writev writes the buffers one after another at off, in one call where the system can.
	Writev(bufs [][]byte, off int64) (int, error)
	Truncate(size int64) error
	Size() (int64, error)
	// Sync makes content and size durable (F_FULLFSYNC where the system has it).
	Sync() error
	// Datasync makes content durable, and the size if it changed; it may leave times behind.
	Datasync() error
	// StartWriteback asks the system to begin writing [off, off+n) without waiting; a hint.
	StartWriteback(off, n int64)
	Close() error
	// Fd is the descriptor, for sendfile; ok is false where there is none.
	Fd() (fd uintptr, ok bool)
}

// MkdirDurable is MkdirAll, and makes the names of the directory and of its parents durable.
func MkdirDurable(fs FS, dir string) error {
	if err := fs.MkdirAll(dir); err != nil {
		return err
	}
	for dir = path.Clean(dir); dir != "."; {
		dir = path.Dir(dir)
		if err := fs.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
