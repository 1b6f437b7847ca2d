package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/browser"
)

var screenshots = flag.String("screenshots", "", "folder to write the README's pictures to")

// demo is a running `millrace demo`.
type demo struct {
	bin               string
	http, mqtt, kafka string
}

func startDemo(t *testing.T, args ...string) *demo {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out := &syncBuffer{}
	cmd := exec.Command(bin, append([]string{"demo", "--data", filepath.Join(t.TempDir(), "data")}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			t.Errorf("the demo does not end:\n%s", out)
		}
	})
	d := &demo{bin: bin}
	lines := regexp.MustCompile(`(?m)^\s+Console\s+(http://\S+?)/?\s*\n\s+MQTT\s+(\S+)\s*\n\s+Kafka\s+(\S+)`)
	for deadline := time.Now().Add(browser.Patience); ; {
		if m := lines.FindStringSubmatch(out.String()); m != nil {
			d.http, d.mqtt, d.kafka = m[1], m[2], m[3]
			return d
		}
		select {
		case err := <-ended:
			t.Fatalf("the demo ended: %v\n%s", err, out)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the demo names no addresses:\n%s", out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fix is where a record says that a vehicle was, and when.
type fix struct {
	lat, lon float64
	at       int64 // ms
}

// fixes reads a topic from its start until a record of every one of the vehicles is as new as until, by key.
func (d *demo) fixes(t *testing.T, topic string, until int64) map[string][]fix {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(d.kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), browser.Patience)
	defer cancel()
	read := map[string][]fix{}
	newest := map[int32]int64{}
	done := func() bool {
		for _, at := range newest {
			if at <= until {
				return false
			}
		}
		return len(newest) == 8 // its partitions
	}
	for !done() {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("read %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var p struct{ Lat, Lon float64 }
			if err := json.Unmarshal(r.Value, &p); err != nil {
				t.Fatalf("%s: %v: %s", r.Key, err, r.Value)
			}
			at := r.Timestamp.UnixMilli()
			newest[r.Partition] = max(newest[r.Partition], at)
			read[string(r.Key)] = append(read[string(r.Key)], fix{p.Lat, p.Lon, at})
		})
	}
	return read
}

