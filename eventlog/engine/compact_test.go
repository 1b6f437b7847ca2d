package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// short is small with segments of one or two records.
func short(fs vfs.FS) Options {
	o := small(fs)
	o.SegmentBytes = 1500
	return o
}

// keyed produces one record; an empty value is a tombstone.
func keyed(t testing.TB, e *Engine, p eventlog.Part, pid int64, epoch int16, seq int32, key, value string) Produced {
	t.Helper()
	r := eventlog.Record{Timestamp: e.Now(), Key: []byte(key)}
	if value != "" {
		r.Value = []byte(value)
	}
	return produce(t, e, p, foreign(t, p, pid, epoch, seq, r), AcksDurable)
}

// inLog is the records that are there, as "offset key=value", without those of some keys.
func inLog(t testing.TB, e *Engine, p eventlog.Part, but ...string) (out []string) {
	t.Helper()
	eachRaw(t, e, p, func(b eventlog.RawBatch) {
		if b.Attributes()&eventlog.AttrControl != 0 {
			return
		}
		for _, r := range records(t, p, b) {
			if !slices.Contains(but, string(r.Key)) {
				out = append(out, fmt.Sprintf("%d %s=%.1s", r.Offset, r.Key, r.Value))
			}
		}
	})
	return out
}

// eachRaw calls f with every batch of a partition, as clients fetch them.
func eachRaw(t testing.TB, e *Engine, p eventlog.Part, f func(eventlog.RawBatch)) {
	t.Helper()
	for at := startOf(t, e, p); ; {
		got, err := e.FetchRaw(p, at, 1<<20, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Raw) == 0 {
			return
		}
		for raw := got.Raw; len(raw) > 0; {
			b, err := eventlog.CheckBatch(raw)
			if err != nil {
				t.Fatal(err)
			}
			f(b)
			raw, at = raw[len(b):], b.Next()
		}
	}
}

