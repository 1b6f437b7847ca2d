package sim

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TrackFormat says how a CSV file of positions is read.
type TrackFormat struct {
	// Columns maps "vehicle", "time", "lat", "lon", "speed" (metres per second) and "heading" (degrees) to the names of columns; what is
	// not mapped is found under its usual names. Speed and heading are worked out if there is no such column.
	Columns map[string]string
	// From and To bound the times that are taken; zero: no bound. They need a file with times of day.
	From, To time.Time
	// MaxGap is how long nobody may report: a longer pause is cut to a second. Default 10 minutes.
	MaxGap time.Duration
}

// usual names of columns, the likeliest first. Time may be RFC 3339, seconds or milliseconds since 1970, or, below a hundred million,
// seconds since whatever.
var usualColumns = map[string][]string{
	"vehicle": {"vehicle_id", "vehicle", "device_id", "device", "track_id", "id", "veh", "name"},
	"time":    {"ts", "time", "timestamp", "datetime", "date", "tst", "t_s", "t"},
	"lat":     {"lat", "latitude"},
	"lon":     {"lon", "lng", "long", "longitude"},
	"speed":   {"speed", "speed_mps", "spd", "velocity"},
	"heading": {"heading", "bearing", "hdg", "course", "azimuth"},
}

// Tracks are recorded positions of a fleet.
type Tracks struct {
	Relative bool          // its times count from whatever
	Length   time.Duration // from the first position to the last, pauses cut
	Skipped  int           // rows that could not be read
	Why      error         // the first of these
	vehicles []*track
	fixes    int
}

// Vehicles and Fixes are how many there are.
func (t *Tracks) Vehicles() int { return len(t.vehicles) }

// Fixes is how many positions there are.
func (t *Tracks) Fixes() int { return t.fixes }

// track is one vehicle's positions in order of time.
type track struct {
	id    string
	fixes []fix
}

type fix struct {
	at             time.Duration // from the first position of all, pauses cut
	time           time.Time     // as recorded
	lat, lon       float64
	speed, heading float32 // negative: unknown
}

// ReadTracks reads a CSV file with a header, plain or gzipped. A row that makes no sense is skipped and counted, unless most are such.
func ReadTracks(r io.Reader, f TrackFormat) (*Tracks, error) {
	in := bufio.NewReader(r)
	if magic, _ := in.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("sim: read tracks: %w", err)
		}
		in = bufio.NewReader(z)
	}
	t, err := f.read(csv.NewReader(in))
	if err != nil {
		return nil, fmt.Errorf("sim: read tracks: %w", err)
	}
	return t, nil
}

func (f *TrackFormat) read(r *csv.Reader) (*Tracks, error) {
	r.ReuseRecord, r.FieldsPerRecord = true, -1
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	columns, err := f.columns(slices.Clone(header))
	if err != nil {
		return nil, err
	}
	t, byID := &Tracks{}, map[string]*track{}
	for first := true; ; {
		row, err := r.Read()
		if err == io.EOF {
			break
		}
		var parse *csv.ParseError
		if err != nil && !errors.As(err, &parse) {
			return nil, err
		}
		var id string
		var x fix
		var relative bool
		if err == nil {
			id, x, relative, err = columns.fix(row)
		}
		if err == nil && !first && relative != t.Relative {
			err = errors.New("a time of day among times that count from the begin, or the other way round")
		}
		if err != nil {
			if t.Why == nil {
				if t.Why = err; parse == nil { // which names the line itself
					line, _ := r.FieldPos(0)
					t.Why = fmt.Errorf("line %d: %w", line, err)
				}
			}
			t.Skipped++
			continue
		}
		t.Relative, first = relative, false
		if !f.From.IsZero() && x.time.Before(f.From) || !f.To.IsZero() && !x.time.Before(f.To) {
			continue
		}
		v := byID[id]
		if v == nil {
			v = &track{id: id}
			byID[id] = v
			t.vehicles = append(t.vehicles, v)
		}
		v.fixes = append(v.fixes, x)
		t.fixes++
	}
	return t, f.finish(t)
}

func (f *TrackFormat) finish(t *Tracks) error {
	bounded := !f.From.IsZero() || !f.To.IsZero()
	switch {
	case t.Skipped > t.fixes && !bounded:
		return fmt.Errorf("%d of %d rows make no sense; %w", t.Skipped, t.Skipped+t.fixes, t.Why)
	case t.Relative && bounded:
		return errors.New("from and to need a file with times of day; its times count from the begin")
	case t.fixes == 0:
		return errors.New("no positions (of that time)")
	}
	slices.SortStableFunc(t.vehicles, func(a, b *track) int { return cmp.Or(cmp.Compare(len(a.id), len(b.id)), cmp.Compare(a.id, b.id)) })
	t.cut(cmp.Or(f.MaxGap, 10*time.Minute))
	for _, v := range t.vehicles {
		v.derive()
	}
	return nil
}

