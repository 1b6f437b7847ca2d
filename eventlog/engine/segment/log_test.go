package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// anyCodec is mostly none: compressors are slow under the race detector.
func anyCodec(r *rand.Rand) eventlog.Codec {
	if r.IntN(60) > 0 {
		return eventlog.None
	}
	return eventlog.Codec(r.IntN(5))
}

// rec is a record as a test writes it; value "-" is null.
type rec struct {
	offset, time int64
	key, value   string
}

func (r rec) String() string { return fmt.Sprintf("%d@%d %s=%s", r.offset, r.time, r.key, r.value) }

// encode builds a batch of consecutive records.
func encode(t testing.TB, codec eventlog.Codec, recs ...rec) eventlog.RawBatch {
	t.Helper()
	var bl eventlog.Builder
	for _, r := range recs {
		value := []byte(r.value)
		if r.value == "-" {
			value = nil
		}
		bl.Add(r.time, []byte(r.key), value, nil)
	}
	b, _, err := bl.Batch(eventlog.Part{}, codec)
	if err != nil {
		t.Fatal(err)
	}
	raw := slices.Clone(b.Raw())
	raw.SetBase(recs[0].offset)
	return raw
}

// decode returns the records of whole batches.
func decode(t testing.TB, raw []byte) (recs []rec) {
	t.Helper()
	for len(raw) > 0 {
		b, err := eventlog.CheckBatch(raw)
		if err != nil {
			t.Fatal(err)
		}
		err = eventlog.NewRawBatch(eventlog.Part{}, b).Each(func(r *eventlog.Record) error {
			value := string(r.Value)
			if r.Value == nil {
				value = "-"
			}
			recs = append(recs, rec{r.Offset, r.Timestamp, string(r.Key), value})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		raw = raw[len(b):]
	}
	return recs
}

// fixture is a log under test and what it must contain.
type fixture struct {
	t     testing.TB
	fs    vfs.FS
	cache *FileCache
	log   *Log
	opts  Options
	now   time.Time
	want  []rec // in the log
	time  int64
}

func newFixture(t testing.TB, fs vfs.FS, o Options) *fixture {
	f := &fixture{t: t, fs: fs, cache: NewFileCache(64), opts: o, now: time.UnixMilli(1_000_000), time: 1000}
	f.opts.Now = func() time.Time { return f.now }
	f.open(State{})
	return f
}

func (f *fixture) open(at State) {
	f.t.Helper()
	l, err := Open(f.fs, "topic/0", f.opts, f.cache, at)
	if err != nil {
		f.t.Fatal(err)
	}
	f.log = l
	f.want = slices.DeleteFunc(slices.Clone(f.want), func(r rec) bool { return r.offset >= at.End || r.offset < at.Start })
}

// add appends one batch of n records with values of size bytes.
func (f *fixture) add(codec eventlog.Codec, n, size int) {
	f.t.Helper()
	var recs []rec
	for i := range n {
		o := f.log.End() + int64(i)
		f.time += 10
		recs = append(recs, rec{o, f.time, fmt.Sprintf("k%d", o), strings.Repeat("v", size)})
	}
	f.addRecs(codec, recs...)
}

func (f *fixture) addRecs(codec eventlog.Codec, recs ...rec) {
	f.t.Helper()
	if err := f.log.Append(encode(f.t, codec, recs...)); err != nil {
		f.t.Fatal(err)
	}
	f.want = append(f.want, recs...)
}

// addWide appends a batch that reaches over more offsets than it has records, as compaction leaves them.
func (f *fixture) addWide(more int64, recs ...rec) {
	f.t.Helper()
	b := encode(f.t, 0, recs...)
	binary.BigEndian.PutUint32(b[atLastDelta:], uint32(int64(b.LastDelta())+more))
	b.Reseal()
	if err := f.log.Append(b); err != nil {
		f.t.Fatal(err)
	}
	f.want = append(f.want, recs...)
}

// readAll reads from an offset to the end.
func (f *fixture) readAll(from int64, maxBytes int) (recs []rec) {
	f.t.Helper()
	for {
		raw, err := f.log.Read(from, maxBytes, true)
		if err != nil {
			f.t.Fatal(err)
		}
		if len(raw) == 0 {
			return recs
		}
		for _, r := range decode(f.t, raw) {
			if r.offset >= from {
				recs = append(recs, r)
			}
		}
		from = lastOf(raw).Next()
	}
}

// verify compares what the log returns with what it must contain, from the start and from a few places.
func (f *fixture) verify(rng *rand.Rand) {
	f.t.Helper()
	froms := []int64{f.log.Start()}
	for range 5 {
		froms = append(froms, f.log.Start()+rng.Int64N(f.log.End()-f.log.Start()+1))
	}
	for _, from := range froms {
		got := f.readAll(from, 1+rng.IntN(20000))
		want := f.want[firstAt(f.want, from):]
		if !slices.Equal(got, want) {
			f.t.Fatalf("read from %d: %d records, want %d\n got %.300v\nwant %.300v", from, len(got), len(want), got, want)
		}
	}
}

func firstAt(recs []rec, offset int64) int {
	i, _ := slices.BinarySearchFunc(recs, offset, func(r rec, o int64) int { return int(r.offset - o) })
	return i
}

func (f *fixture) sync() State {
	f.t.Helper()
	st, err := f.log.Sync()
	if err != nil {
		f.t.Fatal(err)
	}
	st2, rest, err := DecodeState(st.Append(nil), 2)
	if err != nil || len(rest) > 0 || st2 != st {
		f.t.Fatalf("state %+v decoded as %+v, %v", st, st2, err)
	}
	return st
}

func (f *fixture) segments() []Info {
	f.t.Helper()
	infos, err := f.log.Segments()
	if err != nil {
		f.t.Fatal(err)
	}
	return infos
}

var small = Options{SegmentBytes: 4000, IndexBytes: 300}

func TestReadWhatWasAppended(t *testing.T) {
	for seed := range uint64(tier.N(300)) {
		r := rng(tier.Seed() + seed)
		f := newFixture(t, vfs.NewMem(), Options{SegmentBytes: 500 + r.Int64N(20000), IndexBytes: 1 + r.Int64N(3000)})
		for range 60 {
			if r.IntN(5) > 0 {
				f.add(anyCodec(r), 1+r.IntN(8), r.IntN(300))
				continue
			}
			f.time += 10 // a batch whose last records are gone
			f.addWide(r.Int64N(100), rec{f.log.End(), f.time, "k", "v"})
		}
		f.verify(r)
		st := f.sync()
		f.verify(r)
		check(t, f.log.Close())
		f.open(st)
		f.verify(r)
	}
}

func TestAppendSeveralBatchesOverARoll(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), small)
	var raw []byte
	for i := range int64(40) {
		r := rec{i, 5, "k", strings.Repeat("x", 400)}
		raw = append(raw, encode(t, 0, r)...)
		f.want = append(f.want, r)
	}
	check(t, f.log.Append(raw))
	f.verify(rng(1))
	infos := f.segments()
	if len(infos) < 4 {
		t.Fatalf("segments %+v", infos)
	}
	for i, s := range infos {
		if s.Size > small.SegmentBytes || s.Active != (i == len(infos)-1) {
			t.Errorf("segment %+v", s)
		}
	}
}

