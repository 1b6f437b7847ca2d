package logtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

var appendTests = []test{
	{"AppendOrder", testAppendOrder},
	{"AppendConcurrent", testAppendConcurrent},
	{"AppendFromDone", testAppendFromDone},
	{"AppendFidelity", testAppendFidelity},
	{"AppendUnknownPartition", testAppendUnknownPartition},
	{"AppendTooLarge", testAppendTooLarge},
	{"AppendLostAnswers", testAppendLostAnswers},
	{"AppendForeign", testAppendForeign},
	{"AppendAtomic", testAppendAtomic},
	{"AppendAtomicRefused", testAppendAtomicRefused},
	{"Room", testRoom},
	{"RoomWhenStalled", testRoomWhenStalled},
}

// testAppendOrder: one goroutine's batches, many in flight, become stable in the order of its calls.
func testAppendOrder(t testing.TB, e *Env) {
	b := newBench(t, e)
	for i := range 200 {
		b.Append(b.d, b.part(int32(i*7%4)), "s", 1+i%5, i%300)
	}
	b.settled(b.d, b.all()...)
	got := b.check(b.d, b.all()...)
	if len(got) < 100 {
		t.Errorf("only %d records are there", len(got))
	}
}

func testAppendConcurrent(t testing.TB, e *Env) {
	b := newBench(t, e)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				b.Append(b.d, b.part(int32((g+i)%4)), fmt.Sprintf("goroutine-%d", g), 1+i%3, 0)
			}
		})
	}
	wg.Wait()
	b.settled(b.d, b.all()...)
	b.check(b.d, b.all()...)
}

// testAppendFromDone: done may append.
func testAppendFromDone(t testing.TB, e *Env) {
	b := newBench(t, e)
	end := make(chan struct{})
	var next func(i int)
	next = func(i int) {
		batch := newBatch(b, b.part(0), eventlog.None, eventlog.Record{Value: fmt.Appendf(nil, "link %d", i)})
		sent := b.Register("chain", batch)
		b.d.Append(batch, func(o eventlog.Outcome) {
			if i < 50 {
				next(i + 1)
			} else {
				close(end)
			}
			b.Answer(sent, o)
		})
	}
	next(0)
	select {
	case <-end:
	case <-b.ctx.Done():
		t.Fatal("the chain of appends stands still")
	}
	b.settled(b.d, b.part(0))
	b.check(b.d, b.part(0))
}

// testAppendFidelity: keys, values, headers and timestamps come back as they were, in every compression.
func testAppendFidelity(t testing.TB, e *Env) {
	b := newBench(t, e)
	for c := eventlog.None; c <= eventlog.Zstd; c++ {
		want := []eventlog.Record{
			{Timestamp: 1_700_000_000_000, Key: []byte("key"), Value: []byte("value"), Headers: []eventlog.Header{
				{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "", Value: nil}, {Key: "empty", Value: []byte{}},
			}},
			{Timestamp: 1_699_999_999_000, Key: nil, Value: []byte{}},
			{Timestamp: 1_700_000_000_001, Key: []byte{}, Value: nil},
			{Timestamp: 1_700_000_000_002, Key: []byte{0, 255, 10}, Value: bytes.Repeat([]byte("abcdefgh"), 4000)},
		}
		var at int64 = -1
		for tries := 0; at < 0; tries++ {
			o := answer(t, b.d, newBatch(t, b.part(0), c, want...))
			whole := true
			for i := range want {
				whole = whole && o.At(i).Err == nil
			}
			if whole {
				at = o.At(0).Offset
				for i := range want {
					want[i].Offset = o.At(i).Offset
				}
			} else if tries > 100 {
				t.Fatalf("%v: no batch gets through: %v", c, o)
			}
		}
		last := want[len(want)-1].Offset
		eventually(t, "the batch is stable", func() bool { return b.ends(b.d)[0] > last })
		batches, _, err := b.d.Read(b.ctx, eventlog.Position{Part: b.part(0), Offset: at}, 1)
		if err != nil || len(batches) == 0 {
			t.Fatalf("%v: read at %d: %d batches, %v", c, at, len(batches), err)
		}
		var got []eventlog.Record
		for _, r := range records(batches[0]) {
			if r.Offset >= at {
				got = append(got, r)
			}
		}
		if !batches[0].Own {
			t.Errorf("%v: our own batch comes back without Own", c)
		}
		if !slices.EqualFunc(got, want, sameRecord) {
			t.Errorf("%v: got\n%+v\nwant\n%+v", c, got, want)
		}
	}
}

// sameRecord compares records, nil and empty told apart.
func sameRecord(a, b eventlog.Record) bool {
	return a.Offset == b.Offset && a.Timestamp == b.Timestamp && sameBytes(a.Key, b.Key) && sameBytes(a.Value, b.Value) &&
		slices.EqualFunc(a.Headers, b.Headers, func(a, b eventlog.Header) bool { return a.Key == b.Key && sameBytes(a.Value, b.Value) })
}

