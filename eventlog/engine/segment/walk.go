package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

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

	resume int64 // where in the file that is
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s at byte %d (offsets %d to %d): %v", d.File, d.Pos, d.Offset, d.Next-1, d.Err)
}
func (d *Damage) Unwrap() error { return d.Err }

// walker steps over the batches of a segment's log, through a window of bytes that it reads ahead. A batch must begin at the
// offset where the one before ended: its place in the order of offsets is what no checksum covers.
type walker struct {
	h     vfs.File
	name  string
	seg   *segment // whose index knows where batches begin, or nil
	pos   int64    // of the next batch
	end   int64    // of the log
	next  int64    // the offset that the next batch must have
	gaps  bool     // or a greater one: an older version's compaction left gaps
	limit int64    // no batch reaches beyond it
	stop  int64    // a batch from here on is not for the caller yet
	chunk int64    // how much to read at a time

	// The last step went over a batch of which only the header was looked at: it began at back, and had to have offset backNext.
	trusting       bool
	back, backNext int64

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
	err := readFull(w.h, w.buf, w.pos)
	if err != nil && want > n { // what is read ahead need not be readable
		w.buf = w.buf[:n]
		err = readFull(w.h, w.buf, w.pos)
	}
	if err != nil {
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
	b, n, err := w.frame()
	switch {
	case errors.Is(err, eventlog.ErrCorrupt):
		return nil, 0, w.blame(err)
	case errors.Is(err, io.EOF) && w.trusting: // the last header may say too little of how far its batch reaches, and nothing comes that shows it
		last := *w
		last.pos, last.next, last.buf = w.back, w.backNext, nil
		if err := last.intact(); errors.Is(err, eventlog.ErrCorrupt) {
			return nil, 0, w.blame(err)
		}
		w.trusting = false
		return nil, 0, io.EOF
	case err != nil:
		return nil, 0, err
	case b.Base() >= w.stop:
		return nil, 0, io.EOF
	}
	return b, n, nil
}

// frame is header without finding out what is damaged.
func (w *walker) frame() (eventlog.RawBatch, int64, error) {
	left := w.end - w.pos
	switch {
	case left <= 0 && w.limit != math.MaxInt64 && w.next < w.limit && !w.gaps:
		return nil, 0, fmt.Errorf("%w: the segment ends, and the next one begins at offset %d", eventlog.ErrCorrupt, w.limit)
	case left <= 0:
		return nil, 0, io.EOF
	case left < eventlog.HeaderSize:
		return nil, 0, fmt.Errorf("%w: %d bytes of a header", eventlog.ErrCorrupt, left)
	}
	p, err := w.window(eventlog.HeaderSize)
	if err != nil {
		return nil, 0, err
	}
	n, err := eventlog.BatchSize(p)
	if err != nil {
		return nil, 0, err
	}
	b := eventlog.RawBatch(p)
	if int64(n) > left {
		return nil, 0, fmt.Errorf("%w: a batch of %d bytes where %d are left", eventlog.ErrCorrupt, n, left)
	}
	if b.LastDelta() < 0 || b.Base() < w.next || b.Base() > w.next && !w.gaps || b.Next() <= b.Base() || b.Next() > w.limit {
		return nil, 0, fmt.Errorf("%w: %d bytes with offsets %d to %d where offset %d should be", eventlog.ErrCorrupt, n, b.Base(), b.Last(), w.next)
	}
	if epoch := binary.BigEndian.Uint32(p[afterLength:]); epoch != 0 { // which a log of one node never has, and no checksum covers
		return nil, 0, fmt.Errorf("%w: leader epoch %d at offset %d, not 0", eventlog.ErrCorrupt, epoch, w.next)
	}
	return b, int64(n), nil
}

// batch returns the next batch, whole and with its checksum verified, and steps over it. It is valid until the next call.
func (w *walker) batch() (eventlog.RawBatch, error) {
	_, n, err := w.header()
	if err != nil {
		return nil, err
	}
	p, err := w.window(n)
	if err != nil {
		return nil, err
	}
	b, err := eventlog.CheckBatch(p)
	if err != nil {
		return nil, w.blame(err)
	}
	w.step(b, n)
	w.trusting = false
	return b, nil
}

// step goes on behind the batch that header returned.
func (w *walker) step(b eventlog.RawBatch, n int64) {
	w.trusting, w.back, w.backNext = true, w.pos, w.next
	w.pos += n
	w.next = b.Next()
}

// pass goes on behind damage.
func (w *walker) pass(d *Damage) {
	w.pos, w.next, w.trusting = d.resume, d.Next, false
}

// blame says what is damaged, where what lies at pos cannot be the next batch. If the batch before was stepped over on the word of its
// header, it may be that one.
func (w *walker) blame(cause error) error {
	if w.trusting {
		pos, next := w.pos, w.next
		w.pos, w.next, w.trusting = w.back, w.backNext, false
		if err := w.intact(); errors.Is(err, eventlog.ErrCorrupt) {
			cause = err
		} else {
			w.pos, w.next = pos, next
		}
	}
	if w.seg != nil {
		w.seg.trusted.forget()
	}
	d := &Damage{File: w.name, Pos: w.pos, Offset: w.next, Next: min(w.limit, w.stop), Err: cause, resume: w.end}
	w.resync(d)
	return d
}

// intact verifies the batch at pos, without going on.
func (w *walker) intact() error {
	_, n, err := w.frame()
	if err != nil {
		return err
	}
	p, err := w.window(n)
	if err == nil {
		_, err = eventlog.CheckBatch(p)
	}
	return err
}

// resync finds the first batch behind damage that can be trusted: the one that the damaged batch's own length leads to, or one that the
// index knows. It never looks for batches among the bytes: those are clients', and could hold any.
func (w *walker) resync(d *Damage) {
	if n, ok := w.length(); ok {
		if base, ok := w.intactAt(d.Pos + n); ok && base > d.Offset && base <= w.limit {
			d.Next, d.resume = base, d.Pos+n
			return
		}
	}
	if w.seg == nil {
		return
	}
	w.seg.index.after(d.Pos, func(base, pos int64) bool {
		found, ok := w.intactAt(pos)
		if ok = ok && found == base && base > d.Offset; ok {
			d.Next, d.resume = base, pos
		}
		return ok
	})
}

// length is what the batch at pos says of its length, if it can be read and that can be.
func (w *walker) length() (n int64, ok bool) {
	if w.end-w.pos < eventlog.HeaderSize {
		return 0, false
	}
	p, err := w.window(eventlog.HeaderSize)
	if err != nil {
		return 0, false
	}
	k, err := eventlog.BatchSize(p)
	return int64(k), err == nil && int64(k) <= w.end-w.pos
}

// intactAt tells whether a batch is whole somewhere else in the file, and its base offset.
func (w *walker) intactAt(pos int64) (base int64, ok bool) {
	at := &walker{h: w.h, name: w.name, pos: pos, end: w.end, gaps: true, limit: w.limit, stop: math.MaxInt64}
	n, ok := at.length()
	if !ok || at.intact() != nil {
		return 0, false
	}
	p, err := at.window(n)
	if err != nil {
		return 0, false
	}
	return eventlog.RawBatch(p).Base(), true
}
