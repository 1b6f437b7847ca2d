package schema

import (
	"encoding/json"
	"maps"
	"math/big"
	"net/url"
	"strconv"
	"strings"
)

// jsonComparison tells whether every value that one schema, the writer's, takes is taken by another one, the reader's. It looks at
// keywords, one by one, and at what is open: an object takes any property that it does not speak of, unless additionalProperties
// says otherwise, so a property that is added to an open object narrows it.
type jsonComparison struct {
	*differences
	seen  map[jsonPair]bool
	order []jsonPair
}

// jsonPair is two schemas, by the text of their references: what is looked at again is looked at through one.
type jsonPair struct{ r, w string }

func compareJSON(d *differences, reader, writer *jsonSchema) {
	c := jsonComparison{differences: d, seen: map[jsonPair]bool{}}
	c.compare(jsonAt{reader.root, jsonRoot, reader}, jsonAt{writer.root, jsonRoot, writer}, "#")
}

// jsonAt is a schema, what it stands in, and the address that its references are relative to.
type jsonAt struct {
	v    any
	base string
	in   *jsonSchema
}

func (s jsonAt) object() map[string]any {
	m, _ := s.v.(map[string]any)
	return m
}

// sub is a schema within it.
func (s jsonAt) sub(v any) jsonAt { return jsonAt{v, s.base, s.in} }

// annotations are keywords that say nothing about which values are taken.
var annotations = map[string]bool{"$schema": true, "$id": true, "id": true, "$comment": true, "$anchor": true, "title": true, "description": true,
	"default": true, "examples": true, "readOnly": true, "writeOnly": true, "deprecated": true, "$defs": true, "definitions": true}

// everything tells whether a schema takes all there is.
func (s jsonAt) everything() bool {
	if b, ok := s.v.(bool); ok {
		return b
	}
	for k := range s.object() {
		if !annotations[k] {
			return false
		}
	}
	return true
}

func (s jsonAt) nothing() bool { b, ok := s.v.(bool); return ok && !b }

// resolve follows references. What leads nowhere, or in a circle, is what it was.
func (s jsonAt) resolve() (to jsonAt, ref string) {
	for range maxNesting {
		m := s.object()
		if id, ok := m["$id"].(string); ok {
			s.base = join(s.base, id)
		}
		text, ok := m["$ref"].(string)
		if !ok {
			return s, ref
		}
		if s.in.siblings && hasSiblings(m) {
			product := maps.Clone(m)
			delete(product, "$ref")
			product["allOf"] = append([]any{map[string]any{"$ref": text}}, s.list("allOf")...)
			return s.sub(product), ref
		}
		at := join(s.base, text)
		next, found := s.in.find(at)
		if !found {
			return s, at
		}
		s, ref = next, at
	}
	return s, ref
}

// hasSiblings tells whether a schema demands more than what it refers to.
func hasSiblings(m map[string]any) bool {
	for k := range m {
		if k != "$ref" && !annotations[k] {
			return true
		}
	}
	return false
}

// find looks a reference up: in the documents by their addresses or their $id, then by JSON pointer or anchor.
func (j *jsonSchema) find(at string) (jsonAt, bool) {
	address, fragment, _ := strings.Cut(at, "#")
	doc, ok := j.docs[address]
	if !ok {
		for base, d := range j.docs {
			if id, is := (jsonAt{v: d}).object()["$id"].(string); is && strings.TrimSuffix(join(base, id), "#") == address {
				doc, ok = d, true
				break
			}
		}
	}
	if !ok {
		return jsonAt{}, false
	}
	fragment, err := url.PathUnescape(fragment)
	if err != nil {
		return jsonAt{}, false
	}
	v := doc
	if fragment == "" {
		return jsonAt{v, address, j}, true
	}
	if !strings.HasPrefix(fragment, "/") {
		v = anchored(doc, fragment, maxNesting)
		return jsonAt{v, address, j}, v != nil
	}
	for _, token := range strings.Split(fragment, "/")[1:] {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		switch in := v.(type) {
		case map[string]any:
			v = in[token]
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(in) {
				return jsonAt{}, false
			}
			v = in[i]
		default:
			return jsonAt{}, false
		}
	}
	return jsonAt{v, address, j}, v != nil
}

