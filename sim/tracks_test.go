package sim

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

func readTracks(t *testing.T, f TrackFormat, text string) *Tracks {
	t.Helper()
	tracks, err := ReadTracks(strings.NewReader(text), f)
	if err != nil {
		t.Fatal(err)
	}
	return tracks
}

const twoCars = `id,time,lat,lon,speed,extra
b,2015-03-07T06:00:05Z,52.1,4.9,3.5,x
a,2015-03-07T06:00:00Z,52.0,4.9,,y
a,2015-03-07T06:00:10Z,52.001,4.9,,"y,z"
b,2015-03-07T06:00:15Z,52.1,4.901,4,x
a,2015-03-08T06:00:00Z,52.001,4.9,,y
`

func TestReadTracks(t *testing.T) {
	tracks := readTracks(t, TrackFormat{}, twoCars)
	if tracks.Vehicles() != 2 || tracks.Fixes() != 5 || tracks.Relative || tracks.Skipped != 0 || tracks.Length != 16*time.Second { // the night is cut to a second
		t.Fatalf("%+v", tracks)
	}
	a, b := tracks.vehicles[0], tracks.vehicles[1]
	if a.id != "a" || a.fixes[0].speed >= 0 || a.fixes[0].heading >= 0 || math.Abs(float64(a.fixes[1].speed)-11.12) > 0.01 || a.fixes[1].heading != 0 || a.fixes[2].speed != 0 || a.fixes[2].heading != 0 {
		t.Errorf("%+v", a)
	}
	if b.id != "b" || b.fixes[0].at != 5*time.Second || b.fixes[1].speed != 4 || b.fixes[1].heading != 90 {
		t.Errorf("%+v", b)
	}
	bounded := readTracks(t, TrackFormat{From: time.Date(2015, 3, 7, 6, 0, 5, 0, time.UTC), To: time.Date(2015, 3, 7, 6, 0, 15, 0, time.UTC)}, twoCars)
	if bounded.Fixes() != 2 || bounded.Length != 5*time.Second {
		t.Errorf("%+v", bounded)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte("\ufeffTRACK_ID,t_s,Latitude,LNG\n\"7/+#\"\"é\\\",3,1,2\n\"7/+#\"\"é\\\",2.5,1,2\nx,,3,4\n"))
	w.Close()
	relative, err := ReadTracks(&z, TrackFormat{})
	if err != nil || !relative.Relative || relative.Skipped != 1 || relative.vehicles[0].id != "7----é-" || relative.vehicles[0].fixes[1].at != 500*time.Millisecond {
		t.Errorf("%+v, %v", relative, err)
	}
	if relative.Why == nil || !strings.Contains(relative.Why.Error(), `line 4: "" is no time`) {
		t.Error(relative.Why)
	}
	for _, c := range []struct {
		f          TrackFormat
		text, says string
	}{
		{TrackFormat{}, "", "header: EOF"},
		{TrackFormat{}, "a,b\n", "no column for vehicle: looked for vehicle_id"},
		{TrackFormat{}, "a,b\n", "no column for lon"},
		{TrackFormat{Columns: map[string]string{"speed": "v"}}, twoCars, "no column for speed: looked for v in id,time"},
		{TrackFormat{Columns: map[string]string{"sped": "v"}}, twoCars, `column "sped": one of vehicle`},
		{TrackFormat{}, "id,t,lat,lon\n", "no positions"},
		{TrackFormat{To: time.Unix(0, 0)}, twoCars, "no positions (of that time)"},
		{TrackFormat{}, "id,t,lat,lon\na,1,?,2\nb,noon,1,2\nc,3,1,2\n", `2 of 3 rows make no sense; line 2: strconv.ParseFloat: parsing "?"`},
		{TrackFormat{From: time.Unix(9, 0)}, "id,t,lat,lon\na,10,1,2\n", "times count from the begin"},
	} {
		if _, err := ReadTracks(strings.NewReader(c.text), c.f); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %s", c.text, err, c.says)
		}
	}
}

