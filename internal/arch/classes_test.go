package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var testName = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// missingTests returns the tests that a document names and that are not there.
func missingTests(doc string) (named int, missing []string, err error) {
	sources := map[string]string{}
	for _, m := range testName.FindAllStringSubmatch(doc, -1) {
		named++
		dir := m[1]
		if _, read := sources[dir]; !read {
			files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
			if err != nil {
				return 0, nil, err
			}
			var all strings.Builder
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					return 0, nil, err
				}
				all.Write(b)
			}
			sources[dir] = all.String()
		}
		if !strings.Contains(sources[dir], "\nfunc "+m[2]+"(") {
			missing = append(missing, m[0])
		}
	}
	return named, missing, nil
}

// What docs/security-classes.md says is tested has that test, and all twelve classes stand there.
func TestSecurityClasses(t *testing.T) {
	b, err := os.ReadFile("../../docs/security-classes.md")
	if err != nil {
		t.Fatal(err)
	}
	named, missing, err := missingTests(string(b))
	if err != nil || named < 50 || len(missing) > 0 {
		t.Errorf("of %d tests these are not there: %v (%v)", named, missing, err)
	}
	if rows := regexp.MustCompile(`(?m)^\| \d+ \|`).FindAllString(string(b), -1); len(rows) != 12 {
		t.Errorf("%d classes stand there", len(rows))
	}
	if _, missing, err := missingTests("`policy.TestDecisions` and `policy.TestThatIsNowhere`"); err != nil || len(missing) != 1 {
		t.Errorf("a test that is nowhere is not missed: %v %v", missing, err)
	}
}
