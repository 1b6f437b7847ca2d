//go:build mutants

package spill

import (
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestMutantForgetsPosition: a drainer that does not write how far it is, in the transaction that moves the messages, is caught.
func TestMutantForgetsPosition(t *testing.T) {
	t.Setenv("MILLRACE_MUTANT", "spill-forgets-position")
	for i := range tier.N(60) {
		if scenario(newRig(t, Options{}), tier.Seed()+uint64(i)) != nil {
			return
		}
	}
	t.Error("nobody noticed")
}
