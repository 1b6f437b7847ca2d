package engine

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

func rec(value string) eventlog.Record {
	return eventlog.Record{Timestamp: 1000, Value: []byte(value)}
}

// send produces n records of a producer under a sequence number.
func send(t testing.TB, e *Engine, p eventlog.Part, pid int64, epoch int16, seq int32, n int) Produced {
	t.Helper()
	var recs []eventlog.Record
	for i := range n {
		recs = append(recs, rec(fmt.Sprint(pid, epoch, seq, i)))
	}
	return produce(t, e, p, foreign(t, p, pid, epoch, seq, recs...), AcksDurable)
}

// topicOf makes a topic of one partition.
func topicOf(t testing.TB, e *Engine, config map[string]string) eventlog.Part {
	t.Helper()
	return eventlog.Part{Topic: createTopic(t, e, "topic", 1, config).ID}
}

// TestSharedMemory: memory that batches share is counted from the first of them that is taken until none is held, and once.
func TestSharedMemory(t *testing.T) {
	o := small(vfs.NewMem())
	o.MemoryBytes = 64 << 20 // nothing is applied unasked
	e := open(t, o)
	p := topicOf(t, e, nil)
	m := NewMemory(100_000)
	for i, step := range []struct {
		seq   int32
		taken bool
		held  int64
	}{
		{5, true, 100_000 + batchOverhead}, {5, false, 100_000 + batchOverhead}, {6, true, 100_000 + 2*batchOverhead}, {9, false, 100_000 + 2*batchOverhead},
	} {
		c := make(chan Produced, 1)
		e.ProduceAs(p, foreign(t, p, 7, 0, step.seq, rec("x")), AcksDurable, Producing{Memory: m}, func(r Produced) { c <- r })
		if r := <-c; (r.Err == nil && !r.Duplicate) != step.taken {
			t.Fatalf("step %d: %+v", i, r)
		}
		if held, unapplied := e.ring.heldBytes(); held != step.held || unapplied != step.held {
			t.Fatalf("step %d: %d bytes held, %d not applied, want %d", i, held, unapplied, step.held)
		}
	}
	if err := e.applyThrough(e.ring.entries[len(e.ring.entries)-1].commit); err != nil {
		t.Fatal(err)
	}
	if held, unapplied := e.ring.heldBytes(); held != 0 || unapplied != 0 {
		t.Errorf("with all applied %d bytes are held, %d not applied", held, unapplied)
	}

	r, b := newRing(1<<20), eventlog.NewRawBatch(p, foreign(t, p, -1, -1, -1, rec("x")))
	r.add([]published{{batch: b, memory: m}, {batch: b, memory: m}}, 1)
	for i, want := range []int64{100_000 + 2*batchOverhead, 100_000 + batchOverhead, 0} {
		if i > 0 {
			r.advance(1)
		}
		if held, unapplied := r.heldBytes(); held != want || unapplied != want {
			t.Errorf("with %d of two applied %d bytes are held, %d not applied, want %d", i, held, unapplied, want)
		}
	}
}

// TestSequences follows one idempotent producer through every rule.
func TestSequences(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	steps := []struct {
		what  string
		epoch int16
		seq   int32
		n     int
		base  int64
		dup   bool
		err   error
	}{
		{what: "an unknown producer may begin anywhere", seq: 7, n: 2, base: 0},
		{what: "the next one", seq: 9, n: 1, base: 2},
		{what: "a gap", seq: 11, n: 1, err: ErrOutOfOrderSequence},
		{what: "the gap did no harm", seq: 10, n: 3, base: 3},
		{what: "the same again", seq: 10, n: 3, base: 3, dup: true},
		{what: "an earlier one again", seq: 7, n: 2, base: 0, dup: true},
		{what: "half of an earlier one", seq: 10, n: 2, err: ErrOutOfOrderSequence},
		{what: "fill the window", seq: 13, n: 1, base: 6},
		{what: "fill the window", seq: 14, n: 1, base: 7},
		{what: "fill the window", seq: 15, n: 1, base: 8},
		{what: "the fifth last is still known", seq: 9, n: 1, base: 2, dup: true},
		{what: "the sixth last is not", seq: 7, n: 2, err: ErrOutOfOrderSequence},
		{what: "a new epoch begins at 0", epoch: 1, seq: 16, n: 1, err: ErrOutOfOrderSequence},
		{what: "the refused epoch did not stick", seq: 16, n: 1, base: 9},
		{what: "a new epoch", epoch: 1, seq: 0, n: 1, base: 10},
		{what: "the old epoch", seq: 17, n: 1, err: ErrInvalidProducerEpoch},
		{what: "a duplicate of the old epoch", seq: 16, n: 1, err: ErrInvalidProducerEpoch},
		{what: "on with the new epoch", epoch: 1, seq: 1, n: 1, base: 11},
	}
	for i, s := range steps {
		r := send(t, e, p, 5, s.epoch, s.seq, s.n)
		if !errors.Is(r.Err, s.err) || (s.err == nil) != (r.Err == nil) {
			t.Fatalf("step %d, %s: %v, want %v", i, s.what, r.Err, s.err)
		}
		if s.err == nil && (r.Base != s.base || r.Duplicate != s.dup) {
			t.Fatalf("step %d, %s: %+v, want offset %d, duplicate %v", i, s.what, r, s.base, s.dup)
		}
	}
	if ends, err := e.Ends(t.Context(), p.Topic); err != nil || ends[0] != 12 {
		t.Errorf("ends %v, %v, want 12", ends, err)
	}
}

