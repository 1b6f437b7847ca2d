// Package migrate reads how a Mosquitto broker is set up, and writes what that is for Millrace: a configuration, a policy, a password file.
//
// Nothing is left out in silence: every option of what it reads is either carried over, or named in a note with the reason and what to do
// instead. What is written passes `millrace config check` as it is, or the note says why not.
//
// The package opens no files itself and writes none: it reads through a function, and returns texts. It starts no goroutines, keeps nothing, and
// never talks to a broker.
package migrate

import (
	"cmp"
	"fmt"
	"slices"
)

// Read gives the text of a file that the configuration names.
type Read func(path string) ([]byte, error)

// List gives the names of the files in a folder that the configuration names.
type List func(folder string) ([]string, error)

// Level says what became of an option.
type Level string

const (
	Changed Level = "changed" // it is carried over, and means something else in part
	Dropped Level = "dropped" // it is not carried over
	Moot    Level = "moot"    // there is nothing to carry over: Millrace does it always, or in another way
	Unsafe  Level = "unsafe"  // it is carried over, and somebody should think about it
)

// Note is what there is to say about an option.
type Note struct {
	Where  string `json:"where"` // file:line
	Option string `json:"option"`
	Level  Level  `json:"level"`
	Text   string `json:"text"`
}

// File is one that the configuration names, to be written beside it.
type File struct {
	Name   string
	Text   []byte
	Secret bool // for the owner's eyes only
}

// Result is what an import comes to.
type Result struct {
	Config string // YAML
	Files  []File
	Notes  []Note // in the order of the file
	Asked  int    // options that were read
}

// notes gathers what there is to say, and where it was read.
type notes struct{ list []Note }

func (n *notes) add(at place, level Level, format string, args ...any) {
	n.list = append(n.list, Note{Where: at.String(), Option: at.option, Level: level, Text: fmt.Sprintf(format, args...)})
}

func (n *notes) sorted() []Note {
	slices.SortStableFunc(n.list, func(a, b Note) int { return cmp.Compare(rank(a.Level), rank(b.Level)) })
	return n.list
}

func rank(l Level) int { return slices.Index([]Level{Unsafe, Dropped, Changed, Moot}, l) }

// place is where an option stands.
type place struct {
	file   string
	line   int
	option string
}

func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}
