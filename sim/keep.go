package sim

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Disconnect sends DISCONNECT behind everything sent before, closes the connection and waits for its end. OnMessage, OnPacket
// and done must not call it.
func (c *Client) Disconnect(code packet.Code) { c.disconnect(&packet.Disconnect{Code: code}, false) }

// disconnect does it; forget ends the session, as MQTT 5 can.
func (c *Client) disconnect(p *packet.Disconnect, forget bool) {
	c.mu.Lock()
	l := c.link
	if l != nil {
		if forget && l.version == packet.V5 {
			p.Props.Has |= packet.PSessionExpiry
		}
		c.send(p)
		l.last = true
		l.conn.SetWriteDeadline(time.Now().Add(disconnectWait))
	}
	c.mu.Unlock()
	if l != nil {
		<-l.ended
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

// Keep keeps the client connected until ctx is done: it takes the connection that there is, if there is one, and connects again
// whenever it has ended, after refusals too. Then it disconnects. up, unless it is nil, is called for every connection, with
// whether the server had the session (true for one that was there before); an error ends that connection. Keep returns the last
// error if there never was a connection.
func (c *Client) Keep(ctx context.Context, up func(ctx context.Context, present bool) error) error {
	c.setKeeping(true)
	defer c.setKeeping(false)
	const shortest, longest = 20 * time.Millisecond, time.Second
	pause := shortest
	var last error
	for ctx.Err() == nil {
		present := true
		ack, err := c.Connect(ctx)
		if err == nil {
			present = ack.SessionPresent
		} else if errors.Is(err, ErrOnline) {
			err = nil
		}
		if err == nil && up != nil {
			if err = up(ctx, present); err != nil {
				c.Drop()
			}
		}
		if err != nil {
			last = err
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longest)
			continue
		}
		pause = shortest
		select {
		case <-ctx.Done():
		case <-c.Done():
		}
	}
	c.leave(ctx)
	if c.Stats().Connects == 0 {
		return last
	}
	return nil
}

// leave disconnects for good.
func (c *Client) leave(ctx context.Context) {
	forget := c.o.Forget && c.Pending() == 0
	c.disconnect(&packet.Disconnect{}, forget)
	if connect := c.o.Connect; forget && connect.Version < packet.V5 && !connect.CleanStart && c.Stats().Connects > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectWait)
		defer cancel()
		connect.CleanStart = true
		_ = c.clean(ctx, connect) // a courtesy: the server forgets by itself in time
	}
}

func (c *Client) setKeeping(keeping bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeping = keeping
	c.wake()
}
