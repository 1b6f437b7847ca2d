package route

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/session"
)

// TestRealKafkaRoutes: on Apache Kafka messages come back the same, from the tail and from reads, by another node too; and a topic may be deleted under them.
func TestRealKafkaRoutes(t *testing.T) {
	seeds := strings.Split(os.Getenv("MILLRACE_KAFKA"), ",")
	if seeds[0] == "" || os.Getenv("MILLRACE_KAFKA_CONTROL") == "" {
		t.Skip("MILLRACE_KAFKA and MILLRACE_KAFKA_CONTROL are not set: no Kafka cluster for this test alone (make test-all starts one)")
	}
	sweepTopics(t, seeds)
	t.Cleanup(func() { sweepTopics(t, seeds) })
	node := func() *eventlog.Log {
		d, err := kafka.Open(t.Context(), kafka.Options{Seeds: seeds})
		if err != nil {
			t.Fatal(err)
		}
		log := eventlog.New(d)
		t.Cleanup(func() {
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		})
		return log
	}
	log := node()
	n := openOn(t, log, fleet)
	n.clock.Store(time.Now().UnixMilli()) // retention would take what is older
	n.sameAgain(tier.N(100))

	// A Kafka client's record with our headers is still a Kafka client's.
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	r := &kgo.Record{Topic: "commands", Key: []byte("7"), Value: []byte("of a stranger"),
		Headers: []kgo.RecordHeader{{Key: hTopic, Value: []byte("fleet/forged/cmd")}, {Key: hRetain, Value: []byte("1")}}}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	n.until(n.follow(), session.Vector{}, func(msgs []session.Message) bool {
		i := slices.IndexFunc(msgs, func(m session.Message) bool { return string(m.Payload) == "of a stranger" })
		if i >= 0 && (msgs[i].Topic != "fleet/7/cmd" || msgs[i].Retain) {
			t.Errorf("%+v", msgs[i])
		}
		return i >= 0
	})

	if err := deletedUnderLoad(t, node(), tier.Seed(), 4*time.Second); err != nil {
		t.Error(err)
	}
}

// sweepTopics deletes what tests before this one have left, all but what the cluster and its other tests need.
func sweepTopics(t *testing.T, seeds []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for adm := kadm.NewClient(cl); ; time.Sleep(50 * time.Millisecond) {
		all, err := adm.ListTopicsWithInternal(ctx)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, name := range all.Names() {
			if (strings.HasPrefix(name, eventlog.InternalPrefix) || !strings.HasPrefix(name, "__")) && name != kafka.ProducersTopic {
				left++
				_, _ = adm.DeleteTopic(ctx, name) // or it is going already
			}
		}
		if left == 0 {
			return
		}
	}
}
