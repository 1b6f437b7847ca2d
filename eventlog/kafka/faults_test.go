package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/tier"
)

// rig is a driver on a cluster, with a topic and a ledger.
type rig struct {
	testing.TB
	*logtest.Ledger
	c     *kfake.Cluster
	d     *Driver
	topic eventlog.Topic
	ctx   context.Context
}

func newRig(t testing.TB, config map[string]string, opts ...kfake.Opt) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	r := &rig{TB: t, Ledger: logtest.NewLedger(), c: newCluster(t, opts...), ctx: ctx}
	r.d = openOn(t, r.c)
	var err error
	if r.topic, err = r.d.CreateTopic(ctx, eventlog.TopicSpec{Name: "t", Partitions: 4, Config: config}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) part(i int32) eventlog.Part { return eventlog.Part{Topic: r.topic.ID, Index: i} }

func (r *rig) wait() {
	r.Helper()
	if err := r.Wait(r.ctx); err != nil {
		r.Fatal(err)
	}
}

// check reads partitions whole, checks them against the ledger, and says how many records are there.
func (r *rig) check(d *Driver) (n int) {
	r.Helper()
	for i := range r.topic.Partitions {
		for { // the answer to a commit comes before its marker is everywhere
			got, end, err := r.CheckLog(r.ctx, d, r.part(i))
			if err != nil {
				r.Fatalf("partition %d: %v", i, err)
			}
			late := slices.ContainsFunc(r.With(r.part(i), logtest.Durable), func(s logtest.Sent) bool { return s.Offset >= end })
			if !late {
				n += len(got)
				break
			}
			if r.ctx.Err() != nil {
				r.Fatalf("partition %d: what is durable does not become stable", i)
			}
		}
	}
	return n
}

// fates counts the records that met a fate.
func (r *rig) fates(f logtest.Fate) (n int) {
	for i := range r.topic.Partitions {
		n += len(r.With(r.part(i), f))
	}
	return n
}

// wantAll says that everything appended is durable, once.
func (r *rig) wantAll() {
	r.Helper()
	r.wait()
	n := r.check(r.d)
	for i := range r.topic.Partitions {
		for _, s := range append(r.With(r.part(i), logtest.Refused), r.With(r.part(i), logtest.Unknown)...) {
			r.Errorf("%q is %v: %v", s.Value, s.Fate, s.Err)
		}
	}
	if want := r.fates(logtest.Durable); n != want {
		r.Errorf("%d records are there, want %d", n, want)
	}
}

// TestErrorsThatPass: whatever a broker answers that may pass is repeated until it did, without a record too many.
func TestErrorsThatPass(t *testing.T) {
	r := newRig(t, nil)
	w, err := r.d.Claim(r.ctx, r.part(3))
	if err != nil {
		t.Fatal(err)
	}
	faults := map[kmsg.Key][]*kerr.Error{
		kmsg.Produce: {
			kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
			kerr.RequestTimedOut, kerr.KafkaStorageError, kerr.UnknownServerError, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID,
			kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidTimestamp,
		},
		kmsg.AddPartitionsToTxn: {kerr.ConcurrentTransactions, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.UnknownTopicOrPartition,
			kerr.TransactionalIDAuthorizationFailed, kerr.TopicAuthorizationFailed},
		kmsg.EndTxn: {kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.TransactionalIDAuthorizationFailed},
	}
	for key, errs := range faults {
		for _, e := range errs {
			h := r.c.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: e, Count: 3})
			for i := range 12 {
				r.Append(r.d, r.part(int32(i%3)), "s", 1+i%2, 0)
				r.Append(w, r.part(3), "w", 1, 0)
			}
			r.wait()
			if h.Hits() == 0 {
				t.Errorf("%v on %v hit nothing", e, key)
			}
			h.Remove()
		}
	}
	r.wantAll()
}

