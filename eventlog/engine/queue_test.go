package engine

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestBacklogOrder: whatever the sizes and limits, nothing is lost, each partition's items stay in order, an item without a
// partition keeps its place among all, and no commit is too large.
func TestBacklogOrder(t *testing.T) {
	for seed := range uint64(tier.N(3000)) {
		rng := rand.New(rand.NewPCG(tier.Seed()+seed, 3))
		parts := make([]*partition, 1+rng.IntN(6))
		for i := range parts {
			parts[i] = &partition{}
		}
		limit := 1000 + rng.IntN(300_000)
		var q queue
		q.wake = make(chan struct{}, 1)
		var b backlog
		sent, taken := 0, 0
		lastOf := map[*partition]int64{}
		lastBarrier := int64(0)
		take := func() {
			out, size := b.take(nil, limit)
			sum := 0
			for _, it := range out {
				sum += it.size
				taken++
				switch {
				case it.barrier():
					if it.base != int64(taken) {
						t.Fatalf("seed %d: barrier %d is taken as number %d", tier.Seed()+seed, it.base, taken)
					}
					lastBarrier = it.base
				case it.base <= lastOf[it.p]:
					t.Fatalf("seed %d: item %d after %d of one partition", tier.Seed()+seed, it.base, lastOf[it.p])
				case it.base < lastBarrier:
					t.Fatalf("seed %d: item %d after barrier %d", tier.Seed()+seed, it.base, lastBarrier)
				}
				lastOf[it.p] = it.base
			}
			if sum != size || size > limit && len(out) > 1 {
				t.Fatalf("seed %d: %d items of %d bytes, said %d, limit %d", tier.Seed()+seed, len(out), sum, size, limit)
			}
		}
		for range rng.IntN(40) {
			for range rng.IntN(30) {
				sent++
				it := &item{base: int64(sent), size: rng.IntN(40_000)}
				if rng.IntN(20) > 0 {
					it.p = parts[rng.IntN(len(parts))]
				}
				q.put(it)
			}
			b.refill(&q)
			if !b.empty() {
				take()
			}
		}
		for b.refill(&q); !b.empty(); {
			take()
		}
		if taken != sent || b.size != 0 || b.bulk != 0 {
			t.Fatalf("seed %d: %d of %d items are taken, %d bytes and %d heavy ones are left", tier.Seed()+seed, taken, sent, b.size, b.bulk)
		}
	}
}

// TestBacklogIsFair: one partition's bulk does not hold up another's small item.
func TestBacklogIsFair(t *testing.T) {
	bulk, small := &partition{}, &partition{}
	var q queue
	q.wake = make(chan struct{}, 1)
	var b backlog
	for range 100 {
		q.put(&item{p: bulk, size: 50_000})
	}
	q.put(&item{p: small, size: 100})
	b.refill(&q)
	out, _ := b.take(nil, 1_000_000)
	for i, it := range out {
		if it.p == small {
			if i > 3 {
				t.Errorf("the small item is number %d", i)
			}
			return
		}
	}
	t.Errorf("the small item is not among the first %d", len(out))
}

