//go:build ignore

// Command generate builds the web app: `go generate ./console/web`.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/millrace-io/millrace/internal/webbuild"
)

func main() {
	log.SetFlags(0)
	dir, err := os.Getwd()
	if err != nil {
		log.Fatal(err)
	}
	files, err := webbuild.Build(dir)
	if err != nil {
		log.Fatal(err)
	}
	dist := filepath.Join(dir, "dist")
	if err := os.RemoveAll(dist); err != nil {
		log.Fatal(err)
	}
	if err := os.MkdirAll(dist, 0o755); err != nil {
		log.Fatal(err)
	}
	size := 0
	for name, b := range files {
		size += len(b)
		if err := os.WriteFile(filepath.Join(dist, name), b, 0o644); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("%d files, %d KB\n", len(files), size>>10)
}
