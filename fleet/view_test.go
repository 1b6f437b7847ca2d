package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

var epoch = time.UnixMilli(1_760_000_000_000)

// newView has one source; a message's key is its topic.
func newView(t testing.TB, o Options) *View {
	t.Helper()
	if o.Sources == nil {
		o.Sources = []Source{{Name: "positions"}}
	}
	o.Place = func(topic, _ string) (int, string, bool) { return 0, topic, topic != "nowhere" }
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// said is a message of a device, received at a time and sent some time before.
func said(device string, received time.Time, way time.Duration, seq int, payload string) session.Message {
	m := session.Message{Topic: device, Client: "c", Payload: []byte(payload), Time: received.UnixMilli(), Props: &session.Props{}}
	if way != 0 {
		m.Props.User = append(m.Props.User, packet.UserProperty{Name: "sim-time", Value: fmt.Sprint(received.Add(-way).UnixMicro())})
	}
	if seq > 0 {
		m.Props.User = append(m.Props.User, packet.UserProperty{Name: "sim-seq", Value: fmt.Sprint(seq)})
	}
	return m
}

func (v *View) add(now time.Time, ms ...session.Message) { v.Add(now, &session.Batch{Msgs: ms}) }

func at(lat, lon float64) string { return fmt.Sprintf(`{"lat":%v,"lon":%v}`, lat, lon) }

func TestDevice(t *testing.T) {
	v := newView(t, Options{})
	v.add(epoch, said("Bus 1", epoch, 40*time.Millisecond, 1, `{"lat":60.1,"lon":24.9,"spd":3.5,"hdg":90}`))
	v.add(epoch, said("Bus 1", epoch.Add(time.Second), 30*time.Millisecond, 2, `{"lat":60.2,"lon":24.9,"spd":4.5,"hdg":91}`))
	v.add(epoch, said("Bus 1", epoch.Add(2*time.Second), 30*time.Millisecond, 3, `{"lat":null,"lon":null}`))
	d, ok := v.Device("Bus 1")
	if !ok || !d.HasPosition || d.Lat != 60.2 || d.Lon != 24.9 || d.Speed != 4.5 || d.Heading != 91 || d.Messages != 3 || d.Sequence != 3 ||
		!d.Seen.Equal(epoch.Add(2*time.Second)) || !d.Sent.Equal(epoch.Add(1970*time.Millisecond)) || d.Latency != 30*time.Millisecond || d.Skewed || d.Topic != "Bus 1" {
		t.Errorf("%+v", d)
	}
	if len(d.Track) != 2 || d.Track[0] != (Fix{epoch, 60.1, 24.9}) || d.Track[1] != (Fix{epoch.Add(time.Second), 60.2, 24.9}) {
		t.Errorf("track %v", d.Track)
	}
	v.add(epoch, said("Bus 1", epoch.Add(3*time.Second), 3040*time.Millisecond, 1, at(1, 1))) // an old one again
	if d, _ := v.Device("Bus 1"); d.Lat != 60.2 || d.Sequence != 3 || !d.Seen.Equal(epoch.Add(3*time.Second)) || d.Repeated != 1 {
		t.Errorf("after a repetition: %+v", d)
	}
	if _, ok := v.Device("bus 1"); ok {
		t.Error("a device that is none")
	}
}

// A position that comes too late to count does not count.
func TestLatePositions(t *testing.T) {
	v := newView(t, Options{})
	v.add(epoch, said("a", epoch, 0, 5, ""), said("a", epoch, 0, 4, at(1, 1)))
	if d, _ := v.Device("a"); d.HasPosition || v.Totals().Positions != 0 {
		t.Errorf("%+v %+v", d, v.Totals())
	}
}

func TestTotalsAddUp(t *testing.T) {
	v := newView(t, Options{Sources: []Source{{}}, Ends: session.Vector{{}: 2}, MaxDevices: 4})
	ms := []session.Message{
		said("a", epoch, 0, 0, at(1, 1)), said("b", epoch, 0, 0, at(0, 0)), said("b", epoch, 0, 0, `{"lat":null}`),
		said("nowhere", epoch, 0, 0, at(1, 1)), said("", epoch, 0, 0, at(1, 1)), said("c", epoch.Add(-2*time.Minute), 0, 0, "x"),
		{Topic: "a"}, {Topic: "a", Client: "c", Will: 1},
	}
	for i := range ms {
		ms[i].Offset = int64(i)
	}
	v.add(epoch, ms...)
	v.Tick(epoch)
	got := v.Totals()
	if got.Records != 8 || got.History != 2 || got.Messages != 4 || got.Foreign != 2 || got.Unplaced != 1 || got.Devices != 3 || got.Positions != 1 || got.Stale != 1 ||
		got.Refused["zero"] != 1 || got.Refused["null"] != 1 || got.Refused["device_name"] != 1 || got.Refused["out_of_range"] != 0 {
		t.Errorf("%+v", got)
	}
	if got.Records != got.Messages+got.Foreign+got.Unplaced+got.Shed+got.Refused["device_name"]+got.Refused["too_many_devices"] {
		t.Errorf("it does not add up: %+v", got)
	}
}

func TestTheLeastRecentlyHeardAreForgotten(t *testing.T) {
	v := newView(t, Options{MaxDevices: 2000})
	for i := range 2000 {
		v.add(epoch, said(fmt.Sprint("old-", i), epoch, 0, 0, at(1, 1)))
	}
	v.add(epoch, said("old-0", epoch, 0, 0, at(1, 1)))
	v.add(epoch, said("new", epoch, 0, 0, at(1, 1)))
	if _, ok := v.Device("old-0"); !ok {
		t.Error("the one heard last is forgotten")
	}
	if _, ok := v.Device("old-1"); ok {
		t.Error("the one not heard for longest is kept")
	}
	for i := range 5000 { // a flood, within one tick
		v.add(epoch, said(fmt.Sprint("flood-", i), epoch, 0, 0, at(1, 1)))
	}
	got := v.Totals()
	if got.Devices != 2000 || got.Positions != 2000 || got.Forgotten != 1000 || got.Refused["too_many_devices"] != 4001 || len(v.slots) != 3000 {
		t.Errorf("%+v, %d slots", got, len(v.slots))
	}
	v.Tick(epoch)
	v.add(epoch, said("after", epoch, 0, 0, at(1, 1)))
	if d, ok := v.Device("after"); !ok || len(v.slots) != 3000 || d.Slot >= 3000 {
		t.Errorf("%+v, %d slots", d, len(v.slots))
	}
}

func TestSequences(t *testing.T) {
	type step struct {
		n    uint64
		sent int64
	}
	runs := func(ns ...uint64) (ss []step) {
		for i, n := range ns {
			ss = append(ss, step{n, int64(i)})
		}
		return ss
	}
	for name, c := range map[string]struct {
		steps []step
		want  Sequences
	}{
		"in order":               {runs(1, 2, 3, 4), Sequences{}},
		"begins anywhere":        {runs(900, 901), Sequences{}},
		"a hole":                 {runs(1, 2, 5), Sequences{Missing: 2}},
		"two swapped":            {runs(1, 3, 2, 4), Sequences{Reordered: 1}},
		"before the first":       {runs(10, 9, 11), Sequences{Reordered: 1}},
		"a resend":               {[]step{{1, 5}, {2, 6}, {1, 5}, {2, 6}, {3, 7}}, Sequences{Repeated: 2}},
		"a resend without times": {[]step{{1, 0}, {2, 0}, {1, 0}, {3, 0}}, Sequences{Repeated: 1}},
		"began anew, young":      {runs(1, 2, 3, 1, 2, 3), Sequences{Restarted: 1}},
		"began anew, old":        {runs(4000, 4001, 1, 2), Sequences{Restarted: 1}},
		"another count":          {runs(1, 2_000_000, 2_000_001), Sequences{Restarted: 1}},
		"a hole, then all of it": {append(runs(1, 300, 100, 200), step{300, 1}, step{100, 2}), Sequences{Missing: 296, Reordered: 2, Repeated: 2}},
		"a long hole":            {runs(1, 1000, 999, 998), Sequences{Missing: 996, Reordered: 2}},
		"the largest":            {runs(1<<64-2, 1<<64-1, 1<<64-1), Sequences{Restarted: 1}},
	} {
		var s Sequences
		var k counter
		for _, st := range c.steps {
			k.next(st.n, st.sent, &s)
		}
		if s != c.want {
			t.Errorf("%s: %+v, want %+v", name, s, c.want)
		}
	}
}

// Within the window, the counter is exact.
func TestSequencesAgainstASet(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var s, want Sequences
		var k counter
		seen, top := map[uint64]bool{500: true}, uint64(500)
		k.next(500, 0, &s)
		for range 2000 {
			n := top + 1 + rng.Uint64N(3)
			if rng.IntN(3) == 0 {
				n = max(501, top-rng.Uint64N(250))
			}
			k.next(n, 0, &s)
			switch {
			case seen[n]:
				want.Repeated++
			case n < top:
				want.Reordered++
			}
			seen[n], top = true, max(top, n)
		}
		want.Missing = top - 500 + 1 - uint64(len(seen))
		if s != want {
			t.Fatalf("seed %d: %+v, want %+v", seed, s, want)
		}
	}
}

