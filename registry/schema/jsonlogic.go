package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func upper(keyword string) string { return strings.ToUpper(snake(keyword)) }

// The keywords that combine schemas.
var combiners = []string{"allOf", "anyOf", "oneOf"}

func (s jsonAt) list(keyword string) []any {
	l, _ := s.object()[keyword].([]any)
	return l
}

// plain is a schema without what combines others.
func (s jsonAt) plain() jsonAt {
	m := maps.Clone(s.object())
	for _, k := range combiners {
		delete(m, k)
	}
	return s.sub(m)
}

// combined compares schemas of which one at least combines others, and tells whether it did. A product, allOf, may lose parts; a sum, anyOf or
// oneOf, may get more. Where neither says yes the answer is no, though it may be that all parts together would do.
func (c *jsonComparison) combined(r, w jsonAt, path string) bool {
	is := func(s jsonAt) bool {
		return slices.ContainsFunc(combiners, func(k string) bool { return len(s.list(k)) > 0 })
	}
	if !is(r) && !is(w) {
		return false
	}
	base := w.plain()
	if !c.covers(r.plain(), w, base) {
		c.compare(r.plain(), base, path)
	}
	for i, part := range r.list("allOf") {
		if !c.covers(r.sub(part), w, base) {
			c.add("PRODUCT_TYPE_EXTENDED", fmt.Sprintf("%s/allOf/%d", path, i), "a part was added to allOf, or changed")
		}
	}
	for _, sum := range []string{"anyOf", "oneOf"} {
		branches := r.list(sum)
		switch {
		case len(branches) == 0:
		case sum == "oneOf" && len(w.list("oneOf")) == 0 && len(w.list("anyOf")) > 1:
			c.add("COMBINED_TYPE_CHANGED", path+"/oneOf", "anyOf became oneOf")
		default:
			c.sum(r, branches, w, base, path+"/"+sum)
		}
	}
	return true
}

// covers tells whether r takes all of w: because it takes what w's own keywords do, or all of its branches, or one of its parts.
func (c *jsonComparison) covers(r, w, base jsonAt) bool {
	fits := func(v any) bool { return c.fits(r, w.sub(v)) }
	not := func(v any) bool { return !fits(v) }
	all := func(l []any) bool { return len(l) > 0 && !slices.ContainsFunc(l, not) }
	return c.fits(r, base) || slices.ContainsFunc(w.list("allOf"), fits) || all(w.list("anyOf")) || all(w.list("oneOf"))
}

// sum looks for a branch of the reader's for each of the writer's.
func (c *jsonComparison) sum(r jsonAt, branches []any, w, base jsonAt, path string) {
	takes := func(v any) bool {
		return slices.ContainsFunc(branches, func(b any) bool { return c.fits(r.sub(b), w.sub(v)) })
	}
	if takes(base.v) || slices.ContainsFunc(w.list("allOf"), takes) {
		return
	}
	written := slices.Concat(w.list("anyOf"), w.list("oneOf"))
	if len(written) == 0 {
		written = byType(base)
	}
	for i, v := range written {
		if !takes(v) {
			c.add("COMBINED_TYPE_SUBSCHEMAS_CHANGED", path, "no branch takes what branch %d took", i)
			return
		}
	}
}

// byType divides a schema of several types.
func byType(s jsonAt) (list []any) {
	types := typesOf(s)
	for _, t := range jsonTypes {
		if types[t] && !(t == "integer" && types["number"]) {
			m := maps.Clone(s.object())
			if m == nil {
				m = map[string]any{}
			}
			m["type"] = t
			list = append(list, m)
		}
	}
	return list
}

// logic compares not and if.
func (c *jsonComparison) logic(r, w jsonAt, path string) {
	if is, ok := r.object()["not"]; ok {
		was, had := w.object()["not"]
		if !had {
			c.add("NOT_ADDED", path+"/not", "not was added")
		} else if !c.reversed().fits(w.sub(was), r.sub(is)) { // what is refused now must have been refused before
			c.add("NOT_TYPE_EXTENDED", path+"/not", "not refuses more than it did")
		}
	}
	is, ok := r.object()["if"]
	if !ok {
		return
	}
	was, had := w.object()["if"]
	if !had || textOf(is) != textOf(was) {
		c.add("CONDITION_CHANGED", path+"/if", "the condition was added or changed")
		return
	}
	for _, k := range []string{"then", "else"} {
		c.ifBoth(r, w, k, path)
	}
}

// reversed is for what is compared with reader and writer changed.
func (c *jsonComparison) reversed() *jsonComparison {
	return &jsonComparison{differences: c.differences, seen: map[jsonPair]bool{}}
}
