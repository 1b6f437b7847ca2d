package sim

import (
	"context"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// TrackOptions describe a fleet that drives recorded tracks. Tracks is required.
//
// Every vehicle has its connection. Its message is JSON: its stamp, `time` (when the position was recorded), lat, lon, speed and
// heading. All vehicles keep the recording's common time.
type TrackOptions struct {
	FleetOptions
	Tracks   *Tracks
	Vehicles int       // default all; beyond, clones with names of their own, which begin elsewhere in the recording
	Prefix   string    // of the client ids, before the vehicle's name in the file; default none
	Topic    string    // {vehicle} stands for the client id; default "fleet/{vehicle}/position"
	Speed    float64   // times the recorded one; default 1. +Inf: as fast as the window allows
	Now      bool      // `time` is when the message is due, not when the position was recorded
	Base     time.Time // what times that count from whatever begin with; default the present
	Loop     bool      // begin again at the end, until ctx is done
}

// PlayTracks plays the recording to its end, or until ctx is done, then waits for the acknowledgements.
func PlayTracks(ctx context.Context, o TrackOptions) (FleetStats, error) {
	if o.Topic == "" {
		o.Topic = "fleet/{vehicle}/position"
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Speed < 0 || math.IsNaN(o.Speed) {
		return FleetStats{}, fmt.Errorf("sim: tracks: speed of %v", o.Speed)
	}
	if o.Base.IsZero() {
		o.Base = time.Now()
	}
	recorded := o.Tracks.vehicles
	if o.Vehicles == 0 {
		o.Vehicles = len(recorded)
	}
	f := newFleet(o.FleetOptions, o.Speed)
	if !o.Loop {
		for i := range o.Vehicles {
			f.total += uint64(len(recorded[i%len(recorded)].fixes))
		}
	}
	devices, sources := make([]device, o.Vehicles), make([]*trackSource, o.Vehicles)
	begin := time.Duration(0)
	for i := range devices {
		v, clone := recorded[i%len(recorded)], i/len(recorded)
		id := o.Prefix + v.id
		if clone > 0 {
			id += "-" + strconv.Itoa(clone+1)
		}
		s := &trackSource{o: &o, v: v, p: packet.Publish{Topic: []byte(strings.ReplaceAll(o.Topic, "{vehicle}", id))}}
		s.offset = time.Duration(math.Mod(float64(clone)*math.Phi, 1) * float64(o.Tracks.Length))
		s.from = sort.Search(len(v.fixes), func(k int) bool { return v.fixes[k].at >= s.offset })
		if s.n = int(f.last(id)); s.n > 0 { // an earlier run: all go on where the one that came furthest had come to
			begin = max(begin, s.at(s.n-1))
		}
		devices[i], sources[i] = device{id: id, source: s, paced: !math.IsInf(o.Speed, 1)}, s
	}
	for _, s := range sources {
		s.begin = begin
	}
	return f.run(ctx, devices)
}

// trackSource is what one vehicle sends.
type trackSource struct {
	o      *TrackOptions
	v      *track
	offset time.Duration // where in the recording it begins
	from   int           // the first of its positions from there on
	n      int           // messages before
	begin  time.Duration // of this run, on the run's time line
	p      packet.Publish
}

// at is when message n is due, from the begin of the very first run.
func (s *trackSource) at(n int) time.Duration {
	k := s.from + n
	rounds, i := k/len(s.v.fixes), k%len(s.v.fixes)
	return s.v.fixes[i].at - s.offset + time.Duration(rounds)*(s.o.Tracks.Length+time.Second)
}

func (s *trackSource) next() (time.Duration, bool) {
	if s.n >= len(s.v.fixes) && !s.o.Loop {
		return 0, false
	}
	s.n++
	if math.IsInf(s.o.Speed, 1) {
		return -1, true
	}
	return time.Duration(float64(max(0, s.at(s.n-1)-s.begin)) / s.o.Speed), true
}

func (s *trackSource) message(stamp *Stamp) *packet.Publish {
	x := &s.v.fixes[(s.from+s.n-1)%len(s.v.fixes)]
	at := x.time
	switch {
	case s.o.Now:
		at = stamp.Due
	case s.o.Tracks.Relative:
		at = s.o.Base.Add(s.at(s.n - 1))
	}
	b := appendJSONStamp(s.p.Payload[:0], stamp)
	b = append(at.UTC().AppendFormat(append(b, `,"time":"`...), timeForm), '"')
	s.p.Payload = append(appendPosition(b, x.lat, x.lon, float64(x.speed), float64(x.heading)), '}')
	return &s.p
}
