package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// play is one device's life.
func (f *fleet) play(ctx context.Context, d *device, begin time.Time) error {
	if !sleepUntil(ctx, begin) {
		return nil
	}
	c, network := f.client(d, begin)
	defer network.end()
	if _, err := c.Connect(ctx); err == nil {
		f.reached.Store(true)
	} else if hopeless(err) || !f.reached.Load() && !errors.Is(err, client.ErrImpatient) { // that one was its network's
		return err
	}
	c.Await(true) // before anything is sent: from here on a lost connection is not the end
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var kept sync.WaitGroup
	kept.Go(func() { _ = keep(keeping, c, f.o.Forget, nil) }) // without a connection in the end, its messages are in doubt
	// At the end everybody has coverage, and what is sampled is sent, unless the server does not take it within Grace.
	sending, giveUp := context.WithCancel(keeping)
	defer giveUp()
	defer context.AfterFunc(ctx, func() {
		network.heal()
		time.AfterFunc(f.o.Grace, func() { giveUp(); c.Drop() })
	})()
	err := f.send(ctx, sending, c, d, begin, network)
	network.heal()
	grace, done := context.WithTimeout(keeping, f.o.Grace)
	defer done()
	_ = c.Drain(grace) // what is left over stays in doubt, and the figures show it
	stop()
	kept.Wait()
	f.resent.Add(uint64(c.Stats().Resent))
	return err
}

// client makes the device's MQTT client, and its network, if it has one.
func (f *fleet) client(d *device, begin time.Time) (*Client, *coverage) {
	o := ClientOptions{Dial: f.o.Dial, Connect: f.o.Connect, Window: f.o.Window, Fresh: f.o.Fresh, Seldom: d.paced,
		OnMessage: func(*packet.Publish) {}, OnLink: f.linked}
	o.Connect.ClientID = d.id
	if f.o.Network == nil {
		return NewClient(o), nil
	}
	network := newCoverage(f.o.Network, f.speed, f.o.Seed, d.id, begin)
	o.Dial, o.Patience = network.dialler(f.o.Dial), f.o.Network.patience(f.speed)
	return NewClient(o), network
}

func (f *fleet) linked(up bool) {
	if up {
		f.connects.Add(1)
		f.connected.Add(1)
	} else {
		f.connected.Add(-1)
	}
}

// hopeless refusals stay refusals.
func hopeless(err error) bool {
	var r *Refused
	if !errors.As(err, &r) {
		return false
	}
	switch r.Code {
	case packet.UnsupportedProtocolVersion, packet.ClientIDNotValid, packet.BadUsernameOrPassword, packet.NotAuthorized, packet.Banned,
		packet.BadAuthenticationMethod:
		return true
	}
	return false
}

// send samples and sends what the source has, until that or ctx ends. What is sampled is sent until sending ends.
func (f *fleet) send(ctx, sending context.Context, c *Client, d *device, begin time.Time, network *coverage) error {
	stamp := Stamp{Device: d.id, Sequence: f.last(d.id)}
	if d.resume != nil && stamp.Sequence > 0 {
		d.resume(stamp.Sequence)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		after, ok := d.source.next()
		if !ok {
			return nil
		}
		due := time.Now()
		if after >= 0 {
			if due = begin.Add(after); !sleepOn(ctx, timer, due) {
				return nil
			}
		}
		stamp.Sequence++
		stamp.Due = network.clock(due)
		p := d.source.message(&stamp)
		p.QoS = f.o.QoS
		if !d.stamped && (f.o.Connect.Version == 0 || f.o.Connect.Version == packet.V5) {
			p.Props.User = stamp.properties()
		}
		ref := -1
		if f.o.Ledger != nil {
			ref = f.o.Ledger.Sent(d.id, stamp.Sequence, p)
		}
		err := c.Publish(sending, p, func(code packet.Code) { f.answered(ref, due, code) })
		if err != nil {
			if ctx.Err() != nil {
				return nil // asked to end
			}
			return err
		}
		f.late.Record(time.Since(due))
		f.sent.Add(1)
		f.bytes.Add(uint64(len(p.Payload)))
	}
	return nil
}

// last is the sequence that a device goes on after.
func (f *fleet) last(id string) uint64 {
	switch {
	case f.o.Ledger != nil:
		return f.o.Ledger.Last(id)
	case f.o.Last != nil:
		return f.o.Last(id)
	}
	return 0
}

func (f *fleet) answered(ref int, due time.Time, code packet.Code) {
	if ref >= 0 {
		f.o.Ledger.Acked(ref, code)
	}
	if code.Failed() {
		f.refused.Add(1)
		return
	}
	f.acked.Add(1)
	f.ack.Record(time.Since(due))
}

// sleepUntil is false if ctx ended first.
func sleepUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	return sleepOn(ctx, timer, t)
}

// sleepOn does it with a timer that is used again and again.
func sleepOn(ctx context.Context, timer *time.Timer, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer.Reset(d) // since Go 1.23 nothing of its last use is left in its channel
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