func TestGapsAreNotTheDevices(t *testing.T) {
	v := newView(t, Options{})
	v.add(epoch, said("a", epoch, 0, 1, ""), said("b", epoch, 0, 1, ""))
	v.Gap()
	v.add(epoch, said("a", epoch, 0, 50, ""), said("a", epoch, 0, 52, ""))
	if got := v.Totals(); got.Missing != 1 || got.Gaps != 1 {
		t.Errorf("%+v", got)
	}
}

// A flood of messages is not looked at as a whole, which is no fault of the devices.
func TestFloodsAreShed(t *testing.T) {
	v := newView(t, Options{})
	big := "x" + strings.Repeat(" ", 70_000)
	n, taken := 0, uint64(0)
	each := uint64(maxCost / (maxText + messageCost)) // can be afforded
	for tick := range 6 {
		for i := range 3000 {
			n++
			m := said(fmt.Sprint("dev-", i%10), epoch, 0, n/10+1, big) // always in the same order
			m.Offset = int64(n)
			v.add(epoch, m)
		}
		v.Tick(epoch)
		got := v.Totals()
		if d := got.Messages - taken; d > each+1 || d < each*8/10 {
			t.Errorf("tick %d: %d messages were taken, of 3000, and %d can be", tick, d, each)
		}
		taken = got.Messages
		if got.Records != uint64(n) || got.Shed != got.Records-taken || got.Missing != 0 {
			t.Errorf("%+v", got)
		}
	}
	for d := range 10 {
		if d, _ := v.Device(fmt.Sprint("dev-", d)); d.Messages < taken/20 {
			t.Errorf("%s was taken %d times, of %d in all", d.ID, d.Messages, taken)
		}
	}
	v.Tick(epoch)
	v.add(epoch, said("a", epoch, 0, 1, ""))
	if _, ok := v.Device("a"); !ok {
		t.Error("after the flood, nobody is heard")
	}
}

