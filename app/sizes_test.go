package app

import (
	"bytes"
	"testing"

	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/sim"
)

// The largest packet that may be configured is taken, logged, retained and delivered; one byte more is refused at the start.
func TestLargestPacket(t *testing.T) {
	c := testConfig(t, "routes: [{mqtt: \"a/{b}\", topic: x, key: \"{b}\"}]\nlimits: {packet_bytes: 7997KiB}\n")
	expect(t, startError(t, c), "limits.packet_bytes", "write at most 7996KiB")
	c.Limits.PacketBytes = 7996 << 10
	if most := engine.MaxAppend - route.Overhead; int(c.Limits.PacketBytes) != most>>10<<10 {
		t.Fatalf("the limit is %d", most)
	}
	n := boot(t, c)
	dial := func(id string, message func(*packet.Publish)) *sim.Client {
		cl := sim.NewClient(sim.ClientOptions{Connect: packet.Connect{Version: packet.V5, CleanStart: true, ClientID: id},
			Dial: sim.DialTCP(n.Address("MQTT")), OnMessage: message})
		if _, err := cl.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Drop)
		return cl
	}
	payload := bytes.Repeat([]byte("0123456789abcdef"), int(c.Limits.PacketBytes)/16-4)
	acked := make(chan packet.Code, 1)
	err := dial("p", nil).Publish(t.Context(), &packet.Publish{Topic: []byte("a/b"), QoS: 1, Retain: true, Payload: payload}, func(c packet.Code) { acked <- c })
	if err != nil {
		t.Fatal(err)
	}
	if code := <-acked; code.Failed() {
		t.Fatal(code)
	}
	got := make(chan int, 1)
	s := dial("s", func(p *packet.Publish) { got <- len(p.Payload) })
	if _, err := s.Subscribe(t.Context(), packet.Filter{Filter: "a/#", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if l := <-got; l != len(payload) {
		t.Errorf("%d bytes of %d", l, len(payload))
	}
}
