package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
)

// follower feeds the fleet's view from the tail of the log, in one goroutine.
type follower struct {
	n    *Node
	view *fleet.View
	*passage
	tail  broker.Tail
	into  []broker.TailEvent
	retry <-chan time.Time // of the tail, after an error
	quit  chan struct{}
	done  chan struct{}
}

const (
	fleetTick = time.Second
	// After one batch the next may take this long to be seen: when each message is a commit of its own, the view is not woken for each.
	pollEvery = time.Millisecond
	// What a node reads of the past when it starts, so that it knows its fleet at once: whichever is less.
	pastSpan  = 15 * time.Minute
	pastBytes = 64 << 20
)

// checkFields finds what is wrong with the routes' fields.
func checkFields(c *config.Config) error {
	var ps config.Problems
	for i, r := range c.Routes {
		if _, err := fleet.Compile(fleet.Fields(r.Fields)); err != nil {
			path := fmt.Sprintf("routes[%d].fields", i)
			if wrong, ok := errors.AsType[*fleet.FieldError](err); ok {
				path, err = path+"."+wrong.Key, wrong.Err
			}
			ps = append(ps, config.Problem{Where: c.Where(path), Path: path, Text: err.Error()})
		}
	}
	if ps == nil {
		return nil
	}
	return ps
}

// sources are the routes as the fleet knows them, and the catch-all after them.
func (n *Node) sources() (ss []fleet.Source) {
	for i, r := range n.o.Config.Routes {
		name := r.Topic
		if n.specs[i].Discard {
			name = r.MQTT
		}
		ss = append(ss, fleet.Source{Name: name, Kind: r.Kind, Label: r.Label, Credit: r.Attribution, Fields: fleet.Fields(r.Fields)})
	}
	return append(ss, fleet.Source{Name: route.CatchAllTopic})
}

// placeOf tells which source a message is of.
func (n *Node) placeOf(topic, client string) (source int, key string, ok bool) {
	p, ok := n.store.Place(topic, client)
	if p.Route < 0 {
		p.Route = len(n.specs)
	}
	return p.Route, p.Key, ok
}

func (n *Node) startFleet(ctx context.Context) error {
	starts, ends, err := n.store.Data(ctx)
	if err != nil {
		return fmt.Errorf("follow the fleet: %w", err)
	}
	from := n.past(ctx, starts, ends, pastBytes)
	f := &follower{n: n, passage: newPassage(from, ends), quit: make(chan struct{}), done: make(chan struct{})}
	if f.view, err = fleet.New(fleet.Options{Sources: n.sources(), Place: n.placeOf, Ends: ends}); err != nil {
		return err
	}
	if f.tail, err = n.store.Follow(from); err != nil {
		return fmt.Errorf("follow the fleet: %w", err)
	}
	for _, s := range f.view.Stages() {
		n.measure("send", s.Name, s.Histogram)
	}
	n.fleet = f
	go f.run()
	return nil
}

func (n *Node) stopFleet(context.Context) error {
	close(n.fleet.quit)
	<-n.fleet.done
	n.fleet.tail.Close()
	return nil
}

// past is where the fleet begins to read, about bytes before the ends at most. What it cannot find out costs it the past only.
func (n *Node) past(ctx context.Context, starts, ends session.Vector, bytes float64) session.Vector {
	from, size := session.Vector{}, 0.0
	since := n.now() - pastSpan.Milliseconds()
	for p, end := range ends {
		from[p] = end
		if starts[p] >= end {
			continue
		}
		at, err := n.log.OffsetByTime(ctx, eventlog.Part{Topic: p.Topic, Index: p.Index}, since)
		if err != nil {
			n.o.Logger.Warn("the fleet's past is not read", "part", "fleet", "err", err)
			continue
		}
		if at < 0 || at >= end {
			continue
		}
		from[p] = max(at, starts[p])
		size += float64(end-from[p]) * n.recordSize(ctx, session.Position{Part: p, Offset: end - 1})
	}
	if size > bytes {
		for p, at := range from {
			from[p] = ends[p] - int64(float64(ends[p]-at)*bytes/size)
		}
	}
	return from
}

