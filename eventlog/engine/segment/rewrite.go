package segment

import (
	"encoding/binary"
	"fmt"
	"math"
	"path"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// rewrite is a segment being written that will replace others. Each of its batches begins where the one before ends: where whole batches
// go, the one before them is made to reach over their offsets, so that a place in the order of offsets can always be checked.
type rewrite struct {
	l       *Log
	seg     *segment // under its final name, which is not its own yet
	old     []*segment
	changed bool // it is not a copy of old
	h       vfs.File
	buf     []byte
	held    eventlog.RawBatch // the last batch: it waits for where the next one begins
}

const rewriteBuffer = 1 << 20

func (l *Log) path(name string) string { return path.Join(l.dir, name) }

func (l *Log) beginRewrite(base int64) (*rewrite, error) {
	r := &rewrite{l: l, seg: newSegment(l.fs, l.dir, l.cache, base, l.opts.IndexBytes)}
	var err error
	if r.h, err = l.fs.Create(r.tempLog()); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *rewrite) tempLog() string { return r.seg.log.name + tempSuffix }

// fits tells whether all of another segment has room, and its offsets fit the index.
func (r *rewrite) fits(s *segment, limit int64) bool {
	return r.seg.size.Load()+s.size.Load() <= limit && s.limit.Load()-r.seg.base <= math.MaxInt32
}

// add appends a batch; nil is none.
func (r *rewrite) add(b eventlog.RawBatch) error {
	if b == nil {
		return nil
	}
	if err := r.letGo(b.Base()); err != nil {
		return err
	}
	r.held = append(r.held[:0], b...)
	return nil
}

// letGo writes the batch that is held, which ends where another begins from now on. One of a transaction stays as long as it was: a
// consumer would take it for one of the aborted transaction whose first batch it reached over.
func (r *rewrite) letGo(next int64) error {
	if len(r.held) == 0 {
		return r.cover(r.seg.base, next)
	}
	end := r.held.Next()
	if delta := next - 1 - r.held.Base(); end < next && delta <= math.MaxInt32 && r.held.Attributes()&eventlog.AttrTransactional == 0 {
		binary.BigEndian.PutUint32(r.held[atLastDelta:], uint32(delta))
		r.held.Reseal()
		end = next
	}
	if err := r.write(r.held); err != nil {
		return err
	}
	return r.cover(end, next)
}

// cover writes batches without records for the offsets from one to another.
func (r *rewrite) cover(from, to int64) error {
	for from < to {
		n := min(to-from, math.MaxInt32)
		if err := r.write(emptyBatch(from, int32(n-1))); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// emptyBatch is a batch of nobody's that holds no record.
func emptyBatch(base int64, lastDelta int32) eventlog.RawBatch {
	b := make(eventlog.RawBatch, eventlog.HeaderSize)
	b.SetBase(base)
	binary.BigEndian.PutUint32(b[atLength:], eventlog.HeaderSize-afterLength)
	b[atMagic] = 2
	binary.BigEndian.PutUint32(b[atLastDelta:], uint32(lastDelta))
	for _, at := range []int{atBaseTime, atMaxTime} {
		binary.BigEndian.PutUint64(b[at:], math.MaxUint64) // -1: none
	}
	b.SetProducer(-1, -1, -1)
	b.Reseal()
	return b
}

func (r *rewrite) write(b eventlog.RawBatch) error {
	pos := r.seg.size.Load()
	if pos+int64(len(b)) > math.MaxUint32 {
		return fmt.Errorf("%w: segment %s grows beyond 4 GiB", eventlog.ErrInvalid, r.seg.log.name)
	}
	r.seg.index.note(b, pos)
	r.seg.size.Store(pos + int64(len(b)))
	r.buf = append(r.buf, b...)
	if len(r.buf) < rewriteBuffer {
		return nil
	}
	return r.flush()
}

func (r *rewrite) flush() error {
	off := r.seg.size.Load() - int64(len(r.buf))
	if _, err := r.h.WriteAt(r.buf, off); err != nil {
		return err
	}
	r.h.StartWriteback(off, int64(len(r.buf)))
	r.buf = r.buf[:0]
	return nil
}

// seal ends the segment, makes its content durable, and gives its open file to the cache, held once.
func (r *rewrite) seal() error {
	limit := r.old[len(r.old)-1].limit.Load()
	if err := r.letGo(limit); err != nil {
		return err
	}
	if err := r.flush(); err != nil {
		return err
	}
	r.seg.limit.Store(limit)
	r.seg.index.seal(limit)
	r.seg.index.ready = true
	offs, times := encodeEntries(r.seg.base, r.seg.index.pending)
	if err := r.h.Sync(); err != nil {
		return err
	}
	if err := writeFile(r.l.fs, r.seg.index.offs.name+tempSuffix, offs); err != nil {
		return err
	}
	if err := writeFile(r.l.fs, r.seg.index.times.name+tempSuffix, times); err != nil {
		return err
	}
	r.seg.log.adopt(r.h)
	r.h = nil
	return nil
}

// placeIndex puts the index's files in place and lets go of what is in memory.
func (r *rewrite) placeIndex() error {
	x := &r.seg.index
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range []*file{x.offs, x.times} {
		if err := f.fs.Rename(f.name+tempSuffix, f.name); err != nil {
			return err
		}
	}
	x.stored, x.pending = int64(len(x.pending)), nil
	return nil
}

// discard gives up a rewrite that was not sealed.
func (r *rewrite) discard() {
	if r.h != nil {
		r.h.Close()
	}
	r.remove()
}

// remove removes what was written. What cannot be removed is debris for the next Open.
func (r *rewrite) remove() {
	r.seg.retire()
	for _, name := range []string{r.tempLog(), r.seg.index.offs.name + tempSuffix, r.seg.index.times.name + tempSuffix} {
		_ = r.l.fs.Remove(name)
	}
}
