//go:build mutants

package broker_test

import (
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/broker"
)

// TestMutantSkipAuthorization plants a right that is not asked for; the check must see it. Those of the session core have a test there.
func TestMutantSkipAuthorization(t *testing.T) {
	for _, way := range []string{"publish", "subscribe"} {
		t.Run(way, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", "skip-authorization-"+way)
			g := &gate{}
			n := newNode(t, func(o *broker.Options) { o.Authorizer = g })
			if err := leaks(n, g); err == nil || !strings.Contains(err.Error(), way+":") {
				t.Errorf("it was not noticed: %v", err)
			}
		})
	}
}

// TestMutantAckBeforeDone plants the bug that an ack leaves before the store is done; the check must see it.
func TestMutantAckBeforeDone(t *testing.T) {
	t.Setenv("MILLRACE_MUTANT", "ack-before-done")
	if err := ackIsReceipt(newNode(t, nil)); err == nil {
		t.Error("an ack before the store is done was not noticed")
	}
}
