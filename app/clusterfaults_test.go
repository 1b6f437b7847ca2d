package app

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/faultproxy"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// faulty is a node on a cluster, of whatever kind, that can be broken.
type faulty struct {
	*testing.T
	n    *Node
	load *clusterLoad
	net  *faultproxy.Net
	ids  atomic.Int32

	again func() *Node           // starts the node anew
	at    atomic.Pointer[string] // where it is
}

// fill publishes messages of 1 KiB at QoS 1, and says how many were refused.
func (f *faulty) fill(n int) (refused int64) {
	f.Helper()
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(f.n.Address("MQTT")), Connect: packet.Connect{Version: packet.V5, CleanStart: true, ClientID: fmt.Sprintf("fill-%d", f.ids.Add(1))}})
	if _, err := c.Connect(f.Context()); err != nil {
		f.Fatal(err)
	}
	defer c.Drop()
	var bad atomic.Int64
	var all sync.WaitGroup
	rng := rand.New(rand.NewPCG(1, 1))
	for range n {
		payload := make([]byte, 1024)
		for i := range payload {
			payload[i] = byte(rng.Uint32())
		}
		all.Add(1)
		if err := c.Publish(f.Context(), &packet.Publish{Topic: []byte("load/fill"), QoS: 1, Payload: payload}, func(code packet.Code) {
			defer all.Done()
			if code.Failed() {
				bad.Add(1)
			}
		}); err != nil {
			f.Fatal(err)
		}
	}
	all.Wait()
	return bad.Load()
}

// clusterFault is one row of the fault table: what happens, what the node calls it, and how it ends.
type clusterFault struct {
	name  string
	want  []kafka.State // any of these: what a client sees of a fault is not always the same
	begin func(f *faulty)
	end   func(f *faulty)
}

// runs notes the node that is to be broken.
func (f *faulty) runs(n *Node) {
	at := n.Address("MQTT")
	f.n = n
	f.at.Store(&at)
}

func (f *faulty) address() string { return *f.at.Load() }

func (f *faulty) set(m faultproxy.Mode) {
	f.Helper()
	if err := f.net.Set(m); err != nil {
		f.Fatal(err)
	}
}

// networkFaults are what a bad network between node and cluster does.
func networkFaults() []clusterFault {
	network := func(m faultproxy.Mode) func(*faulty) { return func(f *faulty) { f.set(m) } }
	return []clusterFault{
		{"hang", []kafka.State{kafka.NoAnswer}, network(faultproxy.Hang), network(faultproxy.Pass)},
		{"refused", []kafka.State{kafka.Unreachable}, network(faultproxy.Refuse), network(faultproxy.Pass)},
		{"reset", []kafka.State{kafka.Unreachable}, network(faultproxy.Reset), network(faultproxy.Pass)},
		{"a byte a second", []kafka.State{kafka.NoAnswer}, network(faultproxy.Trickle), network(faultproxy.Pass)},
	}
}

// survive breaks the cluster under load, looks on, mends it, and wants that nothing was lost, repeated or let go: while it lasts nothing is
// acknowledged, no device is sent away, memory is bounded, and /readyz, the metrics and the log name the one state.
func (f *faulty) survive(row clusterFault) {
	f.Helper()
	f.load.more(100)
	eventually(f.T, "all devices are there", func() bool { return f.load.connectsNow() >= 2*loadClients }) // who comes late has not come again
	before := f.load.connectsNow()
	row.begin(f)
	state := func() kafka.State { return f.n.clusterHealth().State }
	eventually(f.T, fmt.Sprintf("the state is one of %v", row.want), func() bool {
		is := state()
		for _, want := range row.want {
			if is == want && !f.n.Status().Ready {
				return true
			}
		}
		return false
	})
	f.flood()
	// Not all brokers refuse at the same moment (rights reach them one by one, credentials are asked for again connection by connection): what
	// the last of them takes meanwhile is rightly acknowledged, and the ledger looks for it in the end. Whoever acknowledges without the cluster does not stop.
	eventually(f.T, "nothing more is acknowledged", func() bool {
		was := f.load.ackedNow()
		time.Sleep(300 * time.Millisecond)
		return f.load.ackedNow() == was
	})
	f.tells(state())
	row.end(f)
	f.load.more(100)
	f.recovers()
	if now := f.load.connectsNow(); now != before {
		f.Errorf("%d connections of devices ended", now-before)
	}
}