func TestTrackTimes(t *testing.T) {
	want := time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)
	for _, s := range []string{"2023-11-14T22:13:20Z", "2023-11-15T00:13:20+02:00", "2023-11-14 22:13:20", "1700000000", "1700000000000", "1700000000.0"} {
		if got, relative, err := trackTime(s); err != nil || relative || !got.Equal(want) {
			t.Errorf("%s: %v %v %v", s, got, relative, err)
		}
	}
	if got, relative, err := trackTime("153.5"); err != nil || !relative || got.UnixMilli() != 153_500 {
		t.Errorf("%v %v %v", got, relative, err)
	}
	for _, s := range []string{"", "-1", "NaN", "+Inf", "1e300", "90/02/2032"} {
		if got, _, err := trackTime(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

// played is what one message of a track says.
type played struct {
	At      time.Duration // of the run
	ID      string
	Seq     uint64
	TS      time.Time
	Time    time.Time
	Lat     float64
	Speed   *float64
	Heading *float64
}

// playTracks plays tracks on a clock of their own.
func playTracks(t *testing.T, o TrackOptions) (got []played) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemoryBroker(t)
		start := time.Now()
		b.fault = func(p *packet.Publish) []*packet.Publish {
			var m played
			if err := json.Unmarshal(p.Payload, &m); err != nil || string(p.Topic) != "fleet/"+m.ID+"/position" {
				t.Errorf("%s on %s: %v", p.Payload, p.Topic, err)
			}
			if s, ok := ReadStamp(p); !ok || s.Device != m.ID || s.Sequence != m.Seq || s.Due.Truncate(time.Millisecond).Compare(m.TS) != 0 {
				t.Errorf("%+v of %s", s, p.Payload)
			}
			m.At = time.Since(start)
			got = append(got, m)
			return nil
		}
		o.Dial, o.QoS, o.ConnectRate = b.dialMemory, 1, 1e6
		s, err := PlayTracks(t.Context(), o)
		if err != nil || s.Acked != s.Sent {
			t.Errorf("%+v, %v", s, err)
		}
		b.cut()
		b.all.Wait()
	})
	return got
}

func TestPlayTracks(t *testing.T) {
	got := playTracks(t, TrackOptions{Tracks: readTracks(t, TrackFormat{}, twoCars), Speed: 2})
	want := "a 1 0s 06:00:00, b 1 2.5s 06:00:05, a 2 5s 06:00:10, b 2 7.5s 06:00:15, a 3 8s 06:00:00, "
	text := ""
	for _, m := range got {
		text += fmt.Sprintf("%s %d %v %s, ", m.ID, m.Seq, m.At.Round(10*time.Millisecond), m.Time.Format("15:04:05"))
	}
	if text != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	if got[0].Speed != nil || got[0].Heading != nil || got[3].Speed == nil || *got[3].Heading != 90 {
		t.Errorf("%+v", got)
	}
}

// Clones have names of their own, begin elsewhere, and play the same positions.
func TestPlayTracksClones(t *testing.T) {
	text := "id,t,lat,lon\n"
	for i := range 100 {
		text += fmt.Sprintf("a,%d,%d,0\nb,%d,%d,0\n", 1000+i, i%80, 1000+i, -i%80)
	}
	base := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	got := playTracks(t, TrackOptions{Tracks: readTracks(t, TrackFormat{}, text), Vehicles: 6, Prefix: "p-", Speed: 10, Base: base})
	by := map[string][]played{}
	for _, m := range got {
		by[m.ID] = append(by[m.ID], m)
	}
	if len(by) != 6 || len(by["p-a"]) != 100 || len(by["p-b-3"]) != 100 {
		t.Fatalf("%d devices", len(by))
	}
	firsts := map[float64]bool{}
	for _, id := range []string{"p-a", "p-a-2", "p-a-3"} {
		firsts[by[id][0].Lat] = true
		var lats []float64
		for i, m := range by[id] {
			lats = append(lats, m.Lat)
			if m.Seq != uint64(i+1) || i > 0 && (m.At < by[id][i-1].At || m.Time.Sub(by[id][i-1].Time) > 2*time.Second) {
				t.Fatalf("%s: %+v after %+v", id, m, by[id][i-1])
			}
		}
		slices.Sort(lats)
		if lats[0] != 0 || lats[99] != 79 {
			t.Errorf("%s: %v", id, lats)
		}
		if first, last := by[id][0], by[id][99]; first.Time.Sub(base) > time.Second || last.Time.Sub(first.Time) < 99*time.Second || last.At > 11*time.Second {
			t.Errorf("%s: %v to %v, until %v", id, first.Time, last.Time, last.At)
		}
	}
	if len(firsts) != 3 {
		t.Errorf("they begin at %v", firsts)
	}
}

