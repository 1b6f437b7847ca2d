//go:build race

package browser

// race: the test runs with the race detector, beside all others (make test). A browser that draws in software needs the machine for itself.
const race = true
