package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim/city"
)

// vanMessage is what a van says.
type vanMessage struct {
	ID                                          string
	Seq                                         uint64
	TS                                          time.Time
	Lat, Lon, Speed, Heading, Odometer, Battery *float64
	Activity                                    string
	at                                          time.Duration // of the run
	user                                        map[string]string
}

// drive plays vans on a clock of their own and returns what each said.
func drive(t *testing.T, o DriveOptions) map[string][]vanMessage {
	by := map[string][]vanMessage{}
	synctest.Test(t, func(t *testing.T) {
		b := newMemoryBroker(t)
		start := time.Now()
		b.fault = func(p *packet.Publish) []*packet.Publish {
			m := vanMessage{at: time.Since(start), user: map[string]string{}}
			if err := json.Unmarshal(p.Payload, &m); err != nil || string(p.Topic) != "city/"+m.ID+"/position" {
				t.Errorf("%s on %s: %v", p.Payload, p.Topic, err)
			}
			for _, u := range p.Props.User {
				m.user[u.Name] = u.Value
			}
			by[m.ID] = append(by[m.ID], m)
			return nil
		}
		o.Dial, o.QoS = b.dialMemory, 1
		s, err := Drive(t.Context(), o)
		if err != nil || s.Acked != s.Sent || s.Devices != o.Vehicles {
			t.Errorf("%+v, %v", s, err)
		}
		b.cut()
		b.all.Wait()
	})
	return by
}

func TestDrive(t *testing.T) {
	const vehicles = 20
	by := drive(t, DriveOptions{Vehicles: vehicles, FleetOptions: FleetOptions{Seed: 1, Duration: 30500 * time.Millisecond}})
	if ids := slices.Sorted(maps.Keys(by)); len(ids) != vehicles || ids[0] != "van-0001" || ids[vehicles-1] != "van-0020" {
		t.Fatalf("%q", ids)
	}
	slots := make([]int, 10)
	for id, ms := range by {
		if len(ms) < 30 || len(ms) > 31 {
			t.Errorf("%s said %d things in 30 s", id, len(ms))
		}
		for i, m := range ms {
			slots[m.at%time.Second/(100*time.Millisecond)]++
			if m.Seq != uint64(i+1) || m.Lat == nil || m.Lon == nil || m.Speed == nil || m.Heading == nil || m.Odometer == nil || m.Battery == nil || m.Activity == "" {
				t.Fatalf("%s: %+v", id, m)
			}
			if *m.Lat < 52.2 || *m.Lat > 52.5 || *m.Lon < 4.8 || *m.Lon > 5 || *m.Heading >= 360 {
				t.Errorf("%s is at %v %v, heading %v", id, *m.Lat, *m.Lon, *m.Heading)
			}
			us, _ := strconv.ParseInt(m.user[PropTime], 10, 64)
			if m.user[PropDevice] != id || m.user[PropSequence] != fmt.Sprint(m.Seq) || us/1000 != m.TS.UnixMilli() {
				t.Errorf("%s %d: %v", id, m.Seq, m.user)
			}
		}
	}
	for i, n := range slots { // evenly over the second
		if mean := float64(30 * vehicles / 10); math.Abs(float64(n)-mean) > 36 { // that is one van
			t.Errorf("slot %d of 10 has %d messages: %v", i, n, slots)
		}
	}
}

// The seed decides where the vans are at any message, also when it comes every ten seconds, or in a second run.
func TestDriveIsDeterministic(t *testing.T) {
	type place struct{ lat, lon, odometer float64 }
	places := func(by map[string][]vanMessage) (ps map[string][]place) {
		ps = map[string][]place{}
		for id, ms := range by {
			for _, m := range ms {
				ps[id] = append(ps[id], place{*m.Lat, *m.Lon, *m.Odometer})
			}
		}
		return ps
	}
	options := func(seed uint64, seconds int) DriveOptions {
		return DriveOptions{Vehicles: 3, FleetOptions: FleetOptions{Seed: seed, Duration: time.Duration(seconds)*time.Second - 10*time.Millisecond}}
	}
	all := places(drive(t, options(5, 40)))
	other := places(drive(t, options(6, 2)))
	seldom := options(5, 40)
	seldom.Every, seldom.Speed = 10*time.Second, 2
	sparse := places(drive(t, seldom))
	l := NewLedger()
	first, second := options(5, 20), options(5, 20)
	first.Ledger, second.Ledger = l, l
	halves := places(drive(t, first))
	for id, ps := range places(drive(t, second)) {
		halves[id] = append(halves[id], ps...)
	}
	for id, ps := range all {
		if slices.Equal(ps[:1], other[id][:1]) {
			t.Errorf("%s: another seed is the same", id)
		}
		if !slices.Equal(ps, halves[id]) {
			t.Errorf("%s: two runs are not one:\n%v\n%v", id, ps, halves[id])
		}
		for i, p := range sparse[id] {
			if at := 10*i + 9; at < len(ps) && p != ps[at] {
				t.Errorf("%s: message %d of every ten seconds is %v, want %v", id, i, p, ps[at])
			}
		}
		if len(sparse[id]) < 7 {
			t.Errorf("%s: %d messages in 80 seconds", id, len(sparse[id]))
		}
	}
	was := city.State{Lat: 52.37, Lon: 4.9, Odometer: 1234567, Battery: 50}
	o := options(5, 2)
	o.Resume = func(van string) (city.State, bool) { return was, van == "van-0002" }
	for id, ms := range drive(t, o) {
		if resumed := *ms[0].Odometer-was.Odometer >= 0 && *ms[0].Odometer-was.Odometer < 50; resumed != (id == "van-0002") {
			t.Errorf("%s has driven %v", id, *ms[0].Odometer)
		}
	}
}

func TestDriveRefuses(t *testing.T) {
	for _, o := range []DriveOptions{{Vehicles: -1}, {Speed: -1}, {Speed: math.Inf(1)}, {Speed: math.NaN()}, {Every: 1500 * time.Millisecond}} {
		if _, err := Drive(t.Context(), o); err == nil {
			t.Errorf("%+v is played", o)
		}
	}
}
