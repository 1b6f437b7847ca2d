package txn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/internal/tier"
)

var (
	cfg = &Config{MaxTimeout: time.Hour, Expiry: 7 * 24 * time.Hour, MaxParts: 3}
	t0  = time.UnixMilli(1_700_000_000_000)
	pa  = Part{"a", 0}
	pb  = Part{"b", 1}
)

// script drives one id; every record goes through a replay, which must give the same.
type script struct {
	t  *testing.T
	x  *Txn
	id int64
}

func begin(t *testing.T) *script { return &script{t: t, x: New("id", cfg), id: 100} }

func (s *script) did(out Output, err, want *kerr.Error) Output {
	s.t.Helper()
	if out.Refusal != nil {
		err = out.Refusal
	}
	if !errors.Is(err, want) && (err != nil || want != nil) {
		s.t.Fatalf("%v, want %v", err, want)
	}
	if out.Record == nil {
		return out
	}
	if out.next != nil && s.x.mine(s.x.p.id, s.x.p.epoch) != kerr.ConcurrentTransactions && s.x.p.id >= 0 {
		s.t.Fatal("not busy while its end is written")
	}
	s.x.Settle(out, true)
	again := New("id", cfg)
	if err := again.Replay(*out.Record); err != nil {
		s.t.Fatal(err)
	}
	again.cap = s.x.cap
	if !reflect.DeepEqual(again, s.x) {
		s.t.Fatalf("%+v is replayed as %+v", s.x, again)
	}
	return out
}

func (s *script) init(want *kerr.Error, id int64, epoch int16) Output {
	s.t.Helper()
	s.id++
	out, err := s.x.Init(t0, time.Minute, id, epoch, s.id)
	return s.did(out, err, want)
}

func (s *script) add(want *kerr.Error, epoch int16, parts ...Part) Output {
	s.t.Helper()
	out, err := s.x.Add(t0, 101, epoch, 2, 0, parts...)
	return s.did(out, err, want)
}

func (s *script) end(want *kerr.Error, id int64, epoch, version int16, commit bool) Output {
	s.t.Helper()
	out, err := s.x.End(t0, id, epoch, version, commit, s.id+1000)
	return s.did(out, err, want)
}

func (s *script) is(state State, id int64, epoch int16) {
	s.t.Helper()
	if got, e := s.x.Producer(); s.x.State() != state || got != id || e != epoch {
		s.t.Fatalf("%v with producer %d, epoch %d, want %v, %d, %d", s.x.State(), got, e, state, id, epoch)
	}
}

func TestVersion2(t *testing.T) {
	s := begin(t)
	s.end(kerr.InvalidProducerIDMapping, 101, 0, 2, true)
	s.init(nil, -1, -1)
	s.is(Empty, 101, 0)
	s.end(kerr.InvalidTxnState, 101, 0, 2, true)
	s.add(nil, 0, pa)
	s.add(nil, 0, pa)
	s.add(nil, 0, pb)
	out := s.end(nil, 101, 0, 2, true)
	if !reflect.DeepEqual(out.End, &End{101, 1, true, []Part{pa, pb}}) || out.Epoch != 1 {
		t.Fatalf("%+v", out)
	}
	s.is(CompleteCommit, 101, 1)
	if out := s.end(nil, 101, 0, 2, true); out.Record != nil || out.Epoch != 1 { // it did not hear of it
		t.Fatalf("%+v", out)
	}
	s.end(kerr.InvalidTxnState, 101, 0, 2, false)
	s.end(kerr.InvalidTxnState, 101, 1, 2, true)
	s.add(kerr.ProducerFenced, 0, pa)
	if out := s.end(nil, 101, 1, 2, false); out.End != nil || out.Epoch != 2 { // nothing in it
		t.Fatalf("%+v", out)
	}
	s.add(nil, 2, pa)
	s.end(kerr.ProducerFenced, 101, 1, 2, true) // late
	s.end(kerr.InvalidProducerIDMapping, 7, 2, 2, true)
	s.end(nil, 101, 2, 2, false)
	s.is(CompleteAbort, 101, 3)
}

func TestVersion1(t *testing.T) {
	s := begin(t)
	s.init(nil, -1, -1)
	s.end(kerr.InvalidTxnState, 101, 0, 0, false)
	s.add(nil, 0, pa)
	if out := s.end(nil, 101, 0, 0, true); out.End.Epoch != 0 || out.Epoch != 0 {
		t.Fatalf("%+v", out)
	}
	if out := s.end(nil, 101, 0, 0, true); out.Record != nil {
		t.Fatalf("%+v", out)
	}
	s.end(kerr.InvalidTxnState, 101, 0, 0, false)
	s.add(nil, 0, pb)
	s.end(nil, 101, 0, 0, false)
	s.end(kerr.InvalidTxnState, 101, 0, 0, true)
	s.is(CompleteAbort, 101, 0)
}

