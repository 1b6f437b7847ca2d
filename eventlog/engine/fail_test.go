package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// values reads a whole partition.
func values(t testing.TB, e *Engine, p eventlog.Part) (out []string) {
	t.Helper()
	starts, err := e.Starts(t.Context(), p.Topic)
	if err != nil {
		t.Fatal(err)
	}
	for at := starts[p.Index]; ; {
		batches, next, err := e.Read(t.Context(), eventlog.Position{Part: p, Offset: at}, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if next == at {
			return out
		}
		for _, b := range batches {
			recs, err := b.Records()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				if r.Offset >= at {
					out = append(out, string(r.Value))
				}
			}
		}
		at = next
	}
}

func wantValues(t testing.TB, e *Engine, p eventlog.Part, want ...string) {
	t.Helper()
	if got := values(t, e, p); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

// TestFailedSync: a sync that fails is the end of appends, and is not tried again. Reads go on; a restart recovers.
func TestFailedSync(t *testing.T) {
	testFatal(t, vfs.OpDatasync)
}

// TestFailedWrite: so is a write. What it left behind is not built upon.
func TestFailedWrite(t *testing.T) {
	testFatal(t, vfs.OpWrite)
}

func testFatal(t *testing.T, kind vfs.Kind) {
	mem := vfs.NewMem()
	var broken atomic.Bool
	var failures atomic.Int64
	e := open(t, small(vfs.Faults(mem, func(op vfs.Op) error {
		if op.Kind == kind && strings.HasPrefix(op.Name, walDir) && broken.Load() {
			failures.Add(1)
			return syscall.EIO
		}
		return nil
	})))
	p := topicOf(t, e, nil)
	appendWait(t, e, p, "a")
	broken.Store(true)
	o := appendWait(t, e, p, "b")
	if !errors.Is(o.Err, eventlog.ErrUnknownOutcome) || !errors.Is(o.Err, eventlog.ErrClosed) || !errors.Is(o.Err, syscall.EIO) {
		t.Errorf("the append that failed: %v", o.Err)
	}
	broken.Store(false)
	o = appendWait(t, e, p, "c")
	if !errors.Is(o.Err, eventlog.ErrClosed) || errors.Is(o.Err, eventlog.ErrUnknownOutcome) {
		t.Errorf("an append after it: %v, want it refused", o.Err)
	}
	if err := e.Health(); !errors.Is(err, eventlog.ErrClosed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("health: %v", err)
	}
	if failures.Load() != 1 {
		t.Errorf("the log was tried %d times", failures.Load())
	}
	wantValues(t, e, p, "a")
	if err := e.Maintain(t.Context()); err == nil {
		t.Error("maintenance of a failed log")
	}
	e.Close()
	e = open(t, small(mem.Kill()))
	got := values(t, e, p)
	if len(got) < 1 || got[0] != "a" || len(got) > 2 || len(got) == 2 && got[1] != "b" {
		t.Errorf("after a restart the log has %q", got)
	}
	if o := appendWait(t, e, p, "d"); o.Err != nil || o.Base != int64(len(got)) {
		t.Errorf("after a restart: %+v", o)
	}
}

// TestNoSpace: appends are refused while there is less than the reserve, operations are not, and appends come back by
// themselves.
func TestNoSpace(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	appendWait(t, e, p, "a")
	mem.SetFree(e.spaceNeeded - 1)
	if o := appendWait(t, e, p, "b"); !errors.Is(o.Err, eventlog.ErrNoSpace) || errors.Is(o.Err, eventlog.ErrUnknownOutcome) {
		t.Errorf("append: %v", o.Err)
	}
	if r := send(t, e, p, 5, 0, 0, 1); !errors.Is(r.Err, eventlog.ErrNoSpace) {
		t.Errorf("produce: %v", r.Err)
	}
	if err := e.Health(); !errors.Is(err, eventlog.ErrNoSpace) {
		t.Errorf("health: %v", err)
	}
	wantValues(t, e, p, "a")
	if err := e.Trim(t.Context(), eventlog.Position{Part: p, Offset: 1}); err != nil {
		t.Errorf("trim: %v", err)
	}
	mem.SetFree(e.spaceNeeded + 1<<20)
	if err := e.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
	if o := appendWait(t, e, p, "c"); o.Err != nil || o.Base != 1 {
		t.Errorf("append: %+v", o)
	}
}

// TestSegmentsFull: while the segments' disk is full nothing is lost and nothing fails; it goes on when there is room.
func TestSegmentsFull(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	e := open(t, small(vfs.Faults(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, topicsDir) && full.Load() {
			return syscall.ENOSPC
		}
		return nil
	})))
	p := topicOf(t, e, nil)
	full.Store(true)
	var want []string
	for i := range 20 {
		v := fmt.Sprint(i, strings.Repeat("x", 1000))
		if o := appendWait(t, e, p, v); o.Err != nil {
			t.Fatal(o.Err)
		}
		want = append(want, v)
	}
	if err := e.checkpoint(); !passing(err) {
		t.Fatalf("a checkpoint with a full disk: %v", err)
	}
	wantValues(t, e, p, want...)
	full.Store(false)
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := e.checkpoint()
		if err == nil {
			break
		}
		if !passing(err) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	wantValues(t, e, p, want...)
	if p, err := e.partition(p); err != nil || p.segments.end() != 20 {
		t.Errorf("the segments end at %d, %v", p.segments.end(), err)
	}
}

