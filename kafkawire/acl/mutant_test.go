//go:build mutants

package acl

import (
	"os"
	"os/exec"
	"testing"
)

// TestDecisionMutants shows that the tests of decisions have teeth. Each planted bug has a process of its own.
func TestDecisionMutants(t *testing.T) {
	if os.Getenv("MILLRACE_MUTANT") != "" {
		t.Skip("within another mutant")
	}
	for _, name := range []string{mutantDeny, mutantLiteral, mutantHost, mutantImplied, mutantOrder} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^Test")
			cmd.Env = append(os.Environ(), "MILLRACE_MUTANT="+name)
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("not caught:\n%s", out)
			}
		})
	}
}