// metric is the value of a sample of /metrics.
func (d *demo) metric(t *testing.T, name string) float64 {
	t.Helper()
	r, err := http.Get(d.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return f
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}

// snapshot is what the page shows at one instant.
type snapshot struct {
	Tick     float64
	Vehicles map[string]struct{ Lat, Lon, X, Y float64 } // drawn ones, by name
}

const takeSnapshot = `(async () => {
	// Within one turn of the page's loop, so that no frame comes between; the names are asked for afterwards.
	const tick = __fleet.tick, at = new Map();
	for (const s of __fleet.slots) { const p = __fleet.position(s); if (p.x !== null && p.source === 0) at.set(s, p); }
	const vehicles = {}, slots = [...at.keys()].slice(0, 200);
	const page = await (await fetch("/api/v1/devices?limit=200&slots=" + slots)).json();
	for (const d of page.devices) vehicles[d.id] = at.get(d.slot);
	return {tick, vehicles};
})()`

// off is how far a drawn vehicle is from where the log had it at a tick: the nearest of what it had then, of what the tick may not have
// had yet, and of what came just after (a tick and a receive time are of the same clock, not of the same moment).
func off(fixes []fix, tick, lat, lon float64) float64 {
	best := math.Inf(1)
	for i, f := range fixes {
		last := i+1 == len(fixes) || float64(fixes[i+1].at) > tick-500
		if last && float64(f.at) <= tick+100 {
			dy, dx := (f.lat-lat)*111_195, (f.lon-lon)*111_195*math.Cos(lat*math.Pi/180)
			best = min(best, math.Hypot(dx, dy))
		}
	}
	return best
}

// The page of a demo, in a browser: what is drawn is what the log holds, what the strip counts is what /metrics and verify count.
func TestBrowserDemo(t *testing.T) {
	p := browser.Open(t, 1280, 800)
	vehicles := "150" // with the race detector, beside a browser that draws in software
	if *screenshots != "" {
		vehicles = "1000"
	}
	d := startDemo(t, "--vehicles", vehicles)
	p.Dark(false)
	p.Goto(d.http + "/map?interp=off")
	p.Wait("window.__fleet && __fleet.drawn >= 100 && __fleet.settled && __fleet.camera.zoom > 9 && __fleet.pipeline")
	p.Wait("(window.__first ??= __fleet.lastSeq, __fleet.lastSeq > __first + 3)")

	s := browser.Eval[snapshot](p, takeSnapshot)
	log := d.fixes(t, "vehicles", int64(s.Tick)+200)
	compare(t, s, log)

	d.counts(t, p)
	d.verify(t)

	for _, want := range []string{"© OpenStreetMap contributors", "© Helsinki Region Transport"} {
		if credits := browser.Eval[string](p, "document.querySelector('.credits').textContent"); !strings.Contains(credits, want) {
			t.Errorf("the map does not credit %s: %s", want, credits)
		}
	}
	areas := browser.Eval[string](p, "document.querySelector('.areas').textContent")
	if !strings.Contains(areas, "Amsterdam (simulated)") || !strings.Contains(areas, "Helsinki (recorded)") {
		t.Errorf("the map's areas: %s", areas)
	}
	shoot(t, p, "map-light")

	p.Dark(true)
	p.Wait("document.documentElement.dataset.theme === 'dark'")
	shoot(t, p, "map-dark")

	// The recorded buses, by their button.
	p.Do(chromedp.Click(chromedp.CSS(".areas button:nth-child(2)")))
	p.Wait("__fleet.camera.y < 0.3 && __fleet.drawn >= 1")

	// A device, its sequence complete, at phone width.
	p.Resize(360, 740)
	p.Goto(d.http + "/map?interp=off&device=van-0007")
	p.Wait("document.querySelector('.panel dl')?.textContent.includes('complete')")
	p.Wait("__fleet.settled && __fleet.drawn >= 1 && __fleet.camera.zoom > 14")
	if wide := browser.Eval[int](p, "document.documentElement.scrollWidth"); wide > 360 {
		t.Errorf("on a phone the page is %d wide", wide)
	}
	shoot(t, p, "phone")
	p.Resize(1280, 800)
	p.Goto(d.http + "/devices")
	p.Wait("document.querySelectorAll('.grid .all .row').length > 10 && document.querySelectorAll('.stage').length === 5")
	shoot(t, p, "devices")
	if said := p.Problems("GPU stall due to ReadPixels"); len(said) > 0 {
		t.Errorf("the page's console:\n%s", strings.Join(said, "\n"))
	}
}

// compare holds what was drawn against the log; and, so that this can fail, each vehicle against another one's records.
func compare(t *testing.T, s snapshot, log map[string][]fix) {
	t.Helper()
	compared, wrong, swapped := 0, 0, 0
	var other []fix
	for id, at := range s.Vehicles {
		fixes := log[id]
		if len(fixes) == 0 {
			continue
		}
		compared++
		if d := off(fixes, s.Tick, at.Lat, at.Lon); d > 1.5 { // below a metre a page is not told
			wrong++
			t.Errorf("%s is drawn %.1f m from where the log has it", id, d)
		}
		if other != nil && off(other, s.Tick, at.Lat, at.Lon) > 1.5 {
			swapped++
		}
		other = fixes
	}
	t.Logf("%d drawn positions compared with the log, %d differ; of another vehicle's, %d differ", compared, wrong, swapped)
	if compared < 20 || swapped < compared-2 {
		t.Errorf("%d vehicles compared; %d of them differ from another one's place", compared, swapped)
	}
}

// counts holds the strip against /metrics, read before and after it.
func (d *demo) counts(t *testing.T, p *browser.Page) {
	t.Helper()
	names := map[string]string{"devices": `millrace_messages_total{dir="in",qos="1"}`, "broker": `millrace_messages_total{dir="in",qos="1"}`,
		"log": "millrace_routed_total", "console": "millrace_fleet_messages_total"}
	read := func() map[string]float64 {
		m := map[string]float64{}
		for stage, name := range names {
			m[stage] = d.metric(t, name)
		}
		return m
	}
	before := read()
	p.Wait("(window.__strip ??= __fleet.pipeline.now, __fleet.pipeline.now > __strip + 1000)")
	shown := browser.Eval[[]struct {
		Name        string
		Total       float64
		Unaccounted *int64
	}](p, "__fleet.pipeline.stages")
	after := read()
	if len(shown) != 5 {
		t.Fatalf("the strip has %d stages", len(shown))
	}
	for _, s := range shown {
		if s.Unaccounted != nil && *s.Unaccounted != 0 {
			t.Errorf("the strip: %s: %d unaccounted for", s.Name, *s.Unaccounted)
		}
		if names[s.Name] != "" && (s.Total < before[s.Name] || s.Total > after[s.Name] || after[s.Name] == 0) {
			t.Errorf("the strip: %s: %.0f; /metrics said %.0f before and %.0f after", s.Name, s.Total, before[s.Name], after[s.Name])
		}
	}
	if text := browser.Eval[string](p, "document.querySelector('.strip').textContent"); strings.Count(text, "0 unaccounted") != 3 {
		t.Errorf("the strip says: %s", text)
	}
}

// verify holds the log against what the broker counted, as the command does; and its number of records against the strip's. On a busy machine
// a message may be on its way into the log just then, and the command says so; one that is lost stays missing however often it is asked.
func (d *demo) verify(t *testing.T) {
	t.Helper()
	said := ""
	for range 20 {
		if said = d.verified(t); said == "" {
			return
		}
	}
	t.Errorf("verify says otherwise than /metrics, twenty times:\n%s", said)
}

// verified runs the command once. It returns what it said if the counts differ.
func (d *demo) verified(t *testing.T) (said string) {
	t.Helper()
	routed := d.metric(t, "millrace_routed_total")
	var out, errs bytes.Buffer
	cmd := exec.Command(d.bin, "verify", "--http", d.http, "--last", "1h", "-o", "json")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("verify: %v\n%s\n%s", err, &out, &errs)
	}
	var counts struct{ Published, Logged, Found float64 }
	complete := false
	for line := range strings.Lines(out.String()) {
		var row struct {
			Counts  *struct{ Published, Logged, Found float64 }
			Summary *struct{ Complete bool }
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("verify: %v: %s", err, line)
		}
		if c := row.Counts; c != nil {
			counts.Published, counts.Logged, counts.Found = counts.Published+c.Published, counts.Logged+c.Logged, counts.Found+c.Found
		}
		complete = complete || row.Summary != nil && row.Summary.Complete
	}
	now := d.metric(t, "millrace_routed_total")
	t.Logf("verify: published %.0f, logged %.0f, found %.0f; /metrics: %.0f before, %.0f after", counts.Published, counts.Logged, counts.Found, routed, now)
	if !complete {
		t.Errorf("verify finds the log incomplete:\n%s", &out)
	}
	// The window ends with the minute count that is written when it is asked for: between the two readings.
	if counts.Published != counts.Logged || counts.Logged != counts.Found || counts.Logged < routed || counts.Logged > now {
		return out.String()
	}
	return ""
}

// shoot writes a picture for the README, if somebody asked for it.
func shoot(t *testing.T, p *browser.Page, name string) {
	t.Helper()
	if *screenshots == "" {
		return
	}
	p.Wait("!__fleet.camera || __fleet.settled")
	time.Sleep(3 * time.Second) // for the strip's curves, and for a flight to end
	b := small(t, p.Shot())
	if len(b) > 300<<10 {
		t.Errorf("%s.png is %d KB", name, len(b)>>10)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), b, 0o644); err != nil {
		t.Fatal(fmt.Errorf("screenshot: %w", err))
	}
}
