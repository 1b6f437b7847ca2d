//go:build mutants

package broker

import "os"

func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
