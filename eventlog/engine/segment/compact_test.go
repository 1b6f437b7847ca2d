package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// compacted is a log with few keys, and a naive model of what compaction leaves.
type compacted struct {
	*fixture
	batch    map[int64]int64 // offset of a record: base of its batch
	horizons map[int64]int64 // base of a batch: when its tombstones may go
	retain   time.Duration
}

func newCompacted(t testing.TB, fs vfs.FS, o Options) *compacted {
	return &compacted{newFixture(t, fs, o), map[int64]int64{}, map[int64]int64{}, time.Hour}
}

// write appends a batch of records of few keys, some of them tombstones.
func (c *compacted) write(r *rand.Rand, keys int) {
	c.t.Helper()
	base := c.log.End()
	var recs []rec
	for i := range int64(1 + r.IntN(6)) {
		c.time += r.Int64N(50)
		value := fmt.Sprint("v", base+i, strings.Repeat("x", r.IntN(100)))
		if r.IntN(4) == 0 {
			value = "-"
		}
		recs = append(recs, rec{base + i, c.time, fmt.Sprint("k", r.IntN(keys)), value})
		c.batch[base+i] = base
	}
	c.addRecs(anyCodec(r), recs...)
}

// model does to the records below a limit what compaction shall do.
func (c *compacted) model(limit int64) {
	now := c.now.UnixMilli()
	last := map[string]int64{}
	for _, r := range c.want {
		if r.offset < limit {
			last[r.key] = r.offset
		}
	}
	c.want = slices.DeleteFunc(c.want, func(r rec) bool {
		if r.offset >= limit {
			return false
		}
		horizon, stamped := c.horizons[c.batch[r.offset]]
		return r.offset < last[r.key] || r.value == "-" && stamped && horizon <= now
	})
	for _, r := range c.want {
		if base := c.batch[r.offset]; r.offset < limit && r.value == "-" {
			if _, stamped := c.horizons[base]; !stamped {
				c.horizons[base] = now + c.retain.Milliseconds()
			}
		}
	}
}

// limit is the end of the last segment that may be compacted.
func (c *compacted) limit(below int64) (limit int64) {
	for _, s := range c.segments() {
		if !s.Active && s.Limit < below {
			limit = s.Limit
		}
	}
	return limit
}

func (c *compacted) compact(memory int64) CompactStats {
	c.t.Helper()
	st := c.sync()
	limit := c.limit(st.End)
	stats, err := c.log.Compact(c.now, st.End, CompactOptions{DeleteRetention: c.retain, MinDirty: 1e-9, MemoryBytes: memory})
	if err != nil {
		c.t.Fatal(err)
	}
	if stats.Passes > 0 {
		c.model(limit)
	}
	return stats
}

// TestCompactAgainstModel compacts again and again while the log grows, with maps of all sizes, over restarts, while the
// start moves.
func TestCompactAgainstModel(t *testing.T) {
	for seed := range uint64(tier.N(200)) {
		r := rng(tier.Seed() + seed)
		m := vfs.NewMem()
		c := newCompacted(t, m, Options{SegmentBytes: 500 + r.Int64N(5000), IndexBytes: 1 + r.Int64N(500)})
		keys := 1 + r.IntN(200)
		for range 6 {
			for range r.IntN(60) {
				c.write(r, keys)
			}
			c.now = c.now.Add(time.Duration(r.IntN(40)) * time.Minute)
			switch r.IntN(6) {
			case 0:
				start := c.log.Start() + r.Int64N(c.log.End()-c.log.Start()+1)
				check(t, c.log.TrimTo(start))
				c.want = c.want[firstAt(c.want, start):]
			case 1:
				st := c.sync()
				check(t, c.log.Close())
				c.open(st)
			}
			c.compact([]int64{0, 1, 5000}[r.IntN(3)])
			c.verify(r)
			verifyTimes(t, c.fixture, r)
		}
		st := c.sync()
		check(t, c.log.Close())
		if seed%8 == 0 {
			verified(t, m, st)
		}
		if m = m.Crash(r); r.IntN(2) == 0 {
			m = m.Kill()
		}
		c.fs = m
		c.open(st)
		c.verify(r)
		verifyTimes(t, c.fixture, r)
	}
}

