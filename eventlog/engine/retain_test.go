package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// timed is an engine with a clock that the test moves.
func timed(t *testing.T, o Options) (e *Engine, advance func(time.Duration)) {
	now := time.UnixMilli(1_700_000_000_000)
	o.Now = func() time.Time { return now }
	e = open(t, o)
	return e, func(d time.Duration) {
		now = now.Add(d)
	}
}

func maintain(t testing.TB, e *Engine) {
	t.Helper()
	if err := e.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func startOf(t testing.TB, e *Engine, p eventlog.Part) int64 {
	t.Helper()
	starts, err := e.Starts(t.Context(), p.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return starts[p.Index]
}

func onDisk(t testing.TB, e *Engine, p eventlog.Part) int64 {
	t.Helper()
	sizes, err := e.PartSizes(p.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return sizes[p.Index]
}

// fill appends n batches of about a kilobyte and has them in segments.
func fill(t testing.TB, e *Engine, p eventlog.Part, n int) {
	t.Helper()
	for i := range n {
		if o := appendWait(t, e, p, fmt.Sprint(i, strings.Repeat("x", 900))); o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	if err := e.checkpoint(); err != nil {
		t.Fatal(err)
	}
}

func TestRetentionByTime(t *testing.T) {
	o := small(vfs.NewMem())
	o.SegmentBytes = 4 << 10
	e, advance := timed(t, o)
	p := topicOf(t, e, map[string]string{"retention.ms": "3600000"})
	fill(t, e, p, 20)
	advance(40 * time.Minute)
	fill(t, e, p, 20)
	maintain(t, e)
	if s := startOf(t, e, p); s != 0 {
		t.Fatalf("the log starts at %d before anything is old", s)
	}
	advance(40 * time.Minute)
	maintain(t, e)
	if s := startOf(t, e, p); s < 16 || s > 20 {
		t.Fatalf("the log starts at %d, want most of the first 20 gone and no other", s)
	}
	if n := onDisk(t, e, p); n > 26_000 {
		t.Errorf("%d bytes are on disk", n)
	}
	advance(2 * time.Hour)
	maintain(t, e)
	if s, n := startOf(t, e, p), onDisk(t, e, p); s != 40 || n != 0 {
		t.Fatalf("all is old: the log starts at %d and has %d bytes", s, n)
	}
	if o := appendWait(t, e, p, "new"); o.Base != 40 {
		t.Errorf("%+v", o)
	}
	wantValues(t, e, p, "new")
	if e.Stats().RetainedBytes == 0 {
		t.Error("nothing is counted")
	}
}

func TestRetentionBySize(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.SegmentBytes = 4 << 10
	e := open(t, o)
	p := topicOf(t, e, map[string]string{"retention.bytes": "20000"})
	fill(t, e, p, 60)
	maintain(t, e)
	s, n := startOf(t, e, p), onDisk(t, e, p)
	if s < 30 || n < 20_000 || n > 26_000 {
		t.Fatalf("the log starts at %d and has %d bytes, want 20000 and at most a segment more", s, n)
	}
	mem = mem.Kill()
	e.Close()
	o.FS = mem
	e = open(t, o)
	if again := startOf(t, e, p); again != s {
		t.Errorf("after a crash the log starts at %d, was %d", again, s)
	}
	if got := values(t, e, p); len(got) != 60-int(s) {
		t.Errorf("%d records are left", len(got))
	}
}

// TestRetentionBudget: over the budget of all topics, the oldest segments go first, but for those of compacted topics.
func TestRetentionBudget(t *testing.T) {
	o := small(vfs.NewMem())
	o.SegmentBytes, o.MaxLogBytes = 4<<10, 60_000
	e, advance := timed(t, o)
	old := eventlog.Part{Topic: createTopic(t, e, "old", 1, nil).ID}
	kept := eventlog.Part{Topic: createTopic(t, e, "kept", 1, map[string]string{"cleanup.policy": "compact"}).ID}
	young := eventlog.Part{Topic: createTopic(t, e, "young", 1, nil).ID}
	fill(t, e, kept, 20)
	advance(time.Minute)
	fill(t, e, old, 30)
	advance(time.Minute)
	fill(t, e, young, 30)
	maintain(t, e)
	if s := startOf(t, e, old); s < 18 || s > 29 {
		t.Errorf("the old topic starts at %d", s)
	}
	if s := startOf(t, e, young); s != 0 {
		t.Errorf("the young topic starts at %d", s)
	}
	if s := startOf(t, e, kept); s != 0 {
		t.Errorf("the compacted topic starts at %d", s)
	}
	if n := e.Stats().LogBytes; n > o.MaxLogBytes {
		t.Errorf("%d bytes are left, the budget is %d", n, o.MaxLogBytes)
	}
}

// TestBudgetIsKept: the default budget is four fifths of what is free at the first start, whatever is free later.
func TestBudgetIsKept(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetFree(100 << 20)
	for range 2 {
		e := open(t, small(mem))
		if n := e.Stats().MaxLogBytes; n != 100<<20/100*80 {
			t.Errorf("the budget is %d", n)
		}
		e.Close()
		mem.SetFree(50 << 20)
	}
}

func TestCompaction(t *testing.T) {
	o := small(vfs.NewMem())
	o.SegmentBytes = 4 << 10
	e, advance := timed(t, o)
	p := topicOf(t, e, map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": "60000", "min.cleanable.dirty.ratio": "0"})
	put := func(key, value string) {
		t.Helper()
		r := produceWait(t, e, p, foreign(t, p, -1, -1, -1, eventlog.Record{Timestamp: e.Now(), Key: []byte(key), Value: []byte(value)}))
		_ = r
	}
	for i := range 60 {
		put(fmt.Sprint("k", i%3), fmt.Sprint(i, strings.Repeat("y", 300)))
	}
	maintain(t, e)
	if n := len(values(t, e, p)); n != 60 {
		t.Fatalf("%d records are left before the lag is over", n)
	}
	advance(2 * time.Minute)
	for i := range 20 {
		put("other", fmt.Sprint(100+i, strings.Repeat("y", 300)))
	}
	maintain(t, e)
	got := values(t, e, p)
	if len(got) > 40 || len(got) < 23 {
		t.Fatalf("%d records are left", len(got))
	}
	if f, err := e.FetchRaw(p, 0, 1<<20, true); err != nil || len(f.Raw) == 0 || eventlog.RawBatch(f.Raw).Base() != 0 || eventlog.RawBatch(f.Raw).Count() != 0 {
		t.Errorf("a fetch at 0: %d bytes, %v, want a batch without records and then what is left", len(f.Raw), err)
	}
}

// TestDeletedTopicsLeaveNoFiles: the files go with the checkpoint that no longer knows the topic, or at the next start.
func TestDeletedTopicsLeaveNoFiles(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	topicsLeft := func() int {
		names, err := mem.List(topicsDir)
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	p := topicOf(t, e, nil)
	fill(t, e, p, 3)
	if err := e.DeleteTopic(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	if n := topicsLeft(); n != 1 {
		t.Fatalf("%d topics have files before the checkpoint", n)
	}
	maintain(t, e)
	if n := topicsLeft(); n != 0 {
		t.Fatalf("%d topics have files after the checkpoint", n)
	}
	p = topicOf(t, e, nil)
	fill(t, e, p, 3)
	if err := e.DeleteTopic(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	mem = mem.Kill()
	e.Close()
	open(t, small(mem))
	if n := topicsLeft(); n != 0 {
		t.Errorf("%d topics have files after a restart", n)
	}
}
