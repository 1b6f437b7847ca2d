package kafkawire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The codec we decode requests with trusts what they claim: it allocates an array before its elements were seen, and would
// spin through four billion tagged fields that are not there. So before it sees a request, the request's shape is walked:
// every array, string and tag must be there, byte for byte, and there must not be absurdly many.
//
// A shape is written down next to each handler in a small language, fields in order:
//
//	i8 i16 i32 i64 uuid        of fixed size (a bool is i8)
//	s ns b nb                  string, nullable string, bytes, nullable bytes
//	[ … ]   *i32   *s          array of structs; array of one such field
//	?[ … ]                     a struct that may be null
//	s:3+  s:0-2  [:7+ … ]      only in these versions of the request
//	!1                         a tagged field that only brokers send: refused, because it would have to be walked too
//
// Every struct ends with tagged fields in flexible versions.
type shape []field

type field struct {
	kind     fieldKind
	size     int // of fixed
	tag      uint64
	min, max int16
	elem     shape // of array, nullable, list
}

type fieldKind uint8

const (
	fixed fieldKind = iota
	str
	blob
	array // of structs
	nullable
	list   // of single fields
	banned // tag
)

const (
	maxElements = 200_000 // array elements and tags in one request, all arrays together
	maxString   = 1<<15 - 1
)

// once passes on the first of equal keys. A few bytes of a request name a thing whose description takes many; named over and
// over, it would make a response thousands of times its request.
type once[K comparable] map[K]struct{}

func (o once[K]) first(key K) bool {
	n := len(o)
	o[key] = struct{}{}
	return len(o) > n
}

// filter is what somebody who asks for a list wants of it; nil is everything. It is made before the list is gone through, under
// whoever's lock: a client may name millions of values.
type filter[K comparable] map[K]struct{}

func filterOf[K comparable](values []K, as func(K) K) filter[K] {
	if len(values) == 0 {
		return nil
	}
	f := filter[K]{}
	for _, v := range values {
		f[as(v)] = struct{}{}
	}
	return f
}

func (f filter[K]) wants(v K) bool {
	_, ok := f[v]
	return ok || f == nil
}

var fixedSizes = map[string]int{"i8": 1, "i16": 2, "i32": 4, "i64": 8, "uuid": 16}

// parseShape reads the language above; it panics on anything else, since shapes are constants.
func parseShape(text string) shape {
	tokens := strings.Fields(text)
	s, rest := parseFields(tokens)
	if len(rest) != 0 {
		panic("kafkawire: shape " + strconv.Quote(text) + ": unbalanced ]")
	}
	return s
}

func parseFields(tokens []string) (s shape, rest []string) {
	for len(tokens) > 0 && tokens[0] != "]" {
		name, versions, _ := strings.Cut(tokens[0], ":")
		tokens = tokens[1:]
		f := field{max: 1<<15 - 1}
		f.setVersions(versions)
		switch {
		case name == "[" || name == "?[":
			if f.kind = array; name == "?[" {
				f.kind = nullable
			}
			f.elem, tokens = parseFields(tokens)
			tokens = tokens[1:] // the ]
		case strings.HasPrefix(name, "*"):
			f.kind = list
			f.elem, _ = parseFields([]string{name[1:]})
		case strings.HasPrefix(name, "!"):
			f.kind, f.tag = banned, uint64(mustInt(name[1:]))
		case name == "s" || name == "ns":
			f.kind = str
		case name == "b" || name == "nb":
			f.kind = blob
		default:
			f.kind, f.size = fixed, fixedSizes[name]
			if f.size == 0 {
				panic("kafkawire: unknown shape " + name)
			}
		}
		s = append(s, f)
	}
	return s, tokens
}

func (f *field) setVersions(v string) {
	if v == "" {
		return
	}
	low, high, closed := strings.Cut(strings.TrimSuffix(v, "+"), "-")
	f.min = mustInt(low)
	if closed {
		f.max = mustInt(high)
	}
}

func mustInt(s string) int16 {
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil {
		panic(err)
	}
	return int16(n)
}

var (
	errTruncated = errors.New("truncated request")
	errTooMany   = fmt.Errorf("more than %d elements in a request", maxElements)
	errTooLong   = errors.New("string too long")
	errBrokers   = errors.New("only brokers send this field")
)

