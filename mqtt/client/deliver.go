package client

import (
	"context"
	"fmt"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Step is how far a message of Deliver has come.
type Step uint8

const (
	// Received: PUBREC came. Nothing more happens until Release.
	Received Step = iota
	// Complete: PUBACK or PUBCOMP came, or a refusal, which the code tells.
	Complete
)

// Deliver is Publish of QoS 1 or 2 for who keeps books that outlive the process. follow hears each step, from the goroutine that reads.
// Of QoS 2 the caller chooses the packet id, from Options.OwnIDs on and not in use, and PUBREL is sent only after Release; of QoS 1 p has
// the packet id afterwards. When the server has lost its session, the message is sent as a new one, whatever had become of it.
func (c *Client) Deliver(ctx context.Context, p *packet.Publish, follow func(s Step, code packet.Code)) error {
	o := &outgoing{qos: p.QoS, follow: follow}
	if p.QoS == 2 {
		o.id = p.PacketID
	}
	if err := o.encode(p, c.o.Connect.Version); err != nil {
		return err
	}
	if err := c.put(ctx, p, o); err != nil {
		return err
	}
	p.PacketID = o.id
	return nil
}

// Release lets the PUBREL of a message leave of which Received was told.
func (c *Client) Release(id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.pending[id]
	if o == nil || !o.received || o.released { // the server's session ended meanwhile
		return
	}
	o.released = true
	c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: id})
}

// Restore puts a QoS 2 message of an earlier process behind those restored before: its PUBLISH is sent again, or, if it was released
// then, its PUBREL only; p may then be nil. Before the first Connect.
func (c *Client) Restore(id uint16, p *packet.Publish, released bool, follow func(s Step, code packet.Code)) error {
	o := &outgoing{id: id, qos: 2, follow: follow, sent: true, dup: true, received: released, released: released}
	if p != nil {
		if err := o.encode(p, c.o.Connect.Version); err != nil {
			return err
		}
		o.wire[o.idAt], o.wire[o.idAt+1] = byte(id>>8), byte(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o.order = c.order
	c.order++
	c.pending[id] = o
	return nil
}

// RestoreReceived enters a QoS 2 message of the server that an earlier process received, and the server has not released: if it comes
// again, it is a repeated one. Before the first Connect.
func (c *Client) RestoreReceived(id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inbound[id] = true
}

// GiveUp forgets a message of Deliver that is on its way: nothing of it is sent again. It belongs between two connections.
func (c *Client) GiveUp(id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
	c.wake()
}

func (o *outgoing) encode(p *packet.Publish, v packet.Version) (err error) {
	if o.wire, o.idAt, err = packet.AppendPublish(make([]byte, 0, roomFor(p)), p, v); err != nil {
		return fmt.Errorf("mqtt: encode PUBLISH: %w", err)
	}
	return nil
}
