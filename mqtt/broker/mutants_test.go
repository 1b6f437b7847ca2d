//go:build mutants

package broker_test

import "testing"

// TestMutantAckBeforeDone plants the bug that an ack leaves before the store is done; the check must see it.
func TestMutantAckBeforeDone(t *testing.T) {
	t.Setenv("MILLRACE_MUTANT", "ack-before-done")
	if err := ackIsReceipt(newNode(t, nil)); err == nil {
		t.Error("an ack before the store is done was not noticed")
	}
}
