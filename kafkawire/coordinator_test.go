package kafkawire

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/kafkawire/group"
)

// appends notes what is appended, together in one element.
type appends struct {
	Engine
	got [][]*eventlog.Batch
}

func (a *appends) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	a.got = append(a.got, []*eventlog.Batch{b})
	done(eventlog.Outcome{})
}

func (a *appends) AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	a.got = append(a.got, batches)
	done(make([]eventlog.Outcome, len(batches)))
}

// What a group wants written is one append, which a crash leaves whole or not at all, whatever it shares a write with; unless it is more than the log takes.
func TestGroupIsWrittenAtOnce(t *testing.T) {
	for _, tc := range []struct {
		of      []int // records of 10 KiB, by group
		appends int
	}{
		{of: []int{1}, appends: 1},
		{of: []int{3, 3, 3}, appends: 1},     // groups share
		{of: []int{20, 20, 20}, appends: 3},  // not more than is quick
		{of: []int{400}, appends: 1},         // a group that changes its protocol, with thousands of members
		{of: []int{5, 400, 5}, appends: 3},   //
		{of: []int{5, 1500, 5}, appends: 5},  // 15 MiB
		{of: []int{1, 600, 600}, appends: 3}, // nearly all that the log takes at once
	} {
		log := &appends{}
		co := &coordinator{log: log, now: time.Now, wake: make(chan struct{}, 1)}
		var want [][]byte
		for i, n := range tc.of {
			e := &entry{g: group.New(fmt.Sprint(i), &group.Config{}), busy: true}
			for j := range n {
				r := group.Record{Key: fmt.Appendf(nil, "%d-%d", i, j), Value: bytes.Repeat([]byte("x"), 10<<10)}
				e.out.Records, want = append(e.out.Records, r), append(want, r.Key)
			}
			co.unwritten = append(co.unwritten, e)
		}
		entries := slices.Clone(co.unwritten)
		co.write()
		var got [][]byte
		for _, batches := range log.got {
			size := 0
			for _, b := range batches {
				size += b.Size() + eventlog.HeaderSize
				if b.Size() > offsetsWhole {
					t.Errorf("%v: a batch of %d bytes", tc.of, b.Size())
				}
				if err := b.Each(func(r *eventlog.Record) error { got = append(got, slices.Clone(r.Key)); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			if size > engine.MaxAppend {
				t.Errorf("%v: an append of %d bytes", tc.of, size)
			}
		}
		if len(log.got) != tc.appends || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%v: %d appends, want %d; %d records, want %d", tc.of, len(log.got), tc.appends, len(got), len(want))
		}
		left := 0
		for _, e := range entries {
			left += e.left
		}
		if len(co.mail) != len(log.got) || left < len(log.got) {
			t.Errorf("%v: %d outcomes of %d appends, for %d shares", tc.of, len(co.mail), len(log.got), left)
		}
	}
}
