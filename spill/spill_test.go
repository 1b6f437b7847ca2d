package spill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// rig is a spill on a cluster in this process and on a disk in memory, either of which may fail.
type rig struct {
	*testing.T
	c    *kfake.Cluster
	disk *vfs.Mem
	opts Options
	off  bool               // the topic is spilled no more
	hook func(vfs.Op) error // of the disk, or nil

	d *kafka.Driver
	s *Spill

	mu    sync.Mutex
	sent  map[string]int // by key, which counts
	acked map[string]int
	gave  map[string]int // given up, as the hooks were told
	moved int
	keys  []string
}

func hash(key []byte, partitions int32) int32 {
	h := fnv.New32a()
	h.Write(key)
	return int32(h.Sum32()&0x7fffffff) % partitions
}

func newRig(t *testing.T, o Options) *rig {
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.CreateTopic("t", 3, nil); err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, c: c, disk: vfs.NewMem(), opts: o, sent: map[string]int{}, acked: map[string]int{}, gave: map[string]int{}}
	for i := range 12 {
		r.keys = append(r.keys, fmt.Sprintf("key-%d", i))
	}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start() {
	r.Helper()
	if err := r.open(); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) open() error {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	var err error
	if r.d, err = kafka.Open(ctx, kafka.Options{Seeds: r.c.ListenAddrs(), Backoff: 2 * time.Millisecond, Grace: 20 * time.Millisecond, CloseWait: 50 * time.Millisecond}); err != nil {
		r.Fatal(err)
	}
	disk := vfs.FS(r.disk)
	if r.hook != nil {
		disk = vfs.Faults(r.disk, r.hook)
	}
	e, err := engine.Open(engine.Options{FS: disk, WALFileBytes: 1 << 20, MaxLogBytes: 1 << 40, DefaultRetention: -1, ReserveBytes: 1})
	if err != nil {
		r.Fatal(err)
	}
	o := r.opts
	o.Local, o.Cluster, o.Every, o.Partition = eventlog.New(e), eventlog.New(r.d), cmp.Or(o.Every, 5*time.Millisecond), hash
	o.Now = func() int64 { return time.Now().UnixMilli() }
	o.Drained = func(_ string, b *eventlog.Batch, _ int64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.moved += b.Len()
	}
	o.GivenUp = func(_ string, b *eventlog.Batch, _ string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		_ = b.Each(func(rec *eventlog.Record) error { r.gave[string(rec.Key)]++; return nil })
	}
	names := []string{"t"}
	if r.off {
		names = nil
	}
	if r.s, err = Open(ctx, o, names); err != nil {
		r.s = nil
		e.Close()
		r.d.Hurry()
		r.d.Close()
	}
	return err
}

// stop ends the process; crash: at once, and the power with it.
func (r *rig) stop() {
	if r.s != nil {
		r.d.Hurry()
		r.s.Close()
		r.d.Close()
		r.s = nil
	}
}

func (r *rig) crash(rng *rand.Rand) {
	r.Helper()
	after := r.disk.Crash(rng)
	r.stop()
	r.disk = after
	r.start()
}

// put appends n records with random keys, each a number of its key's own.
func (r *rig) put(rng *rand.Rand, n, size int) {
	r.Helper()
	local := r.s.Topic("t")
	var all sync.WaitGroup
	for range n {
		key := r.keys[rng.IntN(len(r.keys))]
		v := r.sent[key]
		r.sent[key]++
		var bl eventlog.Builder
		bl.Add(time.Now().UnixMilli(), []byte(key), fmt.Appendf(make([]byte, 0, size+8), "%0*d", max(size, 8), v), nil)
		b, _, err := bl.Batch(eventlog.Part{Topic: local.ID, Index: hash([]byte(key), local.Partitions)}, eventlog.Zstd)
		if err != nil {
			r.Fatal(err)
		}
		all.Add(1)
		r.s.Append(b, func(o eventlog.Outcome) {
			defer all.Done()
			if o.Err == nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.acked[key] = max(r.acked[key], v+1)
			}
		})
	}
	all.Wait()
}

