//go:build !mutants

package bridge

// mutant tells whether a planted defect is on; in a real build none is. See mutant_on.go.
func mutant(string) bool { return false }
