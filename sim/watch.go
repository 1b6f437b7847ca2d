package sim

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// WatchOptions describe a subscriber. Dial and Filter are required.
type WatchOptions struct {
	Dial    func(ctx context.Context) (net.Conn, error)
	Connect packet.Connect
	Filter  string
	QoS     byte
	// Fresh: see ClientOptions. Forget ends the session when ctx is done and nothing is on its way.
	Fresh, Forget bool
	// Name is the reader's in the ledger; default the client id. The members of a shared subscription have one name: what is owed is owed
	// to them together, from when the first one has subscribed. The others join.
	Name  string
	Joins bool
	// Ledger, if there is one, enters every message. The reader is owed what is sent after the server has granted the
	// subscription, or, if it had the session already, all that is sent from now on.
	Ledger *Ledger
	// Latency, if there is one, gets the time from when a stamped message was due to when it came.
	Latency *Histogram
	// Ready, if there is one, is called once, when the subscription stands.
	Ready func()
	// OnMessage, if there is one, gets every message after the ledger did.
	OnMessage func(p *packet.Publish)
}

// Watch subscribes and enters what it gets until ctx is done, connecting again whenever the connection ends. It subscribes again
// only when the server does not have the session any more. It returns an error if the first subscription does not come about.
func Watch(ctx context.Context, o WatchOptions) (ClientStats, error) {
	var reader *Reader
	if o.Ledger != nil {
		filter := o.Filter
		if _, own, shared, _ := topic.ParseShared(o.Filter); shared {
			filter = own
		}
		reader = o.Ledger.Reader(cmp.Or(o.Name, o.Connect.ClientID), filter, o.QoS)
	}
	c := NewClient(ClientOptions{Dial: o.Dial, Connect: o.Connect, Fresh: o.Fresh, OnMessage: func(p *packet.Publish) { o.message(reader, p) }})
	ack, err := c.Connect(ctx)
	if err == nil {
		err = o.subscribe(ctx, c, ack.SessionPresent)
	}
	if err != nil {
		c.Drop()
		return c.Stats(), fmt.Errorf("sim: watch %q: %w", o.Filter, err)
	}
	if reader != nil && !ack.SessionPresent && !o.Joins {
		reader.Begin()
	}
	if o.Ready != nil {
		o.Ready()
	}
	first := true
	err = keep(ctx, c, o.Forget, func(ctx context.Context, present bool) error {
		if first {
			first = false
			return nil
		}
		return o.subscribe(ctx, c, present)
	})
	return c.Stats(), err
}

func (o *WatchOptions) subscribe(ctx context.Context, c *Client, present bool) error {
	if present {
		return nil
	}
	codes, err := c.Subscribe(ctx, packet.Filter{Filter: o.Filter, QoS: o.QoS})
	if err == nil && codes[0].Failed() {
		err = &Refused{Code: codes[0]}
	}
	return err
}

func (o *WatchOptions) message(reader *Reader, p *packet.Publish) {
	if reader != nil {
		reader.Got(p)
	}
	if o.Latency != nil {
		if stamp, ok := ReadStamp(p); ok {
			o.Latency.Record(time.Since(stamp.Due))
		}
	}
	if o.OnMessage != nil {
		o.OnMessage(p)
	}
}