// cut puts everything on one time line without long pauses.
func (t *Tracks) cut(longest time.Duration) {
	all := make([]*fix, 0, t.fixes)
	for _, v := range t.vehicles {
		slices.SortStableFunc(v.fixes, func(a, b fix) int { return a.time.Compare(b.time) })
		for i := range v.fixes {
			all = append(all, &v.fixes[i])
		}
	}
	slices.SortFunc(all, func(a, b *fix) int { return a.time.Compare(b.time) })
	for i := 1; i < len(all); i++ {
		gap := all[i].time.Sub(all[i-1].time)
		if gap > longest {
			gap = time.Second
		}
		all[i].at = all[i-1].at + gap
	}
	t.Length = all[len(all)-1].at
}

// derive works out what no column says.
func (v *track) derive() {
	for i := 1; i < len(v.fixes); i++ {
		a, b := &v.fixes[i-1], &v.fixes[i]
		east := (b.lon - a.lon) * math.Cos(a.lat*math.Pi/180) * metresPerDegree
		north := (b.lat - a.lat) * metresPerDegree
		way, took := math.Hypot(east, north), (b.at - a.at).Seconds()
		if b.speed < 0 && took > 0 {
			b.speed = float32(way / took)
		}
		if b.heading < 0 {
			b.heading = a.heading // standing
			if way > 3 {
				b.heading = float32(math.Mod(math.Atan2(east, north)*180/math.Pi+360, 360))
			}
		}
	}
}

const metresPerDegree = 111_195 // of latitude

// trackColumns are the indexes of the columns, -1: there is none.
type trackColumns struct{ vehicle, time, lat, lon, speed, heading int }

func (f *TrackFormat) columns(header []string) (c trackColumns, err error) {
	for name := range f.Columns {
		if usualColumns[name] == nil {
			return c, fmt.Errorf("column %q: one of vehicle, time, lat, lon, speed, heading", name)
		}
	}
	find := func(what string, required bool) int {
		names := usualColumns[what]
		if as := f.Columns[what]; as != "" {
			names, required = []string{as}, true
		}
		for _, name := range names {
			for i, h := range header {
				if strings.EqualFold(strings.TrimSpace(strings.TrimPrefix(h, "\ufeff")), name) {
					return i
				}
			}
		}
		if required {
			err = errors.Join(err, fmt.Errorf("no column for %s: looked for %s in %s; name it with --columns %s=NAME", what,
				strings.Join(names, ", "), strings.Join(header, ","), what))
		}
		return -1
	}
	c = trackColumns{find("vehicle", true), find("time", true), find("lat", true), find("lon", true), find("speed", false), find("heading", false)}
	return c, err
}

func (c *trackColumns) fix(row []string) (id string, x fix, relative bool, err error) {
	if len(row) <= max(c.vehicle, c.time, c.lat, c.lon, c.speed, c.heading) {
		return "", x, false, fmt.Errorf("%d fields", len(row))
	}
	id = topicLevel(row[c.vehicle])
	var err1, err2, err3 error
	x.time, relative, err1 = trackTime(row[c.time])
	x.lat, err2 = strconv.ParseFloat(row[c.lat], 64)
	x.lon, err3 = strconv.ParseFloat(row[c.lon], 64)
	x.speed, x.heading = optional(row, c.speed), optional(row, c.heading)
	if err = errors.Join(err1, err2, err3); err == nil && (id == "" || math.IsNaN(x.lat+x.lon) || math.IsInf(x.lat+x.lon, 0)) {
		err = errors.New("no vehicle, or no position")
	}
	return id, x, relative, err
}

// optional reads a number that may not be there.
func optional(row []string, i int) float32 {
	if i < 0 {
		return -1
	}
	v, err := strconv.ParseFloat(row[i], 32)
	if err != nil || !(v >= 0 && v < 1e6) {
		return -1
	}
	return float32(v)
}

func trackTime(s string) (t time.Time, relative bool, err error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		switch {
		case n >= 1e14 || !(n >= 0):
			return t, false, fmt.Errorf("%q is no time", s)
		case n >= 1e11:
			return time.UnixMicro(int64(n * 1e3)), false, nil
		case n >= 1e8:
			return time.UnixMicro(int64(n * 1e6)), false, nil
		}
		return time.UnixMicro(int64(n * 1e6)), true, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05"} {
		if t, err = time.Parse(form, s); err == nil {
			return t, false, nil
		}
	}
	return t, false, fmt.Errorf("%q is no time; RFC 3339, 2006-01-02 15:04:05, or seconds", s)
}

// topicLevel makes a name fit for a level of a topic, and for JSON.
func topicLevel(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' || strings.ContainsRune(`/+#"\`, r) {
			return '-'
		}
		return r
	}, strings.TrimSpace(s))
}
