package session

import (
	"encoding/binary"
	"slices"
)

// appendVector writes a vector: for each topic its id, how many partitions, and for each its index and the offset.
func appendVector(dst []byte, v []Position) []byte {
	slices.SortFunc(v, func(a, b Position) int { return comparePart(a.Part, b.Part) })
	topics := 0
	for i := range v {
		if i == 0 || v[i].Topic != v[i-1].Topic {
			topics++
		}
	}
	dst = appendInt(dst, uint64(topics))
	for i := 0; i < len(v); {
		n := i
		for n < len(v) && v[n].Topic == v[i].Topic {
			n++
		}
		dst = append(dst, v[i].Topic[:]...)
		dst = appendInt(dst, uint64(n-i))
		for ; i < n; i++ {
			dst = appendInt(dst, uint64(v[i].Index))
			dst = appendInt(dst, uint64(v[i].Offset))
		}
	}
	return dst
}

func (r *reader) vector() (v []Position) {
	for range r.count(17) {
		topic, n := r.topic(), r.count(2)
		v = slices.Grow(v, n)
		for range n {
			v = append(v, Position{Part{topic, r.index()}, r.offset()})
		}
	}
	return v
}

func comparePart(a, b Part) int {
	if c := slices.Compare(a.Topic[:], b.Topic[:]); c != 0 {
		return c
	}
	return int(a.Index) - int(b.Index)
}

func appendPart(dst []byte, p Part) []byte {
	return appendInt(append(dst, p.Topic[:]...), uint64(p.Index))
}

func appendInt(dst []byte, n uint64) []byte { return binary.AppendUvarint(dst, n) }

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func bit(set bool, flag byte) byte {
	if set {
		return flag
	}
	return 0
}

// reader takes values off bytes. After a failure it is bad and yields zeros.
type reader struct {
	b   []byte
	bad bool
}

func valueReader(b []byte) reader {
	r := reader{b: b}
	if r.byte() != stateVersion {
		r.bad = true
	}
	return r
}

// end tells whether exactly what there was has been read.
func (r *reader) end() error {
	if r.bad || len(r.b) > 0 {
		return errState
	}
	return nil
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) int() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

// atMost reads a number that must not be larger than limit.
func (r *reader) atMost(limit uint64) uint64 {
	n := r.int()
	if n > limit {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) uint16() uint16 { return uint16(r.atMost(1<<16 - 1)) }
func (r *reader) uint32() uint32 { return uint32(r.atMost(1<<32 - 1)) }
func (r *reader) index() int32   { return int32(r.atMost(1<<31 - 1)) }
func (r *reader) offset() int64  { return int64(r.atMost(1 << 62)) }

// count reads how many things of at least size bytes follow.
func (r *reader) count(size int) int { return int(r.atMost(uint64(len(r.b) / size))) }

func (r *reader) bytes() []byte { return r.take(r.int()) }
func (r *reader) text() string  { return string(r.bytes()) }
func (r *reader) rest() []byte  { return r.take(uint64(len(r.b))) }

func (r *reader) topic() (id [16]byte) {
	copy(id[:], r.take(16))
	return id
}

func (r *reader) part() Part { return Part{r.topic(), r.index()} }

func (r *reader) runs() []run {
	n := r.count(2)
	list := make([]run, 0, n)
	end := int64(0)
	for i := range n {
		gap, length := r.offset(), r.offset()
		next := run{end + gap, end + gap + length}
		if length == 0 || gap == 0 && i > 0 || next.to > 1<<62 || next.to < end {
			r.bad = true
		}
		if r.bad {
			return nil
		}
		list = append(list, next)
		end = next.to
	}
	return list
}