// TestFailedCheckpoint: a checkpoint that cannot be written ends the log, and the old one still stands.
func TestFailedCheckpoint(t *testing.T) {
	for _, kind := range []vfs.Kind{vfs.OpRename, vfs.OpSync, vfs.OpSyncDir} {
		mem := vfs.NewMem()
		var broken atomic.Bool
		e := open(t, small(vfs.Faults(mem, func(op vfs.Op) error {
			if op.Kind == kind && broken.Load() {
				return syscall.EIO
			}
			return nil
		})))
		p := topicOf(t, e, nil)
		appendWait(t, e, p, "a")
		broken.Store(true)
		if err := e.Maintain(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v fails: %v", kind, err)
		}
		if err := e.Health(); !errors.Is(err, eventlog.ErrClosed) {
			t.Errorf("%v fails: health %v", kind, err)
		}
		e.Close()
		wantValues(t, open(t, small(mem.Kill())), p, "a")
	}
}

// TestOpenRefuses: what is not ours, is newer, is damaged or in use is left alone, with an error that says so.
func TestOpenRefuses(t *testing.T) {
	fresh := func(t *testing.T) *vfs.Mem {
		mem := vfs.NewMem()
		e := open(t, small(mem))
		p := topicOf(t, e, nil)
		for range 3 {
			appendWait(t, e, p, "a")
		}
		next := mem.Kill()
		e.Close()
		return next
	}
	patch := func(t *testing.T, m *vfs.Mem, name string, f func(b []byte)) {
		b, err := readAll(m, name)
		if err != nil {
			t.Fatal(err)
		}
		f(b)
		h, err := m.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	recrc := func(b []byte) {
		crc := crc32c(b[:16], b[checkpointHeader:])
		binary.BigEndian.PutUint32(b[16:], crc)
	}
	for _, c := range []struct {
		what   string
		damage func(t *testing.T, m *vfs.Mem)
		want   error
		says   string
	}{
		{"a newer checkpoint", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, checkpointName, func(b []byte) { b[4] = checkpointVersion + 1; recrc(b) })
		}, ErrNewer, checkpointName},
		{"a sealed checkpoint", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, checkpointName, func(b []byte) { b[5] = 1; recrc(b) })
		}, ErrNewer, checkpointName},
		{"a flipped bit in the checkpoint", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, checkpointName, func(b []byte) { b[60] ^= 4 })
		}, ErrDamaged, checkpointName},
		{"an empty checkpoint", func(t *testing.T, m *vfs.Mem) {
			if _, err := m.Create(checkpointName); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged, checkpointName},
		{"no checkpoint", func(t *testing.T, m *vfs.Mem) {
			if err := m.Remove(checkpointName); err != nil {
				t.Fatal(err)
			}
		}, eventlog.ErrInvalid, checkpointName},
		{"a newer frame", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, walName(0), func(b []byte) { b[2*block+4] = frameVersion + 1; resealFrame(b[2*block:]) })
		}, ErrNewer, "wal/000.wal at 8192"},
		{"a sealed frame", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, walName(0), func(b []byte) { b[2*block+5] = flagSealed; resealFrame(b[2*block:]) })
		}, ErrNewer, "sealed"},
		{"a damaged frame before a whole one", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, walName(0), func(b []byte) { b[2*block+60] ^= 1 })
		}, ErrDamaged, "wal/000.wal at 8192"},
		{"a missing WAL file", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, walName(0), func(b []byte) { clear(b[:block]) })
		}, ErrDamaged, "commit 1"},
		{"a bad entry", func(t *testing.T, m *vfs.Mem) {
			patch(t, m, walName(0), func(b []byte) { b[2*block+frameHeader] = 99; resealFrame(b[2*block:]) })
		}, ErrDamaged, "wal/000.wal at 8192"},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := fresh(t)
			c.damage(t, m)
			for range 2 { // the first try changes nothing
				e, err := Open(small(m))
				if err == nil {
					e.Close()
					t.Fatal("opened")
				}
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("%v, want %v and %q", err, c.want, c.says)
				}
			}
		})
	}
	t.Run("somebody else's directory", func(t *testing.T) {
		m := vfs.NewMem()
		if _, err := m.Create("thesis.tex"); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(small(m)); !errors.Is(err, eventlog.ErrInvalid) || !strings.Contains(err.Error(), "thesis.tex") {
			t.Fatal(err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		m := vfs.NewMem()
		e := open(t, small(m))
		if _, err := Open(small(m)); !errors.Is(err, vfs.ErrLocked) {
			t.Fatal(err)
		}
		e.Close()
		open(t, small(m))
	})
	t.Run("segments are missing", func(t *testing.T) {
		m := vfs.NewMem()
		e := open(t, small(m))
		p := topicOf(t, e, nil)
		appendWait(t, e, p, "a")
		e.Close()
		if err := m.RemoveAll(topicsDir); err != nil {
			t.Fatal(err)
		}
		e = open(t, small(m)) // nothing is touched before it is needed
		if _, _, err := e.Read(t.Context(), eventlog.Position{Part: p}, 1); !errors.Is(err, eventlog.ErrCorrupt) {
			t.Fatalf("read: %v", err)
		}
	})
}

func crc32c(parts ...[]byte) (crc uint32) {
	for _, p := range parts {
		crc = crc32.Update(crc, castagnoli, p)
	}
	return crc
}

// resealFrame makes the checksum of a frame without large batches right again.
func resealFrame(b []byte) {
	n := binary.BigEndian.Uint32(b[40:])
	binary.BigEndian.PutUint32(b[44:], crc32c(b[:44], b[frameHeader:frameHeader+n]))
}

// TestTornTail: of the last commit, which nobody was told of, any part may be there; the log goes on without it.
func TestTornTail(t *testing.T) {
	mem := vfs.NewMem()
	var broken atomic.Bool
	e := open(t, small(vfs.Faults(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, walDir) && broken.Load() {
			return &vfs.PartialWrite{N: 600, Err: io.ErrShortWrite}
		}
		return nil
	})))
	p := topicOf(t, e, nil)
	appendWait(t, e, p, "a")
	appendWait(t, e, p, "b")
	broken.Store(true)
	if o := appendWait(t, e, p, strings.Repeat("torn", 500)); o.Err == nil {
		t.Fatal("appended")
	}
	e.Close()
	e = open(t, small(mem.Kill()))
	wantValues(t, e, p, "a", "b")
	if s := e.Stats(); s.TornBytes == 0 || s.RecoveredCommits != 3 || s.RecoveredBatches != 2 {
		t.Errorf("stats say %d torn bytes, %d commits, %d batches", s.TornBytes, s.RecoveredCommits, s.RecoveredBatches)
	}
	if o := appendWait(t, e, p, "c"); o.Base != 2 {
		t.Errorf("%+v", o)
	}
}