// tells wants that everybody who asks is told the same, and that what waits is bounded.
func (f *faulty) tells(state kafka.State) {
	f.Helper()
	is := string(state)
	if code, body := fetch(f.T, f.n, "/readyz"); code != 503 || !strings.Contains(body, is) {
		f.Errorf("/readyz: %d %s, want 503 and %s", code, body, is)
	}
	if code, _ := fetch(f.T, f.n, "/livez"); code != 200 {
		f.Errorf("/livez: %d: who asks whether to restart what owns the buffers must not be told to", code)
	}
	if _, body := fetch(f.T, f.n, "/metrics"); strings.Count(body, "millrace_cluster_state{") != len(kafka.States) || !strings.Contains(body, fmt.Sprintf("millrace_cluster_state{state=%q} 1", is)) {
		f.Errorf("the metrics do not say %s", is)
	}
	if h := f.n.cluster.Health(); h.Bytes > floodBound {
		f.Errorf("%d bytes wait for the cluster, want at most %d", h.Bytes, floodBound)
	}
}

// onePlan is a route to one topic, of four partitions and no other number.
const onePlan = "routes:\n  - {mqtt: \"#\", topic: mqtt, partitions: 4}\n"

// topicMissing takes the topic of all routes away, and makes one that they cannot use: with fewer partitions than the route wants. While that is so devices are
// held back and none is sent away; when it is gone the node makes what it needs, and everything that waited is there.
func (f *faulty) topicMissing(adm *kadm.Client, replicas int16) {
	f.Helper()
	f.load.more(50)
	f.load.finish() // what is in a topic goes with it
	eventually(f.T, "the topic is another", func() bool {
		_, _ = adm.DeleteTopic(f.Context(), "mqtt")
		_, err := adm.CreateTopic(f.Context(), 2, replicas, nil, "mqtt")
		return err == nil // else it is going still, or the node was first
	})
	eventually(f.T, "the node says so", func() bool { return f.n.clusterHealth().State == kafka.NoTopic && !f.n.Status().Ready })
	f.load = startLoad(f.T, f.address, 300)
	eventually(f.T, "all devices are there", func() bool { return f.load.connectsNow() == 2*loadClients })
	f.flood()
	f.tells(kafka.NoTopic)
	if n := f.load.ackedNow(); n > 0 {
		f.Errorf("%d messages are acknowledged that have no topic", n)
	}
	if _, err := adm.DeleteTopic(f.Context(), "mqtt"); err != nil {
		f.Fatal(err)
	}
	f.load.more(100)
	eventually(f.T, "the state is ok", func() bool { return f.n.clusterHealth().State == kafka.OK && f.n.Status().Ready })
	if n := f.load.connectsNow(); n != 2*loadClients {
		f.Errorf("%d connections of devices ended", n-2*loadClients)
	}
	f.load.finish()
}

// topicDeleted deletes the topic under load, some times. The node makes it again; devices notice a pause.
func (f *faulty) topicDeleted(adm *kadm.Client) {
	f.Helper()
	f.load = startLoad(f.T, f.address, 300)
	f.load.more(50)
	eventually(f.T, "all devices are there", func() bool { return f.load.connectsNow() == 2*loadClients })
	for range 2 {
		if _, err := adm.DeleteTopic(f.Context(), "mqtt"); err != nil {
			f.Fatal(err)
		}
		eventually(f.T, "it is there again", func() bool {
			all, err := adm.ListTopics(f.Context())
			return err == nil && all.Has("mqtt")
		})
		f.load.more(100)
	}
	if n := f.load.connectsNow(); n != 2*loadClients {
		f.Errorf("%d connections of devices ended", n-2*loadClients)
	}
	f.load.finishButFor()
}

// recovers waits for the cluster to be well again, for as long as a machine may take that has other things to do: reads that come late
// are trouble, too.
func (f *faulty) recovers() {
	f.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		h := f.n.clusterHealth()
		if h.State == kafka.OK && f.n.Status().Ready {
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("it does not recover: %+v", h)
		}
	}
}

const (
	floodRoom  = 128 << 10 // of a partition
	floodBound = 8*(floodRoom+1<<20) + 1<<20
)

