package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// FleetOptions are what Replay and Load have in common. Only Dial is required.
type FleetOptions struct {
	// Dial opens a device's connection; see DialTCP.
	Dial func(ctx context.Context) (net.Conn, error)
	// Connect is the CONNECT of every device, but for the client id. Version 0 is 5.0.
	Connect packet.Connect
	// QoS of the messages.
	QoS byte
	// Window is how many QoS 1 and 2 messages of one device may be on their way; default 64.
	Window int
	// ConnectRate is how many devices begin per second; default 1,000.
	ConnectRate float64
	// Ledger, if there is one, enters every message. Its devices go on with their sequences where it ended.
	Ledger *Ledger
	// Report, if there is one, is called every Every (default 1 s) and once at the end, from one goroutine.
	Report func(s FleetStats)
	Every  time.Duration
	// Grace is how long the end waits for acknowledgements; default 10 s.
	Grace time.Duration
}

// FleetStats are the figures of a fleet up to now.
type FleetStats struct {
	Elapsed   time.Duration
	Connected int
	Connects  uint64 // connections made, those again included
	Sent      uint64
	Bytes     uint64 // payload
	Acked     uint64
	Refused   uint64
	InFlight  uint64  // QoS 1 and 2, not answered
	Rate      float64 // messages sent per second since the last report
	// Late is from when a message was due to when there was room to send it, Ack from when it was due to its PUBACK or PUBREC.
	Late, Ack *Histogram
}

// source is what one device sends.
type source interface {
	// next returns the next message, valid until the call after, and when it is due after the device's begin; negative means as
	// soon as there is room. device and sequence are for a stamp in the payload.
	next(s *Stamp, begin time.Time) (p *packet.Publish, after time.Duration, ok bool)
}

type device struct {
	id      string
	source  source
	stamped bool // the source stamps the payload: no user properties
}

// fleet runs devices, each with a connection and a goroutine of its own.
type fleet struct {
	o                                     FleetOptions
	connected                             atomic.Int64
	connects, sent, bytes, acked, refused atomic.Uint64
	late, ack                             Histogram
	reached                               atomic.Bool // a device was connected: there is a server
}

func newFleet(o FleetOptions) *fleet {
	if o.ConnectRate == 0 {
		o.ConnectRate = 1000
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	return &fleet{o: o}
}

// run plays all devices until their sources end or ctx does. If the first connection of all fails, or the server does not let a
// device in at its first, the run ends, for then the address or the credentials are wrong; else a device without a connection
// tries again.
func (f *fleet) run(ctx context.Context, devices []device) (FleetStats, error) {
	start := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reported := make(chan struct{})
	stopReports := make(chan struct{})
	go func() {
		defer close(reported)
		f.report(start, stopReports)
	}()
	var devicesDone sync.WaitGroup
	for i := range devices {
		devicesDone.Go(func() {
			begin := start.Add(time.Duration(float64(i) / f.o.ConnectRate * float64(time.Second)))
			if err := f.play(ctx, &devices[i], begin); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("sim: device %s: %w", devices[i].id, err))
			}
		})
	}
	devicesDone.Wait()
	close(stopReports)
	<-reported
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = nil // asked to end
	}
	return f.stats(start), err
}

// play is one device's life.
func (f *fleet) play(ctx context.Context, d *device, begin time.Time) error {
	if !sleepUntil(ctx, begin) {
		return nil
	}
	o := ClientOptions{Dial: f.o.Dial, Connect: f.o.Connect, Window: f.o.Window, OnMessage: func(*packet.Publish) {}}
	o.Connect.ClientID = d.id
	c := NewClient(o)
	if _, err := c.Connect(ctx); err == nil {
		f.reached.Store(true)
	} else if !f.reached.Load() || hopeless(err) {
		return err
	}
	c.setKeeping(true) // before anything is sent: from here on a lost connection is not the end
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	var kept sync.WaitGroup
	kept.Go(func() {
		_ = c.Keep(keep, func(context.Context, bool) error { f.up(c); return nil }) // without a connection in the end, its messages are in doubt
	})
	err := f.send(ctx, c, d, begin)
	grace, done := context.WithTimeout(keep, f.o.Grace)
	defer done()
	_ = c.Drain(grace) // what is left over stays in doubt, and the figures show it
	stop()
	kept.Wait()
	return err
}

func (f *fleet) up(c *Client) {
	f.connects.Add(1)
	f.connected.Add(1)
	ended := c.Done()
	go func() {
		<-ended
		f.connected.Add(-1)
	}()
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

func (f *fleet) send(ctx context.Context, c *Client, d *device, begin time.Time) error {
	stamp := Stamp{Device: d.id}
	if f.o.Ledger != nil {
		stamp.Sequence = f.o.Ledger.Last(d.id)
	}
	for {
		stamp.Sequence++
		p, after, ok := d.source.next(&stamp, begin)
		if !ok || !f.await(ctx, &stamp, begin, after) {
			return nil
		}
		p.QoS = f.o.QoS
		if !d.stamped && (f.o.Connect.Version == 0 || f.o.Connect.Version == packet.V5) {
			p.Props.User = stamp.properties()
		}
		ref := -1
		if f.o.Ledger != nil {
			ref = f.o.Ledger.Sent(d.id, stamp.Sequence, p)
		}
		due := stamp.Due
		err := c.Publish(ctx, p, func(code packet.Code) { f.answered(ref, due, code) })
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // asked to end
			}
			return err
		}
		f.late.Record(time.Since(due))
		f.sent.Add(1)
		f.bytes.Add(uint64(len(p.Payload)))
	}
}

// await sets when a message is due and waits for that time. It is false once the run is to end.
func (f *fleet) await(ctx context.Context, s *Stamp, begin time.Time, after time.Duration) bool {
	if after < 0 {
		return ctx.Err() == nil
	}
	s.Due = begin.Add(after)
	return sleepUntil(ctx, s.Due)
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
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *fleet) report(start time.Time, stop <-chan struct{}) {
	if f.o.Report == nil {
		return
	}
	t := time.NewTicker(f.o.Every)
	defer t.Stop()
	last, lastSent := start, uint64(0)
	for more := true; more; {
		select {
		case <-t.C:
		case <-stop:
			more = false
		}
		s, now := f.stats(start), time.Now()
		if d := now.Sub(last).Seconds(); d > 0 {
			s.Rate = float64(s.Sent-lastSent) / d
		}
		last, lastSent = now, s.Sent
		f.o.Report(s)
	}
}

func (f *fleet) stats(start time.Time) FleetStats {
	s := FleetStats{
		Elapsed:   time.Since(start),
		Connected: int(f.connected.Load()),
		Connects:  f.connects.Load(),
		Acked:     f.acked.Load(), // before sent, so that what is in flight is never negative
		Refused:   f.refused.Load(),
		Bytes:     f.bytes.Load(),
		Late:      &f.late,
		Ack:       &f.ack,
	}
	s.Sent = f.sent.Load()
	if s.Elapsed > 0 {
		s.Rate = float64(s.Sent) / s.Elapsed.Seconds()
	}
	if answered := s.Acked + s.Refused; f.o.QoS > 0 && s.Sent > answered {
		s.InFlight = s.Sent - answered
	}
	return s
}
