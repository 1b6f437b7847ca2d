package kafka

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
)

func newCluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func testOptions(c *kfake.Cluster) Options {
	return Options{
		Client: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, Logger: slog.New(slog.DiscardHandler),
		RoomBytes: 1 << 20, Linger: 10 * time.Millisecond, Backoff: 2 * time.Millisecond, Grace: 20 * time.Millisecond, CloseWait: 10 * time.Second,
	}
}

func openOn(t testing.TB, c *kfake.Cluster) *Driver {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d, err := Open(ctx, testOptions(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// stall makes the brokers refuse every append, for a reason that passes.
func stall(c *kfake.Cluster) (release func()) {
	return c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1}).Remove
}

// foreign appends records with a client that is not ours.
func foreign(t testing.TB, c *kfake.Cluster, d *Driver, p eventlog.Part, recs []eventlog.Record, commit bool) {
	t.Helper()
	foreignOn(t, c.ListenAddrs(), d, p, recs, commit)
}

func foreignOn(t testing.TB, seeds []string, d *Driver, p eventlog.Part, recs []eventlog.Record, commit bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	topic, err := d.topics.partition(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.TransactionalID("stranger-"+randomName()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		rec := &kgo.Record{Topic: topic.name, Partition: p.Index, Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
		t.Fatal(err)
	}
}

// TestConformance runs the suite of every driver on an in-process cluster of three brokers.
func TestConformance(t *testing.T) {
	logtest.Run(t, func(t testing.TB) *logtest.Env {
		c := newCluster(t)
		d := openOn(t, c)
		again := func(t testing.TB) eventlog.Driver { return openOn(t, c) }
		last := d
		return &logtest.Env{
			Driver: d, Reopen: again, Peer: again, RoomBytes: 1 << 20,
			Crash: func(t testing.TB) eventlog.Driver {
				last.cl.Close()
				last.tx.Close()
				t.Cleanup(last.cancel) // or its Close would wait for answers that never come
				last = openOn(t, c)
				return last
			},
			Stall: func(testing.TB) func() { return stall(c) },
			Foreign: func(t testing.TB, p eventlog.Part, recs []eventlog.Record, commit bool) {
				foreign(t, c, d, p, recs, commit)
			},
			LoseAnswers: func(t testing.TB, n int) {
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: n})
			},
		}
	}, map[string]string{
		"TopicUnknownConfig": "kfake takes every name for a topic config; a Kafka cluster answers INVALID_CONFIG, see TestRefusedConfig",
	})
}