func TestSequenceWraps(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, nil)
	for i, s := range []struct {
		seq  int32
		n    int
		base int64
	}{{math.MaxInt32 - 2, 2, 0}, {math.MaxInt32, 3, 2}, {2, 1, 5}, {math.MaxInt32, 3, 2}} {
		if r := send(t, e, p, 5, 0, s.seq, s.n); r.Err != nil || r.Base != s.base {
			t.Fatalf("step %d: %+v, want offset %d", i, r, s.base)
		}
	}
}

// TestSequencesSurvive: neither a restart nor a crash forgets a producer, whether a checkpoint or the WAL remembers it.
func TestSequencesSurvive(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	check := func(how string) {
		t.Helper()
		if r := send(t, e, p, 5, 0, 2, 2); r.Err != nil || r.Base != 2 || !r.Duplicate {
			t.Fatalf("after %s: %+v, want a duplicate of offset 2", how, r)
		}
		if r := send(t, e, p, 5, 0, 9, 1); !errors.Is(r.Err, ErrOutOfOrderSequence) {
			t.Fatalf("after %s: %+v, want a gap refused", how, r)
		}
	}
	send(t, e, p, 5, 0, 0, 2)
	send(t, e, p, 5, 0, 2, 2)
	check("nothing")
	e.Close()
	e = open(t, small(mem))
	check("a restart")
	send(t, e, p, 5, 0, 4, 1)
	mem = mem.Kill()
	e.Close()
	e = open(t, small(mem))
	check("a crash")
	if r := send(t, e, p, 5, 0, 5, 1); r.Err != nil || r.Base != 5 {
		t.Fatalf("after all: %+v, want offset 5", r)
	}
}

