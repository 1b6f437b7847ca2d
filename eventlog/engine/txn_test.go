package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// transact produces a batch as a part of its producer's transaction.
func transact(t testing.TB, e *Engine, raw eventlog.RawBatch, p eventlog.Part) Produced {
	t.Helper()
	raw.SetTransactional(true)
	raw.Reseal()
	c := make(chan Produced, 1)
	e.ProduceAs(p, raw, AcksDurable, Producing{Transactional: true, Fresh: true}, func(r Produced) { c <- r })
	return <-c
}

func endTxn(t testing.TB, e *Engine, end End) {
	t.Helper()
	c := make(chan error, 1)
	e.EndTransaction(end, func(err error) { c <- err })
	if err := <-c; err != nil {
		t.Fatal(err)
	}
}

// inTxn produces one record in a transaction.
func inTxn(t testing.TB, e *Engine, p eventlog.Part, id int64, epoch int16, seq int32, value string) {
	t.Helper()
	if r := transact(t, e, foreign(t, p, id, epoch, seq, rec(value)), p); r.Err != nil {
		t.Fatalf("%q: %v", value, r.Err)
	}
}

func plain(t testing.TB, e *Engine, p eventlog.Part, value string) {
	t.Helper()
	produceWait(t, e, p, foreign(t, p, -1, -1, -1, rec(value)))
}

// consumed is what a client sees that fetches what is committed and goes by the list of what is aborted, as all do.
func consumed(t testing.TB, e *Engine, p eventlog.Part, step int) (out []string) {
	t.Helper()
	for next := int64(0); ; {
		f, err := e.FetchCommitted(p, next, step, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Raw) == 0 {
			if next != f.Stable {
				t.Fatalf("nothing at %d, and %d is stable", next, f.Stable)
			}
			return out
		}
		aborting := map[int64]bool{}
		for raw := f.Raw; len(raw) > 0; {
			b, err := eventlog.CheckBatch(raw)
			if err != nil {
				t.Fatal(err)
			}
			raw, next = raw[len(b):], b.Next()
			f.Aborted = slices.DeleteFunc(f.Aborted, func(a Aborted) bool {
				begun := a.First <= b.Last()
				aborting[a.ProducerID] = aborting[a.ProducerID] || begun
				return begun
			})
			switch control := b.Attributes()&eventlog.AttrControl != 0; {
			case control && !IsCommit(b):
				delete(aborting, b.ProducerID())
			case control, aborting[b.ProducerID()] && b.Attributes()&eventlog.AttrTransactional != 0:
			default:
				for _, r := range records(t, p, b) {
					out = append(out, string(r.Value))
				}
			}
		}
	}
}

func records(t testing.TB, p eventlog.Part, b eventlog.RawBatch) []eventlog.Record {
	t.Helper()
	recs, err := eventlog.NewRawBatch(p, b).Records()
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

// tailed is what a tail from the start shows, until it is at the end.
func tailed(t testing.TB, e *Engine, p eventlog.Part) (out []string) {
	t.Helper()
	tail, err := e.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	next := int64(0)
	for next < endOf1(t, e, p) {
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if ev.Next <= next {
				t.Fatalf("tail at %d goes to %d", next, ev.Next)
			}
			next = ev.Next
			recs, err := ev.Batch.Records()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				out = append(out, string(r.Value))
			}
		}
	}
	return out
}

