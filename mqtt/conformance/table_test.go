package conformance

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document is where every statement has a row.
const document = "../../docs/mqtt-conformance.md"

// row is one row of a table of the document.
type row struct{ id, says, binds, shown string }

// section returns the rows of the tables under a heading.
func section(t *testing.T, title string) (rows []row) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+title+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", document, title)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 4 || strings.HasPrefix(line, "|--") {
			continue
		}
		r := row{}
		for i, cell := range []*string{&r.id, &r.says, &r.binds, &r.shown} {
			*cell = strings.TrimSpace(cells[i])
		}
		if r.id != "Statement" {
			rows = append(rows, r)
		}
	}
	return rows
}

var (
	subtest  = regexp.MustCompile("^`([^`]+)`")
	bindsAre = []string{"server", "client", "both"}
)

// compare returns every way in which the rows of a version differ from its checks, and how many rows of each kind there are.
func compare(name string, rows []row, ids []string, set checks) (faults []string, shown, client, notYet int) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.id] {
			fault("%s stands twice", r.id)
		}
		seen[r.id] = true
		if r.says == "" || !slices.Contains(bindsAre, r.binds) {
			fault("%s: what it says, and whom it binds (%v), is missing", r.id, bindsAre)
		}
		m := subtest.FindStringSubmatch(r.shown)
		reason := strings.Contains(r.shown, ": ")
		switch {
		case m != nil:
			shown++
			if m[1] != name+"/"+r.id {
				fault("%s names the subtest %s", r.id, m[1])
			} else if set[r.id] == nil {
				fault("%s names a subtest that does not exist", r.id)
			}
		case strings.HasPrefix(r.shown, "not yet: ") && reason: // though the subtest may wait for it
			notYet++
		case set[r.id] != nil:
			fault("%s has a subtest that its row does not name", r.id)
		case strings.HasPrefix(r.shown, "not applicable: ") && reason:
			client++
			if r.binds == "server" && !strings.HasPrefix(r.shown, "not applicable: Millrace ") {
				fault("%s binds the server, and is said not to apply", r.id)
			}
		default:
			fault("%s: %q is neither a subtest nor a reason for there being none", r.id, r.shown)
		}
	}
	for _, id := range ids {
		if !seen[id] {
			fault("%s has no row", id)
		}
		delete(seen, id)
	}
	for id := range seen {
		if len(ids) > 0 {
			fault("%s is no statement", id)
		}
	}
	for id := range set {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.id == id }) {
			fault("the subtest %s/%s has no row", name, id)
		}
	}
	slices.Sort(faults)
	return faults, shown, client, notYet
}

// statements are the ids of a version; 3.1 has none, and what is beyond the standards.
func statements(t *testing.T, version string) []string {
	t.Helper()
	file := map[string]string{"v5": "testdata/mqtt5-ids.txt", "v311": "testdata/mqtt311-ids.txt"}[version]
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// The document and the suite agree, and say how much of the standards they cover.
func TestDocumentFollowsTheSuite(t *testing.T) {
	for _, version := range versions {
		rows := section(t, version.title)
		faults, shown, client, notYet := compare(version.name, rows, statements(t, version.name), all(t, version.parts))
		for _, f := range faults {
			t.Errorf("%s: %s", version.title, f)
		}
		t.Logf("%s: %d statements: %d shown by a subtest, %d with nothing to show, %d not yet", version.title, len(rows), shown, client, notYet)
		summary := fmt.Sprintf("| %s | %d | %d | %d | %d |", version.title, len(rows), shown, client, notYet)
		if text, err := os.ReadFile(document); err != nil || !strings.Contains(string(text), summary) {
			t.Errorf("the document's summary wants the row: %s", summary)
		}
	}
	deviations(t)
}

// The comparison has teeth: each kind of difference is found.
func TestComparisonFindsEachDifference(t *testing.T) {
	good := []row{
		{"A-1", "says", "server", "`v5/A-1`"}, {"A-2", "says", "client", "not applicable: client: it says so"}, {"A-3", "says", "both", "not yet: soon"},
	}
	set := checks{"A-1": func(*env) {}}
	ids := []string{"A-1", "A-2", "A-3"}
	if faults, shown, client, notYet := compare("v5", good, ids, set); len(faults) > 0 || shown != 1 || client != 1 || notYet != 1 {
		t.Fatalf("what agrees: %v %d %d %d", faults, shown, client, notYet)
	}
	alter := func(i int, f func(r *row)) []row {
		rows := slices.Clone(good)
		f(&rows[i])
		return rows
	}
	for want, c := range map[string]struct {
		rows []row
		ids  []string
		set  checks
	}{
		"A-3 has no row":              {good[:2], ids, set},
		"A-3 is no statement":         {good, ids[:2], set},
		"A-1 stands twice":            {append(slices.Clone(good), good[0]), ids, set},
		"subtest that does not exist": {good, ids, nil},
		"its row does not name":       {good, ids, checks{"A-1": set["A-1"], "A-2": set["A-1"]}},
		"the subtest v5/A-4 has no":   {good, ids, checks{"A-1": set["A-1"], "A-4": set["A-1"]}},
		"names the subtest v5/A-2":    {alter(0, func(r *row) { r.shown = "`v5/A-2`" }), ids, set},
		"whom it binds":               {alter(1, func(r *row) { r.binds = "nobody" }), ids, set},
		"neither a subtest nor":       {alter(2, func(r *row) { r.shown = "yes" }), ids, set},
		"said not to apply":           {alter(1, func(r *row) { r.binds = "server" }), ids, set},
	} {
		faults, _, _, _ := compare("v5", c.rows, c.ids, c.set)
		if !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("%q is not among %q", want, faults)
		}
	}
}

// deviations are the subtests that Mosquitto is known to fail, as the document lists them.
func deviations(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## Mosquitto\n")
	if !ok {
		t.Fatal("the document has no section about Mosquitto")
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	m := map[string]string{}
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		names := regexp.MustCompile("`((?:v[0-9]+|share)/[^`]+)`").FindAllStringSubmatch(cells[0], -1)
		for _, name := range names {
			if len(cells) < 2 || strings.TrimSpace(cells[1]) == "" {
				t.Errorf("%s: why Mosquitto differs is missing", name[1])
			}
			m[name[1]] = strings.TrimSpace(cells[len(cells)-1])
		}
	}
	for name := range m {
		version, id, _ := strings.Cut(name, "/")
		known := false
		for _, v := range versions {
			known = known || v.name == version && all(t, v.parts)[id] != nil
		}
		if !known {
			t.Errorf("a deviation names %s, which is no subtest", name)
		}
	}
	return m
}
