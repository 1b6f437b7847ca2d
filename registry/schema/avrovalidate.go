package schema

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// avroValidator walks a datum without making values of it.
type avroValidator struct{ t *avroType }

// maxDepth bounds how deep a payload may be nested.
const maxDepth = 100

var (
	errShort   = errors.New("the payload ends too early")
	errVarint  = errors.New("a number has more bytes than are possible")
	errDeep    = fmt.Errorf("the payload is nested deeper than %d levels", maxDepth)
	errTooMany = errors.New("the payload says it has more items than it could hold")
)

func (v avroValidator) Validate(payload []byte) error {
	w := avroWalk{b: payload, items: 1024 + 8*len(payload)}
	if err := w.walk(v.t, 0); err != nil {
		return err
	}
	if len(w.b) > 0 {
		return fmt.Errorf("%d bytes follow the datum", len(w.b))
	}
	return nil
}

// avroWalk is one datum on its way. Items that take no bytes, nulls, would be endless without a bound.
type avroWalk struct {
	b     []byte
	items int
}

func (w *avroWalk) walk(t *avroType, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	if w.items--; w.items < 0 {
		return errTooMany
	}
	switch t.kind {
	case avroNull:
		return nil
	case avroBoolean:
		if len(w.b) > 0 && w.b[0] > 1 {
			return fmt.Errorf("%d is not a boolean", w.b[0])
		}
		return w.skip(1)
	case avroInt:
		n, err := w.long()
		if err == nil && n != int64(int32(n)) {
			return fmt.Errorf("%d is not an int", n)
		}
		return err
	case avroLong:
		_, err := w.long()
		return err
	case avroFloat:
		return w.skip(4)
	case avroDouble:
		return w.skip(8)
	case avroFixed:
		return w.skip(t.size)
	case avroBytes, avroString:
		return w.text(t.kind == avroString)
	}
	return w.composite(t, depth)
}

func (w *avroWalk) composite(t *avroType, depth int) error {
	switch t.kind {
	case avroEnum:
		n, err := w.long()
		if err == nil && (n < 0 || n >= int64(len(t.symbols))) {
			return fmt.Errorf("%d is no symbol of %s", n, clip(t.String()))
		}
		return err
	case avroUnion:
		n, err := w.long()
		if err == nil && (n < 0 || n >= int64(len(t.branches))) {
			return fmt.Errorf("%d is no branch of a union of %d", n, len(t.branches))
		}
		if err != nil {
			return err
		}
		return w.walk(t.branches[n], depth+1)
	case avroRecord:
		for i := range t.fields {
			if err := w.walk(t.fields[i].typ, depth+1); err != nil {
				return fmt.Errorf("field %s: %w", clip(t.fields[i].name), err)
			}
		}
		return nil
	}
	return w.blocks(t, depth)
}

// blocks walks the items of an array or a map.
func (w *avroWalk) blocks(t *avroType, depth int) error {
	for {
		n, err := w.long()
		if err != nil || n == 0 {
			return err
		}
		end := -1
		if n < 0 { // the size in bytes follows
			size, err := w.long()
			if err != nil {
				return err
			}
			if n = -n; n < 0 || size < 0 || size > int64(len(w.b)) {
				return errShort
			}
			end = len(w.b) - int(size)
		}
		if n > int64(w.items) {
			return errTooMany
		}
		for ; n > 0; n-- {
			if t.kind == avroMap {
				if err := w.text(true); err != nil {
					return fmt.Errorf("key of a map: %w", err)
				}
			}
			if err := w.walk(t.of, depth+1); err != nil {
				return err
			}
		}
		if end >= 0 && len(w.b) != end {
			return errors.New("a block has another size than it says")
		}
	}
}

func (w *avroWalk) skip(n int64) error {
	if n > int64(len(w.b)) {
		return errShort
	}
	w.b = w.b[n:]
	return nil
}

func (w *avroWalk) text(isText bool) error {
	n, err := w.long()
	switch {
	case err != nil:
		return err
	case n < 0:
		return fmt.Errorf("%d is not a length", n)
	case n > int64(len(w.b)):
		return errShort
	case isText && !utf8.Valid(w.b[:n]):
		return errors.New("a string is not UTF-8")
	}
	w.b = w.b[n:]
	return nil
}

// long reads a zigzag varint.
func (w *avroWalk) long() (int64, error) {
	var u uint64
	for i := range len(w.b) {
		c := w.b[i]
		if i == 9 && c > 1 {
			return 0, errVarint
		}
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			w.b = w.b[i+1:]
			return int64(u>>1) ^ -int64(u&1), nil
		}
	}
	return 0, errShort
}
