package kafkawire

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
		served = append(served, fmt.Sprint(k.ApiKey, " ", strings.ReplaceAll(a.name, "ID", "Id"), " ", k.MinVersion, " ", k.MaxVersion))
	}
	if !slices.Equal(documented, served) {
		t.Errorf("docs/kafka-compatibility.md says\n%s\nApiVersions says\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
	}
}
