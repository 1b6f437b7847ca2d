package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// openSlowPage opens the console's live channel, asks for the whole world, and reads 1 KB a second of it.
func openSlowPage(t *testing.T, n *Node) {
	t.Helper()
	nc, err := net.Dial("tcp", n.Address("HTTP"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.(*net.TCPConn).SetReadBuffer(4096)
	io.WriteString(nc, "GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: millrace.live.v1\r\n\r\n")
	view := []byte(`{"type":"view","bbox":[-180,-90,180,90],"zoom":1}`)
	nc.Write(append([]byte{0x81, 0x80 | byte(len(view)), 0, 0, 0, 0}, view...))
	go func() {
		for b := make([]byte, 1024); ; {
			if _, err := nc.Read(b); err != nil {
				return
			}
			select {
			case <-t.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
	}()
}

// Three pages that hardly read change nothing for a device: with them it waits as long for its acks as without.
func TestSlowPagesDoNotSlowDevices(t *testing.T) {
	n := boot(t, testConfig(t, "routes: [{mqtt: \"fleet/{v}/pos\", topic: pos, key: \"{v}\"}]"))
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(n.Address("MQTT")), Connect: packet.Connect{ClientID: "gateway", Version: packet.V5, CleanStart: true}, Window: 512})
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const vehicles = 3000
	publish := func(v, i int) *packet.Publish {
		return &packet.Publish{Topic: []byte(fmt.Sprintf("fleet/v%d/pos", v)), QoS: 1,
			Payload: []byte(fmt.Sprintf(`{"lat":%f,"lon":%f}`, 60+float64(v%100)/100+float64(i)/10_000, 24+float64(v)/3000))}
	}
	round := 0
	all := func() {
		round++
		for v := range vehicles {
			if err := c.Publish(ctx, publish(v, round), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Drain(ctx); err != nil {
			t.Fatal(err)
		}
	}
	// probe is the median and the longest time that one message waits for its ack.
	probe := func() (median, most time.Duration) {
		var waits []time.Duration
		for i := range 100 {
			began, acked := time.Now(), make(chan packet.Code, 1)
			if err := c.Publish(ctx, publish(0, i), func(code packet.Code) { acked <- code }); err != nil {
				t.Fatal(err)
			}
			select {
			case code := <-acked:
				if code.Failed() {
					t.Fatalf("refused: %v", code)
				}
			case <-ctx.Done():
				t.Fatal("no ack comes")
			}
			waits = append(waits, time.Since(began))
		}
		slices.Sort(waits)
		return waits[len(waits)/2], waits[len(waits)-1]
	}
	all()
	before, _ := probe()
	for range 3 {
		openSlowPage(t, n)
	}
	eventually(t, "the pages are behind", func() bool {
		all()
		return n.http.Hub().Coalesced >= 6
	})
	after, most := probe()
	t.Logf("median wait for an ack: %v without slow pages, %v with three of them, the longest %v; %+v", before, after, most, n.http.Hub())
	if after > 20*before+50*time.Millisecond { // a page that held anything up would do so for seconds
		t.Errorf("acks take %v with slow pages, %v without", after, before)
	}
	eventually(t, "everything is accounted for", func() bool {
		for _, s := range stagesOf(t, n) {
			if s.Unaccounted != nil && *s.Unaccounted != 0 || reason(s.Left, "in_flight")+reason(s.Left, "being_counted") != 0 {
				return false
			}
		}
		return true
	})
}