// Buffers of one batch and of several, in one call, over rolls and within one buffer.
func TestAppendBuffersOverARoll(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), small)
	next := int64(0)
	for _, sizes := range [][]int{{1}, {3, 1, 1}, {20}, {1, 1, 20, 2}, {5, 5, 5, 5}, {1, 40, 1}} {
		var bufs [][]byte
		for _, n := range sizes {
			var raw []byte
			for range n {
				r := rec{next, 5, "k", strings.Repeat("x", 300)}
				raw, next = append(raw, encode(t, 0, r)...), next+1
				f.want = append(f.want, r)
			}
			bufs = append(bufs, raw)
		}
		check(t, f.log.Append(bufs...))
		f.verify(rng(1))
	}
	f.sync()
	infos := f.segments()
	if len(infos) < 6 {
		t.Fatalf("segments %+v", infos)
	}
	for i, s := range infos {
		if s.Size > small.SegmentBytes || s.Size < small.SegmentBytes/2 && i < len(infos)-1 {
			t.Errorf("segment %+v", s)
		}
	}
	good, behind := encode(t, 0, rec{next, 1, "k", "v"}), encode(t, 0, rec{next + 1, 1, "k", "v"})
	for name, bufs := range map[string][][]byte{
		"nothing behind a batch": {good, nil}, "nothing before it": {{}, good}, "the same twice": {good, good},
		"half a batch behind": {good, behind[:len(behind)-1]},
	} {
		if err := f.log.Append(bufs...); err == nil {
			t.Errorf("%s was appended", name)
		}
	}
	check(t, f.log.Append())
	f.verify(rng(1))
}

