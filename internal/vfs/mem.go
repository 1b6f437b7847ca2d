package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Mem is a file system in memory that remembers what was not synced, so that it can lose power: see Crash and Kill.
//
// A file is its content as readers see it and a journal of the writes since its last sync, each with the bytes it replaced.
// The tree of names has one such journal for all directories. Both are undone and partly redone by a crash, so a write
// costs what it overwrites and a sync costs nothing.
type Mem struct {
	free atomic.Int64
	dead atomic.Bool // killed or without power: its handles do nothing more

	mu    sync.Mutex // names, pending, locks; held before a node's
	root  *node
	ops   []nameOp // in order, those whose directory was not synced since
	locks map[string]bool
}

// NewMem returns an empty file system with plenty of free space.
func NewMem() *Mem {
	m := &Mem{root: &node{entries: map[string]*node{}}, locks: map[string]bool{}}
	m.SetFree(1 << 40)
	return m
}

// SetFree sets the free space in bytes. What files grow by is taken from it, and a write it does not suffice for fails with
// ENOSPC.
func (m *Mem) SetFree(n int64) { m.free.Store(n) }

// node is a file, or a directory if entries is not nil (then the file system's mutex guards it).
type node struct {
	entries map[string]*node

	mu      sync.RWMutex
	data    []byte
	shared  bool     // data belongs to another Mem too: copy before writing
	journal []change // since the last sync, oldest first
	gone    bool     // unlinked: its bytes are given back to the free space
}

// change is one unsynced write (or truncation, if it wrote nothing): before it the file had size bytes, and old at off.
// What it wrote reaches to off+n; a change that replaced bytes past the old size has fewer old bytes than n.
type change struct {
	off, n, size int64
	old          []byte
	after        int64 // the file's size after it
}

// nameOp is one change of names. A rename has two edits, which survive together or not at all.
type nameOp struct{ edits []nameEdit }

type nameEdit struct {
	dir      *node
	name     string
	old, new *node // nil: no such name
}

func (m *Mem) alive() error {
	if m.dead.Load() {
		return fmt.Errorf("file system in memory: %w", fs.ErrClosed)
	}
	return nil
}

// walk finds the directory that holds a name. Called with mu held.
func (m *Mem) walk(op, name string) (dir *node, base string, err error) {
	c, err := clean(op, name)
	if err != nil {
		return nil, "", err
	}
	if err := m.alive(); err != nil {
		return nil, "", err
	}
	dir = m.root
	parent, base := path.Split(c)
	for part := range strings.SplitSeq(strings.TrimSuffix(parent, "/"), "/") {
		if part == "" {
			break
		}
		next := dir.entries[part]
		if next == nil {
			return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		if next.entries == nil {
			return nil, "", &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
		}
		dir = next
	}
	return dir, base, nil
}

// find returns the node of a name. Called with mu held.
func (m *Mem) find(op, name string) (*node, error) {
	dir, base, err := m.walk(op, name)
	if err != nil {
		return nil, err
	}
	n := dir.entries[base]
	if base == "." {
		n = m.root
	}
	if n == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

// edit changes names, unsynced. Called with mu held.
func (m *Mem) edit(edits ...nameEdit) {
	for i := range edits {
		e := &edits[i]
		e.old = e.dir.entries[e.name]
		e.apply()
	}
	m.ops = append(m.ops, nameOp{edits})
}

func (e *nameEdit) apply() { e.set(e.new) }
func (e *nameEdit) undo()  { e.set(e.old) }

func (e *nameEdit) set(n *node) {
	if n == nil {
		delete(e.dir.entries, e.name)
	} else {
		e.dir.entries[e.name] = n
	}
}

func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.walk("create", name)
	if err != nil {
		return nil, err
	}
	n := dir.entries[base]
	switch {
	case base == "." || n != nil && n.entries != nil:
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EISDIR}
	case n == nil:
		n = &node{}
		m.edit(nameEdit{dir: dir, name: base, new: n})
	}
	f := &memFile{m: m, n: n, name: name, write: true}
	return f, f.Truncate(0)
}

