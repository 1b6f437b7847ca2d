package engine

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/millrace-io/millrace/internal/vfs"
)

// walFrame is where a frame of the WAL lies.
type walFrame struct {
	commit    uint64
	time      int64
	file      string
	off, next int64
}

// walSince returns the WAL's frames after the checkpoint, in order. The end of the chain is where the power went; an intact
// frame beyond a missing one means that the missing one was durable once.
func walSince(o Options, s *snapshot) ([]walFrame, error) {
	frames, err := scanWAL(o.FS, s.salt, s.commit)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(frames, func(a, b walFrame) int { return cmp.Compare(a.commit, b.commit) })
	for i, f := range frames {
		want := s.commit + uint64(i) + 1
		if f.commit == want {
			continue
		}
		where := "the WAL"
		if i > 0 {
			where = fmt.Sprintf("WAL file %s at %d", frames[i-1].file, frames[i-1].next)
		}
		return nil, fmt.Errorf("%s: commit %d is %w or missing, though commit %d after it is whole, in %s at %d. Acknowledged records "+
			"would be lost: nothing was changed. Restore the file, or the data directory from a backup", where, want, ErrDamaged,
			f.commit, f.file, f.off)
	}
	return frames, nil
}

// scanWAL finds every intact frame of this salt after a commit, in all WAL files, in no order. A frame that this program
// cannot read is an error.
func scanWAL(fsys vfs.FS, salt, after uint64) (found []walFrame, err error) {
	names, err := fsys.List(walDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the WAL: %w", err)
	}
	var r walReader
	for _, name := range names {
		if err := r.open(fsys, walDir+"/"+name); err != nil {
			return nil, err
		}
		found, err = r.scan(salt, after, found)
		r.close()
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// walReader reads WAL files, one at a time, through a window: a start reads all of them, and shall not need the memory for it.
type walReader struct {
	name string
	f    vfs.File
	size int64
	buf  []byte
	at   int64 // where in the file buf begins
}

const walWindow = 1 << 20

func (r *walReader) open(fsys vfs.FS, name string) error {
	f, err := fsys.OpenRead(name)
	if err != nil {
		return fmt.Errorf("read WAL file: %w", err)
	}
	r.name, r.f, r.buf = name, f, r.buf[:0]
	if r.size, err = f.Size(); err != nil {
		r.close()
		return fmt.Errorf("read WAL file %s: %w", name, err)
	}
	return nil
}

// close closes the file, which was only read.
func (r *walReader) close() {
	if r.f != nil {
		_ = r.f.Close()
		r.f = nil
	}
}

// window returns n bytes of the file, or fewer at its end. They are valid until the next call.
func (r *walReader) window(off, n int64) ([]byte, error) {
	n = max(0, min(n, r.size-off))
	if from := off - r.at; from >= 0 && from+n <= int64(len(r.buf)) {
		return r.buf[from : from+n], nil
	}
	want := min(max(n, walWindow), r.size-off)
	if int64(cap(r.buf)) < want {
		r.buf = make([]byte, want)
	}
	r.buf, r.at = r.buf[:want], off
	if err := readFull(r.f, r.buf, off); err != nil {
		r.buf = r.buf[:0]
		return nil, fmt.Errorf("read WAL file %s at %d: %w", r.name, off, err)
	}
	return r.buf[:n], nil
}

func readFull(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// frame returns the frame at a place, if an intact one of this salt begins there.
func (r *walReader) frame(off int64, salt uint64) (f frameInfo, ok bool, err error) {
	h, err := r.window(off, frameHeader)
	if err != nil || len(h) < frameHeader || !frameOf(h, salt) {
		return f, false, err
	}
	p, err := r.window(off, frameHeader+int64(binary.BigEndian.Uint32(h[40:])))
	if err != nil {
		return f, false, err
	}
	f, ok = checkFrame(p, salt)
	return f, ok, nil
}

// scan adds the file's intact frames after a commit to those that were found.
func (r *walReader) scan(salt, after uint64, found []walFrame) ([]walFrame, error) {
	for off := int64(0); off+frameHeader <= r.size; {
		f, ok, err := r.frame(off, salt)
		if err != nil {
			return nil, err
		}
		if !ok {
			off += block
			continue
		}
		next := off + alignUp(int64(frameHeader+len(f.payload)))
		if f.commit > after {
			if err := f.readable(); err != nil {
				return nil, fmt.Errorf("WAL file %s at %d: %w", r.name, off, err)
			}
			found = append(found, walFrame{f.commit, f.time, r.name, off, next})
		}
		off = next
	}
	return found, nil
}

// eachFrame calls f for every entry of every frame, with where in the frame's file the entry ends. What is in an entry is valid until f returns.
func (e *Engine) eachFrame(frames []walFrame, salt uint64, f func(fr *walFrame, en *entry, end int64) error) error {
	var r walReader
	defer r.close()
	for i := range frames {
		fr := &frames[i]
		if fr.file != r.name {
			r.close()
			if err := r.open(e.o.FS, fr.file); err != nil {
				return err
			}
		}
		info, ok, err := r.frame(fr.off, salt)
		if err != nil {
			return err
		}
		if !ok {
			return changedFrame(fr)
		}
		end := fr.off + frameHeader + int64(len(info.payload))
		err = eachEntry(info.payload, func(en *entry, rest int) error { return f(fr, en, end-int64(rest)) })
		if err != nil {
			return fmt.Errorf("replay commit %d, WAL file %s at %d: %w", fr.commit, fr.file, fr.off, err)
		}
	}
	if len(frames) > 0 {
		return e.noteTorn(&r, &frames[len(frames)-1], salt)
	}
	return nil
}

func changedFrame(fr *walFrame) error {
	return fmt.Errorf("WAL file %s at %d: commit %d changed while it was read: %w", fr.file, fr.off, fr.commit, ErrDamaged)
}

// eachEntry calls f for each entry of a frame, with how much of the payload comes behind it.
func eachEntry(payload []byte, f func(en *entry, rest int) error) error {
	for len(payload) > 0 {
		en, rest, err := nextEntry(payload)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		if err := f(&en, len(rest)); err != nil {
			return err
		}
		payload = rest
	}
	return nil
}

// noteTorn counts the bytes of a frame that the power cut tore, if there are traces of one behind the last.
func (e *Engine) noteTorn(r *walReader, last *walFrame, salt uint64) error {
	h, err := r.window(last.next, frameHeader)
	if err != nil || len(h) < frameHeader {
		return err
	}
	if frameOf(h, salt) && binary.BigEndian.Uint64(h[24:]) > last.commit {
		e.counters.commit.TornBytes = alignUp(frameHeader + int64(binary.BigEndian.Uint32(h[40:])))
	}
	return nil
}

// readAll reads a small file.
func readAll(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.OpenRead(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	p := make([]byte, n)
	return p, readFull(f, p, 0)
}
