//go:build mutants

package app

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestBridgeMutants shows that the tests of bridges have teeth: each planted bug is caught by the test that is for it. Each has a process of
// its own, since MILLRACE_MUTANT is read when one starts.
func TestBridgeMutants(t *testing.T) {
	if os.Getenv("MILLRACE_MUTANT") != "" {
		t.Skip("within another mutant")
	}
	for _, m := range []struct{ name, bug, test string }{
		{"bridge-ahead-of-ack", "a bridge's position passes messages that the remote has not taken", "TestBridgeFaults"},
		{"bridge-reorder", "a bridge sends messages in another order", "TestBridgeFaults"},
		{"bridge-early-ack", "the remote is acknowledged before the log has its message", "TestBridgeFaults"},
		{"bridge-no-loop-guard", "a bridge sends on what has been here", "TestBridgesOfBoth"},
	} {
		t.Run(m.name, func(t *testing.T) {
			var said []byte
			// Whether a kill comes in the moment that such a bug needs is chance: about every third run has one.
			for seed := range 20 {
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+m.test+"$", "-test.failfast")
				cmd.Env = append(os.Environ(), "MILLRACE_MUTANT="+m.name, fmt.Sprint("MILLRACE_SEED=", 1+10*seed))
				out, err := cmd.CombinedOutput()
				if err != nil {
					return
				}
				said = out
			}
			t.Errorf("not caught: %s\n%s", m.bug, said)
		})
	}
}
