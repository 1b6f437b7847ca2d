package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/millrace-io/millrace/mqtt/session"
)

// field is one of Fields.
type field uint8

const (
	device field = iota
	sequence
	sent
	latitude
	longitude
	speed
	heading
	fields
)

// usual names the places of a field that its author does not name.
var usual = [fields]struct {
	property string
	names    []string
}{
	device:    {property: "sim-device"},
	sequence:  {property: "sim-seq"},
	sent:      {property: "sim-time", names: []string{"tst", "ts", "time", "timestamp"}},
	latitude:  {names: []string{"lat", "latitude"}},
	longitude: {names: []string{"lon", "lng", "long", "longitude"}},
	speed:     {names: []string{"speed", "spd"}},
	heading:   {names: []string{"heading", "hdg", "bearing"}},
}

// keys are the fields' names in a configuration.
var keys = [fields]string{"device", "sequence", "time", "lat", "lon", "speed", "heading"}

// FieldError says which field is wrong.
type FieldError struct {
	Key string // as in a configuration
	Err error
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// Extractor finds the fields of one route's messages. It is immutable, and what it finds depends on the message alone.
type Extractor struct {
	properties [fields]string // user property, looked at first
	json       *node          // nil: nothing is in the payload
	paths      int            // fields that may be in the payload
	noDevice   bool
	deviceKey  bool // the record's key names the device, unless the property does
}

// What is looked at, at most.
const (
	maxText       = 64 << 10 // bytes of a payload, from its beginning
	maxProperties = 64       // user properties of a message, the first ones
	maxDeviceID   = 256      // bytes
	maxDepth      = 8        // names of a path
	maxPath       = 256      // bytes
)

// Compile checks the fields' syntax.
func Compile(f Fields) (*Extractor, error) {
	e := &Extractor{}
	root := &node{}
	written := [fields]string{f.Device, f.Sequence, f.Time, f.Latitude, f.Longitude, f.Speed, f.Heading}
	for i, text := range written {
		if err := e.compile(root, field(i), text); err != nil {
			return nil, &FieldError{Key: keys[i], Err: err}
		}
	}
	if (written[latitude] == "-") != (written[longitude] == "-") {
		return nil, &FieldError{Key: keys[latitude], Err: errors.New("a position needs lat and lon; write - for both, or for none")}
	}
	e.compileUsual(root, &written)
	e.noDevice, e.deviceKey = f.Device == "-", f.Device == ""
	if e.paths > 0 {
		e.json = root
	}
	return e, nil
}

// compile adds a field as its author wrote it.
func (e *Extractor) compile(root *node, f field, text string) error {
	if text == "" || text == "-" {
		return nil
	}
	if name, ok := strings.CutPrefix(text, "user:"); ok {
		if name == "" || len(name) > maxPath {
			return fmt.Errorf("%q names no user property; write user:name", clip(text))
		}
		e.properties[f] = name
		return nil
	}
	path, err := parsePath(text)
	if err != nil {
		return err
	}
	root.want(path, take{field: f})
	e.paths++
	return nil
}

func parsePath(text string) ([]string, error) {
	if len(text) > maxPath {
		return nil, fmt.Errorf("the path has %d bytes; write at most %d", len(text), maxPath)
	}
	if i := strings.IndexAny(text, "$*?#|@[](){}/\\\"'`:, \t\r\n"); i >= 0 || !utf8.ValidString(text) {
		return nil, fmt.Errorf("%q is not a path; write names and array indexes between dots (VP.lat, gps.0.lon), user:name for a user property, "+
			"or - for none", clip(text))
	}
	path := strings.Split(text, ".")
	if len(path) > maxDepth {
		return nil, fmt.Errorf("the path %q has %d names; write at most %d", clip(text), len(path), maxDepth)
	}
	for _, name := range path {
		if name == "" {
			return nil, fmt.Errorf("the path %q has an empty name; write names with one dot between them", clip(text))
		}
	}
	return path, nil
}

// compileUsual adds the usual places of the fields that were not written, once all that were are there: also below what is on the way to
// those.
func (e *Extractor) compileUsual(root *node, written *[fields]string) {
	root.other = &node{}
	each := func(add func(name string, t take), below int) {
		for f := range fields {
			for i, name := range usual[f].names {
				if written[f] == "" {
					add(name, take{f, uint8(below*len(usual[f].names) + i)})
				}
			}
		}
	}
	each(func(name string, t take) { root.want([]string{name}, t) }, 0)
	each(func(name string, t take) {
		root.other.want([]string{name}, t)
		for i := range root.children {
			root.children[i].want(name, t)
		}
	}, 1)
	if len(root.other.children) == 0 {
		root.other = nil
	}
	for f := range fields {
		if written[f] == "" {
			e.properties[f] = usual[f].property
			e.paths += min(len(usual[f].names), 1)
		}
	}
}

// want adds a field one level below the child.
func (c *child) want(name string, t take) {
	if c.below == nil {
		c.below = &node{}
	}
	c.below.want([]string{name}, t)
}

// Extract finds what is in a message; key is its record's. It goes over the payload once, and never fails: what cannot be read is not there.
func (e *Extractor) Extract(m *session.Message, key string) Point {
	var from [fields]string
	if m.Props != nil {
		e.fromProperties(m.Props, &from)
	}
	s := scanner{text: m.Payload[:min(len(m.Payload), maxText)], open: e.paths}
	if e.json != nil && s.space() && (s.text[s.at] == '{' || s.text[s.at] == '[') {
		s.value(e.json)
	}
	for f := range fields {
		switch raw := s.found[f].raw; {
		case from[f] != "" || raw == nil:
		case f == device:
			from[f] = plain(text(raw))
		default:
			from[f] = text(raw)
		}
	}
	p := Point{Speed: between(from[speed], 0, maxSpeed), Heading: between(from[heading], 0, 360)}
	p.Sequence = count(unquoted(from[sequence]))
	p.Sent = parseTime(unquoted(from[sent]))
	if p.Heading == 360 {
		p.Heading = 0
	}
	e.position(&p, from[latitude], from[longitude])
	e.name(&p, from[device], key)
	return p
}

func (e *Extractor) fromProperties(props *session.Props, from *[fields]string) {
	for i := range props.User[:min(len(props.User), maxProperties)] {
		u := &props.User[i]
		for f, name := range e.properties {
			if name != "" && name == u.Name && from[f] == "" {
				from[f] = u.Value
			}
		}
	}
}

// name finds whose message it is.
func (e *Extractor) name(p *Point, raw, key string) {
	switch {
	case e.noDevice:
		return
	case raw != "":
		p.Device = raw
	case e.deviceKey:
		p.Device = key
	}
	if p.Device == "" || len(p.Device) > maxDeviceID {
		p.Device, p.Refused = "", BadDevice
	}
}

// maxSpeed is the fastest that is believed, m/s; what the live channel can say ends a little above.
const maxSpeed = 650

// position decides about a position.
func (e *Extractor) position(p *Point, lat, lon string) {
	switch {
	case lat == "" && lon == "":
		return
	case lat == "null" || lon == "null":
		p.Refused = NullPosition
		return
	}
	var ok, ok2 bool
	p.Lat, ok = number(lat)
	p.Lon, ok2 = number(lon)
	switch {
	case !ok || !ok2:
		p.Refused = NotANumber
	case math.Abs(p.Lat) > 90 || math.Abs(p.Lon) > 180:
		p.Refused = OutOfRange
	case p.Lat == 0 && p.Lon == 0:
		p.Refused = ZeroPosition
	default:
		p.HasPosition = true
		return
	}
	p.Lat, p.Lon = 0, 0
}

// number reads a JSON number, or a string that holds one.
func number(raw string) (float64, bool) {
	raw = unquoted(raw)
	if len(raw) > 40 {
		return 0, false
	}
	for _, c := range []byte(raw) { // ParseFloat also takes nan, inf and hexadecimal
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(raw, 64)
	return v, err == nil
}

// between reads a number that is believed within bounds; negative: there is none.
func between(raw string, least, most float64) float32 {
	if raw == "" {
		return -1
	}
	v, ok := number(raw)
	if !ok || v < least || v > most {
		return -1
	}
	return float32(v)
}

// Times outside of these are no times of sending.
var (
	earliest = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// parseTime reads a time of sending; zero: there is none.
func parseTime(s string) (t time.Time) {
	if len(s) == 0 || len(s) > 40 {
		return t
	}
	if n := count(s); n > 0 {
		t = sinceEpoch(n)
	} else if v, ok := number(s); ok && v < 1e11 { // seconds with a fraction
		t = time.UnixMicro(int64(math.Round(v * 1e6)))
	} else {
		t, _ = time.Parse(time.RFC3339Nano, s)
	}
	if t.Before(earliest) || t.After(latest) {
		return time.Time{}
	}
	return t.UTC()
}

// sinceEpoch tells seconds, ms, µs and ns apart: as the wrong one of these, no time of the years 1990 to 2200 is one of these years.
func sinceEpoch(n uint64) time.Time {
	switch {
	case n < 1e11:
		return time.Unix(int64(n), 0)
	case n < 1e14:
		return time.UnixMilli(int64(n))
	case n < 1e17:
		return time.UnixMicro(int64(n))
	case n <= math.MaxInt64:
		return time.Unix(0, int64(n))
	}
	return time.Time{}
}

// count reads a whole number; 0: it is none. (An error that nobody reads would cost more than the number.)
func count(s string) (n uint64) {
	if len(s) == 0 || len(s) > 20 {
		return 0
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// unquoted takes the quotes off a JSON string. Escapes stay: no number or time has any.
func unquoted(raw string) string {
	if len(raw) >= 2 && raw[0] == '"' && raw[len(raw)-1] == '"' {
		return raw[1 : len(raw)-1]
	}
	return raw
}

// plain is the text of a JSON string or number; empty: it is neither, or too long.
func plain(raw string) string {
	switch {
	case raw == "null" || raw == "true" || raw == "false":
		return ""
	case raw[0] != '"':
	case strings.IndexByte(raw, '\\') < 0:
		raw = unquoted(raw)
	case len(raw) > 6*maxDeviceID+2:
		return ""
	default:
		var s string
		if json.Unmarshal([]byte(raw), &s) != nil {
			return ""
		}
		raw = s
	}
	if len(raw) <= maxDeviceID && !utf8.ValidString(raw) {
		return strings.ToValidUTF8(raw, "\uFFFD")
	}
	return raw
}

// text views a part of an immutable payload as a string.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// clip shortens what an author wrote for a message.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