// inCluster are the numbers of each key, as a reader of committed records finds them.
func (r *rig) inCluster() map[string][]int {
	r.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...), kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		r.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(r.Context(), "t")
	if err != nil {
		r.Fatal(err)
	}
	out, at := map[string][]int{}, map[int32]int64{}
	// The end of a partition may be a marker, which no reader sees: whatever comes before half a second of nothing is all.
	for {
		done := true
		ends.Each(func(o kadm.ListedOffset) { done = done && at[o.Partition] >= o.Offset })
		if done {
			return out
		}
		ctx, cancel := context.WithTimeout(r.Context(), 500*time.Millisecond)
		recs := cl.PollFetches(ctx).Records()
		cancel()
		if len(recs) == 0 {
			return out
		}
		for _, rec := range recs {
			var v int
			if _, err := fmt.Sscanf(string(rec.Value), "%d", &v); err != nil {
				r.Fatal(err)
			}
			out[string(rec.Key)] = append(out[string(rec.Key)], v)
			at[rec.Partition] = rec.Offset + 1
		}
	}
}

func (r *rig) drained() {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); r.s.Stats().Messages > 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not drained: %+v", r.s.Stats())
		}
	}
	if st := r.s.Stats(); st.Bytes != 0 {
		r.Errorf("%d bytes wait, of no message", st.Bytes)
	}
}

// exact says what is wrong with what the cluster has: all that was acknowledged, once, in order. What was sent and not acknowledged may be there.
func (r *rig) exact() error {
	got := r.inCluster()
	for _, key := range r.keys {
		for i, v := range got[key] {
			if v != i {
				return fmt.Errorf("%s: at %d is %d", key, i, v)
			}
		}
		if n := len(got[key]); n < r.acked[key] || n > r.sent[key] {
			return fmt.Errorf("%s: %d of %d acknowledged and %d sent", key, n, r.acked[key], r.sent[key])
		}
	}
	return nil
}

// hurt makes the cluster fail in some way for a while.
func (r *rig) hurt(rng *rand.Rand) {
	faults := map[kmsg.Key][]*kerr.Error{
		kmsg.Produce:            {kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut, kerr.UnknownServerError},
		kmsg.EndTxn:             {kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.UnknownServerError},
		kmsg.AddPartitionsToTxn: {kerr.ConcurrentTransactions, kerr.CoordinatorNotAvailable},
	}
	for key, errs := range faults {
		if rng.IntN(2) == 0 {
			r.c.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: errs[rng.IntN(len(errs))], Count: 1 + rng.IntN(3)})
		}
	}
	if rng.IntN(3) == 0 {
		r.c.ShufflePartitionLeaders()
		r.c.RehashCoordinators()
	}
}

// scenario is load with faults of the cluster and, now and then, the end of the process with what the disk had not synced.
func scenario(r *rig, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 7))
	for range 6 {
		r.hurt(rng)
		r.put(rng, 1+rng.IntN(60), rng.IntN(300))
		time.Sleep(time.Duration(rng.IntN(15)) * time.Millisecond)
		if rng.IntN(2) == 0 {
			r.crash(rng)
			for key := range r.sent { // what was not acknowledged and is not there is sent again by nobody
				r.sent[key] = r.acked[key]
			}
		}
	}
	r.drained()
	return r.exact()
}

// TestExactlyOnce: whatever is acknowledged is in the cluster once, in order, whatever fails and whoever dies.
func TestExactlyOnce(t *testing.T) {
	for i := range tier.N(60) {
		seed := tier.Seed() + uint64(i)
		if err := scenario(newRig(t, Options{}), seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// outage makes the cluster refuse everything for a reason that passes.
func (r *rig) outage() (end func()) {
	return r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1}).Remove
}

func (r *rig) until(what string, ok func(Stats) bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(r.s.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("it never came about that %s: %+v", what, r.s.Stats())
		}
	}
}

// TestReject: a full spill takes no more until something has left, and says so.
func TestReject(t *testing.T) {
	r := newRig(t, Options{Bytes: 20_000})
	rng := rand.New(rand.NewPCG(1, 1))
	end := r.outage()
	for i := 0; !r.s.Full(); i++ {
		if r.put(rng, 10, 400); i > 100 {
			t.Fatalf("never full: %+v", r.s.Stats())
		}
	}
	if st := r.s.Stats(); st.Bytes < 20_000 || st.Bytes > 40_000 || st.Age < 0 {
		t.Errorf("full: %+v", st)
	}
	end()
	r.drained()
	r.until("it takes messages again", func(Stats) bool { return !r.s.Full() })
	if err := r.exact(); err != nil {
		t.Error(err)
	}
	if st := r.s.Stats(); int(st.Drained) != r.moved || st.GivenUp[OverBytes]+st.GivenUp[OverAge] != 0 {
		t.Errorf("%d were moved: %+v", r.moved, st)
	}
}

