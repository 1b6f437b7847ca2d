package session

import (
	"sync"
	"sync/atomic"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// RetainedIndex is what is known of each retained message, by topic. The core alone changes it, in its own goroutine; the readers of
// connections ask it whether there is room for another, since nobody can be refused what is in the log already. So its limits are
// passed by what is under way between a reader and the core, and by no more.
type RetainedIndex struct {
	max      int
	maxBytes int64
	full     atomic.Bool // what is new is to be refused

	mu    sync.RWMutex // held by who changes it, and by readers; the core looks without
	names topic.Names[*retained]
	live  int // of names: without the marks of removed messages
	bytes int64
}

// Admits tells whether a retained message may be published: one on a new topic while there is room, one on a topic that has one
// also when it takes no more room than that. Any goroutine.
func (x *RetainedIndex) Admits(name string, payload int) bool {
	if !x.full.Load() {
		return true
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok := x.names.Get(name)
	return ok && !r.cleared && (x.bytes < x.maxBytes || retainedSize(name, payload) <= int64(r.size))
}

// retainedSize is what a retained message counts towards the limit.
func retainedSize(name string, payload int) int64 { return int64(len(name) + payload) }

// get is the core's.
func (x *RetainedIndex) get(name string) (*retained, bool) { return x.names.Get(name) }

// put files r with what it is now: a message of so many bytes, or the mark of one that is removed.
func (x *RetainedIndex) put(r *retained, size int64, cleared bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old, _ := x.names.Get(r.topic); old != r {
		x.forget(old)
		x.names.Set(r.topic, r)
		r.size, r.cleared = 0, true
	}
	x.count(r, -1)
	r.size, r.cleared = int32(size), cleared
	if cleared {
		r.size = 0
	}
	x.count(r, 1)
}

func (x *RetainedIndex) delete(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old, ok := x.names.Delete(name); ok {
		x.forget(old)
	}
}

// forget uncounts an entry that is no longer filed. Under mu.
func (x *RetainedIndex) forget(r *retained) {
	if r != nil {
		x.count(r, -1)
	}
}

func (x *RetainedIndex) count(r *retained, n int) {
	if !r.cleared {
		x.live += n
	}
	x.bytes += int64(n) * int64(r.size)
	x.full.Store(x.live >= x.max || x.bytes >= x.maxBytes)
}

// Retained is the index of retained messages; it is the same as long as the core lives.
func (c *Core) Retained() *RetainedIndex { return &c.retained }
