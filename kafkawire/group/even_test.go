package group

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// wanting is members who want any of the topics, each, and what they had.
type wanting struct {
	rng    *rand.Rand
	topics map[[16]byte]int32
	wants  map[string][]byte
}

func newWanting(seed uint64) *wanting {
	w := &wanting{rng: rand.New(rand.NewPCG(seed, 2)), topics: map[[16]byte]int32{}, wants: map[string][]byte{}}
	for i := range 2 + w.rng.IntN(5) {
		w.topics[[16]byte{byte(i)}] = w.rng.Int32N(7)
	}
	for i := range 2 + w.rng.IntN(6) {
		w.subscribe(fmt.Sprint("m", i))
	}
	return w
}

func (w *wanting) subscribe(id string) {
	w.wants[id] = nil
	for i := range len(w.topics) {
		if w.rng.IntN(5) < 2 {
			w.wants[id] = append(w.wants[id], byte(i))
		}
	}
}

// change is what happens in a group: somebody comes, goes or wants something else, a topic grows, or nothing.
func (w *wanting) change() (quiet bool) {
	id := fmt.Sprint("m", w.rng.IntN(8))
	switch w.rng.IntN(4) {
	case 0:
		return true
	case 1:
		delete(w.wants, id)
	case 2:
		w.topics[[16]byte{byte(w.rng.IntN(len(w.topics)))}]++
	default:
		w.subscribe(id)
	}
	return false
}

// misassigned checks that all that is wanted is somebody's who wants it, and nobody else's.
func misassigned(members []subscriber, topics map[[16]byte]int32, got map[string]Partitions) string {
	owner := map[part]string{}
	for _, m := range members {
		for topic, parts := range got[m.id] {
			for _, i := range parts {
				p := part{topic, i}
				if owner[p] != "" || !m.topics.has(topic) || i >= topics[topic] {
					return fmt.Sprintf("%v is %s's and %s's, or not to be had", p, owner[p], m.id)
				}
				owner[p] = m.id
			}
		}
	}
	for topic, n := range topics {
		for i := range n {
			if owner[part{topic, i}] == "" && slices.ContainsFunc(members, func(m subscriber) bool { return m.topics.has(topic) }) {
				return fmt.Sprintf("%v/%d is nobody's", topic[0], i)
			}
		}
	}
	return ""
}

// uneven checks that no chain of members, of whom each could give a partition to the next, begins with one who has two more than whom it
// ends with.
func uneven(members []subscriber, got map[string]Partitions) string {
	for _, from := range members {
		reached := []string{from.id}
		for next := 0; next < len(reached); next++ {
			for topic := range got[reached[next]] {
				for _, m := range members {
					if m.topics.has(topic) && !slices.Contains(reached, m.id) {
						reached = append(reached, m.id)
					}
				}
			}
		}
		for _, to := range reached {
			if have, could := got[from.id].count(), got[to].count(); have-could >= 2 {
				return fmt.Sprintf("%s has %d, and %s could have more than %d", from.id, have, to, could)
			}
		}
	}
	return ""
}

// fewest is how many partitions change hands at least, of those that were somebody's who still wants them, where nothing is more even. It
// gives one partition after another to whom it costs least, all that were given before giving way (successive shortest paths); it knows
// nothing of how the assignor does it.
func (w *wanting) fewest(members []subscriber, before map[string]Partitions) (squares, moves int) {
	var parts []part
	var may [][]int // cost of each partition with each member; -1: not his
	for topic, n := range w.topics {
		for i := range n {
			costs, kept := make([]int, len(members)), false
			for j, m := range members {
				if costs[j] = -1; m.topics.has(topic) {
					if costs[j] = 1; slices.Contains(before[m.id][topic], i) {
						costs[j], kept = 0, true
					}
				}
			}
			if !slices.ContainsFunc(costs, func(c int) bool { return c >= 0 }) {
				continue
			}
			for j := range costs {
				if !kept && costs[j] > 0 {
					costs[j] = 0
				}
			}
			parts, may = append(parts, part{topic, i}), append(may, costs)
		}
	}
	const much = 1000 // evenness before moves
	owner, load := make([]int, len(parts)), make([]int, len(members))
	for p := range owner {
		owner[p] = -1
	}
	for p := range parts {
		cost, by := make([]int, len(members)), make([]int, len(members)) // to bring a partition to a member, and which
		for j := range members {
			if cost[j], by[j] = math.MaxInt32, p; may[p][j] >= 0 {
				cost[j] = may[p][j]
			}
		}
		for range members {
			for q, from := range owner {
				for j := range members {
					if from >= 0 && from != j && may[q][j] >= 0 && cost[from]+may[q][j]-may[q][from] < cost[j] {
						cost[j], by[j] = cost[from]+may[q][j]-may[q][from], q
					}
				}
			}
		}
		best := 0
		for j := range members {
			if cost[j]+much*(2*load[j]+1) < cost[best]+much*(2*load[best]+1) {
				best = j
			}
		}
		load[best]++
		for j := best; ; {
			q := by[j]
			from := owner[q]
			owner[q] = j
			if q == p {
				break
			}
			j = from
		}
	}
	for p, j := range owner {
		moves += may[p][j]
	}
	for _, n := range load {
		squares += n * n
	}
	return squares, moves
}

