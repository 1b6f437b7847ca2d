package sim

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// mosquitto starts Eclipse Mosquitto, a broker that others wrote, on a port of its own. Without it the test is skipped, but for
// where all tools are promised (CI=true).
func mosquitto(t *testing.T) func(context.Context) (net.Conn, error) {
	t.Helper()
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("mosquitto is not installed")
			}
			t.Skip("SKIPPED: mosquitto is not installed, so the client was not checked against another broker")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_dest none\n", port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return DialTCP(address)
}

func TestMosquitto(t *testing.T) {
	dial := mosquitto(t)
	t.Run("round trips", func(t *testing.T) { roundTrips(t, dial) })
	t.Run("replay", func(t *testing.T) { replays(t, dial) })
	t.Run("load", func(t *testing.T) { loads(t, dial) })
	t.Run("sessions", func(t *testing.T) { sessions(t, dial) })
	t.Run("properties", func(t *testing.T) { properties(t, dial) })
	t.Run("tunnels", func(t *testing.T) { tunnels(t, dial) })
}

// tunnels: a fleet that loses its connections without a word, and finds its sessions again.
func tunnels(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	network := &Network{Latency: time.Millisecond, Covered: Span{3 * time.Second, 9 * time.Second}, Away: Span{time.Second, 3 * time.Second}, Patience: time.Second}
	for _, c := range []struct {
		v   packet.Version
		qos byte
	}{{packet.V311, 2}, {packet.V5, 1}, {packet.V5, 2}} {
		t.Run(fmt.Sprintf("%v QoS %d", c.v, c.qos), func(t *testing.T) {
			l := NewLedger()
			id := fmt.Sprintf("tunnel-%v-%d", c.v, c.qos)
			connect := packet.Connect{Version: c.v, KeepAlive: 60}
			if c.v == packet.V5 {
				connect.Props = packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: 100}
			}
			reader := connect
			reader.ClientID = id
			stop := watch(t, WatchOptions{Dial: dial, Connect: reader, Filter: id + "/+", QoS: c.qos, Ledger: l, Fresh: true, Forget: true})
			s, err := Drive(within(t), DriveOptions{Vehicles: 20, Speed: 10, Prefix: id + "-", Topic: id + "/{vehicle}", FleetOptions: FleetOptions{
				Dial: dial, Connect: connect, QoS: c.qos, Network: network, Ledger: l, Fresh: true, Forget: true, Duration: 2 * time.Second}})
			t.Logf("%d sent, %d connections, %d resent", s.Sent, s.Connects, s.Resent)
			if err != nil || s.Acked != s.Sent || s.Sent == 0 {
				t.Fatalf("%+v, %v", s, err)
			}
			r := l.Reader(id, "", 0)
			eventually(t, func() bool { rep := r.Report(); return rep.Missing == 0 })
			stop()
			if rep := r.Report(); rep.Err() != nil || rep.Received != int(s.Sent) {
				t.Fatal(&rep)
			}
		})
	}
}

func TestSessions(t *testing.T) { sessions(t, newTestBroker(t).dial) }

// sessions: what comes while a subscriber is away, or is not acknowledged when it goes, comes when it is back, once at QoS 2.
func sessions(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	for _, v := range versions {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("%v QoS %d", v, qos), func(t *testing.T) {
				ctx := within(t)
				name := fmt.Sprintf("s%d-%d", v, qos)
				sub := packet.Connect{Version: v, ClientID: name, Props: packet.Properties{Has: packet.PSessionExpiry, SessionExpiry: 1000}}
				s := connected(t, ClientOptions{Dial: dial, Connect: sub, ManualAcks: true})
				if _, err := s.Subscribe(ctx, packet.Filter{Filter: name, QoS: qos}); err != nil {
					t.Fatal(err)
				}
				p := connected(t, ClientOptions{Dial: dial, Connect: packet.Connect{Version: v, ClientID: name + "-pub", CleanStart: true}})
				publish := func(n int) {
					if err := p.Publish(ctx, &packet.Publish{QoS: qos, Topic: []byte(name), Payload: fmt.Append(nil, n)}, nil); err != nil {
						t.Fatal(err)
					}
				}
				acking := false
				receive := func() string {
					m, err := s.Receive(ctx)
					if err != nil {
						t.Fatal(err)
					}
					if acking {
						s.Ack(m)
					}
					return string(m.Payload)
				}
				publish(0)
				publish(1)
				first := []string{receive(), receive()} // neither is acknowledged
				s.Drop()
				<-s.Done()
				publish(2)
				if err := p.Drain(ctx); err != nil {
					t.Fatal(err)
				}
				acking = true
				ack, err := s.Connect(ctx)
				if err != nil || v > packet.V31 && !ack.SessionPresent {
					t.Fatalf("%+v, %v", ack, err)
				}
				want := []string{"0", "1", "0", "1", "2"}
				if qos == 2 {
					want = []string{"0", "1", "2"}
				}
				for len(first) < len(want) {
					first = append(first, receive())
				}
				if !slices.Equal(first, want) {
					t.Fatalf("%q, want %q", first, want)
				}
				if s := s.Stats(); qos == 2 && s.Duplicates != 2 {
					t.Fatalf("%+v", s)
				}
				s.Disconnect(packet.Success)
			})
		}
	}
}

// properties go through another broker as they are.
func properties(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	ctx := within(t)
	c := connected(t, ClientOptions{Dial: dial, Connect: packet.Connect{ClientID: "props", CleanStart: true,
		Props: packet.Properties{Has: packet.PTopicAliasMax | packet.PReceiveMaximum, TopicAliasMax: 5, ReceiveMaximum: 10}}})
	sub := &packet.Subscribe{Filters: []packet.Filter{{Filter: "p/#", QoS: 2}}, Props: packet.Properties{SubscriptionIDs: []uint32{77}}}
	if codes, err := c.SubscribeAs(ctx, sub); err != nil || codes[0] != packet.GrantedQoS2 {
		t.Fatal(codes, err)
	}
	for range 3 { // more than once, for topic aliases
		sent := &packet.Publish{QoS: 1, Topic: []byte("p/ä"), Payload: []byte("x"), Props: packet.Properties{
			Has:         packet.PContentType | packet.PResponseTopic | packet.PCorrelation | packet.PPayloadFormat | packet.PMessageExpiry,
			ContentType: "text/plain", ResponseTopic: "r", Correlation: []byte{0, 1}, PayloadFormat: 1, MessageExpiry: 100,
			User: []packet.UserProperty{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}}}
		if err := c.Publish(ctx, sent, nil); err != nil {
			t.Fatal(err)
		}
		p, err := c.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got, want := &p.Props, &sent.Props
		if string(p.Topic) != "p/ä" || got.Has&want.Has != want.Has || got.ContentType != want.ContentType || got.ResponseTopic != want.ResponseTopic ||
			!slices.Equal(got.Correlation, want.Correlation) || !slices.Equal(got.User, want.User) || !slices.Equal(got.SubscriptionIDs, []uint32{77}) {
			t.Fatalf("%q %+v", p.Topic, p.Props)
		}
	}
	c.Disconnect(packet.DisconnectWithWill)
}
