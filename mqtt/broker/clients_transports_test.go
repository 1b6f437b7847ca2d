package broker_test

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// webSocketWay is mutual TLS, or none, under WebSocket.
func webSocketWay(t *testing.T, secure bool) (w way, p *pki, scheme string) {
	w = way{name: "ws", options: transport.Options{WebSocket: &transport.WebSocket{Path: "/mqtt"}}}
	if !secure {
		return w, nil, "ws"
	}
	p = newPKI(t, true)
	w.options.TLS = p.source
	return w, p, "wss"
}

// TestPaho3WebSocket runs Eclipse's 3.1.1 client for Go over WebSocket, and over WebSocket in mutual TLS.
func TestPaho3WebSocket(t *testing.T) {
	for _, secure := range []bool{false, true} {
		w, p, scheme := webSocketWay(t, secure)
		n := w.over(t, nil)
		o := paho3.NewClientOptions().AddBroker(scheme + "://" + n.addr + "/mqtt").SetClientID("a").SetProtocolVersion(4).SetAutoReconnect(false)
		if secure {
			device := p.ca.Client("truck-7")
			o.SetTLSConfig(p.client(&device))
		}
		got := make(chan string, 100)
		do := func(token paho3.Token) {
			t.Helper()
			if !token.WaitTimeout(patience) || token.Error() != nil {
				t.Fatalf("paho: %v", token.Error())
			}
		}
		c := paho3.NewClient(o)
		do(c.Connect())
		do(c.Subscribe("fleet/#", 2, func(_ paho3.Client, m paho3.Message) { got <- fmt.Sprintf("%s %d %s", m.Topic(), m.Qos(), m.Payload()) }))
		for q := range byte(3) {
			do(c.Publish("fleet/v1", q, false, fmt.Sprint("m", q)))
		}
		for q := range 3 {
			expectString(t, got, fmt.Sprintf("fleet/v1 %d m%d", q, q))
		}
		c.Disconnect(100)
	}
}

// TestPaho5WebSocket runs Eclipse's 5.0 client for Go, with its connection manager, over WebSocket.
func TestPaho5WebSocket(t *testing.T) {
	for _, secure := range []bool{false, true} {
		w, p, scheme := webSocketWay(t, secure)
		n := w.over(t, nil)
		at, err := url.Parse(scheme + "://" + n.addr + "/mqtt")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		got := make(chan string, 100)
		cfg := autopaho.ClientConfig{
			ServerUrls: []*url.URL{at}, KeepAlive: 20, CleanStartOnInitialConnection: true,
			ClientConfig: paho.ClientConfig{ClientID: "a", OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				got <- fmt.Sprintf("%s %d %d %s", r.Packet.Topic, r.Packet.QoS, len(r.Packet.Payload), r.Packet.Properties.User.Get("unit"))
				return true, nil
			}}},
		}
		if secure {
			device := p.ca.Client("truck-7")
			cfg.TlsCfg = p.client(&device)
		}
		c, err := autopaho.NewConnection(ctx, cfg)
		if err == nil {
			err = c.AwaitConnection(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "t/#", QoS: 2}}}); err != nil {
			t.Fatal(err)
		}
		for i, size := range []int{10, 20_000, 200_000} {
			if _, err := c.Publish(ctx, &paho.Publish{Topic: "t/x", QoS: byte(i), Payload: make([]byte, size),
				Properties: &paho.PublishProperties{User: paho.UserProperties{{Key: "unit", Value: "km"}}}}); err != nil {
				t.Fatal(err)
			}
			expectString(t, got, fmt.Sprintf("t/x %d %d km", i, size))
		}
		if err := c.Disconnect(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestForeignKeyUpdate: OpenSSL changes its keys in the middle of a connection and asks us to change ours; the answer is written though no
// message is.
func TestForeignKeyUpdate(t *testing.T) {
	p := newPKI(t, false)
	n := way{name: "tls", options: transport.Options{TLS: p.source}}.over(t, nil)
	cmd := exec.Command(tool(t, "openssl"), "s_client", "-connect", n.addr, "-tls1_3", "-msg")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out logged
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	}()
	say := func(b []byte) {
		t.Helper()
		if _, err := in.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the handshake", func() bool { return n.b.Stats().HalfOpen == 1 && strings.Contains(out.String(), "NewSessionTicket") })
	connect, _ := parse(t, "CONNECT v4 clean id=a").Append(nil, packet.V311)
	say(connect)
	eventually(t, "CONNACK", func() bool { return n.b.Stats().Connects == 1 && strings.Contains(out.String(), "\x20\x02\x00\x00") })
	for i := range 3 {
		say([]byte("K\n"))
		eventually(t, "the server's key update", func() bool {
			return strings.Count(out.String(), "<<< TLS 1.3, Handshake [length 0005], KeyUpdate") == i+1
		})
		say([]byte{0xC0, 0})
		eventually(t, "PINGRESP", func() bool { return strings.Count(out.String(), "\xd0\x00") == i+1 })
	}
}

// TestForeignWebSocket holds our frames against another implementation: it refuses what the protocol does not allow, and answers
// our Close.
func TestForeignWebSocket(t *testing.T) {
	w, _, scheme := webSocketWay(t, false)
	n := w.over(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dial := func(o *websocket.DialOptions) (*websocket.Conn, error) {
		ws, r, err := websocket.Dial(ctx, scheme+"://"+n.addr+"/mqtt", o)
		if r != nil && r.Body != nil {
			r.Body.Close()
		}
		return ws, err
	}
	if _, err := dial(nil); err == nil {
		t.Error("an upgrade without the subprotocol was granted")
	}
	ws, err := dial(&websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("%q", ws.Subprotocol())
	}
	c := &client{t: t, nc: websocket.NetConn(ctx, ws, websocket.MessageBinary)}
	c.send("CONNECT v5 clean id=a")
	if ack, ok := c.next().(*packet.Connack); !ok || ack.Code != packet.Success {
		t.Fatal(ack)
	}
	c.quiet()
	pinged := make(chan error, 1)
	go func() { pinged <- ws.Ping(ctx) }() // somebody has to read meanwhile
	c.nc.SetReadDeadline(time.Now().Add(patience))
	go c.nc.Read(make([]byte, 1))
	if err := <-pinged; err != nil {
		t.Errorf("a ping was not answered: %v", err)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("our Close: %v", err)
	}
	eventually(t, "the end", func() bool { return n.b.Stats().Ended["connection_closed_by_client"] == 1 })
}
