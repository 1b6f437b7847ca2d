package logtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

var claimTests = []test{
	{"ClaimAppend", testClaimAppend},
	{"ClaimFences", testClaimFences},
	{"ClaimFencesInFlight", testClaimFencesInFlight},
	{"ClaimWhileStalled", testClaimWhileStalled},
	{"ClaimOfAPeer", testClaimOfAPeer},
	{"ClaimManyPartitions", testClaimManyPartitions},
	{"ClaimEpochsSurvive", testClaimEpochsSurvive},
}

func (b *bench) claim(d eventlog.Driver, p eventlog.Part) eventlog.Writer {
	b.Helper()
	w, err := d.Claim(b.ctx, p)
	if err != nil {
		b.Fatalf("claim %v: %v", p, err)
	}
	if w.Epoch() < 0 || w.Epoch() >= 1<<31 {
		b.Fatalf("claim %v: epoch %d does not fit 31 bits", p, w.Epoch())
	}
	return w
}

// write is put for a writer, which is claimed again when it is spent.
func (b *bench) write(d eventlog.Driver, w eventlog.Writer, p eventlog.Part, name string, n int) eventlog.Writer {
	b.Helper()
	for tries := 0; n > 0; tries++ {
		if tries > 1000 {
			b.Fatalf("%d records to write after %d appends", n, tries)
		}
		sent := b.Append(w, p, name, min(n, 3), 0)
		b.wait()
		for _, s := range sent {
			switch {
			case s.Fate == Durable:
				n--
			case s.Fate == Unknown || errors.Is(s.Err, eventlog.ErrFenced):
				w = b.claim(d, p)
			}
		}
	}
	return w
}

func testClaimAppend(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(2)
	f := b.tail(b.zero())
	w := b.claim(b.d, p)
	for range 30 {
		b.Append(w, p, "w", 2, 0)
	}
	b.wait()
	w = b.write(b.d, w, p, "w", 10)
	b.settled(b.d, p)
	b.check(b.d, p)
	f.until("everything durable was seen", f.has(p))
	f.check(b.zero())
	o := answer(t, w, newBatch(t, b.part(0), eventlog.None, eventlog.Record{Value: []byte("astray")}))
	if o.At(0).Err == nil || errors.Is(o.At(0).Err, eventlog.ErrUnknownOutcome) {
		t.Errorf("a writer of %v appends to %v: %v, want it refused", p, b.part(0), o.At(0).Err)
	}
	_, err := b.d.Claim(b.ctx, b.part(55))
	wantErr(t, "claim an unknown partition", err, eventlog.ErrUnknownTopic)
}

func testClaimFences(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	var old []eventlog.Writer
	w := b.claim(b.d, p)
	for i := range 5 {
		w = b.write(b.d, w, p, fmt.Sprintf("w%d", i), 3)
		next := b.claim(b.d, p)
		if next.Epoch() <= w.Epoch() {
			t.Fatalf("epoch %d after %d", next.Epoch(), w.Epoch())
		}
		old = append(old, w)
		w = next
		for j, o := range old {
			sent := b.Append(o, p, fmt.Sprintf("fenced%d", j), 2, 0)
			b.wait()
			if sent[0].Fate != Refused || !errors.Is(sent[0].Err, eventlog.ErrFenced) {
				t.Fatalf("an append by writer %d after %d claims is %v: %v", j, i+2, sent[0].Fate, sent[0].Err)
			}
		}
	}
	b.write(b.d, w, p, "last", 3)
	b.settled(b.d, p)
	b.check(b.d, p)
}

// race lets an old writer append without a pause while the partition is claimed away from it, and checks that what was read
// after the claim is all that ever comes of the old writer.
func (b *bench) race(p eventlog.Part, old, taker eventlog.Driver, round int) {
	b.Helper()
	w := b.claim(old, p)
	mine := fmt.Sprintf("old%d", round)
	stop := make(chan struct{})
	going := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			if i == 20 {
				close(going)
			}
			select {
			case <-stop:
				return
			default:
			}
			if ch := old.Room(p); ch != nil {
				select {
				case <-ch:
				case <-stop:
					return
				}
			}
			if b.Outstanding() < 100 {
				b.Append(w, p, mine, 1+i%3, 0)
			}
		}
	})
	<-going
	next := b.claim(taker, p)
	end := b.ends(taker)[p.Index]
	before, err := ReadRange(b.ctx, taker, p, b.starts(taker)[p.Index], end, 1<<16)
	if err != nil {
		b.Fatal(err)
	}
	b.write(taker, next, p, fmt.Sprintf("new%d", round), 5)
	close(stop)
	wg.Wait()
	b.wait()
	sent := b.Append(w, p, mine, 1, 0)
	b.wait()
	if sent[0].Fate != Refused {
		b.Errorf("an append by the fenced writer is %v: %v", sent[0].Fate, sent[0].Err)
	}
	b.settled(taker, p)
	after := b.check(taker, p)
	if len(after) < len(before) || !slices.Equal(before, after[:len(before)]) {
		b.Fatalf("round %d: what was read up to the end %d after the claim has changed", round, end)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range after[len(before):] {
		if s := b.sent[r.Value]; s != nil && s.Stream == mine {
			b.Errorf("round %d: %q of the earlier writer is at %d, the end at the claim was %d", round, r.Value, r.Offset, end)
		}
	}
}