func TestClockSkew(t *testing.T) {
	v := newView(t, Options{})
	now := epoch
	play := func(device string, n int, way func(i int) time.Duration) {
		for i := range n {
			now = now.Add(time.Second)
			v.add(now, said(device, now, way(i), 0, ""))
		}
	}
	jitter := func(base time.Duration) func(int) time.Duration {
		return func(i int) time.Duration { return base + time.Duration(1+i*7%20)*time.Millisecond }
	}
	play("good", 30, jitter(0))
	play("ahead", 30, jitter(-time.Hour))
	play("behind", 30, jitter(3*365*24*time.Hour))
	for device, want := range map[string]time.Duration{"good": 0, "ahead": time.Hour, "behind": -3 * 365 * 24 * time.Hour} {
		d, _ := v.Device(device)
		if far := d.Skew - want; d.Skewed != (want != 0) || max(far, -far) > 20*time.Millisecond || d.Latency < 0 || d.Latency > 25*time.Millisecond {
			t.Errorf("%s: %+v", device, d.Device)
		}
	}
	if s := v.Skews(); s.Devices != 2 || s.Most < 3*364*24*time.Hour || s.Median < time.Hour-time.Minute || v.Totals().Skewed != 2 {
		t.Errorf("%+v", s)
	}
	h := v.Stages()[stageReceive].Histogram
	if h.Count() != 30+21+21 || h.Quantile(1) > 30*time.Millisecond {
		t.Errorf("skew is mixed into latency: %v", h)
	}
	play("good", 1, func(int) time.Duration { return 40 * time.Minute }) // what it kept while it was away is late
	if d, _ := v.Device("good"); d.Skewed || d.Latency != 40*time.Minute {
		t.Errorf("late: %+v", d.Device)
	}
	play("ahead", 700, jitter(0)) // the clock was set
	if d, _ := v.Device("ahead"); d.Skewed || v.Totals().Skewed != 1 {
		t.Errorf("set: %+v", d.Device)
	}
	now = now.Add(2 * time.Hour) // away for hours, then everything at once
	play("good", 100, func(i int) time.Duration { return 2*time.Hour - time.Duration(i)*time.Minute })
	if d, _ := v.Device("good"); d.Skewed {
		t.Errorf("back: %+v", d.Device)
	}
}

