package logtest

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// mutant is a log with one bug, to see whether the suite finds it.
type mutant struct {
	*Memory
	bug string

	mu   sync.Mutex
	n    int
	kept func() // an append that is held back until the next of its partition
	of   eventlog.Part
}

// now is true for one append in seven, if the log has the bug.
func (m *mutant) now(bug string) bool {
	if m.bug != bug {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return m.n%7 == 0
}

func (m *mutant) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	again := func() *eventlog.Batch {
		return eventlog.NewRawBatch(b.Part, slices.Clone(b.Raw()))
	}
	switch {
	case m.now("drops a batch"):
		empty := eventlog.NewRecordBatch(b.Part, nil, 0)
		m.Memory.Append(empty, func(eventlog.Outcome) {
			ends, err := m.Ends(context.Background(), b.Part.Topic)
			if err != nil || b.Part.Index < 0 || int(b.Part.Index) >= len(ends) {
				done(eventlog.Outcome{Err: eventlog.ErrUnknownTopic})
				return
			}
			done(eventlog.Outcome{Base: max(0, ends[b.Part.Index]-1)})
		})
	case m.now("appends twice"):
		twin := again()
		twin.Own = true
		m.Memory.Append(b, done)
		m.Memory.Append(twin, func(eventlog.Outcome) {})
	case m.now("swaps two"):
		m.mu.Lock()
		m.kept, m.of = func() { m.Memory.Append(b, done) }, b.Part
		m.mu.Unlock()
		time.AfterFunc(5*time.Millisecond, m.release)
	case m.now("answers twice"):
		m.Memory.Append(b, func(o eventlog.Outcome) { done(o); done(o) })
	case m.now("never answers"):
		m.Memory.Append(b, func(eventlog.Outcome) {})
	case m.now("answers a wrong offset"):
		m.Memory.Append(b, func(o eventlog.Outcome) {
			for i := range o.Each {
				o.Each[i].Offset++
			}
			o.Base++
			done(o)
		})
	case m.now("refuses what it stored"):
		m.Memory.Append(b, func(eventlog.Outcome) { done(eventlog.Outcome{Err: ErrRefused}) })
	case m.now("forgets whose it is"):
		b.Own = false
		m.Memory.Append(b, done)
	default:
		m.Memory.Append(b, done)
		m.mu.Lock()
		behind := m.of == b.Part
		m.mu.Unlock()
		if behind {
			m.release()
		}
	}
}

func (m *mutant) release() {
	m.mu.Lock()
	f := m.kept
	m.kept = nil
	m.mu.Unlock()
	if f != nil {
		f()
	}
}

func (m *mutant) AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	if m.bug != "tears atomic appends" {
		m.Memory.AppendAtomic(batches, done)
		return
	}
	outs := make([]eventlog.Outcome, len(batches))
	var wg sync.WaitGroup
	for i, b := range batches {
		wg.Add(1)
		m.Memory.Append(b, func(o eventlog.Outcome) { outs[i] = o; wg.Done() })
	}
	go func() {
		wg.Wait()
		done(outs)
	}()
}

func (m *mutant) Room(p eventlog.Part) <-chan struct{} {
	if m.bug == "always has room" {
		return nil
	}
	return m.Memory.Room(p)
}

func (m *mutant) Ends(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	ends, err := m.Memory.Ends(ctx, id)
	if m.bug == "ends beyond the end" {
		for i := range ends {
			ends[i]++
		}
	}
	return ends, err
}

func (m *mutant) Read(ctx context.Context, pos eventlog.Position, maxBytes int) ([]*eventlog.Batch, int64, error) {
	batches, next, err := m.Memory.Read(ctx, pos, maxBytes)
	switch m.bug {
	case "reads nothing below the start":
		if err != nil {
			return nil, pos.Offset, nil
		}
	case "reads one batch too few":
		if len(batches) > 1 {
			batches = batches[:len(batches)-1]
		}
	}
	return batches, next, err
}

func (m *mutant) OffsetByTime(ctx context.Context, p eventlog.Part, t int64) (int64, error) {
	o, err := m.Memory.OffsetByTime(ctx, p, t)
	if m.bug == "finds the batch, not the record" && o > 0 {
		o--
	}
	return o, err
}

func (m *mutant) Trim(ctx context.Context, pos eventlog.Position) error {
	if m.bug == "trims too much" {
		ends, err := m.Memory.Ends(ctx, pos.Topic)
		if err == nil && int(pos.Index) < len(ends) && pos.Offset < ends[pos.Index] {
			pos.Offset++
		}
	}
	return m.Memory.Trim(ctx, pos)
}

func (m *mutant) Claim(ctx context.Context, p eventlog.Part) (eventlog.Writer, error) {
	w, err := m.Memory.Claim(ctx, p)
	if err != nil {
		return w, err
	}
	switch m.bug {
	case "does not fence":
		return looseWriter{w, m}, nil
	case "counts no claims":
		return firstWriter{w}, nil
	}
	return w, err
}

type looseWriter struct {
	eventlog.Writer
	m *mutant
}

func (w looseWriter) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	w.m.Memory.Append(b, done)
}

type firstWriter struct{ eventlog.Writer }

func (firstWriter) Epoch() int64 { return 1 }

func (m *mutant) Tail(from eventlog.Vector) (eventlog.Tail, error) {
	t, err := m.Memory.Tail(from)
	if err != nil {
		return t, err
	}
	return &mutantTail{Tail: t, m: m}, nil
}

type mutantTail struct {
	eventlog.Tail
	m *mutant
}

func (t *mutantTail) Wake() <-chan struct{} {
	if t.m.bug == "the tail never wakes" {
		return nil
	}
	return t.Tail.Wake()
}

