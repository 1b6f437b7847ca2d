package sim

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// ReplayOptions describe a replay of the recording: 1,999 messages of seven buses in Helsinki.
//
// Every vehicle has its connection; its client id is "bus-" with operator and number. All vehicles begin together (but for a
// part of a second, so that they are not in step), each with its own gaps cut. On MQTT 5 messages are stamped in user properties
// (PropDevice, PropSequence, PropTime); before that they have no stamp. Unless Now is set or a vehicle is a clone, topics and
// payloads are exactly the recorded ones.
type ReplayOptions struct {
	FleetOptions
	Speed    float64 // times the recorded one; default 1. +Inf: as fast as the window allows
	Vehicles int     // default and at most exact: 7, those with the most messages first; beyond, clones with numbers of their own
	Now      bool    // shift the times in the payloads to the present. (The operating day and the start time stay as recorded.)
	Loop     bool    // begin again at the end of the recording, until ctx is done
}

// Replay plays the recording to its end, or until ctx is done, then waits for the acknowledgements.
func Replay(ctx context.Context, o ReplayOptions) (FleetStats, error) {
	vehicles, err := embedded()
	if err != nil {
		return FleetStats{}, err
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Speed < 0 || math.IsNaN(o.Speed) {
		return FleetStats{}, fmt.Errorf("sim: replay: speed of %v", o.Speed)
	}
	if o.Vehicles == 0 {
		o.Vehicles = len(vehicles)
	}
	devices := make([]device, o.Vehicles)
	for i := range devices {
		s := &replaySource{o: &o, v: vehicles[i%len(vehicles)]}
		id := s.v.id
		if clone := i / len(vehicles); clone > 0 {
			s.number = cloneNumber(s.v.number, clone)
			id = strings.TrimSuffix(id, s.v.number) + s.number
		}
		s.phase = phase(i)
		devices[i] = device{id: "bus-" + strings.ReplaceAll(id, "/", "-"), source: s, paced: !math.IsInf(o.Speed, 1)}
		if o.Loop {
			devices[i].resume = s.resume
		}
	}
	f := newFleet(o.FleetOptions, o.Speed)
	if !o.Loop {
		for i := range devices {
			f.total += uint64(len(vehicles[i%len(vehicles)].events))
		}
	}
	return f.run(ctx, devices)
}

// cloneNumber gives a clone a number of its own: recorded ones have four digits behind zeros.
func cloneNumber(number string, clone int) string {
	return fmt.Sprintf("%d%s", clone, number[len(number)-4:])
}

// replaySource is what one vehicle sends.
type replaySource struct {
	o      *ReplayOptions
	v      *recorded
	number string // a clone's
	phase  time.Duration
	p      packet.Publish
	e      *event        // the present one
	i      int           // the next one
	round  time.Duration // recorded time of the rounds before
}

// resume begins where a loop has come to. The device counts its messages by one.
func (s *replaySource) resume(last uint64) {
	s.i = int(last % uint64(len(s.v.events)))
	if s.i > 0 {
		s.round = shortGap - s.v.events[s.i].at
	}
}

func (s *replaySource) next() (after time.Duration, ok bool) {
	if s.i == len(s.v.events) {
		if !s.o.Loop {
			return 0, false
		}
		s.round += s.v.events[s.i-1].at + shortGap
		s.i = 0
	}
	s.e = &s.v.events[s.i]
	s.i++
	if math.IsInf(s.o.Speed, 1) {
		return -1, true
	}
	return time.Duration(float64(s.phase+s.round+s.e.at) / s.o.Speed), true
}

func (s *replaySource) message(stamp *Stamp) *packet.Publish {
	var at time.Time
	if s.o.Now {
		at = stamp.Due
	}
	s.p.Topic, s.p.Payload = s.e.render(s.p.Topic[:0], s.p.Payload[:0], s.v, s.number, at)
	return &s.p
}
