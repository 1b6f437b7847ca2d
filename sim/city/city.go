// Package city is a city to drive in: central Amsterdam's road graph, what it looks like on a map (Streets), and vehicles that make
// deliveries in it (Vehicle), a second at a time.
//
// It is pure: it starts no goroutines, opens no files (the graph is embedded), and knows nothing of messages. All that happens follows
// from a seed and the number of steps. A City is safe for concurrent use, a Vehicle is its owner's.
package city

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
)

// City is the road graph, made ready for driving.
type City struct {
	g      *graph
	roads  []road
	first  []int32 // by junction: its first road; one more at the end
	into   [][]int32
	nodes  []int32 // by junction: its node
	places []place

	index  sync.Once
	byNode [][]int32 // by node: the roads that pass it; made when somebody asks for the nearest
}

// place is where vehicles go to. The ways to it are found when first somebody goes there.
type place struct {
	junction int32
	once     sync.Once
	next     []uint8 // by junction: the road to take, of those that begin there, plus 1; 0: this is the place
}

const (
	placeCount   = 160
	placeSeed    = 0x5eed
	surveyTrips  = 24  // places whose ways tell which roads are the main ones
	junctionTime = 3.0 // seconds that a junction costs, when ways are compared
)

// class is what kind of road one seems to be: the data does not say.
type class byte

const (
	street   class = iota // where people live
	main                  // where much of the traffic goes
	motorway              // one way for long, and much of the traffic
)

var classNames = [...]string{street: "street", main: "main", motorway: "motorway"}

// load reads the embedded graph, once.
var load = sync.OnceValues(func() (*City, error) {
	g, err := readGraph(nodesFile, arcsFile)
	if err != nil {
		return nil, err
	}
	return newCity(g)
})

// Load returns the city. The first call takes about a quarter of a second.
func Load() (*City, error) { return load() }

func newCity(g *graph) (*City, error) {
	c := &City{g: g}
	c.roads, _, c.nodes = g.roads(g.component())
	if len(c.nodes) < 2 {
		return nil, fmt.Errorf("city: a graph of %d junctions", len(c.nodes))
	}
	c.first = make([]int32, len(c.nodes)+1)
	c.into = make([][]int32, len(c.nodes))
	for i := range c.roads {
		r := &c.roads[i]
		c.first[r.from+1] = int32(i + 1)
		c.into[r.to] = append(c.into[r.to], int32(i))
		r.speed = 11
		if r.oneWay && r.length > 350 {
			r.speed = 22
		}
	}
	for j := range c.nodes { // junctions that no road leaves have the end of the one before
		c.first[j+1] = max(c.first[j+1], c.first[j])
	}
	rng := rand.New(rand.NewPCG(placeSeed, 0))
	c.places = make([]place, min(placeCount, len(c.nodes)))
	for i, j := range rng.Perm(len(c.nodes))[:len(c.places)] {
		c.places[i].junction = int32(j)
	}
	c.survey()
	return c, nil
}

// survey tells the classes of the roads apart, by how many of the quickest ways to a few places lead over each, and gives each a
// speed. Both directions of a road are of one class.
func (c *City) survey() {
	use := map[[2]int32]int{} // by the first and the second node of a road's shape, from its lower end
	total := 0
	for i := range min(surveyTrips, len(c.places)) {
		next, order := c.ways(c.places[i].junction)
		through := make([]int, len(c.nodes))
		for _, j := range slices.Backward(order) {
			through[j]++
			if r := next[j]; r >= 0 {
				through[c.roads[r].to] += through[j]
				use[c.roads[r].name()] += through[j]
			}
		}
		total += len(order)
	}
	for i := range c.roads {
		r := &c.roads[i]
		share := float64(use[r.name()]) / float64(total)
		switch {
		case r.oneWay && r.length > 350 && share > 0.004:
			r.class, r.speed = motorway, 90/3.6
		case share > 0.004:
			r.class, r.speed = main, 50/3.6
			if r.length > 400 {
				r.speed = 60 / 3.6
			}
		case r.length < 60:
			r.class, r.speed = street, 20/3.6
		default:
			r.class, r.speed = street, 30/3.6
		}
	}
}

// name is the same for both directions of a road.
func (r *road) name() [2]int32 {
	k := len(r.shape)
	a, b := [2]int32{r.shape[0], r.shape[1]}, [2]int32{r.shape[k-1], r.shape[k-2]}
	if slices.Compare(a[:], b[:]) < 0 {
		return a
	}
	return b
}

// ways finds the quickest way from every junction to one: the road to take, -1 at the goal; and the junctions, nearest first.
func (c *City) ways(goal int32) (next, order []int32) {
	next = make([]int32, len(c.nodes))
	time := make([]float64, len(c.nodes))
	done := make([]bool, len(c.nodes))
	for j := range next {
		next[j], time[j] = -1, math.Inf(1)
	}
	time[goal] = 0
	todo := frontier{{goal, 0}}
	for len(todo) > 0 {
		at := todo.pop()
		if done[at.junction] {
			continue
		}
		done[at.junction] = true
		order = append(order, at.junction)
		for _, i := range c.into[at.junction] {
			r := &c.roads[i]
			if t := at.time + r.length/r.speed + junctionTime; t < time[r.from] {
				time[r.from], next[r.from] = t, i
				todo.push(reached{r.from, t})
			}
		}
	}
	return next, order
}

// Prepare finds the ways to all places now, which takes about a second, instead of when first somebody goes there.
func (c *City) Prepare() {
	for i := range c.places {
		c.way(c.places[i].junction, i)
	}
}

// way returns the road to take from a junction towards a place; -1 if it is there.
func (c *City) way(from int32, to int) int32 {
	p := &c.places[to]
	p.once.Do(func() {
		next, _ := c.ways(p.junction)
		p.next = make([]uint8, len(next)) // a quarter of the memory: no junction has 255 roads
		for j, r := range next {
			if r >= 0 {
				p.next[j] = uint8(r - c.first[j] + 1)
			}
		}
	})
	if k := p.next[from]; k > 0 {
		return c.first[from] + int32(k) - 1
	}
	return -1
}

type reached struct {
	junction int32
	time     float64
}

// frontier is a heap of junctions, the nearest first.
type frontier []reached

func (f *frontier) push(x reached) {
	*f = append(*f, x)
	h := *f
	i := len(h) - 1
	for i > 0 && h[(i-1)/2].time > x.time {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = x
}

func (f *frontier) pop() reached {
	h := *f
	first, x := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	*f = h
	i := 0
	for {
		k := 2*i + 1
		if k+1 < len(h) && h[k+1].time < h[k].time {
			k++
		}
		if k >= len(h) || h[k].time >= x.time {
			break
		}
		h[i] = h[k]
		i = k
	}
	if len(h) > 0 {
		h[i] = x
	}
	return first
}
