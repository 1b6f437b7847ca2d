package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/sim"
)

const loads = 3 // of killing

// killing is a node on the cluster of scripts/kafka under load at QoS 1, at QoS 2, and at QoS 1 on a route that spills.
type killing struct {
	t       *testing.T
	n       *node
	adm     *kadm.Client
	ledger  *sim.Ledger
	file    string             // where it is
	last    kadm.ListedOffsets // where the topics ended when the last life began
	loads   chan error
	watches chan error
	stop    [2]context.CancelFunc
}

func (k *killing) names(i int) (prefix, filter string, qos byte) {
	name := [3]string{"one", "two", "spill"}[i]
	return name + "-", "load/" + name + "/#", [3]byte{1, 2, 1}[i]
}

func (k *killing) control(args ...string) {
	k.t.Helper()
	if out, err := exec.Command(os.Getenv("MILLRACE_KAFKA_CONTROL"), args...).CombinedOutput(); err != nil {
		k.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func startKilling(t *testing.T) *killing {
	t.Helper()
	seeds := os.Getenv("MILLRACE_KAFKA")
	if seeds == "" || os.Getenv("MILLRACE_KAFKA_CONTROL") == "" {
		t.Skip("MILLRACE_KAFKA and MILLRACE_KAFKA_CONTROL are not set: no Kafka cluster to kill (make test-all starts one)")
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	k := &killing{t: t, adm: kadm.NewClient(cl), loads: make(chan error, 3), watches: make(chan error, 3)}
	k.openLedger()
	k.sweep()
	t.Cleanup(k.sweep)
	k.n = newNode(t, fmt.Sprintf("log: {kafka: [%s]}\nroutes:\n  - {mqtt: \"load/spill/#\", topic: kill-spill, partitions: 3, spill: true}\n  - {mqtt: \"load/#\", topic: kill-load, partitions: 3}\n",
		strings.ReplaceAll(seeds, ",", ", ")))
	k.n.kafka = ""
	k.n.start()
	loadCtx, stopLoad := context.WithCancel(t.Context())
	watchCtx, stopWatch := context.WithCancel(t.Context())
	k.stop = [2]context.CancelFunc{stopLoad, stopWatch}
	for i := range loads {
		prefix, filter, qos := k.names(i)
		ready := make(chan struct{})
		go func() {
			_, err := sim.Watch(watchCtx, sim.WatchOptions{Dial: sim.DialTCP(k.n.mqtt), Connect: persistent("watch-" + prefix),
				Filter: filter, QoS: qos, Ledger: k.ledger, Ready: func() { close(ready) }})
			k.watches <- err
		}()
		select {
		case <-ready:
		case <-time.After(3 * time.Minute):
			t.Fatal("no subscriber")
		}
		in := make(chan struct{})
		entered := sync.OnceFunc(func() { close(in) })
		go func() {
			o := sim.LoadOptions{Clients: 6, Prefix: prefix, Topic: strings.TrimSuffix(filter, "#") + "{client}/{topic}", Topics: 3, Size: 64, Rate: 200}
			o.Dial, o.Connect, o.QoS, o.Window, o.Ledger = sim.DialTCP(k.n.mqtt), persistent(""), qos, 16, k.ledger
			o.Grace, o.Every = 5*time.Minute, 20*time.Millisecond
			o.Report = func(s sim.FleetStats) {
				if s.Connected == o.Clients && s.Acked > 0 {
					entered()
				}
			}
			_, err := sim.Load(loadCtx, o)
			k.loads <- err
		}()
		select {
		case <-in:
		case <-time.After(3 * time.Minute):
			t.Fatal("the devices do not get in")
		}
	}
	return k
}

func (k *killing) openLedger() {
	k.file = filepath.Join(k.t.TempDir(), "ledger")
	f, err := os.Create(k.file)
	if err == nil {
		k.t.Cleanup(func() { f.Close() })
		k.ledger, err = sim.OpenLedger(ledgerFile{f})
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// ledgerFile is a file as the ledger wants it.
type ledgerFile struct{ *os.File }

func (f ledgerFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (k *killing) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		all, err := k.adm.ListTopicsWithInternal(ctx)
		left := 0
		for _, name := range all.Names() {
			if strings.HasPrefix(name, "__millrace_") || strings.HasPrefix(name, "kill-") || name == "mqtt" {
				left++
				_, _ = k.adm.DeleteTopic(ctx, name)
			}
		}
		if err == nil && left == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// finish wants of every load that all that was acknowledged came, in order, and at QoS 2 once.
func (k *killing) finish() {
	k.t.Helper()
	k.stop[0]()
	for range loads {
		if err := <-k.loads; err != nil {
			k.t.Fatalf("load: %v", err)
		}
	}
	for i := range loads {
		prefix, filter, qos := k.names(i)
		r := k.ledger.Reader("watch-"+prefix, filter, qos)
		deadline := time.Now().Add(5 * time.Minute)
		for r.Report().Missing > 0 && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
		}
		report := r.Report()
		k.t.Logf("%s, %s", prefix, report.String())
		if err := report.Err(); err != nil {
			k.t.Errorf("%s: %v", prefix, err)
		}
		if report.Acked == 0 || qos == 2 && (report.Twice > 0 || report.Duplicates > 0) {
			k.t.Errorf("%s: %d acknowledged, %d twice, %d duplicates", prefix, report.Acked, report.Twice, report.Duplicates)
		}
	}
	k.stop[1]()
	for range loads {
		if err := <-k.watches; err != nil {
			k.t.Fatalf("watch: %v", err)
		}
	}
}

// verified wants that all of it adds up for millrace verify, too: by what the nodes counted, and by the ledger; the node is stopped then.
func (k *killing) verified() {
	k.t.Helper()
	if err := k.ledger.Flush(); err != nil {
		k.t.Fatal(err)
	}
	v := verify(k.t, k.n.bin, "--http", k.n.http, "--ledger", k.file)
	k.addUp("while it runs", v)
	if v.kinds["not_counted"]+v.kinds["killed"] == 0 { // a node that counted a minute and a half ago may live, on a cluster
		k.t.Errorf("of what the kills left uncounted verify says nothing: %v", v.kinds)
	}
	k.n.stop()
	v = verify(k.t, k.n.bin, "--config", k.n.conf, "--ledger", k.file)
	k.addUp("at rest", v)
	if v.kinds["killed"] == 0 {
		k.t.Errorf("of the kills verify says nothing: %v", v.kinds)
	}
}

// addUp wants of what verify says that nothing is wrong, and that it has counts of more than the last life.
func (k *killing) addUp(when string, v verified) {
	k.t.Helper()
	k.t.Logf("verify %s: exit code %d, %+v, %v\n%s", when, v.code, v.counts, v.kinds, v.text)
	if v.code != 0 {
		k.t.Errorf("verify %s ends with %d", when, v.code)
	}
	ends := k.ends()
	for _, topic := range []string{"kill-load", "kill-spill"} {
		last := uint64(0) // at most so many are of the last life
		for index, o := range ends[topic] {
			last += uint64(o.Offset - k.last[topic][index].Offset)
		}
		if c := v.counts[topic]; c.Found <= last || c.Found != c.Logged {
			k.t.Errorf("verify %s: %s: %+v, with %d of the last life", when, topic, c, last)
		}
	}
}

func (k *killing) ends() kadm.ListedOffsets {
	k.t.Helper()
	ends, err := k.adm.ListEndOffsets(k.t.Context(), "kill-load", "kill-spill")
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return ends
}

// TestRealKafkaKillNode: kill -9 of the node, again and again, with its log on a cluster: nothing acknowledged is lost or out of order, QoS 2
// arrives once, and so does what waited on the local disk; and verify finds nothing that does not add up.
func TestRealKafkaKillNode(t *testing.T) {
	k := startKilling(t)
	rng := rand.New(rand.NewPCG(tier.Seed(), 9))
	n := tier.N(100)
	for i := range n {
		life := time.Duration(200+rng.IntN(600)) * time.Millisecond // how far the load gets, not a wait for anything
		if i == n/3 || i == 2*n/3 {
			life = 6 * time.Second // longer than between two flushes of the meter: what it counts of these is there afterwards
		}
		time.Sleep(life)
		k.n.kill()
		k.last = k.ends()
		k.n.start()
	}
	k.finish()
	k.verified()
}

// TestRealKafkaKillBroker: kill -9 of one broker after the other.
func TestRealKafkaKillBroker(t *testing.T) {
	k := startKilling(t)
	t.Cleanup(func() { k.control("up") })
	rng := rand.New(rand.NewPCG(tier.Seed(), 9))
	for range tier.N(100) {
		k.control("kill", fmt.Sprint(1+rng.IntN(3)))
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		k.control("up")
		k.inSync()
	}
	k.finish()
}

// inSync waits until every replica is: two brokers of three that lack something are no test of one that dies.
func (k *killing) inSync() {
	k.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		m, err := k.adm.Metadata(k.t.Context())
		behind := err != nil
		for _, topic := range m.Topics {
			for _, p := range topic.Partitions {
				behind = behind || len(p.ISR) < len(p.Replicas)
			}
		}
		if !behind {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("the replicas are not in sync: %v", err)
		}
	}
}
