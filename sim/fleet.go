package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// FleetOptions are what all that plays devices has in common. Only Dial is required.
type FleetOptions struct {
	// Dial opens a device's connection; see DialTCP.
	Dial func(ctx context.Context) (net.Conn, error)
	// Connect is the CONNECT of every device, but for the client id. Version 0 is 5.0.
	Connect packet.Connect
	// Fresh: see ClientOptions. Forget ends a device's session when it is done and nothing is on its way.
	Fresh, Forget bool
	// QoS of the messages.
	QoS byte
	// Window is how many QoS 1 and 2 messages of one device may be on their way; default 64. What a device has sampled beyond that, or
	// while it is offline, waits on it.
	Window int
	// ConnectRate is how many devices begin per second; default 1,000.
	ConnectRate float64
	// Network is how the devices are connected; nil: as the machine is.
	Network *Network
	// Seed decides what is random: where vehicles drive, when there is coverage.
	Seed uint64
	// Ledger, if there is one, enters every message. Its devices go on with their sequences where it ended.
	Ledger *Ledger
	// Last, if there is no ledger, says what the last sequence of a device was; nil: all begin with 1.
	Last func(device string) uint64
	// Report, if there is one, is called every Every (default 1 s) and once at the end, from one goroutine.
	Report func(s FleetStats)
	Every  time.Duration
	// Duration is how long the devices send; 0: until their end, or until ctx is done.
	Duration time.Duration
	// Grace is how long the end waits for acknowledgements; default 10 s.
	Grace time.Duration
}

// FleetStats are the figures of a fleet up to now.
type FleetStats struct {
	Elapsed   time.Duration
	Devices   int // of the fleet
	Connected int
	Connects  uint64 // connections made, those again included
	Total     uint64 // messages there are to send; 0: no end
	Sent      uint64
	Bytes     uint64 // payload
	Acked     uint64
	Refused   uint64
	Resent    uint64  // by devices that have ended
	InFlight  uint64  // QoS 1 and 2, not answered
	Rate      float64 // messages sent per second since the last report
	// Late is from when a message was due to when there was room to send it, Ack from when it was due to its PUBACK or PUBREC.
	Late, Ack *Histogram
	// Recent is Ack of the last ten seconds.
	Recent metrics.Snapshot
}

// source is what one device sends.
type source interface {
	// next moves on to the next message and says when it is due after the device's begin; negative: as soon as there is room. false:
	// there is none.
	next() (after time.Duration, ok bool)
	// message returns that message, valid until next is called. Who it is of and when it was sampled, by the device's clock, is for a
	// stamp in the payload.
	message(s *Stamp) *packet.Publish
}

type device struct {
	id      string
	source  source
	paced   bool         // its messages have a schedule
	stamped bool         // the source stamps the payload in full: no user properties
	resume  func(uint64) // tells the source the sequence of the device's last message, if it has sent any; nil: it need not know
}

// fleet runs devices, each with a connection and a goroutine of its own.
type fleet struct {
	o                                             FleetOptions
	speed                                         float64
	devices                                       int
	total                                         uint64 // messages that all devices have; 0: no end
	connected                                     atomic.Int64
	connects, sent, bytes, acked, refused, resent atomic.Uint64
	late, ack                                     Histogram
	reached                                       atomic.Bool // a device was connected: there is a server
}

// newFleet makes a fleet whose network and clocks run at a speed.
func newFleet(o FleetOptions, speed float64) *fleet {
	if o.ConnectRate == 0 {
		o.ConnectRate = 1000
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if speed == 0 || math.IsInf(speed, 1) {
		speed = 1
	}
	return &fleet{o: o, speed: speed}
}

// run plays all devices until their sources end or ctx does. If the first connection of all fails, or the server does not let a
// device in at its first, the run ends, for then the address or the credentials are wrong; else a device without a connection
// tries again.
func (f *fleet) run(ctx context.Context, devices []device) (FleetStats, error) {
	start := time.Now()
	f.devices = len(devices)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if f.o.Duration > 0 {
		var over context.CancelFunc
		ctx, over = context.WithTimeout(ctx, f.o.Duration)
		defer over()
	}
	reported := make(chan struct{})
	stopReports := make(chan struct{})
	go func() {
		defer close(reported)
		f.report(start, stopReports)
	}()
	var devicesDone sync.WaitGroup
	for i := range devices {
		devicesDone.Go(func() {
			begin := start.Add(time.Duration(float64(i) / f.o.ConnectRate * float64(time.Second)).Truncate(grid))
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

func (f *fleet) report(start time.Time, stop <-chan struct{}) {
	if f.o.Report == nil {
		return
	}
	t := time.NewTicker(f.o.Every)
	defer t.Stop()
	recent := metrics.NewWindow(&f.ack, 10*time.Second)
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
		recent.Tick(now)
		s.Recent = recent.Recent(now)
		f.o.Report(s)
	}
}

func (f *fleet) stats(start time.Time) FleetStats {
	s := FleetStats{
		Elapsed:   time.Since(start),
		Devices:   f.devices,
		Connected: int(f.connected.Load()),
		Connects:  f.connects.Load(),
		Acked:     f.acked.Load(), // before sent, so that what is in flight is never negative
		Refused:   f.refused.Load(),
		Resent:    f.resent.Load(),
		Total:     f.total,
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
