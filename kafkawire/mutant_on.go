//go:build mutants

package kafkawire

import "os"

func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