// TestClockSurvives: the node's time does not go back when the system's does, across a crash.
func TestClockSurvives(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.Now = func() time.Time { return time.UnixMilli(5_000_000) }
	e := open(t, o)
	p := topicOf(t, e, nil)
	appendWait(t, e, p, "a")
	o.FS = mem.Kill()
	e.Close()
	o.Now = func() time.Time { return time.UnixMilli(1_000_000) }
	if e = open(t, o); e.Now() < 5_000_000 {
		t.Errorf("the clock is at %d", e.Now())
	}
}

// TestWALIsRecycled: however much goes through, the WAL's files are the same.
func TestWALIsRecycled(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	e := open(t, o)
	p := topicOf(t, e, nil)
	for range 100 {
		if out := appendWait(t, e, p, strings.Repeat("x", 30_000)); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	names, err := mem.List(walDir)
	if err != nil || len(names) != o.WALFiles {
		t.Errorf("WAL files %v, %v", names, err)
	}
	for _, n := range names {
		if fi, err := mem.Stat(walDir + "/" + n); err != nil || fi.Size() != o.WALFileBytes {
			t.Errorf("%s has %d bytes, %v", n, fi.Size(), err)
		}
	}
	if s := e.Stats(); s.Checkpoints == 0 || s.UnappliedBytes > o.MemoryBytes/2+100_000 {
		t.Errorf("%d checkpoints, %d bytes are not applied", s.Checkpoints, s.UnappliedBytes)
	}
}

// TestWALResized: other sizes are taken over at the next start.
func TestWALResized(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	var p eventlog.Part
	var want []string
	for i, c := range []struct {
		files int
		size  int64
	}{{3, 256 << 10}, {2, 128 << 10}, {5, 512 << 10}} {
		o.WALFiles, o.WALFileBytes = c.files, c.size
		e := open(t, o)
		if i == 0 {
			p = topicOf(t, e, nil)
		}
		wantValues(t, e, p, want...)
		want = append(want, fmt.Sprint(i))
		appendWait(t, e, p, fmt.Sprint(i))
		if names, err := mem.List(walDir); err != nil || len(names) != c.files {
			t.Errorf("WAL files %v, %v", names, err)
		}
		mem = mem.Kill()
		o.FS = mem
		e.Close()
	}
	wantValues(t, open(t, o), p, want...)
}
