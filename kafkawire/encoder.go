package kafkawire

import "encoding/binary"

// encoder writes the responses that are made by hand: those that a busy client gets.
type encoder struct {
	version  int16
	flexible bool
	b        []byte
}

func (e *encoder) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *encoder) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *encoder) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

func (e *encoder) uvarint(n int) { e.b = binary.AppendUvarint(e.b, uint64(n)) }

// array writes the length of an array; -1 is null.
func (e *encoder) array(n int) {
	if e.flexible {
		e.uvarint(n + 1)
	} else {
		e.i32(int32(n))
	}
}

func (e *encoder) string(s string) {
	if e.flexible {
		e.uvarint(len(s) + 1)
	} else {
		e.i16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

func (e *encoder) nullString(s *string) {
	switch {
	case s != nil:
		e.string(*s)
	case e.flexible:
		e.uvarint(0)
	default:
		e.i16(-1)
	}
}

// tags writes that there are none, where there may be.
func (e *encoder) tags() {
	if e.flexible {
		e.b = append(e.b, 0)
	}
}
