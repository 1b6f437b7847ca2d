package segment

import (
	"errors"
	"sync"

	"github.com/millrace-io/millrace/internal/vfs"
)

// errRetired says that a file was deleted or replaced while nobody held it open: look again at the list of segments.
var errRetired = errors.New("segment file retired")

// FileCache bounds the files that all partitions together hold open. A file in use stays open whatever the bound; the
// others are closed, least recently used first. It is safe for concurrent use and starts no goroutine.
type FileCache struct {
	max int

	mu   sync.Mutex
	open int // or being opened
	lent int // uses by lend, of all files
	idle idleFiles
}

// NewFileCache returns a cache that keeps at most max files open, not counting those in use beyond it.
func NewFileCache(max int) *FileCache { return &FileCache{max: max} }

// Open returns how many files are open.
func (c *FileCache) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// idleFiles are files that are open and unused, in a ring: behind its root the one that was used last, before it the one that was used first.
// There is one at each end of every use, and so nothing is allocated for it.
type idleFiles struct{ ring file }

func (l *idleFiles) empty() bool { return l.ring.after == nil || l.ring.after == &l.ring }

func (l *idleFiles) push(f *file) {
	if l.ring.after == nil {
		l.ring.before, l.ring.after = &l.ring, &l.ring
	}
	f.before, f.after = &l.ring, l.ring.after
	f.before.after, f.after.before = f, f
}

// remove takes a file out, if it is there.
func (l *idleFiles) remove(f *file) bool {
	if f.after == nil {
		return false
	}
	f.before.after, f.after.before = f.after, f.before
	f.before, f.after = nil, nil
	return true
}

// file is one file of a segment, opened when it is needed. Its handle dies with the last user once it is retired.
type file struct {
	fs    vfs.FS
	name  string
	cache *FileCache

	// Guarded by cache.mu.
	h    vfs.File
	refs int
	// Its neighbours among the idle ones; nil: it is not one of them.
	before, after *file
	retired       bool
}

func (c *FileCache) file(fs vfs.FS, name string) *file { return &file{fs: fs, name: name, cache: c} }

// acquire opens the file unless it is open. The caller releases it.
func (f *file) acquire() (vfs.File, error) { return f.get(f.fs.Open) }

// lend is acquire for as long as a client takes to read what it is sent. False: too many are lent, or it cannot be opened. Half of the
// bound is for everybody else, so that slow clients, who ask for parts of many files each, do not open more than there may be.
func (f *file) lend() (vfs.File, bool) {
	c := f.cache
	c.mu.Lock()
	ok := c.lent < c.max/2
	if ok {
		c.lent++
	}
	c.mu.Unlock()
	if !ok {
		return nil, false
	}
	h, err := f.acquire()
	if err != nil {
		c.mu.Lock()
		c.lent--
		c.mu.Unlock()
		return nil, false
	}
	return h, true
}

// takeBack ends a lend.
func (f *file) takeBack() {
	f.cache.mu.Lock()
	f.cache.lent--
	f.cache.mu.Unlock()
	f.release()
}

// create is acquire of a new, empty file.
func (f *file) create() (vfs.File, error) { return f.get(f.fs.Create) }

// adopt takes a handle that was opened under another name, as acquire would have opened it.
func (f *file) adopt(h vfs.File) {
	c := f.cache
	c.mu.Lock()
	f.h, f.refs = h, 1
	c.open++
	victims := c.evict()
	c.mu.Unlock()
	closeAll(victims)
}

func (f *file) get(open func(string) (vfs.File, error)) (vfs.File, error) {
	c := f.cache
	c.mu.Lock()
	if f.h != nil {
		defer c.mu.Unlock()
		return f.use(), nil
	}
	if f.retired {
		c.mu.Unlock()
		return nil, errRetired
	}
	c.open++
	victims := c.evict()
	c.mu.Unlock()
	closeAll(victims)

	h, err := open(f.name)

	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && !f.retired && f.h == nil {
		f.h = h
		return f.use(), nil
	}
	c.open--
	if h != nil {
		h.Close()
	}
	switch {
	case f.retired: // by now the name may stand for another file
		return nil, errRetired
	case err != nil:
		return nil, err
	}
	return f.use(), nil // another user was faster
}

// use counts one more user. Called with the cache's lock, the file open.
func (f *file) use() vfs.File {
	f.refs++
	f.cache.idle.remove(f)
	return f.h
}

// release ends one use.
func (f *file) release() {
	c := f.cache
	c.mu.Lock()
	f.refs--
	var victims []vfs.File
	switch {
	case f.refs == 0 && f.retired:
		victims = append(victims, f.take())
	case f.refs == 0:
		c.idle.push(f)
		victims = c.evict()
	}
	c.mu.Unlock()
	closeAll(victims)
}

// retire makes the file impossible to open again; its handle is closed when its last user is done.
func (f *file) retire() {
	c := f.cache
	c.mu.Lock()
	f.retired = true
	var victims []vfs.File
	if c.idle.remove(f) {
		victims = append(victims, f.take())
	}
	c.mu.Unlock()
	closeAll(victims)
}

// evict takes the handles of unused files until the bound is kept.
func (c *FileCache) evict() (victims []vfs.File) {
	for c.open > c.max && !c.idle.empty() {
		f := c.idle.ring.before
		c.idle.remove(f)
		victims = append(victims, f.take())
	}
	return victims
}

// take gives up the handle.
func (f *file) take() vfs.File {
	h := f.h
	f.h = nil
	f.cache.open--
	return h
}

// closeAll closes files whose content others have synced, or never will; there is nothing to do about an error.
func closeAll(files []vfs.File) {
	for _, h := range files {
		h.Close()
	}
}
