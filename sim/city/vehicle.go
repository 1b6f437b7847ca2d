package city

import (
	"math"
	"math/rand/v2"
)

// State is what a vehicle tells of itself.
type State struct {
	Lat, Lon float64 // degrees
	Speed    float64 // metres per second
	Heading  float64 // degrees clockwise from north
	Odometer float64 // metres, since the vehicle was new
	Battery  float64 // percent
	Activity Activity
}

// Activity is what a vehicle is doing.
type Activity byte

// What vehicles do: a van drives from one delivery to the next, waits at junctions, and charges where it stands when it has to.
const (
	Driving Activity = iota
	Waiting
	Delivering
	Charging
)

var activityNames = [...]string{Driving: "driving", Waiting: "waiting", Delivering: "delivering", Charging: "charging"}

func (a Activity) String() string { return activityNames[a] }

// Vehicle is an electric van.
type Vehicle struct {
	c    *City
	rng  rand.PCG
	goal int     // place
	road int32   // that it is on
	leg  int32   // of the road's shape: from shape[leg] to the next
	on   float64 // metres on that leg
	left float64 // metres to the end of the road
	next int32   // road after this one, -1: the goal is at its end
	red  bool    // there is a red light at the end of the road
	exit float64 // highest speed at the end of the road
	pace float64 // of this driver, times the road's speed
	wait float64 // seconds to stand
	s    State
}

const (
	accelerate = 1.8     // metres per second, per second
	brake      = 2.2     //
	empty      = 18.0    // percent, below which it charges at its next stop
	perMetre   = 0.00042 // percent: 240 km with a full battery
	perSecond  = 0.0004  // percent, for what runs all the time
	charge     = 0.05    // percent per second
	redLights  = 0.2     // share of the crossings
)

// NewVehicle puts a vehicle on the road, at full speed, somewhere between two deliveries. Seed and number decide where, and
// everything that it will do.
func (c *City) NewVehicle(seed, number uint64) *Vehicle {
	v := c.newVehicle(seed, number)
	// Any road of the city, the longer the likelier: where a vehicle is found at any time.
	road := int32(v.intn(len(c.roads)))
	for range 20 {
		if v.float()*200 < c.roads[road].length {
			break
		}
		road = int32(v.intn(len(c.roads)))
	}
	v.goal = v.errand(c.roads[road].to)
	v.enter(road)
	v.advance(v.float() * c.roads[v.road].length)
	v.s.Odometer = math.Round(5e6 + v.float()*8e7)
	v.s.Battery = empty + v.float()*(100-empty)
	v.s.Speed = min(v.limit(), 8)
	v.tell()
	return v
}

// ResumeVehicle puts a vehicle on the road nearest to where it was, standing, with what it told of itself then.
func (c *City) ResumeVehicle(seed, number uint64, was State) *Vehicle {
	v := c.newVehicle(seed, number^math.Float64bits(was.Odometer))
	at := c.g.place(was.Lat, was.Lon)
	road := c.nearest(at, was.Heading)
	v.goal = v.errand(c.roads[road].to)
	v.enter(road)
	on, _, _ := c.project(v.road, at)
	v.advance(on)
	v.s.Odometer, v.s.Battery = max(0, was.Odometer), min(max(was.Battery, 1), 100)
	if math.IsNaN(v.s.Odometer) || math.IsNaN(v.s.Battery) {
		v.s.Odometer, v.s.Battery = 0, 100
	}
	v.tell()
	return v
}

func (c *City) newVehicle(seed, number uint64) *Vehicle {
	v := &Vehicle{c: c}
	v.rng.Seed(seed, number*0x9e3779b97f4a7c15+1)
	v.pace = 0.85 + 0.3*v.float()
	return v
}

// The vehicle's randomness. A rand.Rand around it would cost as much memory again.
func (v *Vehicle) float() float64              { return float64(v.rng.Uint64()>>11) / (1 << 53) }
func (v *Vehicle) intn(n int) int              { return int(v.rng.Uint64() % uint64(n)) }
func (v *Vehicle) State() State                { return v.s }
func (v *Vehicle) roadOn() *road               { return &v.c.roads[v.road] }
func (v *Vehicle) limit() float64              { return v.roadOn().speed * v.pace }
func (v *Vehicle) stand(s float64, a Activity) { v.wait, v.s.Speed, v.s.Activity = s, 0, a }

// Step lets a second pass, and returns how it is then.
func (v *Vehicle) Step() State {
	v.s.Battery = max(0, v.s.Battery-perSecond)
	if v.wait > 0 {
		v.rest()
		return v.s
	}
	v.s.Activity = Driving
	before := v.s.Speed
	// As fast as the road and the engine allow, and slow enough to be no faster than v.exit at the end of the road.
	v.s.Speed = min(before+accelerate, v.limit(), math.Sqrt(v.exit*v.exit+2*brake*v.left))
	v.s.Speed = max(v.s.Speed, before-2*brake, 1) // 1: it creeps up to where it stops
	v.drive((before + v.s.Speed) / 2)
	v.tell()
	return v.s
}

// rest is a second of standing.
func (v *Vehicle) rest() {
	v.wait--
	if v.s.Activity == Charging {
		v.s.Battery = min(100, v.s.Battery+charge)
		if v.s.Battery == 100 {
			v.wait = 0
		}
	}
	if v.wait <= 0 && v.s.Activity >= Delivering {
		v.depart()
	}
}

