//go:build mutants

package segment

import "os"

func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