func TestFencing(t *testing.T) {
	s := begin(t)
	s.init(nil, -1, -1)
	s.add(nil, 0, pa)
	out := s.init(nil, -1, -1) // a successor: it aborts, fences, and has the id
	if !reflect.DeepEqual(out.End, &End{101, 1, false, []Part{pa}}) || out.Epoch != 1 {
		t.Fatalf("%+v", out)
	}
	s.is(Empty, 101, 1)
	s.add(kerr.ProducerFenced, 0, pa)
	s.end(kerr.ProducerFenced, 101, 0, 2, true)
	s.init(kerr.ProducerFenced, 101, 0) // the old one cannot come back
	s.init(kerr.ProducerFenced, 99, 1)
	s.init(nil, 101, 1) // the new one recovers
	s.is(Empty, 101, 2)
	if out := s.init(nil, 101, 1); out.Record != nil || out.Epoch != 2 { // and did not hear of it
		t.Fatalf("%+v", out)
	}
	s.add(nil, 2, pa)
	out = s.init(kerr.ConcurrentTransactions, 101, 1) // whoever asks with the last epoch while the next is at work, ends that, and is fenced
	if !reflect.DeepEqual(out.End, &End{101, 3, false, []Part{pa}}) {
		t.Fatalf("%+v", out)
	}
	s.is(CompleteAbort, 101, 3)
	s.init(kerr.ProducerFenced, 101, 1)
	s.end(kerr.InvalidTxnState, 101, 2, 2, true)
	if out := s.end(nil, 101, 2, 2, false); out.Record != nil || out.Epoch != 3 { // the one whose transaction it was goes on
		t.Fatalf("%+v", out)
	}
	if out := s.init(nil, 101, 2); out.Record == nil || out.Epoch != 3 { // as it may otherwise, too
		t.Fatalf("%+v", out)
	}
	s.is(Empty, 101, 3)
	s.end(kerr.ProducerFenced, 101, 2, 2, false) // that was before
	s.add(nil, 3, pa)
	s.init(kerr.ProducerFenced, 99, 3) // who never had it ends nothing
	s.is(Ongoing, 101, 3)
}

func TestEpochsRunOut(t *testing.T) {
	s := begin(t)
	s.init(nil, -1, -1)
	s.x.p.epoch = maxEpoch
	s.add(nil, maxEpoch, pa)
	if !s.x.NeedsID() {
		t.Fatal("needs no id")
	}
	if _, err := s.x.End(t0, 101, maxEpoch, 2, true, -1); err != kerr.ConcurrentTransactions {
		t.Fatal(err)
	}
	out := s.end(nil, 101, maxEpoch, 2, true)
	if out.End.Epoch != maxEpoch+1 || out.End.ProducerID != 101 || out.ProducerID != s.id+1000 || out.Epoch != 0 {
		t.Fatalf("%+v", out)
	}
	if out := s.end(nil, 101, maxEpoch, 2, true); out.Record != nil || out.Epoch != 0 {
		t.Fatalf("%+v", out)
	}
}

func TestTimeout(t *testing.T) {
	s := begin(t)
	if out := s.x.Tick(t0, 5); out.Record != nil {
		t.Fatal("something was due")
	}
	s.init(nil, -1, -1)
	s.add(nil, 0, pa)
	if d := s.x.Deadline(); !d.Equal(t0.Add(time.Minute)) {
		t.Fatal(d)
	}
	s.x.Limit(10 * time.Second)
	s.x.Limit(20 * time.Second)
	if d := s.x.Deadline(); !d.Equal(t0.Add(10 * time.Second)) {
		t.Fatal(d)
	}
	out := s.did(s.x.Tick(t0.Add(11*time.Second), 5), nil, nil)
	if !reflect.DeepEqual(out.End, &End{101, 1, false, []Part{pa}}) {
		t.Fatalf("%+v", out.End)
	}
	s.is(CompleteAbort, 101, 1)
	s.end(kerr.InvalidTxnState, 101, 0, 2, true)
	s.end(kerr.ProducerFenced, 101, 0, 0, false)
	s.add(kerr.ProducerFenced, 0, pa)
	if out := s.end(nil, 101, 0, 2, false); out.Record != nil || out.Epoch != 1 {
		t.Fatalf("%+v", out)
	}
	out = s.x.Tick(t0.Add(8*24*time.Hour), 5)
	if out.Record == nil || out.Record.Value != nil {
		t.Fatalf("%+v", out)
	}
	s.x.Settle(out, true)
	if !s.x.Forgettable() {
		t.Error("it is remembered")
	}
}