// TestErrorsThatStay: whatever a broker refuses for good is refused, alone, and what follows is not.
func TestErrorsThatStay(t *testing.T) {
	for _, tt := range []struct{ err, want error }{
		{kerr.MessageTooLarge, eventlog.ErrTooLarge},
		{kerr.InvalidRecord, eventlog.ErrInvalid},
		{kerr.PolicyViolation, eventlog.ErrInvalid},
	} {
		r := newRig(t, nil)
		w, err := r.d.Claim(r.ctx, r.part(3))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []struct {
			to   logtest.Appender
			part int32
		}{{r.d, 0}, {w, 3}} {
			p := r.part(a.part)
			r.Append(a.to, p, "before", 1, 0)
			r.wait()
			r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: tt.err.(*kerr.Error)})
			bad := r.Append(a.to, p, "bad", 2, 0)
			r.wait()
			for _, s := range bad {
				if s.Fate != logtest.Refused || !errors.Is(s.Err, tt.want) {
					t.Errorf("%v: %v: %v", tt.err, s.Fate, s.Err)
				}
			}
			good := r.Append(a.to, p, "after", 2, 0)
			r.wait()
			if good[0].Fate != logtest.Durable {
				t.Errorf("after %v: %v: %v", tt.err, good[0].Fate, good[0].Err)
			}
		}
		if n := r.check(r.d); n != 6 {
			t.Errorf("%v: %d records, want 6", tt.err, n)
		}
	}
}

// TestMergedAndRefused: batches that were merged on their way come one by one when the broker refuses the whole.
func TestMergedAndRefused(t *testing.T) {
	r := newRig(t, map[string]string{"max.message.bytes": "3000"})
	w, err := r.d.Claim(r.ctx, r.part(1))
	if err != nil {
		t.Fatal(err)
	}
	release := stall(r.c)
	var small, large []*logtest.Sent
	for i := range 40 {
		size := 500
		if i%10 == 5 {
			size = 5000
		}
		for p, a := range []logtest.Appender{r.d, w} {
			sent := r.Append(a, r.part(int32(p)), "s", 1, size)
			if size > 3000 {
				large = append(large, sent...)
			} else {
				small = append(small, sent...)
			}
		}
	}
	release()
	r.wait()
	for _, s := range small {
		if s.Fate != logtest.Durable {
			t.Errorf("a small record is %v: %v", s.Fate, s.Err)
		}
	}
	for _, s := range large {
		if s.Fate != logtest.Refused || !errors.Is(s.Err, eventlog.ErrTooLarge) {
			t.Errorf("a large record is %v: %v", s.Fate, s.Err)
		}
	}
	if n := r.check(r.d); n != len(small) {
		t.Errorf("%d records, want %d", n, len(small))
	}
}

// TestLeadersMove: partitions and coordinators change brokers all the time.
func TestLeadersMove(t *testing.T) {
	r := newRig(t, nil)
	w, err := r.d.Claim(r.ctx, r.part(3))
	if err != nil {
		t.Fatal(err)
	}
	from := r.zero()
	tail, err := r.d.Tail(from)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	for i := range tier.N(200) {
		for j := range 5 {
			r.Append(r.d, r.part(int32((i+j)%3)), "s", 2, 0)
			r.Append(w, r.part(3), "w", 1, 0)
		}
		r.c.ShufflePartitionLeaders()
		r.c.RehashCoordinators()
		r.Append(w, r.part(3), "w", 1, 0)
		if i%10 == 0 {
			r.wait()
		}
	}
	r.wantAll()
	follow(t, r, tail, from)
}

// TestCoordinatorHangs: a coordinator that does not answer is not waited for once the cluster has named another.
func TestCoordinatorHangs(t *testing.T) {
	r := newRig(t, nil)
	o := testOptions(r.c)
	o.Client = append(o.Client, kgo.RequestTimeoutOverhead(200*time.Millisecond))
	d, err := Open(r.ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	w, err := d.Claim(r.ctx, r.part(0))
	if err != nil {
		t.Fatal(err)
	}
	r.Append(w, r.part(0), "w", 2, 0)
	r.wait()
	hung := r.c.CoordinatorFor(w.(*writer).txn.id)
	for _, key := range []kmsg.Key{kmsg.EndTxn, kmsg.AddPartitionsToTxn, kmsg.InitProducerID} {
		r.c.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
			r.c.KeepControl()
			return nil, nil, r.c.CurrentNode() == hung
		})
	}
	r.Append(w, r.part(0), "w", 2, 0)
	for r.c.CoordinatorFor(w.(*writer).txn.id) == hung {
		r.c.RehashCoordinators()
	}
	r.wantAll()
}

// flaky listens like net.Listen, but closes connections instead of answering, now and then: what was asked for was done, and
// the asker never hears.
type flaky struct {
	on atomic.Bool

	mu  sync.Mutex
	rng *rand.Rand
}

func (f *flaky) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	return flakyListener{l, f}, err
}

type flakyListener struct {
	net.Listener
	f *flaky
}

