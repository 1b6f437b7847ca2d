package packet

import "encoding/binary"

const maxText = 65_535 // bytes in a string or in binary data

func appendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

func appendString(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func appendBinary(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(b))), b...)
}

// text is the encoded length of a string or binary data of n bytes; it sets *err if that is too long.
func text(n int, err *error) int {
	if n > maxText {
		*err = ErrTooLarge
	}
	return 2 + n
}

// block is the encoded length of a property block with its length, 0 before 5.0, and the length without.
func (p *Properties) block(v Version, in place) (whole, inner int, err error) {
	if v < V5 {
		return 0, 0, nil
	}
	if inner, err = p.size(in); err != nil {
		return 0, 0, err
	}
	return varintSize(inner) + inner, inner, nil
}

// appendBlock encodes a property block; nothing before 5.0.
func (p *Properties) appendBlock(dst []byte, v Version, inner int) []byte {
	if v < V5 {
		return dst
	}
	return p.append(dst, inner)
}

// header encodes a fixed header, with the flag bits that the type must have.
func header(dst []byte, typ Type, size int) ([]byte, error) {
	if size > maxVarint {
		return dst, ErrTooLarge
	}
	return appendVarint(append(dst, byte(typ)<<4|fixedFlags(typ)), size), nil
}