// TestOverwrite: the oldest are given up, each counted; what is left comes in order, and it adds up.
func TestOverwrite(t *testing.T) {
	for _, o := range []Options{{Bytes: 20_000, Policy: Overwrite}, {Age: 150 * time.Millisecond, Policy: Overwrite}} {
		r := newRig(t, o)
		rng := rand.New(rand.NewPCG(1, 1))
		end := r.outage()
		for range 30 {
			r.put(rng, 10, 400)
			time.Sleep(5 * time.Millisecond)
		}
		r.until("some are given up", func(st Stats) bool { return st.GivenUp[OverBytes]+st.GivenUp[OverAge] > 100 })
		end()
		r.put(rng, 10, 400)
		r.drained()
		got, sum, gave := r.inCluster(), 0, 0
		for _, key := range r.keys {
			last := -1
			for _, v := range got[key] {
				if v <= last {
					t.Errorf("%s: %d after %d", key, v, last)
				}
				last = v
			}
			sum, gave = sum+len(got[key]), gave+r.gave[key]
			if n := len(got[key]) + r.gave[key]; n != r.sent[key] {
				t.Errorf("%s: %d in the cluster and %d given up of %d", key, len(got[key]), r.gave[key], r.sent[key])
			}
		}
		if st := r.s.Stats(); int(st.GivenUp[OverBytes]+st.GivenUp[OverAge]) != gave || int(st.Drained) != sum {
			t.Errorf("%d in the cluster, %d given up: %+v", sum, gave, st)
		}
	}
}

// TestReplacedTopic: the cluster's topic comes back with fewer partitions; what waits finds its way by its key.
func TestReplacedTopic(t *testing.T) {
	r := newRig(t, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	end := r.outage()
	r.put(rng, 100, 50)
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if err := r.c.CreateTopic("t", 2, nil); err != nil {
		t.Fatal(err)
	}
	end()
	r.drained()
	if err := r.exact(); err != nil {
		t.Error(err)
	}
}

// TestUnreadable: a local partition that cannot be read keeps no other waiting and no more in memory, and is told; when it can be read, what
// waited in it comes, once and in order.
func TestUnreadable(t *testing.T) {
	r := newRig(t, Options{})
	end := r.outage()
	before := make([]int, 3)
	for i := range 3 { // more than one step takes of a partition
		key := r.keys[slices.IndexFunc(r.keys, func(k string) bool { return hash([]byte(k), 3) == int32(i) })]
		for range 10 {
			var bl eventlog.Builder
			for range 50 {
				bl.Add(time.Now().UnixMilli(), []byte(key), fmt.Appendf(nil, "%02000d", r.sent[key]), nil)
				r.sent[key]++
			}
			b, _, err := bl.Batch(eventlog.Part{Topic: r.s.Topic("t").ID, Index: int32(i)}, eventlog.None)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			if r.s.Append(b, func(o eventlog.Outcome) { done <- o.Err }); <-done != nil {
				t.Fatal("not appended")
			}
		}
		before[i], r.acked[key] = r.sent[key], r.sent[key]
	}
	var bad atomic.Bool
	r.stop() // what waits is in files then
	r.hook = func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && bad.Load() && strings.Contains(op.Name, "/1/") && strings.HasSuffix(op.Name, ".log") {
			return syscall.EIO
		}
		return nil
	}
	r.start()
	bad.Store(true)
	end()
	r.until("the others are drained, and the error is told", func(st Stats) bool {
		return st.Messages > 0 && st.Messages <= uint64(before[1]) && errors.Is(st.Err, ErrUnreadable)
	})
	tp := r.s.byName["t"]
	tp.moving.Lock()
	for i := range tp.lanes {
		if tp.mu.Lock(); tp.lanes[i].flight != tp.lanes[i].drained && i != 1 {
			t.Errorf("partition %d is not drained: %+v", i, tp.lanes[i])
		}
		tp.mu.Unlock()
	}
	tp.moving.Unlock()
	bad.Store(false)
	r.drained()
	if err := r.exact(); err != nil {
		t.Error(err)
	}
}

