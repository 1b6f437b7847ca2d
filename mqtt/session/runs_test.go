package session

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// set of a runs, the slow way.
func offsetsOf(r *runs) (list []int64) {
	for n := range r.all {
		for o := n.from; o < n.to; o++ {
			list = append(list, o)
		}
	}
	return list
}

func TestRunsAgainstMap(t *testing.T) {
	for seed := range uint64(tier.N(3000)) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var r runs
		want := map[int64]bool{}
		for range 60 {
			switch from := rnd.Int64N(120); rnd.IntN(5) {
			case 0, 1:
				n := run{from, from + rnd.Int64N(6)}
				if rnd.IntN(2) == 0 && !r.empty() { // at the end, as the tail does
					n.from = r.end() + rnd.Int64N(3)
					n.to = n.from + 1 + rnd.Int64N(3)
				}
				r.add(n)
				for o := n.from; o < n.to; o++ {
					want[o] = true
				}
			case 2:
				removed := int64(0)
				for o := range want {
					if o < from/3 {
						delete(want, o)
						removed++
					}
				}
				if got := r.cut(from / 3); got != removed {
					t.Fatalf("seed %d: cut(%d) removed %d, want %d", seed, from/3, got, removed)
				}
			case 3:
				r.remove(from)
				delete(want, from)
			case 4:
				if r.has(from) != want[from] {
					t.Fatalf("seed %d: has(%d) = %v", seed, from, r.has(from))
				}
			}
			list := make([]int64, 0, len(want))
			for o := range want {
				list = append(list, o)
			}
			slices.Sort(list)
			if got := offsetsOf(&r); !slices.Equal(got, list) || r.offsets != int64(len(list)) || r.empty() != (len(list) == 0) {
				t.Fatalf("seed %d: %v (%d), want %v", seed, got, r.offsets, list)
			}
		}
	}
}

func TestSqueezeKeepsWhatWasPutInAndWhatLiesBelowTheFloor(t *testing.T) {
	var r runs
	for o := int64(0); o < 4000; o += 4 {
		r.add(run{o, o + 1})
	}
	before := offsetsOf(&r)
	size := len(r.mid)
	for range 12 {
		r.squeeze(1000)
	}
	after := offsetsOf(&r)
	for _, o := range before {
		if _, ok := slices.BinarySearch(after, o); !ok {
			t.Fatalf("%d is lost", o)
		}
	}
	for _, o := range after {
		if o <= 1000 && o%4 != 0 {
			t.Fatalf("%d, below the floor, was put in", o)
		}
	}
	if !r.merged || len(r.mid) > size/3 {
		t.Errorf("merged %v, %d bytes of %d", r.merged, len(r.mid), size)
	}
}

func TestQueueStaysBelowItsCap(t *testing.T) {
	var q queue
	rnd := rand.New(rand.NewPCG(1, 2))
	next := [4]int64{}
	for range 200_000 {
		p := rnd.IntN(4)
		next[p] += 2 + rnd.Int64N(1000)
		q.add(int32(p), next[p], 4096, nil)
		if q.bytes() > 4096 {
			t.Fatalf("%d bytes", q.bytes())
		}
	}
}

func TestPacketIDs(t *testing.T) {
	var f flight
	taken := map[uint16]bool{}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		if len(taken) < 900 && rnd.IntN(5) > 0 {
			id := f.nextID()
			if id == 0 || taken[id] {
				t.Fatalf("id %d given out twice", id)
			}
			taken[id] = true
			f.push(flown{id: id})
			continue
		}
		all := f.all()
		if len(all) == 0 {
			continue
		}
		i := 0
		if rnd.IntN(3) == 0 {
			i = rnd.IntN(len(all))
		}
		delete(taken, all[i].id)
		if got := f.remove(&all[i]); got != i {
			t.Fatalf("remove of %d returned %d", i, got)
		}
	}
}

func TestPacketIDsRunOutAndComeBack(t *testing.T) {
	var f flight
	for i := range 65535 {
		id := f.nextID()
		if id == 0 {
			t.Fatalf("none left after %d", i)
		}
		f.done = append(f.done, doneID{id: id})
	}
	if id := f.nextID(); id != 0 {
		t.Fatalf("id %d given out twice", id)
	}
	f.done = slices.Delete(f.done, 100, 101)
	if id := f.nextID(); id != 101 {
		t.Fatalf("got %d, want the one that is free, 101", id)
	}
}

func TestInsertKeepsTheOrder(t *testing.T) {
	var f flight
	for i := range 5 {
		f.push(flown{id: uint16(i + 1)})
	}
	f.remove(&f.all()[0])
	f.insert(1, flown{id: 100})
	var ids []uint16
	for _, d := range f.all() {
		ids = append(ids, d.id)
	}
	if want := []uint16{2, 100, 3, 4, 5}; !slices.Equal(ids, want) {
		t.Errorf("%v, want %v", ids, want)
	}
}
