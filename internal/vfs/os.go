package vfs

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// OS returns the directory root of the operating system, made if it is not there. Files are readable by their owner only.
// Symbolic links inside the tree may not lead out of it.
func OS(root string) (FS, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", root, err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("make directory %s: %w", abs, err)
	}
	if err := syncDir(func() (*os.File, error) { return os.Open(filepath.Dir(abs)) }); err != nil && !os.IsPermission(err) {
		return nil, fmt.Errorf("sync directory %s: %w", filepath.Dir(abs), err)
	}
	r, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", abs, err)
	}
	return &osFS{abs: abs, root: r}, nil
}

type osFS struct {
	abs  string
	root *os.Root
	free freeSpace
}

// clean makes a name canonical and refuses one that leads out of the root.
func clean(op, name string) (string, error) {
	c := path.Clean(name)
	if !fs.ValidPath(c) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return c, nil
}

// local is clean in the system's own notation.
func local(op, name string) (string, error) {
	c, err := clean(op, name)
	if err != nil {
		return "", err
	}
	l, err := filepath.Localize(c)
	if err != nil {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return l, nil
}

func (o *osFS) open(op, name string, flag int) (File, error) {
	l, err := local(op, name)
	if err != nil {
		return nil, err
	}
	f, err := o.root.OpenFile(l, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return newOSFile(f)
}

func (o *osFS) Create(name string) (File, error) {
	return o.open("create", name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}
func (o *osFS) Open(name string) (File, error)     { return o.open("open", name, os.O_RDWR) }
func (o *osFS) OpenRead(name string) (File, error) { return o.open("open", name, os.O_RDONLY) }

func (o *osFS) Rename(oldname, newname string) error {
	from, err := local("rename", oldname)
	if err != nil {
		return err
	}
	to, err := local("rename", newname)
	if err != nil {
		return err
	}
	return o.root.Rename(from, to)
}

// named applies one of the root's own operations to a name.
func named(op, name string, f func(string) error) error {
	l, err := local(op, name)
	if err != nil {
		return err
	}
	return f(l)
}

func (o *osFS) Remove(name string) error    { return named("remove", name, o.root.Remove) }
func (o *osFS) RemoveAll(name string) error { return named("remove", name, o.root.RemoveAll) }

func (o *osFS) MkdirAll(name string) error {
	return named("mkdir", name, func(l string) error { return o.root.MkdirAll(l, 0o700) })
}

func (o *osFS) List(dir string) ([]string, error) {
	l, err := local("list", dir)
	if err != nil {
		return nil, err
	}
	d, err := o.root.Open(l)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func (o *osFS) Stat(name string) (fs.FileInfo, error) {
	l, err := local("stat", name)
	if err != nil {
		return nil, err
	}
	return o.root.Stat(l)
}

func (o *osFS) SyncDir(dir string) error {
	return named("sync", dir, func(l string) error {
		return syncDir(func() (*os.File, error) { return o.root.Open(l) })
	})
}

func (o *osFS) Lock(name string) (unlock func() error, err error) {
	l, err := local("lock", name)
	if err != nil {
		return nil, err
	}
	f, err := o.root.OpenFile(l, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f.Close, nil // the lock goes with the descriptor
}

// Free may be freshFree old: the log asks at every commit.
func (o *osFS) Free() (free, total int64, err error) {
	o.free.Lock()
	defer o.free.Unlock()
	now := time.Now()
	if f := &o.free; f.asked.IsZero() || now.Sub(f.asked) > freshFree {
		f.n, f.total, f.err = diskFree(o.abs)
		f.asked = now
	}
	if err := o.free.err; err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", o.abs, err)
	}
	return o.free.n, o.free.total, nil
}

const freshFree = 5 * time.Millisecond

// freeSpace is what the system said last.
type freeSpace struct {
	sync.Mutex
	asked    time.Time
	n, total int64
	err      error
}

// osFile adds to an *os.File the calls that the standard library lacks. Their descriptors are reached through raw, which
// holds off a concurrent Close.
type osFile struct {
	*os.File
	raw syscall.RawConn
}

func newOSFile(f *os.File) (File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &osFile{f, raw}, nil
}

func (f *osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (f *osFile) Fd() (fd uintptr, ok bool) { return f.File.Fd(), true }

// call is one system call on a descriptor, and what it takes and gives.
type call struct {
	do     func(c *call, fd int) error
	bufs   [][]byte
	off, n int64
	done   int // bytes
	err    error
}

// control runs one system call on the descriptor, again when a signal interrupts it, and names its error.
func (f *osFile) control(op string, what call) (done int, err error) {
	c := calls.Get().(*onDescriptor)
	defer calls.Put(c)
	c.call = what
	cerr := f.raw.Control(c.run)
	done, err, c.call = c.done, c.err, call{}
	if cerr != nil { // Control refuses nothing else
		err = fs.ErrClosed
	}
	if err != nil {
		return done, &fs.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return done, nil
}

// onDescriptor is a call with the function that Control wants, made once: a commit makes two calls.
type onDescriptor struct {
	call
	run func(fd uintptr)
}

var calls = sync.Pool{New: func() any {
	c := &onDescriptor{}
	c.run = func(fd uintptr) {
		for c.err = c.do(&c.call, int(fd)); c.err == syscall.EINTR; c.err = c.do(&c.call, int(fd)) {
		}
	}
	return c
}}

// writeEach is Writev one buffer at a time.
func writeEach(f File, bufs [][]byte, off int64) (n int, err error) {
	for _, b := range bufs {
		k, err := f.WriteAt(b, off+int64(n))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
