package session

import (
	"cmp"
	"container/heap"
	"maps"
	"math"
	"slices"
)

// timers is the sessions that have something due, as a heap by time.
type timers []*session

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(t[i].due, t[j].due), cmp.Compare(t[i].seq, t[j].seq)) < 0
}
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i+1, j+1
}

// Push and Pop are heap's.
func (t *timers) Push(x any) {
	s := x.(*session)
	*t = append(*t, s)
	s.timer = len(*t)
}

func (t *timers) Pop() any {
	last := len(*t) - 1
	s := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	s.timer = 0
	return s
}

// put files a session under its due time.
func (t *timers) put(s *session) {
	if s.timer > 0 {
		heap.Fix(t, s.timer-1)
	} else {
		heap.Push(t, s)
	}
}

// schedule files a session under the earlier of its times.
func (c *Core) schedule(s *session) {
	s.due = s.willAt
	if s.due == 0 || s.expireAt != 0 && s.expireAt < s.due {
		s.due = s.expireAt
	}
	if s.due != 0 {
		c.timers.put(s)
	} else if s.timer > 0 {
		heap.Remove(&c.timers, s.timer-1)
	}
}

// fireTimers does what is due, and returns when the next is.
func (c *Core) fireTimers() int64 {
	for len(c.timers) > 0 && c.timers[0].due <= c.now {
		s := c.timers[0]
		heap.Pop(&c.timers)
		c.expired(s)
	}
	if len(c.timers) > 0 {
		return c.timers[0].due
	}
	return math.MaxInt64
}

func sortedKeys(m map[staleKey]*lane) []staleKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b staleKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), compareKey(a.key, b.key))
	})
}
