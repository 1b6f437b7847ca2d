package city

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

func loaded(t testing.TB) *City {
	t.Helper()
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoad(t *testing.T) {
	begin := time.Now()
	c := loaded(t)
	length, one := map[class]float64{}, 0
	for i := range c.roads {
		r := &c.roads[i]
		length[r.class] += r.length / 1000
		if r.oneWay {
			one++
		}
		if r.length <= 0 || r.speed < 5 || r.speed > 30 || math.IsNaN(r.begin+r.at) {
			t.Fatalf("%+v", r)
		}
	}
	t.Logf("%v: %d junctions of %d nodes, %d roads, %d one way, km by class %v", time.Since(begin), len(c.nodes), len(c.g.points), len(c.roads), one, length)
	if len(c.nodes) < 15_000 {
		t.Errorf("only %d junctions can be driven to", len(c.nodes))
	}
	for _, k := range []class{street, main, motorway} {
		if length[k] < 30 {
			t.Errorf("%.0f km of %s", length[k], classNames[k])
		}
	}
}

// Every place is reached from everywhere, and the ways are the quickest: no road leads to a junction that is nearer by more than
// the road's own time.
func TestWays(t *testing.T) {
	c := loaded(t)
	goal := c.places[3].junction
	next, order := c.ways(goal)
	if len(order) != len(c.nodes) {
		t.Fatalf("%d of %d junctions reach the goal", len(order), len(c.nodes))
	}
	times := make([]float64, len(c.nodes))
	cost := func(r *road) float64 { return r.length/r.speed + junctionTime }
	for _, j := range order[1:] {
		r := &c.roads[next[j]]
		times[j] = times[r.to] + cost(r)
	}
	for i := range c.roads {
		if r := &c.roads[i]; r.from != goal && times[r.from] > times[r.to]+cost(r)+1e-6 {
			t.Fatalf("%v over %+v to %v", times[r.from], r, times[r.to])
		}
	}
}

func TestStreets(t *testing.T) {
	begin := time.Now()
	b, attribution, err := Streets()
	if err != nil || attribution != Attribution {
		t.Fatal(attribution, err)
	}
	took := time.Since(begin)
	var m struct {
		Features []struct {
			Properties struct{ Class string }
			Geometry   struct{ Coordinates [][][2]float64 }
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	km, points, paths := 0.0, 0, 0
	for _, f := range m.Features {
		for _, path := range f.Geometry.Coordinates {
			paths++
			points += len(path)
			for i, p := range path {
				if p[0] < 4.83 || p[0] > 4.99 || p[1] < 52.27 || p[1] > 52.44 {
					t.Fatalf("%v is not in the city", p)
				}
				if i > 0 {
					km += math.Hypot((p[0]-path[i-1][0])*math.Cos(52.35*math.Pi/180), p[1]-path[i-1][1]) * metresPerDegree / 1000
				}
			}
			if len(path) < 2 {
				t.Fatalf("a line of %d points", len(path))
			}
		}
	}
	t.Logf("%v: %d bytes, %d lines, %d points, %.0f km", took, len(b), paths, points, km)
	if km < 2470 || km > 2495 { // the undirected graph is 2,482 km long
		t.Errorf("%.0f km drawn", km)
	}
	if len(b) > 1_600_000 {
		t.Errorf("%d bytes", len(b))
	}
}
