package logtest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

var readTests = []test{
	{"ReadRanges", testReadRanges},
	{"ReadBounds", testReadBounds},
	{"ReadAtEnd", testReadAtEnd},
	{"ReadCancelled", testReadCancelled},
	{"EndsFollowAnswers", testEndsFollowAnswers},
	{"OffsetByTime", testOffsetByTime},
	{"Trim", testTrim},
	{"TrimNeverDownNorBeyond", testTrimNeverDownNorBeyond},
}

// testReadRanges: whatever the step, reading on from next gives the same records, from any offset.
func testReadRanges(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	for i := range 60 {
		b.Append(b.d, p, "s", 1+i%4, i*7)
	}
	b.settled(b.d, p)
	eventually(t, "the end stands still", func() bool {
		end := b.ends(b.d)[0]
		b.put(b.d, b.part(1), "other", 1)
		return b.ends(b.d)[0] == end
	})
	whole := b.check(b.d, p)
	end := b.ends(b.d)[0]
	for _, step := range []int{1, 100, 1000, 1 << 20} {
		for _, from := range []int64{0, 1, end / 2, end - 1} {
			got, err := ReadRange(b.ctx, b.d, p, from, end, step)
			if err != nil {
				t.Fatal(err)
			}
			want := whole
			for len(want) > 0 && want[0].Offset < from {
				want = want[1:]
			}
			if !slices.Equal(got, want) {
				t.Fatalf("reading from %d by %d bytes gives %d records, want %d", from, step, len(got), len(want))
			}
		}
	}
	one, _, err := b.d.Read(b.ctx, eventlog.Position{Part: p}, 1)
	if err != nil || len(one) != 1 {
		t.Errorf("reading 1 byte: %d batches, %v, want the first", len(one), err)
	}
	many, _, err := b.d.Read(b.ctx, eventlog.Position{Part: p}, 2000)
	size := 0
	for _, batch := range many {
		size += batch.Size()
	}
	if err != nil || size > 2000+1<<16 {
		t.Errorf("reading 2000 bytes: %d bytes, %v", size, err)
	}
}

func testReadBounds(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	b.put(b.d, p, "s", 5)
	b.settled(b.d, p)
	for _, at := range []int64{-1, b.ends(b.d)[0] + 1000} {
		_, _, err := b.d.Read(b.ctx, eventlog.Position{Part: p, Offset: at}, 1000)
		var out *eventlog.OutOfRangeError
		if !errors.As(err, &out) {
			t.Errorf("read at %d: %v, want *OutOfRangeError", at, err)
			continue
		}
		if out.Start != 0 || out.End < 5 || out.Position.Offset != at || out.Position.Part != p {
			t.Errorf("read at %d: %+v", at, out)
		}
	}
	for _, bad := range []eventlog.Part{b.part(4), b.part(-1), {Topic: eventlog.TopicID{9}}} {
		_, _, err := b.d.Read(b.ctx, eventlog.Position{Part: bad}, 1000)
		wantErr(t, "read "+bad.String(), err, eventlog.ErrUnknownTopic)
	}
}

// testReadAtEnd: at the end there is nothing, and no waiting for it.
func testReadAtEnd(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	for range 3 {
		b.put(b.d, p, "s", 3)
		b.settled(b.d, p)
		eventually(t, "the end is read as nothing", func() bool {
			end := b.ends(b.d)[0]
			batches, next, err := b.d.Read(b.ctx, eventlog.Position{Part: p, Offset: end}, 1000)
			if err != nil {
				t.Fatal(err)
			}
			return len(batches) == 0 && next >= end
		})
	}
}