func (l flakyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return flakyConn{c, l.f}, err
}

type flakyConn struct {
	net.Conn
	f *flaky
}

var errCut = errors.New("the connection is cut")

func (c flakyConn) Write(p []byte) (int, error) {
	c.f.mu.Lock()
	cut := c.f.on.Load() && c.f.rng.IntN(15) == 0
	c.f.mu.Unlock()
	if cut {
		c.Close()
		return 0, errCut
	}
	return c.Conn.Write(p)
}

// TestConnectionsCut: every kind of request loses its answer at times, and everything is in the log once, in order, all the same.
func TestConnectionsCut(t *testing.T) {
	for i := range tier.N(20) {
		f := &flaky{rng: rand.New(rand.NewPCG(tier.Seed()+uint64(i), 5))}
		r := newRig(t, nil, kfake.ListenFn(f.listen))
		w, err := r.d.Claim(r.ctx, r.part(3))
		if err != nil {
			t.Fatal(err)
		}
		from := r.zero()
		tail, err := r.d.Tail(from)
		if err != nil {
			t.Fatal(err)
		}
		f.on.Store(true)
		for i := range 150 {
			r.Append(r.d, r.part(int32(i%3)), "s", 1+i%3, 0)
			r.Append(w, r.part(3), "w", 1, 0)
			if i%15 == 0 {
				r.wait()
			}
		}
		r.wait()
		follow(t, r, tail, from)
		for { // what is not an append tells its caller of what it met
			if _, err = r.d.Claim(r.ctx, r.part(2)); err == nil || r.ctx.Err() != nil {
				break
			}
		}
		if err != nil {
			t.Errorf("claim: %v", err)
		}
		f.on.Store(false)
		r.wantAll()
		tail.Close()
	}
}

// follow polls a tail until it has passed everything durable, and checks what it saw.
func follow(t testing.TB, r *rig, tail eventlog.Tail, from eventlog.Vector) {
	t.Helper()
	next := maps.Clone(from)
	seen := map[eventlog.Part][]logtest.Seen{}
	behind := func() bool {
		for p := range from {
			if slices.ContainsFunc(r.With(p, logtest.Durable), func(s logtest.Sent) bool { return s.Offset >= next[p] }) {
				return true
			}
		}
		return false
	}
	for behind() {
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Kind != eventlog.Records || e.Next <= next[e.Part] {
				t.Fatalf("at %d: %+v", next[e.Part], e)
			}
			if seen[e.Part], err = logtest.Collect(seen[e.Part], e.Batch, next[e.Part], e.Next); err != nil {
				t.Fatal(err)
			}
			next[e.Part] = e.Next
		}
		if len(events) == 0 {
			select {
			case <-tail.Wake():
			case <-r.ctx.Done():
				t.Fatalf("the tail stands at %v", next)
			}
		}
	}
	for p, at := range from {
		if err := r.Check(p, at, next[p], seen[p]); err != nil {
			t.Errorf("the tail of %v: %v", p, err)
		}
	}
}

func (r *rig) zero() eventlog.Vector {
	v := eventlog.Vector{}
	for i := range r.topic.Partitions {
		v[r.part(i)] = 0
	}
	return v
}

// TestTailBeyondTheEnd: a place that the log has lost is told, once it is sure; nothing is skipped in silence.
func TestTailBeyondTheEnd(t *testing.T) {
	r := newRig(t, nil)
	r.Append(r.d, r.part(0), "s", 2, 0)
	r.wait()
	tail, err := r.d.Tail(eventlog.Vector{r.part(0): 100})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	for {
		events, err := tail.Poll(nil, 1000)
		var out *eventlog.OutOfRangeError
		if errors.As(err, &out) && out.End == 2 && out.Position.Offset == 100 {
			break
		}
		if err != nil || len(events) > 0 {
			t.Fatalf("%v, %v", events, err)
		}
		select {
		case <-tail.Wake():
		case <-r.ctx.Done():
			t.Fatal("a tail of offsets that are not there waits for them")
		}
	}
}

