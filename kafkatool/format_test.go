package kafkatool

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestFormat(t *testing.T) {
	r := Record{&kgo.Record{Topic: "t", Partition: 3, Offset: 42, Key: []byte("k"), Value: []byte("v\n"), Timestamp: time.UnixMilli(1234),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b"}}}, 7}
	for format, want := range map[string]string{
		`%t[%p]@%o %k=%s%h %T %K/%S\n`: "t[3]@42 k=v\na=1,b=NULL 1234 1/2\n",
		`%R`:                           "\x00\x00\x00\x02",
		`100%%\%s`:                     "100%\\v\n",
		``:                             "",
	} {
		f, err := ParseFormat(format, false)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.Append(nil, r); err != nil || string(got) != want {
			t.Errorf("%q: %q, want %q", format, got, want)
		}
	}
	for _, bad := range []string{"%", "%x", "%é", "%\xff"} {
		if _, err := ParseFormat(bad, false); !errors.Is(err, ErrAsked) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`\n\t\r`: "\n\t\r", `\x4a\x7`: "J\x07", `\x00`: "\x00", `\065\65`: "5A", `\\\"\`: `\"` + `\`, `\xzz`: "\x00zz", "é\\é": "éé"} {
		if got := Unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What is no UTF-8 is JSON nevertheless, and is not lost.
func TestJSON(t *testing.T) {
	r := Record{&kgo.Record{Topic: "t", Key: []byte("\xff\x00"), Value: []byte("\x1b[2J"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0x80}}}}, 1}
	var v struct {
		Key, Payload  string
		KeyBase64     []byte   `json:"key_base64"`
		PayloadBase64 *string  `json:"payload_base64"`
		Headers       []string `json:"headers"`
		HeadersBase64 [][]byte `json:"headers_base64"`
	}
	b := AppendJSON(nil, r)
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if v.Key != "\ufffd\x00" || string(v.KeyBase64) != "\xff\x00" || v.Payload != "\x1b[2J" || v.PayloadBase64 != nil || string(v.HeadersBase64[1]) != "\x80" || strings.Contains(string(b), "\x1b") {
		t.Errorf("%+v %s", v, b)
	}
}

func FuzzFormat(f *testing.F) {
	f.Add(`%t %p %o\n`, []byte("key"), []byte("value"))
	f.Add(`\x4%`, []byte(nil), []byte("\xff\"\\\x00"))
	f.Fuzz(func(t *testing.T, format string, key, value []byte) {
		r := Record{&kgo.Record{Topic: "t", Key: key, Value: value, Headers: []kgo.RecordHeader{{Key: string(key), Value: value}}}, 0}
		if w, err := ParseFormat(format, true); err == nil {
			_, _ = w.Append(nil, r) // nothing is unpacked
		}
		if b := AppendJSON(nil, r); !json.Valid(b) {
			t.Errorf("%q", b)
		}
	})
}

func TestParsePlaces(t *testing.T) {
	now := time.UnixMilli(1_777_000_000_000)
	for in, want := range map[string]Place{
		"beginning": {Kind: Earliest}, "end": {Kind: Latest}, "12": {At, 12}, "-5": {Tail, 5}, "0": {At, 0},
		"s@1000": {Since, 1000}, "s@90m": {Since, 1_777_000_000_000 - 5_400_000}, "s@-90m": {Since, 1_777_000_000_000 - 5_400_000},
		"s@2d": {Since, 1_777_000_000_000 - 172_800_000}, "s@1d12h": {Since, 1_777_000_000_000 - 129_600_000}, "s@2026-05-01T06:00:00Z": {Since, 1_777_615_200_000},
	} {
		if got, err := ParseOffset(in, now); err != nil || got != want {
			t.Errorf("%q: %+v %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "stored", "s@", "s@yesterday", "1.5", "-9223372036854775808", "s@d", "s@99999999d"} {
		if _, err := ParseOffset(bad, now); !errors.Is(err, ErrAsked) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSplit(t *testing.T) {
	all := func(in, delimiter string, limit int) (list []string, err error) {
		s := Split(strings.NewReader(in), []byte(delimiter), limit)
		for s.Scan() {
			list = append(list, s.Text())
		}
		return list, s.Err()
	}
	for _, c := range []struct{ in, delimiter string }{{"a\nb\n\nc", "\n"}, {"a::b:c::", "::"}, {"", "\n"}, {"\n", "\n"}} {
		want := strings.Split(c.in, c.delimiter)
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		if got, err := all(c.in, c.delimiter, 100); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q %v", c.in, got, err)
		}
	}
	if got, err := all(strings.Repeat("x", 100)+"\n", "\n", 100); err != nil || len(got) != 1 {
		t.Errorf("as large as may be: %v %v", len(got), err)
	}
	if _, err := all(strings.Repeat("x", 200)+"\n", "\n", 100); err == nil {
		t.Error("larger than may be")
	}
}
