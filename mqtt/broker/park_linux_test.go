package broker_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

func parking(t *testing.T, after time.Duration, changes ...func(*broker.Options)) *node {
	return newNode(t, func(o *broker.Options) {
		o.Limits.ParkAfter, o.Limits.HalfOpenPerIP = after, 1<<20
		for _, change := range changes {
			change(o)
		}
	})
}

// readersNow counts goroutines that read connections.
func readersNow(t *testing.T) int {
	t.Helper()
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 2); err != nil {
		t.Fatal(err)
	}
	return strings.Count(b.String(), "broker.(*conn).serve(")
}

func (n *node) allParked(conns int) {
	n.t.Helper()
	eventually(n.t, "all connections are parked", func() bool { return n.b.Stats().Parked == int64(conns) })
}

// TestParked has idle connections without goroutines, found idle by the roster, that do all that connections do.
func TestParked(t *testing.T) {
	const conns = 300
	n := parking(t, 250*time.Millisecond)
	var cs []*client
	for i := range conns {
		keep := 600
		if i%10 == 0 {
			keep = 3
		}
		c := n.connected(fmt.Sprintf("CONNECT v4 clean id=c%d keepalive=%d", i, keep))
		c.send("SUBSCRIBE #1 all:0")
		c.expect("SUBACK #1 0x00")
		cs = append(cs, c)
	}
	n.allParked(conns)
	eventually(t, "no reader is left", func() bool { return readersNow(t) == 0 })
	for i, c := range cs { // each is woken by its own bytes
		if i%10 != 0 {
			c.send("PINGREQ")
		}
	}
	for i, c := range cs {
		if i%10 != 0 {
			c.expect("PINGRESP")
		}
	}
	eventually(t, "keep-alive ends a tenth", func() bool { return n.b.Stats().Ended["keep_alive_timeout"] == conns/10 })
	n.allParked(conns - conns/10)
	cs[1].send(`PUBLISH q0 t=all "x"`)
	for i, c := range cs {
		if i%10 != 0 {
			if _, ok := c.next().(*packet.Publish); !ok {
				t.Fatal("no delivery")
			}
		}
	}
	cs[2].nc.Close()
	eventually(t, "a client's end is noticed", func() bool { return n.b.Stats().Connections == conns-conns/10-1 })
	again := n.connected("CONNECT v4 clean id=c3") // takes over
	cs[3].expectClosed()
	again.quiet()
	b := n.b
	n.stop()
	if s := b.Stats(); s.Connections != 0 || s.Parked != 0 || readersNow(t) != 0 {
		t.Errorf("after Close: %d connections, %d parked, %d readers", s.Connections, s.Parked, readersNow(t))
	}
}

// TestParkedEnds ends parked connections in every way there is: they hear of it, are counted, and leave nothing behind.
func TestParkedEnds(t *testing.T) {
	const patient = "CONNECT v5 id=a user=alice expiry=100"
	for _, x := range []struct {
		name, connect, last, reason string
		end                         func(n *node, c *client)
	}{
		{"ban", patient, "DISCONNECT 0x98", "banned", func(n *node, c *client) {
			if err := n.b.Ban(broker.Ban{Client: "a"}); err != nil {
				c.t.Error(err)
			}
		}},
		{"kick", patient, "DISCONNECT 0x98", "kicked", func(n *node, c *client) {
			if !n.b.Kick(session.Key{Principal: "alice", ClientID: "a"}, packet.AdministrativeAction) {
				c.t.Error("nobody to kick")
			}
		}},
		{"take-over", patient, "DISCONNECT 0x8E", "session_taken_over", func(n *node, c *client) {
			again := n.dial()
			again.send(patient)
			again.expect("CONNACK present")
			again.send("DISCONNECT")
			again.expectClosed()
		}},
		{"credential revoked", patient, "DISCONNECT 0x87", "credential_revoked", func(n *node, _ *client) {
			revoked.Store(true)
			n.b.Recheck()
		}},
		{"credential expired", "CONNECT v5 id=a user=brief", "DISCONNECT 0x87", "credential_expired", func(*node, *client) {}},
		{"keep-alive", patient + " keepalive=1", "DISCONNECT 0x8D", "keep_alive_timeout", func(*node, *client) {}},
		{"evacuation", patient, "DISCONNECT 0x8B", "server_shutting_down", func(n *node, _ *client) {
			go n.b.Evacuate(t.Context(), "", 0)
		}},
		{"session ended", patient, "DISCONNECT 0x98", "administrative_action", func(n *node, c *client) {
			if _, err := n.b.EndSession(t.Context(), session.Key{Principal: "alice", ClientID: "a"}); err != nil {
				c.t.Error(err)
			}
		}},
		{"disconnected", patient, "", "client_disconnect", func(_ *node, c *client) { c.send("DISCONNECT") }},
		{"closed", patient, "", "connection_closed_by_client", func(_ *node, c *client) { c.nc.Close() }},
		{"half closed", patient, "", "connection_closed_by_client", func(_ *node, c *client) { c.nc.(*net.TCPConn).CloseWrite() }},
		{"reset", patient, "", "connection_lost", func(_ *node, c *client) {
			c.nc.(*net.TCPConn).SetLinger(0)
			c.nc.Close()
		}},
		{"nonsense", patient, "DISCONNECT 0x81", "malformed_packet", func(_ *node, c *client) { c.write([]byte{0xFF, 0}) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			revoked.Store(false)
			n := parking(t, 1, letIn(func(p *broker.Principal) {
				if p.Holds = func() bool { return !revoked.Load() }; p.Name == "brief" {
					p.Until = time.Now().Add(time.Second)
				}
			}))
			c := n.connected(x.connect)
			n.allParked(1)
			x.end(n, c)
			if x.last != "" {
				c.expect(x.last)
				c.expectClosed()
			}
			c.nc.Close()
			eventually(t, "the end", func() bool {
				s := n.b.Stats()
				return s.Connections == 0 && s.Parked == 0 && s.Ended[x.reason] == 1 && readersNow(t) == 0
			})
		})
	}
}

