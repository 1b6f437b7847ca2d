package engine

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// files is everything in a file system, by name.
func files(t testing.TB, m vfs.FS) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := m.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			n = path.Join(dir, n)
			fi, err := m.Stat(n)
			if err != nil {
				t.Fatal(err)
			}
			if fi.IsDir() {
				walk(n)
			} else if all[n], err = readAll(m, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	walk(".")
	return all
}

// diskOf is a file system with these files.
func diskOf(t testing.TB, all map[string][]byte) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	for name, p := range all {
		if err := m.MkdirAll(path.Dir(name)); err != nil {
			t.Fatal(err)
		}
		h, err := m.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// with is the same files, but for one bit.
func with(all map[string][]byte, name string, at int64, bit int) map[string][]byte {
	out := maps.Clone(all)
	out[name] = slices.Clone(all[name])
	out[name][at] ^= 1 << bit
	return out
}

// TestBitFlipsOfState flips bits of the checkpoint, with the producers' state in it, and of the WAL that a killed node has left. A node does
// not start on what is damaged, and changes nothing of it; Check says what it is. Only the last frame of all cannot be told from one that the
// power tore: it is cut off, whole, and Check says so.
func TestBitFlipsOfState(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.WALFileBytes = 64 << 10
	e := open(t, o)
	p := topicOf(t, e, nil)
	send(t, e, p, 5, 1, 0, 3)
	send(t, e, p, 5, 1, 3, 2)
	txn := eventlog.Part{Topic: createTopic(t, e, "txn", 2, map[string]string{"retention.ms": "1000000000"}).ID}
	inTxn(t, e, txn, 6, 0, 0, "aborted")
	endTxn(t, e, End{6, 1, false, []eventlog.Part{txn}, nil})
	inTxn(t, e, txn, 6, 1, 0, "open")
	fill(t, e, p, 3)
	everyEntry(t, e, txn)
	for _, v := range []string{"one", strings.Repeat("a batch with a checksum of its own", 130), "three"} {
		appendWait(t, e, p, v)
	}
	all := files(t, mem.Kill())
	delete(all, LockName)
	s, err := readCheckpoint(diskOf(t, all))
	if err != nil {
		t.Fatal(err)
	}
	frames, err := walSince(Options{FS: diskOf(t, all)}, s)
	if err != nil || len(frames) < 9 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	r := tier.Seed()
	try := func(name string, at int64, last bool) {
		t.Helper()
		r = r*6364136223846793005 + 1442695040888963407
		bad := with(all, name, at, int(r>>60)%8)
		disk := diskOf(t, bad)
		report, err := Check(t.Context(), disk, CheckOptions{})
		told := err == nil && len(report.Damage) > 0 || errors.Is(err, ErrNewer)
		if last {
			told = err == nil && len(report.Notes) > 0 || report.WALCommits == len(frames)-1
		}
		if !told {
			t.Fatalf("%s, byte %d: Check says %+v, %v", name, at, report, err)
		}
		o := small(disk)
		o.WALFileBytes = 64 << 10
		e, err := Open(o)
		if last {
			if err != nil {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
			if end := endOf1(t, e, p); end != 10 {
				t.Fatalf("%s, byte %d: the log ends at %d", name, at, end)
			}
			e.Close()
			return
		}
		if err == nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("%s, byte %d: opened, %v", name, at, err)
		}
		after := files(t, disk)
		delete(after, LockName)
		if !maps.EqualFunc(after, bad, slices.Equal) {
			t.Fatalf("%s, byte %d: files were changed", name, at)
		}
	}
	for at := range int64(len(all[checkpointName])) {
		try(checkpointName, at, false)
	}
	for i, f := range frames {
		n := frameHeader + payloadLen(all[f.file][f.off:])
		for at := f.off; at < f.off+n; at++ {
			between := i > 0 && i < len(frames)-1
			if tier.N(10) < 10 && (between && at%6 > 0 || at > f.off+frameHeader+batchHeader+eventlog.HeaderSize && at%7 > 0) {
				continue
			}
			try(f.file, at, i == len(frames)-1)
		}
		if at := f.off + n; at < f.next { // what a frame is filled up with is nothing
			o := small(diskOf(t, with(all, f.file, at, 3)))
			o.WALFileBytes = 64 << 10
			e := open(t, o)
			if end := endOf1(t, e, p); end != 11 {
				t.Fatalf("%s, byte %d, behind a frame: the log ends at %d", f.file, at, end)
			}
			e.Close()
		}
	}
}

// everyEntry has an entry of every kind written to the WAL, but for batches.
func everyEntry(t *testing.T, e *Engine, p eventlog.Part) {
	t.Helper()
	ctx := t.Context()
	ms := "2000000000"
	_, idErr := e.NewProducerID()
	_, claimErr := e.Claim(ctx, eventlog.Part{Topic: p.Topic, Index: 1})
	err := errors.Join(idErr, claimErr, e.ConfigureTopic(ctx, "txn", map[string]*string{"retention.ms": &ms}),
		e.CreatePartitions("txn", 3), e.Trim(ctx, eventlog.Position{Part: p, Offset: 1}), e.DeleteTopic(ctx, createTopic(t, e, "short", 1, nil).Name),
		e.do(ctx, func(*state) ([]entry, func(), error) {
			return []entry{{kind: entryForgotten, part: p, value: 1}}, nil, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
}

// TestBitFlipsOfNotes: what the scrubber has noted has no checksum, and nothing depends on it: with any bit of it wrong a node starts, reads go on, and
// the scrubber reads everything again before long.
func TestBitFlipsOfNotes(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	fill(t, e, p, 3)
	spoil(t, mem, e, p, 1200)
	if err := e.Scrub(t.Context()); err != nil || len(e.Quarantine()) == 0 {
		t.Fatalf("%v, quarantined are %v", err, e.Quarantine())
	}
	(&scrubber{Engine: e, last: e.Now(), done: map[*partition]int64{mustPart(t, e, p): 2}}).write()
	all := files(t, mem.Kill())
	e.Close()
	delete(all, LockName)
	step := 8
	if tier.Soak() {
		step = 1
	}
	for at := range int64(len(all[scrubName])) {
		for bit := int(at*3+int64(tier.Seed())) % step; bit < 8; bit += step {
			e := open(t, small(diskOf(t, with(all, scrubName, at, bit))))
			s := &scrubber{Engine: e, done: map[*partition]int64{}}
			if err := s.resume(); err != nil {
				t.Fatalf("byte %d, bit %d: %v", at, bit, err)
			}
			from := s.done[mustPart(t, e, p)]
			clear(s.done)
			if d := s.untilPass(); d > scrubPause {
				t.Errorf("byte %d, bit %d: the next pass is in %v", at, bit, d)
			}
			if n, damaged := readable(t, e, p); n != 2 || len(damaged) != 1 {
				t.Errorf("byte %d, bit %d: %d records are read, damaged are %d", at, bit, n, damaged)
			}
			if _, err := e.scrub(mustPart(t, e, p), from, func(int64) error { return nil }); err != nil {
				t.Errorf("byte %d, bit %d: %v", at, bit, err)
			}
			e.Close()
		}
	}
}

// TestCheck: a log that is whole has nothing that is damaged; what Check says of one that is not names it. Nothing is changed, and a log that
// is open is not looked at.
func TestCheck(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.SegmentBytes = 4 << 10
	e := open(t, o)
	p := topicOf(t, e, nil)
	if _, err := Check(t.Context(), mem, CheckOptions{}); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("of a log that is open: %v", err)
	}
	fill(t, e, p, 30)
	appendWait(t, e, p, "in the WAL")
	part, err := e.partition(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := part.dir()
	all := files(t, mem.Kill())
	progress := int64(0)
	report, err := Check(t.Context(), diskOf(t, all), CheckOptions{Progress: func(done, total int64) {
		if done < progress || done > total {
			t.Errorf("%d of %d bytes after %d", done, total, progress)
		}
		progress = done
	}})
	if err != nil || len(report.Damage)+len(report.Notes) > 0 || report.Records != 30 || report.WALCommits != 1 || report.Segments < 5 || progress == 0 {
		t.Fatalf("%+v, %v, %d bytes of progress", report, err, progress)
	}
	first := dir + "/00000000000000000000"
	for _, c := range []struct {
		what, says string
		note       bool
		change     func(map[string][]byte)
	}{
		{"a batch", "crc mismatch", false, func(m map[string][]byte) { m[first+".log"][1200] ^= 1 }},
		{"an index", "not as it was written", true, func(m map[string][]byte) { m[first+".index"][3] ^= 1 }},
		{"a time index", "not as it was written", true, func(m map[string][]byte) { m[first+".timeindex"][3] ^= 1 }},
		{"an index that is gone", "missing", true, func(m map[string][]byte) { delete(m, first+".index") }},
		{"the first segment", "first segment is missing", false, func(m map[string][]byte) { delete(m, first+".log") }},
		{"the folder of the partition", "missing", false, func(m map[string][]byte) {
			maps.DeleteFunc(m, func(name string, _ []byte) bool { return strings.HasPrefix(name, dir) })
		}},
		{"the end of a segment", "are left", false, func(m map[string][]byte) { m[first+".log"] = m[first+".log"][:len(m[first+".log"])-1000] }},
		{"a topic that is none", "belongs to no topic", true, func(m map[string][]byte) { m[topicsDir+"/"+strings.Repeat("0", 32)+"/0/x"] = nil }},
	} {
		bad := map[string][]byte{}
		for name, p := range all {
			bad[name] = slices.Clone(p)
		}
		c.change(bad)
		disk := diskOf(t, bad)
		report, err := Check(t.Context(), disk, CheckOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		faults := report.Damage
		if c.note {
			faults = report.Notes
		}
		if len(faults) == 0 || len(report.Damage) > 0 == c.note || !strings.Contains(faults[0].What, c.says) {
			t.Errorf("%s: %+v", c.what, report)
		}
		if after := files(t, disk); !maps.EqualFunc(after, bad, slices.Equal) {
			t.Errorf("%s: files were changed", c.what)
		}
	}
}