func TestReadLimits(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	for range 10 {
		f.add(0, 1, 100)
	}
	one := len(encode(t, 0, f.want[0]))
	for _, c := range []struct {
		max    int
		minOne bool
		want   int
	}{{0, false, 0}, {0, true, 1}, {one - 1, false, 0}, {one - 1, true, 1}, {one, false, 1}, {3*one + 5, true, 3}, {1 << 20, false, 10}} {
		raw, err := f.log.Read(0, c.max, c.minOne)
		check(t, err)
		if got := len(decode(t, raw)); got != c.want {
			t.Errorf("max %d, at least one %v: %d batches, want %d", c.max, c.minOne, got, c.want)
		}
	}
	if raw, err := f.log.Read(10, 100, true); len(raw) > 0 || err != nil {
		t.Errorf("at the end: %d bytes, %v", len(raw), err)
	}
	var out *eventlog.OutOfRangeError
	if _, err := f.log.Read(11, 100, true); !errors.As(err, &out) || out.Start != 0 || out.End != 10 {
		t.Errorf("past the end: %v", err)
	}
	check(t, f.log.TrimTo(4))
	if _, err := f.log.Read(3, 100, true); !errors.As(err, &out) || out.Start != 4 {
		t.Errorf("before the start: %v", err)
	}
}

// TestReadStopsAtEnd: an append becomes visible in steps, the End last; a reader must not get ahead of it.
func TestReadStopsAtEnd(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{IndexBytes: 300})
	for range 10 {
		f.add(0, 1, 100)
	}
	end := f.log.end.Swap(5)
	for from := range int64(6) {
		raw, err := f.log.Read(from, 1<<20, true)
		check(t, err)
		if got := decode(t, raw); len(got) != int(5-from) {
			t.Errorf("read from %d: %v", from, got)
		}
	}
	f.log.end.Store(end)
	f.verify(rng(1))
}

func TestAppendRefuses(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.add(0, 3, 10)
	good := encode(t, 0, rec{3, 1, "k", "v"})
	backwards := slices.Concat(encode(t, 0, rec{5, 1, "k", "v"}), encode(t, 0, rec{4, 1, "k", "v"}))
	for name, raw := range map[string][]byte{
		"an old offset": encode(t, 0, rec{2, 1, "k", "v"}), "half a batch": good[:len(good)-1], "a few bytes": good[:5],
		"descending offsets": backwards, "no length": make([]byte, 61),
	} {
		if err := f.log.Append(raw); err == nil {
			t.Errorf("%s was appended", name)
		}
	}
	if f.log.End() != 3 {
		t.Errorf("end %d", f.log.End())
	}
	f.verify(rng(1))
}

func TestRollByAge(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{SegmentAge: time.Minute})
	f.add(0, 1, 1)
	st := f.sync()
	f.now = f.now.Add(50 * time.Second)
	f.add(0, 1, 1)
	if n := len(f.segments()); n != 1 {
		t.Fatalf("%d segments before the age", n)
	}
	f.open(st) // the age counts on over a restart
	f.now = f.now.Add(10 * time.Second)
	f.add(0, 1, 1)
	if n := len(f.segments()); n != 2 {
		t.Fatalf("%d segments after the age", n)
	}
}

