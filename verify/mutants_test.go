//go:build mutants

package verify_test

import (
	"testing"

	"github.com/millrace-io/millrace/verify"
)

// TestMutants shows that verify has teeth: a bug planted below it is named, by counts and by the devices' numbers.
func TestMutants(t *testing.T) {
	for _, m := range []struct {
		name, bug string
		kinds     []verify.Kind
	}{
		{"route-drop", "a message is counted and acknowledged, and its record left out of its batch", []verify.Kind{verify.LostBeforeLog, verify.SequenceMissing}},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Setenv("MILLRACE_MUTANT", m.name)
			w := newWorld(t)
			w.drive(1, 200)
			w.flush()
			t.Setenv("MILLRACE_MUTANT", "")
			after := &world{T: t, fs: copyFS(t, w.fs), now: w.now, specs: w.specs}
			r := after.atRest()
			for _, k := range m.kinds {
				if r.Complete || r.find(k) == nil {
					t.Errorf("%s: not named as %s\n%s", m.bug, k, r)
				}
			}
			w.stop()
		})
	}
}