// TestDuplicateWaitsForOriginal: a duplicate is not answered while its original may still be lost.
func TestDuplicateWaitsForOriginal(t *testing.T) {
	s := &stall{}
	e := open(t, small(vfs.Faults(vfs.NewMem(), s.hook)))
	p := topicOf(t, e, nil)
	release := s.hold()
	defer release()
	answers := make(chan Produced, 2)
	for range 2 {
		e.Produce(p, foreign(t, p, 5, 0, 0, rec("x")), AcksDurable, func(r Produced) { answers <- r })
	}
	select {
	case r := <-answers:
		t.Fatalf("answered before the sync: %+v", r)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	first, second := <-answers, <-answers
	if first.Err != nil || second.Err != nil || first.Duplicate || !second.Duplicate || second.Base != first.Base {
		t.Errorf("answers %+v and %+v, want the second a duplicate of the first", first, second)
	}
}

// TestAcksWritten: acks=1 is answered after the write, and not visible before the sync.
func TestAcksWritten(t *testing.T) {
	s := &stall{}
	mem := vfs.NewMem()
	e := open(t, small(vfs.Faults(mem, s.hook)))
	p := topicOf(t, e, nil)
	release := s.hold()
	defer release()
	if r := produce(t, e, p, foreign(t, p, -1, -1, -1, rec("x")), AcksWritten); r.Err != nil || r.Base != 0 {
		t.Fatalf("acks=1: %+v", r)
	}
	if f, err := e.FetchRaw(p, 0, 1000, true); err != nil || len(f.Raw) != 0 || f.High != 0 {
		t.Errorf("before the sync a fetch gives %d bytes, %+v, %v", len(f.Raw), f, err)
	}
	mem = mem.Kill()
	release()
	e.Close()
	e = open(t, small(mem))
	if f, err := e.FetchRaw(p, 0, 1000, true); err != nil || f.High != 1 {
		t.Errorf("after kill -9 the log ends at %d, %v, want 1", f.High, err)
	}
}

func TestProduceRefusals(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, map[string]string{"message.timestamp.before.max.ms": "100000000000", "max.message.bytes": "500"})
	compact := eventlog.Part{Topic: createTopic(t, e, "compact", 1, map[string]string{"cleanup.policy": "compact"}).ID}
	now := e.Now()
	at := func(ts int64) eventlog.Record { return eventlog.Record{Timestamp: ts, Value: []byte("v")} }
	good := func() eventlog.RawBatch { return foreign(t, p, -1, -1, -1, at(now)) }
	patch := func(f func(b eventlog.RawBatch)) eventlog.RawBatch {
		b := good()
		f(b)
		b.Reseal()
		return b
	}
	for _, c := range []struct {
		what string
		part eventlog.Part
		raw  []byte
		want error
	}{
		{"good", p, good(), nil},
		{"flipped bit", p, func() []byte { b := good(); b[len(b)-1] ^= 1; return b }(), ErrCorrupt},
		{"cut off", p, good()[:65], ErrCorrupt},
		{"empty", p, nil, ErrCorrupt},
		{"old format", p, func() []byte { b := good(); b[16] = 1; return b }(), ErrInvalidRecord},
		{"two batches", p, append(good(), good()...), ErrInvalidRecord},
		{"no records", p, patch(func(b eventlog.RawBatch) { b[60], b[26] = 0, 0 }), ErrInvalidRecord},
		{"holes", p, patch(func(b eventlog.RawBatch) { b[26] = 9 }), ErrInvalidRecord},
		{"control", p, patch(func(b eventlog.RawBatch) { b[22] |= eventlog.AttrControl }), ErrInvalidRecord},
		{"transactional", p, patch(func(b eventlog.RawBatch) { b[22] |= eventlog.AttrTransactional }), ErrInvalidTxnState},
		{"stamped by the log", p, patch(func(b eventlog.RawBatch) { b[22] |= eventlog.AttrLogAppendTime }), ErrInvalidTimestamp},
		{"delete horizon", p, patch(func(b eventlog.RawBatch) { b[22] |= eventlog.AttrDeleteHorizon }), ErrInvalidRecord},
		{"unknown attribute", p, patch(func(b eventlog.RawBatch) { b[21] |= 0x80 }), ErrInvalidRecord},
		{"more records than bytes for them", p, patch(func(b eventlog.RawBatch) { b[26], b[60] = 3, 4 }), ErrInvalidRecord},
		{"more records than anybody decompresses", p, patch(func(b eventlog.RawBatch) {
			b[22] |= byte(eventlog.Zstd)
			copy(b[23:], "\x7f\xff\xff\xfe")
			copy(b[57:], "\x7f\xff\xff\xff")
		}), ErrInvalidRecord},
		{"more records than anybody wants", p, patch(func(b eventlog.RawBatch) {
			b[22] |= byte(eventlog.Zstd)
			copy(b[23:], "\x00\x04\x00\x00")
			copy(b[57:], "\x00\x04\x00\x01")
		}), eventlog.ErrTooLarge},
		{"unknown codec", p, patch(func(b eventlog.RawBatch) { b[22] |= 5 }), ErrUnsupportedCompression},
		{"our producer id", p, foreign(t, p, FirstOwnProducerID, 0, 0, at(now)), ErrReservedProducer},
		{"beyond our producer id", p, foreign(t, p, math.MaxInt64, 0, 0, at(now)), ErrReservedProducer},
		{"negative producer id", p, foreign(t, p, -2, 0, 0, at(now)), ErrInvalidRecord},
		{"producer without sequence", p, foreign(t, p, 4, 0, -1, at(now)), ErrInvalidRecord},
		{"too large", p, foreign(t, p, -1, -1, -1, eventlog.Record{Timestamp: now, Value: make([]byte, 600)}), eventlog.ErrTooLarge},
		{"future", p, foreign(t, p, -1, -1, -1, at(now+7_200_000)), ErrInvalidTimestamp},
		{"past", p, foreign(t, p, -1, -1, -1, at(now-200_000_000_000)), ErrInvalidTimestamp},
		{"no key", compact, foreign(t, compact, -1, -1, -1, at(now)), ErrInvalidRecord},
		{"key", compact, foreign(t, compact, -1, -1, -1, eventlog.Record{Timestamp: now, Key: []byte("k")}), nil},
		{"unknown topic", eventlog.Part{Topic: eventlog.TopicID{1}}, good(), eventlog.ErrUnknownTopic},
		{"unknown partition", eventlog.Part{Topic: p.Topic, Index: 1}, good(), eventlog.ErrUnknownTopic},
	} {
		r := produce(t, e, c.part, c.raw, AcksDurable)
		if (c.want == nil) != (r.Err == nil) || !errors.Is(r.Err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, r.Err, c.want)
		}
	}
	if n := e.Stats().Refused["invalid_record"]; n < 6 {
		t.Errorf("%d batches are counted as invalid records", n)
	}
}

