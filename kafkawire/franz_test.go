package kafkawire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// franz is a client as a user would have it.
func (n *node) franz(opts ...kgo.Opt) *kgo.Client {
	n.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(n.addr), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.MetadataMinAge(20 * time.Millisecond), kgo.FetchMaxWait(500 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// consume polls until it has count records.
func consume(t testing.TB, cl *kgo.Client, count int) (out []*kgo.Record) {
	t.Helper()
	ctx := patience(t)
	for len(out) < count {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(out), count, err)
		}
		out = append(out, fs.Records()...)
	}
	return out
}

func TestFranzEveryCodec(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	var want []string
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		cl := n.franz(kgo.ProducerBatchCompression(codec))
		for i := range 20 {
			v := fmt.Sprint(name, i, " ", string(make([]byte, 500)))
			want = append(want, v)
			r := &kgo.Record{Topic: "a", Key: []byte(name), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{1}}}}
			cl.Produce(patience(t), r, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := cl.Flush(patience(t)); err != nil {
			t.Fatal(err)
		}
	}
	got := consume(t, n.franz(kgo.ConsumeTopics("a")), len(want))
	for i, r := range got {
		if string(r.Value) != want[i] || r.Offset != int64(i) || len(r.Headers) != 1 {
			t.Fatalf("record %d: %q at %d", i, r.Value, r.Offset)
		}
	}
}

func TestFranzAutoCreate(t *testing.T) {
	n := start(t, Options{AutoCreate: true})
	cl := n.franz(kgo.AllowAutoTopicCreation())
	if err := cl.ProduceSync(patience(t), kgo.StringRecord("x")).FirstErr(); err == nil {
		t.Fatal("a record without a topic was taken")
	}
	if err := cl.ProduceSync(patience(t), &kgo.Record{Topic: "new", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// An idempotent producer loses and repeats nothing through restarts of the server.
func TestFranzIdempotentThroughRestarts(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 2, nil)
	cl := n.franz(kgo.ProducerLinger(0))
	count := tier.N(5000)
	var wg sync.WaitGroup
	for i := range count {
		wg.Add(1)
		r := &kgo.Record{Topic: "a", Key: []byte(fmt.Sprint(i % 7)), Value: []byte(fmt.Sprint(i))}
		cl.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
			defer wg.Done()
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
		if i%(count/3) == count/6 {
			n.restart()
		}
	}
	wg.Wait()
	got := consume(t, n.franz(kgo.ConsumeTopics("a")), count)
	last := map[string]int{}
	seen := map[string]bool{}
	for _, r := range got {
		v, key := string(r.Value), string(r.Key)
		var i int
		fmt.Sscan(v, &i)
		if at, ok := last[key]; seen[v] || ok && i <= at {
			t.Fatalf("record %s of key %s is twice or out of order (after %d)", v, key, at)
		}
		last[key], seen[v] = i, true
	}
}

// Three members divide the partitions, take over from one that leaves, and go on where they were after a restart.
func TestFranzGroup(t *testing.T) {
	for name, balancer := range map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "cooperative": kgo.CooperativeStickyBalancer()} {
		t.Run(name, func(t *testing.T) {
			n := start(t, Options{})
			n.topic("a", 6, nil)
			producer := n.franz(kgo.RecordPartitioner(kgo.ManualPartitioner()))
			sent := 0
			produce := func(count int) {
				for range count {
					r := &kgo.Record{Topic: "a", Partition: int32(sent % 6), Value: []byte(fmt.Sprint(sent))}
					if err := producer.ProduceSync(patience(t), r).FirstErr(); err != nil {
						t.Fatal(err)
					}
					sent++
				}
			}
			var mu sync.Mutex
			seen := map[string]int{}
			member := func() *kgo.Client {
				cl := n.franz(kgo.ConsumeTopics("a"), kgo.ConsumerGroup("g"), kgo.Balancers(balancer), kgo.AutoCommitInterval(100*time.Millisecond),
					kgo.AutoCommitMarks(), kgo.HeartbeatInterval(100*time.Millisecond), kgo.SessionTimeout(6*time.Second),
					kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, _ map[string][]int32) {
						if err := cl.CommitMarkedOffsets(ctx); err != nil {
							t.Logf("commit on revoke: %v", err)
						}
					}))
				go func() {
					for {
						fs := cl.PollFetches(context.Background())
						if fs.IsClientClosed() {
							return
						}
						cl.MarkCommitRecords(fs.Records()...) // before the test sees them, and closes
						mu.Lock()
						fs.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
						mu.Unlock()
						cl.AllowRebalance()
					}
				}()
				return cl
			}
			all := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(seen) == sent
			}
			adm := kadm.NewClient(n.franz())
			settled := func(members int) func() bool {
				return func() bool {
					d, err := adm.DescribeGroups(patience(t), "g")
					if err != nil {
						return false
					}
					g := d["g"]
					assigned := 0
					for _, m := range g.Members {
						a, _ := m.Assigned.AsConsumer()
						if a != nil {
							for _, t := range a.Topics {
								assigned += len(t.Partitions)
							}
						}
					}
					return g.State == "Stable" && len(g.Members) == members && assigned == 6
				}
			}
			a, b, c := member(), member(), member()
			waitFor(t, settled(3))
			produce(30)
			waitFor(t, all)
			b.CloseAllowingRebalance() // leaves
			waitFor(t, settled(2))
			produce(30)
			waitFor(t, all)
			n.restart()
			produce(30)
			waitFor(t, all)
			a.CloseAllowingRebalance()
			c.CloseAllowingRebalance()
			waitFor(t, func() bool {
				offsets, err := adm.FetchOffsets(patience(t), "g")
				var total int64
				offsets.Each(func(o kadm.OffsetResponse) { total += o.At })
				return err == nil && total == int64(sent)
			})
			mu.Lock()
			defer mu.Unlock()
			for v, times := range seen {
				if times > 2 { // once more where the restart came between record and commit
					t.Errorf("record %s was seen %d times", v, times)
				}
			}
		})
	}
}

