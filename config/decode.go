package config

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds on a document, held before it is parsed: the parser's time grows with the square of long lines and deep nesting.
const (
	maxDocument = 128 << 10
	maxPolicy   = 1 << 20 // of a policy file: some have a rule for each device
	maxLine     = 4 << 10
	maxNesting  = 32
)

// origins remembers where each value was written, by path. What is not there is a default.
type origins map[string]string

func (o origins) of(path string) string {
	for p := path; p != ""; {
		if w, there := o[p]; there {
			return w
		}
		i := strings.LastIndexAny(p, ".[")
		p = p[:max(i, 0)]
	}
	return "default"
}

// merge reads a YAML value into what path names; "" is the whole configuration.
func (c *Config) merge(path, document, name string) Problems {
	return c.mergeUpTo(maxDocument, path, document, name)
}

func (c *Config) mergeUpTo(most int, path, document, name string) Problems {
	m := merger{origin: c.origin, name: name}
	if err := bounded(document, most); err != nil {
		m.problem(nil, path, err.Error(), "")
		return m.problems
	}
	body, err := parse(document)
	if err != nil {
		m.problems = append(m.problems, syntaxProblem(name, err))
		return m.problems
	}
	target := reflect.ValueOf(c).Elem()
	if path != "" {
		target = find(target, path)
	}
	if body == nil {
		return nil // an empty document changes nothing
	}
	m.decode(body, target, path)
	return m.problems
}

func bounded(document string, most int) error {
	if len(document) > most {
		return fmt.Errorf("the document has %d bytes, at most %d are read", len(document), most)
	}
	depth := 0
	for line := range strings.Lines(document) {
		if len(line) > maxLine {
			return fmt.Errorf("a line has %d bytes, at most %d are read", len(line), maxLine)
		}
		for _, b := range []byte(line) {
			switch b {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
		}
		if depth > maxNesting {
			return fmt.Errorf("more than %d brackets are open", maxNesting)
		}
	}
	return nil
}

// parse returns the body of the one document, or nil if it is empty.
func parse(document string) (body ast.Node, err error) {
	defer func() { // the parser is not ours, and the bytes are not ours either
		if r := recover(); r != nil {
			err = fmt.Errorf("the YAML cannot be parsed: %v", r)
		}
	}()
	f, err := parser.ParseBytes([]byte(document), 0)
	if err != nil {
		return nil, err
	}
	for _, d := range f.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			return nil, errors.New("more than one YAML document; write one")
		}
		body = d.Body
	}
	return body, nil
}

// syntaxProblem makes a problem of the parser's error, whose text begins with [line:column].
func syntaxProblem(name string, err error) Problem {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if at, what, ok := strings.Cut(rest, "] "); ok {
			line, _, _ := strings.Cut(at, ":")
			name, text = name+":"+line, what
		}
	}
	return Problem{Where: name, Text: text}
}

// merger decodes one document into a configuration. It goes on after a problem, to find them all.
type merger struct {
	name     string
	origin   origins
	problems Problems
}

func (m *merger) problem(n ast.Node, path, text, fix string) {
	where := m.name
	if n != nil {
		where = position(m.name, n.GetToken())
	}
	m.problems = append(m.problems, Problem{Where: where, Path: path, Text: text, Fix: fix})
}

func (m *merger) decode(n ast.Node, v reflect.Value, path string) {
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		m.problem(n, path, "anchors, aliases and tags are not read", "write the value")
		return
	case *ast.NullNode: // `key:` with nothing after it leaves the default
		m.unlessEmpty(n, v, path)
		return
	}
	if t, ok := v.Addr().Interface().(text); ok {
		m.scalar(n, path, func(s string) error { return t.UnmarshalText([]byte(s)) })
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		m.mapping(n, v, path)
	case reflect.Slice:
		m.sequence(n, v, path)
	case reflect.Map:
		m.table(n, v, path)
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		m.decode(n, fresh.Elem(), path)
		v.Set(fresh)
	case reflect.String:
		m.scalar(n, path, func(s string) error { v.SetString(s); return nil })
	case reflect.Bool:
		m.scalar(n, path, func(s string) error {
			if s != "true" && s != "false" {
				return fmt.Errorf("%q is not true or false", clip(s))
			}
			v.SetBool(s == "true")
			return nil
		})
	case reflect.Int:
		m.scalar(n, path, func(s string) error {
			i, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 32)
			if err != nil || i < 0 {
				return fmt.Errorf("%q is not a whole number from 0 to 2147483647", clip(s))
			}
			v.SetInt(i)
			return nil
		})
	default:
		panic("config: a field of kind " + v.Kind().String()) // the schema is ours
	}
}

