//go:build !mutants

package kafka

func mutantOverGap() bool { return false }
