//go:build mutants

package app

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestNodeMutants shows that TestNodePowerLoss has teeth: a bug planted anywhere below is caught by what clients see. Each has a
// process of its own, since MILLRACE_MUTANT is read when one starts.
func TestNodeMutants(t *testing.T) {
	if os.Getenv("MILLRACE_MUTANT") != "" {
		hunt(t)
		return
	}
	for _, m := range []struct{ name, bug string }{
		{"ack-before-sync", "the log answers before fdatasync"},
		{"skip-dir-sync", "a checkpoint does not sync a directory"},
		{"drop-batch", "the log drops a batch"},
		{"swap-batches", "the log swaps two batches"},
		{"ack-before-done", "PUBACK leaves before the log has answered"},
		{"drop", "a session drops a delivery"},
		{"duplicate", "a session sends a QoS 2 message twice"},
		{"swap", "a session swaps two deliveries"},
	} {
		t.Run(m.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNodeMutants$", "-test.v")
			cmd.Env = append(os.Environ(), "MILLRACE_MUTANT="+m.name)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("not caught: %s\n%s", m.bug, out)
			} else {
				t.Logf("%s\n%.500s", m.bug, out)
			}
		})
	}
}

// hunt fails unless the bug that this process has is caught.
func hunt(t *testing.T) {
	const seeds = 300
	for i := range uint64(seeds) {
		w := newWorld(tier.Seed() + i)
		w.patience = 3 * time.Second
		if err := w.run(); err != nil {
			t.Logf("caught by seed %d: %.300v", w.seed, err)
			return
		}
	}
	t.Errorf("not caught by %d seeds", seeds)
}
