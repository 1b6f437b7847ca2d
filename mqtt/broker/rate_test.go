package broker_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// TestMessageRate: a client that is ahead of its rate is not read, loses nothing, and is not blamed for its silence; nobody else waits.
func TestMessageRate(t *testing.T) {
	inBubble(t, func(o *broker.Options) { o.Limits.Rates.Messages = broker.Rate{PerSecond: 2, Burst: 10} }, func(t *testing.T, b *broker.Broker, dial func() *client) {
		c, other := dial(), dial()
		c.send("CONNECT v5 clean id=c keepalive=1") // shorter than the pauses together
		c.expect("CONNACK")
		other.send("CONNECT v5 clean id=other")
		other.expect("CONNACK")
		go func() {
			var b []byte
			for i := range 50 {
				p, err := parse(t, fmt.Sprintf(`PUBLISH q1 #%d t=x "%d"`, i+1, i)).Append(nil, packet.V5)
				if err != nil {
					t.Error(err)
				}
				b = append(b, p...)
			}
			ping, _ := (&packet.Ping{Kind: packet.PINGREQ}).Append(nil, packet.V5)
			c.nc.Write(append(b, ping...))
		}()
		began := time.Now()
		for i := range 50 {
			c.expect(fmt.Sprintf("PUBACK #%d", i+1))
			if i == 20 {
				other.send(`PUBLISH q1 #1 t=y "m"`)
				other.expect("PUBACK #1")
				if s := b.Stats(); s.Paused != 1 {
					t.Errorf("%d connections are paused", s.Paused)
				}
			}
		}
		if took := time.Since(began); took < 19*time.Second || took > 20*time.Second { // 10 at once, 40 at 2 a second
			t.Errorf("50 messages took %v", took)
		}
		c.expect("PINGRESP")
		s := b.Stats()
		if s.Pauses["message_rate"] < 39 || s.PausedFor["message_rate"] < 19*time.Second || s.Paused != 0 {
			t.Errorf("pauses: %v, for %v; now %d", s.Pauses, s.PausedFor, s.Paused)
		}
	})
}

// TestByteRate counts everything that a client sends, over every kind of socket.
func TestByteRate(t *testing.T) {
	plain := newPKI(t, false)
	for _, w := range []way{
		{name: "tcp", reach: reach()},
		{name: "tls", options: transport.Options{TLS: plain.source}, reach: reach(overTLS(plain.client(nil)))},
		{name: "ws", options: transport.Options{WebSocket: &transport.WebSocket{Path: "/mqtt"}}, reach: reach(overWebSocket(1<<20, false))},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			n := w.over(t, func(o *broker.Options) { o.Limits.Rates.Bytes = broker.Rate{PerSecond: 100_000, Burst: 20_000} })
			c := n.connected("CONNECT v5 clean id=c")
			began := time.Now()
			payload := strings.Repeat("x", 70) // small packets: many in one read
			const messages, size = 1000, 2 + 2 + 1 + 2 + 1 + 70
			var lines []string
			for i := range messages {
				lines = append(lines, fmt.Sprintf(`PUBLISH q1 #%d t=x "%s"`, i+1, payload))
			}
			go c.send(lines...)
			for i := range messages {
				c.expect(fmt.Sprintf("PUBACK #%d", i+1))
			}
			if took, least := time.Since(began), time.Duration(messages*size-20_000-4096)*time.Second/100_000; took < least {
				t.Errorf("%d bytes took %v, want %v at least", messages*size, took, least)
			}
			big := strings.Repeat("x", 60_000) // larger than what a limited client's read brings
			c.send(fmt.Sprintf(`PUBLISH q1 #1 t=x "%s"`, big))
			c.expect("PUBACK #1")
			if got := n.store.logged("x"); len(got) != messages+1 || got[messages] != big {
				t.Errorf("%d messages, the last of %d bytes", len(got), len(got[len(got)-1]))
			}
			if s := n.b.Stats(); s.Pauses["byte_rate"] == 0 || len(s.Dropped)+len(s.Refused) > 0 {
				t.Errorf("pauses: %v; dropped: %v; refused: %v", s.Pauses, s.Dropped, s.Refused)
			}
		})
	}
}

// TestRateLeaves: neither the end of the client nor the end of the server waits for a rate.
func TestRateLeaves(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.Rates.Messages = broker.Rate{PerSecond: 0.001, Burst: 1} })
	c := n.connected("CONNECT v5 clean id=c")
	c.send(`PUBLISH q1 #1 t=x "1"`, `PUBLISH q1 #2 t=x "2"`, `PUBLISH q1 #3 t=x "3"`)
	c.expect("PUBACK #1", "PUBACK #2")
	eventually(t, "the pause", func() bool { return n.b.Stats().Paused == 1 })
	if err := n.b.Ban(broker.Ban{Client: "c"}); err != nil {
		t.Fatal(err)
	}
	c.expect("DISCONNECT 0x98")
	c.nc.Close()
	n.b.Unban(broker.Ban{Client: "c"})
	c = n.connected("CONNECT v5 clean id=c")
	c.send(`PUBLISH q1 #1 t=x "1"`, `PUBLISH q1 #2 t=x "2"`, `PUBLISH q1 #3 t=x "3"`)
	c.expect("PUBACK #1", "PUBACK #2")
	eventually(t, "the pause", func() bool { return n.b.Stats().Paused == 1 })
	began := time.Now()
	n.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	c.expect("PUBACK #3", "DISCONNECT 0x8B")
}

