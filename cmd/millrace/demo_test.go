package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// TestDemo runs the demo twice: it finds free ports, its vehicles move, it ends quickly, and the second one goes on where the first
// one ended.
func TestDemo(t *testing.T) {
	for _, port := range []string{"1883", "9092", "8080"} { // the usual ports are taken: it finds others
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			defer l.Close()
		}
	}
	data := filepath.Join(t.TempDir(), "data")
	first := demoRun(t, data)
	second := demoRun(t, data)
	went := 0
	for id, end := range first {
		begin, ok := second[id]
		// What was sent between this test's end of listening and the demo's end, and before it listened again, it did not hear.
		if !ok || begin.first.Seq <= end.last.Seq || begin.first.Seq > end.last.Seq+100 {
			t.Errorf("%s: %d to %d, then from %d", id, end.first.Seq, end.last.Seq, begin.first.Seq)
		}
		if strings.HasPrefix(id, "van-") {
			if away := metres(end.last, begin.first); away > 1500 || begin.first.Odometer < end.last.Odometer {
				t.Errorf("%s: %.0f m away, odometer %v, then %v", id, away, end.last.Odometer, begin.first.Odometer)
			}
		}
		if metres(end.first, end.last) > 5 {
			went++
		}
	}
	if len(first) < 20 || went < 10 {
		t.Errorf("%d devices, %d went anywhere", len(first), went)
	}

	fresh := start(t, nil, "demo", "--data", data, "--fresh", "--vehicles", "5")
	fresh.until(`Ctrl-C ends it`)
	if strings.Contains(fresh.out.String(), "goes on where") {
		t.Error("--fresh goes on")
	}
	fresh.cancel()
	if code := fresh.wait(); code != exitOK {
		t.Errorf("demo --fresh ended with %d", code)
	}
}

// heard is what one device said.
type heard struct{ first, last said }

type said struct {
	Seq                uint64
	Lat, Lon, Odometer float64
}

func metres(a, b said) float64 {
	return 111_195 * math.Hypot(a.Lat-b.Lat, (a.Lon-b.Lon)*math.Cos(a.Lat*math.Pi/180))
}

// demoRun runs a demo at ten times real time, until every vehicle has said something a few times.
func demoRun(t *testing.T, data string) map[string]heard {
	c := start(t, nil, "demo", "--data", data, "--vehicles", "20", "--speed", "10")
	c.until(`Ctrl-C ends it`)
	for _, want := range []string{"mosquitto_sub -h 127.0.0.1 -p", "kcat -b 127.0.0.1:", "mosquitto_pub -h", "CC BY 4.0", "OpenStreetMap contributors"} {
		c.until(regexp.QuoteMeta(want))
	}
	address := c.until(`MQTT +(127\.0\.0\.1:\d+)`)[1]

	var mu sync.Mutex
	by := map[string]heard{}
	client := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(address), Connect: packet.Connect{ClientID: "test", CleanStart: true}, OnMessage: func(p *packet.Publish) {
		s, ok := sim.ReadStamp(p)
		if !ok {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		now := said{Seq: s.Sequence}
		if strings.HasPrefix(s.Device, "van-") {
			if err := json.Unmarshal(p.Payload, &now); err != nil || now.Lat == 0 {
				t.Errorf("%s: %v", p.Payload, err)
			}
		}
		h, ok := by[s.Device]
		if !ok {
			h.first = now
		} else if now.Seq != h.last.Seq+1 {
			t.Errorf("%s: %d after %d", s.Device, now.Seq, h.last.Seq)
		}
		h.last = now
		by[s.Device] = h
	}})
	if _, err := client.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe(t.Context(), packet.Filter{Filter: "city/#", QoS: 1}, packet.Filter{Filter: "/hfp/#", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, h := range by {
			if h.last.Seq < h.first.Seq+20 {
				return false
			}
		}
		return len(by) == 27
	}
	for deadline := time.Now().Add(60 * time.Second); !enough(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d devices are heard", len(by))
		}
	}
	client.Disconnect(packet.Success)
	began := time.Now()
	c.cancel()
	if code := c.wait(); code != exitOK {
		t.Errorf("the demo ended with %d", code)
	}
	if took := time.Since(began); took > 10*time.Second { // 5 s on a machine that has nothing else to do
		t.Errorf("the end took %v", took)
	}
	mu.Lock()
	defer mu.Unlock()
	return by
}

