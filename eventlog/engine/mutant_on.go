//go:build mutants

package engine

import "os"

func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
