package broker_test

import (
	"bytes"
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
	"github.com/millrace-io/millrace/mqtt/session"
)

// flood publishes as much as the broker takes, and says at the end how many messages that was.
func flood(t testing.TB, c *client, payload string, stop <-chan struct{}) (sent chan int) {
	t.Helper()
	one, err := (&packet.Publish{QoS: 0, Topic: []byte("x"), Payload: []byte(payload)}).Append(nil, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	sent = make(chan int, 1)
	go func() {
		for n, rest := 0, one; ; {
			select {
			case <-stop:
				if len(rest) == len(one) {
					sent <- n
					return
				}
			default:
			}
			c.nc.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			k, err := c.nc.Write(rest)
			if rest = rest[k:]; len(rest) == 0 {
				n, rest = n+1, one
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // the test is over
				sent <- n
				return
			}
		}
	}()
	return sent
}

// heldBytes is what of messages waits for the log.
func (s *memStore) heldBytes() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.queue {
		for i := range a.msgs {
			n += len(a.msgs[i].Topic) + len(a.msgs[i].Payload)
		}
	}
	return n
}

// TestInboundBudgets floods a log that does not answer: of one client, one listener, and all of them only so much waits for it. When the log
// answers, everything that was sent is in it.
func TestInboundBudgets(t *testing.T) {
	const room, clients = 512 << 10, 8
	for _, x := range []struct {
		reason string
		limits broker.Limits
		lis    broker.Limits
		most   int // by how much of a read each connection may pass it
	}{
		{"inbound_of_client", broker.Limits{InboundBytes: room / clients}, broker.Limits{}, 64 << 10},
		{"inbound_total", broker.Limits{InboundTotal: room}, broker.Limits{}, 8 << 10},
		{"inbound_of_listener", broker.Limits{}, broker.Limits{InboundOfOne: room}, 8 << 10},
	} {
		t.Run(x.reason, func(t *testing.T) {
			n := &node{t: t, store: newMemStore(), lis: broker.ListenerOptions{Name: "test", Limits: x.lis}}
			n.opts = broker.Options{Store: n.store, Limits: x.limits}
			n.start()
			defer n.store.close()
			defer n.stop()
			n.store.hold()
			stop := make(chan struct{})
			var floods []chan int
			for i := range clients {
				c := n.connected(fmt.Sprintf("CONNECT v5 clean id=c%d", i))
				floods = append(floods, flood(t, c, strings.Repeat("x", 3000), stop))
			}
			eventually(t, "everybody to be paused", func() bool { return n.b.Stats().Paused == clients })
			held, most := n.store.heldBytes(), room+clients*x.most+8*(64<<10) // as many as read at the same time
			if held < room/2 || held > most {
				t.Errorf("%d bytes wait for the log, want at most %d", held, most)
			}
			close(stop)
			n.store.release()
			want := 0
			for _, f := range floods {
				want += <-f
			}
			eventually(t, "every message", func() bool { return len(n.store.logged("x")) == want })
			if s := n.b.Stats(); s.Pauses[x.reason] < clients {
				t.Errorf("pauses: %v", s.Pauses)
			}
			if s := n.b.Stats(); s.InboundWait != 0 || len(s.Dropped)+len(s.Refused) != 0 {
				t.Errorf("%d bytes wait; dropped: %v; refused: %v", s.InboundWait, s.Dropped, s.Refused)
			}
		})
	}
}

// TestOutboundOfListener: slow subscribers of one listener use up what that listener may have, and nobody else's.
func TestOutboundOfListener(t *testing.T) {
	const room = 256 << 10
	n := newNode(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- n.b.Serve(l, broker.ListenerOptions{Name: "slow", Limits: broker.Limits{OutboundOfOne: room}})
	}()
	const slow = 20
	for i := range slow {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.(*net.TCPConn).SetReadBuffer(4 << 10)
		c := &client{t: t, nc: nc}
		c.send(fmt.Sprintf("CONNECT v5 clean id=slow%d", i))
		c.expect("CONNACK")
		c.send("SUBSCRIBE #1 x:0")
		c.expect("SUBACK #1 0x00")
	}
	fast := n.connected("CONNECT v5 clean id=fast")
	fast.send("SUBSCRIBE #1 x:1")
	fast.expect("SUBACK #1 0x01")
	p := n.connected("CONNECT v5 clean id=p")
	payload := strings.Repeat("x", 16<<10)
	most := int64(0)
	eventually(t, "drops", func() bool {
		p.send(`PUBLISH q1 #1 t=x "` + payload + `"`)
		p.expect("PUBACK #1")
		got := fast.next().(*packet.Publish)
		fast.send(fmt.Sprintf("PUBACK #%d", got.PacketID))
		s := n.b.Stats()
		most = max(most, s.OutboundWait)
		return s.Dropped[session.DropQoS0Full] > 1000
	})
	// Each may have its fair share beyond it, and one message on top of that.
	if limit := int64(room + slow*(32<<10+2*len(payload))); most > limit {
		t.Errorf("%d bytes waited, want at most %d", most, limit)
	}
	n.stop()
	<-served
}

// narrow is a listener whose sockets hold little on the way out, so that it takes little to fill them.
type narrow struct{ net.Listener }

func (l narrow) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		nc.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return nc, err
}

// narrowed has a node listen so, and its clients take little.
func narrowed(n *node) {
	n.listen = func() (net.Listener, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		return narrow{l}, err
	}
	n.reach = func(address string) (net.Conn, error) {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			nc.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return nc, err
	}
}

// TestAnswersTotal: clients that ask and never read share a bound, and who reads is not held back by it.
func TestAnswersTotal(t *testing.T) {
	const room, clients = 64 << 10, 10
	n := &node{t: t, store: newMemStore(), lis: broker.ListenerOptions{Name: "test"}}
	n.opts = broker.Options{Store: n.store, Limits: broker.Limits{AnswersTotal: room}}
	narrowed(n)
	n.start()
	defer n.store.close()
	pings := bytes.Repeat([]byte{0xC0, 0}, 16<<10)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range clients {
		c := n.connected(fmt.Sprintf("CONNECT v5 clean id=c%d", i))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c.nc.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				if _, err := c.nc.Write(pings); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					return // the test is over
				}
			}
		})
	}
	eventually(t, "everybody to be paused", func() bool { return n.b.Stats().PausedNow["answers_not_taken"] == clients })
	most := int64(room + clients*64<<10) // what one read asks for
	if got := n.b.Stats().AnswersWait; got > most || got < room {
		t.Errorf("%d bytes of answers wait beyond the few, want about %d", got, room)
	}
	good := n.connected("CONNECT v5 clean id=good")
	for range 100 {
		good.quiet()
	}
	close(stop)
	wg.Wait()
	n.stop()
}
