package kafkatool

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Record is one that was read, and the broker that it was read from.
type Record struct {
	*kgo.Record
	Broker int32
}

// Format writes records as kcat's -f does.
type Format struct {
	pieces []piece
	null   bool

	Key, Value Pack // how to read them; "": as they are
}

// piece is a token's letter, or a text if that is zero.
type piece struct {
	token byte
	text  string
}

// tokens are those of kcat.
const tokens = "skhSKRotpT"

// ParseFormat reads a format. With null, an empty value or key is written NULL.
func ParseFormat(s string, null bool) (*Format, error) {
	f := &Format{null: null}
	for {
		text, rest, more := strings.Cut(s, "%")
		if text != "" {
			f.pieces = append(f.pieces, piece{text: Unescape(text)})
		}
		if !more {
			return f, nil
		}
		switch {
		case rest == "":
			return nil, fmt.Errorf("%w: the format ends with a %%; write %%%% for one", ErrAsked)
		case rest[0] == '%':
			f.pieces = append(f.pieces, piece{text: "%"})
		case strings.IndexByte(tokens, rest[0]) >= 0:
			f.pieces = append(f.pieces, piece{token: rest[0]})
		default:
			r, _ := utf8.DecodeRuneInString(rest)
			return nil, fmt.Errorf("%w: the format has %%%c; there are %%s %%k %%h %%S %%K %%R %%t %%p %%o %%T and %%%%", ErrAsked, r)
		}
		s = rest[1:]
	}
}

// Unescape reads \n \t \r, \xNN and \NNN (octal after a zero); any other character stands for itself after a backslash.
func Unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		switch c := s[i]; {
		case c == 'n':
			b = append(b, '\n')
		case c == 't':
			b = append(b, '\t')
		case c == 'r':
			b = append(b, '\r')
		case c == 'x':
			v, n := number(s[i+1:], 16, 2)
			b = append(b, v)
			i += n
		case c == '0':
			v, n := number(s[i:], 8, 4)
			b = append(b, v)
			i += n - 1
		case '1' <= c && c <= '9':
			v, n := number(s[i:], 10, 3)
			b = append(b, v)
			i += n - 1
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// number reads up to max digits, and says how many there were.
func number(s string, base, most int) (v byte, n int) {
	for n < most && n < len(s) {
		if _, err := strconv.ParseUint(s[n:n+1], base, 8); err != nil {
			break
		}
		n++
	}
	u, _ := strconv.ParseUint("0"+s[:n], base, 32)
	return byte(u), n
}

// Append writes a record. An error is of bytes that are not what Key or Value say.
func (f *Format) Append(b []byte, r Record) (_ []byte, err error) {
	key, value := r.Key, r.Value
	if f.Key != "" && key != nil {
		if key, err = f.Key.Unpack(nil, key); err != nil {
			return b, fmt.Errorf("the key of %s [%d] at %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
	}
	if f.Value != "" && value != nil {
		if value, err = f.Value.Unpack(nil, value); err != nil {
			return b, fmt.Errorf("the value of %s [%d] at %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
	}
	for _, p := range f.pieces {
		switch p.token {
		case 0:
			b = append(b, p.text...)
		case 's':
			b = f.bytes(b, value)
		case 'k':
			b = f.bytes(b, key)
		case 'h':
			b = appendHeaders(b, r.Headers)
		case 'S':
			b = strconv.AppendInt(b, length(r.Value), 10)
		case 'K':
			b = strconv.AppendInt(b, length(r.Key), 10)
		case 'R':
			b = binary.BigEndian.AppendUint32(b, uint32(length(r.Value)))
		case 't':
			b = append(b, r.Topic...)
		case 'p':
			b = strconv.AppendInt(b, int64(r.Partition), 10)
		case 'o':
			b = strconv.AppendInt(b, r.Offset, 10)
		case 'T':
			b = strconv.AppendInt(b, r.time(), 10)
		}
	}
	return b, nil
}

func (f *Format) bytes(b, v []byte) []byte {
	if len(v) == 0 && f.null {
		return append(b, "NULL"...)
	}
	return append(b, v...)
}

// length is -1 of what is null.
func length(v []byte) int64 {
	if v == nil {
		return -1
	}
	return int64(len(v))
}

func appendHeaders(b []byte, hs []kgo.RecordHeader) []byte {
	for i, h := range hs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, h.Key...), '=')
		if h.Value == nil {
			b = append(b, "NULL"...)
		}
		b = append(b, h.Value...)
	}
	return b
}

// untimed is the type of timestamp of records that have none.
const untimed = -1

func (r Record) time() int64 {
	if r.Attrs.TimestampType() == untimed {
		return -1
	}
	return r.Timestamp.UnixMilli()
}

// AppendJSON writes a record as kcat's -J does, without an end of line. What is no UTF-8 is followed by itself in base64.
func AppendJSON(b []byte, r Record) []byte {
	b = append(b, `{"topic":`...)
	b = appendString(b, []byte(r.Topic))
	b = fmt.Appendf(b, `,"partition":%d,"offset":%d`, r.Partition, r.Offset)
	switch r.Attrs.TimestampType() {
	case 0:
		b = fmt.Appendf(b, `,"tstype":"create","ts":%d`, r.time())
	case 1:
		b = fmt.Appendf(b, `,"tstype":"logappend","ts":%d`, r.time())
	}
	b = fmt.Appendf(b, `,"broker":%d`, r.Broker)
	if len(r.Headers) > 0 {
		b = append(b, `,"headers":[`...)
		for i, h := range r.Headers {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, []byte(h.Key)), ',')
			b = appendString(b, h.Value)
		}
		b = append(b, ']')
	}
	b = appendField(b, "key", r.Key)
	b = appendField(b, "payload", r.Value)
	if i := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return !utf8.Valid(h.Value) }); i >= 0 {
		b = append(b, `,"headers_base64":[`...)
		for i, h := range r.Headers {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendBase64(b, []byte(h.Key)), ',')
			b = appendBase64(b, h.Value)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendField(b []byte, name string, v []byte) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	b = appendString(b, v)
	if !utf8.Valid(v) {
		b = append(append(append(b, `,"`...), name...), `_base64":`...)
		b = appendBase64(b, v)
	}
	return b
}

func appendBase64(b, v []byte) []byte {
	if v == nil {
		return append(b, "null"...)
	}
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), v), '"')
}

// appendString writes a JSON string in the spelling of kcat's library: only what must be escaped is. encoding/json escapes more.
func appendString(b, v []byte) []byte {
	if v == nil {
		return append(b, "null"...)
	}
	b = append(b, '"')
	for len(v) > 0 {
		r, n := utf8.DecodeRune(v)
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, "\ufffd"...)
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			if i := strings.IndexRune("\b\f\n\r\t", r); i >= 0 {
				b = append(b, '\\', "bfnrt"[i])
			} else {
				b = fmt.Appendf(b, `\u%04X`, r)
			}
		default:
			b = append(b, v[:n]...)
		}
		v = v[n:]
	}
	return append(b, '"')
}
