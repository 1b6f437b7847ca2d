//go:build !mutants

package kafkawire

func mutant(string) bool { return false }
