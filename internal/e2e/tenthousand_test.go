package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/browser"
	"github.com/millrace-io/millrace/internal/tier"
)

const vansRoute = `
routes:
  - {mqtt: "city/{vehicle}/position", topic: vehicles, key: "{vehicle}", kind: simulated, label: Amsterdam, compression: zstd}
`

// TestBrowserTenThousand is the real program with 10,000 vehicles that send once a second, and a page that looks on for ten minutes (1,000 and
// ten seconds in the quick tier): what the page costs the server, that the page keeps up, that its memory stays, and that at the end everything adds up.
func TestBrowserTenThousand(t *testing.T) {
	vehicles, lasts := 1000, 10*time.Second
	if tier.Soak() {
		vehicles, lasts = 10_000, 10*time.Minute
	}
	n := newNode(t, vansRoute)
	n.start()
	p := browser.Open(t, 1280, 800)
	fleet := exec.CommandContext(t.Context(), n.bin, "sim", "--broker", n.mqtt, "--vehicles", strconv.Itoa(vehicles), "-o", "json")
	fleet.Cancel = func() error { return fleet.Process.Signal(os.Interrupt) }
	if err := fleet.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fleet.Wait() }()
	eventually(t, "all vehicles are there", func() bool { return n.metric("millrace_fleet_devices_positioned") >= float64(vehicles) })
	rest := min(lasts/5, 30*time.Second)
	alone := n.cpu(t, rest)

	p.Goto("http://" + n.http + "/map?at=52.36,4.91,11.5")
	p.Wait(fmt.Sprintf("window.__fleet && __fleet.devices >= %d && __fleet.drawn > %d", vehicles, vehicles/4))
	p.Wait("(window.__began ??= __fleet.lastSeq, __fleet.lastSeq > __began + 4)") // settle
	heap := func() float64 {
		return browser.Eval[float64](p, "(gc(), gc(), performance.memory.usedJSHeapSize)") / 1e6
	}
	before := heap()
	first, bytes, sent := browser.Eval[int](p, "__fleet.lastSeq"), browser.Eval[float64](p, "__fleet.bytes"), n.metric("millrace_console_bytes_total")
	start := time.Now()
	watched := n.cpu(t, rest)
	time.Sleep(lasts - rest) // what is measured
	took := time.Since(start).Seconds()
	frames := browser.Eval[int](p, "__fleet.lastSeq") - first
	bytes, sent = (browser.Eval[float64](p, "__fleet.bytes")-bytes)/took, (n.metric("millrace_console_bytes_total")-sent)/took
	after := heap()
	lost := browser.Eval[int](p, "__fleet.dropped + __fleet.broken + __fleet.orphans")
	coalesced := n.metric("millrace_console_frames_coalesced_total")
	t.Logf("%d vehicles, %.0f s: %d frames, %d lost, %.0f coalesced; %.0f KB/s to the page (%.0f read); the server used %.2f of a core without the page, %.2f with it; drawn %d; heap %.1f MB, then %.1f MB",
		vehicles, took, frames, lost, coalesced, sent/1e3, bytes/1e3, alone, watched, browser.Eval[int](p, "__fleet.drawn"), before, after)
	if float64(frames) < took*0.97-2 || lost > 0 {
		t.Errorf("%d frames in %.0f s, %d lost", frames, took, lost)
	}
	if sent > 100_000 {
		t.Errorf("%.0f bytes a second to one page", sent)
	}
	if after > before+4 {
		t.Errorf("the heap grew from %.1f to %.1f MB", before, after)
	}
	if said := p.Problems("GPU stall due to ReadPixels"); len(said) > 0 {
		t.Errorf("the page's console: %s", strings.Join(said, "\n"))
	}

	fleet.Process.Signal(os.Interrupt)
	if err := <-ended; err != nil {
		t.Errorf("the fleet: %v", err)
	}
	out, err := exec.Command(n.bin, "verify", "--http", n.http, "--last", "30m").CombinedOutput()
	t.Logf("%s", tail(string(out), 400))
	if err != nil || !strings.Contains(string(out), "complete: ") {
		t.Errorf("verify: %v", err)
	}
}

// metric is the value of a metric without labels.
func (n *node) metric(name string) float64 {
	n.t.Helper()
	r, err := http.Get("http://" + n.http + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(string(b))
	if m == nil {
		n.t.Fatalf("there is no metric %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

// cpu is how much of a core the node uses over a time.
func (n *node) cpu(t *testing.T, over time.Duration) float64 {
	t.Helper()
	before, start := n.metric("process_cpu_seconds_total"), time.Now()
	time.Sleep(over) // what is measured
	return (n.metric("process_cpu_seconds_total") - before) / time.Since(start).Seconds()
}
