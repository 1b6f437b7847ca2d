//go:build !mutants

package spill

func mutantForgets() bool { return false }
