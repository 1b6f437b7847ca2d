package logtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

// all is every hostility that a simulator can ask for.
func all() Hostility {
	h := Hostile()
	h.Manual, h.WriterLost, h.WriterRefuse, h.Trim, h.Compact = true, 0.05, 0.05, 0.05, 0.2
	return h
}

// play runs one process after another on a manual log, and tells everything that happened.
func play(t *testing.T, seed uint64, h Hostility) string {
	t.Helper()
	ctx := context.Background()
	var story strings.Builder
	m := NewMemory(seed, h)
	topic, err := m.CreateTopic(ctx, eventlog.TopicSpec{Name: "t", Partitions: 3, Config: map[string]string{"cleanup.policy": "compact"}})
	if err != nil {
		t.Fatal(err)
	}
	part := func(i int) eventlog.Part { return eventlog.Part{Topic: topic.ID, Index: int32(i)} }
	l := NewLedger()
	for life := range 3 {
		tail, err := m.Tail(eventlog.Vector{part(0): 0, part(1): 0})
		if err != nil {
			t.Fatal(err)
		}
		w, err := m.Claim(ctx, part(2))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 60 {
			name := fmt.Sprintf("life %d", life)
			sent := l.Append(m, part(i%2), name, 1+i%3, 0)
			written := l.Append(w, part(2), name, 1, 0)
			for range i % 4 {
				m.Step()
			}
			fmt.Fprintln(&story, *sent[0], *written[0])
			events, err := tail.Poll(nil, 1<<16)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				fmt.Fprintln(&story, e.Kind, e.Part.Index, e.Next)
			}
		}
		if life == 1 {
			m.Drain()
			if n := l.Outstanding(); n != 0 {
				t.Fatalf("%d appends have no answer after Drain", n)
			}
		}
		m.Restart()
		if n := l.Outstanding(); n != 0 {
			t.Fatalf("%d appends have no answer after Restart", n)
		}
		if _, err := tail.Poll(nil, 1); !errors.Is(err, eventlog.ErrClosed) {
			t.Fatalf("a tail of the life before: %v", err)
		}
		if dead := l.Append(w, part(2), "dead", 1, 0); dead[0].Fate == Outstanding {
			m.Drain()
			if !errors.Is(dead[0].Err, eventlog.ErrClosed) {
				t.Fatalf("a writer of the life before: %v: %v", dead[0].Fate, dead[0].Err)
			}
		}
	}
	m.Drain()
	for i := range 3 {
		recs, err := ReadRange(ctx, m, part(i), must(m.Starts(ctx, topic.ID))[i], must(m.Ends(ctx, topic.ID))[i], 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&story, recs)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return story.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestManualIsDeterministic: the same seed and the same calls, the same story; another seed, another.
func TestManualIsDeterministic(t *testing.T) {
	for i := range tier.N(100) {
		seed := tier.Seed() + uint64(i)
		first := play(t, seed, all())
		if again := play(t, seed, all()); again != first {
			t.Fatalf("seed %d tells two stories", seed)
		}
		if other := play(t, seed+1000, all()); other == first {
			t.Fatalf("seeds %d and %d tell one story", seed, seed+1000)
		}
	}
}

// TestManualAddsUp: whatever a manual log does, restarts included, it does within the contract.
func TestManualAddsUp(t *testing.T) {
	h := all()
	h.Trim, h.Compact = 0, 0
	twins := 0
	for i := range tier.N(300) {
		ctx := context.Background()
		m := NewMemory(tier.Seed()+uint64(i), h)
		topic := must(m.CreateTopic(ctx, eventlog.TopicSpec{Name: "t", Partitions: 3}))
		l := NewLedger()
		var parts []eventlog.Part
		for j := range int32(3) {
			parts = append(parts, eventlog.Part{Topic: topic.ID, Index: j})
		}
		ends := make([]int64, 3)
		for life := range 4 {
			w := must(m.Claim(ctx, parts[2]))
			for k := range 40 {
				name := fmt.Sprintf("life %d", life)
				l.Append(m, parts[k%2], name, 1+k%3, 0)
				l.Append(w, parts[2], name, 1, 0)
				for range k % 5 {
					m.Step()
				}
				if k == 20 {
					for j, p := range parts {
						_, end, err := l.CheckLog(ctx, m, p)
						if err != nil {
							t.Fatalf("seed %d: %v", tier.Seed()+uint64(i), err)
						}
						ends[j] = end
					}
				}
			}
			before := len(l.With(parts[0], Unknown))
			m.Restart()
			twins += len(l.With(parts[0], Unknown)) - before
		}
		m.Drain()
		for j, p := range parts {
			if _, end, err := l.CheckLog(ctx, m, p); err != nil || end < ends[j] {
				t.Fatalf("seed %d: partition %d ends at %d, was %d: %v", tier.Seed()+uint64(i), j, end, ends[j], err)
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if twins == 0 {
		t.Error("no restart left anything unknown")
	}
}

// TestLateTwins: an append whose outcome is unknown lands a restart later, and never behind a claim.
func TestLateTwins(t *testing.T) {
	ctx := context.Background()
	late, fenced := 0, 0
	for seed := range uint64(100) {
		m := NewMemory(seed, Hostility{Manual: true, Unknown: 1, WriterLost: 1, Late: 1})
		topic := must(m.CreateTopic(ctx, eventlog.TopicSpec{Name: "t", Partitions: 2}))
		plain, claimed := eventlog.Part{Topic: topic.ID}, eventlog.Part{Topic: topic.ID, Index: 1}
		l := NewLedger()
		l.Append(m, plain, "plain", 1, 0)
		l.Append(must(m.Claim(ctx, claimed)), claimed, "old", 1, 0)
		m.Drain()
		if len(l.With(plain, Unknown)) != 1 || len(l.With(claimed, Unknown)) != 1 {
			t.Fatal("not unknown")
		}
		ends := must(m.Ends(ctx, topic.ID))
		m.Restart()
		must(m.Claim(ctx, claimed))
		end := must(m.Ends(ctx, topic.ID))[1]
		m.Drain()
		now := must(m.Ends(ctx, topic.ID))
		if now[0] != 1 {
			t.Fatalf("seed %d: an append that is late for certain never came", seed)
		}
		if ends[0] == 0 {
			late++
		}
		if now[1] != end {
			t.Fatalf("seed %d: an earlier writer's record came after a claim", seed)
		}
		if end == 0 {
			fenced++
		}
		must(0, m.Close())
	}
	if late == 0 || fenced == 0 {
		t.Errorf("%d came after a restart, %d were fenced off: want some of each", late, fenced)
	}
}

// TestTrimsAndCompacts: a reader below whom records go away is told, and what compaction leaves is the last of each key.
func TestTrimsAndCompacts(t *testing.T) {
	gaps, gone := 0, 0
	for seed := range uint64(20) {
		g, _ := wear(t, seed, Hostility{Manual: true, Shuffle: true, Trim: 0.2, TailDelay: 0.5})
		_, n := wear(t, seed, Hostility{Manual: true, Shuffle: true, Compact: 0.3})
		gaps, gone = gaps+g, gone+n
	}
	if gaps == 0 || gone == 0 {
		t.Errorf("%d gaps and %d compacted records: want some of each", gaps, gone)
	}
}

// wear appends to a compacted topic and counts what its tail was told is gone, and what is gone without that.
func wear(t *testing.T, seed uint64, h Hostility) (gaps, gone int) {
	ctx := context.Background()
	m := NewMemory(seed, h)
	defer m.Close()
	topic := must(m.CreateTopic(ctx, eventlog.TopicSpec{Name: "t", Partitions: 2, Config: map[string]string{"cleanup.policy": "compact"}}))
	p := eventlog.Part{Topic: topic.ID}
	tail := must(m.Tail(eventlog.Vector{p: 0}))
	last := map[string]string{}
	var next int64
	for i := range 100 {
		key, value := fmt.Sprint("k", i%5), fmt.Sprint("v", i)
		last[key] = value
		m.Append(newBatch(t, p, eventlog.None, eventlog.Record{Key: []byte(key), Value: []byte(value)}), func(o eventlog.Outcome) {
			if o.At(0).Err != nil {
				t.Error(o)
			}
		})
		for range i % 9 {
			m.Step()
		}
		if i%7 != 0 {
			continue
		}
		for _, e := range must(tail.Poll(nil, 1<<16)) {
			if e.Kind == eventlog.Gap {
				gaps++
			}
			if e.Next <= next {
				t.Fatalf("from %d to %d", next, e.Next)
			}
			next = e.Next
		}
	}
	m.Drain()
	start, end := must(m.Starts(ctx, topic.ID))[0], must(m.Ends(ctx, topic.ID))[0]
	recs, err := ReadRange(ctx, m, p, start, end, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range last {
		if start == 0 && !slices.ContainsFunc(recs, func(s Seen) bool { return s.Value == value }) {
			t.Errorf("seed %d: the last value of %s is gone", seed, key)
		}
	}
	return gaps, int(end-start) - len(recs)
}

// TestLedgerHasTeeth: each way in which a log can be wrong is told.
func TestLedgerHasTeeth(t *testing.T) {
	p := eventlog.Part{Index: 1}
	set := func() (*Ledger, []Seen) {
		l := NewLedger()
		var got []Seen
		for i, fate := range []eventlog.Outcome{{Base: 0}, {Base: 1}, {Err: ErrRefused}, {Err: eventlog.ErrUnknownOutcome}, {Base: 4}} {
			v := fmt.Sprint("v", i)
			sent := l.Register("s", newBatch(t, p, eventlog.None, eventlog.Record{Value: []byte(v)}))
			l.Answer(sent, fate)
			if fate.Err == nil {
				got = append(got, Seen{Position: eventlog.Position{Part: p, Offset: fate.Base}, Value: v, Own: true})
			}
		}
		return l, got
	}
	at := func(o int64, v string, own bool) Seen {
		return Seen{Position: eventlog.Position{Part: p, Offset: o}, Value: v, Own: own}
	}
	l, good := set()
	if err := l.Check(p, 0, 10, good); err != nil {
		t.Fatalf("what is right: %v", err)
	}
	l, good = set()
	if err := l.Check(p, 0, 10, append(slices.Clone(good), at(7, "v3", true), at(8, "a stranger", false))); err != nil {
		t.Fatalf("with a late one and a stranger: %v", err)
	}
	for what, bad := range map[string][]Seen{
		"a durable record missing":      {good[0], good[2]},
		"a refused record there":        append(slices.Clone(good), at(7, "v2", true)),
		"an unknown record there twice": append(slices.Clone(good), at(7, "v3", true), at(8, "v3", true)),
		"a durable record twice":        append(slices.Clone(good), at(7, "v1", true)),
		"a record elsewhere":            {good[0], at(2, "v1", true), good[2]},
		"two swapped":                   {at(0, "v1", true), at(1, "v0", true), good[2]},
		"a record nobody sent":          append(slices.Clone(good), at(7, "v9", true)),
		"our record without Own":        {at(0, "v0", false), good[1], good[2]},
		"an aborted record":             append(slices.Clone(good), at(7, AbortedValue, false)),
		"offsets that go back":          {good[1], good[0], good[2]},
		"an offset beyond the range":    append(slices.Clone(good), at(10, "a stranger", false)),
	} {
		l, _ := set()
		if l.Check(p, 0, 10, bad) == nil {
			t.Errorf("%s passes", what)
		}
	}
	l, good = set()
	if err := l.Check(p, 0, 10, append(slices.Clone(good), at(7, "a stranger", false))); err != nil {
		t.Fatal(err)
	}
	if l.Check(p, 0, 10, good) == nil {
		t.Error("what was read once and is gone passes")
	}
	if l.Check(p, 0, 10, append(slices.Clone(good), at(7, "another", false))) == nil {
		t.Error("what was read once and has changed passes")
	}
	l = NewLedger()
	sent := l.Register("s", newBatch(t, p, eventlog.None, eventlog.Record{Value: []byte("v")}))
	l.Answer(sent, eventlog.Outcome{})
	l.Answer(sent, eventlog.Outcome{})
	if l.Check(p, 0, 1, []Seen{at(0, "v", true)}) == nil {
		t.Error("an append answered twice passes")
	}

	l = NewLedger()
	sent = l.Register("s", newBatch(t, p, eventlog.None, eventlog.Record{Value: []byte("v")}))
	l.Crash()
	l.Answer(sent, eventlog.Outcome{Base: 5})
	if sent[0].Fate != Unknown || l.Outstanding() != 0 {
		t.Errorf("answered to a dead process: %v, %d outstanding", sent[0].Fate, l.Outstanding())
	}
	if err := l.Check(p, 0, 10, nil); err != nil {
		t.Errorf("an unknown record that never came: %v", err)
	}
}
