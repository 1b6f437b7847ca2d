//go:build !race

package app

// allocsAllowed is how many allocations a message may cost.
const allocsAllowed = 0.1