func (m *Mem) Open(name string) (File, error)     { return m.open(name, true) }
func (m *Mem) OpenRead(name string) (File, error) { return m.open(name, false) }

func (m *Mem) open(name string, write bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("open", name)
	if err != nil {
		return nil, err
	}
	if n.entries != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	return &memFile{m: m, n: n, name: name, write: write}, nil
}

func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, oldbase, err := m.walk("rename", oldname)
	if err != nil {
		return err
	}
	to, newbase, err := m.walk("rename", newname)
	if err != nil {
		return err
	}
	n, over := from.entries[oldbase], to.entries[newbase]
	switch {
	case n == nil:
		return &fs.PathError{Op: "rename", Path: oldname, Err: fs.ErrNotExist}
	case n == over:
		return nil
	case newbase == "." || over != nil && (over.entries != nil || n.entries != nil):
		return &fs.PathError{Op: "rename", Path: newname, Err: fs.ErrExist}
	}
	m.edit(nameEdit{dir: from, name: oldbase}, nameEdit{dir: to, name: newbase, new: n})
	m.unlinked(over)
	return nil
}

func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.walk("remove", name)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	switch {
	case n == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	case len(n.entries) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	m.edit(nameEdit{dir: dir, name: base})
	m.unlinked(n)
	return nil
}

// unlinked gives the space of a file without a name back.
func (m *Mem) unlinked(n *node) {
	if n == nil || n.entries != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = true
	m.free.Add(int64(len(n.data)))
}

func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.walk("remove", name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if base == "." {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrInvalid}
	}
	m.removeTree(dir, base)
	return nil
}

func (m *Mem) removeTree(dir *node, base string) {
	n := dir.entries[base]
	if n == nil {
		return
	}
	for _, child := range slices.Sorted(maps.Keys(n.entries)) {
		m.removeTree(n, child)
	}
	m.edit(nameEdit{dir: dir, name: base})
	m.unlinked(n)
}

func (m *Mem) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := clean("mkdir", name)
	if err != nil {
		return err
	}
	if err := m.alive(); err != nil {
		return err
	}
	dir := m.root
	for part := range strings.SplitSeq(c, "/") {
		if part == "." {
			break
		}
		next := dir.entries[part]
		if next == nil {
			next = &node{entries: map[string]*node{}}
			m.edit(nameEdit{dir: dir, name: part, new: next})
		}
		if next.entries == nil {
			return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
		}
		dir = next
	}
	return nil
}

func (m *Mem) directory(op, name string) (*node, error) {
	n, err := m.find(op, name)
	if err != nil {
		return nil, err
	}
	if n.entries == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
	}
	return n, nil
}

func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.directory("list", dir)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// SyncDir makes the pending changes of a directory's names durable, and those before them that touched the same names in
// another directory.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.directory("sync", dir)
	if err != nil {
		return err
	}
	durable := map[nameKey]bool{}
	kept := len(m.ops)
	for i := len(m.ops) - 1; i >= 0; i-- {
		op := m.ops[i]
		if slices.ContainsFunc(op.edits, func(e nameEdit) bool { return e.dir == n || durable[e.key()] }) {
			for _, e := range op.edits {
				durable[e.key()] = true
			}
			continue
		}
		kept--
		m.ops[kept] = op
	}
	m.ops = slices.Delete(m.ops, 0, kept)
	return nil
}

// nameKey is one place in the tree.
type nameKey struct {
	dir  *node
	name string
}

func (e *nameEdit) key() nameKey { return nameKey{e.dir, e.name} }

func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("stat", name)
	if err != nil {
		return nil, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return memInfo{path.Base(name), int64(len(n.data)), n.entries != nil}, nil
}