// flood is a device that sends without end at QoS 0 until it is held back: 16 MiB are more than anybody may keep of it.
func (f *faulty) flood() {
	f.Helper()
	id := fmt.Sprintf("flood-%d", f.ids.Add(1))
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(f.n.Address("MQTT")), Connect: packet.Connect{Version: packet.V311, CleanStart: true, ClientID: id}})
	patient, cancel := context.WithTimeout(f.Context(), 30*time.Second) // a device that nobody reads has not got in, however busy the machine is
	defer cancel()
	if _, err := c.Connect(patient); err != nil {
		f.Errorf("a device does not get in: %v", err)
		return
	}
	defer c.Drop()
	ctx, cancel := context.WithTimeout(f.Context(), 500*time.Millisecond)
	defer cancel()
	payload := make([]byte, 32<<10)
	for range 512 {
		if err := c.Publish(ctx, &packet.Publish{Topic: []byte("flood/" + id), Payload: payload}, nil); err != nil {
			return
		}
	}
	f.Error("16 MiB were taken that the cluster did not take")
}

func onFake(t *testing.T, more string) (*faulty, *kfake.Cluster) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	f := &faulty{T: t, net: &faultproxy.Net{}}
	t.Cleanup(f.net.Close)
	c := testConfig(t, "log: {kafka: ["+strings.Join(cluster.ListenAddrs(), ", ")+"]}\nlimits: {inbound_bytes: 256KiB}\n"+more)
	c.Log.Data = ""
	f.runs(bootTuned(t, c, func(o *kafka.Options) {
		o.Dial, o.RoomBytes, o.Patience = f.net.Dial, floodRoom, time.Second // what a busy machine keeps, too, when nothing is wrong
	}))
	f.load = startLoad(t, f.address, 300)
	return f, cluster
}

// bootTuned is boot with a driver that is small and quick.
func bootTuned(t *testing.T, c *config.Config, tune func(*kafka.Options)) *Node {
	return bootTimed(t, c, tune, nil)
}

func bootTimed(t *testing.T, c *config.Config, tune func(*kafka.Options), clock func() time.Time) *Node {
	t.Helper()
	log, _ := testLogger(t)
	n, err := Start(t.Context(), Options{Config: c, Version: "test", Logger: log, tune: tuning{kafka: tune, clock: clock}})
	for begun := time.Now(); errors.Is(err, context.DeadlineExceeded) && time.Since(begun) < time.Minute; { // a busy machine: as whoever watches over it does
		n, err = Start(t.Context(), Options{Config: c, Version: "test", Logger: log, tune: tuning{kafka: tune, clock: clock}})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { halt(t, n) })
	eventually(t, "the node is ready", func() bool { return n.Status().Ready })
	return n
}

// TestClusterFaults is the fault table on a cluster in this process.
func TestClusterFaults(t *testing.T) {
	answers := func(name string, want kafka.State, err *kerr.Error) (clusterFault, func(*kfake.Cluster)) {
		var c *kfake.Cluster
		var h *kfake.FaultHandle
		return clusterFault{name, []kafka.State{want},
			func(*faulty) { h = c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: -1}) },
			func(*faulty) { h.Remove() }}, func(of *kfake.Cluster) { c = of }
	}
	type row struct {
		clusterFault
		on func(*kfake.Cluster)
	}
	var rows []row
	for _, f := range networkFaults() {
		rows = append(rows, row{f, func(*kfake.Cluster) {}})
	}
	for _, a := range []struct {
		name string
		want kafka.State
		err  *kerr.Error
	}{
		{"too few replicas", kafka.FewReplicas, kerr.NotEnoughReplicas},
		{"no leader", kafka.NoLeader, kerr.NotLeaderForPartition},
		{"rights taken away", kafka.Denied, kerr.TopicAuthorizationFailed},
		{"clocks differ", kafka.Clock, kerr.InvalidTimestamp},
	} {
		f, on := answers(a.name, a.want, a.err)
		rows = append(rows, row{f, on})
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			f, cluster := onFake(t, "")
			r.on(cluster)
			f.survive(r.clusterFault)
			f.load.finish()
		})
	}
}

// TestClusterTopicReplaced: the rows of the fault table that are about a topic.
func TestClusterTopicReplaced(t *testing.T) {
	f, cluster := onFake(t, onePlan)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	f.topicMissing(kadm.NewClient(cl), 3)
	f.topicDeleted(kadm.NewClient(cl))
}