// TestDemoFolder: only what a demo has left is ever deleted, and nothing of a demo that runs.
func TestDemoFolder(t *testing.T) {
	mine := t.TempDir()
	readme := filepath.Join(mine, demoNote)
	if err := os.WriteFile(readme, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, fresh := range []bool{false, true} {
		if err := (&demoFlags{data: mine, fresh: fresh}).folder(); err == nil {
			t.Errorf("fresh %v: any folder is taken", fresh)
		}
	}
	if b, err := os.ReadFile(readme); err != nil || string(b) != "mine" {
		t.Fatalf("somebody's file is now %q, %v", b, err)
	}

	theirs := &demoFlags{data: filepath.Join(t.TempDir(), "a", "b"), fresh: true}
	keep, old := filepath.Join(theirs.data, "keep"), filepath.Join(theirs.log(), "old")
	for range 2 { // not there, and there
		if err := theirs.folder(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(old); !os.IsNotExist(err) {
			t.Errorf("what was there still is: %v", err)
		}
		if err := os.MkdirAll(theirs.log(), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{keep, old} {
			if err := os.WriteFile(f, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	fsys, err := vfs.OS(theirs.log())
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := fsys.Lock(engine.LockName)
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.folder(); err == nil || !strings.Contains(err.Error(), "stop that one") {
		t.Errorf("a demo is running there, and: %v", err)
	}
	for _, f := range []string{keep, old} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := theirs.folder(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

// TestSimFleets plays vans and a file against a node, with ledger and watcher, twice: the second run goes on.
func TestSimFleets(t *testing.T) {
	_, address := serveNode(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	csv := "car,when,lat,lon\n"
	for i := range 30 {
		csv += fmt.Sprintf("c%d,%d,52.%d,4.9\n", i%3, 1_700_000_000+i, 3000+i)
	}
	file := filepath.Join(dir, "tracks.csv")
	if err := os.WriteFile(file, []byte(csv), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"vans": {"--vehicles", "10", "--speed", "20", "--duration", "1s"},
		"file": {"--csv", file, "--columns", "vehicle=car,time=when", "--speed", "20", "--loop", "--duration", "1500ms"},
	} {
		ledger := filepath.Join(dir, name)
		for round, sent := 0, uint64(0); round < 2; round++ {
			c := start(t, nil, append([]string{"sim", "--broker", address, "--ledger", ledger, "--watch", "-o", "json"}, args...)...)
			if code := c.wait(); code != exitOK {
				t.Fatalf("%s: exit code %d", name, code)
			}
			var r fleetResult
			if err := json.Unmarshal([]byte(c.out.String()), &r); err != nil {
				t.Fatal(err)
			}
			sent += r.Sent
			if r.Sent == 0 || r.Acked != r.Sent || r.Ledger.Sent != int(r.Sent) || r.Ledger.Received != int(sent) || r.Ledger.Missing != 0 {
				t.Errorf("%s: %+v %+v", name, r, r.Ledger)
			}
			f, err := os.Open(ledger)
			if err != nil {
				t.Fatal(err)
			}
			l, err := sim.ReadLedger(ledgerFile{f})
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			n := uint64(0)
			for e := range l.Entries {
				n++
				if !e.Acked {
					t.Errorf("%s %d is not acknowledged", e.Device, e.Sequence)
				}
			}
			if n != sent {
				t.Errorf("%s: %d in the ledger, %d sent", name, n, sent)
			}
		}
	}
	if f := filterOf("x/{a}/{b}c/d", ""); f != "x/+/+/d" {
		t.Error(f)
	}
}

// Ctrl-C in the middle of a run is no loss: the watcher still gets what was acknowledged.
func TestSimStopped(t *testing.T) {
	_, address := serveNode(t, filepath.Join(t.TempDir(), "data"))
	c := start(t, nil, "sim", "load", "--broker", address, "--clients", "5", "--watch")
	c.until(`5/5 connected`)
	c.cancel()
	if code := c.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if c.until(`acked (\d+)`)[1] == "0" {
		t.Error("nothing was acknowledged")
	}
}

// What is missing at the watcher is the exit code's business, not only the text's.
func TestSimSaysWhatIsMissing(t *testing.T) {
	l := sim.NewLedger()
	r := l.Reader("r", "#", 1)
	l.Acked(l.Sent("d", 1, &packet.Publish{QoS: 1, Topic: []byte("a")}), packet.Success)
	report := r.Report()
	var out buffer
	err := (&simFlags{output: "text"}).finish(env{Out: &out}, sim.FleetStats{}, &report, nil)
	if done, ok := err.(failure); !ok || !strings.Contains(done.Error(), "missing 1") || !strings.Contains(out.String(), `missing: "d" 1 on "a"`) {
		t.Errorf("%v; %s", err, &out)
	}
}
