//go:build mutants

package session

import "testing"

// TestMutants plants one defect after the other and requires that the model notices each within a few seeds.
func TestMutants(t *testing.T) {
	defer func() { planted = "" }()
	for _, name := range []string{"duplicate", "drop", "swap", "forget-release", "early-suback", "forget-copy",
		"skip-authorization-live", "skip-authorization-unlogged", "skip-authorization-queued", "skip-authorization-retained", "skip-authorization-resend",
		"keep-lease", "redispatch-qos2", "group-from-now", "forget-taken", "skip-authorization-held", "skip-authorization-shared", "skip-authorization-will", "skip-authorization-will-set",
		"skip-authorization-replayed", "replay-all", "replay-begins-late", "replay-ends-early", "replay-ends-late", "replay-overtaken", "replay-forgets-flight", "replay-twice", "forget-replaced"} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(5000) {
				planted, victim = name, nil
				run := runSeed
				if name == "forget-replaced" {
					run = runWavering
				}
				if w := run(seed + 1); w.err != nil {
					t.Logf("seed %d: %v", seed+1, w.err)
					return
				}
			}
			t.Errorf("the model does not notice %s", name)
		})
	}
}
