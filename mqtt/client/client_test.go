package client

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// server is the other end of a connection, played by the test.
type server struct {
	t    *testing.T
	conn net.Conn
	dec  packet.Decoder
	buf  []byte
}

// serve makes a dial function whose connections the test gets.
func serve(t *testing.T) (dial func(context.Context) (net.Conn, error), conns chan *server) {
	conns = make(chan *server, 1)
	return func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		conns <- &server{t: t, conn: b, dec: packet.Decoder{Server: true}}
		return a, nil
	}, conns
}

func (s *server) next() packet.Packet {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		p, n, _, err := s.dec.Next(s.buf)
		if err != nil {
			s.t.Fatal(err)
		}
		if n > 0 {
			if q, ok := p.(*packet.Publish); ok {
				p = Clone(q)
			} else if a, ok := p.(*packet.Ack); ok {
				c := *a
				p = &c
			}
			s.buf = s.buf[n:]
			return p
		}
		more := make([]byte, 4096)
		m, err := s.conn.Read(more)
		if err != nil {
			s.t.Fatal(err)
		}
		s.buf = append(s.buf, more[:m]...)
	}
}

func (s *server) send(p packet.Packet) {
	s.t.Helper()
	wire, err := p.Append(nil, s.dec.Version)
	if err != nil {
		s.t.Fatal(err)
	}
	s.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.conn.Write(wire); err != nil {
		s.t.Fatal(err)
	}
}

// accept answers the CONNECT of a new connection.
func accept(t *testing.T, c *Client, conns chan *server, present bool, receive uint16) *server {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := c.Connect(t.Context())
		done <- err
	}()
	s := <-conns
	if _, ok := s.next().(*packet.Connect); !ok {
		t.Fatal("no CONNECT")
	}
	ack := &packet.Connack{SessionPresent: present}
	if receive > 0 {
		ack.Props.Has, ack.Props.ReceiveMaximum = packet.PReceiveMaximum, receive
	}
	s.send(ack)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Drop(); <-c.Done() })
	return s
}

func publish(t *testing.T, p packet.Packet) *packet.Publish {
	t.Helper()
	q, ok := p.(*packet.Publish)
	if !ok {
		t.Fatalf("%T instead of a PUBLISH", p)
	}
	return q
}

// A QoS 2 message of Deliver is released when its sender says so, also by a later process, and on a later connection.
func TestDeliverAndRestore(t *testing.T) {
	dial, conns := serve(t)
	o := Options{Dial: dial, Connect: packet.Connect{Version: packet.V5, ClientID: "c"}, OwnIDs: 1000}
	c := New(o)
	s := accept(t, c, conns, false, 0)
	steps := make(chan Step, 10)
	follow := func(st Step, code packet.Code) {
		if code.Failed() {
			t.Errorf("step %v: %v", st, code)
		}
		steps <- st
	}
	if err := c.Deliver(t.Context(), &packet.Publish{QoS: 2, Topic: []byte("t"), PacketID: 1001}, follow); err != nil {
		t.Fatal(err)
	}
	if p := publish(t, s.next()); p.PacketID != 1001 || p.Dup {
		t.Fatalf("%+v", p)
	}
	s.send(&packet.Ack{Kind: packet.PUBREC, PacketID: 1001})
	if st := <-steps; st != Received {
		t.Fatal(st)
	}
	// A new connection brings nothing of it while it is not released.
	c.Drop()
	<-c.Done()
	s = accept(t, c, conns, true, 0)
	if err := c.Deliver(t.Context(), &packet.Publish{QoS: 1, Topic: []byte("t")}, follow); err != nil {
		t.Fatal(err)
	}
	if p := publish(t, s.next()); p.QoS != 1 || p.PacketID >= 1000 {
		t.Fatalf("%+v", p)
	}
	c.Release(1001)
	if a, ok := s.next().(*packet.Ack); !ok || a.Kind != packet.PUBREL || a.PacketID != 1001 {
		t.Fatalf("%+v", a)
	}
	s.send(&packet.Ack{Kind: packet.PUBCOMP, PacketID: 1001})
	if st := <-steps; st != Complete || c.Pending() != 1 {
		t.Fatal(st, c.Pending())
	}

	// Another process: one that was sent, one that was released, in their order; then the server has lost its session.
	c = New(o)
	c.RestoreReceived(7)
	if err := c.Restore(1002, &packet.Publish{QoS: 2, Topic: []byte("a")}, false, follow); err != nil {
		t.Fatal(err)
	}
	if err := c.Restore(1003, nil, true, func(st Step, code packet.Code) {
		if st != Complete || !code.Failed() {
			t.Errorf("what nothing is left of: step %v, %v", st, code)
		}
		steps <- st
	}); err != nil {
		t.Fatal(err)
	}
	s = accept(t, c, conns, true, 0)
	if p := publish(t, s.next()); p.PacketID != 1002 || !p.Dup {
		t.Fatalf("%+v", p)
	}
	if a, ok := s.next().(*packet.Ack); !ok || a.Kind != packet.PUBREL || a.PacketID != 1003 {
		t.Fatalf("%+v", a)
	}
	c.Drop()
	<-c.Done()
	s = accept(t, c, conns, false, 0)
	if p := publish(t, s.next()); p.PacketID != 1002 || p.Dup {
		t.Fatalf("%+v", p)
	}
	if st := <-steps; st != Complete {
		t.Fatal(st)
	}
}