// A second run with the same ledger goes on where the first one was stopped.
func TestPlayTracksGoesOn(t *testing.T) {
	text := "id,t,lat,lon\n"
	for i := range 60 {
		text += fmt.Sprintf("%c,%d,%d,0\n", 'a'+i%3, i, i)
	}
	l := NewLedger()
	o := TrackOptions{Tracks: readTracks(t, TrackFormat{}, text), Loop: true, FleetOptions: FleetOptions{Ledger: l, Duration: 25500 * time.Millisecond}}
	got := playTracks(t, o)
	if len(got) != 26 || got[25].Lat != 25 {
		t.Fatalf("%d: %+v", len(got), got[len(got)-1])
	}
	o.Duration = 40500 * time.Millisecond
	got = playTracks(t, o)
	for i, m := range got {
		if want := float64((26 + i) % 60); m.Lat != want {
			t.Fatalf("message %d of the second run is %v at %v, want %v", i, m.Lat, m.At, want)
		}
	}
	if first := got[0]; first.At > 2*time.Second || len(got) < 38 {
		t.Errorf("%d messages, the first at %v", len(got), first.At)
	}
}

func TestJSONStamp(t *testing.T) {
	s := Stamp{"van-1", 17, time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)}
	b := append(appendJSONStamp(nil, &s), '}')
	if want := `{"id":"van-1","seq":17,"ts":"2026-01-02T03:04:05.678Z"}`; string(b) != want {
		t.Errorf("%s", b)
	}
	if got, ok := ReadStamp(&packet.Publish{Payload: b}); !ok || got != s {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{`{}`, `{"id":"me","lat":1}`, `{"id":"a","seq":0,"ts":"2026-01-02T03:04:05.678Z"}`, `{"id":"","seq":1,"ts":"2026-01-02T03:04:05.678Z"}`,
		`{"id":"a","seq":-1,"ts":"2026-01-02T03:04:05.678Z"}`, `{"id":"a","seq":1,"ts":"2026-01-02`, `{"id":"a","x":"","seq":1,"ts":"2026-01-02T03:04:05.678Z"}`} {
		if got, ok := ReadStamp(&packet.Publish{Payload: []byte(bad)}); ok {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

// The real recordings: what they hold is what they are said to hold.
func TestRealTracks(t *testing.T) {
	for _, c := range []struct {
		file            string
		vehicles, fixes int
		relative        bool
		least, most     time.Duration
	}{
		{"fleet-gps.csv.gz", 445, 258_452, false, 60 * time.Hour, 80 * time.Hour},
		{"tracks-1hz.csv.gz", 100, 247_251, true, time.Hour, 24 * time.Hour},
	} {
		tracks, err := ReadTracks(dataFile(t, c.file), TrackFormat{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d vehicles, %d fixes, %v", c.file, tracks.Vehicles(), tracks.Fixes(), tracks.Length)
		if tracks.Vehicles() != c.vehicles || tracks.Fixes() != c.fixes || tracks.Relative != c.relative || tracks.Length < c.least || tracks.Length > c.most || tracks.Skipped != 0 {
			t.Errorf("%s: %d vehicles, %d fixes, %v, %d skipped (%v)", c.file, tracks.Vehicles(), tracks.Fixes(), tracks.Length, tracks.Skipped, tracks.Why)
		}
	}
}

// FuzzReadTracks: no file makes it panic, and what it reads can be played.
func FuzzReadTracks(f *testing.F) {
	f.Add(twoCars)
	f.Add("id,t,lat,lon\na,1,1,2\na,1e7,1,2\n\"a\nb,3,1,2\n")
	f.Add("id,t,lat,lon\na,99999999999999,1e300,2\n,,,\n")
	f.Fuzz(func(t *testing.T, text string) {
		tracks, err := ReadTracks(strings.NewReader(text), TrackFormat{})
		if err != nil {
			return
		}
		if tracks.Length < 0 || tracks.Fixes() == 0 {
			t.Fatalf("%+v", tracks)
		}
		for _, v := range tracks.vehicles {
			s := trackSource{o: &TrackOptions{Tracks: tracks, Speed: 1}, v: v}
			for last := time.Duration(0); ; {
				after, ok := s.next()
				if !ok {
					break
				}
				if after < last {
					t.Fatalf("%v after %v", after, last)
				}
				last = after
				if p := s.message(&Stamp{Device: v.id, Sequence: 1}); !json.Valid(p.Payload) {
					t.Fatalf("%q", p.Payload)
				}
			}
		}
	})
}