func TestHistoryHasNoLatency(t *testing.T) {
	v := newView(t, Options{Ends: session.Vector{{}: 1}})
	a, b := said("a", epoch, time.Second, 0, ""), said("a", epoch, time.Second, 0, "")
	b.Offset = 1
	v.add(epoch, a, b)
	for _, s := range v.Stages()[:2] {
		if s.Histogram.Count() != 1 {
			t.Errorf("%s: %v", s.Name, s.Histogram)
		}
	}
}

func TestStages(t *testing.T) {
	v := newView(t, Options{})
	c := v.NewClient()
	c.SetView(Box{-180, -90, 180, 90}, 2)
	v.Tick(epoch)
	c.Frame()
	m := said("a", epoch.Add(10*time.Millisecond), 10*time.Millisecond, 0, at(1, 1))
	v.add(epoch.Add(15*time.Millisecond), m)
	v.Tick(epoch.Add(500 * time.Millisecond))
	frame, _ := c.Frame()
	var p page
	p.apply(frame, func(uint32) string { return "a" })
	if p.tick != float64(epoch.UnixMilli()+500) || p.received != float64(epoch.UnixMilli()+10) || p.sent != float64(epoch.UnixMilli()) || p.seq != 2 {
		t.Errorf("the frame's times: %+v", p)
	}
	for _, no := range []struct {
		seq uint32
		at  time.Duration
	}{{3, 0}, {0, 0}, {2, -time.Hour}, {2, time.Hour}, {66, 0}} {
		if c.Seen(no.seq, epoch.Add(500*time.Millisecond+no.at)) {
			t.Errorf("seen: %v", no)
		}
	}
	if !c.Seen(2, epoch.Add(530*time.Millisecond)) || c.Seen(2, epoch.Add(530*time.Millisecond)) {
		t.Error("a frame is seen once")
	}
	for i, ms := range []int{10, 15, 500, 530} {
		h, want := v.Stages()[i].Histogram, time.Duration(ms)*time.Millisecond
		if far := h.Quantile(0.5) - want; h.Count() != 1 || max(far, -far) > want/50 {
			t.Errorf("%s: %v, want %v", v.Stages()[i].Name, h, want)
		}
	}
}

func TestTracksAreBounded(t *testing.T) {
	v := newView(t, Options{MaxTracks: 3})
	for i := range 500 {
		now := epoch.Add(time.Duration(i) * time.Second)
		for d := range 5 {
			v.add(now, said(fmt.Sprint(d), now, 0, 0, at(1, 1+float64(i)/1e4)))
		}
		v.add(now.Add(time.Millisecond), said("0", now.Add(time.Millisecond), 0, 0, at(1, 50))) // too soon after
	}
	d, _ := v.Device("0")
	if len(d.Track) != maxFixes || !slices.IsSortedFunc(d.Track, func(a, b Fix) int { return a.At.Compare(b.At) }) || d.Track[maxFixes-1].Lon != 1.0499 {
		t.Errorf("%d fixes: %v", len(d.Track), d.Track)
	}
	if d, _ := v.Device("4"); len(d.Track) != 0 || v.tracks != 3 {
		t.Errorf("%d fixes, %d tracks", len(d.Track), v.tracks)
	}
	v.add(epoch.Add(600*time.Second), said("4", epoch.Add(600*time.Second), 0, 0, at(2, 2)))
	if d, _ := v.Device("4"); len(d.Track) != 1 || v.tracks != 3 {
		t.Errorf("who is asked for has no track: %v", d.Track)
	}
	v.Tick(epoch.Add(time.Hour))
	n := 0
	for _, e := range v.ids {
		if e.track != nil {
			n++
		}
	}
	if n != v.tracks {
		t.Errorf("%d tracks, counted as %d", n, v.tracks)
	}
}

