package group

import (
	"cmp"
	"slices"
)

// evening moves partitions along chains of members, where no single move would help: one gives a partition to another, who gives one of
// other topics to a third. Afterwards no chain leads from a member to one who has two partitions less, and no assignment is more even.
//
// Those with the most come first. Where their chains do not end with anybody who has two less, all whom the chains pass are as even as they
// will be, and are left alone from then on. So a member is looked at in vain once, and the cost is that of the chains there are.
type evening struct {
	u       *uniform
	most    int // how many partitions they have whose turn it is
	settled []bool

	// The shortest chains, of one search: members and classes by how far they are; 0: not reached. Each is behind those whom it has led to nowhere.
	members, classes []int
	held             [][]*class
	tried            []int // by class, of its members
	end              int   // how far the nearest are who have two less
}

func (u *uniform) even() {
	e := &evening{u: u, settled: make([]bool, len(u.members)), tried: make([]int, len(u.classes))}
	for {
		e.most = 0
		for i, load := range u.load {
			if !e.settled[i] {
				e.most = max(e.most, load)
			}
		}
		if e.most < 2 {
			return
		}
		for e.search() {
			for i := range u.members {
				if e.members[i] == 1 {
					e.pass(i)
				}
			}
		}
		for i, far := range e.members {
			e.settled[i] = e.settled[i] || far > 0
		}
	}
}

// search finds how far everybody is from those with the most, up to the nearest who have two less. It tells whether there are any.
func (e *evening) search() bool {
	u := e.u
	e.members, e.classes, e.held, e.end = make([]int, len(u.members)), make([]int, len(u.classes)), make([][]*class, len(u.members)), 0
	clear(e.tried)
	var queue []int
	for i, load := range u.load {
		if load == e.most && !e.settled[i] {
			e.members[i] = 1
			queue = append(queue, i)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		i := queue[0]
		if far := e.members[i]; e.end > 0 && far >= e.end {
			break
		}
		e.held[i] = u.holds(i)
		for _, c := range e.held[i] {
			if e.classes[c.order] > 0 {
				continue
			}
			e.classes[c.order] = e.members[i]
			for _, j := range c.members {
				if e.members[j] > 0 || e.settled[j] {
					continue
				}
				e.members[j] = e.members[i] + 1
				queue = append(queue, j)
				if e.end == 0 && u.load[j] <= e.most-2 {
					e.end = e.members[j]
				}
			}
		}
	}
	return e.end > 0
}

// pass has a member give a partition to one who is a step further, who may have two less than those with the most, or passes one on. It tells
// whether it could.
func (e *evening) pass(i int) bool {
	u, far := e.u, e.members[i]
	if far == e.end {
		return u.load[i] <= e.most-2
	}
	for ; len(e.held[i]) > 0; e.held[i] = e.held[i][1:] {
		c := e.held[i][0]
		if e.classes[c.order] != far {
			continue
		}
		for at := &e.tried[c.order]; *at < len(c.members) && len(u.owned[i][c]) > 0; *at++ {
			if j := c.members[*at]; e.members[j] == far+1 && e.pass(j) {
				u.move(c, i, j)
				return true
			}
		}
	}
	return false
}

// holds are the classes of which a member has partitions, in order.
func (u *uniform) holds(i int) []*class {
	var out []*class
	for c, parts := range u.owned[i] {
		if len(parts) > 0 {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *class) int { return cmp.Compare(a.order, b.order) })
	return out
}

// move gives the last partition of a class that a member got to another.
func (u *uniform) move(c *class, from, to int) {
	own := u.owned[from][c]
	p := own[len(own)-1]
	u.owned[from][c] = own[:len(own)-1]
	u.load[from]--
	u.give(to, p)
}
