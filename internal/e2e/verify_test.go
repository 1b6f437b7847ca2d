package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
)

// verified is what `millrace verify -o json` says.
type verified struct {
	code   int
	counts map[string]struct{ Published, Logged, Found, Uncounted, Owed, Delivered uint64 } // by topic
	kinds  map[string]uint64
	text   string
}

func verify(t *testing.T, bin string, args ...string) (v verified) {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"verify", "-o", "json"}, args...)...)
	cmd.Env = environ()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		v.code, v.text = exit.ExitCode(), string(exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	v.counts = map[string]struct{ Published, Logged, Found, Uncounted, Owed, Delivered uint64 }{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var row struct {
			Counts *struct {
				Minute                                               int64
				Topic                                                string
				Published, Logged, Found, Uncounted, Owed, Delivered uint64
			}
			Finding *struct{ Severity, Text string }
			Summary *struct {
				Kinds map[string]uint64
				Text  string
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		switch {
		case row.Counts != nil && row.Counts.Minute == 0:
			k := row.Counts
			v.counts[k.Topic] = struct{ Published, Logged, Found, Uncounted, Owed, Delivered uint64 }{k.Published, k.Logged, k.Found, k.Uncounted, k.Owed, k.Delivered}
		case row.Finding != nil:
			v.text += row.Finding.Severity + ": " + row.Finding.Text + "\n"
		case row.Summary != nil:
			v.kinds = row.Summary.Kinds
			v.text += row.Summary.Text
		}
	}
	return v
}

// TestVerifyThroughKillsAndTunnels: vans drive in and out of tunnels while the node is killed again and again. Verify says what the kills
// left uncounted, and that nothing is missing, by counts and by the ledger; afterwards the same of the data at rest.
func TestVerifyThroughKillsAndTunnels(t *testing.T) {
	n := newNode(t, "routes:\n- {mqtt: \"city/{van}/position\", topic: vans, key: \"{van}\", compression: zstd}\n")
	n.start()
	file := filepath.Join(t.TempDir(), "ledger")
	seconds := tier.N(120)
	cmd := exec.Command(n.bin, "sim", "--broker", n.mqtt, "--network", "tunnel", "--speed", "60", "--every", "15s", "--vehicles", "50",
		"--duration", fmt.Sprint(seconds, "s"), "--ledger", file, "--watch", "-o", "json", "--qos", "1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		time.Sleep(6 * time.Second) // longer than between two flushes of the meter: how far the fleet gets, not a wait for anything
		n.kill()
		n.start()
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("sim: %v\n%s", err, &out)
		}
	case <-time.After(2 * time.Minute):
		cmd.Process.Kill()
		t.Fatalf("sim does not end\n%s", &out)
	}
	check := func(name string, v verified) {
		t.Helper()
		t.Logf("%s: exit code %d, %+v, %v\n%s", name, v.code, v.counts, v.kinds, v.text)
		if k := v.counts["vans"]; v.code != 0 || v.kinds["killed"] == 0 || k.Found != k.Logged || k.Found == 0 || k.Found+k.Uncounted < 100 {
			t.Errorf("%s: not as it should be", name)
		}
	}
	check("by counts", verify(t, n.bin, "--http", n.http))
	check("by the ledger", verify(t, n.bin, "--http", n.http, "--ledger", file))
	n.stop()
	check("at rest", verify(t, n.bin, "--config", n.conf, "--data", filepath.Join(n.dir, "data"), "--ledger", file))

	// A record that was acknowledged, and is on no node: another one's data.
	other := newNode(t, "")
	other.start()
	if v := verify(t, other.bin, "--http", other.http, "--ledger", file); v.code != 1 || v.kinds["acked_missing"] == 0 {
		t.Errorf("on another node: exit code %d, %v", v.code, v.kinds)
	}
	other.stop()
	if v := verify(t, other.bin, "--http", other.http); v.code != 2 {
		t.Errorf("where nobody answers: exit code %d", v.code)
	}
}
