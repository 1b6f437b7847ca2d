package sim

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hfp is the recording that Replay plays. © Helsinki Region Transport, CC BY 4.0; see data/ATTRIBUTION.md.
//
//go:embed data/hsl-hfp-sample.ndjson.gz
var hfp []byte

// Attribution is what whoever shows the recording's data must show too.
const Attribution = "© Helsinki Region Transport, CC BY 4.0"

// recorded is one vehicle of a recording: its messages in order of receipt.
type recorded struct {
	id     string // operator/vehicle, as in its topics
	number string // the vehicle's, as in its topics
	events []event
}

// event is one recorded message. Topic and payload are kept as the pieces between what a replay may write anew.
type event struct {
	at       time.Duration // from the vehicle's first message, gaps cut
	received time.Time
	topic    string
	payload  string
	fields   []field // of the payload, in order
}

// field is a part of a payload that depends on vehicle or time.
type field struct {
	from, to int
	kind     fieldKind
	time     time.Time
}

type fieldKind byte

const (
	fieldVehicle fieldKind = iota // the vehicle's number
	fieldTime                     // RFC 3339, milliseconds
	fieldSeconds                  // since 1970
)

// A gap longer than longestGap (the vehicle was parked, or another scene begins) becomes shortGap.
const (
	longestGap = 5 * time.Second
	shortGap   = time.Second
)

// readRecording reads a gzipped file of {"ts","topic","payload"} lines, sorted by time, into vehicles, the one with the most
// messages first.
func readRecording(r io.Reader) ([]*recorded, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	byID := map[string]*recorded{}
	var vehicles []*recorded
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		id, e, err := readEvent(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		v := byID[id]
		if v == nil {
			v = &recorded{id: id, number: id[strings.IndexByte(id, '/')+1:]}
			byID[id] = v
			vehicles = append(vehicles, v)
		}
		if last := len(v.events) - 1; last >= 0 {
			gap := e.received.Sub(v.events[last].received)
			if gap > longestGap {
				gap = shortGap
			}
			e.at = v.events[last].at + max(gap, 0)
		}
		v.events = append(v.events, e)
	}
	slices.SortStableFunc(vehicles, func(a, b *recorded) int { return cmp.Compare(len(b.events), len(a.events)) })
	return vehicles, lines.Err()
}

func readEvent(line []byte) (id string, e event, err error) {
	var m struct {
		TS             time.Time
		Topic, Payload string
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return "", e, err
	}
	// /hfp/v2/journey/ongoing/vp/bus/<operator>/<vehicle>/…
	levels := strings.SplitN(m.Topic, "/", 10)
	if len(levels) < 9 || levels[1] != "hfp" {
		return "", e, errors.New("not an HFP topic")
	}
	e = event{received: m.TS, topic: m.Topic, payload: m.Payload}
	e.fields = findFields(m.Payload)
	return levels[7] + "/" + levels[8], e, nil
}

// findFields finds the vehicle's number and the times in a payload.
func findFields(payload string) (fields []field) {
	for key, kind := range map[string]fieldKind{
		`"veh":`: fieldVehicle, `"tst":"`: fieldTime, `"ttarr":"`: fieldTime, `"ttdep":"`: fieldTime, `"tsi":`: fieldSeconds,
	} {
		i := strings.Index(payload, key)
		if i < 0 {
			continue
		}
		f := field{from: i + len(key), kind: kind}
		f.to = f.from + strings.IndexAny(payload[f.from:], `",}`)
		text := payload[f.from:f.to]
		var err error
		switch kind {
		case fieldVehicle:
			_, err = strconv.Atoi(text) // it may be null
		case fieldTime:
			f.time, err = time.Parse(time.RFC3339, text)
		case fieldSeconds:
			var s int64
			s, err = strconv.ParseInt(text, 10, 64)
			f.time = time.Unix(s, 0)
		}
		if err == nil && f.to > f.from {
			fields = append(fields, f)
		}
	}
	slices.SortFunc(fields, func(a, b field) int { return cmp.Compare(a.from, b.from) })
	return fields
}

// render writes topic and payload of an event for a vehicle with another number ("": its own) at another time (zero: its own):
// all times are shifted alike, so that what came late comes late.
func (e *event) render(topic, payload []byte, v *recorded, number string, at time.Time) (t, p []byte) {
	if number == "" && at.IsZero() {
		return append(topic, e.topic...), append(payload, e.payload...)
	}
	topic = append(topic, e.topic...)
	if number != "" {
		i := strings.Index(e.topic, "/"+v.id) + 1 + len(v.id)
		topic = append(append(topic[:len(topic)-len(e.topic)], e.topic[:i-len(v.number)]...), number...)
		topic = append(topic, e.topic[i:]...)
	}
	from := 0
	for _, f := range e.fields {
		payload = append(payload, e.payload[from:f.from]...)
		from = f.to
		switch shifted := f.time.Add(at.Sub(e.received)).UTC(); {
		case f.kind == fieldVehicle && number != "":
			payload = append(payload, strings.TrimLeft(number, "0")...)
		case f.kind == fieldTime && !at.IsZero():
			payload = shifted.AppendFormat(payload, "2006-01-02T15:04:05.000Z07:00")
		case f.kind == fieldSeconds && !at.IsZero():
			payload = strconv.AppendInt(payload, shifted.Unix(), 10)
		default:
			from = f.from
		}
	}
	return topic, append(payload, e.payload[from:]...)
}

func embedded() ([]*recorded, error) {
	vehicles, err := readRecording(bytes.NewReader(hfp))
	if err != nil {
		return nil, fmt.Errorf("sim: read recording: %w", err)
	}
	return vehicles, nil
}
