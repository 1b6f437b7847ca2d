package sim

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// testBroker is the least broker that the tests here need: sessions that outlive connections, one subscription each, QoS 0 to 2.
// fault, if there is one, plays tricks on what is delivered.
type testBroker struct {
	t        *testing.T
	listener net.Listener
	fault    func(p *packet.Publish) []*packet.Publish
	noAck    func(p *packet.Publish) bool // the message is routed and never acknowledged
	connack  packet.Properties
	refuse   string // this client id

	overheard int // connections that ended, with no DISCONNECT and no successor, while the broker was not told to cut
	cutting   bool

	mu       sync.Mutex
	sessions map[string]*testSession
	conns    map[net.Conn]bool
	all      sync.WaitGroup
}

type testSession struct {
	clean   bool // ends with its connection
	left    bool // DISCONNECT came
	filter  packet.Filter
	inbound map[uint16]bool
	flight  []*packet.Publish // QoS 1 and 2 not complete
	rel     map[uint16]bool   // of these, those with PUBREC
	nextID  uint16
	conn    net.Conn
	version packet.Version
}

// packetReader reads packets, each valid until the next.
type packetReader struct {
	conn net.Conn
	dec  packet.Decoder
	buf  []byte
	used int
}

func (r *packetReader) next() (packet.Packet, error) {
	r.buf = r.buf[:copy(r.buf, r.buf[r.used:])]
	for r.used = 0; ; {
		p, n, _, err := r.dec.Next(r.buf)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			r.used = n
			return p, nil
		}
		var more [4096]byte
		m, err := r.conn.Read(more[:])
		if m == 0 && err != nil {
			return nil, err
		}
		r.buf = append(r.buf, more[:m]...)
	}
}

func newTestBroker(t *testing.T) *testBroker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &testBroker{t: t, listener: l, sessions: map[string]*testSession{}, conns: map[net.Conn]bool{}}
	b.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[conn] = true
			b.mu.Unlock()
			b.all.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(b.close)
	return b
}

func (b *testBroker) dial(ctx context.Context) (net.Conn, error) {
	return DialTCP(b.listener.Addr().String())(ctx)
}

// cut ends all connections, without a word.
func (b *testBroker) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cutting = true
	for conn := range b.conns {
		conn.Close()
	}
}

// forget drops all sessions.
func (b *testBroker) forget() {
	b.cut()
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.sessions)
}

func (b *testBroker) close() {
	b.listener.Close()
	b.cut()
	b.all.Wait()
}

func (b *testBroker) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, conn)
	}()
	l := &packetReader{conn: conn, dec: packet.Decoder{Server: true}}
	var s *testSession
	for {
		p, err := l.next()
		if err != nil {
			var bad *packet.Error
			if errors.As(err, &bad) {
				b.t.Errorf("test broker: %v", err)
			}
			b.mu.Lock()
			if s != nil && s.conn == conn && !s.left && !b.cutting {
				b.overheard++
			}
			b.mu.Unlock()
			return
		}
		b.mu.Lock()
		if c, ok := p.(*packet.Connect); ok {
			s = b.connect(conn, c)
		} else if s.conn == conn { // what an overtaken connection still had in its buffer does not count any more
			b.handle(s, p)
		}
		b.mu.Unlock()
		if d, ok := p.(*packet.Disconnect); ok {
			b.left(s, conn, d)
			return
		}
	}
}

func (b *testBroker) left(s *testSession, conn net.Conn, d *packet.Disconnect) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.conn != conn {
		return
	}
	s.left = true
	if s.clean || d.Props.Has&packet.PSessionExpiry != 0 && d.Props.SessionExpiry == 0 {
		maps.DeleteFunc(b.sessions, func(_ string, o *testSession) bool { return o == s })
	}
}

func (b *testBroker) connect(conn net.Conn, c *packet.Connect) *testSession {
	s, present := b.sessions[c.ClientID], true
	if s == nil || c.CleanStart {
		s, present = &testSession{inbound: map[uint16]bool{}, rel: map[uint16]bool{}}, false
		b.sessions[c.ClientID] = s
	}
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn, s.version, s.clean, s.left = conn, c.Version, c.CleanStart && c.Version < packet.V5, false
	ack := &packet.Connack{SessionPresent: present}
	if c.ClientID == b.refuse {
		ack = &packet.Connack{Code: packet.BadUsernameOrPassword}
	}
	if s.version == packet.V5 {
		ack.Props = b.connack
	}
	s.send(ack)
	for _, p := range s.flight {
		if s.rel[p.PacketID] {
			s.send(&packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID})
			continue
		}
		again := *p
		again.Dup = true
		s.send(&again)
	}
	return s
}

func (s *testSession) send(p packet.Packet) {
	wire, err := p.Append(nil, s.version)
	if err != nil {
		panic(err)
	}
	s.conn.Write(wire)
}

func (b *testBroker) handle(s *testSession, p packet.Packet) {
	switch p := p.(type) {
	case *packet.Publish:
		b.publish(s, p)
	case *packet.Ack:
		s.ack(p)
	case *packet.Subscribe:
		s.filter = p.Filters[0]
		s.send(&packet.Suback{Kind: packet.SUBACK, PacketID: p.PacketID, Codes: []packet.Code{packet.Code(s.filter.QoS)}})
	case *packet.Unsubscribe:
		s.filter = packet.Filter{}
		s.send(&packet.Suback{Kind: packet.UNSUBACK, PacketID: p.PacketID, Codes: []packet.Code{0}})
	case *packet.Ping:
		s.send(&packet.Ping{Kind: packet.PINGRESP})
	}
}

func (b *testBroker) publish(from *testSession, p *packet.Publish) {
	if p.QoS < 2 || !from.inbound[p.PacketID] {
		deliver := []*packet.Publish{p}
		if b.fault != nil {
			deliver = b.fault(client.Clone(p))
		}
		for _, p := range deliver {
			b.route(p)
		}
	}
	if b.noAck != nil && b.noAck(p) {
		return
	}
	switch p.QoS {
	case 1:
		from.send(&packet.Ack{Kind: packet.PUBACK, PacketID: p.PacketID})
	case 2:
		from.inbound[p.PacketID] = true
		from.send(&packet.Ack{Kind: packet.PUBREC, PacketID: p.PacketID})
	}
}

func (b *testBroker) route(p *packet.Publish) {
	for _, s := range b.sessions {
		if s.filter.Filter == "" || !topic.Match(s.filter.Filter, string(p.Topic)) {
			continue
		}
		out := client.Clone(p)
		out.Dup, out.QoS = false, min(p.QoS, s.filter.QoS)
		if out.QoS > 0 {
			s.nextID = s.nextID%60000 + 1
			out.PacketID = s.nextID
			s.flight = append(s.flight, out)
		}
		s.send(out)
	}
}

func (s *testSession) ack(p *packet.Ack) {
	switch p.Kind {
	case packet.PUBREL:
		delete(s.inbound, p.PacketID)
		s.send(&packet.Ack{Kind: packet.PUBCOMP, PacketID: p.PacketID})
	case packet.PUBREC:
		s.rel[p.PacketID] = true
		s.send(&packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID})
	default:
		delete(s.rel, p.PacketID)
		s.flight = slices.DeleteFunc(s.flight, func(f *packet.Publish) bool { return f.PacketID == p.PacketID })
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
