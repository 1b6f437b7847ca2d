package segment

// A mutant is a bug planted to show that the engine's tests of compaction would catch it. They exist under the build tag mutants only, and one
// is chosen by MILLRACE_MUTANT; in every other build mutant is constantly false and the branches compile away.
const (
	MutantMoveOffsets    = "compact-moves-offsets"
	MutantDropLast       = "compact-drops-last"
	MutantEarlyTombstone = "compact-drops-tombstone-early"
	MutantKeepAborted    = "compact-keeps-aborted"
	MutantAbortedCounts  = "compact-aborted-supersedes"
	MutantKeepOld        = "compact-keeps-superseded"
	MutantSkipSwapSync   = "compact-skips-sync"
)
