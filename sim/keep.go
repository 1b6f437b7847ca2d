package sim

import (
	"context"
	"errors"
	"time"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// The MQTT client that plays devices, under the names it has here.
type (
	Client        = client.Client
	ClientOptions = client.Options
	ClientStats   = client.Stats
	Refused       = client.Refused
)

// NewClient makes a client. It does not connect.
func NewClient(o ClientOptions) *Client { return client.New(o) }

// DialTCP dials an address, host:port.
var DialTCP = client.DialTCP

// keep keeps a client connected until ctx is done: it takes the connection that there is, if there is one, and connects again
// whenever it has ended, after refusals too. Then it disconnects; forget ends the session then, if nothing is on its way. up, unless
// it is nil, is called for every connection, with whether the server had the session (true for one that was there before); an error
// ends that connection. keep returns the last error if there never was a connection.
func keep(ctx context.Context, c *Client, forget bool, up func(ctx context.Context, present bool) error) error {
	c.Await(true)
	defer c.Await(false)
	const shortest, longest = 20 * time.Millisecond, time.Second
	pause := shortest
	var last error
	for ctx.Err() == nil {
		present := true
		ack, err := c.Connect(ctx)
		if err == nil {
			present = ack.SessionPresent
		} else if errors.Is(err, client.ErrOnline) {
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
	if forget && c.Pending() == 0 {
		c.End(ctx)
	} else {
		c.Disconnect(packet.Success)
	}
	if c.Stats().Connects == 0 {
		return last
	}
	return nil
}
