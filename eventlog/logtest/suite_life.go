package logtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

var lifeTests = []test{
	{"CloseIdle", testCloseIdle},
	{"CloseAnswers", testCloseAnswers},
	{"CloseWhileAppending", testCloseWhileAppending},
	{"CloseWhileStalled", testCloseWhileStalled},
	{"ReopenKeeps", testReopenKeeps},
	{"CrashKeeps", testCrashKeeps},
}

// wantClosed says that nothing works on a closed log.
func wantClosed(b *bench) {
	b.Helper()
	_, err := b.d.CreateTopic(b.ctx, eventlog.TopicSpec{Name: "late"})
	wantErr(b, "create topic", err, eventlog.ErrClosed)
	_, err = b.d.Topics(b.ctx)
	wantErr(b, "topics", err, eventlog.ErrClosed)
	wantErr(b, "configure topic", b.d.ConfigureTopic(b.ctx, b.topic.Name, nil), eventlog.ErrClosed)
	wantErr(b, "delete topic", b.d.DeleteTopic(b.ctx, b.topic.Name), eventlog.ErrClosed)
	_, err = b.d.Ends(b.ctx, b.topic.ID)
	wantErr(b, "ends", err, eventlog.ErrClosed)
	_, err = b.d.Starts(b.ctx, b.topic.ID)
	wantErr(b, "starts", err, eventlog.ErrClosed)
	_, _, err = b.d.Read(b.ctx, eventlog.Position{Part: b.part(0)}, 1000)
	wantErr(b, "read", err, eventlog.ErrClosed)
	_, err = b.d.OffsetByTime(b.ctx, b.part(0), 0)
	wantErr(b, "offset by time", err, eventlog.ErrClosed)
	wantErr(b, "trim", b.d.Trim(b.ctx, eventlog.Position{Part: b.part(0)}), eventlog.ErrClosed)
	_, err = b.d.Claim(b.ctx, b.part(0))
	wantErr(b, "claim", err, eventlog.ErrClosed)
	_, err = b.d.Tail(b.zero())
	wantErr(b, "tail", err, eventlog.ErrClosed)
	sent := b.Append(b.d, b.part(0), "late", 2, 0)
	b.wait()
	wantErr(b, "append", sent[0].Err, eventlog.ErrClosed)
	if sent[0].Fate != Refused {
		b.Errorf("an append after Close is %v", sent[0].Fate)
	}
	if ch := b.d.Room(b.part(0)); ch != nil {
		select {
		case <-ch:
		case <-b.ctx.Done():
			b.Error("Room of a closed log waits forever")
		}
	}
}

func testCloseIdle(t testing.TB, e *Env) {
	b := newBench(t, e)
	if err := b.d.Close(); err != nil {
		t.Fatal(err)
	}
	wantClosed(b)
	if err := b.d.Close(); err != nil {
		wantErr(t, "a second Close", err, eventlog.ErrClosed)
	}
}

// testCloseAnswers: when Close returns, every append made before has its answer, exactly one.
func testCloseAnswers(t testing.TB, e *Env) {
	b := newBench(t, e)
	w := b.claim(b.d, b.part(3))
	for i := range 100 {
		b.Append(b.d, b.part(int32(i%3)), "s", 1+i%3, 0)
		b.Append(w, b.part(3), "w", 1, 0)
	}
	if err := b.d.Close(); err != nil {
		t.Fatal(err)
	}
	if n := b.Outstanding(); n != 0 {
		t.Fatalf("%d appends have no answer after Close", n)
	}
	wantClosed(b)
	sent := b.Append(w, b.part(3), "w", 1, 0)
	b.wait()
	if sent[0].Fate != Refused {
		t.Errorf("a writer's append after Close is %v", sent[0].Fate)
	}
	if e.Reopen != nil {
		b.d = e.Reopen(t)
		b.settled(b.d, b.all()...)
		b.check(b.d, b.all()...)
	}
}

func testCloseWhileAppending(t testing.TB, e *Env) {
	b := newBench(t, e)
	f := b.tail(b.zero())
	var wg sync.WaitGroup
	started := make(chan struct{}, 4)
	for g := range 4 {
		wg.Go(func() {
			for i := range 300 {
				if i == 50 {
					started <- struct{}{}
				}
				b.Append(b.d, b.part(int32(g)), fmt.Sprintf("g%d", g), 1, 0)
			}
		})
	}
	wg.Go(func() {
		for {
			if _, err := f.tail.Poll(nil, 1<<16); err != nil {
				wantErr(t, "poll", err, eventlog.ErrClosed)
				return
			}
			select {
			case <-f.tail.Wake():
			case <-b.ctx.Done():
				t.Error("a tail was not woken when its log closed")
				return
			}
		}
	})
	<-started
	var closers sync.WaitGroup
	for range 2 {
		closers.Go(func() { _ = b.d.Close() })
	}
	closers.Wait()
	wg.Wait()
	b.wait()
	wantClosed(b)
	if e.Reopen != nil {
		b.d = e.Reopen(t)
		b.settled(b.d, b.all()...)
		b.check(b.d, b.all()...)
	}
}

