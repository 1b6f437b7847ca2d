package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// farewell is how clients are sent away.
type farewell struct {
	server string // that they are told to use; "": none
	cause  session.Cause
	since  time.Time
	total  int // clients there were when it began

	told    atomic.Int64
	cut     atomic.Int64
	pending atomic.Bool // not all are gone
}

// Evacuation is how far the sending away of clients is.
type Evacuation struct {
	Active    bool // clients are sent away, or have been, and none is let in
	Running   bool // some are still there
	Reference string
	Since     time.Time
	Total     int // clients there were when it began
	Told      int // clients that were sent away
	Cut       int // of them those that did not close their side, and were cut off
	Left      int // clients that are still there
}

// Evacuate sends every client away, rate of them a second (0: all at once), and lets none in until Admit. Clients of 5.0 are told which
// server to use instead (0x9C), or, without a reference, that this one is going (0x8B). What was read of a client is acknowledged
// first; its session stays; its will is removed, as if it had disconnected by itself, and counted. Evacuate returns when the last client is gone.
// When ctx ends before, clients are let in again; those that were sent away are.
func (b *Broker) Evacuate(ctx context.Context, reference string, rate int) error {
	f := &farewell{server: reference, cause: session.Moved}
	err := b.sendAway(ctx, f, rate)
	if err != nil {
		b.away.CompareAndSwap(f, nil)
	}
	return err
}

// Retire sends every client away, as Evacuate does, from a broker that is about to be closed. Clients that have no other server to use
// come back after a restart: the wills of these stay, and wait for that.
func (b *Broker) Retire(ctx context.Context, reference string, rate int) error {
	f := &farewell{server: reference, cause: session.Draining}
	if reference != "" {
		f.cause = session.Moved
	}
	return b.sendAway(ctx, f, rate)
}

// Admit lets clients in again, after an Evacuate or in the middle of one; false: it was not closed to them.
func (b *Broker) Admit() bool { return b.away.Swap(nil) != nil }

// Evacuation tells how far Evacuate or Retire has come.
func (b *Broker) Evacuation() Evacuation {
	f := b.away.Load()
	if f == nil {
		return Evacuation{}
	}
	return Evacuation{
		Active: true, Running: f.pending.Load(), Reference: f.server, Since: f.since, Total: f.total,
		Told: int(f.told.Load()), Cut: int(f.cut.Load()), Left: len(b.guests()),
	}
}

// ErrEvacuating is what Evacuate and Retire return while another one is under way.
var ErrEvacuating = errors.New("clients are being sent away already")

// ErrAdmitted is what they return when Admit has ended them.
var ErrAdmitted = errors.New("clients are let in again")

// guests are the connections that have a session.
func (b *Broker) guests() (cs []*conn) {
	for _, c := range b.roster.all() {
		c.mu.Lock()
		if c.accepted {
			cs = append(cs, c)
		}
		c.mu.Unlock()
	}
	return cs
}

const (
	farewellStep = 20 * time.Millisecond
	farewellTime = 5 * time.Second // that who was sent away has to take it; then it is cut off
)

func (b *Broker) sendAway(ctx context.Context, f *farewell, rate int) error {
	f.since = b.o.Now()
	f.total = len(b.guests())
	f.pending.Store(true)
	for before := b.away.Load(); ; before = b.away.Load() {
		if before != nil && before.pending.Load() {
			return ErrEvacuating
		}
		if b.away.CompareAndSwap(before, f) {
			break
		}
	}
	defer f.pending.Store(false)
	step := time.NewTicker(farewellStep)
	defer step.Stop()
	told := map[*conn]time.Time{}
	for began := time.Now(); ; {
		if b.away.Load() != f {
			return ErrAdmitted
		}
		cs := b.guests()
		if len(cs) == 0 {
			return nil
		}
		for _, c := range cs {
			if at, is := told[c]; is {
				if time.Since(at) > farewellTime {
					f.cut.Add(1)
					told[c] = time.Now()
					c.cut(label(f.code()))
				}
				continue
			}
			for rate > 0 && float64(len(told)) > time.Since(began).Seconds()*float64(rate) {
				if err := b.farewellWait(ctx, step.C); err != nil {
					return err
				}
				if b.away.Load() != f {
					return ErrAdmitted
				}
			}
			told[c] = time.Now()
			f.told.Add(1)
			c.dismiss(f)
		}
		if err := b.farewellWait(ctx, step.C); err != nil {
			return err
		}
	}
}

// farewellWait waits a step, or until it is all over.
func (b *Broker) farewellWait(ctx context.Context, step <-chan time.Time) error {
	select {
	case <-step:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("send clients away: %d are left: %w", len(b.guests()), ctx.Err())
	case <-b.stop:
		return fmt.Errorf("send clients away: %w", ErrClosed)
	}
}

// code is the reason in the DISCONNECT.
func (f *farewell) code() packet.Code {
	if f.server != "" {
		return packet.UseAnotherServer
	}
	return packet.ServerShuttingDown
}

// refusal is the answer to a CONNECT that comes meanwhile.
func (f *farewell) refusal() *fault {
	code := packet.ServerUnavailable
	if f.server != "" {
		code = packet.UseAnotherServer
	}
	return &fault{code, "the server takes no clients at present"}
}

// refer names the server to use in a packet that says so.
func (f *farewell) refer(code packet.Code, p *packet.Properties) {
	if f != nil && f.server != "" && code == packet.UseAnotherServer {
		p.Has |= packet.PServerReference
		p.ServerReference = f.server
	}
}

// dismiss has the reader end its connection, once what it has read is acknowledged.
func (c *conn) dismiss(f *farewell) {
	c.mu.Lock()
	c.dismissed = f
	c.rouse()
	c.mu.Unlock()
	c.nc.SetReadDeadline(longAgo)
}

// depart is the reader's, when it has been dismissed or the broker stops.
func (c *conn) depart() {
	f := c.isDismissed() // Admit may have come since
	if f == nil {
		f = c.b.away.Load()
	}
	if f == nil {
		f = &farewell{cause: session.Draining}
	}
	if c.accepted {
		c.cause = f.cause
		c.awaitLanded()
	}
	d := &packet.Disconnect{Code: f.code()}
	d.Props.Has, d.Props.ReasonString = packet.PReasonString, "the server is stopping"
	f.refer(d.Code, &d.Props)
	c.endWith(d, label(d.Code))
}