// memInfo has no times: a file system in memory has no clock.
type memInfo struct {
	name string
	size int64
	dir  bool
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

func (m *Mem) Lock(name string) (unlock func() error, err error) {
	if _, err := m.Stat(name); err != nil {
		if _, err := m.Create(name); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := path.Clean(name)
	if m.locks[c] {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	m.locks[c] = true
	return sync.OnceValue(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.locks, c)
		return nil
	}), nil
}

func (m *Mem) Free() (free, total int64, err error) {
	if err := m.alive(); err != nil {
		return 0, 0, err
	}
	return max(0, m.free.Load()), 1 << 40, nil
}

// memFile is one open handle.
type memFile struct {
	m      *Mem
	n      *node
	name   string
	write  bool
	closed atomic.Bool
}

func (f *memFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// usable says why the handle cannot be used; called with the node's lock, so that Crash sees all of a change or nothing.
func (f *memFile) usable(op string, write bool) error {
	switch {
	case f.closed.Load() || f.m.dead.Load():
		return f.fail(op, fs.ErrClosed)
	case write && !f.write:
		return f.fail(op, syscall.EBADF)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.n.mu.RLock()
	defer f.n.mu.RUnlock()
	if err := f.usable("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, f.fail("read", fs.ErrInvalid)
	}
	if off >= int64(len(f.n.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if err := f.usable("write", true); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, f.fail("write", fs.ErrInvalid)
	}
	if len(p) == 0 {
		return 0, nil
	}
	size, end := int64(len(f.n.data)), off+int64(len(p))
	if err := f.take(end - size); err != nil {
		return 0, err
	}
	f.n.own()
	c := change{off: off, n: int64(len(p)), size: size, after: max(size, end)}
	if off < size {
		c.old = slices.Clone(f.n.data[off:min(end, size)])
	}
	f.n.journal = append(f.n.journal, c)
	f.n.resize(c.after)
	copy(f.n.data[off:], p)
	return len(p), nil
}

func (f *memFile) Writev(bufs [][]byte, off int64) (int, error) {
	return writeEach(f, bufs, off)
}

func (f *memFile) Truncate(size int64) error {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if err := f.usable("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return f.fail("truncate", fs.ErrInvalid)
	}
	was := int64(len(f.n.data))
	if size == was {
		return nil
	}
	if err := f.take(size - was); err != nil {
		return err
	}
	f.n.own()
	c := change{off: min(size, was), size: was, after: size}
	if size < was {
		c.old = slices.Clone(f.n.data[size:])
	}
	f.n.journal = append(f.n.journal, c)
	f.n.resize(size)
	return nil
}

// take takes what a file grows by from the free space, or gives back what it shrinks by.
func (f *memFile) take(grow int64) error {
	if f.n.gone {
		return nil
	}
	if f.m.free.Add(-grow) < 0 && grow > 0 {
		f.m.free.Add(grow)
		return f.fail("write", syscall.ENOSPC)
	}
	return nil
}

// own makes the content the node's own before it is changed.
func (n *node) own() {
	if n.shared {
		n.data, n.shared = slices.Clone(n.data), false
	}
}

// resize sets the length; what is added is zero.
func (n *node) resize(size int64) {
	was := int64(len(n.data))
	if size <= was {
		n.data = n.data[:size]
		return
	}
	n.data = slices.Grow(n.data, int(size-was))[:size]
	clear(n.data[was:])
}

func (f *memFile) Size() (int64, error) {
	f.n.mu.RLock()
	defer f.n.mu.RUnlock()
	if err := f.usable("stat", false); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

func (f *memFile) Sync() error {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if err := f.usable("sync", false); err != nil {
		return err
	}
	clear(f.n.journal)
	f.n.journal = f.n.journal[:0]
	return nil
}

func (f *memFile) Datasync() error             { return f.Sync() }
func (f *memFile) StartWriteback(off, n int64) {}
func (f *memFile) Fd() (fd uintptr, ok bool)   { return 0, false }

func (f *memFile) Close() error {
	if f.closed.Swap(true) {
		return f.fail("close", fs.ErrClosed)
	}
	return nil
}
