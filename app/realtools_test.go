package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/kafkatool"
)

// TestRealKafkaTools: the tools on Apache Kafka: its defaults for what is not said, transactions, and groups of either protocol.
func TestRealKafkaTools(t *testing.T) {
	seeds := os.Getenv("MILLRACE_KAFKA")
	if seeds == "" {
		t.Skip("MILLRACE_KAFKA is not set: no Kafka cluster for the tools (make test-all starts one)")
	}
	c, err := config.Parse("log: {kafka: ["+strings.ReplaceAll(seeds, ",", ", ")+"]}\n", "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx := deadlineOf(t, 2*time.Minute)
	k, err := Tools(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	name := fmt.Sprintf("tools-%d", time.Now().UnixMilli())
	if made, err := k.Create(ctx, kafkatool.NewTopic{Name: name, Configs: map[string]string{"retention.ms": "86400000"}}, false, false); err != nil || !made {
		t.Fatal(made, err)
	}
	defer func() {
		if err := k.Delete(context.WithoutCancel(ctx), name); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "all brokers know the topic", func() bool {
		d, err := k.Describe(ctx, name)
		return err == nil && d.Unknown == "" && !slices.ContainsFunc(d.Partitions, func(p kafkatool.Partition) bool { return p.Error != "" || p.Leader < 0 })
	})
	for i, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		given := false
		w := kafkatool.Writing{Topic: name, Partition: 0, Codec: codec, MaxBytes: 1 << 20, Confirm: 30 * time.Second, Note: t.Logf}
		done, err := k.Produce(ctx, w, func(context.Context) (kafkatool.Message, error) {
			if given {
				return kafkatool.Message{}, io.EOF
			}
			given = true
			return kafkatool.Message{Value: fmt.Append(nil, i)}, nil
		})
		if err != nil || done.Delivered != 1 {
			t.Fatalf("%s: %+v %v", codec, done, err)
		}
	}
	tx, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...), kgo.TransactionalID(name), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for value, how := range map[string]kgo.TransactionEndTry{"aborted": kgo.TryAbort, "committed": kgo.TryCommit} {
		if err := errors.Join(tx.BeginTransaction(), tx.ProduceSync(ctx, &kgo.Record{Topic: name, Value: []byte(value)}).FirstErr(), tx.EndTransaction(ctx, how)); err != nil {
			t.Fatal(err)
		}
	}
	if got := consumed(t, k, kafkatool.Reading{Topic: name, Partition: -1}); !slices.Equal(got, []string{"0", "1", "2", "3", "4", "committed"}) {
		t.Errorf("%q", got)
	}
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			group := name + "-" + protocol
			opts := []kgo.Opt{kgo.SeedBrokers(strings.Split(seeds, ",")...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(name), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
			if protocol == "consumer" {
				opts = append(opts, kgo.ServerSideBalancer())
			}
			member, err := kgo.NewClient(opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer member.Close()
			f := member.PollRecords(ctx, 2)
			if err := errors.Join(f.Err(), member.CommitRecords(ctx, f.Records()...)); err != nil {
				t.Fatal(err)
			}
			var g *kafkatool.GroupDetail
			eventually(t, "the group is described", func() bool {
				g, err = k.DescribeGroup(ctx, group, time.Now())
				return err == nil && g.State == "Stable" && len(g.Members) == 1 && len(g.Lags) > 0
			})
			list, err := k.Groups(ctx)
			if err != nil || !slices.ContainsFunc(list, func(one kafkatool.Group) bool { return one.Name == group && one.Type == protocol }) {
				t.Errorf("%+v %v", list, err)
			}
			if g.Lag <= 0 || g.Seconds == nil || g.Lags[0].Member != g.Members[0].ID {
				t.Errorf("%+v", g)
			}
			r := kafkatool.Reset{Group: group, Topics: []string{name + ":0"}, To: kafkatool.Place{Kind: kafkatool.Earliest}}
			if _, err := k.Plan(ctx, r); !errors.Is(err, kafkatool.ErrActive) {
				t.Errorf("a group with a member: %v", err)
			}
			member.Close()
			var moves []kafkatool.Move
			eventually(t, "the member has left", func() bool { moves, err = k.Plan(ctx, r); return !errors.Is(err, kafkatool.ErrActive) })
			if err == nil {
				err = k.Commit(ctx, group, moves)
			}
			if g, err2 := k.DescribeGroup(ctx, group, time.Now()); err != nil || err2 != nil || *g.Lags[0].Committed != 0 {
				t.Errorf("%+v %v %v", g, err, err2)
			}
		})
	}
}

func deadlineOf(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
