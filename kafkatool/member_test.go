package kafkatool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// joined runs a member until its ctx ends or it does, and returns what it emitted and said.
func (b *bench) joined(ctx context.Context, m Membership) (values, notes []string, err error) {
	var mu sync.Mutex
	m.Emit = func(r Record) error { values = append(values, string(r.Value)); return nil }
	m.Idle = func() error { return nil }
	m.Note = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		notes = append(notes, fmt.Sprintf(format, args...))
	}
	err = b.c.ConsumeGroup(ctx, m)
	mu.Lock()
	defer mu.Unlock()
	return values, notes, err
}

func TestConsumeGroup(t *testing.T) {
	b := newBench(t)
	b.fill(0, 5)
	b.fill(1, 5)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	values, notes, err := b.joined(ctx, Membership{Group: "g", Topics: []string{"t"}, FromEarliest: true, ToEnd: true})
	if err != nil || ctx.Err() != nil || len(values) != 10 {
		t.Fatalf("%q, %v, %v", values, err, ctx.Err())
	}
	for _, want := range []string{"Waiting for group rebalance", "assigned: t [0], t [1]", "Reached end of topic t [1] at offset 5"} {
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, want) }) {
			t.Errorf("%q is not said: %q", want, notes)
		}
	}
	g, err := b.c.DescribeGroup(ctx, "g", at(10))
	if err != nil || g.Lag != 0 || len(g.Members) != 0 || len(g.Lags) != 2 {
		t.Fatalf("%+v, %v", g, err)
	}
	b.fill(0, 3)
	// So many, and no more are committed.
	values, _, err = b.joined(ctx, Membership{Group: "g", Topics: []string{"^t$"}, Count: 2, ServerSide: true})
	if err != nil || !slices.Equal(values, []string{"0-0", "0-1"}) {
		t.Fatalf("%q, %v", values, err)
	}
	if g, err := b.c.DescribeGroup(ctx, "g", at(10)); err != nil || g.Lag != 1 {
		t.Fatalf("%+v, %v", g, err)
	}
	// A group that has committed nothing begins at the end.
	values, _, err = b.joined(ctx, Membership{Group: "new", Topics: []string{"t"}, ToEnd: true})
	if err != nil || len(values) != 0 {
		t.Fatalf("%q, %v", values, err)
	}
	if _, _, err := b.joined(ctx, Membership{Group: "g", Topics: []string{"no"}}); !errors.Is(err, ErrNoTopic) {
		t.Errorf("no such topic: %v", err)
	}
	if _, _, err := b.joined(ctx, Membership{Group: "g", Topics: []string{"^("}}); !errors.Is(err, ErrAsked) {
		t.Errorf("no expression: %v", err)
	}
}

// The end of a partition may be a transaction's mark, or what was aborted.
func TestConsumeGroupToTheEndOfTransactions(t *testing.T) {
	b := newBench(t)
	b.fill(0, 1)
	cl := b.client(kgo.TransactionalID("x"))
	for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryAbort} { // the last thing is nothing
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Partition: 1, Value: []byte(fmt.Sprint(commit))}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	values, _, err := b.joined(ctx, Membership{Group: "g", Topics: []string{"t"}, FromEarliest: true, ToEnd: true})
	slices.Sort(values)
	if err != nil || ctx.Err() != nil || !slices.Equal(values, []string{"0-0", "true"}) {
		t.Fatalf("%q, %v, %v", values, err, ctx.Err())
	}
}

func TestUnpack(t *testing.T) {
	in := []byte("\x01\xff\x00\x02\xff\xfehello")
	for pack, want := range map[string]string{ // kcat's, but for <, which it does not obey
		"bBhHs": "1255265534hello", "value=b B >h >H s": "1255265534hello", "bB": "1255", "ccs": "\x01\xff\x00\x02\xff\xfehello", ">q": "143833725983942757",
		">I": "33488898", "bB>hHs$": "1255265534hello", "b<b<h": "1-1512", "cc<H": "\x01\xff512", "ii": "33488898-104347",
	} {
		_, p, err := ParsePacks([]string{pack})
		if err != nil {
			t.Errorf("%s: %v", pack, err)
		}
		if got, err := p.Unpack(nil, in); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", pack, got, err, want)
		}
	}
	for _, bad := range []string{"bB$", "iii"} {
		if got, err := Pack(bad).Unpack(nil, in); err == nil {
			t.Errorf("%s: %q", bad, got)
		}
	}
	for _, bad := range []string{"", "x", "key=", "avro", "value=avro"} {
		if _, _, err := ParsePacks([]string{bad}); !errors.Is(err, ErrAsked) {
			t.Errorf("-s %q: %v", bad, err)
		}
	}
	if key, value, err := ParsePacks([]string{"q", "key=s"}); err != nil || key != "s" || value != "q" {
		t.Errorf("%q, %q, %v", key, value, err)
	}
}
