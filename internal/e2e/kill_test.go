package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// persistent is a CONNECT whose session outlives the connection.
func persistent(id string) packet.Connect {
	c := packet.Connect{Version: packet.V5, ClientID: id, KeepAlive: 60}
	c.Props.Has, c.Props.SessionExpiry = packet.PSessionExpiry, 3600
	return c
}

// TestKillNine kills the real binary, again and again, under QoS 1 and QoS 2 load. At the end nothing acknowledged is missing,
// at the subscribers or in the log, no QoS 2 message is there twice, none is out of order, and none was made up. Every will that was taken with
// a CONNECT has come once. Shared subscribers have everything between them, and at QoS 2 nothing twice.
func TestKillNine(t *testing.T) {
	n := newNode(t, "")
	n.start()
	ledgers := [3]*sim.Ledger{1: sim.NewLedger(), 2: sim.NewLedger()}
	filters := [3]string{1: "load/one/#", 2: "load/two/#"}
	prefixes := [3]string{1: "one-", 2: "two-"}

	loadCtx, stopLoad := context.WithCancel(t.Context())
	watchCtx, stopWatch := context.WithCancel(t.Context())
	defer stopWatch()
	loads, watches := make(chan error, 2), make(chan error, 2)
	for qos := byte(1); qos <= 2; qos++ {
		ready := make(chan struct{})
		go func() {
			_, err := sim.Watch(watchCtx, sim.WatchOptions{Dial: sim.DialTCP(n.mqtt), Connect: persistent("watch-" + prefixes[qos]),
				Filter: filters[qos], QoS: qos, Ledger: ledgers[qos], Ready: func() { close(ready) }})
			watches <- err
		}()
		<-ready
		go func() {
			o := sim.LoadOptions{Clients: 8, Prefix: prefixes[qos], Topic: filters[qos][:len("load/one/")] + "{client}/{topic}", Topics: 3, Size: 64, Rate: 2000}
			o.Dial, o.Connect, o.QoS, o.Window, o.Ledger = sim.DialTCP(n.mqtt), persistent(""), qos, 16, ledgers[qos]
			o.Grace = time.Minute
			_, err := sim.Load(loadCtx, o)
			loads <- err
		}()
	}
	shared := newGroups(t, n, ledgers, filters)
	wills, clean := newMortals(t, n), newCleanLoad(t, n)
	rounds := tier.N(200)
	rng := rand.New(rand.NewPCG(tier.Seed(), 9))
	t.Logf("%d rounds, seed %d", rounds, tier.Seed())
	for range rounds {
		time.Sleep(time.Duration(100+rng.IntN(400)) * time.Millisecond) // how far the load gets, not a wait for anything
		wills.come(rng)
		n.kill()
		n.start()
	}
	wills.settle()
	clean.settle(n)
	stopLoad()
	for range 2 {
		if err := <-loads; err != nil {
			t.Fatalf("load: %v", err)
		}
	}
	for qos := byte(1); qos <= 2; qos++ {
		r := ledgers[qos].Reader("watch-"+prefixes[qos], filters[qos], qos)
		eventually(t, "the subscriber has everything", func() bool { return r.Report().Missing == 0 })
	}
	shared.settle()
	stopWatch()
	for range 2 {
		if err := <-watches; err != nil {
			t.Fatalf("watch: %v", err)
		}
	}
	for qos := byte(1); qos <= 2; qos++ {
		log := ledgers[qos].Reader("log", filters[qos], qos).All()
		inLog := readLog(t, n, filters[qos], log)
		for _, r := range []sim.Report{ledgers[qos].Reader("watch-"+prefixes[qos], filters[qos], qos).Report(), log.Report()} {
			t.Logf("QoS %d, %s", qos, r.String())
			if err := r.Err(); err != nil {
				t.Errorf("QoS %d, %s: %v", qos, r.Reader, err)
			}
			if r.Acked == 0 || r.Received < r.Acked {
				t.Errorf("QoS %d, %s: %d acknowledged, %d received: the test tested nothing, or lost", qos, r.Reader, r.Acked, r.Received)
			}
			if qos == 2 && (r.Twice > 0 || r.Duplicates > 0) {
				t.Errorf("QoS 2, %s: %d twice, %d duplicates", r.Reader, r.Twice, r.Duplicates)
			}
		}
		if inLog == 0 {
			t.Errorf("QoS %d: the log is empty", qos)
		}
	}
}

// readLog enters every record of log topic mqtt whose MQTT topic the filter's prefix matches, read as a Kafka client.
func readLog(t *testing.T, n *node, filter string, into *sim.Reader) (count int) {
	t.Helper()
	prefix := filter[:len(filter)-1]
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.ConsumeTopics("mqtt"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := deadline(t, 2*time.Minute)
	ends := map[int32]int64{}
	for p, end := range endsOf(t, cl, "mqtt") {
		if end > 0 {
			ends[p] = end
		}
	}
	for len(ends) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= ends[r.Partition] {
				delete(ends, r.Partition)
			}
			topic, qos := "", byte(0)
			for _, h := range r.Headers {
				switch h.Key {
				case "mqtt.topic":
					topic = string(h.Value)
				case "mqtt.qos":
					qos = h.Value[0] - '0'
				}
			}
			if len(topic) > len(prefix) && topic[:len(prefix)] == prefix {
				count++
				into.Got(&packet.Publish{Topic: []byte(topic), QoS: qos, Payload: r.Value})
			}
		})
	}
	return count
}