func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func testAppendUnknownPartition(t testing.TB, e *Env) {
	b := newBench(t, e)
	for _, p := range []eventlog.Part{b.part(4), b.part(-1), {Topic: eventlog.TopicID{1, 2, 3}}} {
		o := answer(t, b.d, newBatch(t, p, eventlog.None, eventlog.Record{Value: []byte("x")}))
		wantErr(t, "append to "+p.String(), o.At(0).Err, eventlog.ErrUnknownTopic)
		if errors.Is(o.At(0).Err, eventlog.ErrUnknownOutcome) {
			t.Errorf("append to %v: %v, want it refused", p, o.At(0).Err)
		}
	}
}

// testAppendTooLarge: a batch beyond the topic's limit is refused, alone.
func testAppendTooLarge(t testing.TB, e *Env) {
	b := newBench(t, e)
	b.topic = b.create("narrow", 1, map[string]string{"max.message.bytes": "2000"})
	b.Append(b.d, b.part(0), "s", 1, 100)
	big := b.Append(b.d, b.part(0), "big", 1, 5000)
	b.Append(b.d, b.part(0), "s", 1, 100)
	b.settled(b.d, b.part(0))
	wantErr(t, "append 5000 bytes", big[0].Err, eventlog.ErrTooLarge)
	if big[0].Fate != Refused {
		t.Errorf("the large record is %v", big[0].Fate)
	}
	b.check(b.d, b.part(0))
}

// testAppendLostAnswers: an append whose answer was lost is retried under its own sequence until the answer is definite.
func testAppendLostAnswers(t testing.TB, e *Env) {
	if e.LoseAnswers == nil {
		t.Skip("Env has no LoseAnswers")
	}
	b := newBench(t, e)
	b.put(b.d, b.part(0), "s", 3)
	for i := range 10 {
		e.LoseAnswers(t, 1+i%3)
		for j := range 5 {
			b.Append(b.d, b.part(int32(j%2)), "s", 1+j%3, 0)
		}
		b.wait()
	}
	b.settled(b.d, b.all()...)
	b.check(b.d, b.all()...)
	for _, p := range b.all() {
		for _, s := range append(b.With(p, Refused), b.With(p, Unknown)...) {
			t.Errorf("%q: %v: %v, want a definite answer", s.Value, s.Fate, s.Err)
		}
	}
}

// testAppendForeign: other writers' records are read without Own, aborted ones never.
func testAppendForeign(t testing.TB, e *Env) {
	if e.Foreign == nil {
		t.Skip("Env has no Foreign")
	}
	b := newBench(t, e)
	p := b.part(0)
	tail, err := b.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	f := follow(b, tail, eventlog.Vector{p: 0})
	strangers := map[string]bool{}
	for i := range 5 {
		b.put(b.d, p, "s", 2)
		e.Foreign(t, p, []eventlog.Record{{Timestamp: 5, Key: []byte("k"), Value: []byte(AbortedValue)}}, false)
		b.put(b.d, p, "s", 2)
		v := fmt.Sprintf("stranger %d", i)
		e.Foreign(t, p, []eventlog.Record{{Timestamp: 5, Key: []byte("k"), Value: []byte(v)}}, true)
		strangers[v] = true
	}
	b.put(b.d, p, "s", 1)
	b.settled(b.d, p)
	got := b.check(b.d, p)
	for _, r := range got {
		if strangers[r.Value] {
			delete(strangers, r.Value)
			if r.Own {
				t.Errorf("%q is read as our own", r.Value)
			}
		}
	}
	if len(strangers) > 0 {
		t.Errorf("not there: %v", strangers)
	}
	f.until("everything read", func() bool { return len(f.got[p]) >= len(got) })
	if !slices.Equal(f.got[p], got) {
		t.Errorf("the tail says\n%v\nreading says\n%v", f.got[p], got)
	}
}

func atomicAppender(t testing.TB, d eventlog.Driver) eventlog.AtomicAppender {
	t.Helper()
	a, ok := d.(eventlog.AtomicAppender)
	if !ok {
		t.Skip("the driver has no AppendAtomic")
	}
	return a
}

