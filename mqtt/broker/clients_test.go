package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"
)

// tool finds a foreign client; its absence is a failure where all tools are promised (CI=true).
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("SKIPPED: %s is not installed", name)
	}
	return path
}

// TestPaho3 runs Eclipse's 3.1.1 client for Go.
func TestPaho3(t *testing.T) {
	n := newNode(t, nil)
	got := make(chan string, 100)
	options := func(id string) *paho3.ClientOptions {
		return paho3.NewClientOptions().AddBroker("tcp://" + n.addr).SetClientID(id).SetProtocolVersion(4).SetAutoReconnect(false)
	}
	do := func(token paho3.Token) {
		t.Helper()
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatalf("paho: %v", token.Error())
		}
	}
	sub := paho3.NewClient(options("sub"))
	do(sub.Connect())
	do(sub.Subscribe("fleet/+/telemetry", 2, func(_ paho3.Client, m paho3.Message) {
		got <- fmt.Sprintf("%s %d %s", m.Topic(), m.Qos(), m.Payload())
	}))
	pub := paho3.NewClient(options("pub").SetWill("fleet/v1/telemetry", "gone", 1, false))
	do(pub.Connect())
	for q := range byte(3) {
		do(pub.Publish("fleet/v1/telemetry", q, false, fmt.Sprint("m", q)))
	}
	for q := range 3 {
		expectString(t, got, fmt.Sprintf("fleet/v1/telemetry %d m%d", q, q))
	}
	do(sub.Unsubscribe("fleet/+/telemetry"))
	do(pub.Publish("fleet/v1/telemetry", 1, false, "unseen"))
	pub.Disconnect(100)
	sub.Disconnect(100)
	if len(got) > 0 {
		t.Errorf("got %s after UNSUBSCRIBE", <-got)
	}
}

func expectString(t *testing.T, got <-chan string, want string) {
	t.Helper()
	select {
	case s := <-got:
		if s != want {
			t.Fatalf("got %s, want %s", s, want)
		}
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", want)
	}
}

// TestPaho5 runs Eclipse's 5.0 client for Go, with a persistent session that misses messages.
func TestPaho5(t *testing.T) {
	n := newNode(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := make(chan string, 100)
	expiry := uint32(1000)
	connect := func(id string, clean bool) (*paho.Client, *paho.Connack) {
		nc, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := paho.NewClient(paho.ClientConfig{
			Conn: nc,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				got <- fmt.Sprintf("%s %d %s %v", r.Packet.Topic, r.Packet.QoS, r.Packet.Payload, r.Packet.Properties.User.Get("unit"))
				return true, nil
			}},
		})
		ack, err := c.Connect(ctx, &paho.Connect{
			ClientID: id, CleanStart: clean, KeepAlive: 30,
			Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
		})
		if err != nil {
			t.Fatalf("connect: %v", err)
		}
		return c, ack
	}
	sub, _ := connect("sub", true)
	if _, err := sub.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "t/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	pub, _ := connect("pub", true)
	publish := func(payload string, qos byte) {
		t.Helper()
		r, err := pub.Publish(ctx, &paho.Publish{
			Topic: "t/x", QoS: qos, Payload: []byte(payload),
			Properties: &paho.PublishProperties{User: paho.UserProperties{{Key: "unit", Value: "km"}}},
		})
		if err != nil || r != nil && r.ReasonCode != 0 {
			t.Fatalf("publish: %v %+v", err, r)
		}
	}
	publish("1", 1)
	expectString(t, got, "t/x 1 1 km")
	if err := sub.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}
	publish("2", 1)
	publish("3", 2)
	sub, ack := connect("sub", false)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	// The client hands a message out before it acknowledges it, so its DISCONNECT may have outrun the PUBACK of the first.
	select {
	case s := <-got:
		if s == "t/x 1 1 km" {
			s = <-got
		}
		if s != "t/x 1 2 km" {
			t.Fatalf("got %s, want the first message that was missed", s)
		}
	case <-time.After(patience):
		t.Fatal("nothing came of what was missed")
	}
	expectString(t, got, "t/x 1 3 km")
	sub.Disconnect(&paho.Disconnect{})
	pub.Disconnect(&paho.Disconnect{})
}

// TestMosquittoClients runs mosquitto_pub and mosquitto_sub.
func TestMosquittoClients(t *testing.T) {
	subPath, pubPath := tool(t, "mosquitto_sub"), tool(t, "mosquitto_pub")
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, nil)
			host, port, err := net.SplitHostPort(n.addr)
			if err != nil {
				t.Fatal(err)
			}
			const lines = 200
			sub := exec.Command(subPath, "-h", host, "-p", port, "-V", version, "-i", "sub", "-q", "2", "-t", "m/#", "-C", fmt.Sprint(lines), "-F", "%t %q %p")
			out, err := sub.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := sub.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the subscription", func() bool { return n.b.Stats().Session.Subscriptions == 1 })
			var wg sync.WaitGroup
			for q := range 2 {
				wg.Go(func() {
					pub := exec.Command(pubPath, "-h", host, "-p", port, "-V", version, "-i", fmt.Sprint("pub", q), "-q", fmt.Sprint(q+1), "-t", fmt.Sprint("m/", q+1), "-l")
					var in strings.Builder
					for i := range lines / 2 {
						fmt.Fprintln(&in, i)
					}
					pub.Stdin = strings.NewReader(in.String())
					if out, err := pub.CombinedOutput(); err != nil {
						t.Errorf("mosquitto_pub: %v: %s", err, out)
					}
				})
			}
			next := map[string]int{}
			for s := bufio.NewScanner(out); s.Scan(); {
				var topic string
				var qos, i int
				if _, err := fmt.Sscanf(s.Text(), "%s %d %d", &topic, &qos, &i); err != nil {
					t.Fatalf("%q: %v", s.Text(), err)
				}
				if i != next[topic] || topic != fmt.Sprint("m/", qos) {
					t.Fatalf("got %q, want %s %d", s.Text(), topic, next[topic])
				}
				next[topic]++
			}
			wg.Wait()
			if err := sub.Wait(); err != nil {
				t.Errorf("mosquitto_sub: %v", err)
			}
			if next["m/1"]+next["m/2"] != lines {
				t.Errorf("got %v", next)
			}
		})
	}
}
