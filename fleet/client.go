package fleet

import "time"

// StaleAfter is how long a device may say nothing before it is shown as stale.
const StaleAfter = 60 * time.Second

// Box is a part of the map, degrees WGS 84. West > East crosses the antimeridian.
type Box struct{ West, South, East, North float64 }

// Client is one page's place in the live channel. Its methods are safe for concurrent use.
type Client struct{}

// NewClient returns a client that sees nothing until SetView. It costs until it is closed.
func (v *View) NewClient() *Client { return &Client{} }

// Close ends the client.
func (c *Client) Close() {}

// SetView says what the page shows.
func (c *Client) SetView(b Box, zoom float64) {}

// NeedKey has the next frame begin anew.
func (c *Client) NeedKey() {}

// Frame returns the frame of the last tick, to be sent; false: it was taken already, or there is no tick or view yet. Not to send a
// frame makes a hole in the sequence, so ask when there is room.
func (c *Client) Frame() (frame []byte, ok bool) { return nil, false }

// Seen says that a frame was drawn, at a time of the node's clock; false: that cannot be.
func (c *Client) Seen(seq uint32, at time.Time) bool { return false }
