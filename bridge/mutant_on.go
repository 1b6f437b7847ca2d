//go:build mutants

package bridge

import "os"

// A build with the tag mutants has defects that MILLRACE_MUTANT names, so that the checks of bridges can be shown to catch them.
func mutant(name string) bool { return planted == name }

var planted = os.Getenv("MILLRACE_MUTANT")
