//go:build mutants

package broker

// PlantAckBeforeDone switches the planted bug.
func PlantAckBeforeDone(on bool) { ackBeforeDone = on }
