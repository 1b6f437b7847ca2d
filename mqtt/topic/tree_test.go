package topic

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// words give deep and shallow, equal and nearly equal levels; some sort on the other side of / than the rest.
var words = []string{"a", "b", "aa", "a!", "a0", "", "$x", "ä"}

func randomName(r *rand.Rand) string {
	levels := make([]string, 1+r.IntN(4))
	for i := range levels {
		levels[i] = words[r.IntN(len(words))]
	}
	if name := strings.Join(levels, "/"); name != "" {
		return name
	}
	return "/"
}

func randomFilter(r *rand.Rand) string {
	levels := strings.Split(randomName(r), "/")
	for i := range levels {
		if r.IntN(3) == 0 {
			levels[i] = "+"
		}
	}
	if r.IntN(4) == 0 {
		levels[len(levels)-1] = "#"
	}
	return strings.Join(levels, "/")
}

// The tree finds what a list of subscriptions finds, each once, in the same order in a second tree, and Epoch changes with
// every change that concerns a name.
func TestTreeAgainstList(t *testing.T) {
	type sub struct {
		filter string
		key    int
	}
	r := rand.New(rand.NewPCG(tier.Seed(), 1))
	var tree, twin Tree[int, string]
	model := map[sub]string{}
	probes := make([]string, 40)
	for i := range probes {
		probes[i] = randomName(r)
	}
	for step := range tier.N(60_000) {
		s := sub{randomFilter(r), r.IntN(20)}
		epochs := make([]uint64, len(probes))
		for i, name := range probes {
			epochs[i] = tree.Epoch(name)
		}
		changed := true
		if grow := step/500%2 == 0; r.IntN(3) > 0 == grow {
			v := fmt.Sprint(step)
			old, replaced := tree.Set(s.filter, s.key, v)
			twin.Set(s.filter, s.key, v)
			if want, had := model[s]; old != want || replaced != had {
				t.Fatalf("Set(%v) = %q %v, want %q %v", s, old, replaced, want, had)
			}
			model[s] = v
		} else {
			if keys := slices.SortedFunc(maps.Keys(model), func(a, b sub) int {
				return cmp.Or(strings.Compare(a.filter, b.filter), a.key-b.key)
			}); len(keys) > 0 && r.IntN(4) > 0 {
				s = keys[r.IntN(len(keys))]
			}
			old, ok := tree.Delete(s.filter, s.key)
			twin.Delete(s.filter, s.key)
			want, had := model[s]
			if old != want || ok != had {
				t.Fatalf("Delete(%v) = %q %v, want %q %v", s, old, ok, want, had)
			}
			changed = had
			delete(model, s)
		}
		if tree.Len() != len(model) {
			t.Fatalf("Len %d, want %d", tree.Len(), len(model))
		}
		for i, name := range probes {
			if changed && naiveMatch(s.filter, name) && tree.Epoch(name) == epochs[i] {
				t.Fatalf("epoch of %q did not change with %q", name, s.filter)
			}
		}
		name := probes[r.IntN(len(probes))]
		var got, again, want []string
		tree.Match(name, func(k int, v string) { got = append(got, fmt.Sprint(k, v)) })
		twin.Match(name, func(k int, v string) { again = append(again, fmt.Sprint(k, v)) })
		if !slices.Equal(got, again) {
			t.Fatalf("two trees with the same history differ in order: %v %v", got, again)
		}
		for s, v := range model {
			if naiveMatch(s.filter, name) {
				want = append(want, fmt.Sprint(s.key, v))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%q matches %v, want %v", name, got, want)
		}
	}
	for s := range model {
		tree.Delete(s.filter, s.key)
	}
	if !tree.root.bare() || tree.Len() != 0 {
		t.Fatal("nodes are left in an empty tree")
	}
}

func TestTreeEpochIsLocal(t *testing.T) {
	var tree Tree[int, int]
	tree.Set("fleet/+/gps", 1, 1)
	tree.Set("depot/+", 1, 1)
	before := tree.Epoch("fleet/7/gps")
	tree.Set("depot/x", 2, 2)
	tree.Delete("depot/+", 1)
	if tree.Epoch("fleet/7/gps") != before {
		t.Fatal("a filter below depot changes the epoch of fleet")
	}
	hidden := tree.Epoch("$SYS/x")
	tree.Set("#", 1, 1)
	if tree.Epoch("fleet/7/gps") == before || tree.Epoch("$SYS/x") != hidden {
		t.Fatal("# concerns all names but those with $")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	tree := fleetTree(1000)
	n := 0
	yield := func(int, int) { n++ }
	if a := testing.AllocsPerRun(100, func() { tree.Match("fleet/v500/telemetry/gps", yield) }); a != 0 {
		t.Errorf("Tree.Match allocates %v times", a)
	}
	if a := testing.AllocsPerRun(100, func() { tree.Epoch("fleet/v500/telemetry/gps") }); a != 0 {
		t.Errorf("Tree.Epoch allocates %v times", a)
	}
	name := []byte("fleet/v500/telemetry/gps")
	if a := testing.AllocsPerRun(100, func() {
		if ValidateName(name) != nil || !Match("fleet/+/telemetry/#", "fleet/v500/telemetry/gps") {
			t.Error("no match")
		}
	}); a != 0 {
		t.Errorf("Match and ValidateName allocate %v times", a)
	}
	if n == 0 {
		t.Error("nothing matched")
	}
}

// fleetTree is a command filter per vehicle and a few wide ones.
func fleetTree(vehicles int) *Tree[int, int] {
	tree := &Tree[int, int]{}
	for i := range vehicles {
		tree.Set(fmt.Sprintf("fleet/v%d/cmd/#", i), i, i)
	}
	for i, f := range []string{"fleet/+/telemetry/#", "fleet/+/telemetry/gps", "#", "depot/+/state"} {
		tree.Set(f, -1-i, 0)
	}
	return tree
}

func BenchmarkTreeMatch(b *testing.B) {
	for _, vehicles := range []int{1_000, 100_000} {
		tree := fleetTree(vehicles)
		names := make([]string, 1024)
		for i := range names {
			names[i] = fmt.Sprintf("fleet/v%d/telemetry/gps", i*vehicles/len(names))
		}
		b.Run(fmt.Sprintf("filters=%d", vehicles), func(b *testing.B) {
			b.ReportAllocs()
			n, i := 0, 0
			for b.Loop() {
				tree.Match(names[i%len(names)], func(int, int) { n++ })
				i++
			}
			b.ReportMetric(float64(n)/float64(b.N), "matches/op")
		})
	}
}

func BenchmarkTreeMatchWide(b *testing.B) {
	tree := &Tree[int, int]{}
	for i := range 1000 {
		tree.Set("fleet/+/telemetry", i, i)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		tree.Match("fleet/v1/telemetry", func(int, int) { n++ })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/match")
}

func BenchmarkTreeSetDelete(b *testing.B) {
	tree := fleetTree(100_000)
	b.ReportAllocs()
	for b.Loop() {
		tree.Set("fleet/v50000/cmd/now", 7, 7)
		tree.Delete("fleet/v50000/cmd/now", 7)
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Match("fleet/+/telemetry/#", "fleet/v500/telemetry/gps")
	}
}

func BenchmarkValidateName(b *testing.B) {
	name := []byte("/hfp/v2/journey/ongoing/vp/bus/0012/01211/2550/1/Kamppi/14:41/1453117/4/60;25/20/21/44")
	b.ReportAllocs()
	b.SetBytes(int64(len(name)))
	for b.Loop() {
		if ValidateName(name) != nil {
			b.Fatal("not valid")
		}
	}
}
