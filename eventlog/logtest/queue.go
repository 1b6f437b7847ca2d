package logtest

import (
	"cmp"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
)

// pending is what one call of Append or AppendAtomic brought.
type pending struct {
	batches []*eventlog.Batch
	writer  *memWriter // nil: not through a claim
	out     []eventlog.Outcome
	done    func([]eventlog.Outcome)
	twin    func() // if its outcome is unknown: has it land, late; to be called once it is answered
	seq     uint64 // the order of the calls
	size    int
}

func (a *pending) fail(err error) {
	for i := range a.out {
		a.out[i] = eventlog.Outcome{Err: err}
	}
}

// fifos holds one queue per partition; an append for several partitions stands in each of theirs.
type fifos struct {
	q     map[eventlog.Part][]*pending
	order []eventlog.Part // every partition ever seen, so that choices do not depend on a map's order
}

func (f *fifos) push(a *pending) {
	if f.q == nil {
		f.q = map[eventlog.Part][]*pending{}
	}
	for _, b := range a.batches {
		if _, ok := f.q[b.Part]; !ok {
			f.order = append(f.order, b.Part)
		}
		if q := f.q[b.Part]; len(q) == 0 || q[len(q)-1] != a {
			f.q[b.Part] = append(q, a)
		}
	}
}

func (f *fifos) pop(a *pending) {
	for _, b := range a.batches {
		if q := f.q[b.Part]; len(q) > 0 && q[0] == a {
			f.q[b.Part] = q[1:]
		}
	}
}

// ready lists the appends that stand first in all their queues.
func (f *fifos) ready() (out []*pending) {
	for _, p := range f.order {
		if q := f.q[p]; len(q) > 0 && q[0].batches[0].Part == p && f.first(q[0]) {
			out = append(out, q[0])
		}
	}
	return out
}

func (f *fifos) first(a *pending) bool {
	return !slices.ContainsFunc(a.batches, func(b *eventlog.Batch) bool { return f.q[b.Part][0] != a })
}

func (f *fifos) all() (out []*pending) {
	for _, p := range f.order {
		for _, a := range f.q[p] {
			if a.batches[0].Part == p {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, func(a, b *pending) int { return cmp.Compare(a.seq, b.seq) })
	return out
}
