package app

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// What is larger than this node takes of a device is not read of a remote either: who publishes there does not decide what a bridge here has in memory.
func TestBridgeTakesNoPacketThatADeviceMayNotSend(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) { testLargeIn(t, version) })
	}
}

func testLargeIn(t *testing.T, version string) {
	b := newSite(t, "").start()
	a := newSite(t, bridgeTo(b.port, version, `  in: [{filter: "cmd/+", qos: 2}]`))
	a.text = strings.Replace(a.text, "packet_bytes: 16384", "packet_bytes: 4096", 1)
	a.start().connected()
	here, app := watchAt(t, a.port, "here", "cmd/#", packet.V5), b.client("app", packet.V5)
	for qos := range byte(3) {
		publishOn(t, app, "cmd/1", strings.Repeat("x", 10_000), qos)
	}
	publishOn(t, app, "cmd/1", "small", 1)
	eventually(t, "what is small has come", func() bool { return here.len() > 0 })
	if got := fmt.Sprint(here.texts()); got != "[cmd/1 small]" {
		t.Errorf("%.100s", got)
	}
	received, dropped := uint64(1), uint64(0) // on MQTT 5 it is not sent
	if version != "5" {
		received, dropped = 4, 3
	}
	if s := a.status(); s.Received != received || s.Stored != 1 || s.Dropped[bridge.DropPacket] != dropped || s.Connects != 1 {
		t.Errorf("%+v", s)
	}
}
