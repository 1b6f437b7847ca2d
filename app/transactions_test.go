package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// TestTransactionsAndDevices: what a Kafka client writes in a transaction reaches devices once it is committed, in its place, and never if it
// is aborted. Meanwhile what devices publish to the partition waits for it, and everybody is told who holds it back.
func TestTransactionsAndDevices(t *testing.T) {
	routes := strings.ReplaceAll(fleetRoutes, "partitions: 3", "partitions: 1")
	n := boot(t, testConfig(t, routes))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan string, 20)
	device := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.Address("MQTT")),
		Connect:   packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "truck-7"},
		OnMessage: func(p *packet.Publish) { got <- fmt.Sprintf("%s %s", p.Topic, p.Payload) }})
	if _, err := device.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer device.Drop()
	if _, err := device.Subscribe(ctx, packet.Filter{Filter: "fleet/+/cmd", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.Address("Kafka")), kgo.TransactionalID("dispatcher"), kgo.DefaultProduceTopic("commands"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	produce := func(command string) {
		t.Helper()
		if err := cl.ProduceSync(ctx, &kgo.Record{Key: []byte("truck-7"), Value: []byte(command)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	end := func(how kgo.TransactionEndTry) {
		t.Helper()
		if err := cl.EndTransaction(ctx, how); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(payload string) {
		t.Helper()
		acked := make(chan packet.Code, 1)
		err := device.Publish(ctx, &packet.Publish{Topic: []byte("fleet/truck-8/cmd"), QoS: 1, Payload: []byte(payload)}, func(c packet.Code) { acked <- c })
		if err != nil {
			t.Fatal(err)
		}
		if c := <-acked; c != 0 {
			t.Fatalf("publish %q: %v", payload, c)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		var all []string
		for range want {
			select {
			case m := <-got:
				all = append(all, m)
			case <-ctx.Done():
				t.Fatalf("the device has %q, want %q", all, want)
			}
		}
		if !slices.Equal(all, want) {
			t.Fatalf("the device has %q, want %q", all, want)
		}
	}
	begin()
	produce("never")
	publish("beside the aborted one") // acknowledged: it is durable; delivered when it is its turn
	end(kgo.TryAbort)
	begin()
	produce("stop")
	produce("go")
	publish("beside the committed one")
	select {
	case m := <-got:
		if m != "fleet/truck-8/cmd beside the aborted one" {
			t.Fatalf("the device has %q", m)
		}
	case <-ctx.Done():
		t.Fatal("what was published beside the aborted transaction does not come")
	}
	if len(n.kafka.HeldTransactions()) != 0 {
		t.Error("a transaction is held against its producer at once")
	}
	end(kgo.TryCommit)
	expect("fleet/truck-7/cmd stop", "fleet/truck-7/cmd go", "fleet/truck-8/cmd beside the committed one")
	publish("last")
	expect("fleet/truck-8/cmd last")
	if !n.carries("commands") || n.carries("orders") {
		t.Error("what devices read is not told from what they do not")
	}
}
