package broker

import (
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// burstBytes is the most that one read brings. Whatever came is decoded, appended and acked as one.
const burstBytes = 64 << 10

// burst is what handling one read takes. A connection has one only while it has bytes to handle: bursts are as many as
// processors are busy, not as connections.
type burst struct {
	buf [burstBytes]byte
	n   int
	err error

	dec      packet.Decoder
	now      int64         // when it came, milliseconds since 1970; 0 until asked
	clock    time.Duration // the same on the broker's clock
	msgs     []session.Message
	props    []session.Props
	flight   *flight // gathered
	sending  *flight // being handed to the store
	acks     []ack
	received [3]int64 // publishes not counted yet, see stats.enter
	repeated int64
	broken   int64

	connect *packet.Connect // came
	stop    bool            // DISCONNECT came
	fault   *fault
	wait    <-chan struct{} // the log has no room until it is closed
	hold    time.Duration   // the client is ahead of its rates by so much
	why     string
	size    int // of msgs
}

var bursts = sync.Pool{New: func() any { return &burst{} }}

func (s *burst) free() {
	s.n, s.err, s.now, s.connect, s.stop, s.fault, s.wait = 0, nil, 0, nil, false, nil, nil
	s.hold, s.why, s.size = 0, "", 0
	s.acks = s.acks[:0]
	bursts.Put(s)
}

// read waits for bytes. While it waits a socket holds nothing but c.rest, which is empty between packets. data is what
// was left of the last burst and what came now.
func (c *conn) read() (s *burst, data []byte, err error) {
	if c.again {
		c.again = false
		return bursts.Get().(*burst), c.rest, nil
	}
	if c.raw == nil || c.need > burstBytes {
		return c.readInPlace()
	}
	err = c.raw.Read(c.readFn)
	if err != nil {
		return nil, nil, err
	}
	s, c.got = c.got, nil
	if s.err != nil {
		err = s.err
		s.free()
		return nil, nil, err
	}
	c.b.stats.bytesIn.Add(int64(s.n - len(c.rest)))
	c.bytesIn.Add(int64(s.n - len(c.rest)))
	c.rest = nil
	return s, s.buf[:s.n], nil
}

// readable is called when the socket may have bytes; false: it had none, call again when it has.
func (c *conn) readable(fd uintptr) bool {
	s := bursts.Get().(*burst)
	n := copy(s.buf[:], c.rest)
	m, again, err := c.tryRead(fd, s.buf[n:c.readTo(n)])
	if again {
		bursts.Put(s)
		return false
	}
	s.n, s.err = n+m, err
	c.got = s
	return true
}

// readTo is how far into the buffer a read may go that begins at n.
func (c *conn) readTo(n int) int {
	if c.flow == nil && !c.b.inbound.over() && !c.lis.inbound.over() {
		return burstBytes
	}
	return min(n+limitedRead, burstBytes)
}

// tryRead reads what has come, through whatever stands between the socket and MQTT.
func (c *conn) tryRead(fd uintptr, b []byte) (n int, again bool, err error) {
	if c.layer == nil {
		return transport.ReadSocket(fd, b)
	}
	n, again, err = c.layer.TryRead(fd, b)
	if c.layer.Pending() {
		c.flushLayer()
	}
	return n, again, err
}

const (
	smallBuffer = 512
	largeBuffer = 16 << 10
)

// readInPlace reads behind c.rest, into a buffer that grows with what was received, never with what was announced: for packets
// larger than a burst, and for connections that are not sockets.
func (c *conn) readInPlace() (*burst, []byte, error) {
	if len(c.rest) == cap(c.rest) {
		size := max(smallBuffer, 2*len(c.rest))
		if c.need > len(c.rest) {
			size = min(size, max(c.need, smallBuffer))
		}
		c.rest = append(make([]byte, 0, size), c.rest...)
	}
	n, err := c.readSome(c.rest[len(c.rest):cap(c.rest)])
	if n == 0 {
		return nil, nil, err
	}
	c.rest = c.rest[:len(c.rest)+n]
	c.b.stats.bytesIn.Add(int64(n))
	c.bytesIn.Add(int64(n))
	return bursts.Get().(*burst), c.rest, nil
}

// readSome reads at least one byte, unless there is an error. A Read without either has nothing yet: what came was the transport's own, a
// ping or a part of a TLS record.
func (c *conn) readSome(b []byte) (n int, err error) {
	for empty := 0; n == 0 && err == nil; empty++ {
		if empty > patientReads {
			time.Sleep(time.Millisecond) // it does not even block; the keep-alive ends that, too
		}
		n, err = c.nc.Read(b)
		if c.layer != nil && c.layer.Pending() {
			c.flushLayer()
		}
	}
	return n, err
}

const patientReads = 100

// keep remembers what is left of data, which is c.rest itself or the buffer of a burst.
func (c *conn) keep(data []byte, used int) {
	left := data[used:]
	switch {
	case len(left) > 0 && (c.rest == nil || cap(c.rest) > largeBuffer && len(left) < cap(c.rest)/4):
		c.rest = append([]byte(nil), left...)
	case len(left) > 0:
		c.rest = append(c.rest[:0], left...)
	case c.raw != nil, cap(c.rest) > largeBuffer:
		c.rest = nil
	case len(data) == cap(c.rest) && cap(c.rest) < largeBuffer: // it came as fast as the buffer could take it
		c.rest = make([]byte, 0, 2*cap(c.rest))
	default:
		c.rest = c.rest[:0]
	}
}

// consume decodes and handles every whole packet in data.
func (c *conn) consume(s *burst, data []byte) {
	c.doing = s
	s.dec.Server = true
	s.dec.Version = c.version
	s.dec.MaxSize = c.lis.limits.PacketBytes
	if c.version == 0 {
		s.dec.MaxSize = c.lis.limits.ConnectBytes
	}
	c.need = 0
	used, packets := 0, int64(0)
	for used < len(data) && s.fault == nil && !s.stop && s.connect == nil && s.hold == 0 {
		p, n, need, err := s.dec.Next(data[used:])
		if err != nil {
			s.fault = faultOf(err)
			c.learnVersion(s)
			break
		}
		if n == 0 {
			c.need = need
			break
		}
		used += n
		packets++
		s.fault = c.handle(s, p)
		if c.flow != nil {
			c.charge(s, p, n)
		}
	}
	c.b.stats.packetsIn.Add(packets)
	c.append(s)
	c.forwardAcks(s)
	c.doing = nil
	c.keep(data, used)
	c.again = (s.connect != nil || s.hold > 0) && len(c.rest) > 0
}

// enter counts what a burst has brought, before any of it can be counted further on.
func (c *counters) enter(s *burst) {
	for q, n := range s.received {
		if n > 0 {
			c.received[q].Add(n)
			s.received[q] = 0
		}
	}
	if n := len(s.msgs); n > 0 {
		c.appending.Add(int64(n))
	}
	if s.repeated+s.broken > 0 {
		c.repeated.Add(s.repeated)
		c.broken.Add(s.broken)
		s.repeated, s.broken = 0, 0
	}
}

// stamp notes when the burst came, once.
func (s *burst) stamp(b *Broker) {
	if s.now == 0 {
		now := b.o.Now()
		s.now, s.clock = now.UnixMilli(), b.reading(now)
	}
}

// handle acts on one packet.
func (c *conn) handle(s *burst, p packet.Packet) *fault {
	if list := c.b.traces.now.Load(); list != nil {
		c.traceIn(*list, p)
	}
	switch p := p.(type) {
	case *packet.Publish:
		return c.publish(s, p)
	case *packet.Ack:
		s.acks = append(s.acks, ack{p.Kind, p.Code, p.PacketID})
	case *packet.Ping:
		c.pong()
	case *packet.Subscribe:
		if c.bridge {
			bridged(p)
		}
		c.forward(s, p)
	case *packet.Unsubscribe:
		c.forward(s, p)
	case *packet.Disconnect:
		return c.disconnect(s, p)
	case *packet.Connect:
		c.learnVersion(s)
		s.connect = p
	case *packet.Auth:
		return &fault{packet.ProtocolError, "AUTH without an authentication method"} // MQTT-4.12.0-6
	}
	return nil
}

// learnVersion takes over the version that a CONNECT has, as soon as it is known.
func (c *conn) learnVersion(s *burst) {
	if c.version == 0 && s.dec.Version != 0 {
		c.mu.Lock()
		c.version = s.dec.Version
		c.mu.Unlock()
	}
}

func (c *conn) pong() {
	c.mu.Lock()
	if !c.closing {
		q := c.queue()
		q.own = append(q.own, byte(packet.PINGRESP)<<4, 0)
		c.queued(q, 2)
		if list := c.b.traces.now.Load(); list != nil {
			c.trace(*list, "", nil, func() TraceEvent { return TraceEvent{Out: true, Packet: packet.PINGRESP.String()} })
		}
	}
	flush := c.schedule()
	c.mu.Unlock()
	if flush {
		c.b.flushers.push(c)
	}
}

// disconnect is the client's DISCONNECT.
func (c *conn) disconnect(s *burst, p *packet.Disconnect) *fault {
	c.cause = session.Normal
	if p.Code != packet.Success {
		c.cause = session.WithWill
	}
	if p.Props.Has&packet.PSessionExpiry != 0 {
		if c.asked == 0 && p.Props.SessionExpiry != 0 {
			c.cause = session.Lost
			return &fault{packet.ProtocolError, "session expiry in DISCONNECT of a session without one"} // MQTT-3.14.2-2
		}
		c.expiry = &p.Props.SessionExpiry
	}
	s.stop = true
	return nil
}

// forwardAcks hands the burst's acks to the owner.
func (c *conn) forwardAcks(s *burst) {
	if len(s.acks) == 0 {
		return
	}
	c.mu.Lock()
	c.acks = append(c.acks, s.acks...)
	post := !c.ackPosted
	c.ackPosted = true
	c.mu.Unlock()
	if post {
		c.owner.postAcks(c)
	}
}

// work is how much a SUBSCRIBE or UNSUBSCRIBE is to the owner, as so many small ones: one may have a hundred thousand filters.
func work(p packet.Packet) int {
	const filters = 16 // are one packet's work
	switch p := p.(type) {
	case *packet.Subscribe:
		return 1 + len(p.Filters)/filters
	case *packet.Unsubscribe:
		return 1 + len(p.Filters)/filters
	}
	return 1
}

// forward hands a packet to the owner, once everything that came before it is in the log: a client that publishes and then
// subscribes finds its message retained.
func (c *conn) forward(s *burst, p packet.Packet) {
	c.append(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets += work(p)
	if c.first == nil {
		c.owner.packet(c, p)
		return
	}
	c.launch(&flight{c: c, held: p, landed: true})
}
