package group

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
)

// subscriber is a member, as the assignors see it.
type subscriber struct {
	id       string
	instance *string
	topics   *subscription
}

// runAssignor divides the partitions of the topics among the members that want them.
func runAssignor(name string, members []subscriber, topics map[[16]byte]int32, before map[string]Partitions) map[string]Partitions {
	var out map[string]Partitions
	if name == rangeAssignor {
		out = assignRanges(members, topics)
	} else {
		out = assignUniformly(members, topics, before)
	}
	for _, m := range members { // who gets nothing is told so
		if out[m.id] == nil {
			out[m.id] = Partitions{}
		}
	}
	return out
}

// assignRanges gives the members of each topic, in the order of their instance ids or ids, a run of its partitions each. Topics
// with as many partitions are divided alike.
func assignRanges(members []subscriber, topics map[[16]byte]int32) map[string]Partitions {
	out := map[string]Partitions{}
	order := slices.Clone(members)
	slices.SortFunc(order, func(a, b subscriber) int {
		switch {
		case a.instance != nil && b.instance != nil:
			return cmp.Compare(*a.instance, *b.instance)
		case a.instance != nil:
			return -1
		case b.instance != nil:
			return 1
		}
		return cmp.Compare(a.id, b.id)
	})
	wanting := map[[16]byte][]string{}
	for _, m := range order {
		for _, t := range m.topics.ids {
			wanting[t] = append(wanting[t], m.id)
		}
	}
	for topic, ids := range wanting {
		next, n := int32(0), int32(len(ids))
		for i, id := range ids {
			share := topics[topic] / n
			if int32(i) < topics[topic]%n {
				share++
			}
			if share == 0 {
				break
			}
			if out[id] == nil {
				out[id] = Partitions{}
			}
			for range share {
				out[id][topic] = append(out[id][topic], next)
				next++
			}
		}
	}
	return out
}

// assignUniformly gives every member as many partitions as any other, as near as their subscriptions allow, and leaves with
// each as many as it may of those that it had.
func assignUniformly(members []subscriber, topics map[[16]byte]int32, before map[string]Partitions) map[string]Partitions {
	u := &uniform{members: members, topics: topics, load: make([]int, len(members)), owned: make([]map[*class][]part, len(members))}
	for i := range u.owned {
		u.owned[i] = map[*class][]part{}
	}
	u.classify()
	u.keep(before)
	for _, c := range u.classes {
		u.fill(c)
	}
	for moved := true; moved; { // every move makes the loads more equal, so this ends
		moved = false
		for _, c := range u.classes {
			moved = u.level(c) || moved
		}
	}
	if !mutant(mutantUneven) {
		u.even()
	}
	return u.result()
}

// class is topics that the same members want.
type class struct {
	order   int // among the classes
	topics  [][16]byte
	members []int
	free    []part
}

type uniform struct {
	members []subscriber
	topics  map[[16]byte]int32
	classes []*class
	classOf map[[16]byte]*class
	load    []int
	owned   []map[*class][]part // by member
}

// classify makes the classes: those with the fewest members first, since they have the least choice.
func (u *uniform) classify() {
	var subs []*subscription
	who := map[*subscription][]int{}
	for i, m := range u.members {
		if who[m.topics] == nil {
			subs = append(subs, m.topics)
		}
		who[m.topics] = append(who[m.topics], i)
	}
	by := map[[16]byte][]byte{} // topic → which of subs
	for i, s := range subs {
		for _, t := range s.ids {
			by[t] = append(by[t], byte(i), byte(i>>8), byte(i>>16))
		}
	}
	u.classOf = map[[16]byte]*class{}
	classes := map[string]*class{}
	for _, t := range slices.SortedFunc(maps.Keys(by), compareIDs) {
		c := classes[string(by[t])]
		if c == nil {
			c = &class{}
			classes[string(by[t])] = c
			for b := by[t]; len(b) > 0; b = b[3:] {
				c.members = append(c.members, who[subs[int(b[0])|int(b[1])<<8|int(b[2])<<16]]...)
			}
			slices.Sort(c.members)
			u.classes = append(u.classes, c)
		}
		c.topics = append(c.topics, t)
		u.classOf[t] = c
	}
	slices.SortStableFunc(u.classes, func(a, b *class) int { return cmp.Compare(len(a.members), len(b.members)) })
	for i, c := range u.classes {
		c.order = i
	}
}

// keep leaves with each member what it had and still may have; the rest is free.
func (u *uniform) keep(before map[string]Partitions) {
	taken := map[part]bool{}
	for i, m := range u.members {
		had := before[m.id]
		for _, t := range had.sorted() {
			if !m.topics.has(t) {
				continue
			}
			for _, index := range had[t] {
				if p := (part{t, index}); index < u.topics[t] && !taken[p] {
					taken[p] = true
					u.give(i, p)
				}
			}
		}
	}
	for _, c := range u.classes {
		for _, t := range c.topics {
			for index := range u.topics[t] {
				if p := (part{t, index}); !taken[p] {
					c.free = append(c.free, p)
				}
			}
		}
	}
}

func (u *uniform) give(i int, p part) {
	c := u.classOf[p.topic]
	u.owned[i][c] = append(u.owned[i][c], p)
	u.load[i]++
}

// fill gives the free partitions of a class to those who have the least.
func (u *uniform) fill(c *class) {
	least := byLoad{u: u, members: slices.Clone(c.members)}
	heap.Init(&least)
	for _, p := range c.free {
		if mutant(mutantStarve) && p.index == 1 {
			continue
		}
		u.give(least.members[0], p)
		heap.Fix(&least, 0)
	}
}

// level moves partitions of a class from those who have the most to those who have the least.
func (u *uniform) level(c *class) (moved bool) {
	least := byLoad{u: u, members: slices.Clone(c.members)}
	most := byLoad{u: u, desc: true}
	for _, i := range c.members {
		if len(u.owned[i][c]) > 0 {
			most.members = append(most.members, i)
		}
	}
	heap.Init(&least)
	heap.Init(&most)
	for len(most.members) > 0 {
		from, to := most.members[0], least.members[0]
		if u.load[from]-u.load[to] < 2 {
			break
		}
		u.move(c, from, to)
		if len(u.owned[from][c]) == 0 {
			heap.Pop(&most)
		} else {
			heap.Fix(&most, 0)
		}
		heap.Fix(&least, 0)
		moved = true
	}
	return moved
}

func (u *uniform) result() map[string]Partitions {
	out := map[string]Partitions{}
	for i, m := range u.members {
		ps := Partitions{}
		for _, parts := range u.owned[i] {
			for _, p := range parts {
				ps[p.topic] = append(ps[p.topic], p.index)
			}
		}
		for _, indexes := range ps {
			slices.Sort(indexes)
		}
		out[m.id] = ps
	}
	return out
}

// byLoad is a heap of members: the one with the least partitions first, or with the most.
type byLoad struct {
	u       *uniform
	members []int
	desc    bool
}

func (h *byLoad) Len() int { return len(h.members) }
func (h *byLoad) Less(i, j int) bool {
	a, b := h.members[i], h.members[j]
	if la, lb := h.u.load[a], h.u.load[b]; la != lb {
		return la < lb != h.desc
	}
	return a < b
}
func (h *byLoad) Swap(i, j int) { h.members[i], h.members[j] = h.members[j], h.members[i] }
func (h *byLoad) Push(x any)    { h.members = append(h.members, x.(int)) }
func (h *byLoad) Pop() any {
	last := h.members[len(h.members)-1]
	h.members = h.members[:len(h.members)-1]
	return last
}
