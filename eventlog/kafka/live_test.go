package kafka

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

// seen is what a tail showed of each partition: the values, by offset.
type seen map[eventlog.Part]map[int64]string

// poll takes what a tail has. It is an error if a partition goes back, or tells of anything but records.
func (s seen) poll(tail eventlog.Tail, at eventlog.Vector, maxBytes int) (ownBySide int, err error) {
	events, err := tail.Poll(nil, maxBytes)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if e.Kind != eventlog.Records || e.Next <= at[e.Part] {
			return 0, fmt.Errorf("at %d comes %+v", at[e.Part], e)
		}
		if e.Batch.Side != nil {
			ownBySide++
		}
		if s[e.Part] == nil {
			s[e.Part] = map[int64]string{}
		}
		if err := e.Batch.Each(func(r *eventlog.Record) error {
			if r.Offset >= at[e.Part] {
				s[e.Part][r.Offset] = string(r.Value)
			}
			return nil
		}); err != nil {
			return 0, err
		}
		at[e.Part] = e.Next
	}
	return ownBySide, nil
}

// values reads a partition whole.
func (r *rig) values(p eventlog.Part) map[int64]string {
	r.Helper()
	all := map[int64]string{}
	for next := int64(0); ; {
		batches, to, err := r.d.Read(r.ctx, eventlog.Position{Part: p, Offset: next}, 1<<20)
		if err != nil {
			r.Fatal(err)
		}
		for _, b := range batches {
			if err := b.Each(func(rec *eventlog.Record) error { all[rec.Offset] = string(rec.Value); return nil }); err != nil {
				r.Fatal(err)
			}
		}
		if to == next {
			return all
		}
		next = to
	}
}

// add appends one record that has a side, and waits until it is answered.
func (r *rig) add(p eventlog.Part, value string) {
	r.Helper()
	var bl eventlog.Builder
	bl.Add(time.Now().UnixMilli(), []byte("k"), []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		r.Fatal(err)
	}
	b.Side = value
	answer := make(chan eventlog.Outcome, 1)
	r.d.Append(b, func(o eventlog.Outcome) { answer <- o })
	if o := <-answer; o.Err != nil {
		r.Fatal(o.Err)
	}
}

// joined waits until a tail is fed by the streams of all its partitions.
func (r *rig) joined(t eventlog.Tail) {
	r.Helper()
	for own := t.(*tail); ; time.Sleep(time.Millisecond) {
		own.mu.Lock()
		all := true
		for _, f := range own.parts {
			all = all && f.stream != nil
		}
		own.mu.Unlock()
		if all {
			return
		}
		if r.ctx.Err() != nil {
			r.Fatal("the tail does not come to the end")
		}
	}
}

// TestOwnIsNotFetched: what the driver appends reaches its tails from memory, when it is answered, and no fetch is answered for it.
func TestOwnIsNotFetched(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	tails := make([]eventlog.Tail, 3)
	for i := range tails {
		var err error
		if tails[i], err = r.d.Tail(eventlog.Vector{p: 0}); err != nil {
			t.Fatal(err)
		}
		defer tails[i].Close()
		r.joined(tails[i])
	}
	r.add(p, "first") // a long poll may be under way
	var records atomic.Int64
	r.c.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		r.c.KeepControl()
		for _, rt := range req.(*kmsg.FetchRequest).Topics {
			if rt.TopicID == r.topic.ID {
				records.Add(1)
			}
		}
		return nil, nil, false
	})
	time.Sleep(2 * pollMillis * time.Millisecond / 10) // nothing hangs on it: what was under way may end later
	before := records.Load()
	const n = 200
	for i := range n {
		r.add(p, fmt.Sprint(i))
	}
	if got := records.Load() - before; got > n/10 {
		t.Errorf("%d appends, and the partition is fetched %d times", n, got)
	}
	want := r.values(p)
	for i, tail := range tails {
		got, at, sides := seen{}, eventlog.Vector{}, 0
		for at[p] < n+1 {
			n, err := got.poll(tail, at, 1<<10)
			if err != nil {
				t.Fatal(err)
			}
			sides += n
			if r.ctx.Err() != nil {
				t.Fatalf("tail %d is at %d", i, at[p])
			}
		}
		if fmt.Sprint(got[p]) != fmt.Sprint(want) {
			t.Errorf("tail %d saw %v, the log has %v", i, got[p], want)
		}
		if sides < n*9/10 {
			t.Errorf("tail %d saw %d of %d from memory", i, sides, n)
		}
	}
}

// TestLiveTails: whatever others append between, whoever is slow, and when partitions cannot be fetched, every tail sees what the log has, in
// its order and once.
func TestLiveTails(t *testing.T) {
	for seed := range uint64(tier.N(20)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if err := liveTails(t, tier.Seed()+seed); err != nil {
				t.Error(err)
			}
		})
	}
}