func TestOpenTouchesNothing(t *testing.T) {
	m := vfs.NewMem()
	f := newFixture(t, m, small)
	for range 20 {
		f.add(0, 1, 300)
	}
	st := f.sync()
	check(t, f.log.Close())
	ops := 0
	f.fs = vfs.Faults(m, func(vfs.Op) error { ops++; return nil })
	f.open(st)
	if f.log.End() != 20 || f.log.Start() != 0 || f.log.Size() != st.Bytes {
		t.Errorf("start %d, end %d, size %d", f.log.Start(), f.log.End(), f.log.Size())
	}
	if again := f.sync(); again != st {
		t.Errorf("state %+v, want %+v", again, st)
	}
	check(t, f.log.Close())
	if ops != 0 {
		t.Errorf("%d operations on files", ops)
	}
}

// TestOpenCutsTheTail opens at a state that the files have outgrown, over rolls, and appends something else.
func TestOpenCutsTheTail(t *testing.T) {
	for seed := range uint64(tier.N(300)) {
		r := rng(tier.Seed() + seed)
		m := vfs.NewMem()
		f := newFixture(t, m, small)
		grow := func() {
			for range r.IntN(40) {
				f.add(0, 1+r.IntN(3), r.IntN(400))
			}
		}
		grow()
		st := f.sync()
		grow()
		if r.IntN(2) == 0 {
			f.sync() // for a checkpoint that was never completed
		}
		check(t, f.log.Close())
		f.open(st)
		if r.IntN(2) == 0 {
			f.verify(r)
		}
		f.time += r.Int64N(1000) // another history
		grow()
		f.verify(r)
		verifyTimes(t, f, r)
		st = f.sync()
		check(t, f.log.Close())
		f.fs = noRebuild(t, m)
		f.open(st)
		f.verify(r)
		if got := f.log.Size(); got != st.Bytes {
			t.Fatalf("size %d, want %d", got, st.Bytes)
		}
	}
}