// walker goes through the bytes of a request. After the first error it stays where it is.
type walker struct {
	b        []byte
	version  int16
	flexible bool
	elements int
	err      error
}

// walk checks that body begins with a request of this shape.
func (s shape) walk(body []byte, version int16, flexible bool) error {
	w := walker{b: body, version: version, flexible: flexible}
	w.structure(s)
	return w.err
}

func (w *walker) fail(err error) {
	if w.err == nil {
		w.err = err
	}
	w.b = nil
}

func (w *walker) skip(n int) {
	if n < 0 || n > len(w.b) {
		w.fail(errTruncated)
		return
	}
	w.b = w.b[n:]
}

func (w *walker) structure(s shape) {
	for i := range s {
		if f := &s[i]; f.min <= w.version && w.version <= f.max {
			w.field(f)
		}
	}
	if w.flexible {
		w.tags(s)
	}
}

func (w *walker) field(f *field) {
	switch f.kind {
	case fixed:
		w.skip(f.size)
	case str:
		if n := w.length(2); n > maxString {
			w.fail(errTooLong)
		} else {
			w.skip(n)
		}
	case blob:
		w.skip(w.length(4))
	case nullable:
		if present := w.b; len(present) == 0 {
			w.fail(errTruncated)
		} else if w.skip(1); int8(present[0]) != -1 {
			w.structure(f.elem)
		}
	case array:
		for range w.count(w.length(4)) {
			if w.structure(f.elem); w.err != nil {
				return
			}
		}
	case list:
		for range w.count(w.length(4)) {
			if w.field(&f.elem[0]); w.err != nil {
				return
			}
		}
	}
}

// length reads the length of a string, bytes or array, 0 for null; old versions have it in size bytes.
func (w *walker) length(size int) int { return max(w.lengthOrNull(size), 0) }

// lengthOrNull is length, less than 0 for null.
func (w *walker) lengthOrNull(size int) int {
	var n int64
	switch {
	case w.flexible:
		n = int64(w.uvarint()) - 1
	case len(w.b) < size:
		w.fail(errTruncated)
	case size == 2:
		n = int64(int16(binary.BigEndian.Uint16(w.b)))
		w.b = w.b[2:]
	default:
		n = int64(int32(binary.BigEndian.Uint32(w.b)))
		w.b = w.b[4:]
	}
	if n > int64(len(w.b)) { // everything takes a byte at least
		w.fail(errTruncated)
		return 0
	}
	return int(n)
}

// take returns the next n bytes, and nil if there are none.
func (w *walker) take(n int) []byte {
	b := w.b
	if w.skip(n); w.err != nil || n == 0 {
		return nil
	}
	return b[:n:n]
}

func (w *walker) i16() int16 {
	if b := w.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (w *walker) i32() int32 {
	if b := w.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// string returns a string's bytes; false for null.
func (w *walker) string() ([]byte, bool) {
	n := w.lengthOrNull(2)
	if n > maxString {
		w.fail(errTooLong)
	}
	return w.take(max(n, 0)), n >= 0 && w.err == nil
}

// end steps over the end of a struct, its tagged fields.
func (w *walker) end() {
	if w.flexible {
		w.tags(nil)
	}
}

func (w *walker) count(n int) int {
	if w.elements += n; w.elements > maxElements {
		w.fail(errTooMany)
		return 0
	}
	return n
}

func (w *walker) tags(s shape) {
	n := w.uvarint()
	if n > uint32(len(w.b)/2) {
		w.fail(errTruncated)
		return
	}
	for range w.count(int(n)) {
		tag, size := w.uvarint(), w.uvarint()
		for i := range s {
			if s[i].kind == banned && s[i].tag == uint64(tag) {
				w.fail(errBrokers)
			}
		}
		if w.skip(int(size)); w.err != nil {
			return
		}
	}
}

// uvarint reads at most 32 bits, as the codec does.
func (w *walker) uvarint() uint32 {
	v, n := binary.Uvarint(w.b[:min(len(w.b), 5)])
	if n <= 0 || v > 1<<32-1 {
		w.fail(errTruncated)
		return 0
	}
	w.b = w.b[n:]
	return uint32(v)
}