func TestRefusals(t *testing.T) {
	s := begin(t)
	for _, timeout := range []time.Duration{0, -1, time.Hour + 1} {
		if _, err := s.x.Init(t0, timeout, -1, -1, 1); err != kerr.InvalidTransactionTimeout {
			t.Errorf("%v: %v", timeout, err)
		}
	}
	s.init(nil, -1, -1)
	s.add(kerr.PolicyViolation, 0, Part{"a", 0}, Part{"a", 1}, Part{"a", 2}, Part{"a", 3})
	if s.x.State() != Empty {
		t.Error(s.x.State())
	}
	s.add(nil, 0, pa)
	if err := s.x.Check(101, 0, pa); err != nil {
		t.Error(err)
	}
	if err := s.x.Check(101, 0, pb); err != kerr.InvalidTxnState {
		t.Error(err)
	}
	out, _ := s.x.End(t0, 101, 0, 2, true, -1)
	for _, err := range []*kerr.Error{s.x.Check(101, 0, pa), s.x.mine(101, 0)} {
		if err != kerr.ConcurrentTransactions {
			t.Error(err)
		}
	}
	s.x.Settle(out, false) // refused: as if never asked
	if err := s.x.Check(101, 0, pa); err != nil {
		t.Error(err)
	}
	if err := s.x.Replay(Record{Value: []byte{0, 9}}); err == nil {
		t.Error("a record of version 9 is read")
	}
	s.x.Replay(Record{})
	if !s.x.Forgettable() {
		t.Error("a tombstone is not heard")
	}
}

// TestRandom: whatever comes in whatever order, a producer whose epoch is not the last one does nothing, epochs ascend, an end has the
// partitions that were added, and its outcome never changes.
func TestRandom(t *testing.T) {
	for i := range tier.N(3000) {
		rng := rand.New(rand.NewPCG(tier.Seed()+uint64(i), 7))
		if err := random(rng); err != nil {
			t.Fatalf("seed %d: %v", tier.Seed()+uint64(i), err)
		}
	}
}

func random(rng *rand.Rand) error {
	x := New("id", cfg)
	now, fresh := t0, int64(0)
	open := map[Part]bool{}
	var last *Output // in flight
	settle := func() error {
		if last == nil {
			return nil
		}
		out := *last
		last = nil
		written := rng.IntN(4) > 0
		before, epoch := x.Producer()
		x.Settle(out, written)
		if !written {
			return nil
		}
		id, e := x.Producer()
		if id >= 0 && before == id && e < epoch {
			return fmt.Errorf("epoch %d after %d", e, epoch)
		}
		if out.End != nil {
			var want []Part
			for p := range open {
				want = append(want, p)
			}
			if len(want) != len(out.End.Parts) || slices.ContainsFunc(want, func(p Part) bool { return !slices.Contains(out.End.Parts, p) }) {
				return fmt.Errorf("an end in %v, of %v", out.End.Parts, want)
			}
			if out.End.Epoch < epoch || out.End.ProducerID != before {
				return fmt.Errorf("markers of producer %d, epoch %d, was %d, %d", out.End.ProducerID, out.End.Epoch, before, epoch)
			}
			clear(open)
		}
		return nil
	}
	for range 60 {
		now = now.Add(time.Duration(rng.IntN(40)) * time.Second)
		fresh++
		id, epoch := x.Producer()
		stale := rng.IntN(4) == 0 && id >= 0
		asked := epoch
		if stale {
			asked -= int16(1 + rng.IntN(2))
		}
		var out Output
		var err *kerr.Error
		state := x.State()
		switch rng.IntN(6) {
		case 0:
			want, wantEpoch := int64(-1), int16(-1)
			if rng.IntN(2) == 0 {
				want, wantEpoch = id, asked
			}
			out, err = x.Init(now, time.Minute, want, wantEpoch, fresh)
			if err == nil && want >= 0 && stale && out.Refusal == nil && (out.Epoch != epoch || out.ProducerID != id || out.End != nil) {
				return fmt.Errorf("epoch %d recovers, the last is %d", asked, epoch)
			}
		case 1, 2:
			p := Part{"t", rng.Int32N(3)}
			if out, err = x.Add(now, id, asked, 2, 0, p); err == nil {
				open[p] = true
				if stale {
					return fmt.Errorf("epoch %d adds, the last is %d", asked, epoch)
				}
				out.next = nil
			}
		case 3, 4:
			out, err = x.End(now, id, asked, int16(2*rng.IntN(2)), rng.IntN(2) == 0, fresh)
			if err == nil && stale && (out.Record != nil || state == Ongoing) {
				return fmt.Errorf("epoch %d ends, the last is %d", asked, epoch)
			}
		case 5:
			out = x.Tick(now, fresh)
		}
		if out.next != nil {
			if last != nil {
				return fmt.Errorf("a second output while one is being written")
			}
			last = &out
		}
		if rng.IntN(2) == 0 {
			if err := settle(); err != nil {
				return err
			}
		}
	}
	return settle()
}

