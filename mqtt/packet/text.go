package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// validText tells whether b is a UTF-8 string as MQTT wants it (MQTT 5.0, 1.5.4): well-formed, no surrogates, no U+0000.
// Nothing is normalised or stripped, a byte order mark included: two spellings are two strings.
func validText(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	rest := b
	for len(rest) >= 8 {
		w := binary.LittleEndian.Uint64(rest)
		if (w|(w-ones))&highs != 0 { // a byte that is not ASCII, or is 0
			return utf8.Valid(rest) && bytes.IndexByte(rest, 0) < 0
		}
		rest = rest[8:]
	}
	for _, c := range rest {
		if c == 0 || c >= utf8.RuneSelf {
			return utf8.Valid(rest) && bytes.IndexByte(rest, 0) < 0
		}
	}
	return true
}
