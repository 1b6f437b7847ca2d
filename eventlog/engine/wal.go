package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/millrace-io/millrace/internal/vfs"
)

const walDir = "wal"

func walName(i int) string { return fmt.Sprintf("%s/%03d.wal", walDir, i) }

// wal is the write-ahead log: a ring of files, zero-written and synced once, then used over and over, so that a commit changes
// no metadata. The committer writes; release comes from the checkpoint.
type wal struct {
	files []*walFile
	salt  uint64
	cur   *walFile
	off   int64 // in cur, where the next frame goes
	size  int64 // of each file

	mu         sync.Mutex
	generation uint64
	freed      chan struct{} // one token: a file was released
}

// walFile is one file. last is the newest commit in it: it may be used again once a checkpoint covers that.
type walFile struct {
	f          vfs.File
	name       string
	generation uint64
	last       uint64
	free       bool
}

// openWAL makes or takes the files of a fresh WAL. The checkpoint that carries the salt must be durable: nothing in the files
// counts any more.
func openWAL(fsys vfs.FS, n int, size int64, salt, generation uint64) (*wal, error) {
	w := &wal{size: size, salt: salt, generation: generation, freed: make(chan struct{}, 1)}
	if err := w.prepare(fsys, n); err != nil {
		return nil, errors.Join(err, w.close())
	}
	w.next()
	return w, nil
}

// prepare opens or makes the files, and makes their names durable.
func (w *wal) prepare(fsys vfs.FS, n int) error {
	if err := fsys.MkdirAll(walDir); err != nil {
		return fmt.Errorf("make the WAL's directory: %w", err)
	}
	for i := range n {
		f, err := openWALFile(fsys, walName(i), w.size)
		if err != nil {
			return fmt.Errorf("prepare WAL file %s: %w", walName(i), err)
		}
		w.files = append(w.files, &walFile{f: f, name: walName(i), free: true})
	}
	if err := removeOtherWALFiles(fsys, n); err != nil {
		return err
	}
	for _, dir := range []string{walDir, "."} {
		if err := fsys.SyncDir(dir); err != nil {
			return fmt.Errorf("sync the WAL's directory: %w", err)
		}
	}
	return nil
}

// openWALFile opens a file of the right size, or writes a new one full of zeros.
func openWALFile(fsys vfs.FS, name string, size int64) (vfs.File, error) {
	f, err := fsys.Open(name)
	if err == nil {
		if n, err := f.Size(); err == nil && n == size {
			return f, nil
		}
		_ = f.Close() // it is replaced
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f, err = fsys.Create(name); err != nil {
		return nil, err
	}
	if err := writeZeros(f, size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func writeZeros(f vfs.File, size int64) error {
	zeros := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// removeOtherWALFiles clears files of a WAL that was larger.
func removeOtherWALFiles(fsys vfs.FS, n int) error {
	names, err := fsys.List(walDir)
	if err != nil {
		return fmt.Errorf("list the WAL: %w", err)
	}
	for _, name := range names {
		var i int
		if k, err := fmt.Sscanf(name, "%03d.wal", &i); k == 1 && err == nil && walName(i) == walDir+"/"+name && i >= n {
			if err := fsys.Remove(walDir + "/" + name); err != nil {
				return fmt.Errorf("remove WAL file %s: %w", name, err)
			}
		}
	}
	return nil
}

// next takes a free file into use; false if there is none.
func (w *wal) next() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.files {
		if f.free {
			w.generation++
			f.free, f.generation, f.last = false, w.generation, 0
			w.cur, w.off = f, 0
			return true
		}
	}
	return false
}

// room makes sure that a frame of n bytes, padding included, can be written; false if a file must be released first.
func (w *wal) room(n int64) bool {
	return w.off+n <= w.size || w.next()
}

// spare tells whether a frame of n bytes leaves something: a file that is free, or an eighth of the last one.
func (w *wal) spare(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.off+n+w.size/8 <= w.size || slices.ContainsFunc(w.files, func(f *walFile) bool { return f.free })
}

// write writes a frame, not yet durable.
func (w *wal) write(f *frame, commit uint64, time int64) error {
	bufs := f.seal(w.salt, w.cur.generation, commit, time)
	n := alignUp(int64(f.size))
	if w.off+n > w.size {
		return fmt.Errorf("write WAL file %s: %d bytes at %d do not fit: %w", w.cur.name, n, w.off, io.ErrShortWrite)
	}
	if _, err := w.cur.f.Writev(bufs, w.off); err != nil {
		return fmt.Errorf("write WAL file %s at %d: %w", w.cur.name, w.off, err)
	}
	w.off += n
	w.mu.Lock()
	w.cur.last = commit
	w.mu.Unlock()
	return nil
}

func (w *wal) sync() error {
	if err := w.cur.f.Datasync(); err != nil && !mutant(mutantIgnoreSync) {
		return fmt.Errorf("sync WAL file %s: %w", w.cur.name, err)
	}
	return nil
}

// release frees the files whose commits a durable checkpoint covers.
func (w *wal) release(commit uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.files {
		if f != w.cur && !f.free && f.last <= commit {
			f.free = true
		}
	}
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

func (w *wal) lastGeneration() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.generation
}

func (w *wal) close() error {
	var errs []error
	for _, f := range w.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}
