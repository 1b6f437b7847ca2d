package app

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/faultproxy"
)

// realFaulty is a node on the real cluster, behind proxies, with a clock that can be set.
func realFaulty(t *testing.T, ahead *atomic.Int64, more string) (f *faulty, control func(args ...string), adm *kadm.Client) {
	t.Helper()
	seeds := clusterToBreak(t)
	control = func(args ...string) {
		t.Helper()
		if out, err := exec.Command(os.Getenv("MILLRACE_KAFKA_CONTROL"), args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { control("up") })
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	f = &faulty{T: t, net: &faultproxy.Net{}}
	t.Cleanup(f.net.Close)
	c := testConfig(t, "log: {kafka: ["+strings.ReplaceAll(seeds, ",", ", ")+"]}\nlimits: {inbound_bytes: 256KiB}\n"+more)
	c.Log.Data = ""
	f.runs(bootTimed(t, c, func(o *kafka.Options) { o.Dial, o.RoomBytes, o.Patience = f.net.Dial, floodRoom, time.Second },
		func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }))
	f.load = startLoad(t, f.address, 200)
	return f, control, kadm.NewClient(cl)
}

// TestRealKafkaFaults is the fault table on Apache Kafka, all of it under one load: what happens to the network, to two brokers of three, to
// the clock. (One broker killed or hung, rights and users taken away have tests of their own.)
func TestRealKafkaFaults(t *testing.T) {
	var ahead atomic.Int64
	f, control, adm := realFaulty(t, &ahead, "")
	for _, row := range networkFaults() {
		f.survive(row)
	}
	f.survive(clusterFault{"two brokers killed", []kafka.State{kafka.FewReplicas, kafka.NoLeader, kafka.Unreachable, kafka.NoAnswer},
		func(*faulty) { control("kill", "1"); control("kill", "2") }, func(*faulty) { control("up") }})
	f.survive(clusterFault{"the node's clock is ahead", []kafka.State{kafka.Clock},
		func(*faulty) { ahead.Store(int64(90 * time.Minute)) }, func(*faulty) { ahead.Store(0) }})
	// Behind is no fault to the cluster: all goes on.
	ahead.Store(-int64(90 * time.Minute))
	f.load.more(100)
	ahead.Store(0)
	// Leaders move, one by one and back: nobody notices.
	before := f.load.connectsNow()
	moveLeaders(t, adm, "mqtt")
	f.load.more(100)
	if now := f.load.connectsNow(); now != before {
		t.Errorf("%d connections of devices ended", now-before)
	}
	f.load.finish()
}

// moveLeaders makes another replica of every partition the preferred one, and elects it.
func moveLeaders(t *testing.T, adm *kadm.Client, topic string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := adm.Metadata(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	var req kadm.AlterPartitionAssignmentsReq
	var set kadm.TopicsSet
	for _, p := range m.Topics[topic].Partitions {
		order := append([]int32(nil), p.Replicas...)
		for order[0] == p.Leader {
			order = append(order[1:], order[0])
		}
		req.Assign(topic, p.Partition, order)
		set.Add(topic, p.Partition)
	}
	if _, err := adm.AlterPartitionAssignments(ctx, req); err != nil {
		t.Fatal(err)
	}
	eventually(t, "leaders are others", func() bool {
		_, _ = adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, set)
		now, err := adm.Metadata(ctx, topic)
		if err != nil {
			return false
		}
		for _, p := range now.Topics[topic].Partitions {
			if p.Leader == m.Topics[topic].Partitions[p.Partition].Leader {
				return false
			}
		}
		return true
	})
}

// TestRealKafkaTopicReplaced: the rows of the fault table that are about a topic.
func TestRealKafkaTopicReplaced(t *testing.T) {
	var ahead atomic.Int64
	f, _, adm := realFaulty(t, &ahead, onePlan)
	f.topicMissing(adm, 3)
	f.topicDeleted(adm)
}