func TestQueries(t *testing.T) {
	v := newView(t, Options{})
	for i := range 250 {
		now := epoch.Add(time.Duration(i*7%250) * time.Second)
		v.add(now, said(fmt.Sprintf("Bus-%03d", i), now, 0, 0, at(float64(i)/10, 179.95)))
	}
	v.add(epoch, said("dark", epoch, 0, 0, "no position"))
	walk := func(q Query) (ds []Device) {
		t.Helper()
		for pages := 0; ; pages++ {
			p, err := v.Devices(q)
			if err != nil || pages > 30 {
				t.Fatal(pages, err)
			}
			ds = append(ds, p.Devices...)
			if p.Next == "" {
				if p.Total != len(ds) {
					t.Errorf("%+v: %d in all, %d given", q, p.Total, len(ds))
				}
				return ds
			}
			if len(p.Devices) != q.Limit {
				t.Fatalf("%d on a page of %d", len(p.Devices), q.Limit)
			}
			q.Cursor = p.Next
		}
	}
	byID := walk(Query{Limit: 10})
	if len(byID) != 251 || !slices.IsSortedFunc(byID, func(a, b Device) int { return strings.Compare(a.ID, b.ID) }) {
		t.Errorf("%d by id", len(byID))
	}
	bySeen := walk(Query{Limit: 17, Sort: BySeen})
	if len(bySeen) != 251 || !slices.IsSortedFunc(bySeen, func(a, b Device) int { return b.Seen.Compare(a.Seen) }) {
		t.Errorf("%d by time", len(bySeen))
	}
	if ds := walk(Query{Text: "bUs-01", Limit: 100}); len(ds) != 10 {
		t.Errorf("%d with the text", len(ds))
	}
	if ds := walk(Query{Box: &Box{179, 5, -179, 10}, Limit: 100}); len(ds) != 51 {
		t.Errorf("%d in the box", len(ds))
	}
	if ds := walk(Query{Slots: []uint32{3, 7, 7, 1 << 31, 250}, Limit: 100}); len(ds) != 3 || ds[0].Slot != 3 {
		t.Errorf("of the slots: %v", ds)
	}
	if ds := walk(Query{Slots: []uint32{}, Limit: 100}); len(ds) != 0 {
		t.Errorf("of no slots: %v", ds)
	}
	p, _ := v.Devices(Query{Limit: 1})
	for _, bad := range []string{"%", "AAAA", p.Next + "!", p.Next[:2]} {
		if _, err := v.Devices(Query{Cursor: bad}); !errors.Is(err, ErrCursor) {
			t.Errorf("cursor %q: %v", bad, err)
		}
	}
	if _, err := v.Devices(Query{Cursor: p.Next, Sort: BySeen}); !errors.Is(err, ErrCursor) {
		t.Errorf("a cursor of another order: %v", err)
	}
}

func TestBoxes(t *testing.T) {
	v := newView(t, Options{})
	c := v.NewClient()
	nan := 0.0
	nan /= nan
	for _, b := range []Box{{nan, 0, 1, 1}, {-181, 0, 1, 1}, {0, 2, 1, 1}, {0, -91, 1, 1}, {0, 0, 1, 91}} {
		if c.SetView(b, 3) {
			t.Errorf("%v is taken", b)
		}
	}
	for pos, want := range map[[2]float64]uint32{{0, 0}: 256<<9 | 256, {89.9, -180}: 0, {-89.9, 180}: 511<<9 | 511, {60.17, 24.93}: 148<<9 | 291} {
		if got := cellAt(micro(pos[0]), micro(pos[1])); got != want {
			t.Errorf("%v is in %d/%d", pos, got>>9, got&511)
		}
	}
	round := Box{West: 10.5, South: -1, East: 10.4, North: 1} // nearly all around
	if a := round.cells(); !a.holds(256<<9 | 100) {
		t.Error("a box around the world is empty")
	}
}

// Everything but Add, Gap and Tick may come from anywhere.
func TestConcurrency(t *testing.T) {
	v := newView(t, Options{MaxDevices: 50, MaxTracks: 10})
	stop := make(chan struct{})
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c := v.NewClient()
				c.SetView(Box{-10, -10, 10, 10}, float64(g))
				c.Frame()
				c.NeedKey()
				c.Frame()
				c.Seen(1, epoch)
				v.Device(fmt.Sprint(i % 100))
				v.Devices(Query{Sort: Sort(g % 2), Text: "1"})
				v.Totals()
				v.Skews()
				c.Close()
				c.Close()
			}
		})
	}
	for i := range 300 {
		now := epoch.Add(time.Duration(i) * time.Second)
		for d := range 20 {
			v.add(now, said(fmt.Sprint((i+d*7)%100), now, time.Millisecond, i, at(float64(i%5), float64(d))))
		}
		v.Tick(now)
		if i%50 == 0 {
			v.Gap()
		}
	}
	close(stop)
	all.Wait()
	v.Tick(epoch)
	if got := v.Totals(); got.Clients != 0 || v.board.lit {
		t.Errorf("%+v", got)
	}
}
