package kafkawire

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Groups come up when they are due, each once, in order, whatever was said of them before.
func TestDues(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var d dues
	at := func(n int) time.Time { return time.UnixMilli(int64(n)) }
	entries, want := make([]*entry, 200), map[*entry]time.Time{}
	for i := range entries {
		entries[i] = &entry{}
	}
	now := 0
	for range 20_000 {
		e := entries[rng.IntN(len(entries))]
		switch rng.IntN(4) {
		case 0:
			d.set(e, time.Time{})
			delete(want, e)
		case 1:
			now += rng.IntN(3)
			last := time.Time{}
			for _, e := range d.take(at(now)) {
				when, ok := want[e]
				if !ok || when.After(at(now)) || when.Before(last) {
					t.Fatalf("due at %v after %v, at %v: %v", when, last, at(now), ok)
				}
				last = when
				delete(want, e)
			}
		default:
			want[e] = at(now + rng.IntN(100))
			d.set(e, want[e])
		}
		first := time.Time{}
		for _, when := range want {
			if first.IsZero() || when.Before(first) {
				first = when
			}
		}
		if got := d.next(); !got.Equal(first) {
			t.Fatalf("next is %v, want %v", got, first)
		}
	}
}
