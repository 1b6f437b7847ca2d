package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// longName has enough different first levels to fill many blocks.
func longName(r *rand.Rand) string {
	if r.IntN(2) == 0 {
		return fmt.Sprintf("%s/v%d/%s", words[r.IntN(2)], r.IntN(400), words[r.IntN(len(words))])
	}
	return randomName(r)
}

func longFilter(r *rand.Rand) string {
	if r.IntN(3) == 0 {
		return fmt.Sprintf("%s/+/%s", words[r.IntN(2)], words[r.IntN(len(words))])
	}
	return randomFilter(r)
}

// Names finds what a map and a naive matcher find, in order; a scan that stops and resumes while names come and go visits every
// name that was there all the time exactly once.
func TestNamesAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(tier.Seed(), 2))
	var names Names[int]
	model := map[string]int{}
	gone := map[string]bool{} // deleted since the scan began
	change := func() {
		name := longName(r)
		if grow := len(model) < 2000; r.IntN(3) > 0 == grow {
			v := r.Int()
			old, replaced := names.Set(name, v)
			if want, had := model[name]; old != want || replaced != had {
				t.Fatalf("Set(%q) = %v %v, want %v %v", name, old, replaced, want, had)
			}
			model[name] = v
			return
		}
		old, ok := names.Delete(name)
		if want, had := model[name]; old != want || ok != had {
			t.Fatalf("Delete(%q) = %v %v, want %v %v", name, old, ok, want, had)
		}
		delete(model, name)
		gone[name] = true
	}
	for range tier.N(4000) {
		for range 5 {
			change()
		}
		probe := longName(r)
		if v, ok := names.Get(probe); ok != has(model, probe) || v != model[probe] || names.Len() != len(model) {
			t.Fatalf("Get(%q) = %v %v", probe, v, ok)
		}
		filter := longFilter(r)
		before := maps.Clone(model)
		clear(gone)
		var visited []string
		after, edit := "", r.IntN(2) == 0
		pace, looks := 1+r.IntN(20), 1+r.IntN(50)
		visit := func(name string, v int) bool {
			if model[name] != v {
				t.Fatalf("%q has %v, want %v", name, v, model[name])
			}
			visited = append(visited, name)
			after = name
			if edit && r.IntN(5) == 0 {
				change() // inside the scan
			}
			return len(visited)%pace != 0
		}
		for done := false; !done; {
			if n := len(visited); r.IntN(2) == 0 {
				names.Scan(filter, after, visit)
				done = len(visited) == n
			} else {
				left := looks
				after, done = names.ScanN(filter, after, &left, visit)
				if left < 0 || !done && left == looks {
					t.Fatalf("%d of %d looks are left", left, looks)
				}
			}
			if edit && r.IntN(2) == 0 {
				change() // between two scans
			}
		}
		if !slices.IsSorted(visited) || len(slices.Compact(slices.Clone(visited))) != len(visited) {
			t.Fatalf("scan of %q is out of order: %q", filter, visited)
		}
		for _, name := range visited {
			if !naiveMatch(filter, name) {
				t.Fatalf("scan of %q visits %q", filter, name)
			}
		}
		for name := range before {
			if _, there := slices.BinarySearch(visited, name); !there && !gone[name] && naiveMatch(filter, name) {
				t.Fatalf("scan of %q misses %q", filter, name)
			}
		}
	}
	for name := range model {
		names.Delete(name)
	}
	if names.Len() != 0 || len(names.blocks) != 0 {
		t.Fatal("blocks are left when no names are")
	}
}

func has[V any](m map[string]V, k string) bool { _, ok := m[k]; return ok }

// A scan for one topic per vehicle does not look at the others.
func TestScanLeaps(t *testing.T) {
	names := fleetNames(200, 100)
	leaps := 0
	for at := ""; ; leaps++ {
		b, i, _ := names.find(at)
		if b == len(names.blocks) {
			break
		}
		name := names.blocks[b][i].name
		if Match("fleet/+/status", name) {
			at = name + "\x00"
			continue
		}
		next, ok := leap("fleet/+/status", name)
		if !ok {
			break
		}
		at = next
	}
	if leaps > 3*200+2 {
		t.Fatalf("%d steps over 200 vehicles", leaps)
	}
}

func fleetNames(vehicles, topics int) *Names[int] {
	names := &Names[int]{}
	for v := range vehicles {
		for i := range topics {
			names.Set(fmt.Sprintf("fleet/v%d/t%d", v, i), i)
		}
		names.Set(fmt.Sprintf("fleet/v%d/status", v), v)
	}
	return names
}

func BenchmarkNamesSet(b *testing.B) {
	names := fleetNames(1000, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		names.Set("fleet/v500/t50", i)
	}
}

func BenchmarkNamesScan(b *testing.B) {
	names := fleetNames(1000, 100)
	for _, filter := range []string{"#", "fleet/v500/#", "fleet/+/status"} {
		b.Run(filter, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				names.Scan(filter, "", func(string, int) bool { n++; return true })
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/name")
		})
	}
}
