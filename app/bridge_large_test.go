package app

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// What is larger than this node takes of a device is not read of a remote either: who publishes there does not decide what a bridge here has in memory.
func TestBridgeTakesNoPacketThatADeviceMayNotSend(t *testing.T) {
	b := newSite(t, "").start()
	a := newSite(t, bridgeTo(b.port, "5", `  in: [{filter: "cmd/+", qos: 1}]`))
	a.text = strings.Replace(a.text, "packet_bytes: 16384", "packet_bytes: 4096", 1)
	a.start().connected()
	here, app := watchAt(t, a.port, "here", "cmd/#", packet.V5), b.client("app", packet.V5)
	publishOn(t, app, "cmd/1", strings.Repeat("x", 10_000), 1)
	publishOn(t, app, "cmd/1", "small", 1)
	eventually(t, "what is small has come", func() bool { return here.len() > 0 })
	if got := fmt.Sprint(here.texts()); got != "[cmd/1 small]" {
		t.Errorf("%.100s", got)
	}
	if s := a.status(); s.Received != 1 || s.Connects != 1 {
		t.Errorf("%+v", s)
	}
}
