// Package tier scales the counts of long tests: the same code runs in every tier, only how often differs.
//
// MILLRACE_TIER is "test" (the default: a tenth of every count), or "soak" (the full counts). MILLRACE_SEED starts the seeds
// of randomised tests somewhere else, so that a soak can be resumed and a failure repeated.
package tier

import (
	"os"
	"strconv"
)

// Soak tells whether the full counts run.
func Soak() bool { return os.Getenv("MILLRACE_TIER") == "soak" }

// N is the count to run for a full count: all of it in a soak, else a tenth, at least 1.
func N(full int) int {
	if Soak() {
		return full
	}
	return max(1, full/10)
}

// Dear is N for a test whose rounds cost about ten times as much under the race detector: a fifth of them under it, for the races that they
// find, and all of them without it. `make test` runs these tests both ways (DEAR in the Makefile names them).
func Dear(full int) int {
	if raced && !Soak() {
		return max(1, N(full)/5)
	}
	return N(full)
}

// Seed is the first seed of a randomised test; the i-th round uses Seed()+i.
func Seed() uint64 {
	s, err := strconv.ParseUint(os.Getenv("MILLRACE_SEED"), 10, 64)
	if err != nil {
		return 1
	}
	return s
}
