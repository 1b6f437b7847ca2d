//go:build !mutants

package broker

// ackBeforeDone is a planted bug, to show that a test would see it: PUBACK leaves before the store has said that the message is
// durable.
const ackBeforeDone = false
