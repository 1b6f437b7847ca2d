package console

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/fleet"
)

var pageParams = []param{
	{"limit", "query", "integer", "entries of one page: 100, at most 1000"},
	{"cursor", "query", "string", "`next` of the page before"},
}

var deviceParams = append([]param{
	{"q", "query", "string", "part of the name, in any case"},
	{"bbox", "query", "string", "west,south,east,north in degrees: those within; west > east crosses the antimeridian"},
	{"slots", "query", "string", "numbers of the live channel, with commas: those devices, at most 1000"},
	{"sort", "query", "string", "id (default), or last_seen: last heard first"},
}, pageParams...)

const maxSlots = 1000

func (s *Server) devices(r *http.Request) (answer, error) {
	p, err := s.ready()
	if err != nil {
		return answer{}, err
	}
	q, err := deviceQuery(r)
	if err != nil {
		return answer{}, err
	}
	page, err := p.View.Devices(q)
	if errors.Is(err, fleet.ErrCursor) {
		return answer{}, badParam("cursor", "is not one of this query")
	} else if err != nil {
		return answer{}, err
	}
	d := Devices{Devices: make([]Device, len(page.Devices)), Total: page.Total, Next: page.Next}
	for i := range page.Devices {
		d.Devices[i] = deviceBody(&page.Devices[i])
	}
	return answer{body: d}, nil
}

func deviceQuery(r *http.Request) (fleet.Query, error) {
	v, err := query(r, deviceParams)
	if err != nil {
		return fleet.Query{}, err
	}
	q := fleet.Query{Text: v.Get("q"), Cursor: v.Get("cursor")}
	if len(q.Text) > 256 || len(q.Cursor) > 4096 {
		return q, badParam("q or cursor", "is too long")
	}
	if q.Limit, err = limit(v, 100, 1000); err != nil {
		return q, err
	}
	switch v.Get("sort") {
	case "", "id":
	case "last_seen":
		q.Sort = fleet.BySeen
	default:
		return q, badParam("sort", "is neither id nor last_seen")
	}
	if b := v.Get("bbox"); b != "" {
		if q.Box, err = parseBox(b); err != nil {
			return q, err
		}
	}
	if list := v.Get("slots"); list != "" {
		q.Slots, err = parseSlots(list)
	}
	return q, err
}

func parseBox(s string) (*fleet.Box, error) {
	parts := strings.SplitN(s, ",", 5)
	var d [4]float64
	bad := len(parts) != 4
	for i := range min(len(parts), 4) {
		var err error
		d[i], err = strconv.ParseFloat(parts[i], 64)
		bad = bad || err != nil
	}
	if bad || !validBox(d) {
		return nil, badParam("bbox", "is not west,south,east,north in degrees")
	}
	return &fleet.Box{West: d[0], South: d[1], East: d[2], North: d[3]}, nil
}

func validBox(d [4]float64) bool {
	for i, limit := range [4]float64{180, 90, 180, 90} {
		if math.IsNaN(d[i]) || math.Abs(d[i]) > limit {
			return false
		}
	}
	return d[1] <= d[3]
}

func parseSlots(s string) (slots []uint32, err error) {
	if strings.Count(s, ",") >= maxSlots {
		return nil, badParam("slots", "has more than 1000 numbers")
	}
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, badParam("slots", "is not a list of numbers with commas between them")
		}
		slots = append(slots, uint32(n))
	}
	return slots, nil
}

func (s *Server) device(r *http.Request) (answer, error) {
	p, err := s.ready()
	if err != nil {
		return answer{}, err
	}
	if _, err := query(r, nil); err != nil {
		return answer{}, err
	}
	d, ok := p.View.Device(r.PathValue("id"))
	if !ok {
		return answer{}, problem(http.StatusNotFound, "no device of that name has been heard")
	}
	return answer{body: detailBody(&d)}, nil
}

func deviceBody(d *fleet.Device) Device {
	b := Device{ID: d.ID, Slot: d.Slot, Source: d.Source, Topic: d.Topic, LastSeen: millis(d.Seen), Messages: d.Messages, Stale: d.Stale}
	if d.HasPosition {
		b.Lat, b.Lon = new(degree(d.Lat)), new(degree(d.Lon))
		if d.Speed >= 0 {
			b.Speed = round(float64(d.Speed), 100)
		}
		if d.Heading >= 0 {
			b.Heading = round(float64(d.Heading), 10)
		}
	}
	b.Sent = timeOrNull(d.Sent)
	if d.Latency >= 0 {
		b.Latency = new(ms(d.Latency))
	}
	if d.Skewed {
		b.Skew = new(ms(d.Skew))
	}
	return b
}

func detailBody(d *fleet.Detail) DeviceDetail {
	b := DeviceDetail{Device: deviceBody(&d.Device), Missing: d.Missing, Repeated: d.Repeated, Reordered: d.Reordered, Track: make([]Fix, len(d.Track))}
	if d.Sequence > 0 {
		b.Sequence = new(d.Sequence)
	}
	for i, f := range d.Track {
		b.Track[i] = Fix{At: millis(f.At), Lat: degree(f.Lat), Lon: degree(f.Lon)}
	}
	return b
}

// degree rounds to what a position is kept with.
func degree(v float64) float64 { return math.Round(v*1e6) / 1e6 }

// round makes a number of an API out of a measured one; what JSON cannot say is null.
func round(v, per float64) *float64 {
	if v = math.Round(v*per) / per; math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func timeOrNull(t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	return new(millis(t))
}
