//go:build mutants

package kafkawire

import (
	"os"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// TestDifferentialMutants shows that the comparison has teeth: a server with a planted bug differs from kfake, in the script that is for it.
func TestDifferentialMutants(t *testing.T) {
	for _, m := range []struct{ mutant, script string }{
		{mutantWrongOffset, "the log"},
		{mutantTimeAsked, "topics"},
		{"forget-sequences", "idempotent producers"},
		{"leave-out-a-partition", "consumer groups"},
	} {
		differs(t, m.mutant, m.script, func(seed uint64, s comparison) string {
			return againstKfake(t, seed, nil, s, map[string]int{}).difference
		})
	}
}

// TestRealKafkaMutants is the same for what kfake cannot be asked.
func TestRealKafkaMutants(t *testing.T) {
	addr := os.Getenv("MILLRACE_KAFKA_ONE")
	if addr == "" {
		t.Skip("MILLRACE_KAFKA_ONE IS NOT SET: it is the address of a cluster of one broker (make test-all sets it)")
	}
	for _, m := range []struct{ mutant, script string }{
		{mutantForgetless, "fetch sessions"},
		{mutantAppendsOver, "configs"},
		{"read-aborted", "transactions"},
		{"read-open-transaction", "transactions"},
		{mutantSameEpoch, "transactions"},
		{"believe-any-commit-of-a-member", "consumer groups"},
		{"believe-any-epoch", "consumer groups"},
	} {
		differs(t, m.mutant, m.script, func(seed uint64, s comparison) string {
			return againstKafka(t, addr, seed, s, map[string]int{})
		})
	}
}

func differs(t *testing.T, mutant, script string, run func(uint64, comparison) string) {
	t.Run(mutant, func(t *testing.T) {
		t.Setenv("MILLRACE_MUTANT", mutant)
		s := scripts[slices.IndexFunc(scripts, func(s comparison) bool { return s.name == script })]
		const seeds = 30
		for i := range uint64(seeds) {
			if difference := run(tier.Seed()+i, s); difference != "" {
				t.Logf("caught: %.600s", difference)
				return
			}
		}
		t.Errorf("not caught by %d seeds", seeds)
	})
}
