package app

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// The same node on a Kafka cluster: devices publish, the cluster has it, and what a Kafka client produces there reaches devices.
// (The cluster is kfake, in this process.)
func TestNodeOnAKafkaCluster(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	c := testConfig(t, "log: {kafka: ["+cluster.ListenAddrs()[0]+"]}\n"+fleetRoutes)
	c.Log.Data = ""
	n := boot(t, c)
	if n.Address("Kafka") != "" {
		t.Error("a Kafka server runs in front of a Kafka cluster")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	got := make(chan string, 10)
	device := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.Address("MQTT")),
		Connect:   packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "truck-7"},
		OnMessage: func(p *packet.Publish) { got <- fmt.Sprintf("%s %d %s", p.Topic, p.QoS, p.Payload) }})
	if _, err := device.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer device.Drop()
	if _, err := device.Subscribe(ctx, packet.Filter{Filter: "fleet/truck-7/cmd", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	acked := make(chan packet.Code, 1)
	err = device.Publish(ctx, &packet.Publish{Topic: []byte("fleet/truck-7/telemetry"), QoS: 1, Payload: []byte("21.5")}, func(c packet.Code) { acked <- c })
	if err != nil {
		t.Fatal(err)
	}
	if code := <-acked; code.Failed() {
		t.Fatalf("PUBACK %v", code)
	}

	consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("telemetry"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	records := consumer.PollFetches(ctx).Records()
	if len(records) != 1 || string(records[0].Key) != "truck-7" || string(records[0].Value) != "21.5" || records[0].Headers[0].Key != "mqtt.topic" {
		t.Fatalf("the cluster has %+v", records)
	}
	if err := consumer.ProduceSync(ctx, &kgo.Record{Topic: "commands", Key: []byte("truck-7"), Value: []byte("stop")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-got:
		if m != "fleet/truck-7/cmd 2 stop" {
			t.Errorf("the device got %q", m)
		}
	case <-ctx.Done():
		t.Fatal("the command did not reach the device")
	}
}
