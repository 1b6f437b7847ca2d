//go:build mutants

package kafka

import "os"

// mutantOverGap plants a bug, to show that a test would see it: what we appended is passed on although others have something before it.
func mutantOverGap() bool { return os.Getenv("MILLRACE_MUTANT") == "kafka-over-gap" }
