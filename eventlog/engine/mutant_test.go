//go:build mutants

package engine

import (
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestMutants shows that the crash test has teeth: each planted bug is caught.
func TestMutants(t *testing.T) {
	for _, m := range []string{mutantAckEarly, mutantDropBatch, mutantSwapBatches, mutantSkipDirSync, mutantServeEarly,
		mutantTearEnd, mutantReadOpen, mutantShowAborted} {
		t.Run(m, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m)
			const seeds = 300
			for i := range uint64(seeds) {
				if err := newWorld(tier.Seed() + i).run(); err != nil {
					t.Logf("caught by seed %d: %.300v", tier.Seed()+i, err)
					return
				}
			}
			t.Errorf("not caught by %d seeds", seeds)
		})
	}
}
