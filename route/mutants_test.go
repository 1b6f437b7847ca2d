//go:build mutants

package route

import (
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestMutantHurries: messages that overtake those which come back from a topic that is gone are found.
func TestMutantHurries(t *testing.T) {
	t.Setenv("MILLRACE_MUTANT", "route-hurry")
	for i := range uint64(tier.N(400)) {
		if err := onMemory(t, tier.Seed()+i); err != nil {
			t.Log(err)
			return
		}
	}
	t.Error("nobody noticed")
}
