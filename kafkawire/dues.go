package kafkawire

import (
	"container/heap"
	"time"
)

// dues are groups by when they have something to do next, the first one first, so that what is not due costs nothing, however many there
// are of it.
type dues struct{ order dueOrder }

// set notes when a group is due; a zero time is never.
func (d *dues) set(e *entry, at time.Time) {
	e.deadline = at
	switch {
	case e.due > 0 && at.IsZero():
		heap.Remove(&d.order, e.due-1)
	case e.due > 0:
		heap.Fix(&d.order, e.due-1)
	case !at.IsZero():
		heap.Push(&d.order, e)
	}
}

// next is when the first group is due; zero if none is.
func (d *dues) next() time.Time {
	if len(d.order) == 0 {
		return time.Time{}
	}
	return d.order[0].deadline
}

// take returns the groups that are due, the first one first, and forgets when.
func (d *dues) take(now time.Time) (due []*entry) {
	for len(d.order) > 0 && !d.order[0].deadline.After(now) {
		e := d.order[0]
		d.set(e, time.Time{})
		due = append(due, e)
	}
	return due
}

// dueOrder is the heap of them; entry.due is a place in it, counted from 1.
type dueOrder []*entry

func (o dueOrder) Len() int           { return len(o) }
func (o dueOrder) Less(i, j int) bool { return o[i].deadline.Before(o[j].deadline) }
func (o dueOrder) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].due, o[j].due = i+1, j+1
}

func (o *dueOrder) Push(x any) {
	e := x.(*entry)
	*o = append(*o, e)
	e.due = len(*o)
}

func (o *dueOrder) Pop() any {
	last := len(*o) - 1
	e := (*o)[last]
	(*o)[last] = nil
	*o, e.due = (*o)[:last], 0
	return e
}
