package logtest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// Env is a fresh, empty log for one conformance test, and what the test may do to it. A test that needs a hook which is nil
// is skipped and says so.
type Env struct {
	// Driver is the log. The test closes it.
	Driver eventlog.Driver
	// Reopen opens the same log again, after its driver was closed.
	Reopen func(testing.TB) eventlog.Driver
	// Crash kills the process that holds the log and opens the log again. Answers that come after are ignored.
	Crash func(testing.TB) eventlog.Driver
	// Peer opens the log a second time while Driver is open: another process on the same cluster.
	Peer func(testing.TB) eventlog.Driver
	// Foreign appends records as somebody else would (no Millrace), in one transaction that commits or aborts.
	Foreign func(t testing.TB, p eventlog.Part, recs []eventlog.Record, commit bool)
	// Stall keeps appends from becoming durable until release is called.
	Stall func(testing.TB) (release func())
	// LoseAnswers makes the answers of the next n appends get lost below the driver, which must find out what became of them.
	LoseAnswers func(t testing.TB, n int)
	// RoomBytes is the most that an appender who asks Room before each append can have outstanding in one partition, but for
	// its last batch; 0: unknown.
	RoomBytes int
}

// Opener opens a fresh, empty log for one test; it registers its clean-up with t.
type Opener func(t testing.TB) *Env

// test is one conformance test.
type test struct {
	name string
	run  func(t testing.TB, e *Env)
}

// Run runs the conformance suite of eventlog.Driver. skip names the tests that a driver (or what it is tested on) cannot pass,
// each with the reason.
func Run(t *testing.T, open Opener, skip map[string]string) {
	for name, reason := range skip {
		if !slices.ContainsFunc(suite, func(tt test) bool { return tt.name == name }) {
			t.Errorf("no conformance test is called %q (skipped because %s)", name, reason)
		}
	}
	for _, tt := range suite {
		t.Run(tt.name, func(t *testing.T) {
			if reason, ok := skip[tt.name]; ok {
				t.Skip(reason)
			}
			tt.run(t, open(t))
		})
	}
}

// suite is every conformance test, in the order they run.
var suite = slices.Concat(topicTests, appendTests, readTests, tailTests, claimTests, lifeTests)

// patience bounds every wait of the suite: reaching it is a failure.
var patience = 30 * time.Second

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// bench is what most tests need: a log with a topic, and a ledger.
type bench struct {
	testing.TB
	*Ledger
	env   *Env
	d     eventlog.Driver
	topic eventlog.Topic
	ctx   context.Context
}

func newBench(t testing.TB, e *Env) *bench {
	b := &bench{TB: t, Ledger: NewLedger(), env: e, d: e.Driver, ctx: patient(t)}
	b.topic = b.create("conformance", 4, nil)
	return b
}

func (b *bench) create(name string, parts int32, config map[string]string) eventlog.Topic {
	b.Helper()
	t, err := b.d.CreateTopic(b.ctx, eventlog.TopicSpec{Name: name, Partitions: parts, Config: config})
	if err != nil {
		b.Fatalf("create topic %q: %v", name, err)
	}
	return t
}

func (b *bench) part(i int32) eventlog.Part { return eventlog.Part{Topic: b.topic.ID, Index: i} }

func (b *bench) wait() {
	b.Helper()
	if err := b.Wait(b.ctx); err != nil {
		b.Fatal(err)
	}
}

// put appends until n more records of the stream are durable in the partition, a few per batch, and returns those. A hostile
// log refuses some; what it does to the others is in the ledger.
func (b *bench) put(a Appender, p eventlog.Part, name string, n int) (out []Sent) {
	b.Helper()
	for tries := 0; len(out) < n; tries++ {
		if tries > 20*n+20 {
			b.Fatalf("%d of %d records are durable after %d appends", len(out), n, tries)
		}
		sent := b.Append(a, p, name, min(n-len(out), 1+tries%3), 0)
		b.wait()
		for _, s := range sent {
			if s.Fate == Durable {
				out = append(out, *s)
			}
		}
	}
	return out
}

// settled waits until everything durable is stable: a hostile log's stable offset may be held back for a while.
func (b *bench) settled(d eventlog.Driver, parts ...eventlog.Part) {
	b.Helper()
	b.wait()
	for _, p := range parts {
		top := int64(-1)
		for _, s := range b.With(p, Durable) {
			top = max(top, s.Offset)
		}
		eventually(b, "everything durable is stable", func() bool { return b.ends(d)[p.Index] > top })
	}
}

func (b *bench) ends(d eventlog.Driver) []int64 {
	b.Helper()
	ends, err := d.Ends(b.ctx, b.topic.ID)
	if err != nil {
		b.Fatalf("ends: %v", err)
	}
	if int32(len(ends)) != b.topic.Partitions {
		b.Fatalf("ends of %d partitions, want %d", len(ends), b.topic.Partitions)
	}
	return ends
}

func (b *bench) starts(d eventlog.Driver) []int64 {
	b.Helper()
	starts, err := d.Starts(b.ctx, b.topic.ID)
	if err != nil {
		b.Fatalf("starts: %v", err)
	}
	if int32(len(starts)) != b.topic.Partitions {
		b.Fatalf("starts of %d partitions, want %d", len(starts), b.topic.Partitions)
	}
	return starts
}

// check reads partitions whole and checks them against the ledger.
func (b *bench) check(d eventlog.Driver, parts ...eventlog.Part) (all []Seen) {
	b.Helper()
	for _, p := range parts {
		got, _, err := b.CheckLog(b.ctx, d, p)
		if err != nil {
			b.Fatalf("%v:\n%v", p, err)
		}
		all = append(all, got...)
	}
	return all
}

// all is every partition of the topic.
func (b *bench) all() (parts []eventlog.Part) {
	for i := range b.topic.Partitions {
		parts = append(parts, b.part(i))
	}
	return parts
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v, still not: %s", patience, what)
		}
	}
}

// answer is the outcome of one append of one batch.
func answer(t testing.TB, a Appender, b *eventlog.Batch) eventlog.Outcome {
	t.Helper()
	c := make(chan eventlog.Outcome, 2)
	a.Append(b, func(o eventlog.Outcome) { c <- o })
	select {
	case o := <-c:
		return o
	case <-time.After(patience):
		t.Fatal("an append has no answer")
		panic("unreachable")
	}
}

func newBatch(t testing.TB, p eventlog.Part, c eventlog.Codec, recs ...eventlog.Record) *eventlog.Batch {
	t.Helper()
	var bl eventlog.Builder
	for _, r := range recs {
		bl.Add(r.Timestamp, r.Key, r.Value, r.Headers)
	}
	b, _, err := bl.Batch(p, c)
	if err != nil {
		t.Fatalf("build a batch: %v", err)
	}
	return b
}