func TestFranzStaticMember(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 2, nil)
	opts := []kgo.Opt{
		kgo.ConsumeTopics("a"), kgo.ConsumerGroup("g"), kgo.InstanceID("one"), kgo.SessionTimeout(10 * time.Second), kgo.DisableAutoCommit(),
	}
	adm := kadm.NewClient(n.franz())
	describe := func() kadm.DescribedGroup {
		d, err := adm.DescribeGroups(patience(t), "g")
		if err != nil {
			t.Fatal(err)
		}
		return d["g"]
	}
	stable := func() bool { return describe().State == "Stable" }
	first := n.franz(opts...)
	go first.PollFetches(context.Background())
	waitFor(t, stable)
	_, generation := first.GroupMetadata()
	second := n.franz(opts...) // the same instance, in another process
	go second.PollFetches(context.Background())
	waitFor(t, func() bool { _, g := second.GroupMetadata(); return g == generation })
	if g := describe(); len(g.Members) != 1 || g.State != "Stable" {
		t.Fatalf("%+v", g)
	}
	waitFor(t, func() bool { // the first one finds itself fenced
		fs := first.PollFetches(patience(t))
		return errors.Is(fs.Err(), kerr.FencedInstanceID)
	})
}

func TestFranzAdmin(t *testing.T) {
	n := start(t, Options{})
	adm := kadm.NewClient(n.franz())
	ctx := patience(t)
	if _, err := adm.CreateTopic(ctx, 3, -1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 3, 3, nil, "a"); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Fatalf("again: %v", err)
	}
	cfgs, err := adm.DescribeTopicConfigs(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(cfgs[0].Configs, func(c kadm.Config) bool { return c.Key == "cleanup.policy" && *c.Value == "compact" }); i < 0 {
		t.Fatalf("%+v", cfgs)
	}
	if _, err := adm.CreatePartitions(ctx, 1, "a"); err != nil {
		t.Fatal(err)
	}
	offsets, err := adm.ListEndOffsets(ctx, "a")
	if err != nil || len(offsets["a"]) != 4 {
		t.Fatalf("%+v, %v", offsets, err)
	}
	if _, err := adm.DeleteTopics(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	topics, err := adm.ListTopics(ctx)
	if err != nil || len(topics) != 0 {
		t.Fatalf("%v, %v", topics.Names(), err)
	}
}

// A committed offset is there when the power is cut the moment its commit is answered. So is what was produced.
func TestPowerLossKeepsCommits(t *testing.T) {
	for i := range uint64(tier.N(60)) {
		seed := tier.Seed() + i
		rng := rand.New(rand.NewPCG(seed, 1))
		n := start(t, Options{})
		n.topic("a", 4, nil)
		var answered, sent, produced [4]int64 // by partition: the offset committed in group g; records
		for round := range 3 {
			var left atomic.Int64
			left.Store(1 + rng.Int64N(80))
			var wg sync.WaitGroup
			var crashed *vfs.Mem
			var failed [4]error
			cut := rand.New(rand.NewPCG(seed, uint64(round)))
			for p := range answered {
				c := n.dial()
				wg.Go(func() {
					for left.Load() > 0 {
						sent[p]++
						if failed[p] = c.tryCommit(int32(p), sent[p]); failed[p] != nil {
							return
						}
						if answered[p] = sent[p]; left.Add(-1) == 0 {
							crashed = n.fs.Crash(cut)
						}
						if failed[p] = c.tryProduce(int32(p)); failed[p] != nil {
							return
						}
						if produced[p]++; left.Add(-1) == 0 {
							crashed = n.fs.Crash(cut)
						}
					}
				})
			}
			wg.Wait()
			if crashed == nil {
				t.Fatalf("seed %d, round %d: failures although nothing was wrong: %v", seed, round, failed)
			}
			n.back(crashed)
			topic, _ := n.eng.TopicByName("a")
			ends, err := n.eng.Ends(t.Context(), topic.ID)
			if err != nil {
				t.Fatal(err)
			}
			c := n.dial()
			for p := range answered {
				at := max(committed(c, "g", "a", int32(p)), 0)
				if at < answered[p] || at > sent[p] {
					t.Fatalf("seed %d, round %d, partition %d: the commit of %d was answered, that of %d sent; after the power loss it is %d",
						seed, round, p, answered[p], sent[p], at)
				}
				if ends[p] < produced[p] {
					t.Fatalf("seed %d, round %d, partition %d: %d records were answered, %d are there", seed, round, p, produced[p], ends[p])
				}
				answered[p], sent[p], produced[p] = at, at, ends[p]
			}
		}
		n.down()
	}
}

func (c *client) tryCommit(partition int32, at int64) error {
	req := commitRequest("g", "a", partition, at)
	req.SetVersion(8)
	resp, err := c.tryDo(req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
}

func (c *client) tryProduce(partition int32) error {
	req := produceRequest("a", partition, -1, batchOf(eventlog.None, "x"))
	req.SetVersion(9)
	resp, err := c.tryDo(req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

// What may not be written is not promised: with a full disk commits are refused, and work again when there is space.
func TestCommitWithoutSpace(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	commit(c, "g", "a", 0, 1)
	n.fs.SetFree(0)
	waitFor(t, func() bool { // the engine looks from time to time
		return do[*kmsg.OffsetCommitResponse](c, 8, commitRequest("g", "a", 0, 2)).Topics[0].Partitions[0].ErrorCode == kerr.CoordinatorNotAvailable.Code
	})
	at := committed(c, "g", "a", 0)
	req := produceRequest("a", 0, -1, batchOf(eventlog.None, "x"))
	if code := do[*kmsg.ProduceResponse](c, 9, req).Topics[0].Partitions[0].ErrorCode; code != kerr.KafkaStorageError.Code {
		t.Fatalf("produce without space: error %d", code)
	}
	n.fs.SetFree(1 << 40)
	waitFor(t, func() bool {
		return do[*kmsg.OffsetCommitResponse](c, 8, commitRequest("g", "a", 0, at+1)).Topics[0].Partitions[0].ErrorCode == 0
	})
	if got := committed(c, "g", "a", 0); got != at+1 {
		t.Fatalf("committed %d, want %d", got, at+1)
	}
}
