package engine

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// spoil overwrites bytes of the file that holds a partition's first segment; mend undoes it.
func spoil(t testing.TB, fsys vfs.FS, e *Engine, at eventlog.Part, pos int64) (mend func()) {
	t.Helper()
	p, err := e.partition(at)
	if err != nil {
		t.Fatal(err)
	}
	h, err := fsys.Open(p.dir() + "/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	was := make([]byte, 4)
	if _, err := h.ReadAt(was, pos); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt([]byte{was[0] ^ 1, was[1] ^ 2, was[2], was[3]}, pos); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := h.WriteAt(was, pos); err != nil {
			t.Fatal(err)
		}
	}
}

// readable reads a partition as a client does that goes on behind what is damaged, and says what could not be read.
func readable(t testing.TB, e *Engine, p eventlog.Part) (n int, damaged []int64) {
	t.Helper()
	for at, end := startOf(t, e, p), endOf1(t, e, p); at < end; {
		batches, next, err := e.Read(t.Context(), eventlog.Position{Part: p, Offset: at}, 1)
		if errors.Is(err, eventlog.ErrCorrupt) {
			damaged = append(damaged, at)
			at++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			n += b.Len()
		}
		at = next
	}
	return n, damaged
}

// TestQuarantine: the scrubber finds what is damaged before anybody reads it. It is listed, over a restart too, until somebody has mended it;
// what is around it stays readable; a compacted topic is not compacted, and goes on when it is mended.
func TestQuarantine(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.SegmentBytes = 4 << 10
	e := open(t, o)
	plain := topicOf(t, e, nil)
	compacted := eventlog.Part{Topic: createTopic(t, e, "compacted", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"}).ID}
	fill(t, e, plain, 30)
	for i := range 40 {
		produceWait(t, e, compacted, foreign(t, compacted, -1, -1, -1, eventlog.Record{Timestamp: e.Now(), Key: []byte(fmt.Sprint(i % 3)),
			Value: []byte(strings.Repeat("y", 300))}))
	}
	if err := e.checkpoint(); err != nil {
		t.Fatal(err)
	}
	spoil(t, mem, e, plain, 2500)
	mend := spoil(t, mem, e, compacted, 700)
	if q := e.Quarantine(); len(q) != 0 {
		t.Fatalf("quarantined before anybody looked: %+v", q)
	}
	if err := e.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := e.Quarantine()
	if len(q) != 2 || q[0].Topic != "compacted" || q[0].To != q[0].From+1 || q[1].From != 2 || q[1].To != 3 {
		t.Fatalf("quarantined: %+v", q)
	}
	if n, damaged := readable(t, e, plain); n != 29 || len(damaged) != 1 || damaged[0] != 2 {
		t.Errorf("%d records can be read, %v cannot", n, damaged)
	}
	if _, err := e.FetchRaw(plain, 2, 1<<20, true); !errors.Is(err, eventlog.ErrCorrupt) || !strings.Contains(err.Error(), "partition 0") {
		t.Errorf("a fetch of it: %v", err)
	}
	before := onDisk(t, e, compacted)
	maintain(t, e)
	if after := onDisk(t, e, compacted); after != before {
		t.Errorf("a damaged topic was compacted: from %d bytes to %d", before, after)
	}
	s := &scrubber{Engine: e, done: map[*partition]int64{}}
	s.at(1 << 40)
	if err := s.pass(); err != nil {
		t.Fatal(err)
	}
	e.Close()

	mend()
	e = open(t, o)
	s = &scrubber{Engine: e, done: map[*partition]int64{}}
	if err := s.resume(); err != nil {
		t.Fatal(err)
	}
	if q := e.Quarantine(); len(q) != 1 || q[0].From != 2 || q[0].Topic != "topic" {
		t.Errorf("quarantined after one was mended: %+v", q)
	}
	maintain(t, e)
	if after := onDisk(t, e, compacted); after >= before {
		t.Errorf("a mended topic is not compacted: %d bytes, were %d", after, before)
	}
	if err := e.Trim(t.Context(), eventlog.Position{Part: plain, Offset: 3}); err != nil {
		t.Fatal(err)
	}
	if q := e.Quarantine(); len(q) != 0 {
		t.Errorf("quarantined though it was deleted: %+v", q)
	}
}

// TestScrubLoop: the scrubber runs by itself, at its pace, and ends with the log.
func TestScrubLoop(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.ScrubEvery = time.Nanosecond
	o.ScrubRate = 1 << 40
	e := open(t, o)
	p := topicOf(t, e, nil)
	fill(t, e, p, 10)
	spoil(t, mem, e, p, 2500)
	e.Close()
	if err := mem.Remove(scrubName); err != nil { // else the next pass is due in a minute
		t.Fatal(err)
	}
	e = open(t, o)
	for deadline := time.Now().Add(30 * time.Second); len(e.Quarantine()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("damage is not found")
		}
	}
	if s := e.Stats(); s.ScrubbedBytes == 0 || s.Quarantined != 1 {
		t.Errorf("%d bytes scrubbed, %d quarantined", s.ScrubbedBytes, s.Quarantined)
	}
}

// TestUnreadableSector: what the disk does not give is found by the scrubber as damage is; a read of it fails and is never passed over.
func TestUnreadableSector(t *testing.T) {
	mem := vfs.NewMem()
	var bad atomic.Int64
	bad.Store(-1)
	o := small(vfs.Faults(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, ".log") && bad.Load() >= op.Off && bad.Load() < op.Off+op.Len {
			return syscall.EIO
		}
		return nil
	}))
	e := open(t, o)
	p := topicOf(t, e, nil)
	fill(t, e, p, 10)
	bad.Store(2500)
	if err := e.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := e.Quarantine()
	if len(q) != 1 || q[0].From != 2 || q[0].To != 3 || !strings.Contains(q[0].Error, syscall.EIO.Error()) {
		t.Errorf("quarantined: %+v", q)
	}
	if _, err := e.FetchRaw(p, 2, 100, true); !errors.Is(err, syscall.EIO) {
		t.Errorf("a fetch of it: %v", err)
	}
	if _, err := e.FetchRaw(p, 3, 100, true); err != nil {
		t.Errorf("a fetch behind it: %v", err)
	}
}
