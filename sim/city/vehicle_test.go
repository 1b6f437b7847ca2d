package city

import (
	"math"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// Vehicles move as vehicles do: on the roads, no faster than they may, without jumps, and they arrive.
func TestVehiclesDrive(t *testing.T) {
	c := loaded(t)
	const vehicles = 20
	seconds := 600 + tier.N(10_000)
	did := map[Activity]int{}
	moved, arrived := 0.0, 0
	for n := range uint64(vehicles) {
		v := c.NewVehicle(1, n)
		before := v.State()
		for range seconds {
			s := v.Step()
			did[s.Activity]++
			way := distance(c.g.place(before.Lat, before.Lon), c.g.place(s.Lat, s.Lon))
			driven := s.Odometer - before.Odometer
			if way > driven+0.5 || driven > 35 || driven < 0 {
				t.Fatalf("vehicle %d: %.1f m away after %.1f m:\n%+v\n%+v", n, way, driven, before, s)
			}
			if s.Speed > 100/3.6*1.15+0.01 || s.Speed < 0 || s.Speed > before.Speed+accelerate+0.01 {
				t.Fatalf("vehicle %d: from %.1f to %.1f m/s", n, before.Speed, s.Speed)
			}
			if s.Heading < 0 || s.Heading > 360 || s.Battery < 0 || s.Battery > 100 {
				t.Fatalf("vehicle %d: %+v", n, s)
			}
			if on, off, _ := c.project(v.road, c.g.place(s.Lat, s.Lon)); off > 0.5 || math.IsNaN(on) {
				t.Fatalf("vehicle %d is %.1f m beside its road", n, off)
			}
			if s.Activity >= Delivering && before.Activity < Delivering {
				arrived++
			}
			moved += driven
			before = s
		}
	}
	total := float64(vehicles * seconds)
	t.Logf("mean %.1f km/h, %d arrivals, %v", moved/total*3.6, arrived, did)
	if kmh := moved / total * 3.6; kmh < 10 || kmh > 45 {
		t.Errorf("%.1f km/h on average", kmh)
	}
	if arrived < vehicles/2 || did[Waiting] == 0 || did[Delivering] == 0 || float64(did[Driving]) < total/2 {
		t.Errorf("%d arrivals, %v", arrived, did)
	}
}

// The seed and the number decide everything.
func TestVehiclesAreDeterministic(t *testing.T) {
	c := loaded(t)
	run := func(seed, number uint64) State {
		v := c.NewVehicle(seed, number)
		for range 500 {
			v.Step()
		}
		return v.State()
	}
	if a, b := run(7, 3), run(7, 3); a != b {
		t.Errorf("%+v\n%+v", a, b)
	}
	if a, b := run(7, 3), run(8, 3); a == b {
		t.Error("another seed is the same")
	}
	if a, b := run(7, 3), run(7, 4); a == b {
		t.Error("another vehicle is the same")
	}
}

// A vehicle that is resumed is where it was, headed as it was, and its odometer and battery go on.
func TestResumeVehicle(t *testing.T) {
	c := loaded(t)
	far, turned := 0, 0
	const vehicles = 30
	for n := range uint64(vehicles) {
		v := c.NewVehicle(1, n)
		for range 100 {
			v.Step()
		}
		was := v.State()
		s := c.ResumeVehicle(1, n, was).State()
		if distance(c.g.place(was.Lat, was.Lon), c.g.place(s.Lat, s.Lon)) > 1 {
			far++
		} else if turn(was.Heading, s.Heading) > 30 {
			turned++
		}
		if s.Odometer != was.Odometer || s.Battery != was.Battery {
			t.Fatalf("%+v\n%+v", was, s)
		}
	}
	t.Logf("of %d, %d elsewhere, %d turned", vehicles, far, turned)
	if far > vehicles/10 || turned > vehicles/10 {
		t.Errorf("of %d, %d are elsewhere and %d turned", vehicles, far, turned)
	}
	// What came from outside may be anything.
	for _, was := range []State{{Lat: math.NaN(), Lon: 4.9}, {Lat: 90, Lon: -180, Odometer: -1, Battery: 1e9}, {Lat: 52.37, Lon: 4.9, Odometer: math.NaN(), Battery: math.NaN()}} {
		v := c.ResumeVehicle(1, 1, was)
		for range 50 {
			if s := v.Step(); math.IsNaN(s.Lat+s.Lon+s.Odometer+s.Battery+s.Speed) || s.Odometer < 0 || s.Battery > 100 {
				t.Fatalf("%+v became %+v", was, s)
			}
		}
	}
}

// A battery that is empty is charged, at the next stop, and the vehicle goes on.
func TestCharging(t *testing.T) {
	c := loaded(t)
	v := c.NewVehicle(1, 1)
	v.s.Battery = empty - 0.5
	charged, after := false, false
	for range 30_000 {
		s := v.Step()
		charged = charged || s.Activity == Charging && s.Battery > 99
		after = after || charged && s.Activity == Driving && s.Battery > 90
	}
	if !charged || !after {
		t.Errorf("charged: %v, drove on: %v; %+v", charged, after, v.State())
	}
}

func BenchmarkStep(b *testing.B) {
	c := loaded(b)
	vs := make([]*Vehicle, 1000)
	for i := range vs {
		vs[i] = c.NewVehicle(1, uint64(i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		vs[i%len(vs)].Step()
	}
}