// TestCompactCrash cuts the power at every moment of a compaction, and checks that the log is as before or after, segment group
// by segment group, and that the next compaction completes it.
func TestCompactCrash(t *testing.T) {
	boom := errors.New("boom")
	for seed := range uint64(tier.N(800)) {
		r := rng(tier.Seed() + seed)
		m := vfs.NewMem()
		left := math.MaxInt
		faulty := func(fs vfs.FS) vfs.FS {
			return vfs.Faults(fs, func(op vfs.Op) error {
				if op.Kind != vfs.OpRead { // which do not matter, but are most
					left--
				}
				if left < 0 {
					return boom
				}
				return nil
			})
		}
		c := newCompacted(t, faulty(m), Options{SegmentBytes: 500 + r.Int64N(3000), IndexBytes: 300})
		c.retain = math.MaxInt64 / 2
		for range 20 + r.IntN(80) {
			c.write(r, 20)
		}
		st := c.sync()
		before := slices.Clone(c.want)
		for range r.IntN(30) { // which the checkpoint does not cover
			c.write(r, 20)
		}
		c.want = slices.Clone(before)
		c.model(c.limit(st.End))
		o := CompactOptions{DeleteRetention: c.retain, MinDirty: 1e-9, MemoryBytes: []int64{1, 0}[r.IntN(2)]}
		for again := true; again; {
			again = r.IntN(2) == 0
			left = r.IntN(150)
			c.log.SetLimits(1000+r.Int64N(10000), 0)
			if _, err := c.log.Compact(c.now, st.End, o); err != nil && !errors.Is(err, boom) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			left = math.MaxInt
			m = m.Crash(r)
			after := c.want
			c.fs = faulty(m)
			c.open(st)
			c.want = after
			got := c.readAll(c.log.Start(), 1<<20)
			if !subset(got, before) || !subset(after, got) {
				t.Fatalf("seed %d: %d records, want those of %d and all of %d", seed, len(got), len(before), len(after))
			}
		}
		if _, err := c.log.Compact(c.now, st.End, o); err != nil {
			t.Fatal(err)
		}
		c.verify(r)
		names, err := m.List("topic/0")
		check(t, err)
		for _, name := range names {
			if strings.HasSuffix(name, tempSuffix) || strings.HasSuffix(name, swapSuffix) {
				t.Fatalf("seed %d: %s is left", seed, name)
			}
		}
	}
}

// TestCompactCrashEverywhere cuts the power before each operation of one compaction that merges segments, and looks at many
// outcomes of each cut.
func TestCompactCrashEverywhere(t *testing.T) {
	boom := errors.New("boom")
	m := vfs.NewMem()
	c := newCompacted(t, m, Options{SegmentBytes: 1000, IndexBytes: 300})
	c.retain = math.MaxInt64 / 2
	for r := rng(5); len(c.segments()) < 6; {
		c.write(r, 30)
	}
	st := c.sync()
	before := slices.Clone(c.want)
	c.model(c.limit(st.End))
	o := CompactOptions{DeleteRetention: c.retain}
	for cut, done := 0, false; !done; cut++ {
		left := cut
		disk := m.Kill()
		l, err := Open(vfs.Faults(disk, func(op vfs.Op) error {
			if left--; left < 0 {
				return boom
			}
			return nil
		}), "topic/0", c.opts, NewFileCache(9), st)
		check(t, err)
		l.SetLimits(1<<20, 0) // so that all becomes one
		_, err = l.Compact(c.now, st.End, o)
		if done = err == nil; !done && !errors.Is(err, boom) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		for seed := range uint64(12) {
			c.fs = disk.Crash(rng(seed))
			after := c.want
			c.open(st)
			c.want = after
			got := c.readAll(0, 1<<20)
			if !subset(got, before) || !subset(after, got) {
				t.Fatalf("cut at %d, seed %d: %d records, want those of %d and all of %d", cut, seed, len(got), len(before), len(after))
			}
			if done && !slices.Equal(got, after) {
				t.Fatalf("seed %d: compacted to %v, want %v", seed, got, after)
			}
		}
	}
}

// subset tells whether all records of a are in b. Both ascend.
func subset(a, b []rec) bool {
	for _, r := range a {
		if i := firstAt(b, r.offset); i == len(b) || b[i] != r {
			return false
		}
	}
	return true
}

