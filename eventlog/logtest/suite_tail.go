package logtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

var tailTests = []test{
	{"TailHistoryThenLive", testTailHistoryThenLive},
	{"TailWakes", testTailWakes},
	{"TailFromTheMiddle", testTailFromTheMiddle},
	{"TailSlow", testTailSlow},
	{"TailMany", testTailMany},
	{"TailReachesEnds", testTailReachesEnds},
	{"TailAdd", testTailAdd},
	{"TailGapAtStart", testTailGapAtStart},
	{"TailTrimmedUnder", testTailTrimmedUnder},
	{"TailDeleted", testTailDeleted},
	{"TailRecreated", testTailRecreated},
	{"TailUnknown", testTailUnknown},
	{"TailClose", testTailClose},
}

func (b *bench) tail(from eventlog.Vector) *follower {
	b.Helper()
	t, err := b.d.Tail(from)
	if err != nil {
		b.Fatalf("tail: %v", err)
	}
	return follow(b, t, from)
}

func (b *bench) zero() eventlog.Vector {
	v := eventlog.Vector{}
	for _, p := range b.all() {
		v[p] = 0
	}
	return v
}

// testTailHistoryThenLive: one sequence, without gap or repeat, across the seam between files and memory.
func testTailHistoryThenLive(t testing.TB, e *Env) {
	b := newBench(t, e)
	for i := range 60 {
		b.Append(b.d, b.part(int32(i%4)), "s", 1+i%3, i*5)
	}
	f := b.tail(b.zero())
	for i := range 200 {
		b.Append(b.d, b.part(int32(i%4)), "s", 1+i%3, i)
		if i%10 == 0 {
			f.poll()
		}
	}
	b.settled(b.d, b.all()...)
	f.until("everything durable was seen", f.has(b.all()...))
	f.check(b.zero())
	f.tail.Close()
}

// testTailWakes: who has polled everything and waits for Wake learns of what comes.
func testTailWakes(t testing.TB, e *Env) {
	b := newBench(t, e)
	f := b.tail(b.zero())
	for i := range 10 {
		for f.poll() {
		}
		select { // a token from before
		case <-f.tail.Wake():
		default:
		}
		for f.poll() {
		}
		b.put(b.d, b.part(int32(i%4)), "s", 1)
		select {
		case <-f.tail.Wake():
		case <-b.ctx.Done():
			t.Fatal("a record came and nobody woke")
		}
		f.until("what woke is there", f.has(b.all()...))
	}
	f.check(b.zero())
}

func testTailFromTheMiddle(t testing.TB, e *Env) {
	b := newBench(t, e)
	for range 20 {
		b.Append(b.d, b.part(0), "s", 3, 0)
		b.Append(b.d, b.part(1), "s", 1, 0)
	}
	b.put(b.d, b.part(0), "s", 1)
	b.put(b.d, b.part(1), "s", 1)
	b.settled(b.d, b.part(0), b.part(1))
	ends := b.ends(b.d)
	from := eventlog.Vector{b.part(0): ends[0]/2 + 1, b.part(1): ends[1], b.part(2): 0}
	f := b.tail(from)
	for i := range 20 {
		b.Append(b.d, b.part(int32(i%3)), "s", 2, 0)
	}
	b.Append(b.d, b.part(3), "s", 1, 0)
	b.settled(b.d, b.all()...)
	f.until("everything durable was seen", f.has(b.part(0), b.part(1), b.part(2)))
	f.check(from)
}

// testTailSlow: a tail that does not poll holds up nobody, and finds everything later.
func testTailSlow(t testing.TB, e *Env) {
	b := newBench(t, e)
	f := b.tail(b.zero())
	f.max = 10_000
	quick := b.tail(b.zero())
	for i := range 100 {
		b.Append(b.d, b.part(int32(i%2)), "s", 2, 20_000)
		if i%5 == 0 {
			quick.poll()
		}
		if i%50 == 0 {
			f.poll()
		}
	}
	b.settled(b.d, b.all()...)
	quick.until("everything durable was seen", quick.has(b.all()...))
	f.until("everything durable was seen", f.has(b.all()...))
	f.check(b.zero())
	quick.check(b.zero())
}

