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
