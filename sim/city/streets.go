package city

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"sync"
)

// Streets is a map of the city as GeoJSON: a feature for each class of road ("motorway", "main", "street", property "class"), a
// MultiLineString of degrees to five decimals. Roads are joined over junctions where they go on straight, and drawn to within a
// metre. Whoever shows it shows the attribution. It is made once; the caller does not change it.
func Streets() (geojson []byte, attribution string, err error) {
	geojson, err = drawn()
	return geojson, Attribution, err
}

var drawn = sync.OnceValues(func() ([]byte, error) {
	c, err := Load()
	if err != nil {
		return nil, err
	}
	return c.draw(), nil
})

// line is an undirected arc between two neighbours.
type line struct {
	a, b  int32
	class class
	with  [2]int32 // at a and at b: the line that it goes on as, plus 1
	drawn bool
}

func (l *line) other(n int32) int32 { return l.a + l.b - n }

func (l *line) end(n int32) int {
	if n == l.a {
		return 0
	}
	return 1
}

const (
	straightOn = 60.0 // degrees that a road turns at most where it goes on over a junction
	drawnTo    = 1.0  // metres
)

func (c *City) draw() []byte {
	lines, at := c.lines()
	for n := range at {
		c.join(lines, at[n], int32(n))
	}
	parts := make([][][]int32, len(classNames))
	trace := func(i, from int32) {
		if l := &lines[i]; !l.drawn {
			parts[l.class] = append(parts[l.class], c.simplify(follow(lines, i, from)))
		}
	}
	for i := range lines { // from their ends, then those that have none
		l := &lines[i]
		if l.with[0] == 0 {
			trace(int32(i), l.a)
		} else if l.with[1] == 0 {
			trace(int32(i), l.b)
		}
	}
	for i := range lines {
		trace(int32(i), lines[i].a)
	}
	return c.geojson(parts)
}

// lines are all arcs without direction, also those where nobody drives, and by node the lines there.
func (c *City) lines() (lines []line, at [][]int32) {
	classes := map[[2]int32]class{}
	for i := range c.roads {
		r := &c.roads[i]
		for k := range r.shape[1:] {
			classes[pair(r.shape[k], r.shape[k+1])] = r.class
		}
	}
	at = make([][]int32, len(c.g.points))
	for n := range c.g.points {
		for _, m := range c.g.neighbours(int32(n)) {
			if int32(n) < m {
				at[n], at[m] = append(at[n], int32(len(lines))), append(at[m], int32(len(lines)))
				lines = append(lines, line{a: int32(n), b: m, class: classes[pair(int32(n), m)]})
			}
		}
	}
	return lines, at
}

func pair(a, b int32) [2]int32 { return [2]int32{min(a, b), max(a, b)} }

// join pairs the lines of a node that go on as each other: of one class, the straightest first.
func (c *City) join(lines []line, here []int32, n int32) {
	type candidate struct {
		i, j int32
		turn float64
	}
	var candidates []candidate
	for k, i := range here {
		for _, j := range here[k+1:] {
			if lines[i].class == lines[j].class {
				t := turn(bearing(c.g.at[lines[i].other(n)], c.g.at[n]), bearing(c.g.at[n], c.g.at[lines[j].other(n)]))
				candidates = append(candidates, candidate{i, j, t})
			}
		}
	}
	slices.SortStableFunc(candidates, func(x, y candidate) int { return cmp.Compare(x.turn, y.turn) })
	for _, x := range candidates {
		i, j := &lines[x.i], &lines[x.j]
		if i.with[i.end(n)] == 0 && j.with[j.end(n)] == 0 && (x.turn < straightOn || len(here) == 2) {
			i.with[i.end(n)], j.with[j.end(n)] = x.j+1, x.i+1
		}
	}
}

// follow draws a line and all that it goes on as, from one end.
func follow(lines []line, i, from int32) []int32 {
	path := []int32{from}
	for n := from; ; {
		l := &lines[i]
		if l.drawn {
			return path
		}
		l.drawn = true
		n = l.other(n)
		path = append(path, n)
		if i = l.with[l.end(n)] - 1; i < 0 {
			return path
		}
	}
}

// simplify leaves out what is less than drawnTo beside the rest (Douglas and Peucker).
func (c *City) simplify(path []int32) []int32 {
	keep := make([]bool, len(path))
	keep[0], keep[len(path)-1] = true, true
	for todo := [][2]int{{0, len(path) - 1}}; len(todo) > 0; {
		from, to := todo[len(todo)-1][0], todo[len(todo)-1][1]
		todo = todo[:len(todo)-1]
		far, off := 0, drawnTo
		for k := from + 1; k < to; k++ {
			if d := aside(c.g.at[path[k]], c.g.at[path[from]], c.g.at[path[to]]); d > off {
				far, off = k, d
			}
		}
		if far > 0 {
			keep[far] = true
			todo = append(todo, [2]int{from, far}, [2]int{far, to})
		}
	}
	out := path[:0]
	for k, n := range path {
		if keep[k] {
			out = append(out, n)
		}
	}
	return out
}

// aside is how far p is from the line between a and b.
func aside(p, a, b metres) float64 {
	d := distance(a, b)
	if d == 0 {
		return distance(p, a)
	}
	t := ((p.x-a.x)*(b.x-a.x) + (p.y-a.y)*(b.y-a.y)) / (d * d)
	t = min(max(t, 0), 1)
	return distance(p, metres{a.x + t*(b.x-a.x), a.y + t*(b.y-a.y)})
}

func (c *City) geojson(parts [][][]int32) []byte {
	b := []byte(`{"type":"FeatureCollection","attribution":` + strconv.Quote(Attribution) + `,"features":[`)
	for k := len(parts) - 1; k >= 0; k-- {
		b = append(b, `{"type":"Feature","properties":{"class":"`+classNames[k]+`"},"geometry":{"type":"MultiLineString","coordinates":[`...)
		for i, path := range parts[k] {
			if i > 0 {
				b = append(b, ',')
			}
			for j, n := range path {
				b = append(b, "[,"[min(j, 1)], '[')
				b = appendDegrees(b, c.g.points[n].lon)
				b = appendDegrees(append(b, ','), c.g.points[n].lat)
				b = append(b, ']')
			}
			b = append(b, ']')
		}
		b = append(b, "]}}"...)
		if k > 0 {
			b = append(b, ',')
		}
	}
	return append(b, "]}"...)
}

// appendDegrees writes degrees to five decimals, which is a metre.
func appendDegrees(b []byte, d float64) []byte {
	return strconv.AppendFloat(b, math.Round(d*1e5)/1e5, 'f', -1, 64)
}
