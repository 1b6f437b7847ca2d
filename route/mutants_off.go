//go:build !mutants

package route

func mutantDrops(int) bool { return false }
