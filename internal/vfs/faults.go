package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Kind is a kind of operation.
type Kind uint8

const (
	OpCreate Kind = iota
	OpOpen        // Open and OpenRead
	OpRename
	OpRemove
	OpRemoveAll
	OpMkdir
	OpList
	OpStat
	OpSyncDir
	OpLock
	OpFree
	OpRead
	OpWrite // WriteAt and Writev
	OpTruncate
	OpSync
	OpDatasync
	OpClose
)

var kindNames = [...]string{"create", "open", "rename", "remove", "removeall", "mkdir", "list", "stat", "syncdir", "lock",
	"free", "read", "write", "truncate", "sync", "datasync", "close"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Op is one operation about to happen.
type Op struct {
	Kind     Kind
	Name     string // of the file or directory
	To       string // the new name, for OpRename
	Off, Len int64  // for OpRead, OpWrite; Off is the size for OpTruncate
}

// Skip is what a hook returns to have an operation that returns nothing but an error not done, and success reported: a disk
// that lies, or a program that forgot.
var Skip = errors.New("skip this operation")

// PartialWrite is what a hook returns to have only the first N bytes of an OpWrite written before it fails with Err.
type PartialWrite struct {
	N   int
	Err error
}

func (p *PartialWrite) Error() string { return fmt.Sprintf("wrote %d bytes only: %v", p.N, p.Err) }
func (p *PartialWrite) Unwrap() error { return p.Err }

// Faults returns fs with a hook before every operation: an error it returns is the operation's, and the operation is not
// done. The hook may sleep; it is called concurrently.
func Faults(fs FS, hook func(Op) error) FS { return &faultFS{fs, hook} }

// Delay is a hook that makes every operation of some kinds take d longer.
func Delay(d time.Duration, kinds ...Kind) func(Op) error {
	return func(op Op) error {
		if slices.Contains(kinds, op.Kind) {
			time.Sleep(d)
		}
		return nil
	}
}

type faultFS struct {
	fs   FS
	hook func(Op) error
}

// ask asks the hook; skip is set when the operation shall only pretend.
func (f *faultFS) ask(op Op) (skip bool, err error) {
	switch err = f.hook(op); {
	case errors.Is(err, Skip):
		return true, nil
	case err != nil:
		return false, &fs.PathError{Op: op.Kind.String(), Path: op.Name, Err: err}
	}
	return false, nil
}

func (f *faultFS) do(op Op, then func() error) error {
	if skip, err := f.ask(op); skip || err != nil {
		return err
	}
	return then()
}

func (f *faultFS) file(kind Kind, name string, open func(string) (File, error)) (File, error) {
	if _, err := f.ask(Op{Kind: kind, Name: name}); err != nil {
		return nil, err
	}
	file, err := open(name)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

func (f *faultFS) Create(name string) (File, error)   { return f.file(OpCreate, name, f.fs.Create) }
func (f *faultFS) Open(name string) (File, error)     { return f.file(OpOpen, name, f.fs.Open) }
func (f *faultFS) OpenRead(name string) (File, error) { return f.file(OpOpen, name, f.fs.OpenRead) }

func (f *faultFS) Rename(oldname, newname string) error {
	return f.do(Op{Kind: OpRename, Name: oldname, To: newname}, func() error { return f.fs.Rename(oldname, newname) })
}

func (f *faultFS) Remove(name string) error {
	return f.do(Op{Kind: OpRemove, Name: name}, func() error { return f.fs.Remove(name) })
}

func (f *faultFS) RemoveAll(name string) error {
	return f.do(Op{Kind: OpRemoveAll, Name: name}, func() error { return f.fs.RemoveAll(name) })
}

func (f *faultFS) MkdirAll(name string) error {
	return f.do(Op{Kind: OpMkdir, Name: name}, func() error { return f.fs.MkdirAll(name) })
}

func (f *faultFS) List(dir string) ([]string, error) {
	if _, err := f.ask(Op{Kind: OpList, Name: dir}); err != nil {
		return nil, err
	}
	return f.fs.List(dir)
}

func (f *faultFS) Stat(name string) (fs.FileInfo, error) {
	if _, err := f.ask(Op{Kind: OpStat, Name: name}); err != nil {
		return nil, err
	}
	return f.fs.Stat(name)
}

func (f *faultFS) SyncDir(dir string) error {
	return f.do(Op{Kind: OpSyncDir, Name: dir}, func() error { return f.fs.SyncDir(dir) })
}

func (f *faultFS) Lock(name string) (unlock func() error, err error) {
	if _, err := f.ask(Op{Kind: OpLock, Name: name}); err != nil {
		return nil, err
	}
	return f.fs.Lock(name)
}

func (f *faultFS) Free() (free, total int64, err error) {
	if _, err := f.ask(Op{Kind: OpFree}); err != nil {
		return 0, 0, err
	}
	return f.fs.Free()
}

type faultFile struct {
	File
	fs   *faultFS
	name string
}

// Fd gives no descriptor: what is done with one goes past the hook.
func (f *faultFile) Fd() (fd uintptr, ok bool) { return 0, false }

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if _, err := f.fs.ask(Op{Kind: OpRead, Name: f.name, Off: off, Len: int64(len(p))}); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write([][]byte{p}, off)
}

func (f *faultFile) Writev(bufs [][]byte, off int64) (int, error) {
	return f.write(bufs, off)
}

func (f *faultFile) write(bufs [][]byte, off int64) (int, error) {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	skip, err := f.fs.ask(Op{Kind: OpWrite, Name: f.name, Off: off, Len: int64(n)})
	var part *PartialWrite
	switch {
	case skip:
		return n, nil
	case errors.As(err, &part):
		k, werr := f.File.WriteAt(slices.Concat(bufs...)[:min(part.N, n)], off)
		return k, errors.Join(err, werr)
	case err != nil:
		return 0, err
	case len(bufs) == 1:
		return f.File.WriteAt(bufs[0], off)
	}
	return f.File.Writev(bufs, off)
}

func (f *faultFile) Truncate(size int64) error {
	return f.fs.do(Op{Kind: OpTruncate, Name: f.name, Off: size}, func() error { return f.File.Truncate(size) })
}

func (f *faultFile) Sync() error {
	return f.fs.do(Op{Kind: OpSync, Name: f.name}, f.File.Sync)
}

func (f *faultFile) Datasync() error {
	return f.fs.do(Op{Kind: OpDatasync, Name: f.name}, f.File.Datasync)
}

// Close closes the file even if it then reports a fault.
func (f *faultFile) Close() error {
	_, err := f.fs.ask(Op{Kind: OpClose, Name: f.name})
	return errors.Join(err, f.File.Close())
}
