package kafkawire

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documentedName writes names as Kafka does.
var documentedName = strings.NewReplacer("ID", "Id", "ACL", "Acl", "SASL", "Sasl", "SCRAM", "Scram")

// The table in the documentation is the table of the server.
func TestDocumentedVersions(t *testing.T) {
	text, err := os.ReadFile("../docs/kafka-compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (\w+) \| (\d+)–(\d+) \|`).FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, strings.Join(row[1:], " "))
	}
	for _, a := range apis() {
		k := advertise(a)
		served = append(served, fmt.Sprint(k.ApiKey, " ", documentedName.Replace(a.name), " ", k.MinVersion, " ", k.MaxVersion))
	}
	if !slices.Equal(documented, served) {
		t.Errorf("docs/kafka-compatibility.md says\n%s\nApiVersions says\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
	}
}

// The tests that the documentation names are there.
func TestDocumentedTests(t *testing.T) {
	text, err := os.ReadFile("../docs/kafka-compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(text), "## What is tested")
	var source strings.Builder
	for _, pattern := range []string{"*_test.go", "group/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
	}
	names := regexp.MustCompile(`(Test|Fuzz)[A-Z]\w+|\w+\.txt`).FindAllString(rows, -1)
	for _, name := range names {
		if strings.HasSuffix(name, ".txt") {
			if _, err := os.Stat("group/testdata/" + name); err != nil {
				t.Errorf("%s is named, and not there", name)
			}
		} else if !strings.Contains(source.String(), "func "+name+"(") {
			t.Errorf("%s is named, and not there", name)
		}
	}
	if len(names) < 30 {
		t.Errorf("only %d tests are named", len(names))
	}
}
