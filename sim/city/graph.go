package city

import (
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Attribution is what whoever shows the streets, or vehicles on them, must show too.
const Attribution = "© OpenStreetMap contributors, ODbL"

// The road graph of central Amsterdam. © OpenStreetMap contributors, ODbL; see data/LICENSE.md.
var (
	//go:embed data/roads-amsterdam-nodes.csv.gz
	nodesFile []byte
	//go:embed data/roads-amsterdam-arcs.csv.gz
	arcsFile []byte
)

// point is a place, in degrees.
type point struct{ lat, lon float64 }

// metres are east and north of the graph's corner. The graph is small enough for a plane.
type metres struct{ x, y float64 }

const metresPerDegree = 111_195 // of latitude

// graph is the road network as the data has it: nodes, and arcs between them.
type graph struct {
	points  []point
	at      []metres
	corner  point
	perLon  float64   // metres per degree of longitude
	out, in [][]int32 // by node: the nodes that arcs lead to, and come from
}

// readGraph reads the two files.
func readGraph(nodes, arcs []byte) (*graph, error) {
	g := &graph{corner: point{math.Inf(1), math.Inf(1)}}
	err := readCSV(nodes, "node,lat,lon", func(n int, f []string) error {
		if id, err := strconv.Atoi(f[0]); err != nil || id != n {
			return fmt.Errorf("node %q, want %d", f[0], n)
		}
		lat, err1 := strconv.ParseFloat(f[1], 64)
		lon, err2 := strconv.ParseFloat(f[2], 64)
		g.points = append(g.points, point{lat, lon})
		g.corner = point{min(g.corner.lat, lat), min(g.corner.lon, lon)}
		return errors.Join(err1, err2)
	})
	if err != nil {
		return nil, fmt.Errorf("city: nodes: %w", err)
	}
	g.perLon = metresPerDegree * math.Cos(g.corner.lat*math.Pi/180)
	for _, p := range g.points {
		g.at = append(g.at, metres{(p.lon - g.corner.lon) * g.perLon, (p.lat - g.corner.lat) * metresPerDegree})
	}
	g.out, g.in = make([][]int32, len(g.points)), make([][]int32, len(g.points))
	err = readCSV(arcs, "from_node,to_node", func(_ int, f []string) error {
		from, err1 := strconv.ParseUint(f[0], 10, 31)
		to, err2 := strconv.ParseUint(f[1], 10, 31)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if max(from, to) >= uint64(len(g.points)) {
			return fmt.Errorf("arc %d to %d: there are %d nodes", from, to, len(g.points))
		}
		if from != to && !slices.Contains(g.out[from], int32(to)) {
			g.out[from] = append(g.out[from], int32(to))
			g.in[to] = append(g.in[to], int32(from))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("city: arcs: %w", err)
	}
	return g, nil
}

// readCSV calls f for every row behind the header.
func readCSV(file []byte, header string, f func(n int, fields []string) error) error {
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return err
	}
	r := csv.NewReader(z)
	r.ReuseRecord = true
	for n := -1; ; n++ {
		fields, err := r.Read()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case n < 0 && !slices.Equal(fields, strings.Split(header, ",")):
			return fmt.Errorf("header %q, want %q", fields, header)
		case n >= 0:
			if err := f(n, fields); err != nil {
				return fmt.Errorf("row %d: %w", n+1, err)
			}
		}
	}
}

// neighbours are the nodes that arcs of either direction lead to.
func (g *graph) neighbours(n int32) []int32 {
	all := slices.Clone(g.out[n])
	for _, m := range g.in[n] {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// through tells that a node only gives a road its shape: it goes on there, in one way, or in both.
func (g *graph) through(n int32) bool {
	out, in := g.out[n], g.in[n]
	switch {
	case len(out) == 1 && len(in) == 1:
		return out[0] != in[0]
	case len(out) == 2 && len(in) == 2:
		return slices.Contains(in, out[0]) && slices.Contains(in, out[1])
	}
	return false
}

// oneWay tells that an arc has none the other way.
func (g *graph) oneWay(from, to int32) bool { return !slices.Contains(g.out[to], from) }

func distance(a, b metres) float64 { return math.Hypot(b.x-a.x, b.y-a.y) }

// bearing is the direction from a to b, degrees clockwise from north, 0 to 360.
func bearing(a, b metres) float64 {
	d := math.Atan2(b.x-a.x, b.y-a.y) * 180 / math.Pi
	if d < 0 {
		d += 360
	}
	return d
}

// turn is the angle between two bearings, 0 to 180.
func turn(a, b float64) float64 {
	d := math.Abs(a - b)
	return min(d, 360-d)
}

// component returns the nodes from which, and to which, everything else of it can be driven: the strongly connected component
// of the node with the most arcs.
func (g *graph) component() []bool {
	start := int32(0)
	for n := range g.out {
		if len(g.out[n]) > len(g.out[start]) {
			start = int32(n)
		}
	}
	forth, back := reach(g.out, start), reach(g.in, start)
	for n := range forth {
		forth[n] = forth[n] && back[n]
	}
	return forth
}

func reach(arcs [][]int32, start int32) []bool {
	seen := make([]bool, len(arcs))
	seen[start] = true
	for todo := []int32{start}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, m := range arcs[n] {
			if !seen[m] {
				seen[m] = true
				todo = append(todo, m)
			}
		}
	}
	return seen
}

// road is a way from one junction to another, without a junction between.
type road struct {
	from, to  int32   // junctions
	shape     []int32 // nodes, from and to included
	length    float64 // metres
	oneWay    bool
	speed     float64 // metres per second
	class     class
	begin, at float64 // bearing at its begin, and at its end
}

// roads cuts a component into junctions and the roads between, one for each direction. junction numbers the nodes that are
// junctions, -1 for others.
func (g *graph) roads(component []bool) (roads []road, junction []int32, junctions []int32) {
	junction = make([]int32, len(g.points))
	for n := range junction {
		junction[n] = -1
		if component[n] && !g.through(int32(n)) {
			junction[n] = int32(len(junctions))
			junctions = append(junctions, int32(n))
		}
	}
	for _, j := range junctions {
		for _, n := range g.out[j] {
			if !component[n] {
				continue
			}
			r := road{from: junction[j], shape: []int32{j, n}, length: distance(g.at[j], g.at[n]), oneWay: g.oneWay(j, n)}
			for last := j; junction[n] < 0; {
				next := g.out[n][0]
				if next == last {
					next = g.out[n][1]
				}
				r.length += distance(g.at[n], g.at[next])
				r.shape = append(r.shape, next)
				last, n = n, next
			}
			r.to = junction[n]
			k := len(r.shape)
			r.begin, r.at = bearing(g.at[r.shape[0]], g.at[r.shape[1]]), bearing(g.at[r.shape[k-2]], g.at[r.shape[k-1]])
			roads = append(roads, r)
		}
	}
	slices.SortStableFunc(roads, func(a, b road) int { return cmp.Compare(a.from, b.from) })
	return roads, junction, junctions
}
