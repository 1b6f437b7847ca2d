package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// avroKind is what a type of Avro is at bottom.
type avroKind string

const (
	avroNull    avroKind = "null"
	avroBoolean avroKind = "boolean"
	avroInt     avroKind = "int"
	avroLong    avroKind = "long"
	avroFloat   avroKind = "float"
	avroDouble  avroKind = "double"
	avroBytes   avroKind = "bytes"
	avroString  avroKind = "string"
	avroRecord  avroKind = "record"
	avroEnum    avroKind = "enum"
	avroArray   avroKind = "array"
	avroMap     avroKind = "map"
	avroFixed   avroKind = "fixed"
	avroUnion   avroKind = "union"
)

// avroType is one type of a schema; a named one stands wherever its name does, so types can be circles.
type avroType struct {
	kind     avroKind
	name     string   // full, of records, enums and fixeds
	aliases  []string // full
	fields   []avroField
	symbols  []string
	fallback string // default of an enum
	hasFall  bool
	size     int64
	of       *avroType   // items of an array, values of a map
	branches []*avroType // of a union
	decimal  *avroDecimal
}

type avroField struct {
	name    string
	aliases []string
	typ     *avroType
	hasFall bool
}

// avroDecimal is a logical type: numbers whose scales differ are not the same numbers.
type avroDecimal struct{ precision, scale int64 }

func (t *avroType) String() string {
	if t.name != "" {
		return string(t.kind) + " " + t.name
	}
	return string(t.kind)
}

// short is a full name without its namespace.
func short(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// avroParser parses a schema and what it refers to. Names that are not known are errors: Avro has no forward references.
type avroParser struct {
	names map[string]*avroType
	left  int // types and fields that may come yet
}

func (s *Schema) parseAvro() error {
	p := &avroParser{names: map[string]*avroType{}, left: maxTypes}
	for _, i := range s.imports {
		v, err := decodeJSON(i.Text)
		if err == nil {
			_, err = p.parse(v, "")
		}
		if err != nil {
			return fmt.Errorf("reference %q: %w", clip(i.Name), err)
		}
	}
	if !strings.ContainsAny(s.Text, `{["`) { // a bare name
		s.Text = `"` + s.Text + `"`
	}
	v, err := decodeJSON(s.Text)
	if err != nil {
		return err
	}
	if s.avro, err = p.parse(v, ""); err != nil {
		return err
	}
	if s.Text, err = compactJSON(s.Text); err != nil {
		return err
	}
	s.identity, err = canonicalJSON(v)
	s.normal = s.identity
	return err
}

// decodeJSON decodes one value, numbers as they are written.
func decodeJSON(text string) (v any, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: something follows the value")
	}
	return v, nil
}

func compactJSON(text string) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return "", fmt.Errorf("not JSON: %w", err)
	}
	return b.String(), nil
}

// canonicalJSON writes a value with the keys of objects in order.
func canonicalJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", fmt.Errorf("encode schema: %w", err)
	}
	return strings.TrimSpace(b.String()), nil
}

var avroPrimitives = map[string]*avroType{}

func init() {
	for _, k := range []avroKind{avroNull, avroBoolean, avroInt, avroLong, avroFloat, avroDouble, avroBytes, avroString} {
		avroPrimitives[string(k)] = &avroType{kind: k}
	}
}

// parse makes the type of a JSON value, inside a namespace.
func (p *avroParser) parse(v any, space string) (*avroType, error) {
	if p.left--; p.left < 0 {
		return nil, fmt.Errorf("the schema has more than %d types and fields", maxTypes)
	}
	switch v := v.(type) {
	case string:
		return p.named(v, space)
	case []any:
		return p.union(v, space)
	case map[string]any:
		return p.complex(v, space)
	}
	return nil, fmt.Errorf("a type is a name, an object or a list, not %s", jsonKind(v))
}

func jsonKind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	}
	return "an object"
}

func (p *avroParser) named(name, space string) (*avroType, error) {
	if t := avroPrimitives[name]; t != nil {
		return t, nil
	}
	full := name
	if !strings.Contains(name, ".") && space != "" {
		full = space + "." + name
	}
	if t := p.names[full]; t != nil {
		return t, nil
	}
	if t := p.names[name]; t != nil { // of no namespace
		return t, nil
	}
	return nil, fmt.Errorf("%q is not defined", clip(full))
}