func (t *mutantTail) Poll(into []eventlog.Event, maxBytes int) ([]eventlog.Event, error) {
	n := len(into)
	out, err := t.Tail.Poll(into, maxBytes)
	is := func(kind eventlog.EventKind) func(eventlog.Event) bool {
		return func(e eventlog.Event) bool { return e.Kind == kind }
	}
	switch t.m.bug {
	case "the tail skips":
		if len(out) > n+1 {
			out = slices.Delete(out, n, n+1)
		}
	case "the tail repeats":
		if len(out) > n {
			out = append(out, out[len(out)-1])
		}
	case "the tail is silent about gaps":
		out = slices.DeleteFunc(out, is(eventlog.Gap))
	case "the tail is silent about the end":
		out = slices.DeleteFunc(slices.DeleteFunc(out, is(eventlog.Deleted)), is(eventlog.Recreated))
	case "the tail outlives the log":
		err = nil
	}
	return out, err
}

func (m *mutant) Close() error {
	if m.bug == "leaves appends without an answer" {
		release := m.Hold()
		go func() {
			time.Sleep(20 * time.Millisecond)
			release()
		}()
		go m.Memory.Close()
		return nil
	}
	return m.Memory.Close()
}

func (m *mutant) Topics(ctx context.Context) ([]eventlog.Topic, error) {
	ts, err := m.Memory.Topics(ctx)
	if m.bug == "forgets configs" {
		for i := range ts {
			ts[i].Config = nil
		}
	}
	return ts, err
}

// recorder stands in for a test that may fail.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

func (r *recorder) fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) Helper()               {}
func (r *recorder) Log(...any)            {}
func (r *recorder) Logf(string, ...any)   {}
func (r *recorder) Error(...any)          { r.fail() }
func (r *recorder) Errorf(string, ...any) { r.fail() }
func (r *recorder) Fail()                 { r.fail() }
func (r *recorder) FailNow()              { r.fail(); runtime.Goexit() }
func (r *recorder) Fatal(...any)          { r.FailNow() }
func (r *recorder) Fatalf(string, ...any) { r.FailNow() }
func (r *recorder) Skip(...any)           { runtime.Goexit() }
func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }

// fails says whether a test of the suite fails on what open opens.
func fails(t *testing.T, tt test, open func(testing.TB) *Env) bool {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tt.run(r, open(r))
	}()
	<-done
	slices.Reverse(r.cleanups)
	for _, f := range r.cleanups {
		f()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// TestSuiteHasTeeth plants bugs, and wants each of them found by the test that is there for it, which passes without.
func TestSuiteHasTeeth(t *testing.T) {
	whole := patience
	defer func() { patience = whole }()
	for _, planted := range []struct{ bug, test string }{
		{"drops a batch", "AppendOrder"},
		{"appends twice", "AppendOrder"},
		{"swaps two", "AppendOrder"},
		{"answers twice", "AppendOrder"},
		{"never answers", "AppendOrder"},
		{"answers a wrong offset", "AppendOrder"},
		{"refuses what it stored", "AppendConcurrent"},
		{"forgets whose it is", "AppendConcurrent"},
		{"shows aborted records", "AppendForeign"},
		{"tears atomic appends", "AppendAtomicRefused"},
		{"always has room", "RoomWhenStalled"},
		{"ends beyond the end", "ReadRanges"},
		{"reads nothing below the start", "ReadBounds"},
		{"reads one batch too few", "ReadRanges"},
		{"finds the batch, not the record", "OffsetByTime"},
		{"trims too much", "Trim"},
		{"does not fence", "ClaimFences"},
		{"does not fence", "ClaimFencesInFlight"},
		{"counts no claims", "ClaimFences"},
		{"the tail never wakes", "TailWakes"},
		{"the tail skips", "TailHistoryThenLive"},
		{"the tail repeats", "TailHistoryThenLive"},
		{"the tail is silent about gaps", "TailGapAtStart"},
		{"the tail is silent about the end", "TailDeleted"},
		{"the tail outlives the log", "TailClose"},
		{"leaves appends without an answer", "CloseAnswers"},
		{"forgets configs", "TopicConfigure"},
		{"forgets on restart", "ReopenKeeps"},
	} {
		tt := suite[slices.IndexFunc(suite, func(tt test) bool { return tt.name == planted.test })]
		patience = 500 * time.Millisecond // what hangs is found as well
		if !fails(t, tt, openMutant(planted.bug)) {
			t.Errorf("%s does not find the bug: %s", planted.test, planted.bug)
		}
		patience = whole
		if fails(t, tt, openMutant("")) {
			t.Errorf("%s fails without the bug: %s", planted.test, planted.bug)
		}
	}
}

func openMutant(bug string) Opener {
	return func(t testing.TB) *Env {
		m := &mutant{Memory: NewMemory(1, Hostility{Shuffle: true}), bug: bug}
		t.Cleanup(func() { m.Memory.Close() })
		peer := func(t testing.TB) eventlog.Driver {
			p := &mutant{Memory: m.Peer(), bug: bug}
			if bug == "forgets on restart" {
				p.Memory.Close()
				p.Memory = NewMemory(1, Hostility{})
			}
			t.Cleanup(func() { p.Memory.Close() })
			return p
		}
		return &Env{
			Driver: m, Reopen: peer, RoomBytes: 1 << 20, Stall: func(testing.TB) func() { return m.Hold() },
			Foreign: func(t testing.TB, p eventlog.Part, recs []eventlog.Record, commit bool) {
				if err := m.Foreign(p, recs, commit || bug == "shows aborted records"); err != nil {
					t.Fatal(err)
				}
			},
		}
	}
}
