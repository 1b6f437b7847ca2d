//go:build mutants

package engine

import (
	"testing"

	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/tier"
)

// TestMutants shows that the crash test has teeth: each planted bug is caught.
func TestMutants(t *testing.T) {
	for _, m := range []string{mutantAckEarly, mutantDropBatch, mutantSwapBatches, mutantSkipDirSync, mutantServeEarly,
		mutantTearEnd, mutantReadOpen, mutantShowAborted, segment.MutantKeepAborted, segment.MutantDropLast} {
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

// TestMutantsOfFrames shows that the test of torn frames has teeth.
func TestMutantsOfFrames(t *testing.T) {
	t.Setenv("MILLRACE_MUTANT", mutantTrustBatches)
	if err := tornEverywhere(t); err == nil {
		t.Error("not caught")
	} else {
		t.Logf("caught: %.300v", err)
	}
}

// TestMutantsOfEveryOperation shows that the test of failing operations has teeth.
func TestMutantsOfEveryOperation(t *testing.T) {
	for _, m := range []string{mutantAckEarly, mutantIgnoreSync} {
		t.Run(m, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m)
			for _, how := range failings[:2] {
				for at := int64(0); at < 1500; at += 7 {
					if err := newLife(t, at, how).run(true); err != nil {
						t.Logf("caught: %.300v", err)
						return
					}
				}
			}
			t.Error("not caught")
		})
	}
}

// TestMutantsOfCompaction shows that the model of compaction has teeth.
func TestMutantsOfCompaction(t *testing.T) {
	for _, m := range []string{segment.MutantMoveOffsets, segment.MutantDropLast, segment.MutantEarlyTombstone, segment.MutantKeepAborted,
		segment.MutantAbortedCounts, segment.MutantKeepOld, segment.MutantSkipSwapSync} {
		t.Run(m, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m)
			const seeds = 100
			for i := range uint64(seeds) {
				if err := newCompactModel(t, tier.Seed()+i).run(); err != nil {
					t.Logf("caught by seed %d: %.300v", tier.Seed()+i, err)
					return
				}
			}
			t.Errorf("not caught by %d seeds", seeds)
		})
	}
}