func testClaimFencesInFlight(t testing.TB, e *Env) {
	b := newBench(t, e)
	for i := range 5 {
		b.race(b.part(1), b.d, b.d, i)
	}
}

func testClaimOfAPeer(t testing.TB, e *Env) {
	if e.Peer == nil {
		t.Skip("Env has no Peer")
	}
	b := newBench(t, e)
	peer := e.Peer(t)
	for i := range 3 {
		b.race(b.part(1), b.d, peer, 2*i)
		b.race(b.part(1), peer, b.d, 2*i+1)
	}
	if err := peer.Close(); err != nil {
		t.Error(err)
	}
}

// testClaimWhileStalled: what an earlier writer has in flight, stuck, when the claim is made either is there when Claim
// returns or never comes.
func testClaimWhileStalled(t testing.TB, e *Env) {
	if e.Stall == nil {
		t.Skip("Env has no Stall")
	}
	b := newBench(t, e)
	p := b.part(0)
	old := b.claim(b.d, p)
	release := e.Stall(t)
	for range 20 {
		b.Append(old, p, "old", 1, 0)
	}
	claimed := make(chan eventlog.Writer)
	go func() {
		w, err := b.d.Claim(b.ctx, p)
		if err != nil {
			t.Errorf("claim: %v", err)
		}
		claimed <- w
	}()
	release()
	w := <-claimed
	if w == nil {
		return
	}
	end := b.ends(b.d)[0]
	b.write(b.d, w, p, "new", 3)
	b.settled(b.d, p)
	for _, s := range b.With(p, Durable) {
		if s.Stream == "old" && s.Offset >= end {
			t.Errorf("%q of the earlier writer is at %d, the end at the claim was %d", s.Value, s.Offset, end)
		}
	}
	b.check(b.d, p)
}

// testClaimManyPartitions: claims of different partitions do not disturb each other, or appends without a claim elsewhere.
func testClaimManyPartitions(t testing.TB, e *Env) {
	b := newBench(t, e)
	var ws []eventlog.Writer
	for i := range int32(3) {
		ws = append(ws, b.claim(b.d, b.part(i)))
	}
	for i := range 10 {
		for j := range ws {
			b.Append(ws[j], b.part(int32(j)), "w", 1+i%2, 0)
		}
		b.Append(b.d, b.part(3), "plain", 2, 0)
	}
	b.wait()
	for j := range ws {
		ws[j] = b.write(b.d, ws[j], b.part(int32(j)), "w", 2)
	}
	b.settled(b.d, b.all()...)
	b.check(b.d, b.all()...)
}

func testClaimEpochsSurvive(t testing.TB, e *Env) {
	if e.Reopen == nil {
		t.Skip("Env has no Reopen")
	}
	b := newBench(t, e)
	p := b.part(0)
	w := b.claim(b.d, p)
	w = b.write(b.d, w, p, "a", 3)
	epoch := w.Epoch()
	for i := range 3 {
		if err := b.d.Close(); err != nil {
			t.Fatal(err)
		}
		sent := b.Append(w, p, "closed", 1, 0)
		b.wait()
		if sent[0].Fate != Refused {
			t.Errorf("an append through a closed log is %v: %v", sent[0].Fate, sent[0].Err)
		}
		b.d = e.Reopen(t)
		w = b.claim(b.d, p)
		if w.Epoch() <= epoch {
			t.Fatalf("epoch %d after %d and a restart", w.Epoch(), epoch)
		}
		w = b.write(b.d, w, p, fmt.Sprintf("b%d", i), 3)
		epoch = w.Epoch()
	}
	b.settled(b.d, p)
	b.check(b.d, p)
}
