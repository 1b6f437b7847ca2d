package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// jsonSchema is a JSON Schema and those it refers to, decoded.
type jsonSchema struct {
	root any
	docs map[string]any // by the address that references resolve to; the root is at jsonRoot
	// patterns are those of properties' names. One that RE2 does not know matches nothing here.
	patterns map[string]*regexp.Regexp
	// siblings of $ref count, as they do from 2019-09 on.
	siblings bool
}

// jsonRoot is the address of a schema that gives itself none. What it refers to by a plain name is beside it.
const jsonRoot = "schema:///root.json"

// jsonDraft is what a schema is taken for that has no $schema: what most producers mean.
var jsonDraft = jsonschema.Draft7

func (s *Schema) parseJSON() error {
	j := &jsonSchema{docs: map[string]any{}, patterns: map[string]*regexp.Regexp{}}
	var err error
	if j.root, err = decodeJSON(s.Text); err != nil {
		return err
	}
	base := jsonRoot
	switch root := j.root.(type) {
	case map[string]any:
		if id, ok := root["$id"].(string); ok {
			base = join(jsonRoot, id)
		}
		draft, _ := root["$schema"].(string)
		j.siblings = strings.Contains(draft, "/draft/20")
	case bool:
	default:
		return fmt.Errorf("a JSON Schema is an object or a boolean, not %s", jsonKind(j.root))
	}
	for _, i := range s.imports {
		v, err := decodeJSON(i.Text)
		if err != nil {
			return fmt.Errorf("reference %q: %w", clip(i.Name), err)
		}
		address, _, _ := strings.Cut(join(base, i.Name), "#")
		j.docs[address] = v
	}
	j.docs[jsonRoot] = j.root
	for _, doc := range j.docs {
		if err := j.look(doc); err != nil {
			return err
		}
	}
	if _, err := j.compile(anyPattern); err != nil {
		return err
	}
	if s.Text, err = compactJSON(s.Text); err != nil {
		return err
	}
	s.json, s.identity = j, s.Text
	s.normal, err = canonicalJSON(j.root)
	return err
}

// join resolves a reference from where it stands.
func join(base, ref string) string {
	b, err := url.Parse(base)
	if err != nil {
		return ref
	}
	r, err := url.Parse(ref)
	if err != nil {
		return ref
	}
	return b.ResolveReference(r).String()
}

// look goes through a document: it finds the patterns, and refuses numbers that a program could work on for ever, since JSON Schema compares
// them exactly.
func (j *jsonSchema) look(v any) error {
	switch v := v.(type) {
	case json.Number:
		return checkNumber(string(v))
	case []any:
		for _, e := range v {
			if err := j.look(e); err != nil {
				return err
			}
		}
	case map[string]any:
		if names, ok := v["patternProperties"].(map[string]any); ok {
			for p := range names {
				if re, err := regexp.Compile(p); err == nil && len(p) <= maxPattern {
					j.patterns[p] = re
				}
			}
		}
		for _, e := range v {
			if err := j.look(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxNumber bounds the digits of a number, and its exponent: what a double can be, and more.
const maxNumber = 400

func checkNumber(s string) error {
	if len(s) > maxNumber {
		return fmt.Errorf("a number has more than %d digits", maxNumber)
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		exponent := strings.TrimLeft(strings.TrimLeft(s[i+1:], "+-"), "0")
		if len(exponent) > 3 || len(exponent) == 3 && exponent > "400" {
			return fmt.Errorf("the number %s is too large or too small", clip(s))
		}
	}
	return nil
}

// compile makes what validates. Nothing is fetched: what a schema refers to is among its references, or an error.
func (j *jsonSchema) compile(patterns jsonschema.RegexpEngine) (*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonDraft)
	c.UseLoader(nothingElse{})
	c.UseRegexpEngine(patterns)
	for at, doc := range j.docs {
		if err := c.AddResource(at, doc); err != nil {
			return nil, errors.New(clipLong(err.Error()))
		}
	}
	compiled, err := c.Compile(jsonRoot)
	if err != nil {
		return nil, errors.New(clipLong(err.Error()))
	}
	return compiled, nil
}

// clipLong shortens what a library says, which may repeat a whole schema, to one line.
func clipLong(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}

// nothingElse is a loader that loads nothing.
type nothingElse struct{}

func (nothingElse) Load(url string) (any, error) {
	return nil, fmt.Errorf("%q is not among the schema's references, and nothing is fetched", clip(url))
}

// maxPattern is the longest regular expression.
const maxPattern = 4096

// pattern is a regular expression that may be unknown here: a registry keeps those of JavaScript, too.
type pattern struct {
	text string
	*regexp.Regexp
}

func (p pattern) String() string            { return p.text }
func (p pattern) MatchString(s string) bool { return p.Regexp != nil && p.Regexp.MatchString(s) }

func anyPattern(s string) (jsonschema.Regexp, error) {
	if len(s) > maxPattern {
		return nil, fmt.Errorf("a pattern is longer than %d bytes", maxPattern)
	}
	return pattern{text: s}, nil
}

func knownPattern(s string) (jsonschema.Regexp, error) {
	if len(s) > maxPattern {
		return nil, fmt.Errorf("a pattern is longer than %d bytes", maxPattern)
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("the pattern %q is not possible here: %w", clip(s), err)
	}
	return pattern{s, re}, nil
}

func (s *Schema) jsonValidator() (Validator, error) {
	compiled, err := s.json.compile(knownPattern)
	if err != nil {
		return nil, err
	}
	if err := affordable(compiled); err != nil {
		return nil, err
	}
	return jsonValidator{compiled}, nil
}

// jsonValidator validates against a compiled schema.
type jsonValidator struct{ compiled *jsonschema.Schema }

// maxValues is how many values a payload may have: what they take in memory is many times their text.
const maxValues = 200_000

func (v jsonValidator) Validate(payload []byte) error {
	if err := scanJSON(payload); err != nil {
		return err
	}
	value, err := decodeJSON(string(payload))
	if err != nil {
		return err
	}
	if err := v.compiled.Validate(value); err != nil {
		var first *jsonschema.ValidationError
		if errors.As(err, &first) {
			return leaf(first)
		}
		return errors.New(clipLong(err.Error()))
	}
	return nil
}

// leaf is the first reason at the bottom of an error, with where it is.
func leaf(e *jsonschema.ValidationError) error {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	text := e.Error()
	if i := strings.Index(text, "at '"); i >= 0 { // after the schema's address, which says nothing
		text = text[i:]
	}
	return errors.New(clipLong(text))
}

// scanJSON bounds what a payload may cost, before anything is made of it.
func scanJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("not JSON: not UTF-8")
	}
	depth, values := 0, 1
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errDeep
			}
			values++
		case c == '}' || c == ']':
			depth--
		case c == ',' || c == ':':
			values++
		case c == '-' || c >= '0' && c <= '9':
			start := i
			for i+1 < len(b) && (b[i+1] >= '0' && b[i+1] <= '9' || strings.IndexByte("+-.eE", b[i+1]) >= 0) {
				i++
			}
			if err := checkNumber(string(b[start:min(i+1, start+maxNumber+1)])); err != nil {
				return err
			}
		}
	}
	if values > maxValues {
		return fmt.Errorf("the payload has more than %d values", maxValues)
	}
	return nil
}
