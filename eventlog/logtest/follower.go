package logtest

import (
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// follower polls a tail as its user should (poll until there is nothing, then wait for Wake), and checks each event.
type follower struct {
	b    *bench
	tail eventlog.Tail
	max  int // bytes a poll asks for

	next   eventlog.Vector
	got    map[eventlog.Part][]Seen
	gaps   map[eventlog.Part]int
	ended  map[eventlog.Part]eventlog.EventKind
	events []eventlog.Event
}

func follow(b *bench, t eventlog.Tail, from eventlog.Vector) *follower {
	f := &follower{b: b, tail: t, max: 1 << 16, next: eventlog.Vector{}, got: map[eventlog.Part][]Seen{},
		gaps: map[eventlog.Part]int{}, ended: map[eventlog.Part]eventlog.EventKind{}}
	for p, o := range from {
		f.next[p] = o
	}
	return f
}

func (f *follower) add(p eventlog.Part, from int64) {
	f.b.Helper()
	f.next[p] = from
	if err := f.tail.Add(p, from); err != nil {
		f.b.Fatalf("add %v: %v", p, err)
	}
}

// until polls until ok; every wait but the first try is for Wake.
func (f *follower) until(what string, ok func() bool) {
	f.b.Helper()
	timeout := time.After(patience)
	for !ok() {
		if f.poll() {
			continue
		}
		select {
		case <-f.tail.Wake():
		case <-timeout:
			f.b.Fatalf("after %v of polling, still not: %s; next %v, ended %v", patience, what, f.next, f.ended)
		}
	}
}

// poll takes what there is and reports whether that was anything.
func (f *follower) poll() bool {
	f.b.Helper()
	var err error
	if f.events, err = f.tail.Poll(f.events[:0], f.max); err != nil {
		f.b.Fatalf("poll: %v", err)
	}
	size := 0
	for _, e := range f.events {
		f.take(e)
		if e.Batch != nil {
			size += e.Batch.Size()
		}
	}
	if size > f.max+2<<20 {
		f.b.Errorf("polled %d bytes, asked for about %d", size, f.max)
	}
	return len(f.events) > 0
}

func (f *follower) take(e eventlog.Event) {
	f.b.Helper()
	at, ok := f.next[e.Part]
	if !ok {
		f.b.Fatalf("event %+v of a partition that is not followed", e)
	}
	if kind, ok := f.ended[e.Part]; ok {
		f.b.Fatalf("event %+v after %v", e, kind)
	}
	switch e.Kind {
	case eventlog.Records:
		if e.Next <= at || e.Batch == nil || e.Batch.Part != e.Part || e.Batch.Next() > e.Next {
			f.b.Fatalf("at %d of %v: records up to %d, batch %+v", at, e.Part, e.Next, e.Batch)
		}
		var err error
		if f.got[e.Part], err = Collect(f.got[e.Part], e.Batch, at, e.Next); err != nil {
			f.b.Fatal(err)
		}
	case eventlog.Gap:
		if e.Next <= at {
			f.b.Fatalf("at %d of %v: a gap up to %d", at, e.Part, e.Next)
		}
		f.gaps[e.Part]++
	case eventlog.Deleted, eventlog.Recreated:
		f.ended[e.Part] = e.Kind
		return
	default:
		f.b.Fatalf("event of kind %d", e.Kind)
	}
	f.next[e.Part] = e.Next
}

// has says that the tail has passed everything durable in the partitions.
func (f *follower) has(parts ...eventlog.Part) func() bool {
	want := eventlog.Vector{}
	for _, p := range parts {
		for _, s := range f.b.With(p, Durable) {
			want[p] = max(want[p], s.Offset+1)
		}
	}
	return func() bool {
		for p, to := range want {
			if f.next[p] < to {
				return false
			}
		}
		return true
	}
}

// check compares what the tail saw from some offsets on with the ledger, and with what reading says.
func (f *follower) check(from eventlog.Vector) {
	f.b.Helper()
	for p, at := range from {
		if err := f.b.Check(p, at, f.next[p], f.got[p]); err != nil {
			f.b.Fatalf("the tail of %v:\n%v", p, err)
		}
		read, err := ReadRange(f.b.ctx, f.b.d, p, at, f.next[p], 1<<16)
		if err != nil {
			f.b.Fatal(err)
		}
		for i := range max(len(read), len(f.got[p])) {
			if i >= len(read) || i >= len(f.got[p]) || read[i] != f.got[p][i] {
				f.b.Fatalf("record %d of %v from %d on differs: tail %d records, read %d", i, p, at, len(f.got[p]), len(read))
			}
		}
	}
}
