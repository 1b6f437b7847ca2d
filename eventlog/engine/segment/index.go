package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"path"
	"sort"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// entry is one entry of a segment's two indexes, which have it in the same place:
//
//	.index      relative offset 4, position 4, checksum 4
//	.timeindex  max timestamp   8, relative offset 4, checksum 4
//
// At position begins the batch whose base offset is the segment's plus the relative one, and no record before it is younger
// than the max timestamp. A rolled segment's last entry is its end: its position is the log's size. The checksum covers the
// segment's base offset too, so that no other segment's entry can pass for one of this.
type entry struct {
	rel, pos uint32
	maxTime  int64
}

const (
	offsetWidth = 12
	timeWidth   = 16

	maxPending = 128 // entries kept in memory before they are written
)

func encodeEntries(base int64, entries []entry) (offs, times []byte) {
	for _, e := range entries {
		at := len(offs)
		offs = binary.BigEndian.AppendUint32(offs, e.rel)
		offs = binary.BigEndian.AppendUint32(offs, e.pos)
		offs = binary.BigEndian.AppendUint32(offs, entrySum(base, offs[at:]))
		at = len(times)
		times = binary.BigEndian.AppendUint64(times, uint64(e.maxTime))
		times = binary.BigEndian.AppendUint32(times, e.rel)
		times = binary.BigEndian.AppendUint32(times, entrySum(base, times[at:]))
	}
	return offs, times
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entrySum is the checksum of an entry of the segment with that base offset.
func entrySum(base int64, p []byte) uint32 {
	sum := ^uint32(0) // of the base's bytes by hand: handed over, they would be garbage
	for shift := 56; shift >= 0; shift -= 8 {
		sum = castagnoli[byte(sum)^byte(base>>shift)] ^ sum>>8
	}
	return crc32.Update(^sum, castagnoli, p)
}

// index finds offsets and times in one segment. It is a cache of what the log says: looked at when it is first needed, and
// rebuilt when it does not fit the log. While its segment is active the last entries are in memory only.
type index struct {
	mu sync.Mutex
	entries
	ready   bool  // the files have been looked at, or are ours
	written bool  // something was written to the files since the last Sync
	lastPos int64 // of the last entry
	maxTime int64 // of the records so far, -1 if there are none
}

// entries are an index's entries. A copy stays good for searching while more are added.
type entries struct {
	seg         *segment
	offs, times *file
	stored      int64   // in the files
	pending     []entry // after those
	sealed      bool    // the last one is the end
}

// note counts in a batch at pos. Called with mu held.
func (x *index) note(b eventlog.RawBatch, pos int64) {
	if pos-x.lastPos >= x.seg.interval {
		x.push(b.Base(), pos)
	}
	x.maxTime = max(x.maxTime, b.MaxTime())
}

func (x *index) push(offset, pos int64) {
	rel := min(offset-x.seg.base, math.MaxUint32) // the end of a segment may be followed by a long gap
	x.pending = append(x.pending, entry{uint32(rel), uint32(pos), x.maxTime})
	x.lastPos = pos
}

// seal ends the index of a segment that is rolled at an offset. Called with mu held.
func (x *index) seal(next int64) {
	if !x.sealed {
		x.push(next, x.seg.size.Load())
		x.sealed = true
	}
}

// flush writes the entries that are in memory only. made says that it made the files. Called with mu held.
func (x *index) flush() (made bool, err error) {
	if len(x.pending) == 0 {
		return false, nil
	}
	offs, times := encodeEntries(x.seg.base, x.pending)
	if made, err = x.offs.put(offs, x.stored*offsetWidth); err != nil {
		return made, err
	}
	if _, err = x.times.put(times, x.stored*timeWidth); err != nil {
		return made, err
	}
	x.stored += int64(len(x.pending))
	x.pending, x.written = nil, true
	return made, nil
}

// worthSync tells whether entries that are in memory only are worth two more files' syncs. What they lead to is found by walking, too, so those
// of an active segment wait until that is a thousandth of a whole one. Called with mu held.
func (x *index) worthSync(segmentBytes int64) bool {
	return len(x.pending) > 0 && (x.sealed || x.seg.size.Load()-int64(x.pending[0].pos) >= segmentBytes>>10)
}

// byOffset returns the place to start from to find an offset: a position, and the base offset of the batch there.
func (x *index) byOffset(offset int64) (pos, base int64, err error) {
	return x.search(false, func(e entry) bool { return int64(e.rel) <= offset-x.seg.base })
}

// byTime returns the place to start from to find the first record with a timestamp of t or more.
func (x *index) byTime(t int64) (pos, base int64, err error) {
	return x.search(true, func(e entry) bool { return e.maxTime < t })
}

// search returns the place of the last entry for which a condition holds that holds for none after the first for which it
// does not. It sees of each entry what the file has of it. An index that leads to the wrong place is rebuilt.
func (x *index) search(times bool, holds func(entry) bool) (pos, base int64, err error) {
	for {
		es, err := x.look()
		if err != nil {
			return 0, 0, err
		}
		e, err := es.last(times, holds)
		if errors.Is(err, errIndex) || errors.Is(err, io.ErrUnexpectedEOF) {
			if err := x.distrust(es.offs); err != nil {
				return 0, 0, err
			}
			continue
		}
		return int64(e.pos), x.seg.base + int64(e.rel), err
	}
}

// look returns the entries there are now.
func (x *index) look() (entries, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.check()
	return x.entries, err
}

func (es *entries) last(times bool, holds func(entry) bool) (e entry, err error) {
	if n := sort.Search(len(es.pending), func(i int) bool { return !holds(es.pending[i]) }); n > 0 {
		return es.pending[n-1], nil
	}
	f, width := es.offs, int64(offsetWidth)
	if times {
		f, width = es.times, timeWidth
	}
	k, err := f.search(es.seg.base, width, es.stored, holds)
	if err != nil || k < 0 {
		return entry{}, err
	}
	return es.read(k)
}

// after calls f for each place behind a position that is known, in order, until f says that it will do. The last one of a rolled segment
// is its end. An index that cannot be read knows none: it is asked because the log is damaged, which is what is to be told.
func (x *index) after(pos int64, f func(base, pos int64) bool) {
	es, err := x.look()
	if err != nil {
		return
	}
	k, err := es.offs.search(x.seg.base, offsetWidth, es.stored, func(e entry) bool { return int64(e.pos) <= pos })
	if err != nil {
		return
	}
	for k++; k < es.stored; k++ {
		if e, err := es.read(k); err == nil && f(x.seg.base+int64(e.rel), int64(e.pos)) {
			return
		}
	}
	for _, e := range es.pending {
		if int64(e.pos) > pos && f(x.seg.base+int64(e.rel), int64(e.pos)) {
			return
		}
	}
}

// decodeEntry takes an entry of either file apart; errIndex if it is not as it was written.
func decodeEntry(base int64, p []byte) (e entry, err error) {
	sum := len(p) - 4
	if binary.BigEndian.Uint32(p[sum:]) != entrySum(base, p[:sum]) {
		return e, errIndex
	}
	if len(p) == offsetWidth {
		e.rel, e.pos = binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])
	} else {
		e.maxTime, e.rel = int64(binary.BigEndian.Uint64(p)), binary.BigEndian.Uint32(p[8:])
	}
	return e, nil
}