// TestCompactMergesSegments: a topic of few keys, rewritten often, stays small and in few files.
func TestCompactMergesSegments(t *testing.T) {
	m := vfs.NewMem()
	c := newCompacted(t, m, Options{SegmentBytes: 4000})
	r := rng(1)
	for range 20 {
		for range 50 {
			c.write(r, 10)
		}
		c.now = c.now.Add(2 * time.Hour)
		c.compact(0)
	}
	if n := len(c.segments()); n > 3 || c.log.Size() > 12000 {
		t.Errorf("%d segments, %d bytes", n, c.log.Size())
	}
	names, err := m.List("topic/0")
	check(t, err)
	if len(names) > 9 {
		t.Errorf("files %q", names)
	}
	c.verify(r)
}

func TestCompactKeepsBatchHeaders(t *testing.T) {
	for codec := range eventlog.Codec(5) {
		c := newCompacted(t, vfs.NewMem(), Options{SegmentBytes: 1})
		b := encode(t, codec, rec{0, 10, "a", "1"}, rec{1, 30, "b", "2"}, rec{2, 20, "c", "3"})
		b.SetProducer(7, 3, 40)
		b.Reseal()
		check(t, c.log.Append(b))
		marker := encode(t, 0, rec{3, 1, "\x00\x00\x00\x01", "commit"})
		marker[22] |= eventlog.AttrControl | eventlog.AttrTransactional
		marker.Reseal()
		check(t, c.log.Append(marker))
		c.want = []rec{{0, 10, "a", "1"}, {2, 20, "c", "3"}, {3, 1, "\x00\x00\x00\x01", "commit"}}
		for i, key := range []string{"b", "z"} {
			c.addRecs(codec, rec{int64(4 + i), 40, key, "4"})
		}
		st := c.sync()
		_, err := c.log.Compact(c.now, st.End, CompactOptions{})
		check(t, err)
		c.verify(rng(1))
		raw, err := c.log.Read(0, 1, true)
		check(t, err)
		got := eventlog.RawBatch(raw)
		if got.Base() != 0 || got.Last() != 2 || got.Count() != 2 || got.Codec() != codec || got.MaxTime() != 20 || got.BaseTime() != 10 ||
			got.ProducerID() != 7 || got.ProducerEpoch() != 3 || got.BaseSequence() != 40 {
			t.Errorf("%v: header %x", codec, raw[:eventlog.HeaderSize])
		}
		if raw, err = c.log.Read(3, 1, true); err != nil || !bytes.Equal(raw, marker) {
			t.Errorf("control batch %x, %v", raw, err)
		}
	}
}

// TestCompactWaitsForDirt: nothing is rewritten before enough bytes are new, but for tombstones that are due.
func TestCompactWaitsForDirt(t *testing.T) {
	c := newCompacted(t, vfs.NewMem(), Options{SegmentBytes: 1})
	c.retain = time.Minute
	o := CompactOptions{DeleteRetention: c.retain}
	run := func() CompactStats {
		t.Helper()
		stats, err := c.log.Compact(c.now, c.sync().End, o)
		check(t, err)
		return stats
	}
	for i := range int64(10) {
		value := "v"
		if i == 5 {
			value = "-"
		}
		c.addRecs(0, rec{i, 1, fmt.Sprint("k", i), value})
	}
	if s := run(); s.Passes != 1 {
		t.Fatalf("first: %+v", s)
	}
	if s := run(); s.Passes != 0 {
		t.Fatalf("nothing new: %+v", s)
	}
	c.addRecs(0, rec{10, 1, "k3", "v"})
	c.addRecs(0, rec{11, 1, "k4", "v"})
	if s := run(); s.Passes != 0 {
		t.Fatalf("little new: %+v", s)
	}
	c.now = c.now.Add(2 * time.Minute)
	if s := run(); s.Passes != 1 || s.Removed < 1 {
		t.Fatalf("tombstone due: %+v", s)
	}
	for _, r := range c.readAll(0, 1<<20) {
		if r.value == "-" {
			t.Fatalf("tombstone %v is still there", r)
		}
	}
}

// TestCompactDamage: compaction never rewrites what it cannot read.
func TestCompactDamage(t *testing.T) {
	m := vfs.NewMem()
	c := newCompacted(t, m, Options{SegmentBytes: 1000})
	r := rng(1)
	for range 60 {
		c.write(r, 5)
	}
	st := c.sync()
	h, err := m.Open("topic/0/" + fileName(0, logSuffix))
	check(t, err)
	_, err = h.WriteAt([]byte("XXX"), 70)
	check(t, err)
	size := c.log.Size()
	_, err = c.log.Compact(c.now, st.End, CompactOptions{})
	var d *Damage
	if !errors.As(err, &d) || c.log.Size() != size {
		t.Fatalf("%v", err)
	}
}

