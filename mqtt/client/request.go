package client

import (
	"context"
	"fmt"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Subscribe asks for subscriptions and returns the server's word on each. A refusal of one is not an error.
func (c *Client) Subscribe(ctx context.Context, filters ...packet.Filter) ([]packet.Code, error) {
	return c.SubscribeAs(ctx, &packet.Subscribe{Filters: filters})
}

// SubscribeAs sends a SUBSCRIBE as it is, but for the packet id.
func (c *Client) SubscribeAs(ctx context.Context, p *packet.Subscribe) ([]packet.Code, error) {
	return c.request(ctx, func(id uint16) packet.Packet {
		s := *p
		s.PacketID = id
		return &s
	})
}

// Unsubscribe ends subscriptions. In 3.1.1 the answer has no codes.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) ([]packet.Code, error) {
	return c.request(ctx, func(id uint16) packet.Packet { return &packet.Unsubscribe{PacketID: id, Filters: filters} })
}

func (c *Client) request(ctx context.Context, build func(id uint16) packet.Packet) ([]packet.Code, error) {
	answer := make(chan *packet.Suback, 1)
	c.mu.Lock()
	l := c.link
	if l == nil {
		c.mu.Unlock()
		return nil, ErrOffline
	}
	id := c.newID()
	wire, err := build(id).Append(nil, l.version)
	if err == nil {
		c.requests[id] = answer
		l.out = append(l.out, wire...)
		l.signal()
	}
	c.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("mqtt: encode request: %w", err)
	}
	defer func() {
		c.mu.Lock()
		delete(c.requests, id)
		c.mu.Unlock()
	}()
	select {
	case a := <-answer:
		return a.Codes, nil
	case <-l.ended:
		return nil, fmt.Errorf("%w: %w", ErrOffline, l.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