// TestBadBatch: a batch whose records make no sense is refused when it would be merged, and harms no other.
func TestBadBatch(t *testing.T) {
	r := newRig(t, nil)
	w, err := r.d.Claim(r.ctx, r.part(1))
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range []logtest.Appender{r.d, w} {
		p := r.part(int32(i))
		release := stall(r.c)
		first := r.Append(a, p, "first", 1, 0) // on its way, alone
		outs := make(chan eventlog.Outcome, 3)
		raw := stored(t, 0, 1, -1, 0)
		raw[eventlog.HeaderSize] ^= 0xff
		raw.Reseal()
		a.Append(eventlog.NewRawBatch(p, raw), func(o eventlog.Outcome) { outs <- o })
		last := r.Append(a, p, "last", 1, 0)
		a.Append(eventlog.NewRecordBatch(p, nil, 0), func(o eventlog.Outcome) { outs <- o })
		release()
		r.wait()
		for range 2 {
			if o := <-outs; !errors.Is(o.Err, eventlog.ErrInvalid) {
				t.Errorf("a bad batch: %+v", o)
			}
		}
		if first[0].Fate != logtest.Durable || last[0].Fate != logtest.Durable {
			t.Errorf("its neighbours: %v, %v, %v", first[0].Fate, last[0].Fate, last[0].Err)
		}
	}
}

// TestUnknownAtClose: what was sent and never answered is unknown when the driver closes, what was not sent is refused.
func TestUnknownAtClose(t *testing.T) {
	r := newRig(t, nil)
	o := testOptions(r.c)
	o.CloseWait = 50 * time.Millisecond
	d, err := Open(r.ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Claim(r.ctx, r.part(3))
	if err != nil {
		t.Fatal(err)
	}
	r.Append(d, r.part(0), "before", 1, 0)
	r.wait()
	h := r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	first := r.Append(d, r.part(0), "sent", 1, 0)
	if err := h.Wait(r.ctx, 1); err != nil {
		t.Fatal(err)
	}
	second := r.Append(d, r.part(0), "behind", 1, 0)
	open := r.Append(w, r.part(3), "open", 1, 0) // in a transaction that is never committed: surely not in the log
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if n := r.Outstanding(); n != 0 {
		t.Fatalf("%d appends have no answer after Close", n)
	}
	if s := first[0]; s.Fate != logtest.Unknown {
		t.Errorf("what was sent is %v: %v", s.Fate, s.Err)
	}
	for _, s := range []*logtest.Sent{second[0], open[0]} {
		if s.Fate != logtest.Refused || !errors.Is(s.Err, eventlog.ErrClosed) {
			t.Errorf("%q is %v: %v", s.Value, s.Fate, s.Err)
		}
	}
	h.Remove()
	if _, err := r.d.Claim(r.ctx, r.part(3)); err != nil { // ends the open transaction
		t.Fatal(err)
	}
	if n := r.check(r.d); n != 2 {
		t.Errorf("%d records, want the first two", n)
	}
}

// TestProducerStateLost: when the cluster forgets our producer, what is surely not in the log comes again under a new one, and
// what may be is unknown.
func TestProducerStateLost(t *testing.T) {
	for _, lost := range []*kerr.Error{kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch} {
		r := newRig(t, nil)
		r.Append(r.d, r.part(0), "s", 2, 0)
		r.wait()
		was := r.d.plain.lanes[r.part(0)].identity
		r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: lost})
		r.Append(r.d, r.part(0), "s", 2, 0)
		r.Append(r.d, r.part(0), "s", 1, 0)
		r.wantAll()
		if now := r.d.plain.lanes[r.part(0)].identity; now == was || now.id == was.id {
			t.Errorf("%v: producer %v after %v", lost, now, was)
		}

		inDoubt(r, r.part(0), lost)
		doubtful := r.Append(r.d, r.part(0), "doubtful", 2, 0)
		r.wait()
		after := r.Append(r.d, r.part(0), "after", 1, 0)
		r.wait()
		if doubtful[0].Fate != logtest.Unknown || doubtful[1].Fate != logtest.Unknown {
			t.Errorf("%v after a time-out: %v: %v", lost, doubtful[0].Fate, doubtful[0].Err)
		}
		if after[0].Fate != logtest.Durable {
			t.Errorf("afterwards: %v: %v", after[0].Fate, after[0].Err)
		}
		if n := r.check(r.d); n != 8 {
			t.Errorf("%d records, want 8", n)
		}
	}
}

// inDoubt makes the next append to a partition get through without an answer, and its repetition fail.
func inDoubt(r *rig, p eventlog.Part, err *kerr.Error) {
	f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: r.topic.Name, Partitions: []int32{p.Index}, Err: kerr.RequestTimedOut}
	again := f
	again.Err = err
	r.c.Fault(f, again)
}