var revoked atomic.Bool

// TestParkedAtClose: a broker that closes says goodbye to those that are parked, and has no descriptor of theirs left.
func TestParkedAtClose(t *testing.T) {
	descriptors := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := descriptors()
	n := parking(t, 1)
	var cs []*client
	for i := range 100 {
		cs = append(cs, n.connected(fmt.Sprintf("CONNECT v5 clean id=c%d", i)))
	}
	n.allParked(len(cs))
	said := make(chan bool)
	go func() {
		for _, c := range cs {
			c.expect("DISCONNECT 0x8B")
			c.expectClosed()
			c.nc.Close()
		}
		close(said)
	}()
	n.stop()
	<-said
	eventually(t, "all descriptors are closed", func() bool { return descriptors() <= before })
}

// TestNeverParked: who does not want it has a goroutine for each connection.
func TestNeverParked(t *testing.T) {
	n := parking(t, -1)
	c := n.connected("CONNECT v5 clean id=a")
	for range 3 {
		c.send("PINGREQ")
		c.expect("PINGRESP")
	}
	if s := n.b.Stats(); s.Parked != 0 || readersNow(t) != 1 {
		t.Errorf("%d parked, %d readers", s.Parked, readersNow(t))
	}
}

// TestParkStress parks at every chance while clients send, in pieces, with pauses, and are cut off; descriptors are used again all the while. Nothing is lost, nothing comes twice.
func TestParkStress(t *testing.T) {
	n := parking(t, 1)
	n.dial().nc.Close() // settles how clients reach it
	var wg sync.WaitGroup
	var sent [16]int
	rounds := tier.N(2_000)
	for w := range sent {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			c := n.connected(fmt.Sprintf("CONNECT v4 clean id=w%d", w))
			for i := range rounds {
				if r.IntN(50) == 0 {
					if r.IntN(2) == 0 {
						c.nc.Close()
					}
					c = n.connected(fmt.Sprintf("CONNECT v4 clean id=w%d", w)) // it may take over
				}
				b, err := parse(t, fmt.Sprintf(`PUBLISH q1 #%d t=s/%d "m"`, i%60000+1, w)).Append(nil, packet.V311)
				if err != nil {
					t.Error(err)
					return
				}
				cut := r.IntN(len(b))
				c.write(b[:cut])
				if r.IntN(4) == 0 {
					time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
				}
				c.write(b[cut:])
				if _, ok := c.next().(*packet.Ack); !ok {
					t.Errorf("client %d: no PUBACK in round %d", w, i)
					return
				}
				sent[w]++
			}
		})
	}
	wg.Wait()
	total := int64(0)
	for _, k := range sent {
		total += int64(k)
	}
	if s := n.b.Stats(); s.Received[1] != total || s.Acked != total || total != int64(rounds*len(sent)) {
		t.Errorf("%d sent, %d received, %d acknowledged", total, s.Received[1], s.Acked)
	}
	eventually(t, "all that are left are parked", func() bool {
		s := n.b.Stats()
		return s.Connections == int64(len(sent)) && s.Parked == s.Connections
	})
}

// TestNudgeStress takes connections for idle again and again while their clients send, in pieces, are cut off, and at last are sent away.
func TestNudgeStress(t *testing.T) {
	n := parking(t, time.Hour)
	n.dial().nc.Close()
	b := n.b
	var nudging sync.WaitGroup
	defer nudging.Wait()
	over := make(chan struct{})
	defer close(over)
	nudging.Go(func() {
		for pace := time.NewTicker(50 * time.Microsecond); ; {
			select {
			case <-pace.C:
				b.NudgeAll()
			case <-over:
				return
			}
		}
	})
	var wg sync.WaitGroup
	cs := make([]*client, 16)
	for w := range cs {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(w)))
			for i := range tier.N(1_000) {
				if cs[w] == nil || r.IntN(50) == 0 {
					cs[w] = n.connected(fmt.Sprintf("CONNECT v5 clean id=w%d", w))
				}
				wire, err := parse(t, fmt.Sprintf(`PUBLISH q1 #%d t=s/%d "m"`, i%60000+1, w)).Append(nil, packet.V5)
				if err != nil {
					t.Error(err)
					return
				}
				cut := r.IntN(len(wire))
				cs[w].write(wire[:cut])
				if r.IntN(2) == 0 {
					time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
				}
				cs[w].write(wire[cut:])
				if _, ok := cs[w].next().(*packet.Ack); !ok {
					t.Errorf("client %d: no PUBACK in round %d", w, i)
					return
				}
			}
		})
	}
	wg.Wait()
	n.allParked(len(cs))
	for w, c := range cs {
		if w%2 == 0 { // the others are parked when they are sent away
			c.send("PINGREQ")
			c.expect("PINGRESP")
		}
	}
	stopped := make(chan struct{})
	go func() { n.stop(); close(stopped) }()
	for _, c := range cs {
		c.expect("DISCONNECT 0x8B")
		c.expectClosed()
		c.nc.Close()
	}
	<-stopped
	if s := b.Stats(); s.Connections != 0 || s.Parked != 0 {
		t.Errorf("after Close: %d connections, %d parked", s.Connections, s.Parked)
	}
}
