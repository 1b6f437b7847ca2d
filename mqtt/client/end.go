package client

import (
	"context"
	"net"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Disconnect sends DISCONNECT behind everything sent before, closes the connection and waits for its end. OnMessage, OnPacket
// and done must not call it.
func (c *Client) Disconnect(code packet.Code) { c.disconnect(&packet.Disconnect{Code: code}) }

func (c *Client) disconnect(p *packet.Disconnect) {
	c.mu.Lock()
	l := c.link
	if l != nil {
		c.send(p)
		l.last = true
		l.conn.SetWriteDeadline(time.Now().Add(disconnectWait))
	}
	c.mu.Unlock()
	if l != nil {
		<-l.ended
	}
}

// End disconnects and ends the session with it: in MQTT 5 by the DISCONNECT, before that on a connection of its own.
func (c *Client) End(ctx context.Context) {
	p := &packet.Disconnect{}
	if c.o.Connect.Version == packet.V5 {
		p.Props.Has |= packet.PSessionExpiry
	}
	c.disconnect(p)
	if connect := c.o.Connect; connect.Version < packet.V5 && !connect.CleanStart && c.Stats().Connects > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectWait)
		defer cancel()
		connect.CleanStart = true
		_ = c.clean(ctx, connect) // a courtesy: the server forgets by itself in time
	}
}

// Drop cuts the connection without a word, and does not wait for its end (see Done).
func (c *Client) Drop() {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return
	}
	if tcp, ok := l.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the peer sees a reset, as it does when a device loses its power or its network
	}
	l.fail(ErrOffline)
}

// Await tells whether somebody is about to connect again whenever the connection ends: Publish and Drain then wait for the next one.
func (c *Client) Await(next bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeping = next
	c.wake()
}