func (m *merger) scalar(n ast.Node, path string, set func(string) error) {
	s, ok := scalarText(n)
	if !ok {
		m.problem(n, path, "a single value belongs here", "")
		return
	}
	if err := set(s); err != nil {
		m.problem(n, path, err.Error(), "")
		return
	}
	m.origin[path] = position(m.name, n.GetToken())
}

// scalarText is a scalar as it was written, without quotes: 1_000, 0x10 and yes are what they look like, not what YAML makes of
// them.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.MappingNode:
		if len(n.Values) == 1 {
			return unsplit(n.Values[0])
		}
	case *ast.MappingValueNode:
		return unsplit(n)
	}
	return "", false
}

// unsplit mends what the parser does to `host:port` in a list in braces: it takes a colon without a space after it for a key's.
func unsplit(n *ast.MappingValueNode) (string, bool) {
	key, ok := n.Key.(*ast.StringNode)
	value, ok2 := scalarText(n.Value)
	if !ok || !ok2 || n.Start == nil || key.GetToken().Position.Offset+len(key.Value) != n.Start.Position.Offset ||
		n.Value.GetToken().Position.Offset != n.Start.Position.Offset+1 {
		return "", false
	}
	return key.Value + ":" + value, true
}

// entriesOf are a mapping's entries; ok: it is one.
func entriesOf(n ast.Node) (entries []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func (m *merger) mapping(n ast.Node, v reflect.Value, path string) {
	entries, ok := entriesOf(n)
	if !ok {
		m.problem(n, path, "a mapping belongs here", "write "+strings.Join(keys(v.Type()), ", ")+" below it")
		return
	}
	for _, e := range entries {
		key, ok := scalarText(e.Key)
		field, known := fieldOf(v, key)
		if !ok || !known {
			m.problem(e.Key, join(path, clip(key)), "unknown key", didYouMean(key, keys(v.Type())))
			continue
		}
		m.decode(e.Value, field, join(path, key))
	}
	m.unlessEmpty(n, v, path)
}

// unlessEmpty refuses a policy with nothing in it: whoever has written the key does not mean that everything is allowed.
func (m *merger) unlessEmpty(n ast.Node, v reflect.Value, path string) {
	if p, ok := v.Addr().Interface().(*Policy); ok && !p.Configured() && len(m.problems) == 0 {
		m.problem(n, path, emptyPolicy, emptyPolicyFix)
	}
}

// table replaces a mapping from names to values as a whole.
func (m *merger) table(n ast.Node, v reflect.Value, path string) {
	entries, ok := entriesOf(n)
	if !ok {
		m.problem(n, path, "a mapping belongs here", "write names, and below each its list")
		return
	}
	for p := range m.origin {
		if strings.HasPrefix(p, path+".") {
			delete(m.origin, p)
		}
	}
	table := reflect.MakeMapWithSize(v.Type(), len(entries))
	for _, e := range entries {
		key, ok := scalarText(e.Key)
		if !ok {
			m.problem(e.Key, path, "a name belongs here", "")
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		m.decode(e.Value, item, join(path, key))
		table.SetMapIndex(reflect.ValueOf(key), item)
	}
	m.origin[path] = position(m.name, n.GetToken())
	v.Set(table)
}

// sequence replaces a list as a whole.
func (m *merger) sequence(n ast.Node, v reflect.Value, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		m.problem(n, path, "a list belongs here", "write it in brackets: [ … ]")
		return
	}
	for p := range m.origin {
		if strings.HasPrefix(p, path+"[") {
			delete(m.origin, p)
		}
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		at := path + "[" + itoa(i) + "]"
		m.origin[at] = position(m.name, item.GetToken())
		m.decode(item, list.Index(i), at)
	}
	m.origin[path] = position(m.name, n.GetToken())
	v.Set(list)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keys lists a struct's keys in order.
func keys(t reflect.Type) (ks []string) {
	for f := range fields(t) {
		ks = append(ks, f.Tag.Get("yaml"))
	}
	return ks
}

func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for f := range fields(v.Type()) {
		if f.Tag.Get("yaml") == key {
			return v.FieldByIndex(f.Index), true
		}
	}
	return reflect.Value{}, false
}

// find returns the field that a path of known keys names.
func find(v reflect.Value, path string) reflect.Value {
	for key := range strings.SplitSeq(path, ".") {
		f, ok := fieldOf(v, key)
		if !ok {
			panic("config: no such path: " + path) // paths come from the schema
		}
		v = f
	}
	return v
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
