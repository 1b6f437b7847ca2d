package app

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/faultproxy"
	"github.com/millrace-io/millrace/internal/tier"
)

// clusterWorld is where a world has its log, if that is a cluster. A life ends by losing the network, all at once: what the node had sent may be taken or
// not, and nothing of it can be sent any more, as after kill -9. The cluster itself loses no power.
type clusterWorld struct {
	seeds  string
	lives  time.Duration // about as long as they are, when they end badly
	before func(life int, rng *rand.Rand)
}

// startOnCluster is start.
func (w *world) startOnCluster(number int, last bool) (*life, error) {
	if w.cluster.before != nil {
		w.cluster.before(number, w.rng)
	}
	l := &life{number: number, doors: newMemoryDoors(w.tcp), cut: make(chan struct{}), quiet: make(chan struct{})}
	network := &faultproxy.Net{}
	ctx, cancel := context.WithCancel(context.Background())
	l.crash = sync.OnceFunc(func() {
		l.dying.Store(true)
		if err := network.Set(faultproxy.Refuse); err != nil {
			w.wrong("%w", err)
		}
		met.crashes.Add(1)
		cancel()
		close(l.cut)
		l.doors.cut()
	})
	l.bury = network.Close
	early, doom := !last && w.rng.IntN(4) == 0, time.Duration(w.rng.Int64N(int64(2*w.cluster.lives)))
	if early { // within the start, perhaps
		l.doom = time.AfterFunc(doom, l.crash)
	}
	c, err := config.Parse(strings.Replace(powerlossConfig, "log: {partitions: 2, ", "log: {kafka: ["+strings.ReplaceAll(w.cluster.seeds, ",", ", ")+"], ", 1), "test")
	if err != nil {
		return nil, err
	}
	c.Listeners, c.Log.Data = config.Listeners{MQTT: []config.MQTT{{Bind: "127.0.0.1:0"}}}, ""
	tune := w.tune
	tune.kafka = func(o *kafka.Options) { o.Dial, o.CloseWait = network.Dial, 100*time.Millisecond }
	l.node, err = Start(ctx, Options{
		Config: c, Version: "test", Now: w.now, Listen: l.doors.listen, tune: tune,
		Logger: slog.New(slog.NewTextHandler(&w.said, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err == nil {
		if !early && !last {
			l.doom = time.AfterFunc(doom, l.crash)
		}
		l.doors.open(l.node)
		return l, nil
	}
	defer network.Close()
	if !l.over() {
		return nil, fmt.Errorf("start: %w", err)
	}
	<-l.cut
	met.lostInStart.Add(1)
	return nil, nil
}

// TestClusterNodeCrashes is TestNodePowerLoss on a cluster in this process: sessions, shared subscriptions, wills and retained messages through crashes of the
// node, with a ledger of what everybody was owed.
func TestClusterNodeCrashes(t *testing.T) {
	for i := range uint64(tier.N(10)) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(tier.Seed() + i)
		w.cluster = &clusterWorld{seeds: strings.Join(cluster.ListenAddrs(), ","), lives: 300 * time.Millisecond}
		w.runs(t)
		cluster.Close()
	}
}

// TestRealKafkaNodeCrashes is the same on Apache Kafka; brokers are killed too.
func TestRealKafkaNodeCrashes(t *testing.T) {
	seeds := clusterToBreak(t)
	control := func(args ...string) {
		if out, err := exec.Command(os.Getenv("MILLRACE_KAFKA_CONTROL"), args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { control("up") })
	for i := range uint64(tier.N(10)) {
		for _, prefix := range []string{"__millrace_", "telemetry", "commands", "states", "mqtt"} {
			sweep(t, seeds, prefix)
		}
		w := newWorld(tier.Seed() + i)
		w.patience = 5 * time.Minute
		w.cluster = &clusterWorld{seeds: seeds, lives: 4 * time.Second, before: func(life int, rng *rand.Rand) {
			switch life {
			case 1:
				control("kill", fmt.Sprint(1+rng.IntN(3)))
			case 3:
				control("up")
			}
		}}
		w.runs(t)
	}
}

func (w *world) runs(t *testing.T) {
	t.Helper()
	if err := w.run(); err != nil {
		t.Fatalf("seed %d (MILLRACE_SEED=%d): %v\nthe node said:\n%s", w.seed, w.seed, err, w.said.tail())
	}
	t.Logf("seed %d: %d acknowledged, %+v", w.seed, w.acks.Load(), covered())
}
