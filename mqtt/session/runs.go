package session

import (
	"encoding/binary"
	"slices"
)

// run is the offsets from (inclusive) to to (exclusive).
type run struct{ from, to int64 }

// runs is a set of offsets of one partition. Offsets are added mostly at its end and taken mostly from its start, so the first
// and the last run stand as they are; those between are pairs of varints: the gap after the run before, and the length. A
// narrow subscriber costs two or three bytes per position, a wide one next to nothing.
type runs struct {
	first, last run    // last only if there are two or more
	mid         []byte // the runs between them
	midEnd      int64  // end of the last run in mid; of first if mid is empty
	count       int    // runs
	offsets     int64  // in all of them
	merged      bool   // some offsets were put in only because their neighbours are
}

func (r *runs) empty() bool { return r.count == 0 }

// min is the first offset.
func (r *runs) min() int64 { return r.first.from }

// end is the offset after the last one.
func (r *runs) end() int64 {
	if r.count > 1 {
		return r.last.to
	}
	return r.first.to
}

// add puts the offsets of n into the set.
func (r *runs) add(n run) {
	switch {
	case n.from >= n.to:
	case r.count == 0:
		*r = runs{first: n, midEnd: n.to, count: 1, offsets: n.to - n.from, mid: r.mid[:0]}
	case n.from > r.end():
		if r.count > 1 {
			r.mid = appendRun(r.mid, r.midEnd, r.last)
			r.midEnd = r.last.to
		}
		r.last = n
		r.count++
		r.offsets += n.to - n.from
	case n.from == r.end() && r.count > 1:
		r.offsets += n.to - n.from
		r.last.to = n.to
	case n.from == r.end():
		r.offsets += n.to - n.from
		r.first.to, r.midEnd = n.to, n.to
	default:
		r.set(append(r.list(), n))
	}
}

// cut removes every offset below to and returns how many there were.
func (r *runs) cut(to int64) (removed int64) {
	before := r.offsets
	for r.count > 0 && r.first.from < to {
		if r.first.to > to {
			r.offsets -= to - r.first.from
			r.first.from = to
			break
		}
		r.offsets -= r.first.to - r.first.from
		r.pop()
	}
	return before - r.offsets
}

// pop takes the first run off.
func (r *runs) pop() {
	switch r.count {
	case 1:
		*r = runs{mid: r.mid[:0]}
		return
	case 2:
		r.first, r.mid, r.midEnd = r.last, r.mid[:0], r.last.to
	default:
		r.first, r.mid = cutRun(r.mid, r.first.to)
		if len(r.mid) == 0 {
			r.midEnd = r.first.to
		}
	}
	r.count--
}

// remove takes one offset out.
func (r *runs) remove(off int64) {
	if !r.has(off) {
		return
	}
	list := r.list()
	for i, n := range list {
		if off >= n.from && off < n.to {
			list = slices.Replace(list, i, i+1, run{n.from, off}, run{off + 1, n.to})
			break
		}
	}
	r.set(list)
}

func (r *runs) has(off int64) bool {
	if r.count == 0 || off < r.first.from || off >= r.end() {
		return false
	}
	for n := range r.all {
		if off < n.to {
			return off >= n.from
		}
	}
	return false
}

// next is the first offset at or after one; false if there is none.
func (r *runs) next(off int64) (int64, bool) {
	switch {
	case r.count == 0 || off >= r.end():
		return 0, false
	case off <= r.first.from:
		return r.first.from, true
	}
	for n := range r.all {
		if off < n.to {
			return max(off, n.from), true
		}
	}
	return 0, false
}

// clear takes the offsets of n out and returns how many there were.
func (r *runs) clear(n run) (removed int64) {
	if r.count == 0 || n.from <= r.first.from {
		return r.cut(n.to)
	}
	before := r.offsets
	var list []run
	for m := range r.all {
		list = append(list, run{m.from, min(m.to, n.from)}, run{max(m.from, n.to), m.to}) // set drops what is empty
	}
	r.set(list)
	return before - r.offsets
}

// all visits the runs in order.
func (r *runs) all(yield func(run) bool) {
	if r.count == 0 || !yield(r.first) {
		return
	}
	for mid, n := r.mid, r.first; len(mid) > 0; {
		n, mid = cutRun(mid, n.to)
		if !yield(n) {
			return
		}
	}
	if r.count > 1 {
		yield(r.last)
	}
}

func (r *runs) list() []run {
	list := make([]run, 0, r.count+1)
	for n := range r.all {
		list = append(list, n)
	}
	return list
}

// set makes the set hold what list holds, which may overlap and be in any order.
func (r *runs) set(list []run) {
	merged := r.merged
	*r = runs{mid: r.mid[:0]}
	for _, n := range normal(list) {
		r.add(n)
	}
	r.merged = merged && r.count > 0
}

// normal sorts a list and joins the runs that overlap or touch.
func normal(list []run) []run {
	slices.SortFunc(list, func(a, b run) int { return int(min(max(a.from-b.from, -1), 1)) })
	out := list[:0]
	for _, n := range list {
		switch last := len(out) - 1; {
		case n.from >= n.to:
		case last >= 0 && n.from <= out[last].to:
			out[last].to = max(out[last].to, n.to)
		default:
			out = append(out, n)
		}
	}
	return out
}

// squeeze joins neighbours, nearest first, until the set has no more than about half its runs. The set then holds more than
// was put in. Runs that begin below floor stay as they are: what lies between those may have been delivered before a crash.
func (r *runs) squeeze(floor int64) {
	list := r.list()
	from := 0
	for from < len(list) && list[from].from < floor {
		from++
	}
	if len(list)-from < 2 {
		return
	}
	gaps := make([]int64, 0, len(list)-from-1)
	for i := from + 1; i < len(list); i++ {
		gaps = append(gaps, list[i].from-list[i-1].to)
	}
	slices.Sort(gaps)
	limit := gaps[len(gaps)/2]
	for i := from + 1; i < len(list); i++ {
		if list[i].from-list[i-1].to <= limit {
			list[i-1].to = list[i].from // touching: set joins them
		}
	}
	r.set(list)
	r.merged = true
}

// appendRun appends a run as its distance from the end of the one before and its length.
func appendRun(dst []byte, end int64, n run) []byte {
	dst = binary.AppendUvarint(dst, uint64(n.from-end))
	return binary.AppendUvarint(dst, uint64(n.to-n.from))
}

// cutRun takes the first run off what appendRun made.
func cutRun(src []byte, end int64) (run, []byte) {
	gap, n := binary.Uvarint(src)
	length, m := binary.Uvarint(src[n:])
	from := end + int64(gap)
	return run{from, from + int64(length)}, src[n+m:]
}