// testAppendAtomic: all batches of one call become stable together, and among the other appends in the order of the calls.
func testAppendAtomic(t testing.TB, e *Env) {
	a := atomicAppender(t, e.Driver)
	b := newBench(t, e)
	groups := map[string]int{}
	for i := range 20 {
		var batches []*eventlog.Batch
		var sent [][]*Sent
		for j := range int32(3) {
			group := fmt.Sprintf("group %d", i)
			batch := newBatch(t, b.part(j), eventlog.None, eventlog.Record{Value: fmt.Appendf(nil, "%s/%d", group, j)})
			groups[group] = 0
			batches = append(batches, batch)
			sent = append(sent, b.Register("atomic", batch))
		}
		a.AppendAtomic(batches, func(outs []eventlog.Outcome) {
			for k, o := range outs {
				b.Answer(sent[k], o)
			}
		})
		if i%3 == 0 {
			b.Append(b.d, b.part(int32(i%4)), "single", 2, 0)
		}
	}
	b.settled(b.d, b.all()...)
	for _, r := range b.check(b.d, b.all()...) {
		if i := bytes.LastIndexByte([]byte(r.Value), '/'); i > 0 {
			if _, ok := groups[r.Value[:i]]; ok {
				groups[r.Value[:i]]++
			}
		}
	}
	whole := 0
	for g, n := range groups {
		if n != 0 && n != 3 {
			t.Errorf("%d of 3 records of %s are there", n, g)
		}
		whole += n / 3
	}
	if whole < 10 {
		t.Errorf("only %d of 20 groups are there", whole)
	}
}

// testAppendAtomicRefused: if one batch cannot enter, none does.
func testAppendAtomicRefused(t testing.TB, e *Env) {
	a := atomicAppender(t, e.Driver)
	b := newBench(t, e)
	batches := []*eventlog.Batch{
		newBatch(t, b.part(0), eventlog.None, eventlog.Record{Value: []byte("one")}),
		newBatch(t, b.part(77), eventlog.None, eventlog.Record{Value: []byte("two")}),
		newBatch(t, b.part(1), eventlog.None, eventlog.Record{Value: []byte("three")}),
	}
	sent := [][]*Sent{b.Register("atomic", batches[0]), b.Register("atomic", batches[1]), b.Register("atomic", batches[2])}
	a.AppendAtomic(batches, func(outs []eventlog.Outcome) {
		for i, o := range outs {
			b.Answer(sent[i], o)
		}
	})
	b.wait()
	for i := range sent {
		if sent[i][0].Fate != Refused {
			t.Errorf("batch %d is %v, want refused", i, sent[i][0].Fate)
		}
	}
	b.put(b.d, b.part(0), "s", 1)
	b.put(b.d, b.part(1), "s", 1)
	b.settled(b.d, b.part(0), b.part(1))
	b.check(b.d, b.part(0), b.part(1))
}

// testRoom: an appender that asks Room first never has more than the bound outstanding, and is always let go on.
func testRoom(t testing.TB, e *Env) {
	b := newBench(t, e)
	const size, total = 8 << 10, 8 << 20
	var outstanding, most atomic.Int64
	var bl eventlog.Builder
	for i := range total / size {
		if ch := b.d.Room(b.part(0)); ch != nil {
			select {
			case <-ch:
			case <-b.ctx.Done():
				t.Fatalf("no room again after %d appends, %d bytes outstanding", i, outstanding.Load())
			}
		}
		bl.Add(1, nil, make([]byte, size), nil)
		batch, _, err := bl.Batch(b.part(0), eventlog.None)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(batch.Size())
		most.Store(max(most.Load(), outstanding.Add(n)))
		b.d.Append(batch, func(eventlog.Outcome) { outstanding.Add(-n) })
	}
	eventually(t, "every append is answered", func() bool { return outstanding.Load() == 0 })
	if ch := b.d.Room(b.part(0)); ch != nil {
		t.Error("no room though nothing is outstanding")
	}
	if e.RoomBytes > 0 && most.Load() > int64(e.RoomBytes)+2*size {
		t.Errorf("%d bytes were outstanding, the bound is %d", most.Load(), e.RoomBytes)
	}
}

// testRoomWhenStalled: a partition that is stuck says so, and comes back.
func testRoomWhenStalled(t testing.TB, e *Env) {
	if e.Stall == nil {
		t.Skip("Env has no Stall")
	}
	b := newBench(t, e)
	b.put(b.d, b.part(0), "before", 1)
	release := e.Stall(t)
	most := 256 << 20
	if e.RoomBytes > 0 {
		most = 2 * e.RoomBytes
	}
	var ch <-chan struct{}
	for n := 0; ch == nil; n += 16 << 10 {
		if n > most {
			release()
			t.Fatalf("%d bytes are outstanding and there is still room", n)
		}
		b.Append(b.d, b.part(0), "stalled", 1, 16<<10)
		ch = b.d.Room(b.part(0))
	}
	select {
	case <-ch:
		t.Error("room again though nothing was answered")
	case <-time.After(20 * time.Millisecond):
	}
	release()
	select {
	case <-ch:
	case <-b.ctx.Done():
		t.Fatal("no room again")
	}
	b.settled(b.d, b.part(0))
	b.check(b.d, b.part(0))
}
