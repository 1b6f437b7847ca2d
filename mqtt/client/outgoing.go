package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// outgoing is one QoS 1 or 2 message on its way.
type outgoing struct {
	order    uint64
	id       uint16
	idAt     int // in wire
	wire     []byte
	qos      byte
	sent     bool // at least once, on this connection or an earlier one
	dup      bool // and the server has the session in which it was
	received bool // PUBREC came, and who follows it has not called Release yet
	released bool // PUBREC came: only its PUBREL is sent from now on
	done     func(code packet.Code)
	follow   func(s Step, code packet.Code) // of Deliver
}

const dupBit = 0x08 // of a PUBLISH, in its first byte

// Publish sends a message. It waits for room in the window, and, under Await, for a connection; else without one it returns
// ErrOffline. Its packet id is the client's business. p and what it points to is free again when Publish returns.
//
// Of QoS 1 and 2, done, unless it is nil, is called once when the server has taken responsibility or refused it: at PUBACK or
// PUBREC, on whichever connection that comes. It is called from the goroutine that reads, like OnMessage.
func (c *Client) Publish(ctx context.Context, p *packet.Publish, done func(code packet.Code)) error {
	o := &outgoing{qos: p.QoS, done: done}
	if p.QoS > 0 {
		if err := o.encode(p, c.o.Connect.Version); err != nil {
			return err
		}
	}
	return c.put(ctx, p, o)
}

// put queues a message and has it written.
func (c *Client) put(ctx context.Context, p *packet.Publish, o *outgoing) error {
	c.mu.Lock()
	err := c.enqueue(ctx, p, o)
	l := c.link
	c.mu.Unlock()
	if err != nil || l == nil {
		return err
	}
	if c.o.Seldom {
		select {
		case l.writing <- struct{}{}:
			c.push(l)
			<-l.writing
			return nil
		default: // somebody writes, and may be past this message
		}
	}
	l.signal()
	return nil
}

// roomFor is about what a PUBLISH takes.
func roomFor(p *packet.Publish) int {
	n := 32 + len(p.Topic) + len(p.Payload) + len(p.Props.Correlation)
	for _, u := range p.Props.User {
		n += 5 + len(u.Name) + len(u.Value)
	}
	return n
}

// enqueue waits for room and puts a message behind those before. Called with mu held.
func (c *Client) enqueue(ctx context.Context, p *packet.Publish, o *outgoing) error {
	for c.link == nil || !c.room(p.QoS) {
		if c.link == nil && !c.keeping {
			return ErrOffline
		}
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
	if p.QoS == 0 {
		return c.publish0(p)
	}
	if o.id == 0 {
		o.id = c.newID()
	}
	o.order = c.order
	c.order++
	o.wire[o.idAt], o.wire[o.idAt+1] = byte(o.id>>8), byte(o.id)
	c.pending[o.id] = o
	c.queue = append(c.queue, o)
	c.pump()
	return nil
}

func (c *Client) publish0(p *packet.Publish) error {
	out, _, err := packet.AppendPublish(c.link.out, p, c.link.version)
	if err != nil {
		return fmt.Errorf("mqtt: encode PUBLISH: %w", err)
	}
	c.link.out = out
	c.stats.Sent++
	return nil
}

func (c *Client) room(qos byte) bool {
	if qos == 0 { // not past those of a higher QoS that wait for the server
		return len(c.link.out) < outLimit && len(c.queue) == 0
	}
	return len(c.pending) < c.o.Window
}

// newID returns a packet id that is not in use. The window is far smaller than the number of ids.
func (c *Client) newID() uint16 {
	for {
		c.lastID++
		if c.o.OwnIDs > 0 && c.lastID >= c.o.OwnIDs {
			c.lastID = 1
		}
		if c.lastID != 0 && c.pending[c.lastID] == nil && c.requests[c.lastID] == nil {
			return c.lastID
		}
	}
}

// pump puts what is queued on the connection, as far as the server's receive maximum allows. The caller has it written.
func (c *Client) pump() {
	n := 0
	for _, o := range c.queue {
		if o.received && !o.released {
			c.quota = max(0, c.quota-1)
			n++
			continue
		}
		if o.released {
			c.quota = max(0, c.quota-1)
			c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: o.id})
			n++
			continue
		}
		if c.quota == 0 {
			break
		}
		c.quota--
		n++
		if o.dup {
			o.wire[0] |= dupBit
		}
		if o.sent {
			c.stats.Resent++
		} else {
			c.stats.Sent++
		}
		o.sent, o.dup = true, true
		c.link.out = append(c.link.out, o.wire...)
	}
	c.queue = slices.Delete(c.queue, 0, n)
}

// send queues a packet that the client made itself; it cannot fail to encode.
func (c *Client) send(p packet.Packet) {
	if c.link != nil {
		c.link.out, _ = p.Append(c.link.out, c.link.version)
		c.link.signal()
	}
}

// Drain waits until no QoS 1 or 2 message is on its way any more.
func (c *Client) Drain(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) > 0 {
		if c.link == nil && !c.keeping {
			return ErrOffline
		}
		if err := c.wait(ctx); err != nil {
			return fmt.Errorf("mqtt: %d messages not acknowledged: %w", len(c.pending), err)
		}
	}
	return nil
}

// acked takes one step of a QoS 1 or 2 exchange.
func (c *Client) acked(p *packet.Ack) {
	if p.Kind == packet.PUBREL {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.inbound, p.PacketID)
		c.send(&packet.Ack{Kind: packet.PUBCOMP, PacketID: p.PacketID})
		return
	}
	c.mu.Lock()
	o := c.pending[p.PacketID]
	taken, complete := c.step(o, p)
	received := taken && !complete
	if complete {
		delete(c.pending, p.PacketID)
		c.queue = slices.DeleteFunc(c.queue, func(q *outgoing) bool { return q == o }) // if it came before it could be sent again
		if c.link != nil {
			c.quota = min(c.quota+1, c.link.max)
			c.pump()
			if len(c.link.out) > 0 {
				c.link.signal()
			}
		}
		c.wake()
	}
	c.mu.Unlock()
	switch {
	case o == nil:
	case o.follow != nil && complete && p.Kind == packet.PUBCOMP:
		o.follow(Complete, packet.Success) // a server that does not know the id has forgotten it, since it had all
	case o.follow != nil && complete:
		o.follow(Complete, p.Code)
	case o.follow != nil && received:
		o.follow(Received, p.Code)
	case taken && o.done != nil:
		o.done(p.Code)
	}
}

// step decides what an acknowledgement means for a message: that the server has taken it or refused it, that it is complete.
func (c *Client) step(o *outgoing, p *packet.Ack) (taken, complete bool) {
	switch {
	case o != nil && p.Kind == packet.PUBACK && o.qos == 1:
		taken, complete = true, true
	case o != nil && p.Kind == packet.PUBREC && o.qos == 2:
		taken, complete = !o.released && !o.received, p.Code.Failed()
		switch {
		case complete:
		case o.follow != nil && !o.released:
			o.received = true
		default:
			o.released = true
			c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID})
		}
	case o != nil && p.Kind == packet.PUBCOMP && o.released:
		return false, true
	case p.Kind == packet.PUBREC:
		c.stats.Stray++
		c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID, Code: packet.PacketIDNotFound})
		return false, false
	default:
		c.stats.Stray++
		return false, false
	}
	if taken && p.Code.Failed() {
		c.stats.Refused++
	} else if taken {
		c.stats.Acked++
	}
	return taken, complete
}
