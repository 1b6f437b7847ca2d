//go:build mutants

package group

import "os"

func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
