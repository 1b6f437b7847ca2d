package console

import (
	"maps"
	"sync"
	"time"
)

// buckets limit how often something happens for each of many keys: burst times at once, then once every so often. They are bounded: when
// there are too many keys, all that are new share one.
type buckets[K comparable] struct {
	now   func() time.Time
	burst int
	every time.Duration

	mu       sync.Mutex
	full     map[K]time.Time // when the bucket will be full again
	overflow time.Time
	swept    time.Time // when the full ones were last thrown out
}

const maxBuckets = 4096

// take uses up one time of the key. If there is none left it returns how long it takes until there is.
func (b *buckets[K]) take(key K) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	full, own := b.place(key, now)
	if !own {
		full = b.overflow
	}
	if wait = later(full, now).Sub(now) - time.Duration(b.burst-1)*b.every; wait > 0 {
		return wait
	}
	b.set(key, own, later(full, now).Add(b.every))
	return 0
}

// back undoes a take.
func (b *buckets[K]) back(key K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if full, there := b.full[key]; there {
		b.full[key] = full.Add(-b.every)
	} else {
		b.overflow = b.overflow.Add(-b.every)
	}
}

// place returns when the key's bucket will be full, and whether it has one of its own.
func (b *buckets[K]) place(key K, now time.Time) (full time.Time, own bool) {
	full, own = b.full[key]
	if own || len(b.full) < maxBuckets {
		return full, true
	}
	if now.Sub(b.swept) >= b.every { // not at each of a flood's requests
		b.swept = now
		maps.DeleteFunc(b.full, func(_ K, t time.Time) bool { return !t.After(now) })
	}
	return time.Time{}, len(b.full) < maxBuckets
}

func (b *buckets[K]) set(key K, own bool, full time.Time) {
	if !own {
		b.overflow = full
		return
	}
	if b.full == nil {
		b.full = map[K]time.Time{}
	}
	b.full[key] = full
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