func anchored(v any, name string, depth int) any {
	if depth == 0 {
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		if v["$anchor"] == name || v["$dynamicAnchor"] == name || v["$id"] == "#"+name {
			return v
		}
		for _, e := range v {
			if found := anchored(e, name, depth-1); found != nil {
				return found
			}
		}
	case []any:
		for _, e := range v {
			if found := anchored(e, name, depth-1); found != nil {
				return found
			}
		}
	}
	return nil
}

// fits tells whether a comparison finds nothing.
func (c *jsonComparison) fits(r, w jsonAt) bool {
	before, mark := c.differences, len(c.order)
	c.differences = before.try()
	c.compare(r, w, "")
	fits := len(c.list) == 0 && *c.steps > 0
	c.differences = before
	if !fits {
		for _, pair := range c.order[mark:] {
			delete(c.seen, pair)
		}
		c.order = c.order[:mark]
	}
	return fits
}

func (c *jsonComparison) compare(r, w jsonAt, path string) {
	defer c.leave()
	if !c.enter() {
		return
	}
	r, atR := r.resolve()
	w, atW := w.resolve()
	if atR != "" || atW != "" {
		pair := jsonPair{atR + "\x00" + pathIf(atR == "", path), atW + "\x00" + pathIf(atW == "", path)}
		if c.seen[pair] {
			return
		}
		c.seen[pair], c.order = true, append(c.order, pair)
	}
	switch {
	case r.everything() || w.nothing():
		return
	case r.nothing():
		c.add("TYPE_CHANGED", path, "nothing is allowed any more")
		return
	}
	if is, was := r.object()["$ref"], w.object()["$ref"]; is != nil && textOf(is) != textOf(was) { // one that leads nowhere
		c.add("REFERENCE_CHANGED", path+"/$ref", "the reference changed, and does not lead to a schema that could be compared")
	}
	if c.combined(r, w, path) {
		return
	}
	c.types(r, w, path)
	c.values(r, w, path)
	c.strings(r, w, path)
	c.numbers(r, w, path)
	c.objects(r, w, path)
	c.arrays(r, w, path)
	c.logic(r, w, path)
}

func pathIf(is bool, path string) string {
	if is {
		return path
	}
	return ""
}

var jsonTypes = []string{"null", "boolean", "integer", "number", "string", "array", "object"}

// typesOf are the types that a schema takes; integer is part of number.
func typesOf(s jsonAt) map[string]bool {
	types := map[string]bool{}
	switch t := s.object()["type"].(type) {
	case string:
		types[t] = true
	case []any:
		for _, e := range t {
			if name, ok := e.(string); ok {
				types[name] = true
			}
		}
	default:
		for _, name := range typesOfValues(s) {
			types[name] = true
		}
	}
	if types["number"] {
		types["integer"] = true
	}
	return types
}

// typesOfValues are the types that const or enum leave, or all.
func typesOfValues(s jsonAt) []string {
	values, ok := valuesOf(s)
	if !ok {
		return jsonTypes
	}
	var types []string
	for _, v := range values {
		types = append(types, typeOfValue(v))
	}
	return types
}

func typeOfValue(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		if n := rat(v); n != nil && n.IsInt() {
			return "integer"
		}
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}

func (c *jsonComparison) types(r, w jsonAt, path string) {
	have := typesOf(r)
	common, missing := false, ""
	for _, t := range jsonTypes {
		if !typesOf(w)[t] {
			continue
		}
		if have[t] {
			common = true
		} else if missing == "" || missing == "integer" {
			missing = t
		}
	}
	switch {
	case missing == "":
	case common:
		c.add("TYPE_NARROWED", path, "the type %s is not allowed any more", missing)
	default:
		c.add("TYPE_CHANGED", path, "the type %s is not allowed any more", missing)
	}
}

