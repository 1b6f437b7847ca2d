package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// memo remembers something about credentials for a time. It holds no credential, only a keyed hash whose key lives and dies with the process, and no
// more than so many of them.
type memo[V any] struct {
	now  func() time.Time
	life time.Duration // 0: it remembers nothing
	most int
	key  [32]byte

	mu sync.Mutex
	of map[memoKey]remembered[V]
}

type memoKey [sha256.Size]byte

type remembered[V any] struct {
	v     V
	until time.Time
}

func newMemo[V any](now func() time.Time, life time.Duration, most int) *memo[V] {
	m := &memo[V]{now: now, life: life, most: most, of: map[memoKey]remembered[V]{}}
	rand.Read(m.key[:])
	return m
}

// hash makes a key of texts, in which none can run over into the next.
func (m *memo[V]) hash(texts ...string) memoKey {
	h := hmac.New(sha256.New, m.key[:])
	for _, t := range texts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(t)))
		h.Write(n[:])
		io.WriteString(h, t) //nolint:errcheck // a hash takes everything
	}
	return memoKey(h.Sum(nil))
}

func (m *memo[V]) get(k memoKey) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.of[k]
	if ok && !m.now().Before(r.until) {
		delete(m.of, k)
		ok = false
	}
	if !ok {
		return v, false
	}
	return r.v, true
}

// put remembers v for the memo's life, or until limit if that is set and sooner.
func (m *memo[V]) put(k memoKey, v V, limit time.Time) {
	if m.life <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	until := now.Add(m.life)
	if !limit.IsZero() && limit.Before(until) {
		until = limit
	}
	if _, there := m.of[k]; !there && len(m.of) >= m.most {
		m.forget(now)
	}
	m.of[k] = remembered[V]{v, until}
}

// forget makes room: of the few that it looks at, all that have expired, or else one.
func (m *memo[V]) forget(now time.Time) {
	looked, before := 0, len(m.of)
	var one memoKey
	for k, r := range m.of {
		if one = k; !now.Before(r.until) {
			delete(m.of, k)
		}
		if looked++; looked == 16 {
			break
		}
	}
	if len(m.of) == before {
		delete(m.of, one)
	}
}
