package segment

import (
	"crypto/sha256"
	"encoding/binary"
)

// offsetMap knows the last offset of each key, in a bounded number of bytes. A key is known by 16 bytes of its SHA-256: keys
// come from outside, and two that were made to collide would cost one of them its record.
type offsetMap struct {
	slots []slot // a power of two of them
	used  int
	max   int // slots
}

type slot struct {
	key  keyHash
	next int64 // the offset + 1; 0 is a free slot
}

type keyHash [16]byte

const slotBytes = 24

func hashKey(key []byte) keyHash {
	sum := sha256.Sum256(key)
	return keyHash(sum[:])
}

// newOffsetMap returns an empty map that grows to at most some bytes.
func newOffsetMap(bytes int64) *offsetMap {
	m := &offsetMap{slots: make([]slot, 64), max: 64}
	for int64(m.max)*2*slotBytes <= bytes {
		m.max *= 2
	}
	return m
}

func (m *offsetMap) find(key keyHash) *slot {
	mask := uint64(len(m.slots) - 1)
	for i := binary.LittleEndian.Uint64(key[:]); ; i++ {
		if s := &m.slots[i&mask]; s.next == 0 || s.key == key {
			return s
		}
	}
}

// put notes that a key has a record at an offset; offsets ascend. It returns false if the map is full.
func (m *offsetMap) put(key keyHash, offset int64) bool {
	s := m.find(key)
	if s.next == 0 {
		if m.used >= len(m.slots)*3/4 && !m.grow() {
			return false
		}
		s = m.find(key)
		s.key = key
		m.used++
	}
	s.next = offset + 1
	return true
}

func (m *offsetMap) grow() bool {
	if len(m.slots) >= m.max {
		return false
	}
	old := m.slots
	m.slots = make([]slot, 2*len(old))
	for _, s := range old {
		if s.next != 0 {
			*m.find(s.key) = s
		}
	}
	return true
}

// last returns the last offset of a key, or -1.
func (m *offsetMap) last(key keyHash) int64 { return m.find(key).next - 1 }
