package fleet

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/session"
)

// world is a view under a random life, and what must be true of it.
type world struct {
	rng   *rand.Rand
	v     *View
	now   time.Time
	truth map[string]*truth
	pages []*looker
}

// truth is a device as the test knows it.
type truth struct {
	lat, lon   float64
	positioned bool
	heading    float32
	source     int
	seen       time.Time
}

// looker is one page and its place.
type looker struct {
	client *Client
	page   page
	box    Box
	looks  bool
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), now: time.UnixMilli(1_760_000_000_000), truth: map[string]*truth{}}
	sources := make([]Source, 18)
	var err error
	w.v, err = New(Options{Sources: sources, MaxDevices: 30, MaxTracks: 5, Place: func(topic, _ string) (int, string, bool) {
		source, err := strconv.Atoi(topic)
		return source, "", err == nil
	}})
	if err != nil {
		panic(err)
	}
	return w
}

// life goes on for some ticks and returns the first thing that is wrong.
func (w *world) life(ticks int) error {
	for range ticks {
		for range w.rng.IntN(30) {
			w.message()
		}
		w.now = w.now.Add(time.Duration(w.rng.IntN(5)) * 400 * time.Millisecond)
		if w.rng.IntN(40) == 0 {
			w.now = w.now.Add(time.Minute)
		}
		w.look()
		w.v.Tick(w.now)
		for i, l := range w.pages {
			if w.rng.IntN(6) == 0 {
				continue // too slow: this frame is missed
			}
			if err := w.frame(l); err != nil {
				return fmt.Errorf("page %d: %w", i, err)
			}
		}
		if err := w.board(); err != nil {
			return err
		}
	}
	return nil
}

// message has a device say something: it stays, crawls, drives, jumps, has no fix, or comes back.
func (w *world) message() {
	id := fmt.Sprint("dev-", w.rng.IntN(40))
	d := w.truth[id]
	if d == nil || w.v.ids[id] == nil { // new, or forgotten
		d = &truth{}
		w.truth[id] = d
	}
	step := func(max float64) {
		d.lat = math.Max(-89, math.Min(89, d.lat+(w.rng.Float64()-0.5)*max))
		d.lon = math.Max(-180, math.Min(180, d.lon+(w.rng.Float64()-0.5)*max))
	}
	body := map[string]any{"device": id}
	switch k := w.rng.IntN(20); {
	case k == 0:
		body["lat"], body["lon"] = nil, nil
	case k == 1 || !d.positioned:
		d.lat, d.lon = (w.rng.Float64()-0.5)*178, (w.rng.Float64()-0.5)*360
		if w.rng.IntN(3) > 0 { // mostly in one place, where cells meet
			d.lat, d.lon = 0.001, 0.001
		}
	case k < 6:
		step(0.000004)
	case k < 14:
		step(0.0005)
	case k < 16:
		step(2)
	}
	if _, null := body["lat"]; !null {
		d.positioned = true
		body["lat"], body["lon"] = d.lat, d.lon
		d.heading = -1
		if w.rng.IntN(8) > 0 {
			d.heading = float32(w.rng.IntN(360))
			body["hdg"] = d.heading
		}
	}
	if w.rng.IntN(30) == 0 {
		d.source = w.rng.IntN(18)
	}
	d.seen = w.now
	payload, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	w.v.extractors[d.source] = byDevice
	w.v.Add(w.now, &session.Batch{Msgs: []session.Message{{Topic: fmt.Sprint(d.source), Payload: payload, Time: w.now.UnixMilli(), Client: "c"}}})
}

var byDevice, _ = Compile(Fields{Device: "device"})

// look changes who looks on, and where.
func (w *world) look() {
	switch w.rng.IntN(12) {
	case 0:
		if len(w.pages) < 4 {
			w.pages = append(w.pages, &looker{client: w.v.NewClient()})
		}
	case 1:
		if n := len(w.pages); n > 0 {
			i := w.rng.IntN(n)
			w.pages[i].client.Close()
			w.pages = append(w.pages[:i], w.pages[i+1:]...)
		}
	case 2:
		for _, l := range w.pages {
			l.client.Close()
		}
		w.pages = nil
	}
	for _, l := range w.pages {
		switch w.rng.IntN(8) {
		case 0:
			l.client.NeedKey()
		case 1:
			if w.rng.IntN(4) == 0 {
				l.client.Frame() // lost on the way
			}
		case 2, 3:
			l.box = w.box()
			l.looks = true
			if !l.client.SetView(l.box, 12) {
				panic(fmt.Sprint("refused: ", l.box))
			}
		}
	}
}

