package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

var versions = []packet.Version{packet.V31, packet.V311, packet.V5}

func connected(t *testing.T, o ClientOptions) *Client {
	t.Helper()
	c := NewClient(o)
	if _, err := c.Connect(within(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Drop)
	return c
}

// roundTrips sends messages of every QoS to a subscription of every QoS and back, through any broker.
func roundTrips(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	for _, v := range versions {
		for subscribed := range byte(3) {
			t.Run(fmt.Sprintf("%v QoS %d", v, subscribed), func(t *testing.T) {
				ctx := within(t)
				id := fmt.Sprintf("%s-%d", v, subscribed)
				connect := packet.Connect{Version: v, ClientID: id, CleanStart: true, KeepAlive: 10}
				c := connected(t, ClientOptions{Dial: dial, Connect: connect})
				codes, err := c.Subscribe(ctx, packet.Filter{Filter: id + "/+", QoS: subscribed})
				if err != nil || !slices.Equal(codes, []packet.Code{packet.Code(subscribed)}) {
					t.Fatalf("subscribe: %v, %v", codes, err)
				}
				var mu sync.Mutex
				taken := 0
				const each = 50
				for i := range 3 * each {
					p := &packet.Publish{QoS: byte(i % 3), Topic: []byte(id + "/a"), Payload: []byte(fmt.Sprint(i))}
					if err := c.Publish(ctx, p, func(code packet.Code) {
						mu.Lock()
						defer mu.Unlock()
						if !code.Failed() {
							taken++
						}
					}); err != nil {
						t.Fatal(err)
					}
				}
				got := make([]int, 3)
				last := []int{-1, -1, -1}
				for range 3 * each {
					p, err := c.Receive(ctx)
					if err != nil {
						t.Fatalf("after %v messages: %v", got, err)
					}
					var n int
					fmt.Sscan(string(p.Payload), &n)
					if p.QoS != min(byte(n%3), subscribed) || string(p.Topic) != id+"/a" || n <= last[n%3] {
						t.Fatalf("got %d at QoS %d on %q after %v", n, p.QoS, p.Topic, last)
					}
					last[n%3] = n
					got[n%3]++
				}
				if err := c.Drain(ctx); err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if s := c.Stats(); taken != 2*each || s.Acked != 2*each || s.Sent != 3*each || s.Stray != 0 || s.Refused != 0 || s.Resent != 0 {
					t.Fatalf("taken %d, %+v", taken, s)
				}
				if _, err := c.Unsubscribe(ctx, id+"/+"); err != nil {
					t.Fatal(err)
				}
				c.Disconnect(packet.Success)
				if err := c.Publish(ctx, &packet.Publish{Topic: []byte("a")}, nil); !errors.Is(err, client.ErrOffline) {
					t.Fatalf("publish without a connection: %v", err)
				}
			})
		}
	}
}

func TestRoundTrips(t *testing.T) { roundTrips(t, newTestBroker(t).dial) }

// What is on its way when the connection breaks is sent again in order, and taken once at QoS 2.
func TestResend(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("QoS %d lost=%v", qos, lost), func(t *testing.T) {
				ctx := within(t)
				b := newTestBroker(t)
				var routed []string
				withhold := true
				b.fault = func(p *packet.Publish) []*packet.Publish {
					routed = append(routed, fmt.Sprintf("%s %v", p.Payload, p.Dup))
					return nil
				}
				b.noAck = func(p *packet.Publish) bool { // what the broker has taken of QoS 2 is open, with or without its PUBREC
					b.sessions["c"].inbound[p.PacketID] = p.QoS == 2
					return withhold
				}
				c := connected(t, ClientOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "c"}})
				acks := make(chan packet.Code, 10)
				for i := range 3 {
					if err := c.Publish(ctx, &packet.Publish{QoS: qos, Topic: []byte("t"), Payload: fmt.Append(nil, i)}, func(code packet.Code) { acks <- code }); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, func() bool {
					b.mu.Lock()
					defer b.mu.Unlock()
					return len(routed) == 3
				})
				if len(acks) > 0 {
					t.Fatal("done is called before there is an acknowledgement")
				}
				ended := c.Done()
				b.cut()
				if lost {
					b.forget()
				}
				<-ended
				b.mu.Lock()
				withhold = false
				b.mu.Unlock()
				if c.Pending() != 3 {
					t.Fatalf("%d pending", c.Pending())
				}
				ack, err := c.Connect(ctx)
				if err != nil || ack.SessionPresent == lost {
					t.Fatalf("%+v, %v", ack, err)
				}
				if err := c.Drain(ctx); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					if code := <-acks; code.Failed() {
						t.Fatal(code)
					}
				}
				want := []string{"0 false", "1 false", "2 false", "0 true", "1 true", "2 true"}
				switch {
				case lost:
					want = []string{"0 false", "1 false", "2 false", "0 false", "1 false", "2 false"}
				case qos == 2:
					want = want[:3]
				}
				if !slices.Equal(routed, want) {
					t.Fatalf("%q, want %q", routed, want)
				}
			})
		}
	}
}

