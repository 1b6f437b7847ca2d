//go:build mutants

package group

import (
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestMutants shows that the random test of the consumer protocol has teeth: each planted bug is caught.
func TestMutants(t *testing.T) {
	for _, m := range []string{
		mutantTakeHeld, mutantNoWait, mutantForgetRevoke, mutantKeepEpoch, mutantStarve, mutantAnyCommit,
		mutantUpgradeBare, mutantNobodyJoins, mutantNoDowngrade,
	} {
		t.Run(m, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m)
			const seeds = 1500
			for i := range uint64(seeds) {
				if why := newCrowd(tier.Seed() + i).run(250); why != "" {
					t.Logf("caught by seed %d: %.300s", tier.Seed()+i, why)
					return
				}
			}
			t.Errorf("not caught by %d seeds", seeds)
		})
	}
}

// TestAssignorMutants shows the same of the test of the uniform assignor.
func TestAssignorMutants(t *testing.T) {
	for _, m := range []string{mutantStarve, mutantUneven} {
		t.Run(m, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m)
			var moved, least int
			for seed := range uint64(400) {
				if why := newWanting(seed).run(&moved, &least); why != "" {
					t.Logf("caught by seed %d, %.300s", seed, why)
					return
				}
			}
			t.Error("not caught")
		})
	}
}