// count is how many there are.
func (p Partitions) count() (n int) {
	for _, indexes := range p {
		n += len(indexes)
	}
	return n
}

// lost is how many partitions are not with a member any more who had them, and wants them.
func lost(members []subscriber, before, now map[string]Partitions) (n int) {
	for _, m := range members {
		for topic, indexes := range before[m.id] {
			for _, i := range indexes {
				if m.topics.has(topic) && !slices.Contains(now[m.id][topic], i) {
					n++
				}
			}
		}
	}
	return n
}

// run has a group change some times, and checks each assignment. It counts what moved, and what had to.
func (w *wanting) run(moved, least *int) string {
	var before map[string]Partitions
	for round, quiet := 0, false; round < 6; round++ {
		members := subscribersOf(w.wants)
		got := runAssignor(uniformAssignor, members, w.topics, before)
		why := cmp.Or(misassigned(members, w.topics, got), uneven(members, got))
		if again := runAssignor(uniformAssignor, members, w.topics, before); why == "" && show(again) != show(got) {
			why = "another time it is " + show(again)
		}
		if why == "" && quiet && show(got) != show(before) {
			why = "nothing changed"
		}
		squares, moves := w.fewest(members, before)
		for _, m := range members {
			squares -= got[m.id].count() * got[m.id].count()
		}
		if why == "" && squares != 0 {
			why = fmt.Sprint("there are more even shares, by squares of ", squares)
		}
		if why != "" {
			return fmt.Sprintf("round %d: %s: %s after %s, of %v", round, why, show(got), show(before), w.wants)
		}
		*moved, *least = *moved+lost(members, before, got), *least+moves
		before, quiet = got, w.change()
	}
	return ""
}

// Whoever wants whatever: nothing is more even, and hardly more moves than must.
func TestUniformIsEven(t *testing.T) {
	var moved, least int
	for seed := range uint64(400) {
		if why := newWanting(seed).run(&moved, &least); why != "" {
			t.Errorf("seed %d, %s", seed, why)
		}
	}
	if t.Logf("%d moved, of which %d had to", moved, least); moved < least || moved > least+least/20 {
		t.Errorf("%d moved, of which %d had to", moved, least)
	}
}

// One, two and three partitions where each could have two: no single move helps, a chain of two does.
func TestUnevenIsSeen(t *testing.T) {
	members := subscribersOf(map[string][]byte{"a": {1, 2}, "b": {2, 3}, "c": {3}})
	shares := map[string]Partitions{"a": {{1}: {0, 1}, {2}: {0}}, "b": {{3}: {0, 1}}, "c": {{3}: {2}}}
	if uneven(members, shares) == "" {
		t.Errorf("%s is taken for even", show(shares))
	}
	got := runAssignor(uniformAssignor, members, map[[16]byte]int32{{1}: 2, {2}: 1, {3}: 3}, shares)
	if want := "a: 1[0 1]; b: 2[0] 3[0]; c: 3[1 2]; "; show(got) != want {
		t.Errorf("%s, want %s", show(got), want)
	}
}

// As large as may be, and as many wishes as members: others can wait for it.
func TestUniformLargeGroup(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, tc := range []struct {
		name   string
		topics int
		wants  func(member int) []int
	}{
		{"neighbours", 20_000, func(m int) []int { return []int{m, (m + 1) % 5000, 5000 + m, 10_000 + m, 15_000 + m} }},
		{"few each", 20_000, func(m int) []int {
			out := make([]int, 1+m%10)
			for i := range out {
				out[i] = rng.IntN(20_000 >> (m % 5))
			}
			return out
		}},
		{"more and more", 500, func(m int) []int { return rng.Perm(1 + m/10) }},
		{"half of all", 250, func(int) []int { return rng.Perm(250)[:125] }},
	} {
		topics := map[[16]byte]int32{}
		id := func(i int) [16]byte { return [16]byte{byte(i >> 8), byte(i)} }
		for i := range tc.topics {
			topics[id(i)] = int32(20_000 / tc.topics)
		}
		var members []subscriber
		for i := range 5000 {
			s := &subscription{}
			for _, t := range slices.Compact(slices.Sorted(slices.Values(tc.wants(i)))) {
				s.ids = append(s.ids, id(t))
			}
			members = append(members, subscriber{id: fmt.Sprintf("m%05d", i), topics: s})
		}
		began := time.Now()
		before := runAssignor(uniformAssignor, members, topics, nil)
		first := time.Since(began)
		again := runAssignor(uniformAssignor, members[500:], topics, before)
		took := time.Since(began)
		t.Logf("%s: %v, and %v when a tenth leaves", tc.name, first, took-first)
		if took > 20*time.Second {
			t.Errorf("%s: two assignments take %v", tc.name, took)
		}
		if n := lost(members[500:], before, again); n > 20_000/5 {
			t.Errorf("%s: %d partitions have moved", tc.name, n)
		}
	}
}