func TestLogAppendTime(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	p := topicOf(t, e, map[string]string{"message.timestamp.type": "LogAppendTime"})
	before := e.Now()
	r := send(t, e, p, 5, 0, 0, 2)
	again := send(t, e, p, 5, 0, 0, 2)
	if r.Err != nil || r.LogAppendTime < before || again.LogAppendTime != r.LogAppendTime || !again.Duplicate {
		t.Fatalf("answers %+v and %+v, want one append time of %d or later", r, again, before)
	}
	batches, _, err := e.Read(t.Context(), eventlog.Position{Part: p}, 1000)
	if err != nil || len(batches) != 1 {
		t.Fatal(batches, err)
	}
	if _, err := eventlog.CheckBatch(batches[0].Raw()); err != nil {
		t.Error(err)
	}
	recs, err := batches[0].Records()
	if err != nil || recs[1].Timestamp != r.LogAppendTime {
		t.Errorf("records %+v, %v", recs, err)
	}
}

// TestOwn: whose a batch is shows from memory and from disk.
func TestOwn(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	p := topicOf(t, e, nil)
	appendWait(t, e, p, "ours")
	produceWait(t, e, p, foreign(t, p, 3, 0, 0, rec("theirs")))
	for range 2 {
		batches, next, err := e.Read(t.Context(), eventlog.Position{Part: p}, 1000)
		if err != nil || len(batches) != 2 || next != 2 || !batches[0].Own || batches[1].Own {
			t.Fatalf("batches %+v, next %d, %v", batches, next, err)
		}
		e.Close()
		e = open(t, small(mem))
	}
}

func TestProducerIDs(t *testing.T) {
	mem := vfs.NewMem()
	seen := map[int64]bool{}
	for i := range 4 {
		e := open(t, small(mem))
		for range idBlock/2 + 10 {
			id, err := e.NewProducerID()
			if err != nil {
				t.Fatal(err)
			}
			if seen[id] || id < 0 || id >= FirstOwnProducerID {
				t.Fatalf("id %d was given out before, or is reserved", id)
			}
			seen[id] = true
		}
		if i%2 == 0 {
			mem = mem.Kill()
		}
		e.Close()
	}
}

// TestProducersExpire: an idle producer is forgotten, an active one is not.
func TestProducersExpire(t *testing.T) {
	o := small(vfs.NewMem())
	now := time.UnixMilli(1_700_000_000_000)
	o.Now = func() time.Time { return now }
	o.ProducerExpiry = time.Hour
	e := open(t, o)
	p := topicOf(t, e, nil)
	send(t, e, p, 1, 0, 0, 1)
	now = now.Add(50 * time.Minute)
	send(t, e, p, 2, 0, 0, 1)
	now = now.Add(50 * time.Minute)
	if err := e.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := e.Stats().Producers; n != 1 {
		t.Errorf("%d producers are remembered, want 1", n)
	}
	if r := send(t, e, p, 1, 0, 7, 1); r.Err != nil {
		t.Errorf("a forgotten producer goes on: %v", r.Err)
	}
	if r := send(t, e, p, 2, 0, 7, 1); !errors.Is(r.Err, ErrOutOfOrderSequence) {
		t.Errorf("a remembered producer leaves a gap: %v", r.Err)
	}
}
