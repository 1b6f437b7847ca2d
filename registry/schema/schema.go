// Package schema knows Avro, JSON Schema and Protobuf: what a schema is, whether one can read what was written by another, and whether a
// payload is of it.
//
// It is pure: no goroutines, nothing on disk, no network. A schema that refers to others is given them; nothing is ever fetched.
// Schemas and payloads are hostile: what they may cost is bounded in size, depth and steps, and nothing in them can make it panic.
package schema

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Type is the language a schema is written in.
type Type string

// The types, by the names that the registry's API has for them.
const (
	Avro     Type = "AVRO"
	JSON     Type = "JSON"
	Protobuf Type = "PROTOBUF"
)

// ParseType reads a type's name; empty is Avro.
func ParseType(s string) (Type, error) {
	switch t := Type(strings.ToUpper(s)); t {
	case "":
		return Avro, nil
	case Avro, JSON, Protobuf:
		return t, nil
	}
	return "", fmt.Errorf("schema type %q is none of AVRO, JSON, PROTOBUF", clip(s))
}

// Bounds of what is taken.
const (
	MaxText       = 1 << 20 // bytes of one schema
	maxAllText    = 4 << 20 // of one with those it refers to
	maxReferences = 200     // of one, those of its references too
	maxNesting    = 100     // of brackets in a schema's text
	maxTypes      = 20_000  // in one schema: records, fields, symbols, …
	maxSteps      = 200_000 // of one comparison
	// maxCompareDepth is how deep one goes: schemas can be chains of types.
	maxCompareDepth = 500
)

// Import is a schema that another refers to, by the name it has there.
type Import struct{ Name, Text string }

// Schema is a parsed schema. It never changes, and any number of goroutines may use it.
type Schema struct {
	Type Type
	// Text is the schema as it is kept: as it was written, but for space around and, of Avro and JSON Schema, between.
	Text string

	imports []Import
	identity,
	normal string
	avro  *avroType
	json  *jsonSchema
	proto *protoSchema
}

// Parse parses a schema. The imports are all that it refers to, directly or not, each after those that it needs itself.
func Parse(t Type, text string, imports []Import) (*Schema, error) {
	if err := bounded(text, imports); err != nil {
		return nil, err
	}
	s := &Schema{Type: t, Text: strings.TrimSpace(text), imports: imports}
	var err error
	switch t {
	case Avro:
		err = s.parseAvro()
	case JSON:
		err = s.parseJSON()
	case Protobuf:
		err = s.parseProto()
	default:
		err = fmt.Errorf("schema type %q is not known", clip(string(t)))
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func bounded(text string, imports []Import) error {
	all := len(text)
	if strings.TrimSpace(text) == "" {
		return errors.New("the schema is empty")
	}
	for _, i := range imports {
		all += len(i.Text)
		if err := boundedText(i.Text); err != nil {
			return fmt.Errorf("reference %q: %w", clip(i.Name), err)
		}
	}
	switch {
	case len(imports) > maxReferences:
		return fmt.Errorf("the schema refers to %d others, directly or not, at most %d are possible", len(imports), maxReferences)
	case all > maxAllText:
		return fmt.Errorf("the schema and those it refers to have %d bytes, at most %d are possible", all, maxAllText)
	}
	return boundedText(text)
}

// boundedText bounds how deep parsers have to go. Brackets in strings and comments count, too: nobody needs a hundred.
func boundedText(text string) error {
	if len(text) > MaxText {
		return fmt.Errorf("the schema has %d bytes, at most %d are possible", len(text), MaxText)
	}
	if !utf8.ValidString(text) {
		return errors.New("the schema is not UTF-8")
	}
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{', '[', '(', '<':
			if depth++; depth > maxNesting {
				return fmt.Errorf("the schema is nested deeper than %d levels", maxNesting)
			}
		case '}', ']', ')', '>':
			depth = max(0, depth-1)
		}
	}
	return nil
}

// Identity is equal for schemas that differ in layout only: in spaces, of Avro also in the order of attributes, of Protobuf also in comments.
func (s *Schema) Identity() [sha256.Size]byte {
	return sha256.Sum256([]byte(string(s.Type) + s.identity))
}

// Normalised returns the schema with the text that all have that mean the same: JSON objects with their keys in order. Of Protobuf, whose
// identity knows no layout anyway, it is the schema itself.
func (s *Schema) Normalised() (*Schema, error) {
	if s.normal == s.Text {
		return s, nil
	}
	return Parse(s.Type, cmp.Or(s.normal, s.Text), s.imports)
}

// Difference is why data of one schema cannot be read with another.
type Difference struct {
	Type string // READER_FIELD_MISSING_DEFAULT_VALUE, PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL, FIELD_KIND_CHANGED, …
	Path string // in the schema
	Text string
}

func (d Difference) String() string {
	return fmt.Sprintf("{errorType:'%s', description:'%s', path:'%s'}", d.Type, d.Text, d.Path)
}

// maxDifferences is how many are told of one comparison.
const maxDifferences = 50

// differences gathers them, within a bound on the work.
type differences struct {
	list  []Difference
	steps *int // that are left; shared by all that is tried for one comparison
	depth *int // likewise
}

// add notes a difference.
func (d *differences) add(kind, path, format string, args ...any) {
	if len(d.list) < maxDifferences || kind == "TOO_COMPLEX" {
		d.list = append(d.list, Difference{Type: kind, Path: cmp.Or(path, "/"), Text: fmt.Sprintf(format, args...)})
	}
}

// enter counts work, which leave ends; false: it is too much, or too deep.
func (d *differences) enter() bool {
	*d.steps--
	if *d.depth++; *d.depth > maxCompareDepth {
		*d.steps = 0
	}
	return *d.steps > 0
}

func (d *differences) leave() { *d.depth-- }

// charge counts work that enter does not.
func (d *differences) charge(n int) { *d.steps -= n }

// try is a comparison of whose differences only their number matters.
func (d *differences) try() *differences { return &differences{steps: d.steps, depth: d.depth} }

// Compare says what keeps a reader with one schema from reading what was written with another; nothing: it can read all of it.
func Compare(reader, writer *Schema) []Difference { return compareWithin(reader, writer, maxSteps) }

func compareWithin(reader, writer *Schema, steps int) []Difference {
	d := &differences{steps: &steps, depth: new(int)}
	if reader.Type != writer.Type {
		d.add("SCHEMA_TYPE_CHANGED", "/", "the type of the schema changed from %s to %s", writer.Type, reader.Type)
		return d.list
	}
	switch reader.Type {
	case Avro:
		compareAvro(d, reader.avro, writer.avro)
	case JSON:
		compareJSON(d, reader.json, writer.json)
	case Protobuf:
		compareProto(d, reader.proto, writer.proto)
	}
	if steps <= 0 {
		d.add("TOO_COMPLEX", "/", "the schemas are too large to be compared")
	}
	return d.list
}

// Validator tells whether payloads are of a schema. Any number of goroutines may use it.
type Validator interface {
	// Validate returns why a payload is not of the schema, or nil. It keeps nothing of it.
	Validate(payload []byte) error
}

// Validator makes one. It fails where a schema is good for a registry, but cannot be checked with here.
func (s *Schema) Validator() (Validator, error) {
	switch s.Type {
	case Avro:
		return avroValidator{s.avro}, nil
	case JSON:
		return s.jsonValidator()
	default:
		return s.ProtoValidator("")
	}
}

// clip shortens a text of others for a message.
func clip(s string) string {
	if len(s) <= 100 {
		return s
	}
	return strings.ToValidUTF8(s[:100], "") + "…"
}