// search returns the last of n entries for which a condition holds, or -1.
func (f *file) search(base, width, n int64, holds func(entry) bool) (int64, error) {
	if n == 0 {
		return -1, nil // the files need not be there
	}
	const block = 256 // entries read at once
	lo, hi := int64(0), n
	for p := make([]byte, width); hi-lo > block; {
		mid := (lo + hi) / 2
		if err := f.readAt(p, mid*width); err != nil {
			return 0, err
		}
		e, err := decodeEntry(base, p)
		switch {
		case err != nil:
			return 0, err
		case holds(e):
			lo = mid + 1
		default:
			hi = mid
		}
	}
	p := make([]byte, (hi-lo)*width)
	if err := f.readAt(p, lo*width); err != nil {
		return 0, err
	}
	var bad error
	k := sort.Search(int(hi-lo), func(i int) bool {
		e, err := decodeEntry(base, p[int64(i)*width:][:width])
		bad = errors.Join(bad, err)
		return !holds(e)
	})
	return lo + int64(k) - 1, bad
}

// read reads an entry from both files.
func (es *entries) read(k int64) (entry, error) {
	p, q := make([]byte, offsetWidth), make([]byte, timeWidth)
	if err := es.offs.readAt(p, k*offsetWidth); err != nil {
		return entry{}, err
	}
	if err := es.times.readAt(q, k*timeWidth); err != nil {
		return entry{}, err
	}
	e, err := decodeEntry(es.seg.base, p)
	if err != nil {
		return entry{}, err
	}
	t, err := decodeEntry(es.seg.base, q)
	if err == nil && e.rel != t.rel {
		err = errIndex
	}
	e.maxTime = t.maxTime
	return e, err
}

// errIndex says that an index does not fit its log.
var errIndex = errors.New("index does not fit its log")

// check looks at the files when they are first needed, and rebuilds them if they do not fit. Called with mu held.
func (x *index) check() error {
	if x.ready {
		return nil
	}
	err := x.verify()
	if errors.Is(err, errIndex) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = x.rebuild()
	}
	x.ready = err == nil
	return err
}

// distrust rebuilds an index whose files are not as they were written, unless somebody else has.
func (x *index) distrust(bad *file) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.offs != bad {
		return nil
	}
	return x.rebuild()
}