func (p *avroParser) union(list []any, space string) (*avroType, error) {
	u := &avroType{kind: avroUnion}
	seen := map[string]bool{}
	for _, v := range list {
		t, err := p.parse(v, space)
		if err != nil {
			return nil, err
		}
		if t.kind == avroUnion {
			return nil, errors.New("a union is directly in a union")
		}
		if key := t.String(); seen[key] {
			return nil, fmt.Errorf("%s is in a union twice", clip(key))
		}
		seen[t.String()] = true
		u.branches = append(u.branches, t)
	}
	return u, nil
}

func (p *avroParser) complex(m map[string]any, space string) (*avroType, error) {
	inner, isName := m["type"].(string)
	if !isName {
		if _, there := m["type"]; !there {
			return nil, errors.New("an object has no type")
		}
		return p.parse(m["type"], space) // {"type": {…}}
	}
	switch k := avroKind(inner); k {
	case avroRecord, "error", avroEnum, avroFixed:
		return p.define(k, m, space)
	case avroArray, avroMap:
		key := map[avroKind]string{avroArray: "items", avroMap: "values"}[k]
		if _, there := m[key]; !there {
			return nil, fmt.Errorf("%s has no %s", k, key)
		}
		of, err := p.parse(m[key], space)
		return &avroType{kind: k, of: of}, err
	}
	t, err := p.named(inner, space)
	if err == nil && t.kind == avroBytes && m["logicalType"] == "decimal" {
		return &avroType{kind: avroBytes, decimal: decimalOf(m)}, nil
	}
	return t, err
}

// decimalOf reads a decimal's attributes; one that is not valid is, by Avro's rules, no decimal.
func decimalOf(m map[string]any) *avroDecimal {
	precision, ok := integer(m["precision"])
	if !ok || precision < 1 {
		return nil
	}
	scale, ok := integer(m["scale"])
	if m["scale"] != nil && (!ok || scale < 0 || scale > precision) {
		return nil
	}
	return &avroDecimal{precision, scale}
}

func integer(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return i, err == nil
}

// define makes a named type, which is known from its name on: a record may have fields of its own type.
func (p *avroParser) define(k avroKind, m map[string]any, space string) (*avroType, error) {
	name, _ := m["name"].(string)
	if given, ok := m["namespace"].(string); ok {
		space = given
	}
	full, space, err := fullName(name, space)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k, err)
	}
	if k == "error" {
		k = avroRecord
	}
	t := &avroType{kind: k, name: full}
	if p.names[full] != nil || avroPrimitives[full] != nil {
		return nil, fmt.Errorf("%q is defined twice", clip(full))
	}
	p.names[full] = t
	for _, a := range stringsOf(m["aliases"]) {
		alias, _, err := fullName(a, space)
		if err != nil {
			return nil, fmt.Errorf("alias of %s: %w", clip(full), err)
		}
		t.aliases = append(t.aliases, alias)
	}
	switch k {
	case avroRecord:
		err = p.record(t, m, space)
	case avroEnum:
		err = p.enum(t, m)
	case avroFixed:
		var ok bool
		if t.size, ok = integer(m["size"]); !ok || t.size < 0 || t.size > 1<<30 {
			err = errors.New("its size is not a number of bytes")
		}
		if m["logicalType"] == "decimal" {
			t.decimal = decimalOf(m)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", k, clip(full), err)
	}
	return t, nil
}

func stringsOf(v any) (ss []string) {
	list, _ := v.([]any)
	for _, e := range list {
		if s, ok := e.(string); ok {
			ss = append(ss, s)
		}
	}
	return ss
}

// fullName is a name with its namespace, and the namespace of what is inside.
func fullName(name, space string) (full, inside string, err error) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		space, name = name[:i], name[i+1:]
	}
	if !avroName(name) {
		return "", "", fmt.Errorf("%q is not a name", clip(name))
	}
	if space == "" {
		return name, "", nil
	}
	for part := range strings.SplitSeq(space, ".") {
		if !avroName(part) {
			return "", "", fmt.Errorf("%q is not a namespace", clip(space))
		}
	}
	return space + "." + name, space, nil
}

