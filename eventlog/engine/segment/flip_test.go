package segment

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// flipped is a log on a disk in which one bit is wrong.
type flipped struct {
	t    *testing.T
	what string
	disk *vfs.Mem
	st   State
	want []rec
	opts Options
}

// flipLog is a log with a compacted segment, a plain rolled one and an active one, all of several batches and index entries.
func flipLog(t *testing.T) (m *vfs.Mem, st State, want []rec) {
	m = vfs.NewMem()
	c := newCompacted(t, m, Options{SegmentBytes: 1500, IndexBytes: 300})
	r := rng(3)
	for range 60 {
		c.write(r, 40)
	}
	c.compact(0)
	for segs := c.segments(); len(c.segments()) < len(segs)+2 || c.sync().Size < 800; {
		c.write(r, 40)
	}
	st = c.sync()
	segs := c.segments()
	if len(segs) < 4 || !segs[len(segs)-1].Active || segs[len(segs)-1].Size < 500 || st.Entries < 1 {
		t.Fatalf("segments %+v", segs)
	}
	return m, st, c.want
}

// TestBitFlips flips bits of every byte of every file of a log: each one of a batch's header, some of each other byte. Nothing wrong is ever
// served, at most the batches around the bit are not served, and an error says so for each of them.
func TestBitFlips(t *testing.T) {
	m, st, want := flipLog(t)
	names, err := m.List("topic/0")
	check(t, err)
	files := map[string][]byte{}
	for _, name := range names {
		files[name] = contentOf(t, m, path.Join("topic/0", name))
	}
	r := rng(tier.Seed())
	flips, lost, short := 0, 0, tier.N(10) < 10
	for _, name := range names {
		size := int64(len(files[name]))
		if strings.HasSuffix(name, logSuffix) && parse(t, name) == st.Base {
			size = st.Size
		}
		for at := int64(0); at < size; at++ {
			header := strings.HasSuffix(name, logSuffix) && at < eventlog.HeaderSize
			if short && !header && r.IntN(50) > 0 {
				continue
			}
			only := r.IntN(8)
			for bit := range 8 {
				if short && bit != only {
					continue
				}
				f := &flipped{t, fmt.Sprintf("%s, byte %d, bit %d", name, at, bit), disk(t, files, name, at, bit), st, want, Options{SegmentBytes: 1500, IndexBytes: 300}}
				n, holes := f.look()
				flips++
				lost += n
				if strings.HasSuffix(name, logSuffix) != (holes > 0) {
					t.Fatalf("%s: %d errors", f.what, holes)
				}
			}
		}
	}
	t.Logf("%d flips, %.1f records lost by one", flips, float64(lost)/float64(flips))
}

func parse(t *testing.T, name string) int64 {
	base, ok := parseName(path.Base(name), logSuffix)
	if !ok {
		t.Fatal(name)
	}
	return base
}

func contentOf(t testing.TB, m vfs.FS, name string) []byte {
	t.Helper()
	h, err := m.Open(name)
	check(t, err)
	defer h.Close()
	size, err := h.Size()
	check(t, err)
	p := make([]byte, size)
	check(t, readFull(h, p, 0))
	return p
}

// disk is one with these files, and one bit of one of them wrong.
func disk(t *testing.T, files map[string][]byte, wrong string, at int64, bit int) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	check(t, m.MkdirAll("topic/0"))
	for name, p := range files {
		if name == wrong {
			p = slices.Clone(p)
			p[at] ^= 1 << bit
		}
		check(t, writeFile(m, path.Join("topic/0", name), p))
	}
	return m
}

func (f *flipped) open() *Log {
	f.t.Helper()
	l, err := Open(f.disk, "topic/0", f.opts, NewFileCache(64), f.st)
	check(f.t, err)
	return l
}

// look reads the log in one go, and from every offset; it counts the records that are lost, and the errors.
func (f *flipped) look() (lost, errs int) {
	f.t.Helper()
	l := f.open()
	got := map[rec]bool{}
	var holes []Damage
	for at := int64(0); at < f.st.End; {
		raw, next, hole := f.read(l, at, 700)
		if hole != nil {
			holes = append(holes, *hole)
		}
		for _, r := range decode(f.t, raw) {
			if r.offset >= at {
				got[r] = true
			}
		}
		at = next
	}
	in := func(o int64) bool {
		return slices.ContainsFunc(holes, func(d Damage) bool { return o >= d.Offset && o < d.Next })
	}
	for _, r := range f.want {
		if !got[r] {
			if lost++; !in(r.offset) {
				f.t.Fatalf("%s: %v is not read, and no error says so: %v", f.what, r, holes)
			}
		}
	}
	if len(got)+lost != len(f.want) || lost > 20 {
		f.t.Fatalf("%s: %d records read, %d lost (%v), of %d", f.what, len(got), lost, holes, len(f.want))
	}
	l = f.open()
	for at := int64(0); at < f.st.End; at++ {
		raw, next, hole := f.read(l, at, 1)
		if (hole != nil) != in(at) {
			f.t.Fatalf("%s: a read at %d: %v; before, damaged were %v", f.what, at, hole, holes)
		}
		recs := slices.DeleteFunc(decode(f.t, raw), func(r rec) bool { return r.offset < at })
		if from, to := firstAt(f.want, at), firstAt(f.want, next); hole == nil && !slices.Equal(recs, f.want[from:to]) {
			f.t.Fatalf("%s: a read at %d gives %v, want %v", f.what, at, recs, f.want[from:to])
		}
	}
	f.times(l, in)
	return lost, len(holes)
}

// read reads batches, and says where to go on.
func (f *flipped) read(l *Log, at int64, maxBytes int) (raw []byte, next int64, hole *Damage) {
	f.t.Helper()
	raw, err := l.Read(at, maxBytes, true)
	var d *Damage
	if errors.As(err, &d) {
		if at < d.Offset || at >= d.Next || d.Next > f.st.End {
			f.t.Fatalf("%s: a read at %d: %v", f.what, at, err)
		}
		return nil, d.Next, d
	}
	if err != nil || len(raw) == 0 {
		f.t.Fatalf("%s: a read at %d: %d bytes, %v", f.what, at, len(raw), err)
	}
	for rest := raw; len(rest) > 0; {
		b, err := eventlog.CheckBatch(rest)
		check(f.t, err)
		rest, next = rest[len(b):], b.Next()
	}
	return raw, next, nil
}

// times looks up times: what is found is there, and nothing that can be read was passed over.
func (f *flipped) times(l *Log, lost func(int64) bool) {
	f.t.Helper()
	for i := 0; i < len(f.want); i += 3 {
		least := f.want[i].time
		o, ts, err := l.FindTime(least, 0)
		if err != nil {
			f.t.Fatalf("%s: find time: %v", f.what, err)
		}
		for _, r := range f.want {
			if r.time >= least && !lost(r.offset) {
				if o != r.offset || ts != r.time {
					f.t.Fatalf("%s: first at %d is %d@%d, want %v", f.what, least, o, ts, r)
				}
				break
			}
		}
	}
}
