//go:build mutants

package kafka

import (
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestMutantOverGap: a live log that passes on what it appended, over what others appended before it, is caught.
func TestMutantOverGap(t *testing.T) {
	t.Setenv("MILLRACE_MUTANT", "kafka-over-gap")
	for i := range tier.N(60) {
		if liveTails(t, tier.Seed()+uint64(i)) != nil {
			return
		}
	}
	t.Error("nobody noticed")
}
