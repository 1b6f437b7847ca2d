//go:build mutants

package session

import "os"

// A build with the tag mutants has defects that MILLRACE_MUTANT names, so that the checkers of the model test can be shown to
// catch them.
func mutant(name string) bool { return os.Getenv("MILLRACE_MUTANT") == name }
