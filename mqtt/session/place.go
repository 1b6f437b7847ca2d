package session

// place is one partition that positions can be in: of the data topics, or of the retained topic. Places are numbered; sets and
// vectors use the numbers.
type place struct {
	part     Part
	next     int64 // the matcher's next offset
	ready    int64 // what the replay must reach
	tailed   bool
	dead     bool // its topic was deleted, or no route leads to it any more
	retained bool
	book     book
}

// vector holds an offset per place. A place beyond its end, or that it never knew, is at 0.
type vector []int64

func (v vector) at(place int32) int64 {
	if int(place) < len(v) {
		return v[place]
	}
	return 0
}

// place returns the number of a partition, a new one if it has none.
func (c *Core) place(p Part) int32 {
	if i, ok := c.index[p]; ok {
		return i
	}
	i := int32(len(c.places))
	c.places = append(c.places, place{part: p})
	c.index[p] = i
	c.snapshot = nil
	return i
}

// next is the matcher's next offset in every place, now. It is shared and never changes.
func (c *Core) next() vector {
	if c.snapshot == nil {
		c.snapshot = make(vector, len(c.places))
		for i := range c.places {
			c.snapshot[i] = c.places[i].next
		}
	}
	return c.snapshot
}

// positions is a vector as it is written: of the places that are tailed.
func (c *Core) positions(v vector) []Position {
	list := make([]Position, 0, len(v))
	for i := range v {
		if p := &c.places[i]; p.tailed && !p.dead {
			list = append(list, Position{p.part, v[i]})
		}
	}
	return list
}

// vector is the reverse of positions.
func (c *Core) vector(list []Position) vector {
	v := make(vector, len(c.places))
	for _, p := range list {
		i := c.place(p.Part)
		for int(i) >= len(v) {
			v = append(v, 0)
		}
		v[i] = p.Offset
	}
	return v
}

func (c *Core) position(place int32, off int64) Position { return Position{c.places[place].part, off} }