// recordSize is about what a record takes that is like those at a position.
func (n *Node) recordSize(ctx context.Context, pos session.Position) float64 {
	const overhead = 200 // names of headers, topic, a batch's share
	b, err := n.store.Read(ctx, pos, 1)
	if err != nil || len(b.Msgs) == 0 {
		return overhead
	}
	sum := 0
	for i := range b.Msgs {
		sum += len(b.Msgs[i].Payload) + overhead
	}
	return float64(sum) / float64(len(b.Msgs))
}

// run feeds the view and ticks it until quit is closed.
func (f *follower) run() {
	defer close(f.done)
	tick := time.NewTicker(fleetTick)
	defer tick.Stop()
	ready := make(chan struct{})
	close(ready)
	for {
		var more chan struct{}
		if f.retry == nil && f.poll() {
			more = ready
			time.Sleep(pollEvery)
		}
		select {
		case <-f.quit:
			return
		case <-tick.C:
			f.survive(func() {
				f.view.Tick(f.now())
				f.n.http.Tick()
			})
		case <-f.retry:
			f.retry = nil
		case <-more:
		case <-f.tail.Wake():
		}
	}
}

// poll feeds the view what the tail has; true: there may be more.
func (f *follower) poll() bool {
	const maxBytes = 4 << 20
	events, err := f.tail.Poll(f.into[:0], maxBytes)
	if err != nil {
		f.n.o.Logger.Warn("the tail of the log failed", "part", "fleet", "err", err)
		f.retry = time.After(time.Second)
	}
	now := f.now()
	for i := range events {
		switch e := &events[i]; {
		case e.Batch != nil:
			f.survive(func() { f.view.Add(now, e.Batch) })
		case e.Gap:
			f.view.Gap()
		}
		f.passed(&events[i])
	}
	clear(events)
	f.into = events
	return len(events) > 0
}

func (f *follower) now() time.Time {
	if f.n.o.Now != nil {
		return f.n.o.Now()
	}
	return time.Now()
}

// survive keeps a defect of the view from being one of the node: devices do not suffer from who looks at them.
func (f *follower) survive(step func()) {
	defer func() {
		if r := recover(); r != nil {
			f.n.o.Logger.Error("a defect in the fleet's view; what it shows may be wrong until the node is restarted", "panic", r)
			f.view.Gap()
		}
	}()
	step()
}

func (n *Node) collectFleet(s *metrics.Samples) {
	t := n.fleet.view.Totals()
	s.Gauge("fleet_devices", "Devices that the console knows.", float64(t.Devices))
	s.Gauge("fleet_devices_positioned", "Of these, with a position.", float64(t.Positions))
	s.Gauge("fleet_devices_stale", "Of these, not heard for a minute.", float64(t.Stale))
	s.Gauge("fleet_devices_skewed", "Of these, with a clock that is off.", float64(t.Skewed))
	s.Counter("fleet_devices_forgotten", "Devices forgotten, since there are too many.", float64(t.Forgotten))
	s.Counter("fleet_records", "Records that the console's view of the fleet looked at, those of the last minutes before the start among them.", float64(t.Records))
	s.Counter("fleet_history", "Of these, from before the start.", float64(t.History))
	s.Counter("fleet_messages", "Of these, messages of devices.", float64(t.Messages))
	s.Counter("fleet_left_out", "Of these, left out.", float64(t.Foreign), "reason", "not_sent_by_a_device")
	s.Counter("fleet_left_out", "Of these, left out.", float64(t.Unplaced), "reason", "route_without_devices")
	s.Counter("fleet_left_out", "Of these, left out.", float64(t.Shed), "reason", "too_many_in_a_second")
	metrics.Counters(s, "fleet_refused", "Positions and device names that were not believed.", "reason", t.Refused)
	s.Counter("fleet_gaps", "Holes in the log that the view went over.", float64(t.Gaps))
	s.Gauge("fleet_sequence_missing", "Sequence numbers passed over and not seen since.", float64(t.Missing))
	s.Counter("fleet_sequence_repeated", "Sequence numbers seen again.", float64(t.Repeated))
	s.Counter("fleet_sequence_reordered", "Sequence numbers that came after a later one.", float64(t.Reordered))
	s.Counter("fleet_sequence_restarted", "Times that a device began to count anew.", float64(t.Restarted))
}