// TestCompactRetires: a segment that was replaced cannot be opened again, for its name is another's.
func TestCompactRetires(t *testing.T) {
	c := newCompacted(t, vfs.NewMem(), Options{SegmentBytes: 1000})
	r := rng(1)
	for range 60 {
		c.write(r, 5)
	}
	old := c.log.view.Load().segs
	c.compact(0)
	for _, s := range old {
		if rolled := s.limit.Load() < c.log.End(); !rolled {
			continue
		}
		if _, err := s.log.acquire(); err != errRetired {
			t.Fatalf("%s: %v", s.log.name, err)
		}
	}
}

// TestCompactForgedHorizon: a client that sends a batch with a delete horizon cannot bring back what its tombstone deletes.
func TestCompactForgedHorizon(t *testing.T) {
	c := newCompacted(t, vfs.NewMem(), Options{SegmentBytes: 1 << 20})
	c.addRecs(0, rec{0, 1, "k", "old"})
	for i := range int64(60) { // more keys than the map has room for
		c.addRecs(0, rec{1 + i, 1, fmt.Sprint(i), "v"})
	}
	forged := encode(t, 0, rec{61, 0, "k", "-"})
	forged[atAttrs+1] |= eventlog.AttrDeleteHorizon
	forged.Reseal()
	check(t, c.log.Append(forged))
	_, err := c.log.roll(62, 0)
	check(t, err)
	c.addRecs(0, rec{62, 1, "end", "v"})
	st := c.sync()
	seen := false
	check(t, func() error { // the first pass alone
		cc, err := c.log.plan(1000, st.End, CompactOptions{MinDirty: 1e-9, MemoryBytes: 1})
		check(t, err)
		cc.stats = &CompactStats{}
		seen, err = cc.pass()
		return err
	}())
	if !seen {
		t.Fatal("the map had room for all keys")
	}
	last := ""
	for _, r := range c.readAll(0, 1<<20) {
		if r.key == "k" {
			last = r.value
		}
	}
	if last != "-" {
		t.Fatalf("the last value of k is %q", last)
	}
}

// TestHostileRecords: a batch whose checksum holds but whose records cannot be decoded, or lie about their offsets, stays as it
// is and is in nobody's way.
func TestHostileRecords(t *testing.T) {
	garbage := encode(t, 0, rec{1, 5, "k", "garbage"})
	garbage[eventlog.HeaderSize] = 0x7f
	garbage.Reseal()
	compressed := encode(t, 0, rec{2, 5, "k", "not zstd"})
	compressed[atAttrs+1] |= byte(eventlog.Zstd)
	compressed.Reseal()
	liar := encode(t, 0, rec{3, 5, "k", "liar"})
	liar[eventlog.HeaderSize+3] = 0x64 // offset delta 50
	liar.Reseal()
	c := newCompacted(t, vfs.NewMem(), Options{SegmentBytes: 1})
	c.addRecs(0, rec{0, 1, "k", "good"})
	for _, b := range []eventlog.RawBatch{garbage, compressed, liar} {
		check(t, c.log.Append(b))
	}
	c.addRecs(0, rec{4, 9, "end", "v"})
	c.addRecs(0, rec{5, 9, "end", "v"})
	for range 2 {
		if o, ts, err := c.log.FindTime(2, 0); o != 4 || ts != 9 || err != nil {
			t.Fatalf("found %d@%d, %v", o, ts, err)
		}
		st := c.sync()
		stats, err := c.log.Compact(c.now, st.End, CompactOptions{})
		check(t, err)
		if stats.Removed != 0 {
			t.Fatalf("%+v", stats)
		}
	}
	for i, b := range []eventlog.RawBatch{garbage, compressed, liar} {
		if raw, err := c.log.Read(int64(i+1), 1, true); err != nil || !bytes.Equal(raw, b) {
			t.Errorf("batch %d: %x, %v", i, raw, err)
		}
	}
}

