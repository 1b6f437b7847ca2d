//go:build mutants

package fleet

import "testing"

// TestMutants plants one defect after the other and requires that the model notices each within a few seeds.
func TestMutants(t *testing.T) {
	defer func() { planted = "" }()
	for _, name := range []string{"stay", "keep", "drift", "reuse"} {
		t.Run(name, func(t *testing.T) {
			planted = name
			for seed := range uint64(100) {
				if err := newWorld(seed + 1).life(300); err != nil {
					t.Logf("seed %d: %v", seed+1, err)
					return
				}
			}
			t.Errorf("the model does not notice %s", name)
		})
	}
}