// TestRefusedInDoubt: a refusal after an attempt that may have got through is no refusal, and what comes next is not taken for
// the repetition of that attempt.
func TestRefusedInDoubt(t *testing.T) {
	r := newRig(t, nil)
	w, err := r.d.Claim(r.ctx, r.part(1))
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range []logtest.Appender{r.d, w} {
		p := r.part(int32(i))
		inDoubt(r, p, kerr.InvalidRecord)
		doubtful := r.Append(a, p, "doubtful", 2, 0)
		r.wait()
		// A writer's record was in a transaction, which is aborted: nothing doubtful about that.
		if want := []logtest.Fate{logtest.Unknown, logtest.Refused}[i]; doubtful[0].Fate != want {
			t.Errorf("the outcome is %v: %v, want %v", doubtful[0].Fate, doubtful[0].Err, want)
		}
		next := r.Append(a, p, "next", 2, 0)
		r.wait()
		if next[0].Fate != logtest.Durable {
			t.Errorf("afterwards: %v: %v", next[0].Fate, next[0].Err)
		}
	}
	if n := r.check(r.d); n != 6 {
		t.Errorf("%d records, want 6", n)
	}
}

// TestOwn: what Millrace nodes appended is theirs to every node, from whenever, and what others appended is not.
func TestOwn(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	stranger, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for i := range 3 {
		peer := openOn(t, r.c) // which the tail's node has never heard of
		r.Append(peer, p, fmt.Sprintf("peer%d", i), 1, 0)
		r.wait()
		w, err := peer.Claim(r.ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		r.Append(w, p, fmt.Sprintf("writer%d", i), 1, 0)
		r.wait()
		rec := &kgo.Record{Topic: "t", Partition: 0, Value: fmt.Appendf(nil, "stranger %d", i)}
		if err := stranger.ProduceSync(r.ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		foreign(t, r.c, r.d, p, []eventlog.Record{{Value: fmt.Appendf(nil, "stranger in a transaction %d", i)}}, true)
	}
	seen := map[string]bool{}
	for len(seen) < 12 {
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			_ = e.Batch.Each(func(rec *eventlog.Record) error { seen[string(rec.Value)] = e.Batch.Own; return nil })
		}
		if len(events) == 0 {
			select {
			case <-tail.Wake():
			case <-r.ctx.Done():
				t.Fatalf("saw %v", seen)
			}
		}
	}
	read, err := logtest.ReadRange(r.ctx, openOn(t, r.c), p, 0, mustEnd(t, r, p), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range read {
		if s.Own != seen[s.Value] {
			t.Errorf("%q: own %v to a tail, %v to a new node", s.Value, seen[s.Value], s.Own)
		}
		if s.Own == strings.HasPrefix(s.Value, "stranger") {
			t.Errorf("%q: own %v", s.Value, s.Own)
		}
	}
}

func mustEnd(t testing.TB, r *rig, p eventlog.Part) int64 {
	t.Helper()
	ends, err := r.d.Ends(r.ctx, p.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return ends[p.Index]
}

// TestAbortedNeverShows: records of transactions that abort, or have not ended, are seen by no tail and no read.
func TestAbortedNeverShows(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	open, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...), kgo.TransactionalID("open"),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	aborted := []eventlog.Record{{Key: []byte("k"), Value: []byte(logtest.AbortedValue)}}
	var next int64
	var got []logtest.Seen
	poll := func(upTo int64) {
		t.Helper()
		for next < upTo {
			events, err := tail.Poll(nil, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if got, err = logtest.Collect(got, e.Batch, next, e.Next); err != nil {
					t.Fatal(err)
				}
				next = e.Next
			}
			if len(events) == 0 {
				select {
				case <-tail.Wake():
				case <-r.ctx.Done():
					t.Fatalf("the tail stands at %d, short of %d", next, upTo)
				}
			}
		}
	}
	for range 3 {
		r.Append(r.d, p, "s", 2, 0)
		r.wait()
		foreign(t, r.c, r.d, p, aborted, false)

		// While this transaction is open nothing behind it is stable, whatever its appender was told.
		if err := open.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := open.ProduceSync(r.ctx, &kgo.Record{Topic: "t", Partition: 0, Value: []byte(logtest.AbortedValue)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		held := mustEnd(t, r, p)
		behind := r.Append(r.d, p, "s", 2, 0)
		r.wait()
		if behind[0].Fate != logtest.Durable || behind[0].Offset <= held {
			t.Fatalf("behind an open transaction at %d: %+v", held, *behind[0])
		}
		if end := mustEnd(t, r, p); end != held {
			t.Errorf("the stable end went from %d to %d past an open transaction", held, end)
		}
		batches, at, err := r.d.Read(r.ctx, eventlog.Position{Part: p, Offset: held}, 1<<20)
		if err != nil || len(batches) != 0 || at != held {
			t.Errorf("read at the open transaction: %d batches, next %d, %v", len(batches), at, err)
		}
		poll(held)
		if next != held {
			t.Errorf("the tail is at %d, past the open transaction at %d", next, held)
		}
		if err := open.EndTransaction(r.ctx, kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		poll(mustEnd(t, r, p))
	}
	r.wantAll()
	if err := r.Check(p, 0, next, got); err != nil {
		t.Errorf("the tail: %v", err)
	}
}

// TestHungTransactionEnds: what a dead claimant left open is ended by the next claim.
func TestHungTransactionEnds(t *testing.T) {
	r := newRig(t, nil)
	p := r.part(0)
	old := openOn(t, r.c)
	w, err := old.Claim(r.ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	h := r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.CoordinatorLoadInProgress, Count: -1})
	sent := r.Append(w, p, "left open", 1, 0)
	if err := h.Wait(r.ctx, 1); err != nil {
		t.Fatal(err)
	}
	old.cancel() // the process is dead
	h.Remove()
	r.wait()
	next, err := r.d.Claim(r.ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	r.Append(next, p, "next", 1, 0)
	r.wait()
	if s := sent[0]; s.Fate == logtest.Durable {
		t.Errorf("%q is durable", s.Value)
	}
	if n := r.check(r.d); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

func TestRefusedConfig(t *testing.T) {
	r := newRig(t, nil)
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.InvalidConfig})
	if _, err := r.d.CreateTopic(r.ctx, eventlog.TopicSpec{Name: "odd", Config: map[string]string{"no.such": "1"}}); !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("create: %v", err)
	}
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.IncrementalAlterConfigs}, Err: kerr.InvalidConfig})
	v := "1"
	if err := r.d.ConfigureTopic(r.ctx, "t", map[string]*string{"no.such": &v}); !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("configure: %v", err)
	}
}

