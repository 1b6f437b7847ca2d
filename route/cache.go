package route

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/millrace-io/millrace/meter"
)

// resolved is all that a topic alone decides. It is immutable, but for its cell.
type resolved struct {
	name  string                     // the topic, interned: every message view shares it
	route *route                     // nil: nothing takes this topic
	key   []byte                     // nil: the key is the client id
	part  int32                      // of key, among
	parts int32                      // so many
	cell  atomic.Pointer[meter.Cell] // where its last message was counted
}

// cache remembers what topics resolve to. It is bounded: each shard keeps two generations and forgets the older one when the
// younger is full, so that a topic in use is found again and a flood of new topics costs no more than the bound.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]cacheShard
}

const (
	cacheShards     = 64
	cacheShardBytes = 128 << 10 // of one generation: 16 MiB in all
	cacheEntryBytes = 200       // beside the topic and the key
)

type cacheShard struct {
	mu         sync.RWMutex
	young, old map[string]*resolved
	bytes      int
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

// get returns what topic resolves to, by resolve if it must. topic may alias a buffer; resolve gets a copy.
func (c *cache) get(topic string, resolve func(string) *resolved) *resolved {
	s := &c.shards[maphash.String(c.seed, topic)%cacheShards]
	s.mu.RLock()
	r, young := s.young[topic]
	if !young {
		r = s.old[topic]
	}
	s.mu.RUnlock()
	if young {
		return r
	}
	if r == nil {
		r = resolve(strings.Clone(topic))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if again := s.young[topic]; again != nil {
		return again
	}
	if s.young == nil || s.bytes > cacheShardBytes {
		s.young, s.old, s.bytes = map[string]*resolved{}, s.young, 0
	}
	s.young[r.name] = r
	s.bytes += cacheEntryBytes + len(r.name) + len(r.key)
	return r
}