// TestCrash cuts the power at random moments; what Sync covered must be there and the log must go on from there.
func TestCrash(t *testing.T) {
	for seed := range uint64(tier.N(1000)) {
		r := rng(tier.Seed() + seed)
		m := vfs.NewMem()
		f := newFixture(t, m, small)
		st := State{}
		for range 4 {
			for range r.IntN(60) {
				switch r.IntN(12) {
				case 0:
					if next := f.sync(); r.IntN(3) > 0 { // else the checkpoint was never completed
						st = next
					}
				case 1:
					start := f.log.Start() + r.Int64N(f.log.End()-f.log.Start()+1)
					st.Start = max(st.Start, min(start, st.End)) // the owner makes it durable first
					check(t, f.log.TrimTo(start))
					f.want = f.want[firstAt(f.want, start):]
				case 2:
					if _, _, err := f.log.Retain(f.now, 0, 1+r.Int64N(20000), st.End); err != nil {
						t.Fatal(err)
					}
					st.Start = max(st.Start, min(f.log.Start(), st.End)) // the owner makes it durable first
					f.want = f.want[firstAt(f.want, f.log.Start()):]
				default:
					f.add(anyCodec(r), 1+r.IntN(3), r.IntN(400))
				}
			}
			if r.IntN(3) == 0 {
				m = m.Kill() // the next cut may take back what this one kept
			} else {
				m = m.Crash(r)
			}
			f.fs, f.cache = m, NewFileCache(3)
			f.open(st)
			if _, err := f.log.Segments(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if f.log.End() != st.End || f.log.Start() < st.Start {
				t.Fatalf("seed %d: [%d, %d), want [%d, %d)", seed, f.log.Start(), f.log.End(), st.Start, st.End)
			}
			// A start that moved by retention may or may not have come back.
			f.want = slices.DeleteFunc(f.want, func(r rec) bool { return r.offset < f.log.Start() })
			if len(f.want) > 0 && f.log.Start() < f.want[0].offset {
				check(t, f.log.TrimTo(f.want[0].offset))
			}
			f.verify(r)
		}
	}
}

// TestDirectoryOfTheKilled: a directory that is there may have been made by a process that was killed before its name was
// durable.
func TestDirectoryOfTheKilled(t *testing.T) {
	for seed := range uint64(20) {
		m := vfs.NewMem()
		check(t, m.MkdirAll("topic/0"))
		f := newFixture(t, m, small)
		f.add(0, 3, 10)
		st := f.sync()
		f.fs = m.Crash(rng(seed))
		f.open(st)
		f.verify(rng(seed))
	}
}

func TestMissingFilesAreDamage(t *testing.T) {
	for _, gone := range []string{"", fileName(0, logSuffix)} {
		m := vfs.NewMem()
		f := newFixture(t, m, Options{})
		f.add(0, 1, 100)
		st := f.sync()
		check(t, f.log.Close())
		check(t, m.RemoveAll(path.Join("topic/0", gone)))
		if gone != "" { // an older segment says that retention did not take it
			h, err := m.Create("topic/0/" + fileName(0, logSuffix))
			check(t, err)
			check(t, h.Close())
		}
		f.open(st)
		if _, err := f.log.Read(0, 100, true); !errors.Is(err, eventlog.ErrCorrupt) {
			t.Errorf("without %q: %v", gone, err)
		}
	}
}

func TestDamagedIndexIsRebuilt(t *testing.T) {
	for seed := range uint64(tier.N(400)) {
		r := rng(tier.Seed() + seed)
		m := vfs.NewMem()
		f := newFixture(t, m, Options{SegmentBytes: 20000, IndexBytes: 200})
		for range 30 + r.IntN(100) {
			f.add(0, 1+r.IntN(3), r.IntN(300))
		}
		st := f.sync()
		check(t, f.log.Close())
		names, err := m.List("topic/0")
		check(t, err)
		for _, name := range names {
			if !strings.HasSuffix(name, logSuffix) && r.IntN(2) == 0 {
				spoil(t, m, path.Join("topic/0", name), r)
			}
		}
		f.open(st)
		f.verify(r)
		f.add(0, 1, 10)
		f.verify(r)
		verifyTimes(t, f, r)
	}
}

func TestRebuiltIndexIsKept(t *testing.T) {
	m := vfs.NewMem()
	f := newFixture(t, m, Options{SegmentBytes: 20000, IndexBytes: 200})
	for range 100 {
		f.add(0, 2, 300)
	}
	st := f.sync()
	check(t, f.log.Close())
	names, err := m.List("topic/0")
	check(t, err)
	for _, name := range names {
		if !strings.HasSuffix(name, logSuffix) {
			check(t, m.Remove("topic/0/"+name))
		}
	}
	f.open(st)
	verifyTimes(t, f, rng(1)) // looks at all
	st = f.sync()
	f.fs = noRebuild(t, m.Crash(rng(1)))
	f.open(st)
	f.verify(rng(1))
	verifyTimes(t, f, rng(1))
}

// noRebuild fails the test when an index is rebuilt.
func noRebuild(t *testing.T, fs vfs.FS) vfs.FS {
	return vfs.Faults(fs, func(op vfs.Op) error {
		if op.Kind == vfs.OpCreate && strings.HasSuffix(op.Name, tempSuffix) {
			t.Errorf("%s is rebuilt", op.Name)
		}
		return nil
	})
}

// spoil removes, cuts, lengthens or scrambles a file of an index.
func spoil(t *testing.T, fs vfs.FS, name string, r *rand.Rand) {
	if r.IntN(4) == 0 {
		check(t, fs.Remove(name))
		return
	}
	h, err := fs.Open(name)
	check(t, err)
	defer h.Close()
	size, err := h.Size()
	check(t, err)
	switch k := r.IntN(3); {
	case k == 0:
		check(t, h.Truncate(r.Int64N(size+1)))
	case k == 1:
		_, err = h.WriteAt(make([]byte, 1+r.IntN(50)), size)
		check(t, err)
	case size > 0:
		p := make([]byte, 1+r.IntN(20))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		_, err = h.WriteAt(p, r.Int64N(size))
		check(t, err)
	}
}

func TestDamagedLogIsNoticed(t *testing.T) {
	m := vfs.NewMem()
	f := newFixture(t, m, small)
	for range 30 {
		f.add(0, 1, 300)
	}
	st := f.sync()
	check(t, f.log.Close())
	h, err := m.Open("topic/0/" + fileName(0, logSuffix))
	check(t, err)
	one := int64(len(encode(t, 0, f.want[0])))
	_, err = h.WriteAt([]byte("XX"), 3*one+100) // in the records of the batch at offset 3
	check(t, err)
	f.open(st)
	raw, err := f.log.Read(0, 1<<20, true)
	check(t, err)
	if got := decode(t, raw); len(got) != 3 {
		t.Fatalf("read %d records before the damage, want 3", len(got))
	}
	_, err = f.log.Read(3, 1<<20, true)
	var d *Damage
	if !errors.As(err, &d) || !errors.Is(err, eventlog.ErrCorrupt) || d.Offset != 3 || d.Next != 4 || d.Pos != 3*one {
		t.Fatalf("damage: %v", err)
	}
	if got := f.readAll(d.Next, 1000); len(got) != 26 {
		t.Fatalf("read %d records behind the damage, want 26", len(got))
	}
}

func TestFileCacheBound(t *testing.T) {
	m := vfs.NewMem()
	cache := NewFileCache(10)
	var logs []*Log
	for i := range 50 {
		l, err := Open(m, fmt.Sprintf("t/%d", i), Options{IndexBytes: 100}, cache, State{})
		check(t, err)
		logs = append(logs, l)
	}
	for round := range int64(5) {
		for _, l := range logs {
			check(t, l.Append(encode(t, 0, rec{round, 1, "k", strings.Repeat("x", 200)})))
			if cache.Open() > 10 {
				t.Fatalf("%d files open", cache.Open())
			}
		}
		for _, l := range logs {
			raw, err := l.Read(0, 1<<20, true)
			check(t, err)
			if got := len(decode(t, raw)); got != int(round)+1 {
				t.Fatalf("read %d records, want %d", got, round+1)
			}
			_, err = l.Sync()
			check(t, err)
			if cache.Open() > 10 {
				t.Fatalf("%d files open", cache.Open())
			}
		}
	}
	for _, l := range logs {
		check(t, l.Close())
	}
	if cache.Open() != 0 {
		t.Errorf("%d files open after Close", cache.Open())
	}
}

// TestReaderOutlivesDeletion: a file in use survives eviction and deletion.
func TestReaderOutlivesDeletion(t *testing.T) {
	m := vfs.NewMem()
	f := newFixture(t, m, small)
	for range 30 {
		f.add(0, 1, 300)
	}
	s := f.log.view.Load().segs[0]
	h, err := s.log.acquire()
	check(t, err)
	check(t, f.log.TrimTo(30))
	p := make([]byte, 8)
	if err := readFull(h, p, 0); err != nil || !bytes.Equal(p, make([]byte, 8)) {
		t.Fatalf("%v, %v", p, err)
	}
	s.log.release()
	if _, err := s.log.acquire(); err != errRetired {
		t.Fatalf("opened again: %v", err)
	}
}

func TestClosed(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), small)
	f.add(0, 1, 1)
	check(t, f.log.Close())
	check(t, f.log.Close())
	_, rerr := f.log.Read(0, 1, true)
	_, serr := f.log.Sync()
	for _, err := range []error{rerr, serr, f.log.Append(encode(t, 0, rec{1, 1, "", ""})), f.log.TrimTo(1)} {
		if !errors.Is(err, eventlog.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
}