// verify looks at the last entry: a rolled segment's must be the log's end, another's must point to its batch. An active
// segment's index has x.stored entries, as the checkpoint says; what is beyond is cut.
func (x *index) verify() error {
	n, err := x.offs.size()
	if err != nil {
		return err
	}
	m, err := x.times.size()
	if err != nil {
		return err
	}
	if x.sealed {
		x.stored = n / offsetWidth
		if n == 0 || n != x.stored*offsetWidth || m != x.stored*timeWidth {
			return errIndex
		}
	} else if err := x.cut(n, m); err != nil {
		return err
	}
	if x.stored == 0 {
		return nil
	}
	e, err := x.read(x.stored - 1)
	if err != nil {
		return err
	}
	x.lastPos = int64(e.pos)
	if size := x.seg.size.Load(); x.sealed && x.lastPos != size || !x.sealed && x.lastPos >= size {
		return errIndex
	}
	if x.sealed {
		x.maxTime = e.maxTime
	}
	return nil
}

// cut takes away the entries beyond those of the checkpoint, in files of n and m bytes.
func (x *index) cut(n, m int64) error {
	if n < x.stored*offsetWidth || m < x.stored*timeWidth {
		return errIndex
	}
	if err := x.offs.cut(x.stored * offsetWidth); err != nil {
		return err
	}
	return x.times.cut(x.stored * timeWidth)
}

// rebuild reads the log's headers and replaces both files. Where the log is damaged the index ends. Called with mu held.
func (x *index) rebuild() error {
	fresh, err := x.seg.scan(x.sealed)
	if err != nil {
		return err
	}
	x.ready = false
	x.offs.retire() // whoever still searches in them starts again
	x.times.retire()
	x.offs, x.times = x.offs.again(), x.times.again()
	offs, times := encodeEntries(x.seg.base, fresh.pending)
	if err := x.offs.replace(offs); err != nil {
		return err
	}
	if err := x.times.replace(times); err != nil {
		return err
	}
	if err := x.offs.fs.SyncDir(path.Dir(x.offs.name)); err != nil {
		return err
	}
	x.stored, x.pending = int64(len(fresh.pending)), nil
	x.lastPos, x.maxTime, x.ready = fresh.lastPos, fresh.maxTime, true
	return nil
}

// scan makes the index of what the log has, all of it pending. Damage is passed over: what cannot be found behind it is not in the index.
func (s *segment) scan(sealed bool) (*index, error) {
	h, err := s.log.acquire()
	if err != nil {
		return nil, err
	}
	defer s.log.release()
	x := &index{entries: entries{seg: s}, maxTime: -1}
	w := s.walk(h, 0, s.base, 64<<10)
	w.seg = nil // it is its index that is made
	for {
		b, n, err := w.header()
		var d *Damage
		switch {
		case errors.As(err, &d):
			w.pass(d)
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil:
			if sealed {
				x.push(s.limit.Load(), s.size.Load())
			}
			return x, nil
		}
		x.note(b, w.pos)
		w.step(b, n)
	}
}

// put writes p at off; at 0 it makes a file that is not there.
func (f *file) put(p []byte, off int64) (made bool, err error) {
	h, err := f.acquire()
	if made = errors.Is(err, fs.ErrNotExist) && off == 0; made {
		h, err = f.create()
	}
	if err != nil {
		return made, err
	}
	defer f.release()
	_, err = h.WriteAt(p, off)
	return made, err
}

// replace puts a file with content p in the place of one that nobody has open, durably but for its name.
func (f *file) replace(p []byte) error {
	temp := f.name + tempSuffix
	if err := writeFile(f.fs, temp, p); err != nil {
		return fmt.Errorf("rebuild %s: %w", f.name, err)
	}
	return f.fs.Rename(temp, f.name)
}

// again is the file of the same name that takes a retired one's place.
func (f *file) again() *file { return f.cache.file(f.fs, f.name) }

func (f *file) readAt(p []byte, off int64) error {
	h, err := f.acquire()
	if err != nil {
		return err
	}
	defer f.release()
	if err := readFull(h, p, off); err != nil {
		return fmt.Errorf("read %s: %w", f.name, err)
	}
	return nil
}

// size is 0 for a file that is not there.
func (f *file) size() (int64, error) {
	h, err := f.acquire()
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.release()
	return h.Size()
}

// cut makes the file no larger than size; one that is not there is not.
func (f *file) cut(size int64) error {
	n, err := f.size()
	if err != nil || n <= size {
		return err
	}
	h, err := f.acquire()
	if err != nil {
		return err
	}
	defer f.release()
	return h.Truncate(size)
}

// sync makes the content durable; a retired file has none to keep.
func (f *file) sync() error {
	h, err := f.acquire()
	if errors.Is(err, errRetired) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.release()
	return h.Datasync()
}
