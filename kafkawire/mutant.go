package kafkawire

import "github.com/millrace-io/millrace/eventlog"

// A mutant is a bug planted to show that the check of histories would catch it. They exist under the build tag mutants only, and one
// is chosen by MILLRACE_MUTANT; in every other build mutant is constantly false and the branches compile away.
const (
	mutantWrongOffset = "answer-wrong-offset"
	mutantStaleOffset = "fetch-stale-offset"
	mutantFetchSkips  = "fetch-skips-a-batch"
)

// skipBatch leaves out the first of several batches, now and then.
func skipBatch(raw []byte) []byte {
	n, err := eventlog.BatchSize(raw)
	if err != nil || n == 0 || n >= len(raw) || eventlog.RawBatch(raw).Base()%4 != 1 {
		return raw
	}
	return raw[n:]
}
