//go:build mutants

package fleet

import "os"

// A build with the tag mutants has defects that MILLRACE_MUTANT names, so that the checks of the model test can be shown to
// catch them.
func mutant(name string) bool { return planted == name }

var planted = os.Getenv("MILLRACE_MUTANT")