// testTailMany: tails are independent of each other.
func testTailMany(t testing.TB, e *Env) {
	b := newBench(t, e)
	var followers []*follower
	for range 5 {
		followers = append(followers, b.tail(b.zero()))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for range 25 {
				b.Append(b.d, b.part(int32(g)), fmt.Sprintf("g%d", g), 2, 0)
			}
		})
	}
	wg.Wait()
	followers[0].tail.Close()
	b.settled(b.d, b.all()...)
	for _, f := range followers[1:] {
		f.until("everything durable was seen", f.has(b.all()...))
		f.check(b.zero())
	}
}

// testTailReachesEnds: a tail passes the last stable offset, even where the last ones hold nothing to see.
func testTailReachesEnds(t testing.TB, e *Env) {
	b := newBench(t, e)
	f := b.tail(b.zero())
	for range 10 {
		b.put(b.d, b.part(0), "s", 2)
		if e.Foreign != nil {
			e.Foreign(t, b.part(0), []eventlog.Record{{Value: []byte(AbortedValue)}}, false)
		}
		b.claim(b.d, b.part(1))
		b.settled(b.d, b.part(0))
		f.until("the ends were reached", func() bool {
			for i, end := range b.ends(b.d) {
				if f.next[b.part(int32(i))] < end {
					return false
				}
			}
			return true
		})
		if i := slices.IndexFunc(b.all(), func(p eventlog.Part) bool { return f.next[p] > b.ends(b.d)[p.Index] }); i >= 0 {
			t.Fatalf("the tail is at %v, beyond the ends %v", f.next, b.ends(b.d))
		}
	}
	f.check(b.zero())
}

func testTailAdd(t testing.TB, e *Env) {
	b := newBench(t, e)
	f := b.tail(eventlog.Vector{})
	if f.poll() {
		t.Fatalf("a tail of nothing polls %+v", f.events)
	}
	b.put(b.d, b.part(0), "s", 5)
	f.add(b.part(0), 0)
	b.put(b.d, b.part(1), "s", 5)
	b.settled(b.d, b.part(0), b.part(1))
	f.until("the added partition was seen", f.has(b.part(0)))
	f.add(b.part(1), 0)
	f.add(b.part(2), 0)
	b.put(b.d, b.part(2), "s", 5)
	b.settled(b.d, b.part(2))
	f.until("all added partitions were seen", f.has(b.part(0), b.part(1), b.part(2)))
	f.check(eventlog.Vector{b.part(0): 0, b.part(1): 0, b.part(2): 0})
	if f.tail.Add(b.part(1), 0) == nil {
		t.Error("a partition is followed twice")
	}
	wantErr(t, "add an unknown partition", f.tail.Add(b.part(44), 0), eventlog.ErrUnknownTopic)
}

// testTailGapAtStart: a place below the start becomes a gap up to it, then what is there.
func testTailGapAtStart(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	b.put(b.d, p, "s", 10)
	b.settled(b.d, p)
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: 5}); err != nil {
		t.Fatal(err)
	}
	f := b.tail(eventlog.Vector{p: 2})
	f.until("everything durable was seen", f.has(p))
	if f.gaps[p] != 1 {
		t.Errorf("%d gaps, want 1", f.gaps[p])
	}
	f.check(eventlog.Vector{p: 5})
}

// testTailTrimmedUnder: what was trimmed before it was polled is a gap, or was delivered; never silence.
func testTailTrimmedUnder(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	f := b.tail(eventlog.Vector{p: 0})
	b.put(b.d, p, "s", 20)
	b.settled(b.d, p)
	end := b.ends(b.d)[0]
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: p, Offset: end - 3}); err != nil {
		t.Fatal(err)
	}
	b.forget(p, end-3)
	b.put(b.d, p, "s", 5)
	b.settled(b.d, p)
	f.until("everything durable was seen", f.has(p))
	if f.gaps[p] > 0 {
		for len(f.got[p]) > 0 && f.got[p][0].Offset < end-3 {
			f.got[p] = f.got[p][1:]
		}
		f.check(eventlog.Vector{p: end - 3})
	} else if err := b.Check(p, 0, f.next[p], f.got[p]); err != nil {
		t.Errorf("no gap was told, yet:\n%v", err)
	}
}

