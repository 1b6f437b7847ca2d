package broker_test

import (
	"context"
	"fmt"
	"net/url"
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