func avroName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return s != ""
}

func (p *avroParser) record(t *avroType, m map[string]any, space string) error {
	fields, ok := m["fields"].([]any)
	if !ok {
		return errors.New("it has no list of fields")
	}
	seen := map[string]bool{}
	for _, v := range fields {
		fm, ok := v.(map[string]any)
		name, _ := fm["name"].(string)
		switch {
		case !ok || !avroName(name):
			return fmt.Errorf("a field has no name, or %q, which is none", clip(name))
		case seen[name]:
			return fmt.Errorf("the field %q is there twice", clip(name))
		case fm["type"] == nil:
			return fmt.Errorf("the field %q has no type", clip(name))
		}
		seen[name] = true
		typ, err := p.parse(fm["type"], space)
		if err == nil && typ.kind == avroBytes && fm["logicalType"] == "decimal" {
			typ = &avroType{kind: avroBytes, decimal: decimalOf(fm)} // where many write it
		}
		if err != nil {
			return fmt.Errorf("field %q: %w", clip(name), err)
		}
		f := avroField{name: name, typ: typ, aliases: stringsOf(fm["aliases"])}
		var fallback any
		if fallback, f.hasFall = fm["default"]; f.hasFall && !avroDefault(fallback, typ, 0) {
			return fmt.Errorf("field %q: its default is not of its type, %s", clip(name), clip(typ.String()))
		}
		t.fields = append(t.fields, f)
	}
	return nil
}

func (p *avroParser) enum(t *avroType, m map[string]any) error {
	list, ok := m["symbols"].([]any)
	if t.symbols = stringsOf(m["symbols"]); !ok || len(t.symbols) != len(list) {
		return errors.New("it has no list of symbols")
	}
	if p.left -= len(t.symbols); p.left < 0 {
		return fmt.Errorf("the schema has more than %d types and symbols", maxTypes)
	}
	seen := map[string]bool{}
	for _, s := range t.symbols {
		if !avroName(s) || seen[s] {
			return fmt.Errorf("the symbol %q is no name, or there twice", clip(s))
		}
		seen[s] = true
	}
	if v, there := m["default"]; there {
		t.fallback, t.hasFall = v.(string)
		if !t.hasFall || !slices.Contains(t.symbols, t.fallback) {
			return errors.New("its default is none of its symbols")
		}
	}
	return nil
}

// avroDefault tells whether a JSON value can be a type's default.
func avroDefault(v any, t *avroType, depth int) bool {
	if depth > maxNesting {
		return false
	}
	switch t.kind {
	case avroNull:
		return v == nil
	case avroBoolean:
		_, ok := v.(bool)
		return ok
	case avroInt:
		n, ok := integer(v)
		return ok && n == int64(int32(n))
	case avroLong:
		_, ok := integer(v)
		return ok
	case avroFloat, avroDouble:
		switch v := v.(type) {
		case json.Number:
			return true
		case string:
			return v == "NaN" || v == "Infinity" || v == "-Infinity"
		}
		return false
	case avroBytes, avroString, avroFixed:
		_, ok := v.(string)
		return ok
	case avroEnum:
		s, ok := v.(string)
		return ok && slices.Contains(t.symbols, s)
	case avroArray:
		list, ok := v.([]any)
		return ok && !slices.ContainsFunc(list, func(e any) bool { return !avroDefault(e, t.of, depth+1) })
	case avroMap:
		m, ok := v.(map[string]any)
		for _, e := range m {
			ok = ok && avroDefault(e, t.of, depth+1)
		}
		return ok
	case avroUnion:
		return slices.ContainsFunc(t.branches, func(b *avroType) bool { return avroDefault(v, b, depth+1) })
	case avroRecord:
		m, ok := v.(map[string]any)
		for i := range t.fields {
			f := &t.fields[i]
			e, there := m[f.name]
			ok = ok && (there && avroDefault(e, f.typ, depth+1) || !there && f.hasFall)
		}
		return ok
	}
	return false
}
