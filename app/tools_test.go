package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/internal/certs/certtest"
	"github.com/millrace-io/millrace/kafkatool"
)

// consumed reads a topic to its end.
func consumed(t *testing.T, k *kafkatool.Cluster, r kafkatool.Reading) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r.ToEnd = true
	r.Emit = func(rec kafkatool.Record) error { values = append(values, string(rec.Value)); return nil }
	r.Idle, r.Note = func() error { return nil }, func(string, ...any) {}
	if err := k.Consume(ctx, r); err != nil || ctx.Err() != nil {
		t.Fatalf("consume %+v: %v, %v", r.From, err, ctx.Err())
	}
	return values
}

// The tools find the listener of a node by its configuration, and its Kafka server serves what they ask.
func TestToolsOnANode(t *testing.T) {
	c := testConfig(t, "routes: [{mqtt: \"fleet/{v}/t\", topic: telemetry, key: \"{v}\", partitions: 3}]\n")
	n := boot(t, c)
	reach := *c
	_, port, _ := strings.Cut(n.Address("Kafka"), ":")
	reach.Listeners.Kafka = []config.Kafka{{Bind: config.Address("0.0.0.0:" + port)}}
	ctx := t.Context()
	k, err := Tools(ctx, &reach)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)

	topics, err := k.Topics(ctx, false)
	if err != nil || !slices.ContainsFunc(topics, func(t kafkatool.Topic) bool { return t.Name == "telemetry" && t.Partitions == 3 && t.Records != nil }) {
		t.Fatalf("%+v %v", topics, err)
	}
	if made, err := k.Create(ctx, kafkatool.NewTopic{Name: "orders", Partitions: 2, Configs: map[string]string{"retention.ms": "86400000"}}, false, false); err != nil || !made {
		t.Fatal(made, err)
	}
	if _, err := k.Alter(ctx, "telemetry", kafkatool.Altering{Partitions: 5}, true); err == nil || !strings.Contains(err.Error(), "POLICY_VIOLATION") {
		t.Errorf("more partitions of a route's topic: %v", err)
	}
	if changes, err := k.Alter(ctx, "orders", kafkatool.Altering{Set: map[string]string{"retention.ms": "3600000"}, Partitions: 3}, false); err != nil || len(changes) != 2 || *changes[0].Old != "86400000" {
		t.Errorf("%+v %v", changes, err)
	}
	if _, err := k.Alter(ctx, "orders", kafkatool.Altering{Set: map[string]string{"no.such": "1"}}, false); err == nil {
		t.Error("a config that there is not")
	}
	if d, err := k.Describe(ctx, "orders"); err != nil || len(d.Partitions) != 3 || d.Unknown != "" || len(d.Configs) == 0 {
		t.Errorf("%+v %v", d, err)
	}

	for i, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		left := 4
		w := kafkatool.Writing{Topic: "orders", Partition: 0, Codec: codec, MaxBytes: 1 << 20, Confirm: 30 * time.Second, Note: t.Logf}
		done, err := k.Produce(ctx, w, func(context.Context) (kafkatool.Message, error) {
			if left--; left < 0 {
				return kafkatool.Message{}, io.EOF
			}
			return kafkatool.Message{Key: []byte("k"), Value: fmt.Appendf(nil, "%d", 4*i+3-left)}, nil
		})
		if err != nil || done != (kafkatool.Written{Delivered: 4}) {
			t.Fatalf("%s: %+v %v", codec, done, err)
		}
	}
	if got := consumed(t, k, kafkatool.Reading{Topic: "orders", Partition: -1}); len(got) != 20 || got[0] != "0" || got[19] != "19" {
		t.Errorf("%q", got)
	}
	if got := consumed(t, k, kafkatool.Reading{Topic: "orders", Partition: 0, From: kafkatool.Place{Kind: kafkatool.Tail, Value: 2}}); !slices.Equal(got, []string{"18", "19"}) {
		t.Errorf("%q", got)
	}

	// A group of a client is described while it is active, refused to be reset, and reset when it has left.
	member, err := kgo.NewClient(kgo.SeedBrokers(n.Address("Kafka")), kgo.ConsumerGroup("billing"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	fetches := member.PollRecords(ctx, 20)
	if err := errors.Join(fetches.Err(), member.CommitRecords(ctx, fetches.Records()[:min(5, fetches.NumRecords())]...)); err != nil {
		t.Fatal(err)
	}
	read := int64(min(5, fetches.NumRecords()))
	g, err := k.DescribeGroup(ctx, "billing", time.Now())
	if err != nil || g.State != "Stable" || len(g.Members) != 1 || g.Lag != 20-read || g.Seconds == nil || *g.Seconds <= 0 || *g.Seconds > 600 {
		t.Errorf("%+v %v", g, err)
	}
	reset := kafkatool.Reset{Group: "billing", To: kafkatool.Place{Kind: kafkatool.Shift, Value: -2}}
	if _, err := k.Plan(ctx, reset); !errors.Is(err, kafkatool.ErrActive) || !strings.Contains(err.Error(), "1 member,") {
		t.Errorf("%v", err)
	}
	member.Close()
	moves, err := k.Plan(ctx, reset)
	if err == nil {
		err = k.Commit(ctx, "billing", moves)
	}
	if err != nil || len(moves) != 1 || *moves[0].Old != read || moves[0].New != max(0, read-2) {
		t.Errorf("%+v %v", moves, err)
	}
	if g, err := k.DescribeGroup(ctx, "billing", time.Now()); err != nil || g.State != "Empty" || g.Lag != 20-max(0, read-2) {
		t.Errorf("%+v %v", g, err)
	}
	if list, err := k.Groups(ctx); err != nil || len(list) != 1 || list[0].Type != "classic" {
		t.Errorf("%+v %v", list, err)
	}
	// What is the node's own stays so.
	if err := k.Delete(ctx, "__consumer_offsets"); err == nil {
		t.Error("an internal topic was deleted")
	}
	if err := k.Delete(ctx, "orders"); err != nil {
		t.Error(err)
	}
}

// The same way in that a node has: TLS and SASL of the configuration.
func TestToolsOnACluster(t *testing.T) {
	ca := certtest.NewCA(t, "brokers")
	server := ca.Server()
	pair, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}), kfake.EnableSASL(),
		kfake.Superuser("SCRAM-SHA-256", "millrace", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	authority, password := filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "password")
	for path, b := range map[string][]byte{authority: ca.PEM, password: []byte("secret")} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(secret string) (*kafkatool.Cluster, error) {
		return Tools(t.Context(), testConfig(t, fmt.Sprintf("log: {kafka: [%s], tls: {ca: %s}, sasl: {mechanism: scram-sha-256, username: millrace, password: \"file:%s\"}}\n",
			cluster.ListenAddrs()[0], authority, secret)))
	}
	k, err := open(password)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	w := kafkatool.Writing{Topic: "orders", Partition: -1, Codec: "none", MaxBytes: 1 << 20, Confirm: 30 * time.Second, Note: t.Logf}
	left := 1
	if done, err := k.Produce(t.Context(), w, func(context.Context) (kafkatool.Message, error) {
		if left--; left < 0 {
			return kafkatool.Message{}, io.EOF
		}
		return kafkatool.Message{Value: []byte("x")}, nil
	}); err != nil || done.Delivered != 1 {
		t.Fatalf("%+v %v", done, err)
	}
	if got := consumed(t, k, kafkatool.Reading{Topic: "orders", Partition: -1}); !slices.Equal(got, []string{"x"}) {
		t.Errorf("%q", got)
	}
	began := time.Now()
	if _, err := open(authority); err == nil || !strings.Contains(err.Error(), "log.sasl") || time.Since(began) > 25*time.Second {
		t.Errorf("a wrong password, after %v: %v", time.Since(began), err)
	}
	for text, want := range map[string]string{"listeners: {kafka: []}": "--brokers", "listeners: {kafka: [{bind: \"127.0.0.1:9\", tls: {cert: " + authority + ", key: " + authority + "}}]}": "speaks TLS"} {
		c, err := config.Parse(text+"\n", "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Tools(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
