package engine

import "github.com/millrace-io/millrace/eventlog"

// A mutant is a bug planted to show that the crash test would catch it. They exist under the build tag mutants only, and one
// is chosen by MILLRACE_MUTANT; in every other build mutant is constantly false and the branches compile away.
const (
	mutantAckEarly     = "ack-before-sync"
	mutantDropBatch    = "drop-batch"
	mutantSwapBatches  = "swap-batches"
	mutantSkipDirSync  = "skip-dir-sync"
	mutantServeEarly   = "serve-before-sync"
	mutantIgnoreSync   = "ignore-failed-sync"
	mutantTearEnd      = "tear-transaction"
	mutantReadOpen     = "read-open-transaction"
	mutantShowAborted  = "read-aborted"
	mutantTrustBatches = "trust-batches"
	mutantForgetSeqs   = "forget-sequences" // for the check of histories (kafkawire)
)

// swapBatches exchanges the first two neighbours of one partition that are ours: a foreign producer's sequences would not have it.
func swapBatches(items []*item) {
	for i := 1; i < len(items); i++ {
		if a, b := items[i-1], items[i]; a.done != nil && b.done != nil && a.p != nil && a.p == b.p {
			items[i-1], items[i] = b, a
			return
		}
	}
}

// dropBatch chooses one batch in sixteen.
func dropBatch(raw eventlog.RawBatch) bool { return raw.Base()%16 == 5 }

// tearsEnd leaves a transaction's marker out of the partitions with odd numbers.
func tearsEnd(p *partition, _ *endOf) bool { return mutant(mutantTearEnd) && p.part.Index%2 == 1 }
