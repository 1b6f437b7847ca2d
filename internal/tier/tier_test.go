package tier

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What uses Dear is run without the race detector, too, or most of its rounds would never run: the Makefile has to name it.
func TestDearTestsAreRunBothWays(t *testing.T) {
	root := filepath.Join("..", "..")
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^DEAR := (\S+)$`).FindSubmatch(makefile)
	if line == nil || !strings.Contains(string(makefile), "$(GO) test -run '^($(DEAR))$$'") {
		t.Fatal("the Makefile does not run what DEAR names")
	}
	named := strings.Split(string(line[1]), "|")
	var found []string
	function := regexp.MustCompile(`(?m)^func (Test\w+)`)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go") || strings.Contains(path, filepath.Join("internal", "tier")):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, at := range regexp.MustCompile(`tier\.Dear\(`).FindAllIndex(text, -1) {
			tests := function.FindAllSubmatch(text[:at[0]], -1)
			found = append(found, string(tests[len(tests)-1][1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	slices.Sort(named)
	if !slices.Equal(found, named) {
		t.Errorf("tier.Dear is used by %v, and the Makefile's DEAR names %v", found, named)
	}
}