// drive goes on by so many metres, over junctions, to the goal at most.
func (v *Vehicle) drive(metres float64) {
	for metres >= v.left {
		v.count(v.left)
		metres -= v.left
		v.advance(v.left)
		if v.next < 0 {
			v.arrive()
			return
		}
		red := v.red
		v.enter(v.next)
		if red {
			v.stand(5+35*v.float(), Waiting)
			return
		}
	}
	v.count(metres)
	v.advance(metres)
}

func (v *Vehicle) count(metres float64) {
	v.s.Odometer += metres
	v.s.Battery = max(0, v.s.Battery-metres*perMetre)
}

// arrive begins a delivery.
func (v *Vehicle) arrive() {
	if v.s.Battery < empty {
		v.stand(1e9, Charging)
		return
	}
	v.stand(20+100*v.float(), Delivering)
}

// depart takes the way to another place.
func (v *Vehicle) depart() {
	here := v.roadOn().to
	for range 8 {
		v.goal = v.errand(here)
		if way := v.c.way(here, v.goal); way >= 0 {
			v.enter(way)
			return
		}
	}
	v.wait = 1 // there is one place, and the vehicle is there
}

// errand picks a place: of a few, the nearest, as who makes a round would.
func (v *Vehicle) errand(here int32) (goal int) {
	from := v.c.g.at[v.c.nodes[here]]
	off := math.Inf(1)
	for range 5 {
		i := v.intn(len(v.c.places))
		at := v.c.places[i].junction
		if d := distance(from, v.c.g.at[v.c.nodes[at]]); d < off && at != here {
			goal, off = i, d
		}
	}
	return goal
}

// enter begins a road, and looks at what comes after it.
func (v *Vehicle) enter(road int32) {
	v.road, v.leg, v.on = road, 0, 0
	r := v.roadOn()
	v.left = r.length
	v.next, v.exit = v.c.way(r.to, v.goal), 0
	v.red = v.next >= 0 && v.c.crossing(r.to) && v.float() < redLights
	if v.next >= 0 && !v.red {
		n := &v.c.roads[v.next]
		v.exit = min(r.speed, n.speed) * v.pace
		if t := turn(r.at, n.begin); t > 30 { // 30° is no corner, a right angle is taken at 15 km/h
			v.exit = min(v.exit, max(2, 12-t/11))
		}
	}
}

// advance moves on along the road, to its end at most.
func (v *Vehicle) advance(metres float64) {
	r := v.roadOn()
	metres = min(metres, v.left)
	v.left -= metres
	v.on += metres
	for int(v.leg) < len(r.shape)-2 {
		leg := distance(v.c.g.at[r.shape[v.leg]], v.c.g.at[r.shape[v.leg+1]])
		if v.on < leg {
			return
		}
		v.on -= leg
		v.leg++
	}
}

// tell works out position and heading.
func (v *Vehicle) tell() {
	g, r := v.c.g, v.roadOn()
	a, b := g.at[r.shape[v.leg]], g.at[r.shape[v.leg+1]]
	t := 1.0
	if d := distance(a, b); d > 0 {
		t = min(v.on/d, 1)
		v.s.Heading = bearing(a, b)
	}
	v.s.Lat = g.corner.lat + (a.y+t*(b.y-a.y))/metresPerDegree
	v.s.Lon = g.corner.lon + (a.x+t*(b.x-a.x))/g.perLon
}

// crossing tells that more than one road goes on at a junction, whichever one comes by.
func (c *City) crossing(junction int32) bool {
	return c.first[junction+1]-c.first[junction] > 2 && len(c.into[junction]) > 2
}

// place is a position on the plane.
func (g *graph) place(lat, lon float64) metres {
	return metres{(lon - g.corner.lon) * g.perLon, (lat - g.corner.lat) * metresPerDegree}
}

// nearest is the road that passes nearest to a position, in the direction of the heading.
func (c *City) nearest(p metres, heading float64) int32 {
	c.index.Do(func() {
		c.byNode = make([][]int32, len(c.g.at))
		for i := range c.roads {
			for _, n := range c.roads[i].shape {
				c.byNode[n] = append(c.byNode[n], int32(i))
			}
		}
	})
	closest := math.Inf(1)
	for n, roads := range c.byNode {
		if d := squared(c.g.at[n], p); d < closest && len(roads) > 0 {
			closest = d
		}
	}
	closest = math.Sqrt(closest) + 150 // a long straight leg has its nodes further away
	road, off := int32(0), math.Inf(1)
	for n, roads := range c.byNode {
		if squared(c.g.at[n], p) > closest*closest {
			continue
		}
		for _, i := range roads {
			_, d, direction := c.project(i, p)
			if d += turn(direction, heading) / 9; d < off { // the other way is as bad as 20 m beside
				road, off = i, d
			}
		}
	}
	return road
}

func squared(a, b metres) float64 { return (b.x-a.x)*(b.x-a.x) + (b.y-a.y)*(b.y-a.y) }

// project finds the spot of a road that is nearest to a position: how far from its begin, how far from the position, and in
// which direction the road leads there.
func (c *City) project(road int32, p metres) (on, off, direction float64) {
	r := &c.roads[road]
	off = math.Inf(1)
	passed := 0.0
	for k := range len(r.shape) - 1 {
		a, b := c.g.at[r.shape[k]], c.g.at[r.shape[k+1]]
		d := distance(a, b)
		if d > 0 {
			t := min(max(((p.x-a.x)*(b.x-a.x)+(p.y-a.y)*(b.y-a.y))/(d*d), 0), 1)
			if e := distance(p, metres{a.x + t*(b.x-a.x), a.y + t*(b.y-a.y)}); e < off {
				on, off, direction = passed+t*d, e, bearing(a, b)
			}
		}
		passed += d
	}
	return on, off, direction
}
