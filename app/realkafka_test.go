package app

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/kafka"
)

// onCluster boots a node on the cluster that scripts/kafka keeps, with topics of its own that are deleted at the end. What an
// earlier node left there is deleted first: so only one of these tests runs at a time, and only on a cluster that is there for
// nothing else, which is what MILLRACE_KAFKA_CONTROL says.
func onCluster(t *testing.T) (n *Node, c client, prefix string) {
	t.Helper()
	seeds := clusterToBreak(t)
	prefix = fmt.Sprintf("node-%d-", time.Now().UnixMilli())
	t.Cleanup(func() { sweep(t, seeds, prefix) })
	routes := strings.NewReplacer("topic: telemetry", "topic: "+prefix+"telemetry", "topic: commands", "topic: "+prefix+"commands").Replace(fleetRoutes)
	conf := testConfig(t, "log: {kafka: ["+strings.ReplaceAll(seeds, ",", ", ")+"]}\n"+routes)
	conf.Log.Data = ""
	n = boot(t, conf)
	c = clientsOf(t, n)
	c.kafka = seeds
	return n, c, prefix
}

// clusterToBreak is where a cluster is that is there for this test alone, for as long as it runs.
func clusterToBreak(t *testing.T) string {
	t.Helper()
	seeds := os.Getenv("MILLRACE_KAFKA")
	if seeds == "" || os.Getenv("MILLRACE_KAFKA_CONTROL") == "" {
		t.Skip("MILLRACE_KAFKA and MILLRACE_KAFKA_CONTROL are not set: no Kafka cluster to boot a node on (make test-all starts one; " +
			"or make kafka-up, MILLRACE_KAFKA=$(scripts/kafka bootstrap), MILLRACE_KAFKA_CONTROL=$PWD/scripts/kafka)")
	}
	sweep(t, seeds, eventlog.InternalPrefix)
	sweep(t, seeds, "mqtt")
	return seeds
}