func (w *world) box() Box {
	switch w.rng.IntN(4) {
	case 0:
		return Box{-180, -90, 180, 90}
	case 1:
		return Box{-0.5, -0.5, 0.5, 0.5}
	case 2:
		return Box{170 * w.rng.Float64(), -90 * w.rng.Float64(), -170 * w.rng.Float64(), 90 * w.rng.Float64()}
	}
	lat, lon := (w.rng.Float64()-0.5)*4, (w.rng.Float64()-0.5)*4
	return Box{lon - w.rng.Float64(), lat - w.rng.Float64(), lon + w.rng.Float64(), lat + w.rng.Float64()}
}

// frame has a page take its frame, and compares what it then shows with what was told.
func (w *world) frame(l *looker) error {
	frame, ok := l.client.Frame()
	if !ok {
		if l.looks {
			return fmt.Errorf("no frame")
		}
		return nil
	}
	if _, twice := l.client.Frame(); twice {
		return fmt.Errorf("two frames of one tick")
	}
	if err := l.page.apply(frame, func(slot uint32) string { return w.v.slots[slot].id }); err != nil {
		return err
	}
	if l.page.gap {
		l.client.NeedKey()
		return nil
	}
	want := 0
	for _, e := range w.v.ids {
		if e.drawn.cell == nil || !inCells(l.box, e.lat, e.lon, e.drawn) {
			continue
		}
		want++
		s := l.page.slots[e.slot]
		if s == nil {
			return fmt.Errorf("%s, slot %d, is missing", e.id, e.slot)
		}
		if s.cell != e.drawn.cell.id || s.lat != e.drawn.lat || s.lon != e.drawn.lon || s.state != e.drawn.state || s.name != e.id {
			return fmt.Errorf("%s, slot %d, is shown as %+v, but told was %+v", e.id, e.slot, *s, e.drawn)
		}
	}
	if len(l.page.slots) != want {
		return fmt.Errorf("%d devices are shown, not %d", len(l.page.slots), want)
	}
	return nil
}

// inCells tells whether what was told of a device is in the cells that a box touches, found another way than Box.cells.
func inCells(b Box, _, _ int32, d drawn) bool {
	x, y := float64(d.cell.id%512), float64(d.cell.id/512)
	west, east := x/512*360-180, (x+1)/512*360-180
	lat := func(y float64) float64 { return 180 / math.Pi * math.Atan(math.Sinh(math.Pi*(1-2*y/512))) }
	north, south := lat(y), lat(y+1)
	if y == 0 {
		north = 90
	}
	if y == 511 {
		south = -90
	}
	if b.South > north || b.North < south {
		return false
	}
	if b.West > b.East {
		return b.West < east || b.East >= west || b.West == 180 && east == 180
	}
	return b.West < east && b.East >= west || b.West == 180 && east == 180
}

// board compares what was told with the truth: every device within a metre, in its state, in its cell.
func (w *world) board() error {
	if len(w.pages) == 0 {
		if len(w.v.board.cells) > 0 {
			return fmt.Errorf("%d cells are kept for nobody", len(w.v.board.cells))
		}
		return nil
	}
	rows := 0
	for id, e := range w.v.ids {
		d, told := w.truth[id], e.drawn
		if !d.positioned {
			if told.cell != nil {
				return fmt.Errorf("%s is told without a position", id)
			}
			continue
		}
		rows++
		if told.cell == nil || told.cell.entries[told.at] != e {
			return fmt.Errorf("%s is not told", id)
		}
		if far := metres(d.lat, d.lon, float64(told.lat)/1e6, float64(told.lon)/1e6); far > 1.2 {
			return fmt.Errorf("%s is told %v m from where it is", id, far)
		}
		if told.cell.id != cellAt(told.lat, told.lon) {
			return fmt.Errorf("%s is told in cell %d", id, told.cell.id)
		}
		state := byte(min(d.source, 15))
		if d.heading < 0 {
			state |= 0x10
		}
		if w.now.Sub(d.seen) > time.Minute {
			state |= 0x20
		}
		if told.state != state {
			return fmt.Errorf("%s is told as %x, but it is %x", id, told.state, state)
		}
	}
	for _, c := range w.v.board.cells {
		rows -= len(c.entries)
	}
	if rows != 0 {
		return fmt.Errorf("%d rows of nobody", -rows)
	}
	if n := len(w.v.slots); n > 30+1000 {
		return fmt.Errorf("%d slots", n)
	}
	return nil
}

func metres(lat, lon, lat2, lon2 float64) float64 {
	rad := math.Pi / 180
	a := math.Pow(math.Sin((lat2-lat)*rad/2), 2) + math.Cos(lat*rad)*math.Cos(lat2*rad)*math.Pow(math.Sin((lon2-lon)*rad/2), 2)
	return 2 * 6_371_009 * math.Asin(math.Sqrt(a))
}

// A page that takes the frames shows what the view knows, whatever comes, goes, is missed or looked at.
func TestFramesAreExact(t *testing.T) {
	for seed := range uint64(tier.N(200)) {
		seed += tier.Seed()
		if err := newWorld(seed).life(300); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