// TestOpenRefuses: a producers topic that cannot do its work is said so, and left as it is.
func TestOpenRefuses(t *testing.T) {
	for name, make := range map[string]func(*kfake.Cluster) error{
		"two partitions": func(c *kfake.Cluster) error {
			return c.CreateTopic(ProducersTopic, 2, map[string]string{"cleanup.policy": "compact"})
		},
		"deletes": func(c *kfake.Cluster) error {
			return c.CreateTopic(ProducersTopic, 1, map[string]string{"cleanup.policy": "delete"})
		},
	} {
		c := newCluster(t)
		if err := make(c); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		d, err := Open(ctx, testOptions(c))
		cancel()
		if !errors.Is(err, eventlog.ErrInvalid) || !strings.Contains(err.Error(), ProducersTopic) {
			t.Errorf("%s: %v", name, err)
		}
		if d != nil {
			d.Close()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Options{Client: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1")}}); err == nil {
		t.Error("opened without a cluster")
	}
}

// TestCloseLeavesNothing: no goroutine outlives Close.
func TestCloseLeavesNothing(t *testing.T) {
	c := newCluster(t)
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 3 {
		d, err := Open(ctx, testOptions(c))
		if err != nil {
			t.Fatal(err)
		}
		topic, err := d.CreateTopic(ctx, eventlog.TopicSpec{Name: "t" + randomName(), Partitions: 3})
		if err != nil {
			t.Fatal(err)
		}
		l := logtest.NewLedger()
		from := eventlog.Vector{}
		for i := range int32(3) {
			p := eventlog.Part{Topic: topic.ID, Index: i}
			from[p] = 0
			l.Append(d, p, "s", 3, 0)
		}
		if _, err := d.Tail(from); err != nil { // left open
			t.Fatal(err)
		}
		w, err := d.Claim(ctx, eventlog.Part{Topic: topic.ID})
		if err != nil {
			t.Fatal(err)
		}
		l.Append(w, eventlog.Part{Topic: topic.ID}, "w", 3, 0)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if n := l.Outstanding(); n != 0 {
			t.Errorf("%d appends have no answer", n)
		}
	}
	for runtime.NumGoroutine() > before { // connections take a moment to notice
		if ctx.Err() != nil {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}
