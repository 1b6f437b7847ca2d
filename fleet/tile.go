package fleet

import "math"

// A cell is a Mercator tile of zoom 9: y << 9 | x.
const (
	zoom    = 9
	tiles   = 1 << zoom
	mercMax = 85.0511287798066 // degrees; what lies beyond is in the outermost row
)

// cellAt is the cell of a position.
func cellAt(lat, lon int32) uint32 {
	return row(float64(lat)/1e6)<<zoom | column(float64(lon)/1e6)
}

func row(lat float64) uint32 {
	rad := max(-mercMax, min(mercMax, lat)) * math.Pi / 180
	return tile((1 - math.Asinh(math.Tan(rad))/math.Pi) / 2)
}

func column(lon float64) uint32 { return tile((lon + 180) / 360) }

func tile(share float64) uint32 { return uint32(max(0, min(tiles-1, share*tiles))) }

// moved tells whether two positions are a metre or more apart.
func moved(lat, lon, lat2, lon2 int32) bool {
	const metre = 1e6 / 111_195.0 // in 1e-6 degrees of latitude
	dy, dx := float64(lat2)-float64(lat), float64(lon2)-float64(lon)
	if dx*dx+dy*dy < metre*metre {
		return false
	}
	dx *= math.Cos(float64(lat) * (math.Pi / 180e6))
	return dx*dx+dy*dy >= metre*metre
}

// Box is a part of the map, degrees WGS 84. West > East crosses the antimeridian.
type Box struct{ West, South, East, North float64 }

// valid tells whether a box is one: its numbers are within the world's.
func (b *Box) valid() bool {
	in := func(v, most float64) bool { return v >= -most && v <= most } // false for NaN
	return in(b.West, 180) && in(b.East, 180) && in(b.South, 90) && in(b.North, 90) && b.South <= b.North
}

// holds tells whether a position is in the box.
func (b *Box) holds(lat, lon float64) bool {
	if lat < b.South || lat > b.North {
		return false
	}
	if b.West > b.East {
		return lon >= b.West || lon <= b.East
	}
	return lon >= b.West && lon <= b.East
}

// area is a box in cells.
type area struct {
	west, east, top, bottom uint32
	crosses                 bool // the antimeridian
}

func (b *Box) cells() area {
	return area{west: column(b.West), east: column(b.East), top: row(b.North), bottom: row(b.South), crosses: b.West > b.East}
}

func (a *area) holds(cell uint32) bool {
	x, y := cell&(tiles-1), cell>>zoom
	if y < a.top || y > a.bottom {
		return false
	}
	if a.crosses {
		return x >= a.west || x <= a.east
	}
	return x >= a.west && x <= a.east
}