// testCloseWhileStalled: what cannot be answered definitely is answered unknown, and Close returns once it may go on.
func testCloseWhileStalled(t testing.TB, e *Env) {
	if e.Stall == nil {
		t.Skip("Env has no Stall")
	}
	b := newBench(t, e)
	release := e.Stall(t)
	for i := range 20 {
		b.Append(b.d, b.part(int32(i%4)), "s", 1, 0)
	}
	done := make(chan error, 1)
	go func() { done <- b.d.Close() }()
	release()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-b.ctx.Done():
		t.Fatal("Close hangs")
	}
	if n := b.Outstanding(); n != 0 {
		t.Fatalf("%d appends have no answer after Close", n)
	}
	if e.Reopen != nil {
		b.d = e.Reopen(t)
		b.settled(b.d, b.all()...)
		b.check(b.d, b.all()...)
	}
}

// testReopenKeeps: topics, configs, records, starts, ends survive.
func testReopenKeeps(t testing.TB, e *Env) {
	if e.Reopen == nil {
		t.Skip("Env has no Reopen")
	}
	b := newBench(t, e)
	conf := b.create("configured", 2, map[string]string{"retention.ms": "123456789"})
	gone := b.create("gone", 1, nil)
	for i := range 50 {
		b.Append(b.d, b.part(int32(i%4)), "s", 3, 100)
	}
	b.put(b.d, b.part(0), "s", 10)
	if err := b.d.DeleteTopic(b.ctx, gone.Name); err != nil {
		t.Fatal(err)
	}
	b.settled(b.d, b.all()...)
	if err := b.d.Trim(b.ctx, eventlog.Position{Part: b.part(0), Offset: 7}); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		b.settled(b.d, b.all()...)
		b.check(b.d, b.all()...)
		ends := b.ends(b.d)
		if err := b.d.Close(); err != nil {
			t.Fatal(err)
		}
		b.d = e.Reopen(t)
		if got, ok := find(b, conf.Name); !ok || !sameTopic(got, conf) {
			t.Fatalf("after a restart: %+v, was %+v", got, conf)
		}
		if _, ok := find(b, gone.Name); ok {
			t.Fatal("a deleted topic is back after a restart")
		}
		if starts := b.starts(b.d); starts[0] != 7 || slices.Max(starts[1:]) != 0 {
			t.Fatalf("after a restart the partitions start at %v", starts)
		}
		for i, end := range b.ends(b.d) {
			if end < ends[i] {
				t.Fatalf("after a restart partition %d ends at %d, was %d", i, end, ends[i])
			}
		}
		b.check(b.d, b.all()...)
		f := b.tail(eventlog.Vector{b.part(0): 7, b.part(1): 0})
		for i := range 10 {
			b.Append(b.d, b.part(int32(i%4)), fmt.Sprintf("again%d", round), 2, 0)
		}
		b.settled(b.d, b.all()...)
		f.until("everything durable was seen", f.has(b.part(0), b.part(1)))
		f.check(eventlog.Vector{b.part(0): 7, b.part(1): 0})
	}
}

// testCrashKeeps: what was answered durable, or read, survives the death of the process; the rest may.
func testCrashKeeps(t testing.TB, e *Env) {
	if e.Crash == nil {
		t.Skip("Env has no Crash")
	}
	b := newBench(t, e)
	for round := range 5 {
		w := b.claim(b.d, b.part(3))
		b.write(b.d, w, b.part(3), fmt.Sprintf("w%d", round), 2)
		b.put(b.d, b.part(0), fmt.Sprintf("s%d", round), 3)
		for i := range 50 {
			b.Append(b.d, b.part(int32(i%3)), fmt.Sprintf("s%d", round), 1+i%3, 0)
			b.Append(w, b.part(3), fmt.Sprintf("w%d", round), 1, 0)
		}
		b.d = e.Crash(t)
		b.Crash()
		b.settled(b.d, b.all()...)
		b.check(b.d, b.all()...)
		epoch := w.Epoch()
		if w = b.claim(b.d, b.part(3)); w.Epoch() <= epoch {
			t.Fatalf("epoch %d after %d and a crash", w.Epoch(), epoch)
		}
	}
}