func endOf1(t testing.TB, e *Engine, p eventlog.Part) int64 {
	t.Helper()
	ends, err := e.Ends(t.Context(), p.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return ends[p.Index]
}

// TestTransactions: what readers see of open, committed and aborted transactions, in memory, in segments, and after a restart of any kind.
func TestTransactions(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	want := func(stable int64, seen ...string) {
		t.Helper()
		if end := endOf1(t, e, p); end != stable {
			t.Errorf("%d is stable, want %d", end, stable)
		}
		wantValues(t, e, p, seen...)
		if got := tailed(t, e, p); !slices.Equal(got, seen) {
			t.Errorf("the tail shows %q, want %q", got, seen)
		}
		for _, step := range []int{1, 150, 1 << 20} {
			if got := consumed(t, e, p, step); !slices.Equal(got, seen) {
				t.Errorf("a consumer that takes %d bytes sees %q, want %q", step, got, seen)
			}
		}
	}
	everywhere := func(stable int64, seen ...string) {
		t.Helper()
		want(stable, seen...)
		next := mem.Kill() // replay
		e.Close()
		mem = next
		e = open(t, small(mem))
		want(stable, seen...)
		if err := e.checkpoint(); err != nil { // from segments
			t.Fatal(err)
		}
		want(stable, seen...)
		e.Close() // no replay
		e = open(t, small(mem))
		want(stable, seen...)
	}
	parts := []eventlog.Part{p}

	plain(t, e, p, "before")                  // 0
	inTxn(t, e, p, 1, 0, 0, "a1")             // 1
	plain(t, e, p, "beside")                  // 2
	inTxn(t, e, p, 2, 0, 0, "b1")             // 3
	everywhere(1, "before")                   // a is open
	endTxn(t, e, End{2, 1, true, parts, nil}) // 4
	everywhere(1, "before")
	endTxn(t, e, End{1, 1, false, parts, nil}) // 5
	everywhere(6, "before", "beside", "b1")
	inTxn(t, e, p, 1, 1, 0, "a2") // 6: the new epoch
	inTxn(t, e, p, 2, 1, 0, "b2") // 7
	inTxn(t, e, p, 1, 1, 1, "a3") // 8
	everywhere(6, "before", "beside", "b1")
	endTxn(t, e, End{1, 2, true, parts, nil}) // 9
	everywhere(7, "before", "beside", "b1", "a2")
	endTxn(t, e, End{2, 2, false, parts, nil}) // 10
	everywhere(11, "before", "beside", "b1", "a2", "a3")
	f, err := e.FetchRaw(p, 0, 1<<20, true)
	if n := eventlog.RawBatch(f.Raw).Base(); err != nil || n != 0 || f.High != 11 || f.Aborted != nil {
		t.Errorf("uncommitted: %+v, %v", f, err)
	}
	f, err = e.FetchCommitted(p, 6, 1<<20, true)
	if err != nil || !slices.Equal(f.Aborted, []Aborted{{2, 7, 10, 11}}) {
		t.Errorf("aborted: %+v, %v", f.Aborted, err)
	}
}

// TestHeldTail: a tail that is at the end while a transaction is open goes on in order once it has ended.
func TestHeldTail(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	tail, err := e.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	var seen []string
	next := int64(0)
	poll := func(want int64, values ...string) {
		t.Helper()
		for range 3 {
			events, err := tail.Poll(nil, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, ev := range events {
				recs, _ := ev.Batch.Records()
				for _, r := range recs {
					seen = append(seen, string(r.Value))
				}
				next = ev.Next
			}
		}
		if next != want || !slices.Equal(seen, values) {
			t.Fatalf("the tail is at %d with %q, want %d with %q", next, seen, want, values)
		}
	}
	plain(t, e, p, "x")
	inTxn(t, e, p, 1, 0, 0, "a")
	poll(1, "x")
	plain(t, e, p, "y")
	inTxn(t, e, p, 2, 0, 0, "b")
	poll(1, "x")
	endTxn(t, e, End{1, 1, true, []eventlog.Part{p}, nil})
	poll(3, "x", "a", "y")
	endTxn(t, e, End{2, 1, false, []eventlog.Part{p}, nil})
	poll(6, "x", "a", "y")
	plain(t, e, p, "z")
	poll(7, "x", "a", "y", "z")
}

// TestTransactionEnd: one commit ends a transaction everywhere, with its coordinator's record; partitions that are gone or
// have nothing of it are passed over.
func TestTransactionEnd(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	topic := createTopic(t, e, "data", 3, nil)
	state := eventlog.Part{Topic: createTopic(t, e, "state", 1, nil).ID}
	gone := eventlog.Part{Topic: createTopic(t, e, "gone", 1, nil).ID}
	part := func(i int32) eventlog.Part { return eventlog.Part{Topic: topic.ID, Index: i} }
	inTxn(t, e, part(0), 1, 0, 0, "a")
	inTxn(t, e, part(2), 1, 0, 0, "c")
	inTxn(t, e, gone, 1, 0, 0, "g")
	if err := e.DeleteTopic(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	before := e.Stats().Commits
	b := sideBatch(t, state, "complete")
	endTxn(t, e, End{1, 1, true, []eventlog.Part{part(0), part(1), part(2), gone}, b})
	if n := e.Stats().Commits - before; n != 1 {
		t.Errorf("%d commits", n)
	}
	for i, want := range []int64{2, 0, 2} {
		if end := endOf1(t, e, part(int32(i))); end != want {
			t.Errorf("partition %d ends at %d, want %d", i, end, want)
		}
	}
	wantValues(t, e, state, "complete")
	open, err := e.OpenTransactions(t.Context())
	if err != nil || len(open) != 0 {
		t.Errorf("open: %+v, %v", open, err)
	}
	e.Close()
	if err := func() error {
		c := make(chan error, 1)
		e.EndTransaction(End{ProducerID: 1, Parts: []eventlog.Part{part(0)}}, func(err error) { c <- err })
		return <-c
	}(); !errors.Is(err, eventlog.ErrClosed) {
		t.Errorf("on a closed log: %v", err)
	}
}

// TestTransactionalSequences: epochs and sequences around transactions.
func TestTransactionalSequences(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	try := func(what string, want error, id int64, epoch int16, seq int32) {
		t.Helper()
		if r := transact(t, e, foreign(t, p, id, epoch, seq, rec(what)), p); !errors.Is(r.Err, want) || (want == nil) != (r.Err == nil) {
			t.Errorf("%s: %v, want %v", what, r.Err, want)
		}
	}
	try("a producer nobody knows begins with 5", ErrOutOfOrderSequence, 1, 0, 5)
	try("the first", nil, 1, 0, 0)
	try("a gap", ErrOutOfOrderSequence, 1, 0, 2)
	if r := produce(t, e, p, foreign(t, p, 1, 0, 1, rec("x")), AcksDurable); !errors.Is(r.Err, ErrInvalidTxnState) {
		t.Errorf("beside its own transaction: %v", r.Err)
	}
	if r := transact(t, e, foreign(t, p, 1, 0, 0, rec("the first")), p); r.Err != nil || !r.Duplicate {
		t.Errorf("the first once more: %+v", r)
	}
	endTxn(t, e, End{1, 1, true, []eventlog.Part{p}, nil})
	try("late, of the epoch before", ErrInvalidProducerEpoch, 1, 0, 1)
	try("the new epoch does not begin with 0", ErrOutOfOrderSequence, 1, 1, 1)
	try("the new epoch", nil, 1, 1, 0)
	endTxn(t, e, End{1, 1, true, []eventlog.Part{p}, nil}) // as transactions of version 1 end
	try("goes on", nil, 1, 1, 1)
	try("without a producer", ErrInvalidRecord, -1, -1, -1)
	producers, err := e.Producers(t.Context(), p)
	if err != nil || len(producers) != 1 || producers[0].TxnFirst != 4 || producers[0].Epoch != 1 || producers[0].LastSequence != 1 {
		t.Errorf("%+v, %v", producers, err)
	}
}

// TestOpenTransactionKeepsProducer: an idle producer is forgotten, but not while its transaction is open.
func TestOpenTransactionKeepsProducer(t *testing.T) {
	e, advance := timed(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	inTxn(t, e, p, 1, 0, 0, "a")
	inTxn(t, e, p, 2, 0, 0, "b")
	endTxn(t, e, End{2, 1, true, []eventlog.Part{p}, nil})
	if e.HeldSince(p) == 0 {
		t.Error("nothing is held")
	}
	advance(25 * time.Hour)
	maintain(t, e)
	producers, err := e.Producers(t.Context(), p)
	if err != nil || len(producers) != 1 || producers[0].ID != 1 {
		t.Errorf("%+v, %v", producers, err)
	}
}

// TestTrimTransactions: what is aborted is forgotten with its records, and an open transaction does not hold back what begins after it.
func TestTrimTransactions(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	parts := []eventlog.Part{p}
	for i := range int32(4) {
		inTxn(t, e, p, 1, int16(i), 0, fmt.Sprint("a", i))
		endTxn(t, e, End{1, int16(i + 1), false, parts, nil})
	}
	inTxn(t, e, p, 2, 0, 0, "open") // 8
	plain(t, e, p, "x")             // 9
	aborted := func() int { return len(*mustPart(t, e, p).aborted.Load()) }
	if aborted() != 4 {
		t.Errorf("%d are aborted", aborted())
	}
	trim := func(to int64) {
		t.Helper()
		if err := e.Trim(t.Context(), eventlog.Position{Part: p, Offset: to}); err != nil {
			t.Fatal(err)
		}
	}
	trim(4)
	if aborted() != 2 || endOf1(t, e, p) != 8 {
		t.Errorf("%d are aborted, %d is stable", aborted(), endOf1(t, e, p))
	}
	trim(9)
	if aborted() != 0 || endOf1(t, e, p) != 9 {
		t.Errorf("%d are aborted, %d is stable", aborted(), endOf1(t, e, p))
	}
	next := mem.Kill()
	e.Close()
	mem = next
	e = open(t, small(mem))
	if aborted() != 0 || endOf1(t, e, p) != 9 {
		t.Errorf("after a restart %d are aborted, %d is stable", aborted(), endOf1(t, e, p))
	}
	endTxn(t, e, End{2, 1, true, parts, nil})
	if endOf1(t, e, p) != 11 {
		t.Errorf("%d is stable", endOf1(t, e, p))
	}
	if batches, _, err := e.Read(t.Context(), eventlog.Position{Part: p, Offset: 9}, 1000); err != nil || len(batches) != 1 || batches[0].Base() != 9 {
		t.Errorf("%v, %v", batches, err)
	}
}

func mustPart(t testing.TB, e *Engine, at eventlog.Part) *partition {
	t.Helper()
	p, err := e.partition(at)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTransactionTimes: a look-up by time finds what is stable and committed.
func TestTransactionTimes(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	at := func(ms int64, id int64, epoch int16, seq int32) {
		t.Helper()
		raw := foreign(t, p, id, epoch, seq, eventlog.Record{Timestamp: ms})
		if id < 0 {
			produceWait(t, e, p, raw)
		} else if r := transact(t, e, raw, p); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	want := func(ms, offset int64) {
		t.Helper()
		if got, err := e.OffsetByTime(t.Context(), p, ms); err != nil || got != offset {
			t.Errorf("at %d: %d, %v, want %d", ms, got, err, offset)
		}
	}
	at(10, -1, -1, -1) // 0
	at(20, 1, 0, 0)    // 1
	at(30, -1, -1, -1) // 2
	want(5, 0)
	want(15, -1) // not stable
	if got, err := e.FindTime(p, 15); err != nil || got.Offset != 1 {
		t.Errorf("uncommitted: %+v, %v", got, err)
	}
	endTxn(t, e, End{1, 1, false, []eventlog.Part{p}, nil})
	want(15, 2)
	at(40, 1, 1, 0) // 4
	endTxn(t, e, End{1, 2, true, []eventlog.Part{p}, nil})
	want(35, 4)
	if err := e.checkpoint(); err != nil {
		t.Fatal(err)
	}
	want(15, 2)
	want(35, 4)
}

// TestCompactTransactions: what was aborted supersedes nothing and goes, and so do the markers of commits; what may be aborted yet
// is left alone.
func TestCompactTransactions(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.SegmentBytes = 300
	e := open(t, o)
	p := topicOf(t, e, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"})
	keyed := func(id int64, epoch int16, seq int32, key, value string) {
		t.Helper()
		raw := foreign(t, p, id, epoch, seq, eventlog.Record{Timestamp: 1000, Key: []byte(key), Value: []byte(value)})
		if id < 0 {
			produceWait(t, e, p, raw)
		} else if r := transact(t, e, raw, p); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	parts := []eventlog.Part{p}
	keyed(-1, -1, -1, "k", "kept, though superseded by what was aborted")
	keyed(1, 0, 0, "k", "aborted")
	endTxn(t, e, End{1, 1, false, parts, nil})
	keyed(-1, -1, -1, "l", "superseded by what was committed")
	keyed(1, 1, 0, "l", "committed")
	endTxn(t, e, End{1, 2, true, parts, nil})
	keyed(1, 2, 0, "l", "aborted by who committed before")
	endTxn(t, e, End{1, 3, false, parts, nil})
	for range 4 {
		keyed(-1, -1, -1, "m", "m")
	}
	keyed(1, 3, 0, "k", "open")
	for range 8 {
		keyed(-1, -1, -1, "m", "m")
	}
	want := func(want ...string) {
		t.Helper()
		maintain(t, e)
		m := func(v string) bool { return v == "m" }
		got, got2 := slices.DeleteFunc(values(t, e, p), m), slices.DeleteFunc(consumed(t, e, p, 1<<20), m)
		if !slices.Equal(got, want) || !slices.Equal(got2, want) {
			t.Errorf("%q, and a consumer sees %q, want %q", got, got2, want)
		}
	}
	want("kept, though superseded by what was aborted", "committed")
	kinds := map[bool]int{}
	markers := func() int {
		for at := int64(0); ; {
			f, err := e.FetchRaw(p, at, 1<<20, true)
			if err != nil || len(f.Raw) == 0 {
				return kinds[true] + kinds[false]
			}
			for raw := f.Raw; len(raw) > 0; {
				b, err := eventlog.CheckBatch(raw)
				if err != nil {
					t.Fatal(err)
				}
				if raw, at = raw[len(b):], b.Next(); b.Attributes()&eventlog.AttrControl != 0 {
					kinds[IsCommit(b)]++
				}
			}
		}
	}
	markers()
	if kinds[true] != 0 || kinds[false] != 2 {
		t.Errorf("markers of commits and aborts: %v", kinds)
	}
	endTxn(t, e, End{1, 4, true, parts, nil})
	for range 4 {
		keyed(-1, -1, -1, "m", "m")
	}
	want("committed", "open")
	for range 3 { // what was aborted is gone: so are what is remembered of it, and its markers
		for range 6 {
			keyed(-1, -1, -1, "m", "m")
		}
		want("committed", "open")
	}
	if n := len(*mustPart(t, e, p).aborted.Load()); n != 0 {
		t.Errorf("%d aborted transactions are remembered", n)
	}
	if clear(kinds); markers() != 0 {
		t.Errorf("markers of commits and aborts: %v", kinds)
	}
	o.FS = mem.Kill()
	e.Close()
	e = open(t, o)
	if got := slices.DeleteFunc(consumed(t, e, p, 1<<20), func(v string) bool { return v == "m" }); !slices.Equal(got, []string{"committed", "open"}) {
		t.Errorf("after a restart: %q", got)
	}
	if n := len(*mustPart(t, e, p).aborted.Load()); n != 0 {
		t.Errorf("after a restart %d aborted transactions are remembered", n)
	}
}

// TestAbortedAreBounded: there is a bound on what a client can make a partition remember.
func TestAbortedAreBounded(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	plain(t, e, p, "x")
	err := e.do(t.Context(), func(s *state) ([]entry, func(), error) {
		hp, err := s.partition(p)
		hp.head.txns = &transactions{open: map[int64]openTxn{}, aborted: make([]Aborted, maxAborted)}
		return nil, nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := transact(t, e, foreign(t, p, 1, 0, 0, rec("a")), p); !errors.Is(r.Err, ErrTooManyAborted) {
		t.Errorf("%+v", r)
	}
}

// TestCheckpointOfVersion2: a log of the last version opens, with its records and producers, and goes on with transactions.
func TestCheckpointOfVersion2(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, map[string]string{"retention.ms": "-1"})
	send(t, e, p, 7, 0, 0, 2)
	e.Close()
	s, err := readCheckpoint(mem)
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(mem, checkpointTemp, checkpointName, encodeVersion2(s)); err != nil {
		t.Fatal(err)
	}
	e = open(t, small(mem))
	if got := values(t, e, p); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if r := send(t, e, p, 7, 0, 0, 2); !r.Duplicate {
		t.Errorf("a resend: %+v", r)
	}
	inTxn(t, e, p, 8, 0, 0, "a")
	e.Close()
	e = open(t, small(mem))
	if end := endOf1(t, e, p); end != 2 {
		t.Errorf("%d is stable", end)
	}
}

// encodeVersion2 writes a checkpoint as version 2 had it.
func encodeVersion2(s *snapshot) []byte {
	b := append(make([]byte, checkpointHeader), s.clusterID[:]...)
	for _, v := range []uint64{s.commit, s.salt, s.generation, uint64(s.time), uint64(s.nextID), uint64(s.maxLog)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(s.topics)))
	for _, t := range s.topics {
		b = appendConfigs(appendString(append(b, t.id[:]...), t.name), t.configs)
		b = binary.AppendUvarint(b, uint64(len(t.parts)))
		for _, p := range t.parts {
			for _, v := range []int64{p.start, p.end, p.claim} {
				b = binary.BigEndian.AppendUint64(b, uint64(v))
			}
			b = p.state.Append(b)
			b = append(binary.AppendUvarint(b, uint64(len(p.producers))), p.producers...)
		}
	}
	b = sealCheckpoint(b)
	b[4] = 2
	binary.BigEndian.PutUint32(b[16:], crc32c(b[:16], b[checkpointHeader:]))
	return b
}