// TestCompactWideGaps: segments are not merged into one whose offsets the index could not tell apart.
func TestCompactWideGaps(t *testing.T) {
	c := newCompacted(t, vfs.NewMem(), Options{IndexBytes: 1})
	for i := range int64(6) {
		o := i * (math.MaxInt32 - 1)
		c.batch[o] = o
		c.addWide(math.MaxInt32-2, rec{o, 10 * i, fmt.Sprint("k", i%2), strings.Repeat("v", 100)})
		c.time = 100
	}
	c.addRecs(0, rec{c.log.End(), 1, "end", "v"})
	c.compact(0)
	c.verify(rng(1))
	verifyTimes(t, c.fixture, rng(1))
	st := c.sync()
	check(t, c.log.Close())
	c.open(st)
	c.verify(rng(1))
}

// TestConcurrent reads while the log is appended to, synced, trimmed, retained and compacted. Every record's value tells its
// offset; readers must see each record that cannot have been compacted, and offsets must ascend.
func TestConcurrent(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"mem": vfs.NewMem(), "os": osFS(t)} {
		t.Run(name, func(t *testing.T) {
			l, err := Open(fs, "topic/0", Options{SegmentBytes: 3000, IndexBytes: 200}, NewFileCache(4), State{})
			check(t, err)
			const unique = 5 // every fifth record has a key of its own
			total := int64(tier.N(20000))
			done := make(chan struct{})
			var readers, keepers sync.WaitGroup
			for i := range uint64(3) {
				readers.Go(func() { readConcurrently(t, l, rng(i), unique, done) })
			}
			keepers.Go(func() { keepConcurrently(t, l, rng(9), done) })
			for o := int64(0); o < total; {
				var recs []rec
				for range 1 + o%4 {
					key := fmt.Sprint("k", o%7)
					if o%unique == 0 {
						key = fmt.Sprint("u", o)
					}
					recs = append(recs, rec{o, o, key, fmt.Sprint(o)})
					o++
				}
				check(t, l.Append(encode(t, 0, recs...)))
			}
			close(done)
			keepers.Wait()
			readers.Wait()
		})
	}
}

func osFS(t testing.TB) vfs.FS {
	fs, err := vfs.OS(t.TempDir())
	check(t, err)
	return fs
}

func readConcurrently(t *testing.T, l *Log, r *rand.Rand, unique int64, done chan struct{}) {
	for from := int64(0); ; {
		end := l.End()
		raw, err := l.Read(from, 1+r.IntN(5000), true)
		var out *eventlog.OutOfRangeError
		switch {
		case errors.As(err, &out):
			if out.Start <= from {
				t.Errorf("%v", err)
				return
			}
			from = out.Start
			continue
		case err != nil:
			t.Error(err)
			return
		case len(raw) == 0:
			if from = max(from, end); r.IntN(10) == 0 {
				from = l.Start()
			}
			select {
			case <-done:
				return
			default:
				continue
			}
		}
		next := lastOf(raw).Next()
		want := (from + unique - 1) / unique * unique // the next record that must be there
		for _, rec := range decode(t, raw) {
			if rec.offset >= from && rec.offset > want || rec.value != fmt.Sprint(rec.offset) {
				t.Errorf("read %v, want %d first", rec, want)
				return
			}
			if rec.offset == want {
				want += unique
			}
		}
		if r.IntN(20) == 0 {
			if _, _, err := l.FindTime(from, 0); err != nil {
				t.Error(err)
			}
		}
		from = next
	}
}

func keepConcurrently(t *testing.T, l *Log, r *rand.Rand, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		st, err := l.Sync()
		if err == nil {
			switch r.IntN(3) {
			case 0:
				_, err = l.Compact(time.UnixMilli(0), st.End, CompactOptions{MinDirty: 0.1})
			case 1:
				_, _, err = l.Retain(time.UnixMilli(0), 0, 40000, st.End)
			case 2:
				err = l.TrimTo(l.Start() + r.Int64N(50))
			}
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func BenchmarkCompact(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		c := newCompacted(b, vfs.NewMem(), Options{SegmentBytes: 4 << 20})
		for o := int64(0); o < 200_000; {
			var recs []rec
			for range 100 {
				recs = append(recs, rec{o, o, fmt.Sprint("session-", o%5000), strings.Repeat("s", 150)})
				o++
			}
			check(b, c.log.Append(encode(b, 0, recs...)))
		}
		st := c.sync()
		b.SetBytes(c.log.Size())
		b.StartTimer()
		if _, err := c.log.Compact(c.now, st.End, CompactOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