// valuesOf are the values of const or enum.
func valuesOf(s jsonAt) ([]any, bool) {
	m := s.object()
	if v, ok := m["const"]; ok {
		return []any{v}, true
	}
	list, ok := m["enum"].([]any)
	return list, ok
}

func (c *jsonComparison) values(r, w jsonAt, path string) {
	have, bound := valuesOf(r)
	if !bound {
		return
	}
	written, listed := valuesOf(w)
	if !listed {
		c.add("ENUM_ARRAY_ADDED", path, "only some values are allowed now")
		return
	}
	c.charge((len(have) + len(written)) / 8)
	in := map[string]bool{}
	for _, v := range have {
		in[textOf(v)] = true
	}
	for _, v := range written {
		if !in[textOf(v)] {
			c.add("ENUM_ARRAY_NARROWED", path+"/enum", "the value %s is not allowed any more", clip(textOf(v)))
			return
		}
	}
}

func textOf(v any) string {
	if n, ok := v.(json.Number); ok {
		if r := rat(n); r != nil {
			return r.RatString()
		}
	}
	text, err := canonicalJSON(v)
	if err != nil {
		return ""
	}
	return text
}

// rat is a number's exact value; nil: it is none, or too large.
func rat(v any) *big.Rat {
	n, ok := v.(json.Number)
	if !ok || checkNumber(string(n)) != nil {
		return nil
	}
	r, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return nil
	}
	return r
}

// limit compares a bound: most is one from above, such as maxLength, which may only grow.
func (c *jsonComparison) limit(r, w jsonAt, path, keyword string, most bool) {
	is, was := rat(r.object()[keyword]), rat(w.object()[keyword])
	name := upper(keyword)
	switch {
	case is == nil:
	case was == nil:
		c.add(name+"_ADDED", path+"/"+keyword, "%s is %s now, and was not limited", keyword, clip(is.RatString()))
	case most && is.Cmp(was) < 0:
		c.add(name+"_DECREASED", path+"/"+keyword, "%s was %s, and is %s", keyword, clip(was.RatString()), clip(is.RatString()))
	case !most && is.Cmp(was) > 0:
		c.add(name+"_INCREASED", path+"/"+keyword, "%s was %s, and is %s", keyword, clip(was.RatString()), clip(is.RatString()))
	}
}

func snake(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (c *jsonComparison) strings(r, w jsonAt, path string) {
	if !typesOf(w)["string"] {
		return
	}
	c.limit(r, w, path, "maxLength", true)
	c.limit(r, w, path, "minLength", false)
	is, ok := r.object()["pattern"].(string)
	was, had := w.object()["pattern"].(string)
	switch {
	case !ok || had && is == was:
	case had:
		c.add("PATTERN_CHANGED", path+"/pattern", "the pattern changed")
	default:
		c.add("PATTERN_ADDED", path+"/pattern", "a pattern was added")
	}
}

func (c *jsonComparison) numbers(r, w jsonAt, path string) {
	if !typesOf(w)["integer"] {
		return
	}
	c.limit(r, w, path, "maximum", true)
	c.limit(r, w, path, "minimum", false)
	c.limit(r, w, path, "exclusiveMaximum", true)
	c.limit(r, w, path, "exclusiveMinimum", false)
	is, was := rat(r.object()["multipleOf"]), rat(w.object()["multipleOf"])
	switch {
	case is == nil || is.Sign() <= 0:
	case was == nil:
		c.add("MULTIPLE_OF_ADDED", path+"/multipleOf", "multipleOf was added")
	case !new(big.Rat).Quo(was, is).IsInt():
		c.add("MULTIPLE_OF_CHANGED", path+"/multipleOf", "what was a multiple of %s need not be one of %s", clip(was.RatString()), clip(is.RatString()))
	}
}
