//go:build mutants

package kafkawire

import (
	"slices"
	"testing"

	"github.com/millrace-io/millrace/internal/history"
	"github.com/millrace-io/millrace/internal/tier"
)

// TestHistoryMutants shows that the check of histories has teeth: each planted bug, here and in the log, is caught, by its name.
func TestHistoryMutants(t *testing.T) {
	for _, m := range []struct{ mutant, caught string }{
		{"ack-before-sync", history.LostWrite},
		{"forget-sequences", history.Duplicate},
		{"read-aborted", history.AbortedRead},
		{"read-open-transaction", history.AbortedRead},
		{"tear-transaction", history.Torn},
		{"serve-before-sync", history.Inconsistent},
		{mutantWrongOffset, history.Inconsistent},
		{mutantStaleOffset, history.NonMonotonic},
		{mutantFetchSkips, history.Skipped},
	} {
		t.Run(m.mutant, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m.mutant)
			const seeds = 60
			for i := range uint64(seeds) {
				found, err := historyOf(t, tier.Seed()+i)
				if at := slices.IndexFunc(found, func(a history.Anomaly) bool { return a.Kind == m.caught }); at >= 0 {
					t.Logf("caught by seed %d: %.300v", tier.Seed()+i, found[at])
					return
				}
				if err != nil || len(found) > 0 {
					t.Logf("seed %d: %v, %.300v", tier.Seed()+i, err, found)
				}
			}
			t.Errorf("not caught by %d seeds", seeds)
		})
	}
}
