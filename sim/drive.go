package sim

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim/city"
)

// DriveOptions describe a fleet of vans that make deliveries in a city, on real streets.
//
// Each has its connection. What it says of itself is JSON (position), once every Every of its own time. Seed decides where all of them
// are at any step.
type DriveOptions struct {
	FleetOptions
	Vehicles int           // default 1,000
	Prefix   string        // of the client ids, before the number; default "van-"
	Topic    string        // {vehicle} stands for the client id; default "city/{vehicle}/position"
	Speed    float64       // times real time; default 1
	Every    time.Duration // between two messages, of the city's time, in whole seconds; default 1 s
	// Resume, if there is one, says how a vehicle was when it was last heard; false: it begins anew.
	Resume func(vehicle string) (was city.State, ok bool)
}

// Drive plays the fleet until ctx is done, then waits for the acknowledgements.
func Drive(ctx context.Context, o DriveOptions) (FleetStats, error) {
	if o.Vehicles == 0 {
		o.Vehicles = 1000
	}
	if o.Prefix == "" {
		o.Prefix = "van-"
	}
	if o.Topic == "" {
		o.Topic = "city/{vehicle}/position"
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if err := o.check(); err != nil {
		return FleetStats{}, err
	}
	streets, err := city.Load()
	if err != nil {
		return FleetStats{}, err
	}
	if o.Vehicles >= 100 {
		streets.Prepare() // else the first messages are late
	}
	devices := make([]device, o.Vehicles)
	for i := range devices {
		id := o.Prefix + pad(i+1, 4)
		s := &driveSource{o: &o, city: streets, number: uint64(i + 1), id: id, phase: phase(i),
			p: packet.Publish{Topic: []byte(strings.ReplaceAll(o.Topic, "{vehicle}", id))}}
		devices[i] = device{id: id, paced: true, source: s, resume: s.resume}
	}
	return newFleet(o.FleetOptions, o.Speed).run(ctx, devices)
}

func (o *DriveOptions) check() error {
	switch {
	case o.Vehicles < 0:
		return fmt.Errorf("sim: drive: %d vehicles", o.Vehicles)
	case !(o.Speed > 0) || math.IsInf(o.Speed, 1):
		return fmt.Errorf("sim: drive: speed of %v", o.Speed)
	case o.Every < time.Second || o.Every%time.Second != 0:
		return fmt.Errorf("sim: drive: a message every %v: whole seconds", o.Every)
	}
	return nil
}

// phase spreads any number of vehicles evenly over the second in which each sends once: the golden ratio does.
func phase(i int) time.Duration {
	return time.Duration(math.Mod(float64(i)*math.Phi, 1) * float64(time.Second)).Truncate(grid)
}

// grid is how finely the second is cut. Those who are due together cost less than those who each wake the processor.
const grid = 10 * time.Millisecond

// pad writes a number with zeros before it.
func pad(n, digits int) string {
	s := strconv.Itoa(n)
	return strings.Repeat("0", max(0, digits-len(s))) + s
}

// driveSource is what one van sends.
type driveSource struct {
	o      *DriveOptions
	city   *city.City
	number uint64
	id     string
	phase  time.Duration
	v      *city.Vehicle // made at the first message: its ways take time to find
	n      int           // messages before, in this run
	before int           // steps of earlier runs that are not taken again
	p      packet.Publish
}

// resume lets a van that nobody remembers be where it has come to: not in no time, if it has driven for days.
func (s *driveSource) resume(last uint64) {
	const most = 20_000 // a millisecond's work
	s.before = int(min(last*uint64(s.o.Every/time.Second), most))
}

func (s *driveSource) next() (time.Duration, bool) {
	after := s.phase + time.Duration(float64(s.n)*float64(s.o.Every)/s.o.Speed)
	s.n++
	return after, true
}

func (s *driveSource) message(stamp *Stamp) *packet.Publish {
	if s.v == nil {
		s.begin()
	}
	var now city.State
	for range s.o.Every / time.Second {
		now = s.v.Step()
	}
	s.p.Payload = appendState(s.p.Payload[:0], stamp, &now)
	return &s.p
}

func (s *driveSource) begin() {
	if s.o.Resume != nil {
		if was, ok := s.o.Resume(s.id); ok {
			s.v = s.city.ResumeVehicle(s.o.Seed, s.number, was)
			return
		}
	}
	s.v = s.city.NewVehicle(s.o.Seed, s.number)
	for range s.before {
		s.v.Step()
	}
}

// appendState writes a van's message: its stamp, then degrees to six decimals, metres per second, degrees, metres, percent.
func appendState(b []byte, stamp *Stamp, s *city.State) []byte {
	b = appendJSONStamp(b, stamp)
	b = appendPosition(b, s.Lat, s.Lon, s.Speed, s.Heading)
	b = strconv.AppendFloat(append(b, `,"odometer":`...), s.Odometer, 'f', 0, 64)
	b = strconv.AppendFloat(append(b, `,"battery":`...), s.Battery, 'f', 2, 64)
	b = append(b, `,"activity":"`...)
	return append(append(b, s.Activity.String()...), `"}`...)
}

// appendPosition writes the fields of a position. Speed and heading are left out where they are not known (negative).
func appendPosition(b []byte, lat, lon, speed, heading float64) []byte {
	b = strconv.AppendFloat(append(b, `,"lat":`...), lat, 'f', 6, 64)
	b = strconv.AppendFloat(append(b, `,"lon":`...), lon, 'f', 6, 64)
	if speed >= 0 {
		b = strconv.AppendFloat(append(b, `,"speed":`...), speed, 'f', 2, 64)
	}
	if heading >= 0 {
		b = strconv.AppendInt(append(b, `,"heading":`...), int64(heading+0.5)%360, 10)
	}
	return b
}
