//go:build !unix

package app

// raiseFileLimit has nothing to raise here.
func raiseFileLimit() uint64 { return 0 }