// TestPositionsBehindOthers: what another drainer has open, or has left open, hides how far this one is; it waits, and drains nothing twice.
func TestPositionsBehindOthers(t *testing.T) {
	r := newRig(t, Options{Every: time.Hour}) // nothing is given back: what is drained is there to be drained again
	rng := rand.New(rand.NewPCG(1, 1))
	r.put(rng, 20, 50)
	r.drained()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...), kgo.DefaultProduceTopic(PositionsTopic), kgo.TransactionalID("another"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Key: []byte("another/0"), Value: []byte("1")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.put(rng, 20, 50)
	r.drained()
	r.stop()
	r.start()
	if st := r.s.Stats(); st.Messages == 0 {
		t.Fatal("nothing hides what is drained")
	}
	time.Sleep(200 * time.Millisecond) // for whoever does not wait
	if st := r.s.Stats(); st.Drained != 0 {
		t.Errorf("%d are drained, though it is not known which", st.Drained)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	r.put(rng, 20, 50)
	r.drained()
	if err := r.exact(); err != nil {
		t.Error(err)
	}
}

// TestLostDisk: a disk that was put back to what it was does not make new messages pass for drained ones.
func TestLostDisk(t *testing.T) {
	r := newRig(t, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	r.put(rng, 50, 50)
	r.drained()
	// As if there had been more, which the disk has forgotten.
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...), kgo.DefaultProduceTopic(PositionsTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	was := r.s.Topic("t")
	for i := range was.Partitions {
		rec := &kgo.Record{Key: fmt.Appendf(nil, "%v/%d", was.ID, i), Value: []byte("100")}
		if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	r.start()
	if is := r.s.Topic("t"); is.ID == was.ID {
		t.Error("offsets that were drained already are used again")
	}
	r.put(rng, 30, 50)
	r.drained()
	if err := r.exact(); err != nil {
		t.Error(err)
	}
}

// TestLostPartition: a disk that is behind in one partition loses nothing of what waits in the others, whether the topic is spilled on or no more.
func TestLostPartition(t *testing.T) {
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("off %v", off), func(t *testing.T) {
			r := newRig(t, Options{})
			rng := rand.New(rand.NewPCG(1, 1))
			r.put(rng, 60, 50)
			r.drained()
			was, all, end := r.s.Topic("t"), r.keys, r.outage()
			r.keys = slices.DeleteFunc(slices.Clone(all), func(k string) bool { return hash([]byte(k), 3) == 1 })
			r.put(rng, 50, 50)
			r.keys = all
			r.stop()
			end()
			cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...), kgo.DefaultProduceTopic(PositionsTopic))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Key: fmt.Appendf(nil, "%v/1", was.ID), Value: []byte("1000")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			r.off = off
			r.start()
			if err := r.exact(); err != nil {
				t.Errorf("once it is open: %v", err)
			}
			if n := r.s.bytes.Load(); n != 0 {
				t.Errorf("%d bytes wait, of no message", n)
			}
			if r.moved != 110 {
				t.Errorf("%d were drained, want 110", r.moved)
			}
			if off {
				if left, err := r.s.o.Local.Topics(t.Context()); err != nil || len(left) > 0 {
					t.Errorf("left here: %v, %v", left, err)
				}
				return
			}
			if is := r.s.Topic("t"); is.ID == was.ID {
				t.Error("offsets that were drained already are used again")
			}
			r.put(rng, 60, 50)
			r.drained()
			if err := r.exact(); err != nil {
				t.Error(err)
			}
			if n := r.s.bytes.Load(); n != 0 {
				t.Errorf("%d bytes wait, of no message", n)
			}
		})
	}
}

// TestTurnedOff: what waits for a topic that is spilled no more is drained before Open returns, and nothing is left of it here; where it cannot be, Open says why, and
// what waits goes on waiting. A topic that is spilled again begins anew.
func TestTurnedOff(t *testing.T) {
	r := newRig(t, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	end := r.outage()
	r.put(rng, 200, 50)
	r.stop()
	end()
	adm, err := kgo.NewClient(kgo.SeedBrokers(r.c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	if _, err := kadm.NewClient(adm).DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	r.off = true
	if err := r.open(); !errors.Is(err, eventlog.ErrUnknownTopic) || !strings.Contains(err.Error(), `200 messages for topic "t"`) {
		t.Fatalf("without the cluster's topic: %v", err)
	}
	if err := r.c.CreateTopic("t", 2, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and once more, with nothing to do
		r.start()
		if err := r.exact(); err != nil {
			t.Error(err)
		}
		if left, err := r.s.o.Local.Topics(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("left here: %v, %v", left, err)
		}
		if r.moved != 200 {
			t.Errorf("%d were drained, want 200", r.moved)
		}
		r.stop()
	}
	r.off = false
	r.start()
	r.put(rng, 50, 50)
	r.drained()
	if err := r.exact(); err != nil {
		t.Error(err)
	}
}
