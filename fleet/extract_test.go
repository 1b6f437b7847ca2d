package fleet

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

func compiled(t testing.TB, f Fields) *Extractor {
	t.Helper()
	e, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func message(payload string, props ...string) *session.Message {
	m := &session.Message{Payload: []byte(payload), Client: "c"}
	for i := 0; i < len(props); i += 2 {
		if m.Props == nil {
			m.Props = &session.Props{}
		}
		m.Props.User = append(m.Props.User, packet.UserProperty{Name: props[i], Value: props[i+1]})
	}
	return m
}

func show(p Point) string {
	s := fmt.Sprintf("%s %d", p.Device, p.Sequence)
	if !p.Sent.IsZero() {
		s += p.Sent.Format(" 2006-01-02T15:04:05.999999999")
	}
	if p.HasPosition {
		s += fmt.Sprintf(" %v,%v", p.Lat, p.Lon)
	}
	if p.Speed >= 0 {
		s += fmt.Sprintf(" %vm/s", p.Speed)
	}
	if p.Heading >= 0 {
		s += fmt.Sprintf(" %v°", p.Heading)
	}
	if p.Refused != NotRefused {
		s += " !" + p.Refused.String()
	}
	return s
}

func TestExtract(t *testing.T) {
	hfp := `{"VP":{"desi":"400","tst":"2023-10-29T13:24:10.684Z","tsi":1698585850,"spd":4.53,"hdg":274,"lat":60.171325,"long":24.925031,"stop":null}}`
	for _, c := range []struct {
		fields  Fields
		payload string
		props   []string
		want    string
	}{
		{Fields{}, hfp, nil, "key 0 2023-10-29T13:24:10.684 60.171325,24.925031 4.53m/s 274°"},
		{Fields{}, hfp, []string{"sim-device", "bus 1", "sim-seq", "17", "sim-time", "1700000000123456"},
			"bus 1 17 2023-11-14T22:13:20.123456 60.171325,24.925031 4.53m/s 274°"},
		{Fields{Latitude: "VP.lat", Longitude: "VP.long", Time: "VP.tsi", Device: "VP.desi", Speed: "-", Heading: "-", Sequence: "-"}, hfp, nil,
			"400 0 2023-10-29T13:24:10 60.171325,24.925031"},
		{Fields{Device: "user:who"}, hfp, []string{"who", "me"}, "me 0 2023-10-29T13:24:10.684 60.171325,24.925031 4.53m/s 274°"},
		{Fields{Device: "-"}, `{"lat":1,"lon":2}`, nil, " 0 1,2"},
		{Fields{Device: "id"}, `{"lat":1,"lon":2}`, nil, " 0 1,2 !device_name"},
		{Fields{Device: "id"}, `{"id":17,"lat":1,"lon":2}`, nil, "17 0 1,2"},
		{Fields{Device: "id"}, `{"id":"a\"\u00e9"}`, nil, "a\"é 0"},
		{Fields{Device: "id"}, `{"id":{"a":1}}`, nil, " 0 !device_name"},
		{Fields{Device: "id"}, `{"id":"` + strings.Repeat("x", 257) + `"}`, nil, " 0 !device_name"},
		{Fields{Latitude: "gps.0", Longitude: "gps.1"}, `{"gps":[52.5, 13.4, 99]}`, nil, "key 0 52.5,13.4"},
		{Fields{Latitude: "f.0.g.1.y", Longitude: "f.0.g.1.x"}, ` { "f" : [ { "g" : [ 1 , { "x" : -1.5e1 , "y" : "2" } ] } ] } `, nil, "key 0 2,-15"},
		{Fields{Sequence: "n", Time: "user:t"}, `{"n":"12"}`, []string{"t", "1700000000"}, "key 12 2023-11-14T22:13:20"},
		{Fields{}, `{"gps":{"latitude":1,"lng":2},"speed":3}`, nil, "key 0 1,2 3m/s"},
		{Fields{}, `{"gps":{"lat":1,"lon":2},"lat":3,"lon":4}`, nil, "key 0 3,4"},     // the higher
		{Fields{}, `{"a":{"lat":1,"lon":2},"b":{"lat":3,"lon":4}}`, nil, "key 0 1,2"}, // the first
		{Fields{}, `{"latitude":1,"lat":5,"lon":2}`, nil, "key 0 5,2"},                // the usual one
		{Fields{}, `{"lat":{"lat":1,"lon":2}}`, nil, "key 0 1,2"},                     // an object is no value
		{Fields{}, `[{"lat":1,"lon":2}]`, nil, "key 0 1,2"},                           // a list of one
		{Fields{}, `{"a":{"b":{"lat":1,"lon":2}}}`, nil, "key 0"},                     // too deep to be usual
		{Fields{}, `{"lat":null,"lon":null}`, nil, "key 0 !null"},
		{Fields{}, `{"lat":1}`, nil, "key 0 !not_a_number"},
		{Fields{}, `{"lat":"NaN","lon":2}`, nil, "key 0 !not_a_number"},
		{Fields{}, `{"lat":NaN,"lon":2}`, nil, "key 0 !not_a_number"},
		{Fields{}, `{"lat":0x1p2,"lon":2}`, nil, "key 0 !not_a_number"},
		{Fields{}, `{"lat":1e999,"lon":2}`, nil, "key 0 !not_a_number"},
		{Fields{}, `{"lat":true,"lon":2}`, nil, "key 0 !not_a_number"},
		{Fields{}, `{"lat":91,"lon":181}`, nil, "key 0 !out_of_range"},
		{Fields{}, `{"lat":1555.63,"lon":1}`, nil, "key 0 !out_of_range"},
		{Fields{}, `{"lat":0,"lon":0.0}`, nil, "key 0 !zero"},
		{Fields{}, `{"lat":0,"lon":6.5}`, nil, "key 0 0,6.5"},
		{Fields{}, `{"lat":-90,"lon":-180,"speed":-1,"heading":361}`, nil, "key 0 -90,-180"},
		{Fields{}, `{"lat":1,"lon":2,"speed":1e9,"heading":360}`, nil, "key 0 1,2 0°"},
		{Fields{}, `{"lat":1,"lon":2`, nil, "key 0 !not_a_number"}, // may be cut: 2 of 24.9
		{Fields{}, `{"lat":1,"lon":2,`, nil, "key 0 1,2"},
		{Fields{}, `{"lat":1,"lon":2} trailing`, nil, "key 0 1,2"},
		{Fields{}, `{"x":"}{\"lat\":9","lat":1,"lon":2}`, nil, "key 0 1,2"},
		{Fields{}, `{"x":[[[{"lat":7,"lon":7}],"]"]],"lat":1,"lon":2}`, nil, "key 0 1,2"},
		{Fields{}, strings.Repeat(`[`, 100_000), nil, "key 0"},
		{Fields{}, `{"a":` + strings.Repeat(`[`, 60_000), nil, "key 0"},
		{Fields{}, `{"pad":"` + strings.Repeat("x", maxText) + `","lat":1,"lon":2}`, nil, "key 0"},
		{Fields{}, "\x00\x01binary", nil, "key 0"},
		{Fields{}, `"text"`, nil, "key 0"},
		{Fields{}, `12`, nil, "key 0"},
		{Fields{}, ``, nil, "key 0"},
		{Fields{}, `{`, nil, "key 0"},
		{Fields{}, `{"lat"`, nil, "key 0"},
		{Fields{}, `{"lat":`, nil, "key 0"},
		{Fields{}, `{"lat":}`, nil, "key 0"},
		{Fields{}, `{"l\u0061t":1,"lon":2}`, nil, "key 0 !not_a_number"}, // escapes in names match nothing
	} {
		m := message(c.payload, c.props...)
		if got := show(compiled(t, c.fields).Extract(m, "key")); got != c.want {
			t.Errorf("%+v of %.100s %v:\n got %s\nwant %s", c.fields, c.payload, c.props, got, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	want := "2026-11-22T14:00:00.5Z"
	at, _ := time.Parse(time.RFC3339, want)
	for _, s := range []string{want, "2026-11-22T16:00:00.5+02:00", fmt.Sprint(at.UnixMilli()), fmt.Sprint(at.UnixMicro()), fmt.Sprint(at.UnixNano()),
		strconv.FormatFloat(float64(at.UnixMilli())/1e3, 'f', -1, 64)} {
		if got := parseTime(s); !got.Equal(at) {
			t.Errorf("%s: %v", s, got)
		}
	}
	for _, s := range []string{"", "0", "1234", "-5", "1e300", "2026-11-22", "2026-11-22 14:00:00", "90/02/2032", "9223372036854775807", "99999999999999999999",
		"1985-01-01T00:00:00Z", "9999-01-01T00:00:00Z", strings.Repeat("1", 100)} {
		if got := parseTime(s); !got.IsZero() {
			t.Errorf("%s is %v", s, got)
		}
	}
	for year := 1991; year < 2200; year += 8 { // no unit is taken for another
		at := time.Date(year, 3, 4, 5, 6, 7, 0, time.UTC)
		for _, n := range []int64{at.Unix(), at.UnixMilli(), at.UnixMicro(), at.UnixNano()} {
			if got := parseTime(fmt.Sprint(n)); !got.Equal(at) {
				t.Errorf("%v as %d is %v", at, n, got)
			}
		}
	}
}

func TestPathsAreChecked(t *testing.T) {
	for _, bad := range []string{"a..b", ".a", "a.", "$.a", "a[0]", "/a/b", "a b", "header:x", "user:", "*", "#", "a.b.c.d.e.f.g.h.i", strings.Repeat("x", 257), "a\xff"} {
		_, err := Compile(Fields{Speed: bad})
		wrong, ok := errors.AsType[*FieldError](err)
		if !ok || wrong.Key != "speed" || !utf8.ValidString(err.Error()) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := Compile(Fields{Latitude: "-"}); err == nil {
		t.Error("half a position")
	}
	compiled(t, Fields{Latitude: "-", Longitude: "-", Device: "a-b.c_d.0.é", Speed: "a.b.c.d.e.f.g.h"})
}

// recorded reads the recorded messages that the project ships.
func recorded(t testing.TB) (ms []session.Message) {
	t.Helper()
	f, err := os.Open("../sim/data/hsl-hfp-sample.ndjson.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(z); lines.Scan(); {
		var line struct{ Topic, Payload string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		ms = append(ms, session.Message{Topic: line.Topic, Payload: []byte(line.Payload), Client: "c"})
	}
	return ms
}

// On real messages, the one pass finds what a full decode finds.
func TestRealMessages(t *testing.T) {
	e := compiled(t, Fields{})
	found := map[string]int{}
	for _, m := range recorded(t) {
		var full map[string]struct {
			Lat, Long, Spd, Hdg *float64
			Tst                 time.Time
		}
		if err := json.Unmarshal(m.Payload, &full); err != nil {
			found["other"]++ // a message of another kind
			e.Extract(&m, "key")
			continue
		}
		p := e.Extract(&m, "key")
		for _, v := range full {
			switch {
			case !p.Sent.Equal(v.Tst) && !v.Tst.IsZero():
				t.Errorf("%s: sent %v", m.Payload, p.Sent)
			case v.Lat != nil && (!p.HasPosition || p.Lat != *v.Lat || p.Lon != *v.Long):
				t.Errorf("%s: at %v,%v", m.Payload, p.Lat, p.Lon)
			case v.Spd != nil && p.Speed != float32(*v.Spd) || v.Hdg != nil && p.Heading != float32(*v.Hdg):
				t.Errorf("%s: speed %v, heading %v", m.Payload, p.Speed, p.Heading)
			}
		}
		found[p.Refused.String()]++
		if p.HasPosition {
			found["positions"]++
		}
	}
	t.Log(found)
	if found["positions"] < 900 || found["null"] < 900 || found["other"] > 100 {
		t.Errorf("of the recording: %v", found)
	}
}

func FuzzExtract(f *testing.F) {
	for i, m := range recorded(f) {
		if i%200 == 0 {
			f.Add(m.Payload, "VP.lat", "VP.long", "17")
		}
	}
	f.Add([]byte(`{"a":[1,{"b":"c\"\u00e9"}],"lat":1,"lon":-2.5e0}`), "a.1.b", "user:p", "x")
	f.Add([]byte(`[[[{"lat":`), "0.0.0.lat", "-", "")
	f.Fuzz(func(t *testing.T, payload []byte, path, path2, value string) {
		m := &session.Message{Payload: payload, Props: &session.Props{User: []packet.UserProperty{{Name: "p", Value: value}, {Name: "sim-time", Value: value}}}}
		for _, fields := range []Fields{{}, {Device: path}, {Latitude: path, Longitude: path2}, {Sequence: path2, Time: path}} {
			e, err := Compile(fields)
			if err != nil {
				continue
			}
			p := e.Extract(m, "key")
			if again := e.Extract(m, "key"); show(p) != show(again) {
				t.Fatalf("%s, then %s", show(p), show(again))
			}
			if p.HasPosition && (math.Abs(p.Lat) > 90 || math.Abs(p.Lon) > 180 || p.Lat != p.Lat || p.Lon != p.Lon) {
				t.Fatal(show(p))
			}
			if len(p.Device) > maxDeviceID || !utf8.ValidString(p.Device) && utf8.ValidString(value) {
				t.Fatal(show(p))
			}
			if !p.Sent.IsZero() && (p.Sent.Year() < 1990 || p.Sent.Year() > 2200) || p.Speed > maxSpeed || p.Heading >= 360 {
				t.Fatal(show(p))
			}
			if json.Valid(payload) && len(payload) < maxText && fields == (Fields{Device: path}) && !strings.HasPrefix(path, "user:") && path != "" && path != "-" {
				checkPath(t, payload, path, p.Device)
			}
		}
	})
}

// checkPath compares with a full decode, where that is as unambiguous.
func checkPath(t *testing.T, payload []byte, path, got string) {
	if strings.Contains(string(payload), `\`) || !utf8.Valid(payload) {
		return
	}
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || twice(payload) {
		return
	}
	for name := range strings.SplitSeq(path, ".") {
		switch w := v.(type) {
		case map[string]any:
			v = w[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(w) || strconv.Itoa(i) != name {
				v = nil
			} else {
				v = w[i]
			}
		default:
			v = nil
		}
	}
	want := ""
	switch v := v.(type) {
	case string:
		want = v
	case json.Number:
		want = v.String()
	}
	if len(want) > maxDeviceID {
		want = ""
	}
	if got != want {
		t.Fatalf("%s of %s is %q, found %q", path, payload, want, got)
	}
}

// twice tells whether a name may stand twice in one object: of these, a decoder takes the last and we the first.
func twice(payload []byte) bool {
	seen := map[string]bool{}
	d := json.NewDecoder(strings.NewReader(string(payload)))
	for {
		tok, err := d.Token()
		if err != nil {
			return false
		}
		if s, ok := tok.(string); ok {
			if seen[s] {
				return true
			}
			seen[s] = true
		}
	}
}

func BenchmarkExtract(b *testing.B) {
	e := compiled(b, Fields{})
	ms := recorded(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e.Extract(&ms[i%len(ms)], "key")
	}
}
