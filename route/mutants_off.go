//go:build !mutants

package route

func mutantDrops(int) bool { return false }

func mutantHurries() bool { return false }
