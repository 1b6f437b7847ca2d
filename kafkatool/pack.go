package kafkatool

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Pack says how the bytes of a key or value are to be read, as kcat's -s does: < and > switch to little and big endian (big at
// first), b B h H i I q Q are signed and unsigned integers of 1, 2, 4 and 8 bytes, c a character, s all that is left, and $ that
// nothing must be. Spaces mean nothing.
type Pack string

const packLetters = "<> bBhHiIqQcs$"

// ParsePacks reads the values of -s: key=PACK, value=PACK, or PACK for both.
func ParsePacks(list []string) (key, value Pack, err error) {
	for _, s := range list {
		text, forKey := strings.CutPrefix(s, "key=")
		text, forValue := strings.CutPrefix(text, "value=")
		if text == "avro" {
			return "", "", fmt.Errorf("%w: -s avro: there is no schema registry to ask here", ErrAsked)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune(packLetters, r) }); i >= 0 || text == "" {
			return "", "", fmt.Errorf("%w: -s %q: of %s, with key= or value= before it", ErrAsked, s, packLetters)
		}
		if !forValue {
			key = Pack(text)
		}
		if !forKey {
			value = Pack(text)
		}
	}
	return key, value, nil
}

var packSizes = map[byte]int{'b': 1, 'B': 1, 'c': 1, 'h': 2, 'H': 2, 'i': 4, 'I': 4, 'q': 8, 'Q': 8}

// Unpack appends what v says, read so.
func (p Pack) Unpack(b, v []byte) ([]byte, error) {
	little := false
	for i := range len(p) {
		switch c := p[i]; c {
		case ' ':
		case '<', '>':
			little = c == '<'
		case 's':
			b, v = append(b, v...), nil
		case '$':
			if len(v) > 0 {
				return b, fmt.Errorf("-s: %d bytes are left where %q wants none", len(v), p)
			}
		default:
			n := packSizes[c]
			if len(v) < n {
				return b, fmt.Errorf("-s: %c of %q wants %d bytes, %d are left", c, p, n, len(v))
			}
			b, v = appendNumber(b, c, v[:n], little), v[n:]
		}
	}
	return b, nil
}

func appendNumber(b []byte, c byte, v []byte, little bool) []byte {
	if c == 'c' {
		return append(b, v[0])
	}
	var wide [8]byte
	if little {
		for i, x := range v {
			wide[7-i] = x
		}
	} else {
		copy(wide[8-len(v):], v)
	}
	u := binary.BigEndian.Uint64(wide[:])
	if c < 'a' { // a capital: unsigned
		return strconv.AppendUint(b, u, 10)
	}
	shift := 64 - 8*len(v)
	return strconv.AppendInt(b, int64(u<<shift)>>shift, 10)
}
