package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// halfApplied is a log whose first part is in segments and whose second is in memory only; all values have one size.
func halfApplied(t testing.TB) (*Engine, eventlog.Part, int) {
	o := small(vfs.NewMem())
	o.SegmentBytes = 8 << 10
	e := open(t, o)
	p := topicOf(t, e, nil)
	const n = 40
	for i := range n {
		appendWait(t, e, p, fmt.Sprintf("%02d%s", i, strings.Repeat("x", 500)))
		if i == n/2 {
			if err := e.checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if part, err := e.partition(p); err != nil || part.appliedOffset() != n/2+1 {
		t.Fatalf("%d are in segments, %v", part.appliedOffset(), err)
	}
	return e, p, n
}

// TestFetchRaw: the seam between segments and memory does not show, whatever the step.
func TestFetchRaw(t *testing.T) {
	e, p, n := halfApplied(t)
	for _, step := range []int{1, 700, 5000, 1 << 20} {
		next := int64(0)
		for next < int64(n) {
			f, err := e.FetchRaw(p, next, step, true)
			if err != nil || len(f.Raw) == 0 || f.High != int64(n) || f.Stable != f.High || f.Start != 0 {
				t.Fatalf("step %d at %d: %d bytes, %+v, %v", step, next, len(f.Raw), f.High, err)
			}
			for first := true; len(f.Raw) > 0; first = false {
				b, err := eventlog.CheckBatch(f.Raw)
				if err != nil || b.Base() != next {
					t.Fatalf("step %d at %d: batch at %d, %v", step, next, b.Base(), err)
				}
				if len(f.Raw) > step && !first {
					t.Fatalf("step %d at %d: %d bytes", step, next, len(f.Raw))
				}
				next, f.Raw = b.Next(), f.Raw[len(b):]
			}
		}
	}
	for _, at := range []int64{3, int64(n) - 3} {
		if f, err := e.FetchRaw(p, at, 10, false); err != nil || len(f.Raw) != 0 {
			t.Errorf("10 bytes at %d: %d bytes, %v", at, len(f.Raw), err)
		}
	}
	if f, err := e.FetchRaw(p, int64(n), 1000, true); err != nil || len(f.Raw) != 0 {
		t.Errorf("at the end: %d bytes, %v", len(f.Raw), err)
	}
	var out *eventlog.OutOfRangeError
	for _, at := range []int64{-1, int64(n) + 1} {
		if _, err := e.FetchRaw(p, at, 1000, true); !errors.As(err, &out) || out.End != int64(n) {
			t.Errorf("at %d: %v", at, err)
		}
	}
	if _, err := e.FetchRaw(eventlog.Part{}, 0, 1000, true); !errors.Is(err, eventlog.ErrUnknownTopic) {
		t.Error(err)
	}
}

func TestReadableBytes(t *testing.T) {
	e, p, n := halfApplied(t)
	whole, err := e.FetchRaw(p, int64(n)-1, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	one := len(whole.Raw)
	for _, at := range []int64{0, 5, int64(n) / 2, int64(n) - 3} {
		want := one * (n - int(at))
		if got := e.ReadableBytes(p, at, 1<<30); got < want-one || got > want+one {
			t.Errorf("from %d: %d bytes, want about %d", at, got, want)
		}
	}
	for at, limit := range map[int64]int{0: 100, int64(n): 1000, -1: 1000, int64(n) + 1: 1000} {
		if got := e.ReadableBytes(p, at, limit); got != 0 && at != 0 || got > limit {
			t.Errorf("from %d, at most %d: %d", at, limit, got)
		}
	}
}

// TestFindTime: by time, the first record at or after it, in segments and in memory, trimmed or not; and the latest.
func TestFindTime(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	times := []int64{500, 900, 100, 900, 300, 700, 200, 900, 100, 400}
	for i, ts := range times {
		produceWait(t, e, p, foreign(t, p, -1, -1, -1, eventlog.Record{Timestamp: ts, Value: []byte("v")}))
		if i == len(times)/2 {
			if err := e.checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for start := range int64(len(times)) {
		if err := e.Trim(t.Context(), eventlog.Position{Part: p, Offset: start}); err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{0, 100, 350, 500, 800, 900, 901} {
			want := noTime
			for i := start; i < int64(len(times)); i++ {
				if times[i] >= at {
					want = TimeOffset{i, times[i]}
					break
				}
			}
			if got, err := e.FindTime(p, at); err != nil || got != want {
				t.Errorf("from %d, time %d: %+v, %v, want %+v", start, at, got, err, want)
			}
		}
		want := noTime
		for i := start; i < int64(len(times)); i++ {
			if times[i] > want.Timestamp {
				want = TimeOffset{i, times[i]}
			}
		}
		if got, err := e.FindMaxTime(p); err != nil || got != want {
			t.Errorf("from %d, the latest: %+v, %v, want %+v", start, got, err, want)
		}
	}
}

// TestFindTimePassesOver: a batch whose records nobody can decode is none to a search by time, in memory as in the segments.
func TestFindTimePassesOver(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	bad := foreign(t, p, -1, -1, -1, eventlog.Record{Timestamp: 900, Value: []byte("v")})
	bad[len(bad)-1] = 99
	bad.Reseal()
	produceWait(t, e, p, bad)
	produceWait(t, e, p, foreign(t, p, -1, -1, -1, eventlog.Record{Timestamp: 800, Value: []byte("v")}))
	for _, where := range []string{"memory", "segments"} {
		if got, err := e.FindTime(p, 700); err != nil || got != (TimeOffset{1, 800}) {
			t.Errorf("%s: %+v, %v", where, got, err)
		}
		if got, err := e.FindMaxTime(p); err != nil || got != (TimeOffset{1, 800}) {
			t.Errorf("%s: the latest: %+v, %v", where, got, err)
		}
		if err := e.checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSizes(t *testing.T) {
	e, p, n := halfApplied(t)
	sizes, err := e.PartSizes(p.Topic)
	if err != nil || sizes[0] < int64(n)*500 || sizes[0] > int64(n)*700 {
		t.Errorf("sizes %v, %v", sizes, err)
	}
	if s := e.Stats(); s.LogBytes != sizes[0] || s.Topics != 1 || s.Partitions != 1 || s.Batches != uint64(n) || s.Records != uint64(n) {
		t.Errorf("%+v", s)
	}
}

// TestDamagedSegment: a flipped bit is never served, by no way of reading.
func TestDamagedSegment(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	fill(t, e, p, 3)
	part, err := e.partition(p)
	if err != nil {
		t.Fatal(err)
	}
	h, err := mem.Open(part.dir() + "/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt([]byte("Z"), 400); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Read(t.Context(), eventlog.Position{Part: p}, 1000); !errors.Is(err, eventlog.ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	if _, err := e.FetchRaw(p, 0, 1000, true); !errors.Is(err, eventlog.ErrCorrupt) {
		t.Errorf("fetch: %v", err)
	}
	if o := appendWait(t, e, p, "on"); o.Err != nil || o.Base != 3 {
		t.Errorf("append: %+v", o)
	}
	tail, err := e.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	events, err := tail.Poll(nil, 1<<20)
	if err != nil || len(events) < 2 || events[0].Kind != eventlog.Gap || events[0].Next != 1 || events[1].Batch.Base() != 1 {
		t.Errorf("the tail says %+v, %v, want a gap over the damage and what follows", events, err)
	}
	if n := e.Stats().DamagedRecords; n != 1 {
		t.Errorf("%d damaged records are counted", n)
	}
}

// Small batches are gathered for a write and large ones are not: either way the segments have all bytes in their order.
func TestApplyMixedSizes(t *testing.T) {
	o := small(vfs.NewMem())
	o.MemoryBytes = 16 << 20
	e := open(t, o)
	p := topicOf(t, e, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	var want []byte
	var answers sync.WaitGroup
	const n = 300
	for i := range n {
		size := 1 + rng.IntN(200)
		if i%7 < i/50 { // none, then more and more
			size = copyBelow + rng.IntN(50_000)
		}
		raw := foreign(t, p, -1, -1, -1, rec(fmt.Sprint(i)+strings.Repeat("x", size)))
		kept := eventlog.RawBatch(bytes.Clone(raw))
		kept.SetBase(int64(i)) // as the log will
		kept.SetLeaderEpoch(0)
		want = append(want, kept...)
		answers.Add(1)
		e.Produce(p, raw, AcksDurable, func(r Produced) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			answers.Done()
		})
	}
	answers.Wait()
	if err := e.checkpoint(); err != nil {
		t.Fatal(err)
	}
	part, err := e.partition(p)
	if err != nil || part.appliedOffset() != n {
		t.Fatalf("%d are in segments, %v", part.appliedOffset(), err)
	}
	var got []byte
	for next := int64(0); next < n; next = endOfBatches(got) {
		f, err := e.FetchRaw(p, next, 64<<20, true)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Raw...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the segments have %d bytes, want %d, or not those", len(got), len(want))
	}
}