func testReadCancelled(t testing.TB, e *Env) {
	b := newBench(t, e)
	b.put(b.d, b.part(0), "s", 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := b.d.Read(ctx, eventlog.Position{Part: b.part(0)}, 1000)
	wantErr(t, "read", err, context.Canceled)
}

// testEndsFollowAnswers: ends never go back, and cover what was answered once nothing holds it back.
func testEndsFollowAnswers(t testing.TB, e *Env) {
	b := newBench(t, e)
	last := b.ends(b.d)
	for i := range 20 {
		p := b.part(int32(i % 4))
		b.put(b.d, p, "s", 2)
		b.settled(b.d, p)
		now := b.ends(b.d)
		for j := range now {
			if now[j] < last[j] {
				t.Fatalf("the end of partition %d went from %d to %d", j, last[j], now[j])
			}
		}
		last = now
		if slices.Max(b.starts(b.d)) != 0 {
			t.Fatalf("starts moved to %v", b.starts(b.d))
		}
	}
}

// testOffsetByTime: the first record, wherever in its batch, with a timestamp at or after the time asked for; timestamps
// need not ascend.
func testOffsetByTime(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	times := []int64{5000, 1000, 7000, 7000, 3000, 9000, 2000, 9500}
	for i := 0; i < len(times); i += 2 {
		for _, c := range []eventlog.Codec{eventlog.None, eventlog.Zstd} {
			batch := newBatch(t, p, c,
				eventlog.Record{Timestamp: times[i], Value: []byte{'a', byte(i), byte(c)}},
				eventlog.Record{Timestamp: times[i+1], Value: []byte{'b', byte(i), byte(c)}})
			b.AppendBatch(b.d, "s", batch)
		}
	}
	b.settled(b.d, p)
	if off, err := b.d.OffsetByTime(b.ctx, b.part(1), 0); err != nil || off != -1 {
		t.Errorf("in an empty partition: %d, %v, want -1", off, err)
	}
	compare := func() {
		t.Helper()
		for _, at := range []int64{0, 1000, 2000, 5000, 5001, 7000, 8000, 9500, 9501} {
			var got, want int64
			ok := func() bool {
				want = -1
				for _, r := range b.check(b.d, p) {
					if r.Timestamp >= at {
						want = r.Offset
						break
					}
				}
				var err error
				if got, err = b.d.OffsetByTime(b.ctx, p, at); err != nil {
					t.Fatal(err)
				}
				return got == want
			}
			// A late twin may land between the two looks.
			for range 10 {
				if ok() {
					break
				}
			}
			if got != want {
				t.Errorf("the first record from time %d on: %d, want %d", at, got, want)
			}
		}
	}
	compare()
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: b.ends(b.d)[0] / 2}); err != nil {
		t.Fatal(err)
	}
	b.forget(p, b.starts(b.d)[0])
	compare()
	_, err := b.d.OffsetByTime(b.ctx, b.part(9), 0)
	wantErr(t, "in an unknown partition", err, eventlog.ErrUnknownTopic)
}

// forget drops what the ledger saw below a trimmed start.
func (b *bench) forget(p eventlog.Part, start int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for pos := range b.read {
		if pos.Part == p && pos.Offset < start {
			delete(b.read, pos)
		}
	}
}

func testTrim(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	for range 10 {
		b.Append(b.d, p, "s", 4, 0)
	}
	b.put(b.d, p, "s", 5)
	b.settled(b.d, p)
	end := b.ends(b.d)[0]
	for _, to := range []int64{1, end / 2, end/2 + 1, end - 1} {
		if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: to}); err != nil {
			t.Fatalf("trim to %d: %v", to, err)
		}
		if start := b.starts(b.d)[0]; start != to {
			t.Fatalf("trimmed to %d, starts at %d", to, start)
		}
		_, _, err := b.d.Read(b.ctx, eventlog.Position{Part: p, Offset: to - 1}, 1000)
		var out *eventlog.OutOfRangeError
		if !errors.As(err, &out) || out.Start != to {
			t.Fatalf("read below the start %d: %v", to, err)
		}
		b.check(b.d, p)
	}
	all := b.ends(b.d)[0]
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: all}); err != nil {
		t.Fatalf("trim to the end %d: %v", all, err)
	}
	b.put(b.d, p, "s", 3)
	b.settled(b.d, p)
	b.check(b.d, p)
	if slices.Max(b.starts(b.d)[1:]) != 0 {
		t.Errorf("other partitions start at %v", b.starts(b.d))
	}
}

func testTrimNeverDownNorBeyond(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	b.put(b.d, p, "s", 10)
	b.settled(b.d, p)
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: 5}); err != nil {
		t.Fatal(err)
	}
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: 2}); err != nil {
		t.Errorf("trim below the start: %v", err)
	}
	if start := b.starts(b.d)[0]; start != 5 {
		t.Errorf("trimmed down from 5 to %d", start)
	}
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: b.ends(b.d)[0] + 1000}); err == nil {
		t.Error("a trim beyond the end is not refused")
	}
	if start, end := b.starts(b.d)[0], b.ends(b.d)[0]; start != 5 || end < start {
		t.Errorf("after a trim beyond the end: [%d, %d), want it to start at 5", start, end)
	}
	wantErr(t, "trim an unknown partition", b.d.Trim(b.ctx, eventlog.Position{Part: b.part(9)}), eventlog.ErrUnknownTopic)
}
