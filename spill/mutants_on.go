//go:build mutants

package spill

import "os"

// mutantForgets plants a bug, to show that a test would see it: a step's position is not written with it.
func mutantForgets() bool { return os.Getenv("MILLRACE_MUTANT") == "spill-forgets-position" }
