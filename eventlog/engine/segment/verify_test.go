package segment

import (
	"errors"
	"path"
	"testing"

	"github.com/millrace-io/millrace/internal/vfs"
)

// verified reads a partition as a check does, and fails the test if anything is not as it should be.
func verified(t testing.TB, fs vfs.FS, st State) Verified {
	t.Helper()
	v := Verification{
		Pace:    func(int64) error { return nil },
		Damaged: func(d *Damage) { t.Errorf("damaged: %v", d) },
		Wrong:   func(file, what string) { t.Errorf("%s: %s", file, what) },
	}
	got, err := v.Run(fs, "topic/0", st)
	check(t, err)
	return got
}

// TestMissingPieces: a rolled segment that ends at a batch too soon, one that is gone from the middle, and the first that is gone are damage, and what
// is left is read.
func TestMissingPieces(t *testing.T) {
	for _, c := range []struct {
		what     string
		change   func(m *vfs.Mem, segs []Info)
		from, to func(segs []Info) int64
	}{
		{"the last batch of a segment", func(m *vfs.Mem, segs []Info) {
			h, err := m.Open("topic/0/" + fileName(segs[1].Base, logSuffix))
			check(t, err)
			check(t, h.Truncate(segs[1].Size/(segs[1].Limit-segs[1].Base)*(segs[1].Limit-segs[1].Base-1)))
		}, func(s []Info) int64 { return s[1].Limit - 1 }, func(s []Info) int64 { return s[1].Limit }},
		{"a segment in the middle", func(m *vfs.Mem, segs []Info) {
			check(t, m.Remove("topic/0/"+fileName(segs[2].Base, logSuffix)))
		}, func(s []Info) int64 { return s[2].Base }, func(s []Info) int64 { return s[2].Limit }},
		{"the first segment", func(m *vfs.Mem, segs []Info) {
			check(t, m.Remove("topic/0/"+fileName(0, logSuffix)))
		}, func(s []Info) int64 { return 0 }, func(s []Info) int64 { return s[0].Limit }},
	} {
		m := vfs.NewMem()
		f := newFixture(t, m, small)
		for range 200 {
			f.addRecs(0, rec{f.log.End(), 1000 + f.log.End(), "k", "0123456789012345678901234567890123456789"}) // all of one size
		}
		st, segs := f.sync(), f.segments()
		check(t, f.log.Close())
		verified(t, m, st)
		c.change(m, segs)
		f.open(st)
		from, to := c.from(segs), c.to(segs)
		for at := range st.End {
			raw, err := f.log.Read(at, 1, true)
			var d *Damage
			if errors.As(err, &d) != (at >= from && at < to) || d != nil && (d.Offset != from || d.Next != to) {
				t.Errorf("%s: a read at %d, of which %d to %d are gone: %v", c.what, at, from, to, err)
			} else if d == nil && (err != nil || decode(t, raw)[0].offset != at) {
				t.Errorf("%s: a read at %d: %d bytes, %v", c.what, at, len(raw), err)
			}
		}
		var found []*Damage
		next, err := f.log.Scrub(0, func(int64) error { return nil }, func(d *Damage) { found = append(found, d) })
		if err != nil || next != st.End || len(found) != 1 || found[0].Offset != from || found[0].Next != to {
			t.Errorf("%s: scrubbing finds %v, %v", c.what, found, err)
		}
	}
}

// TestCutAt: a log that is opened at a cut, on copies of its parts, is what it was.
func TestCutAt(t *testing.T) {
	r := rng(1)
	m := vfs.NewMem()
	c := newCompacted(t, m, Options{SegmentBytes: 1500, IndexBytes: 300})
	var ends []int64
	for range 60 {
		c.write(r, 12)
		ends = append(ends, c.log.End())
	}
	c.compact(0)
	limit := c.limit(c.sync().End)
	for _, end := range ends {
		if end < limit { // compaction leaves no place to cut at before the checkpoint
			continue
		}
		st, parts, err := c.log.CutAt(end)
		check(t, err)
		copied := vfs.NewMem()
		check(t, copied.MkdirAll("topic/0"))
		for _, p := range parts {
			check(t, writeFile(copied, p.Name, contentOf(t, m, p.Name)[:p.Size]))
			check(t, VerifyPart(copied, p.Name, p, func(d *Damage) { t.Errorf("cut at %d: %v", end, d) }))
		}
		f := newFixture(t, copied, c.opts)
		f.want = c.want
		f.open(st)
		f.verify(r)
		verifyTimes(t, f, r)
		st = f.sync()
		check(t, f.log.Close())
		verified(t, copied, st)
	}
	if _, err := m.Stat(path.Join("topic/0", fileName(0, logSuffix))); err != nil {
		t.Error(err)
	}
}