func TestReceiveMaximumHolds(t *testing.T) {
	ctx := within(t)
	b := newTestBroker(t)
	b.connack = packet.Properties{Has: packet.PReceiveMaximum, ReceiveMaximum: 2}
	var held []uint16
	b.noAck = func(p *packet.Publish) bool { held = append(held, p.PacketID); return true }
	c := connected(t, ClientOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "c", CleanStart: true}})
	for range 5 {
		if err := c.Publish(ctx, &packet.Publish{QoS: 1, Topic: []byte("t")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for released := 0; released < 5; released++ {
		want := min(released+2, 5)
		eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(held) >= want })
		if s := c.Stats(); s.Sent != want {
			t.Fatalf("%d sent, want %d", s.Sent, want)
		}
		b.mu.Lock()
		b.sessions["c"].send(&packet.Ack{Kind: packet.PUBACK, PacketID: held[released]})
		b.mu.Unlock()
	}
	if err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// A window that is full holds Publish up; ctx ends the wait.
func TestWindow(t *testing.T) {
	b := newTestBroker(t)
	b.noAck = func(*packet.Publish) bool { return true }
	c := connected(t, ClientOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "c"}, Window: 1})
	p := &packet.Publish{QoS: 1, Topic: []byte("t")}
	if err := c.Publish(within(t), p, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() { result <- c.Publish(ctx, p, nil) }()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) || c.Pending() != 1 {
		t.Fatalf("%v, %d pending", err, c.Pending())
	}
}

func TestManualAcks(t *testing.T) {
	ctx := within(t)
	b := newTestBroker(t)
	kinds := make(chan packet.Type, 16)
	c := connected(t, ClientOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "c"}, ManualAcks: true,
		OnPacket: func(p packet.Packet) bool { kinds <- p.Type(); return p.Type() == packet.PUBCOMP }})
	if _, err := c.Subscribe(ctx, packet.Filter{Filter: "t", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	c.Publish(ctx, &packet.Publish{QoS: 2, Topic: []byte("t")}, nil)
	p, err := c.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	flight := func() int { b.mu.Lock(); defer b.mu.Unlock(); return len(b.sessions["c"].flight) }
	if flight() != 1 {
		t.Fatal("acknowledged by itself")
	}
	c.Ack(p)
	eventually(t, func() bool { return flight() == 0 })
	var seen []packet.Type
	for range 5 {
		select {
		case k := <-kinds:
			seen = append(seen, k)
		case <-ctx.Done():
			t.Fatalf("OnPacket saw only %v", seen)
		}
	}
	for _, k := range []packet.Type{packet.SUBACK, packet.PUBREC, packet.PUBLISH, packet.PUBREL, packet.PUBCOMP} {
		if !slices.Contains(seen, k) {
			t.Errorf("OnPacket did not see %v: %v", k, seen)
		}
	}
	if c.Pending() != 1 {
		t.Fatal("a PUBCOMP that OnPacket took went to the client")
	}
}

func TestRefused(t *testing.T) {
	server, client := net.Pipe()
	go func() {
		l := &packetReader{conn: server, dec: packet.Decoder{Server: true}}
		l.next()
		wire, _ := (&packet.Connack{Code: packet.NotAuthorized}).Append(nil, packet.V311)
		server.Write(wire)
	}()
	c := NewClient(ClientOptions{Dial: func(context.Context) (net.Conn, error) { return client, nil }, Connect: packet.Connect{Version: packet.V311, ClientID: "c"}})
	var refused *Refused
	if _, err := c.Connect(within(t)); !errors.As(err, &refused) || refused.Code != packet.NotAuthorized {
		t.Fatal(err)
	}
}

// Keep goes on over cut connections, and Publish waits for the next one.
func TestKeep(t *testing.T) {
	b := newTestBroker(t)
	ctx, stop := context.WithCancel(within(t))
	ups := make(chan bool, 100)
	c := NewClient(ClientOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "c"}})
	kept := make(chan error)
	go func() {
		kept <- keep(ctx, c, false, func(_ context.Context, present bool) error { ups <- present; return nil })
	}()
	for round := range 3 {
		if present := <-ups; present != (round > 0) {
			t.Fatalf("connection %d: session present is %v", round, present)
		}
		for range 10 {
			if err := c.Publish(ctx, &packet.Publish{QoS: 1, Topic: []byte("t")}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if round < 2 {
			b.cut()
		}
	}
	if err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-kept; err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Connects != 3 || s.Acked != 30 || s.Lost != 0 {
		t.Fatalf("%+v", s)
	}
}
