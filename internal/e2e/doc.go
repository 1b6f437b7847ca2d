// Package e2e tests the binary as users run it: processes that are killed, queues that grow while a subscriber is away, many
// stored sessions. It holds tests only.
//
// In the daily tier the binary is built with the race detector; in a soak it is the plain one, and bounds on memory and seconds
// are asserted too.
package e2e
