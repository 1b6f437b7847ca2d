package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/sim"
)

// TestTunnelsAndKills drives vans in and out of tunnels, by millrace sim, while the node is killed and started again. At the end the
// ledger is complete: everything that was sampled is acknowledged, came to the watcher, and stands in the log, in order.
func TestTunnelsAndKills(t *testing.T) {
	n := newNode(t, "")
	n.start()
	file := filepath.Join(t.TempDir(), "ledger")
	seconds := tier.N(100)
	cmd := exec.Command(n.bin, "sim", "--broker", n.mqtt, "--network", "tunnel", "--speed", "60", "--every", "15s", "--vehicles", "50",
		"--duration", fmt.Sprint(seconds, "s"), "--ledger", file, "--watch", "-o", "json", "--qos", "1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	kills := 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); kills++ {
		time.Sleep(3 * time.Second) // how far the fleet gets, not a wait for anything
		n.kill()
		n.start()
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("sim: %v\n%s\n%s", err, &out, &errs)
		}
	case <-time.After(2 * time.Minute):
		cmd.Process.Kill()
		t.Fatalf("sim does not end\n%s", &errs)
	}
	var r struct {
		Connects, Sent, Acked, Resent uint64
		InFlight                      uint64 `json:"in_flight"`
		Ledger                        sim.Report
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	t.Logf("%d kills; %d connections, %d sent, %d acknowledged, %d resent; %v", kills, r.Connects, r.Sent, r.Acked, r.Resent, &r.Ledger)
	if r.Sent == 0 || r.Acked != r.Sent || r.InFlight != 0 || r.Ledger.Received != int(r.Sent) || r.Connects <= 50 || kills == 0 {
		t.Errorf("%d of %d acknowledged, %d received, %d connections, %d kills", r.Acked, r.Sent, r.Ledger.Received, r.Connects, kills)
	}

	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ledger, err := sim.ReadLedger(sized{f})
	if err != nil {
		t.Fatal(err)
	}
	log := ledger.Reader("log", "city/#", 1).All()
	readLog(t, n, "city/#", log)
	if rep := log.Report(); rep.Err() != nil || rep.Received != int(r.Sent) || rep.Acked != int(r.Sent) {
		t.Errorf("the log: %v", &rep)
	}
}

// sized is a file as a ledger wants it.
type sized struct{ *os.File }

func (f sized) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
