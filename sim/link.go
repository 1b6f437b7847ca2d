package sim

import (
	"fmt"
	"net"
	"sync"
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
	max     int // receive maximum of the server

	out     []byte // guarded by Client.mu
	last    bool   // close once out is written
	kick    chan struct{}
	failed  chan struct{} // closed at the first error; err says which
	written chan struct{} // closed when the goroutine that writes has ended
	ended   chan struct{} // closed when both have
	once    sync.Once
	err     error
	aliases map[uint16][]byte
}

// connect sends CONNECT and waits for CONNACK.
func (l *link) connect(p *packet.Connect) (*packet.Connack, error) {
	wire, err := p.Append(nil, p.Version)
	if err != nil {
		return nil, fmt.Errorf("sim: encode CONNECT: %w", err)
	}
	if _, err := l.conn.Write(wire); err != nil {
		return nil, fmt.Errorf("sim: send CONNECT: %w", err)
	}
	answer, err := l.next()
	if err != nil {
		return nil, fmt.Errorf("sim: wait for CONNACK: %w", err)
	}
	ack, ok := answer.(*packet.Connack)
	if !ok {
		return nil, fmt.Errorf("sim: %v before CONNACK", answer.Type())
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

// write is the goroutine that writes.
func (c *Client) write(l *link, keepAlive time.Duration) {
	defer close(l.written)
	var ping <-chan time.Time
	if keepAlive > 0 {
		t := time.NewTicker(keepAlive * 3 / 4)
		defer t.Stop()
		ping = t.C
	}
	var spare []byte
	for {
		select {
		case <-l.kick:
		case <-ping:
			_ = c.Send(&packet.Ping{Kind: packet.PINGREQ}) // an error ends the connection, which is seen here next
		case <-l.failed:
			return
		}
		c.mu.Lock()
		out, last := l.out, l.last
		l.out = spare[:0]
		if len(out) >= outLimit {
			c.wake()
		}
		c.mu.Unlock()
		if len(out) > 0 { // else an earlier round has written what this kick was for
			if _, err := l.conn.Write(out); err != nil {
				l.fail(err)
				return
			}
		}
		spare = out
		if last {
			l.fail(ErrOffline)
			return
		}
	}
}

// read is the goroutine that reads. It is the last to end, and ends the connection for the client.
func (c *Client) read(l *link) {
	for {
		p, err := l.next()
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
	defer c.mu.Unlock()
	c.link = nil
	close(l.ended)
	c.wake()
}

// next reads one packet. It is valid until the next call.
func (l *link) next() (packet.Packet, error) {
	for {
		p, n, _, err := l.dec.Next(l.buf[l.from:l.to])
		if err != nil {
			return nil, err
		}
		if n > 0 {
			l.from += n
			return p, nil
		}
		l.to = copy(l.buf, l.buf[l.from:l.to])
		l.from = 0
		if l.to == len(l.buf) {
			l.buf = append(l.buf, make([]byte, max(12<<10, len(l.buf)))...)
		}
		m, err := l.conn.Read(l.buf[l.to:])
		if m == 0 && err != nil {
			return nil, err
		}
		l.to += m
	}
}