func liveTails(t *testing.T, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 7))
	r := newRig(t, nil)
	r.d.o.RingBytes, r.d.o.TailBytes = 4<<10, 2<<10
	from := eventlog.Vector{r.part(0): 0, r.part(1): 0, r.part(2): 0}
	type reader struct {
		eventlog.Tail
		got  seen
		at   eventlog.Vector
		slow int
	}
	var readers []*reader
	begin := func() {
		tail, err := r.d.Tail(from)
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, &reader{tail, seen{}, eventlog.Vector{}, 1 + rng.IntN(30)})
	}
	defer func() {
		for _, rd := range readers {
			rd.Close()
		}
	}()
	begin()
	for step := range 150 {
		p := r.part(int32(rng.IntN(3)))
		switch n := rng.IntN(20); {
		case n == 0 && len(readers) < 4:
			begin()
		case n == 1:
			recs := make([]eventlog.Record, 1+rng.IntN(3))
			for i := range recs {
				recs[i] = eventlog.Record{Timestamp: time.Now().UnixMilli(), Value: fmt.Appendf(nil, "foreign %d.%d", step, i)}
			}
			foreign(t, r.c, r.d, p, recs, rng.IntN(2) == 0)
		case n == 2:
			r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: 1 + rng.IntN(2)})
		case n == 3:
			r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: 1})
		default:
			for i := range 1 + rng.IntN(4) {
				r.add(p, fmt.Sprintf("own %d.%d", step, i))
			}
		}
		for _, rd := range readers {
			if step%rd.slow == 0 {
				if _, err := rd.got.poll(rd, rd.at, 1+rng.IntN(2000)); err != nil {
					return err
				}
			}
		}
	}
	for p := range from {
		ends, err := r.d.Ends(r.ctx, p.Topic)
		if err != nil {
			t.Fatal(err)
		}
		want := r.values(p)
		for i, rd := range readers {
			for rd.at[p] < ends[p.Index] {
				if _, err := rd.got.poll(rd, rd.at, 1+rng.IntN(2000)); err != nil {
					return err
				}
				if r.ctx.Err() != nil {
					return fmt.Errorf("tail %d is at %d of partition %d, whose end is %d", i, rd.at[p], p.Index, ends[p.Index])
				}
				time.Sleep(time.Millisecond)
			}
			if fmt.Sprint(rd.got[p]) != fmt.Sprint(want) && !(len(rd.got[p]) == 0 && len(want) == 0) {
				return fmt.Errorf("tail %d saw of partition %d\n%v, the log has\n%v", i, p.Index, rd.got[p], want)
			}
		}
	}
	return nil
}

// TestStreamEndsWithItsTails: nothing is fetched, or kept for long, of what nobody follows any more.
func TestStreamEndsWithItsTails(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	for range 3 {
		tail, err := r.d.Tail(eventlog.Vector{p: 0})
		if err != nil {
			t.Fatal(err)
		}
		r.joined(tail)
		r.add(p, "x")
		tail.Close()
	}
	l := r.d.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.streams) > 0 || len(l.tails) > 0 {
		t.Errorf("%d streams and %d tails are left", len(l.streams), len(l.tails))
	}
}

// TestLogGoesBack: answers that lie before what a stream has shown say that the log has lost what was in it, or is another topic's by now. However many
// come, they do not keep the stream from finding that out.
func TestLogGoesBack(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	r.joined(tail)
	r.add(p, "before")
	l := r.d.live
	l.mu.Lock()
	s := l.streams[p]
	s.next, s.acked = s.next+(1<<30), time.Time{}
	l.mu.Unlock()
	r.add(p, "after")
	l.mu.Lock()
	if !s.acked.IsZero() {
		t.Error("what lies before the end is taken for a sign that there is nothing to fetch")
	}
	l.mu.Unlock()
	for over := false; !over; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		over = l.streams[p] != s
		l.mu.Unlock()
		if r.ctx.Err() != nil {
			t.Fatal("the stream does not end")
		}
	}
}

// TestTroubleEndsWithTheStream: a broker that hangs while the last tail of a partition goes is no trouble of anybody's when it answers again.
func TestTroubleEndsWithTheStream(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	r.joined(tail)
	l := r.d.live
	l.mu.Lock()
	s := l.streams[p]
	l.mu.Unlock()
	r.add(p, "so that it is fetched by and by")
	began := make(chan struct{})
	var once sync.Once
	r.c.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if topics := req.(*kmsg.FetchRequest).Topics; len(topics) == 0 || topics[0].TopicID != r.topic.ID {
			return nil, nil, false
		}
		once.Do(func() {
			l.mu.Lock()
			l.dissolve(s)
			l.mu.Unlock()
			l.d.trouble.add(true, s, kerr.RequestTimedOut) // its patience ends now
			close(began)
		})
		return nil, nil, false
	})
	<-began
	for left := true; left; time.Sleep(time.Millisecond) {
		l.d.trouble.mu.Lock()
		_, left = l.d.trouble.reads[s]
		l.d.trouble.mu.Unlock()
		if r.ctx.Err() != nil {
			t.Fatal("what is no more is still in trouble")
		}
	}
}

// TestNothingToShow: a tail that is not at the end, and is given nothing before it, as when what is left there was compacted away under a transaction that is
// open, asks again now and then, not all the time.
func TestNothingToShow(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	var asked atomic.Int64
	r.c.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		r.c.KeepControl()
		req := kreq.(*kmsg.FetchRequest)
		if len(req.Topics) == 0 || req.Topics[0].TopicID != r.topic.ID {
			return nil, nil, false
		}
		asked.Add(1)
		time.Sleep(time.Duration(req.MaxWaitMillis) * time.Millisecond)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.TopicID, rt.Topic = r.topic.ID, req.Topics[0].Topic
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.HighWatermark, rp.LastStableOffset = 10, 10
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	for began := time.Now(); time.Since(began) < 3*idleMillis*time.Millisecond; time.Sleep(time.Millisecond) {
		if n := asked.Load(); n > 5 {
			t.Fatalf("asked %d times in %v", n, time.Since(began))
		}
	}
}
