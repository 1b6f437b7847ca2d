package segment

import (
	"errors"
	"fmt"
	"io"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Damage is an error that says which part of a log cannot be trusted. It wraps eventlog.ErrCorrupt.
type Damage struct {
	File   string
	Pos    int64 // where in the file
	Offset int64 // the first offset that may be hit
	Next   int64 // the first offset that reading may go on at
	Err    error
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s at byte %d (offsets %d to %d): %v", d.File, d.Pos, d.Offset, d.Next-1, d.Err)
}
func (d *Damage) Unwrap() error { return d.Err }

// walker steps over the batches of a segment's log, through a window of bytes that it reads ahead.
type walker struct {
	h     vfs.File
	name  string
	pos   int64 // of the next batch
	end   int64 // of the log
	next  int64 // the least offset that the next batch may have
	limit int64 // no batch reaches beyond it
	stop  int64 // a batch from here on is not for the caller yet
	chunk int64 // how much to read at a time

	buf []byte
	at  int64 // where in the file buf begins
}

// window returns the bytes [pos, pos+n), which must lie before the end; they are valid until the next call.
func (w *walker) window(n int64) ([]byte, error) {
	if from := w.pos - w.at; from >= 0 && from+n <= int64(len(w.buf)) {
		return w.buf[from : from+n], nil
	}
	want := min(max(n, w.chunk), w.end-w.pos)
	if int64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.at = w.buf[:want], w.pos
	if err := readFull(w.h, w.buf, w.pos); err != nil {
		w.buf = w.buf[:0]
		return nil, fmt.Errorf("read %s: %w", w.name, err)
	}
	return w.buf[:n], nil
}

func readFull(h vfs.File, p []byte, off int64) error {
	n, err := h.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// header returns the header of the next batch, whose place in the file and in the order of offsets makes sense, and the
// batch's size. io.EOF at the end.
func (w *walker) header() (eventlog.RawBatch, int64, error) {
	left := w.end - w.pos
	if left <= 0 {
		return nil, 0, io.EOF
	}
	if left < eventlog.HeaderSize {
		return nil, 0, w.damage(w.limit, fmt.Errorf("%w: %d bytes of a header", eventlog.ErrCorrupt, left))
	}
	p, err := w.window(eventlog.HeaderSize)
	if err != nil {
		return nil, 0, err
	}
	n, err := eventlog.BatchSize(p)
	if err != nil {
		return nil, 0, w.damage(w.limit, err)
	}
	b := eventlog.RawBatch(p)
	if int64(n) > left || b.LastDelta() < 0 || b.Base() < w.next || b.Next() <= b.Base() || b.Next() > w.limit {
		return nil, 0, w.damage(w.limit, fmt.Errorf("%w: %d bytes at offset %d to %d do not fit here", eventlog.ErrCorrupt, n, b.Base(), b.Last()))
	}
	if b.Base() >= w.stop {
		return nil, 0, io.EOF
	}
	return b, int64(n), nil
}

// batch returns the next batch, whole and with its checksum verified, and steps over it. It is valid until the next call.
func (w *walker) batch() (eventlog.RawBatch, error) {
	b, n, err := w.header()
	if err != nil {
		return nil, err
	}
	next := b.Next()
	p, err := w.window(n)
	if err != nil {
		return nil, err
	}
	if b, err = eventlog.CheckBatch(p); err != nil {
		return nil, w.damage(next, err)
	}
	w.step(b, n)
	return b, nil
}

// step goes on behind the batch that header returned.
func (w *walker) step(b eventlog.RawBatch, n int64) {
	w.pos += n
	w.next = b.Next()
}

func (w *walker) damage(next int64, err error) error {
	return &Damage{File: w.name, Pos: w.pos, Offset: w.next, Next: next, Err: err}
}
