package arch

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/millrace-io/millrace"

// rule is one row of the table.
type rule struct {
	tier    int
	imports []string
	why     string
	tests   []string
}

// table parses the rows of ARCHITECTURE.md's package table.
func table(doc string) (map[string]rule, error) {
	rules := map[string]rule{}
	for line := range strings.Lines(doc) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.HasPrefix(strings.TrimSpace(cells[0]), "`") {
			continue
		}
		name := strings.Trim(strings.TrimSpace(cells[0]), "`")
		tier, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil {
			return nil, errors.New("row " + name + ": tier is not a number")
		}
		if _, twice := rules[name]; twice {
			return nil, errors.New("row " + name + " stands twice")
		}
		rules[name] = rule{tier, strings.Fields(cells[2]), strings.TrimSpace(cells[3]), strings.Fields(cells[4])}
	}
	if len(rules) == 0 {
		return nil, errors.New("no package table found")
	}
	return rules, nil
}

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// check returns every way in which packages differ from the rules.
func check(rules map[string]rule, pkgs []pkg) (faults []string) {
	seen := map[string]bool{}
	for _, p := range pkgs {
		name := local(p.ImportPath)
		seen[name] = true
		r, ok := rules[name]
		if !ok {
			faults = append(faults, name+" is not in ARCHITECTURE.md's package table: add a row that says what it is and what it may import")
			continue
		}
		for _, i := range p.Imports {
			if d := local(i); d != "" && !slices.Contains(r.imports, d) {
				faults = append(faults, name+" imports "+d+", which its row does not allow ("+r.why+")")
			}
		}
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			d := local(i)
			if d == "" || d == name || slices.Contains(r.imports, d) || slices.Contains(r.tests, d) || rules[d].tier < r.tier {
				continue
			}
			faults = append(faults, "tests of "+name+" import "+d+", which its row does not allow")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if !seen[name] {
			faults = append(faults, "ARCHITECTURE.md names "+name+", which does not exist")
		}
		for _, i := range rules[name].imports {
			if to, ok := rules[i]; !ok {
				faults = append(faults, "row "+name+" allows "+i+", which has no row")
			} else if to.tier > rules[name].tier {
				faults = append(faults, "row "+name+" allows "+i+" of a higher tier: imports point down")
			}
		}
	}
	return faults
}

func local(path string) string {
	if path == module {
		return "."
	}
	s, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	return s
}

func TestCodeFollowsTheTable(t *testing.T) {
	doc, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := table(string(doc))
	if err != nil {
		t.Fatal(err)
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	for _, f := range check(rules, pkgs) {
		t.Error(f)
	}
}

// The check has teeth: each kind of difference is found.
func TestCheckFindsEachDifference(t *testing.T) {
	rules := map[string]rule{"low": {tier: 0}, "high": {tier: 1, imports: []string{"low"}}}
	good := []pkg{{ImportPath: module + "/low"}, {ImportPath: module + "/high", Imports: []string{"fmt", module + "/low"}}}
	if f := check(rules, good); len(f) != 0 {
		t.Fatalf("a tree that follows its table: %v", f)
	}
	for name, c := range map[string]struct {
		rules map[string]rule
		pkgs  []pkg
		want  string
	}{
		"package without a row": {rules, append(slices.Clone(good), pkg{ImportPath: module + "/new"}), "new is not in"},
		"row without a package": {rules, good[1:], "names low, which does not exist"},
		"import not listed":     {rules, []pkg{{ImportPath: module + "/low", Imports: []string{module + "/high"}}, good[1]}, "low imports high"},
		"test import upwards":   {rules, []pkg{{ImportPath: module + "/low", XTestImports: []string{module + "/high"}}, good[1]}, "tests of low import high"},
		"row that points up": {map[string]rule{"low": {tier: 0, imports: []string{"high"}}, "high": {tier: 1, imports: []string{"low"}}}, good,
			"higher tier"},
	} {
		if f := check(c.rules, c.pkgs); len(f) != 1 || !strings.Contains(f[0], c.want) {
			t.Errorf("%s: got %q, want one fault with %q", name, f, c.want)
		}
	}
}
