package app

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/faultproxy"
	"github.com/millrace-io/millrace/spill"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const spilledRoutes = `
routes:
  - {mqtt: "load/#", topic: load, key: "", partitions: 4, spill: true}
`

// spilling is a node with a spilled route on a cluster in this process.
func spilling(t *testing.T, bounds config.Spill) *faulty {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	f := &faulty{T: t, net: &faultproxy.Net{}}
	t.Cleanup(f.net.Close)
	c := testConfig(t, "log: {kafka: ["+strings.Join(cluster.ListenAddrs(), ", ")+"]}\n"+spilledRoutes)
	c.Log.Data = filepath.Join(t.TempDir(), "data")
	if bounds != (config.Spill{}) {
		c.Log.Spill = bounds
	}
	log, _ := testLogger(t)
	start := func() *Node {
		n, err := Start(t.Context(), Options{Config: c, Version: "test", Logger: log, tune: tuning{
			kafka: func(o *kafka.Options) { o.Dial, o.Patience = f.net.Dial, 400*time.Millisecond },
			spill: func(o *spill.Options) { o.Every = 20 * time.Millisecond }}})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the node is ready", func() bool { return n.Status().Ready })
		return n
	}
	f.again = start
	f.runs(start())
	t.Cleanup(func() { halt(t, f.n) })
	return f
}

// TestClusterSpill: while the cluster is away publishers of a spilled route are acknowledged all the same, and when it is back subscribers
// get everything, in order; a node that was stopped in between goes on with what waits.
func TestClusterSpill(t *testing.T) {
	t.Parallel()
	f := spilling(t, config.Spill{})
	f.load = startLoad(t, f.address, 300)
	f.load.more(100)
	f.set(faultproxy.Refuse)
	f.load.moreAt(1, 200) // at QoS 2 the handshake's state is in the cluster, and waits for it
	eventually(t, "the state is told", func() bool { return f.n.clusterHealth().State == kafka.Unreachable })
	code, body := fetch(t, f.n, "/readyz")
	if code != 200 || !strings.Contains(body, "unreachable") || !strings.Contains(body, "wait on the local disk") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if _, body := fetch(t, f.n, "/metrics"); !strings.Contains(body, "millrace_spill_waiting_messages ") || strings.Contains(body, "millrace_spill_waiting_messages 0\n") {
		t.Error("the metrics do not say that messages wait")
	}
	f.set(faultproxy.Pass)
	f.load.more(100)
	f.load.finish()
	eventually(t, "nothing waits", func() bool { st, _ := f.n.spillStats(); return st.Messages == 0 && st.Bytes == 0 })

	// What waits when the node ends is drained by the next one.
	st := func() spill.Stats { st, _ := f.n.spillStats(); return st }
	f.load = startLoad(t, f.address, 300)
	f.load.more(20)
	f.set(faultproxy.Refuse)
	f.load.moreAt(1, 100)
	waits := st().Messages
	if waits == 0 {
		t.Error("nothing waits while the cluster is away")
	}
	f.load.stopLoad()
	f.restart()
	f.load.finish()
	eventually(t, "nothing waits", func() bool { return st().Messages == 0 })
	if st().Drained < waits/2 { // not all of them: the cluster may have taken the last step before it went away
		t.Errorf("%d drained by the second node, %d waited", st().Drained, waits)
	}
}

// restart stops the node while the cluster is away, and starts it when it is back.
func (f *faulty) restart() {
	f.Helper()
	halted := make(chan struct{})
	old := f.n
	go func() { defer close(halted); quickly(old) }()
	<-halted
	f.set(faultproxy.Pass)
	f.runs(f.again())
}

// TestClusterSpillFull: a full spill refuses, with a reason code and a counter, and takes messages again when the cluster does.
func TestClusterSpillFull(t *testing.T) {
	t.Parallel()
	f := spilling(t, config.Spill{MaxBytes: 1 << 20, WhenFull: "reject"})
	f.set(faultproxy.Refuse)
	refused := f.fill(2000)
	if refused == 0 {
		t.Fatal("nothing was refused")
	}
	if st, _ := f.n.spillStats(); st.Rejected != uint64(refused) || !st.Full {
		t.Errorf("%d refused: %+v", refused, st)
	}
	if code, body := fetch(t, f.n, "/readyz"); code != 503 || !strings.Contains(body, "no more are taken") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	f.set(faultproxy.Pass)
	eventually(t, "it takes messages again", func() bool { st, _ := f.n.spillStats(); return !st.Full && st.Messages == 0 })
	if n := f.fill(10); n != 0 {
		t.Errorf("%d are still refused", n)
	}
	eventually(t, "the last ones are in the cluster", func() bool { st, _ := f.n.spillStats(); return st.Messages == 0 })
	got := 0
	for _, payloads := range logged(t, f.n) {
		got += len(payloads)
	}
	if want := 2010 - int(refused); got != want {
		t.Errorf("%d are in the cluster, want %d", got, want)
	}
}

// TestClusterSpillTurnedOff walks the way that docs/on-kafka.md gives: spill: true is taken away while messages wait, and the node started again. It lets nobody in
// before they are in the cluster, so that nothing overtakes them; afterwards it is a node that never spilled.
func TestClusterSpillTurnedOff(t *testing.T) {
	t.Parallel()
	f := spilling(t, config.Spill{})
	f.load = startLoad(t, f.address, 300)
	f.load.more(20)
	f.set(faultproxy.Refuse)
	f.load.moreAt(1, 100)
	if st, _ := f.n.spillStats(); st.Messages == 0 {
		t.Error("nothing waits while the cluster is away")
	}
	c := *f.n.o.Config
	c.Routes = slices.Clone(c.Routes)
	c.Routes[0].Spill = false
	log, said := testLogger(t)
	f.again = func() *Node {
		n, err := Start(t.Context(), Options{Config: &c, Version: "test", Logger: log, tune: f.n.o.tune})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the node is ready", func() bool { return n.Status().Ready })
		return n
	}
	f.restart() // the devices are at it all the time
	if _, spills := f.n.spillStats(); spills || !strings.Contains(said.String(), "draining what waits on the local disk") {
		t.Errorf("it spills: %v; the log does not say what it did", spills)
	}
	f.load.more(100)
	f.load.finish()
	f.restart()
	if strings.Count(said.String(), "draining what waits on the local disk") != 1 {
		t.Error("there was more to drain")
	}
	_ = f.fill(10)
}

// TestClusterSpillTopicDeleted: the cluster's topic of a spilled route is deleted under load. Publishers are acknowledged all the time, the node makes the topic
// again, and what waits goes there.
func TestClusterSpillTopicDeleted(t *testing.T) {
	t.Parallel()
	f := spilling(t, config.Spill{})
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.n.o.Config.Log.Kafka...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	f.load = startLoad(t, f.address, 300)
	f.load.more(50)
	eventually(t, "all devices are there", func() bool { return f.load.connectsNow() == 2*loadClients })
	for range 2 {
		if _, err := adm.DeleteTopic(t.Context(), "load"); err != nil {
			t.Fatal(err)
		}
		f.load.more(100)
		eventually(t, "it is there again", func() bool {
			all, err := adm.ListTopics(t.Context())
			return err == nil && all.Has("load")
		})
	}
	if n := f.load.connectsNow(); n != 2*loadClients {
		t.Errorf("%d connections of devices ended", n-2*loadClients)
	}
	f.load.finishButFor()
	eventually(t, "nothing waits", func() bool { st, _ := f.n.spillStats(); return st.Messages == 0 && st.Bytes == 0 && st.Err == nil })
}
