package client

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// link is one network connection.
type link struct {
	conn    net.Conn
	dec     packet.Decoder
	version packet.Version
	buf     []byte // buf[from:to] is read and not decoded
	from    int
	to      int
	max     int // QoS 1 and 2 messages that may be unanswered
	may     int // of these, what the server allows

	out     []byte        // guarded by Client.mu
	last    bool          // close once out is written
	writing chan struct{} // full while somebody writes: whoever fills it owns spare
	spare   []byte
	kick    chan struct{}
	heard   atomic.Uint64 // packets that came
	failed  chan struct{} // closed at the first error; err says which
	written chan struct{} // closed when the goroutine that writes has ended
	ended   chan struct{} // closed when both have
	once    sync.Once
	err     error
	aliases map[uint16][]byte

	largest   int  // packet that is taken; 0: any
	discarded bool // the last packet was larger: it has no payload
}

// A connection begins with a small buffer: most devices hear only acknowledgements.
const (
	bufFirst  = 512
	bufEnough = 32 << 10
)

// connect sends CONNECT and waits for CONNACK.
func (l *link) connect(p *packet.Connect) (*packet.Connack, error) {
	wire, err := p.Append(nil, p.Version)
	if err != nil {
		return nil, fmt.Errorf("mqtt: encode CONNECT: %w", err)
	}
	if _, err := l.conn.Write(wire); err != nil {
		return nil, fmt.Errorf("mqtt: send CONNECT: %w", err)
	}
	answer, err := l.next()
	if err != nil {
		return nil, fmt.Errorf("mqtt: wait for CONNACK: %w", err)
	}
	ack, ok := answer.(*packet.Connack)
	if !ok {
		return nil, fmt.Errorf("mqtt: %v before CONNACK", answer.Type())
	}
	if ack.Code != packet.Success {
		return ack, &Refused{ack.Code}
	}
	l.max = 65_535
	if ack.Props.Has&packet.PReceiveMaximum != 0 {
		l.max = int(ack.Props.ReceiveMaximum)
	}
	return ack, nil
}

func (c *Client) keepAlive(ack *packet.Connack) time.Duration {
	seconds := c.o.Connect.KeepAlive
	if ack.Props.Has&packet.PServerKeepAlive != 0 {
		seconds = ack.Props.ServerKeepAlive
	}
	return time.Duration(seconds) * time.Second
}

func (l *link) signal() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// fail closes the network connection, once; the two goroutines then end.
func (l *link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		l.conn.Close()
		close(l.failed)
	})
}

// write is the goroutine that writes, but for what Publish writes itself under Options.Seldom. It also gives a connection up
// that has been silent for too long.
func (c *Client) write(l *link, keepAlive time.Duration) {
	defer close(l.written)
	var ping, look <-chan time.Time
	if keepAlive > 0 {
		t := time.NewTicker(keepAlive * 3 / 4)
		defer t.Stop()
		ping = t.C
	}
	if c.o.Patience > 0 {
		t := time.NewTicker(c.o.Patience)
		defer t.Stop()
		look = t.C
	}
	var before silence
	pinged := uint64(0) // what had been heard at the last PINGREQ, and one
	for {
		select {
		case <-l.kick:
			l.writing <- struct{}{}
			over := c.push(l)
			<-l.writing
			if over {
				return
			}
		case <-ping:
			_ = c.Send(&packet.Ping{Kind: packet.PINGREQ}) // an error ends the connection, which is seen here next
			pinged = l.heard.Load() + 1
		case <-look:
			heard := l.heard.Load()
			now := silence{heard, c.owed(l) || pinged == heard+1}
			if before.deaf(now) {
				l.fail(ErrSilent)
				return
			}
			before = now
		case <-l.failed:
			return
		}
	}
}

// silence is what a look at a connection finds.
type silence struct {
	heard uint64
	owed  bool // the server has something to answer
}

// deaf tells that nothing has come between two looks, though the server owed something all the time.
func (s *silence) deaf(now silence) bool { return now.heard == s.heard && s.owed && now.owed }

// owed tells that the server has something to answer.
func (c *Client) owed(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link == l && (len(c.pending) > len(c.queue) || len(c.requests) > 0)
}

// push writes what is queued, and tells whether that was the last. The caller has filled l.writing.
func (c *Client) push(l *link) (over bool) {
	c.mu.Lock()
	out, last := l.out, l.last
	l.out = l.spare[:0]
	if len(out) >= outLimit {
		c.wake()
	}
	c.mu.Unlock()
	if len(out) > 0 { // else an earlier round has written what this one is for
		if _, err := l.conn.Write(out); err != nil {
			l.fail(err)
			return true
		}
	}
	l.spare = out
	if last {
		l.fail(ErrOffline)
	}
	return last
}

// read is the goroutine that reads. It is the last to end, and ends the connection for the client.
func (c *Client) read(l *link) {
	for {
		p, err := l.next()
		l.heard.Add(1)
		if err == nil && (c.o.OnPacket == nil || !c.o.OnPacket(p)) {
			err = c.handle(l, p)
		}
		if err != nil {
			l.fail(err)
			break
		}
	}
	<-l.written
	c.mu.Lock()
	c.link, c.why = nil, l.err
	close(l.ended)
	c.wake()
	c.mu.Unlock()
	if c.o.OnLink != nil {
		c.o.OnLink(false)
	}
}

// next reads one packet. It is valid until the next call. One that is too large is without its payload.
func (l *link) next() (packet.Packet, error) {
	for {
		p, n, need, err := l.dec.Next(l.buf[l.from:l.to])
		if err != nil {
			return nil, err
		}
		if n > 0 {
			l.from += n
			m, is := p.(*packet.Publish)
			if l.discarded = is && l.largest > 0 && n > l.largest; l.discarded {
				m.Payload = nil
			}
			return p, nil
		}
		if l.largest > 0 && need > l.largest {
			if p, err := l.oversized(need); p != nil || err != nil {
				l.discarded = true
				return p, err
			}
		}
		if l.to == len(l.buf) && len(l.buf) < bufEnough || l.to-l.from == len(l.buf) { // much comes, or one that is long
			l.buf = append(l.buf, make([]byte, len(l.buf))...)
		}
		l.to = copy(l.buf, l.buf[l.from:l.to])
		l.from = 0
		m, err := l.conn.Read(l.buf[l.to:])
		if m == 0 && err != nil {
			return nil, err
		}
		l.to += m
	}
}
