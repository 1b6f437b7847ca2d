//go:build mutants

package acl

import "os"

func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