// sweep deletes the topics whose names begin so, but for the one that other tests use at the same time.
func sweep(t *testing.T, seeds, prefix string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	adm := kadm.NewClient(cl)
	for {
		all, err := adm.ListTopicsWithInternal(ctx)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, name := range all.Names() {
			if strings.HasPrefix(name, prefix) && name != kafka.ProducersTopic {
				left++
				_, _ = adm.DeleteTopic(ctx, name) // or it is going already
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// java runs one of Kafka's own command-line clients.
func (c client) java(in, class string, args ...string) string {
	c.t.Helper()
	return c.run(in, os.Getenv("MILLRACE_KAFKA_CONTROL"), append([]string{"tool", class, "--bootstrap-server", c.kafka}, args...)...)
}

// TestRealKafkaNode: what devices publish is in the cluster, keys and headers and all, for kcat, franz-go and Kafka's own consumer; what
// kcat, Kafka's own producer and franz-go write to a route that runs both ways reaches devices, unless it is aborted.
func TestRealKafkaNode(t *testing.T) {
	n, c, prefix := onCluster(t)
	c.pub("-V", "mqttv5", "-q", "1", "-t", "fleet/truck-7/telemetry", "-m", "21.5", "-i", "device-7", "-D", "publish", "user-property", "unit", "C")
	c.pub("-V", "mqttv311", "-q", "2", "-t", "fleet/truck-7/telemetry", "-m", "22.5", "-i", "device-7")
	out := c.kcat("", "-C", "-t", prefix+"telemetry", "-e", "-f", `%k|%s|%h\n`)
	for _, want := range []string{"truck-7|21.5|mqtt.topic=fleet/truck-7/telemetry", "mqtt.qos=1,mqtt.client=device-7,unit=C",
		"truck-7|22.5|mqtt.topic=fleet/truck-7/telemetry", "mqtt.qos=2,mqtt.client=device-7"} {
		if strings.Count(out, want) != 1 {
			t.Errorf("kcat: %q has %q %d times", out, want, strings.Count(out, want))
		}
	}

	reader, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.kafka, ",")...), kgo.ConsumeTopics(prefix+"telemetry"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var read []string
	eventually(t, "franz-go reads both", func() bool {
		reader.PollFetches(t.Context()).EachRecord(func(r *kgo.Record) {
			line := fmt.Sprintf("%s|%s", r.Key, r.Value)
			for _, h := range r.Headers {
				if h.Key == "mqtt.topic" || h.Key == "mqtt.client" || h.Key == "unit" {
					line += fmt.Sprintf("|%s=%s", h.Key, h.Value)
				}
			}
			read = append(read, line)
		})
		return len(read) >= 2
	})
	if want := []string{"truck-7|21.5|mqtt.topic=fleet/truck-7/telemetry|mqtt.client=device-7|unit=C", "truck-7|22.5|mqtt.topic=fleet/truck-7/telemetry|mqtt.client=device-7"}; !slices.Equal(read, want) {
		t.Errorf("franz-go has %q", read)
	}

	truck := c.sub("-V", "mqttv5", "-q", "2", "-t", "fleet/truck-7/cmd")
	expected := []string{}
	expect := func(command string) {
		t.Helper()
		expected = append(expected, "fleet/truck-7/cmd|2|0|"+command)
		truck.expect(expected...)
	}
	c.kcat("truck-7:stop\n", "-P", "-t", prefix+"commands", "-K", ":", "-X", "acks=all")
	expect("stop")

	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.kafka, ",")...), kgo.TransactionalID(prefix+"dispatcher"), kgo.DefaultProduceTopic(prefix+"commands"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, tx := range []struct {
		command string
		end     kgo.TransactionEndTry
	}{{"never", kgo.TryAbort}, {"go", kgo.TryCommit}} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Key: []byte("truck-7"), Value: []byte(tx.command)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), tx.end); err != nil {
			t.Fatal(err)
		}
	}
	expect("go")

	out = c.java("", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--topic", prefix+"telemetry", "--from-beginning", "--max-messages", "2",
		"--timeout-ms", "20000", "--formatter-property", "print.key=true", "--formatter-property", "print.headers=true")
	for _, want := range []string{"truck-7\t21.5", "truck-7\t22.5", "mqtt.topic:fleet/truck-7/telemetry", "unit:C"} {
		if !strings.Contains(out, want) {
			t.Errorf("Kafka's console consumer: %q has no %q", out, want)
		}
	}
	c.java("truck-7:turn\n", "org.apache.kafka.tools.ConsoleProducer", "--topic", prefix+"commands", "--reader-property", "parse.key=true",
		"--reader-property", "key.separator=:")
	expect("turn")
	if _, err := exec.LookPath("javac"); err != nil {
		t.Error("no Java compiler, so no transactions of Apache's client (scripts/test-tools installs one)")
	} else {
		program, err := filepath.Abs("testdata/Transactions.java")
		if err != nil {
			t.Fatal(err)
		}
		c.run("", os.Getenv("MILLRACE_KAFKA_CONTROL"), "tool", program, c.kafka, prefix+"commands", "truck-7", "never", "park")
		expect("park")
	}
	verified(t, n, prefix+"telemetry", 2)
}

// verified wants verify to find that as much was published, logged and in the log, and nothing amiss.
func verified(t *testing.T, n *Node, topic string, least int64) {
	t.Helper()
	var v verdict
	eventually(t, "everything is counted", func() bool {
		v = verifyNode(t, n)
		c := v.totals[topic]
		return int64(c.Published) >= least && c.Published == c.Logged
	})
	if len(v.findings) > 0 {
		t.Errorf("verify on the cluster: %+v", v.findings)
	}
}

// TestRealKafkaNodeBrokerKilled: a broker of the cluster dies under QoS 1 and QoS 2 load. Nothing acknowledged is missing at the
// subscriber, and at QoS 2 nothing comes twice.
func TestRealKafkaNodeBrokerKilled(t *testing.T) {
	n, _, _ := onCluster(t)
	control := os.Getenv("MILLRACE_KAFKA_CONTROL")
	do := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(control, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", control, args, err, out)
		}
	}
	t.Cleanup(func() { do("up") })
	load := startLoad(t, func() string { return n.Address("MQTT") }, 300)
	load.more(300)
	do("kill", "1")
	load.more(600)
	do("up")
	load.more(300)
	load.finish()
}