// An answer goes to the connection that the message came on, or nowhere; a refused id is free again; what comes again is told apart.
func TestAnswer(t *testing.T) {
	dial, conns := serve(t)
	var got, again atomic.Int64
	c := New(Options{Dial: dial, Connect: packet.Connect{Version: packet.V5, ClientID: "c"}, ManualAcks: true,
		OnMessage: func(*packet.Publish) { got.Add(1) }, OnRepeated: func(*packet.Publish) { again.Add(1) }})
	s := accept(t, c, conns, false, 0)
	first := c.Stats().Connects
	p := &packet.Publish{QoS: 2, Topic: []byte("t"), PacketID: 5}
	s.send(p)
	c.Drop()
	<-c.Done()
	s = accept(t, c, conns, true, 0)
	c.Answer(first, 2, 5, packet.Success) // nobody hears it
	s.send(p)
	second := c.Stats().Connects
	for again.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	c.Answer(second, 2, 5, packet.QuotaExceeded)
	if a, ok := s.next().(*packet.Ack); !ok || a.Kind != packet.PUBREC || a.Code != packet.QuotaExceeded {
		t.Fatalf("%+v", a)
	}
	s.send(p)
	for got.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	if got.Load() != 2 || again.Load() != 1 {
		t.Errorf("%d messages, %d again", got.Load(), again.Load())
	}
}

// Quota bounds what is unanswered until Widen; a QoS 0 message waits for those before it.
func TestQuota(t *testing.T) {
	dial, conns := serve(t)
	c := New(Options{Dial: dial, Connect: packet.Connect{Version: packet.V5, ClientID: "c"}, Quota: func() int { return 1 }})
	s := accept(t, c, conns, false, 10)
	for range 3 {
		if err := c.Publish(t.Context(), &packet.Publish{QoS: 1, Topic: []byte("t")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	sent := make(chan error, 1)
	go func() { sent <- c.Publish(t.Context(), &packet.Publish{Topic: []byte("zero")}, nil) }()
	p := publish(t, s.next())
	s.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := s.conn.Read(make([]byte, 100)); err == nil || len(s.buf) > 0 {
		t.Fatalf("%d bytes beyond the quota", n+len(s.buf))
	}
	c.Widen()
	s.send(&packet.Ack{Kind: packet.PUBACK, PacketID: p.PacketID})
	for range 2 {
		if q := publish(t, s.next()); q.QoS != 1 {
			t.Fatalf("%s overtook", q.Topic)
		}
	}
	if q := publish(t, s.next()); string(q.Topic) != "zero" {
		t.Fatalf("%+v", q)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}