// TestConnectRate: connections come in at the rate, in their order, those that would wait too long are closed at once, and the time to send
// a CONNECT begins when it is a connection's turn.
func TestConnectRate(t *testing.T) {
	inBubble(t, func(o *broker.Options) { o.Limits.Rates.Connects = broker.Rate{PerSecond: 2, Burst: 1} }, func(t *testing.T, b *broker.Broker, dial func() *client) {
		began := time.Now()
		var cs []*client
		for range 30 {
			cs = append(cs, dial())
		}
		var mu sync.Mutex
		var in []time.Duration
		var wg sync.WaitGroup
		for i, c := range cs {
			if i == 9 {
				continue // says nothing
			}
			wg.Go(func() {
				if i >= 21 { // too late
					c.expectClosed()
					return
				}
				c.dec.Version = packet.V311
				p, _ := (&packet.Connect{Version: packet.V311, CleanStart: true, ClientID: fmt.Sprint(i)}).Append(nil, packet.V311)
				c.nc.Write(p)
				if _, ok := c.next().(*packet.Connack); !ok {
					t.Errorf("connection %d: not accepted", i)
				}
				mu.Lock()
				in = append(in, time.Since(began))
				mu.Unlock()
			})
		}
		if d := closesWithin(t, cs[9].nc, time.Minute); d < 9*time.Second || d > 11*time.Second { // its turn is after 4.5 s
			t.Errorf("the silent one was closed after %v", d)
		}
		wg.Wait()
		if len(in) != 20 || in[19] < 10*time.Second || in[19] > 11*time.Second {
			t.Errorf("%d came in: %v", len(in), in)
		}
		s := b.Stats()
		if s.Turned["connect_rate"] != 9 || s.Turned["connect_timeout"] != 1 || s.Pauses["connect_rate"] != 20 {
			t.Errorf("turned away: %v; pauses: %v", s.Turned, s.Pauses)
		}
	})
}

// TestAddressFlood: an address that connects as fast as it can is closed before a byte of it is read, and takes no turn of others.
func TestAddressFlood(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.3:0"); err != nil {
		t.Skip("this system has no 127.0.0.3: ", err)
	} else {
		l.Close()
	}
	n := newNode(t, func(o *broker.Options) {
		o.Limits.Rates.Connects = broker.Rate{PerSecond: 200, Burst: 1}
		o.Limits.Rates.ConnectsPerIP = broker.Rate{PerSecond: 20, Burst: 20}
	})
	from := func(ip string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: patience}).Dial("tcp", n.addr)
	}
	stop, flooded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flooded)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if nc, err := from("127.0.0.2"); err == nil {
				nc.(*net.TCPConn).SetLinger(0) // or its ports run out
				nc.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				nc.Read(make([]byte, 1))
				nc.Close()
			} else if !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "reset") {
				t.Error(err)
				return
			}
		}
	}()
	eventually(t, "the flood", func() bool { return n.b.Stats().Turned["connect_rate_of_address"] > 100 })
	for i := range 20 {
		began := time.Now()
		nc, err := from("127.0.0.3")
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, nc: nc}
		c.send(fmt.Sprintf("CONNECT v5 clean id=good%d", i))
		c.expect("CONNACK")
		nc.Close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("connection %d took %v", i, took)
		}
	}
	close(stop)
	<-flooded
	if s := n.b.Stats(); s.Turned["connect_rate"] > 0 || s.Connects != 20 {
		t.Errorf("turned away: %v; %d connected", s.Turned, s.Connects)
	}
}

// TestAddressRateProxied: behind a proxy it is the client's address that counts.
func TestAddressRateProxied(t *testing.T) {
	n := newNode(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- n.b.Serve(l, broker.ListenerOptions{Name: "proxied", Transport: transport.Options{Proxies: loopback},
			Limits: broker.Limits{Rates: broker.Rates{ConnectsPerIP: broker.Rate{PerSecond: 0.001, Burst: 2}}}})
	}()
	dial := func(header string) *client {
		nc, err := reach(behind(header))(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return &client{t: t, nc: nc}
	}
	for i := range 4 {
		for _, from := range []string{"192.0.2.7", "192.0.2.8"} {
			c := dial("PROXY TCP4 " + from + " 192.0.2.1 4000 1883\r\n")
			if i >= 2 {
				c.expectClosed()
				continue
			}
			c.send("CONNECT v5 clean id=" + from + fmt.Sprint(i))
			c.expect("CONNACK")
		}
	}
	eventually(t, "the counter", func() bool { return n.b.Stats().Turned["connect_rate_of_address"] == 4 })
	n.stop()
	<-served
}