// FuzzReplay: no record is worse than skipped.
func FuzzReplay(f *testing.F) {
	x := New("id", cfg)
	out, _ := x.Init(t0, time.Minute, -1, -1, 1)
	x.Settle(out, true)
	f.Add(out.Record.Key, out.Record.Value)
	out, _ = x.Add(t0, 1, 0, 2, 0, pa, pb)
	f.Add(out.Record.Key, out.Record.Value)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		id, ok := NameOf(key)
		if !ok {
			return
		}
		x := New(id, cfg)
		if err := x.Replay(Record{key, value}); err != nil {
			return
		}
		x.Tick(t0, 9)
	})
}

// A record that announces more than it has is refused before it costs anything: the codec would count to a billion.
func TestReplayBelievesNoClaims(t *testing.T) {
	x := New("id", cfg)
	out, _ := x.Init(t0, time.Minute, -1, -1, 1)
	x.Settle(out, true)
	out, _ = x.Add(t0, 1, 0, 2, 0, pa, pb)
	good := out.Record.Value
	if !whole(good) {
		t.Fatalf("%x is refused", good)
	}
	for cut := range good {
		if whole(good[:cut]) {
			t.Errorf("its first %d bytes are taken", cut)
		}
	}
	for name, claims := range map[string]string{
		"of the record":    "\x01" + strings.Repeat("\x00", 16),
		"of a topic":       "\x02\x02t\x01",
		"of partitions":    "\x02\x02t",
		"of topics":        "",
		"a tagged field's": "\x01" + strings.Repeat("\x00", 16) + "\x01\x00",
	} {
		v := slices.Concat(good[:2+8+2+4+1], []byte(claims), []byte{0xff, 0xff, 0xff, 0xff, 0x0f}, make([]byte, 16))
		if whole(v) {
			t.Errorf("2^32-1 %s are taken", name)
		}
		if err := New("id", cfg).Replay(Record{out.Record.Key, v}); err == nil {
			t.Errorf("2^32-1 %s are replayed", name)
		}
	}
}

// All transactions together have so many partitions; those that end make room, however they do.
func TestRoom(t *testing.T) {
	c := *cfg
	c.Room = &Room{Parts: 3}
	begin := func(id string, producer int64) *Txn {
		x := New(id, &c)
		out, err := x.Init(t0, time.Minute, -1, -1, producer)
		if err != nil {
			t.Fatal(err)
		}
		x.Settle(out, true)
		return x
	}
	a, b := begin("a", 1), begin("b", 2)
	add := func(x *Txn, want *kerr.Error, parts ...Part) Output {
		t.Helper()
		id, epoch := x.Producer()
		out, err := x.Add(t0, id, epoch, 2, 0, parts...)
		if err != want {
			t.Errorf("%s: %v, want %v", x.ID(), err, want)
		}
		return out
	}
	kept := add(a, nil, pa, pb, pa) // one that is named twice is one
	add(a, nil, pa)                 // it has that
	add(b, kerr.PolicyViolation, pa, pb)
	add(b, nil, pa)
	add(b, kerr.PolicyViolation, pb)
	id, epoch := a.Producer()
	out, err := a.End(t0, id, epoch, 2, true, -1)
	if err != nil {
		t.Fatal(err)
	}
	a.Settle(out, false)
	add(b, kerr.PolicyViolation, pb) // what is not written has not ended
	if out, err = a.End(t0, id, epoch, 2, true, -1); err != nil {
		t.Fatal(err)
	}
	a.Settle(out, true)
	add(b, nil, pb)
	// One that takes too long, and its successor.
	b.Settle(b.Tick(t0.Add(time.Hour), 9), true)
	if c.Room.Taken() != 0 {
		t.Errorf("%d are taken", c.Room.Taken())
	}
	// What is restored counts, and goes with its tombstone.
	if err := b.Replay(*kept.Record); err != nil || c.Room.Taken() != 2 {
		t.Errorf("%v, %d are taken", err, c.Room.Taken())
	}
	if err := b.Replay(Record{Key: kept.Record.Key}); err != nil || c.Room.Taken() != 0 {
		t.Errorf("%v, %d are taken", err, c.Room.Taken())
	}
}
