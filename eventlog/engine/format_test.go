package engine

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// unpack puts an archive of a data folder into a file system, but for its contents.txt, which it returns.
func unpack(t testing.TB, name string) (mem *vfs.Mem, contents string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	mem = vfs.NewMem()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return mem, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "contents.txt" {
			contents = string(p)
			continue
		}
		if err := mem.MkdirAll(path.Dir(h.Name)); err != nil {
			t.Fatal(err)
		}
		w, err := mem.Create(h.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// contentsOf lists every record of every topic, in order of name.
func contentsOf(t testing.TB, e *Engine, names ...string) string {
	t.Helper()
	var out strings.Builder
	for _, name := range names {
		topic := e.topicByName(name)
		if topic == nil {
			t.Fatalf("no topic %q", name)
		}
		for _, p := range *topic.parts.Load() {
			for at := p.start.Load(); at < p.stable.Load(); {
				batches, next, err := e.Read(t.Context(), eventlog.Position{Part: p.part, Offset: at}, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range batches {
					err := b.Each(func(r *eventlog.Record) error {
						if r.Offset >= at {
							fmt.Fprintf(&out, "%s %d %d %d %q %q %v\n", name, p.part.Index, r.Offset, r.Timestamp, r.Key, r.Value, r.Value == nil)
						}
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				at = next
			}
		}
	}
	return out.String()
}

// TestFormat1: a folder of format 1, as a killed node left it: WAL not replayed, gaps where compaction took whole batches, indexes without
// checksums, a producer in the middle of its sequences. It was written by the last version that knew no other. All of it is there, it is
// carried over, and what it is then is intact.
func TestFormat1(t *testing.T) {
	mem, want := unpack(t, "testdata/format-1.tar.gz")
	o := small(mem)
	o.WALFileBytes, o.WALFiles, o.SegmentBytes = 64<<10, 2, 4<<10
	now := time.UnixMilli(1_800_000_000_000)
	o.Now = func() time.Time { now = now.Add(time.Second); return now }
	e := open(t, o)
	same := func(when string) {
		t.Helper()
		if got := contentsOf(t, e, "plain", "compacted"); got != want {
			t.Fatalf("%s: %d bytes of contents, want %d:\n%s", when, len(got), len(want), got)
		}
	}
	same("opened")
	plain := e.topicByName("plain")
	if r := send(t, e, eventlog.Part{Topic: plain.id}, 5, 1, 9, 1); !r.Duplicate {
		t.Errorf("a resend of the last batch before: %+v", r)
	}
	e.Close()
	e = open(t, o)
	same("opened again")
	e.Close()
	s, err := readCheckpoint(mem)
	if err != nil {
		t.Fatal(err)
	}
	gaps := false
	for _, topic := range s.topics {
		for _, p := range topic.parts {
			gaps = gaps || p.state.Gapless > 0
		}
	}
	if !gaps {
		t.Error("no partition has gaps to be read")
	}
}

// TestFormat1Compacted: a folder of format 1 whose checkpoint is older than the compaction that left gaps, as any node left it that was
// stopped, or killed, before the first checkpoint after a partition's first compaction. It was written by that version. The next compaction
// closes the gaps.
func TestFormat1Compacted(t *testing.T) {
	mem, want := unpack(t, "testdata/format-1-compacted.tar.gz")
	o := small(mem)
	o.SegmentBytes = 4 << 10
	for _, when := range []string{"opened", "opened again", "compacted"} {
		e := open(t, o)
		if got := contentsOf(t, e, "compacted"); got != want {
			t.Fatalf("%s: %d bytes of contents, want %d:\n%s", when, len(got), len(want), got)
		}
		if q := e.Quarantine(); len(q) > 0 {
			t.Fatalf("%s: quarantined: %v", when, q)
		}
		p := (*e.topicByName("compacted").parts.Load())[0]
		if when == "opened again" {
			maintain(t, e)
			if err := e.syncPartition(p); err != nil {
				t.Fatal(err)
			}
			if at := p.segments.synced(); at.Gapless != 0 {
				t.Errorf("gaps are left below %d", at.Gapless)
			}
		}
		e.Close()
	}
}

// TestFormat3: a folder of format 3, whose frames' checksums cover all of every batch, the large ones too, as a killed node left it: transactions, one
// of them open, a producer in the middle of its sequences. It was written by the last version that knew no other frames. All of it is there, and
// carried over before a frame is written that such a version would take for one that the power tore.
func TestFormat3(t *testing.T) {
	mem, want := unpack(t, "testdata/format-3.tar.gz")
	s, err := readCheckpoint(mem)
	if err != nil {
		t.Fatal(err)
	}
	wal, err := readAll(mem, walName(0))
	if err != nil {
		t.Fatal(err)
	}
	frames, err := walSince(Options{FS: mem}, s)
	if err != nil || len(frames) < 15 || wal[4] != 1 || frameVersion == 1 {
		t.Fatalf("%d frames, the first of version %d, %v", len(frames), wal[4], err)
	}
	formats := map[int]bool{} // of checkpoints, when a frame is written
	o := small(vfs.Faults(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, walDir) && op.Len < 60<<10 {
			s, err := readCheckpoint(mem)
			if err != nil {
				return err
			}
			formats[s.format] = true
		}
		return nil
	}))
	o.WALFileBytes, o.WALFiles, o.SegmentBytes = 128<<10, 2, 32<<10
	now := time.UnixMilli(1_800_000_000_000)
	o.Now = func() time.Time { now = now.Add(time.Second); return now }
	for _, when := range []string{"opened", "opened again"} {
		e := open(t, o)
		if got := contentsOf(t, e, "plain", "stamped", "txn"); got != want {
			t.Fatalf("%s: %d bytes of contents, want %d", when, len(got), len(want))
		}
		if r := send(t, e, eventlog.Part{Topic: e.topicByName("plain").id}, 5, 1, 5, 4); !r.Duplicate {
			t.Errorf("%s: a resend of the last batch before: %+v", when, r)
		}
		txn := eventlog.Part{Topic: e.topicByName("txn").id}
		if f, err := e.FetchCommitted(txn, 0, 1<<20, true); err != nil || f.Stable == f.High || len(f.Aborted) != 1 {
			t.Errorf("%s: %d of %d are stable, %d aborted, %v", when, f.Stable, f.High, len(f.Aborted), err)
		}
		appendWait(t, e, eventlog.Part{Topic: createTopic(t, e, strings.ReplaceAll(when, " ", "-"), 1, nil).ID}, "more")
		e.Close()
	}
	if len(formats) != 1 || !formats[checkpointVersion] {
		t.Errorf("frames were written beside checkpoints of formats %v", formats)
	}
}

// TestNewerFormat: a checkpoint of a later version is refused, and left alone.
func TestNewerFormat(t *testing.T) {
	mem, _ := unpack(t, "testdata/format-1.tar.gz")
	p, err := readAll(mem, checkpointName)
	if err != nil {
		t.Fatal(err)
	}
	p[4] = checkpointVersion + 1
	p = sealAs(p)
	if err := replaceFile(mem, checkpointTemp, checkpointName, p); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(small(mem)); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), fmt.Sprint("format ", checkpointVersion+1)) {
		t.Errorf("opened: %v", err)
	}
	if q, err := readAll(mem, checkpointName); err != nil || string(p) != string(q) {
		t.Errorf("the checkpoint was changed: %v", err)
	}
}

// sealAs gives a checkpoint of any version its checksum.
func sealAs(p []byte) []byte {
	version := p[4]
	p = sealCheckpoint(p)
	p[4] = version
	crc := crc32c(p[:16], p[checkpointHeader:])
	p[16], p[17], p[18], p[19] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
	return p
}
