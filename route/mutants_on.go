//go:build mutants

package route

import (
	"os"
	"sync/atomic"
)

var mutantCount atomic.Int64

// mutantDrops plants a bug, to show that verify sees it (MILLRACE_MUTANT=route-drop): now and then a message is acknowledged and counted,
// and its record is left out of its batch.
func mutantDrops(batch int) bool {
	return os.Getenv("MILLRACE_MUTANT") == "route-drop" && batch > 1 && mutantCount.Add(1)%50 == 25
}

// mutantHurries plants another (MILLRACE_MUTANT=route-hurry): a topic that was made again gets what is published while the log has not yet given back what was
// on its way to the old one.
func mutantHurries() bool { return os.Getenv("MILLRACE_MUTANT") == "route-hurry" }