func testTailDeleted(t testing.TB, e *Env) {
	b := newBench(t, e)
	doomed := b.create("doomed", 2, nil)
	from := b.zero()
	from[eventlog.Part{Topic: doomed.ID, Index: 0}] = 0
	from[eventlog.Part{Topic: doomed.ID, Index: 1}] = 0
	f := b.tail(from)
	b.put(b.d, b.part(0), "s", 3)
	b.put(b.d, eventlog.Part{Topic: doomed.ID, Index: 1}, "doomed", 3)
	if err := b.d.DeleteTopic(b.ctx, "doomed"); err != nil {
		t.Fatal(err)
	}
	f.until("both partitions have ended", func() bool { return len(f.ended) == 2 })
	for p, kind := range f.ended {
		if p.Topic != doomed.ID || kind != eventlog.Deleted {
			t.Errorf("%v ended with event %d", p, kind)
		}
	}
	b.put(b.d, b.part(1), "s", 3)
	b.settled(b.d, b.part(0), b.part(1))
	f.until("the living partitions go on", f.has(b.part(0), b.part(1)))
	f.check(b.zero())
}

// testTailRecreated: the old topic's tail ends; the new one is followed by Add.
func testTailRecreated(t testing.TB, e *Env) {
	b := newBench(t, e)
	old := b.create("phoenix", 1, nil)
	from := b.zero()
	from[eventlog.Part{Topic: old.ID}] = 0
	f := b.tail(from)
	b.put(b.d, eventlog.Part{Topic: old.ID}, "old", 3)
	if err := b.d.DeleteTopic(b.ctx, "phoenix"); err != nil {
		t.Fatal(err)
	}
	risen := b.create("phoenix", 1, nil)
	f.until("the old partition has ended", func() bool { return len(f.ended) == 1 })
	p := eventlog.Part{Topic: risen.ID}
	f.add(p, 0)
	b.topic = risen
	b.put(b.d, p, "new", 3)
	b.settled(b.d, p)
	f.until("the new partition is followed", f.has(p))
	f.check(eventlog.Vector{p: 0})
	if _, ok := f.ended[p]; ok {
		t.Error("the new partition has ended")
	}
}

// testTailUnknown: a topic that is no more when the tail begins is an error, or an event; never silence.
func testTailUnknown(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := eventlog.Part{Topic: eventlog.TopicID{1, 2, 3}}
	tail, err := b.d.Tail(eventlog.Vector{b.part(0): 0, p: 0})
	if err != nil {
		wantErr(t, "tail", err, eventlog.ErrUnknownTopic)
		return
	}
	f := follow(b, tail, eventlog.Vector{b.part(0): 0, p: 0})
	f.until("the unknown partition has ended", func() bool { _, ok := f.ended[p]; return ok })
}

func testTailClose(t testing.TB, e *Env) {
	b := newBench(t, e)
	f := b.tail(b.zero())
	b.put(b.d, b.part(0), "s", 3)
	f.tail.Close()
	_, err := f.tail.Poll(nil, 1000)
	wantErr(t, "poll a closed tail", err, eventlog.ErrClosed)
	wantErr(t, "add to a closed tail", f.tail.Add(b.part(0), 0), eventlog.ErrClosed)
	f.tail.Close()
	b.put(b.d, b.part(0), "s", 3)

	f = b.tail(b.zero())
	if err := b.d.Close(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err = f.tail.Poll(nil, 1000); err != nil {
			break
		}
		select {
		case <-f.tail.Wake():
		case <-b.ctx.Done():
			t.Fatal("a tail of a closed log polls on")
		}
	}
	if !errors.Is(err, eventlog.ErrClosed) {
		t.Errorf("poll of a closed log: %v", err)
	}
	f.tail.Close()
}
