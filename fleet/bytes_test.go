package fleet

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/session"
)

// traffic gives each of n vehicles its message of a second.
type traffic func(second int) []session.Message

const vehicles = 10_000

// made drives vehicles about: most of them at the speeds of the recorded tracks, with a tenth standing.
func made() traffic {
	rng := rand.New(rand.NewPCG(1, 1))
	type car struct{ lat, lon, course, speed float64 }
	cars := make([]car, vehicles)
	for i := range cars {
		cars[i] = car{52.2 + rng.Float64()*0.4, 4.7 + rng.Float64()*0.6, rng.Float64() * 2 * math.Pi, rng.ExpFloat64() * 10}
		if i%10 == 0 {
			cars[i].speed = 0
		}
	}
	return func(second int) []session.Message {
		ms := make([]session.Message, vehicles)
		for i := range cars {
			c := &cars[i]
			c.course += rng.NormFloat64() * 0.1
			c.lat += c.speed * math.Cos(c.course) / 111_195
			c.lon += c.speed * math.Sin(c.course) / 111_195 / math.Cos(c.lat*math.Pi/180)
			ms[i] = tracked(i, second, c.lat, c.lon, c.speed, c.course)
		}
		return ms
	}
}

// recordedTracks plays the recorded tracks, each by a hundred vehicles that are at other places of it.
func recordedTracks(t testing.TB) traffic {
	t.Helper()
	dir := os.Getenv("MILLRACE_DATA")
	if dir == "" {
		t.Skip("SKIPPED: MILLRACE_DATA names no folder with tracks-1hz.csv.gz")
	}
	f, err := os.Open(filepath.Join(dir, "tracks-1hz.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	type at struct{ lat, lon float64 }
	var tracks [][]at
	lines := bufio.NewScanner(z)
	lines.Scan() // names of the columns
	for lines.Scan() {
		c := strings.Split(lines.Text(), ",")
		id, err := strconv.Atoi(c[0])
		lat, err2 := strconv.ParseFloat(c[2], 64)
		lon, err3 := strconv.ParseFloat(c[3], 64)
		if err != nil || err2 != nil || err3 != nil {
			t.Fatal(lines.Text())
		}
		for len(tracks) <= id {
			tracks = append(tracks, nil)
		}
		tracks[id] = append(tracks[id], at{lat, lon})
	}
	return func(second int) []session.Message {
		ms := make([]session.Message, vehicles)
		for i := range ms {
			tr := tracks[i%len(tracks)]
			p, was := tr[(second+i*37)%len(tr)], tr[max(0, (second+i*37)%len(tr)-1)]
			course := math.Atan2((p.lon-was.lon)*math.Cos(p.lat*math.Pi/180), p.lat-was.lat)
			ms[i] = tracked(i, second, p.lat, p.lon, metres(was.lat, was.lon, p.lat, p.lon), course)
		}
		return ms
	}
}

func tracked(i, second int, lat, lon, speed, course float64) session.Message {
	now := epoch.Add(time.Duration(second) * time.Second)
	return said(fmt.Sprint("vehicle-", i), now, 20*time.Millisecond, second+1,
		fmt.Sprintf(`{"lat":%.6f,"lon":%.6f,"speed":%.2f,"heading":%.0f}`, lat, lon, speed, math.Mod(course*180/math.Pi+720, 360)))
}

// A page that looks at all of 10,000 vehicles, each of which says where it is once a second, takes less than 100 KB/s.
func TestBytesPerPage(t *testing.T) {
	measure := func(t *testing.T, play traffic) {
		v := newView(t, Options{})
		c := v.NewClient()
		c.SetView(Box{-180, -90, 180, 90}, 2)
		var p page
		sum, key, seconds := 0, 0, max(6, tier.N(20))
		for s := range seconds + 1 {
			v.Add(epoch, &session.Batch{Msgs: play(s)})
			v.Tick(epoch.Add(time.Duration(s) * time.Second))
			frame, ok := c.Frame()
			if err := p.apply(frame, func(uint32) string { return "?" }); err != nil || !ok {
				t.Fatal(err)
			}
			if s == 0 {
				key = len(frame)
			} else {
				sum += len(frame)
			}
		}
		t.Logf("%d bytes/s of changes, %d bytes of the first frame, %d cells", sum/seconds, key, len(v.board.cells))
		if sum/seconds > 100_000 {
			t.Errorf("%d bytes/s", sum/seconds)
		}
		if len(p.slots) != vehicles {
			t.Errorf("%d vehicles on the page", len(p.slots))
		}
	}
	t.Run("made", func(t *testing.T) { measure(t, made()) })
	t.Run("recorded", func(t *testing.T) { measure(t, recordedTracks(t)) })
}

// One second of 10,000 vehicles: what their messages cost, what the tick costs, and what each page costs.
func BenchmarkSecond(b *testing.B) {
	v := newView(b, Options{})
	c := v.NewClient()
	c.SetView(Box{-180, -90, 180, 90}, 2)
	play := made()
	seconds := make([][]session.Message, 20)
	for s := range seconds {
		seconds[s] = play(s)
	}
	var add, tick, frame time.Duration
	n := 0
	b.ReportAllocs()
	for ; b.Loop(); n++ {
		ms := seconds[n%len(seconds)]
		for i := range ms {
			ms[i].Props.User[1].Value = strconv.Itoa(n + 1)
			ms[i].Time += int64(len(seconds)) * 1000
		}
		t0 := time.Now()
		v.Add(epoch, &session.Batch{Msgs: ms})
		t1 := time.Now()
		v.Tick(epoch)
		t2 := time.Now()
		c.Frame()
		add, tick, frame = add+t1.Sub(t0), tick+t2.Sub(t1), frame+time.Since(t2)
	}
	for name, d := range map[string]time.Duration{"add-µs/msg": add / vehicles, "tick-µs": tick, "frame-µs/page": frame} {
		b.ReportMetric(float64(d)/1e3/float64(n), name)
	}
}