// rollOver appends until what was there before is in rolled segments, all of them below the last checkpoint.
func rollOver(t testing.TB, e *Engine, p eventlog.Part) {
	t.Helper()
	for range 3 {
		if r := keyed(t, e, p, -1, -1, -1, "pad", strings.Repeat("p", 2000)); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

var compacting = map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"}

// TestCompactionKeepsProducers: what compaction takes of a producer's batches takes nothing of what the log knows of the producer. After all its
// records are gone, after a checkpoint, a kill or a power cut, its resends are answered with the offsets of what is no more, a gap and an old epoch are
// refused, and the next sequence is taken; and that of a transactional producer, whose last transaction is known to have ended.
func TestCompactionKeepsProducers(t *testing.T) {
	for _, c := range []struct {
		what  string
		crash func(*vfs.Mem) *vfs.Mem
	}{
		{"a kill", (*vfs.Mem).Kill},
		{"a power cut", func(m *vfs.Mem) *vfs.Mem { return m.Crash(rand.New(rand.NewPCG(1, 1))) }},
	} {
		mem := vfs.NewMem()
		o := short(mem)
		e := open(t, o)
		p := topicOf(t, e, compacting)
		for i := range int32(5) {
			if r := keyed(t, e, p, 7, 3, i, fmt.Sprint("k", i), "old"); r.Err != nil || r.Base != int64(i) {
				t.Fatalf("%+v", r)
			}
		}
		raw := foreign(t, p, 8, 0, 0, eventlog.Record{Timestamp: e.Now(), Key: []byte("k0"), Value: []byte("in a transaction")})
		if r := transact(t, e, raw, p); r.Err != nil {
			t.Fatal(r.Err)
		}
		endTxn(t, e, End{8, 1, true, []eventlog.Part{p}, nil})
		for i := range 5 {
			keyed(t, e, p, -1, -1, -1, fmt.Sprint("k", i), "new")
		}
		for range 2 {
			rollOver(t, e, p)
			maintain(t, e)
		}
		eachRaw(t, e, p, func(b eventlog.RawBatch) {
			if id := b.ProducerID(); id == 7 || id == 8 {
				t.Errorf("a batch of producer %d is left, at %d, of %d records", id, b.Base(), b.Count())
			}
		})
		if got := inLog(t, e, p, "pad"); !slices.Equal(got, []string{"7 k0=n", "8 k1=n", "9 k2=n", "10 k3=n", "11 k4=n"}) {
			t.Errorf("left are %q", got)
		}
		maintain(t, e)
		o.FS = c.crash(mem)
		e.Close()
		e = open(t, o)
		for i := range int32(5) {
			if r := keyed(t, e, p, 7, 3, i, fmt.Sprint("k", i), "old"); r.Err != nil || !r.Duplicate || r.Base != int64(i) {
				t.Errorf("after %s, sequence %d again: %+v, want the duplicate of offset %d", c.what, i, r, i)
			}
		}
		for what, r := range map[string]Produced{
			"a gap":                              keyed(t, e, p, 7, 3, 6, "k", "v"),
			"an old epoch":                       keyed(t, e, p, 7, 2, 5, "k", "v"),
			"the epoch before the transaction's": transact(t, e, foreign(t, p, 8, 0, 1, eventlog.Record{Key: []byte("k"), Value: []byte("v")}), p),
		} {
			if r.Err == nil {
				t.Errorf("after %s, %s: %+v", c.what, what, r)
			}
		}
		if r := keyed(t, e, p, 7, 3, 5, "k", "v"); r.Err != nil || r.Duplicate {
			t.Errorf("after %s, the next sequence: %+v", c.what, r)
		}
		raw = foreign(t, p, 8, 1, 0, eventlog.Record{Timestamp: e.Now(), Key: []byte("k"), Value: []byte("the next transaction")})
		if r := transact(t, e, raw, p); r.Err != nil || r.Duplicate {
			t.Errorf("after %s, the next transaction: %+v", c.what, r)
		}
	}
}

// TestCompactionLags: nothing is compacted before min.compaction.lag.ms, and everything is after max.compaction.lag.ms, however little it is; between
// the two it is min.cleanable.dirty.ratio that decides.
func TestCompactionLags(t *testing.T) {
	config := func(more map[string]string) map[string]string {
		c := map[string]string{"cleanup.policy": "compact"}
		for k, v := range more {
			c[k] = v
		}
		return c
	}
	put := func(e *Engine, p eventlog.Part, keys ...string) {
		for _, k := range keys {
			keyed(t, e, p, -1, -1, -1, k, strings.Repeat("v", 600))
		}
	}
	count := func(e *Engine, p eventlog.Part, key string) (n int) {
		for _, r := range inLog(t, e, p) {
			if strings.Contains(r, " "+key+"=") {
				n++
			}
		}
		return n
	}
	t.Run("min", func(t *testing.T) {
		e, advance := timed(t, short(vfs.NewMem()))
		p := topicOf(t, e, config(map[string]string{"min.compaction.lag.ms": "60000", "min.cleanable.dirty.ratio": "0"}))
		put(e, p, "a", "a", "a", "a", "a", "a")
		advance(50 * time.Second)
		put(e, p, "b", "b", "b", "b", "b", "b")
		maintain(t, e)
		if a, b := count(e, p, "a"), count(e, p, "b"); a != 6 || b != 6 {
			t.Errorf("%d and %d records before the lag", a, b)
		}
		advance(20 * time.Second)
		maintain(t, e)
		if a, b := count(e, p, "a"), count(e, p, "b"); a > 3 || a < 1 || b != 6 { // the segment at the border waits
			t.Errorf("%d and %d records, want the old key's last and all of the young", a, b)
		}
		advance(time.Minute)
		rollOver(t, e, p)
		maintain(t, e)
		if a, b := count(e, p, "a"), count(e, p, "b"); a != 1 || b > 3 || b < 1 {
			t.Errorf("%d and %d records after the lag of both", a, b)
		}
	})
	t.Run("ratio and max", func(t *testing.T) {
		e, advance := timed(t, short(vfs.NewMem()))
		p := topicOf(t, e, config(map[string]string{"max.compaction.lag.ms": "600000", "min.cleanable.dirty.ratio": "0.5"}))
		for i := range 20 {
			put(e, p, fmt.Sprint("clean", i))
		}
		rollOver(t, e, p)
		maintain(t, e) // all is dirty: more than half
		put(e, p, "a", "a", "a", "a")
		rollOver(t, e, p)
		maintain(t, e)
		if n := count(e, p, "a"); n != 4 {
			t.Fatalf("%d records of a are left, though less than half is dirty", n)
		}
		advance(9 * time.Minute)
		maintain(t, e)
		if n := count(e, p, "a"); n != 4 {
			t.Fatalf("%d records of a are left before the lag", n)
		}
		advance(2 * time.Minute)
		maintain(t, e)
		if n := count(e, p, "a"); n != 1 {
			t.Errorf("%d records of a are left after the lag, want the last", n)
		}
		for i := range 30 {
			put(e, p, fmt.Sprint("more", i%3))
		}
		maintain(t, e) // more than half is dirty: no lag is waited for
		if n := count(e, p, "more0"); n > 2 {
			t.Errorf("%d records are left of a key, though more than half is dirty", n)
		}
	})
	t.Run("max rolls the active segment", func(t *testing.T) {
		e, advance := timed(t, short(vfs.NewMem()))
		c := config(map[string]string{"max.compaction.lag.ms": "600000", "min.cleanable.dirty.ratio": "0.5"})
		c["segment.bytes"] = "1048576"
		p := topicOf(t, e, c)
		put(e, p, "a", "a", "a", "a")
		maintain(t, e)
		advance(11 * time.Minute)
		put(e, p, "b", "b")
		maintain(t, e)
		if a, b := count(e, p, "a"), count(e, p, "b"); a != 1 || b != 2 {
			t.Errorf("%d records of a and %d of b, want one and the two that are young", a, b)
		}
	})
}

// TestTombstones: a tombstone deletes what came before it, and stays for delete.retention.ms from the compaction that did that, over a restart; then
// it goes, and nothing of its key comes back.
func TestTombstones(t *testing.T) {
	mem := vfs.NewMem()
	o := short(mem)
	e, advance := timed(t, o)
	c := map[string]string{"delete.retention.ms": "600000"}
	for k, v := range compacting {
		c[k] = v
	}
	p := topicOf(t, e, c)
	want := func(what string, want ...string) {
		t.Helper()
		rollOver(t, e, p)
		maintain(t, e)
		if got := inLog(t, e, p, "pad"); !slices.Equal(got, want) {
			t.Fatalf("%s: %q, want %q", what, got, want)
		}
	}
	keyed(t, e, p, -1, -1, -1, "k", "v")
	keyed(t, e, p, -1, -1, -1, "other", "v")
	want("before", "0 k=v", "1 other=v")
	advance(time.Hour) // by the tombstone's own age it could go at once: it is the compaction's that counts
	keyed(t, e, p, -1, -1, -1, "k", "")
	tomb := fmt.Sprintf("%d k=", endOf1(t, e, p)-1)
	want("the tombstone deletes", "1 other=v", tomb)
	advance(9 * time.Minute)
	want("it is kept", "1 other=v", tomb)
	now := e.o.Now
	o.FS, o.Now = mem.Kill(), now
	e.Close()
	e = open(t, o)
	want("over a restart", "1 other=v", tomb)
	advance(2 * time.Minute)
	want("its time is over", "1 other=v")
	want("it stays away", "1 other=v")
}