// TestRoomIsPerPartition: a partition with too much waiting says so, and another does not.
func TestRoomIsPerPartition(t *testing.T) {
	s := &stall{}
	e := open(t, small(vfs.Faults(vfs.NewMem(), s.hook)))
	topic := createTopic(t, e, "t", 2, nil)
	full, other := eventlog.Part{Topic: topic.ID}, eventlog.Part{Topic: topic.ID, Index: 1}
	release := s.hold()
	defer release()
	answered := make(chan error, 100)
	n := 0
	var ch <-chan struct{}
	for ch == nil {
		var bl eventlog.Builder
		bl.Add(1, nil, make([]byte, 4000), nil)
		b, _, err := bl.Batch(full, eventlog.None)
		if err != nil {
			t.Fatal(err)
		}
		e.Append(b, func(o eventlog.Outcome) { answered <- o.Err })
		n++
		ch = e.Room(full)
	}
	if e.Room(other) != nil {
		t.Error("the other partition has no room")
	}
	if e.Room(eventlog.Part{}) != nil {
		t.Error("a partition that is not there has no room")
	}
	if n > int(e.queueShare)/4000+2 {
		t.Errorf("no room after %d batches only", n)
	}
	release()
	select {
	case <-ch:
	case <-time.After(30 * time.Second):
		t.Fatal("no room again")
	}
	for range n {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// TestLightGoesFirst: bulk for hundreds of partitions does not hold up a device's items, nor do those starve the bulk, and commits are small
// as long as there are both.
func TestLightGoesFirst(t *testing.T) {
	bulk, light := make([]*partition, 300), make([]*partition, 200)
	for i := range bulk {
		bulk[i] = &partition{}
	}
	for i := range light {
		light[i] = &partition{}
	}
	var q queue
	q.wake = make(chan struct{}, 1)
	var b backlog
	const limit = 4 << 20
	for range 4 {
		for _, p := range bulk {
			q.put(&item{p: p, size: 16 << 10})
		}
	}
	b.refill(&q)
	if _, size := b.take(nil, limit); size < limit-16<<10 {
		t.Errorf("a commit of bulk alone has %d bytes", size)
	}
	for round := range 3 {
		for _, p := range light {
			q.put(&item{p: p, size: 2 << 10})
		}
		b.refill(&q)
		out, size := b.take(nil, limit)
		lights := 0
		for _, it := range out {
			if it.size == 2<<10 {
				lights++
			}
		}
		if size > mixedCommit || lights*2<<10 > mixedCommit/4 || lights < 100 {
			t.Errorf("round %d: a commit of %d bytes with %d light items", round, size, lights)
		}
		for i, it := range out[:lights] {
			if it.size != 2<<10 {
				t.Fatalf("round %d: item %d of %d is bulk", round, i, len(out))
			}
		}
	}
	for range mixedFor {
		for range 3 {
			q.put(&item{p: bulk[0], size: 16 << 10})
		}
		b.refill(&q)
	}
	b.lanes, b.next, b.waiting, b.size = nil, 0, fifo{}, 0
	for b.size < 2*limit {
		q.put(&item{p: &partition{}, size: 16 << 10})
		b.refill(&q)
	}
	if _, size := b.take(nil, limit); size < limit-16<<10 {
		t.Errorf("a commit of bulk has %d bytes, long after the last light item", size)
	}
}

// TestLargeBesideLight: a batch that has no room in a commit with what is light, or in none with anything else, has its turn, however much
// of the light comes; and the light has every other commit.
func TestLargeBesideLight(t *testing.T) {
	for _, size := range []int{100 << 10, 900 << 10, mixedCommit + 1, 10 << 20} {
		var q queue
		q.wake = make(chan struct{}, 1)
		var b backlog
		bulk := []*partition{{}, {}, {}}
		light := make([]*partition, 400)
		for i := range light {
			light[i] = &partition{}
		}
		last, lights := map[*partition]int{}, 0
		for round := range 50 {
			for _, p := range light {
				q.put(&item{p: p, size: 1 << 10})
			}
			for _, p := range bulk {
				q.put(&item{p: p, size: size})
			}
			b.refill(&q)
			out, _ := b.take(nil, 4<<20)
			none := true
			for _, it := range out {
				if it.size == size {
					last[it.p] = round + 1
				} else {
					none = false
				}
			}
			if lights++; !none {
				lights = 0
			}
			if lights > 1 {
				t.Fatalf("%d bytes, round %d: %d commits without anything light", size, round, lights)
			}
			for i, p := range bulk {
				if round-last[p] > 4*len(bulk) {
					t.Fatalf("%d bytes, round %d: partition %d had its last turn in %d", size, round, i, last[p])
				}
			}
		}
	}
}
