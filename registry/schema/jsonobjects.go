package schema

import (
	"fmt"
	"maps"
	"slices"
)

// schemasOf are those under a keyword, by name.
func (s jsonAt) schemasOf(keyword string) map[string]any {
	m, _ := s.object()[keyword].(map[string]any)
	return m
}

// extra is what an object takes for properties that it does not speak of.
func (s jsonAt) extra() jsonAt {
	if v, ok := s.object()["additionalProperties"]; ok {
		return s.sub(v)
	}
	return s.sub(true)
}

// of is what an object takes for a property that is not among its properties.
func (s jsonAt) of(name string) jsonAt {
	under := s.schemasOf("patternProperties")
	for _, p := range sortedKeys(under) {
		if re := s.in.patterns[p]; re != nil && re.MatchString(name) {
			return s.sub(under[p])
		}
	}
	return s.extra()
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

func (c *jsonComparison) objects(r, w jsonAt, path string) {
	if !typesOf(w)["object"] {
		return
	}
	c.limit(r, w, path, "maxProperties", true)
	c.limit(r, w, path, "minProperties", false)
	is, was := r.schemasOf("properties"), w.schemasOf("properties")
	c.charge((len(is) + len(was)) / 8)
	for _, name := range sortedKeys(was) {
		at := path + "/properties/" + name
		if v, kept := is[name]; kept {
			c.compare(r.sub(v), w.sub(was[name]), at)
		} else {
			c.removed(r.of(name), w.sub(was[name]), "PROPERTY", at)
		}
	}
	for _, name := range sortedKeys(is) {
		if _, known := was[name]; !known {
			c.added(r.sub(is[name]), w.of(name), "PROPERTY", path+"/properties/"+name)
		}
	}
	c.required(r, w, path)
	c.patterns(r, w, path)
	c.rest(r.extra(), w.extra(), "ADDITIONAL_PROPERTIES", path+"/additionalProperties")
	c.dependencies(r, w, path)
	c.ifBoth(r, w, "propertyNames", path)
	c.ifBoth(r, w, "unevaluatedProperties", path)
}

// removed compares what a property, or an item, had to be with what it may be now that nothing speaks of it.
func (c *jsonComparison) removed(now, was jsonAt, what, path string) {
	switch {
	case now.everything() || was.nothing():
	case now.nothing():
		c.add(what+"_REMOVED_FROM_CLOSED_CONTENT_MODEL", path, "it was removed, and nothing is taken that the schema does not name")
	case !c.fits(now, was):
		c.add(what+"_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", path, "it was removed, and what else is taken is not what it was")
	}
}

// added compares what a property, or an item, must be with what it may have been while nothing spoke of it.
func (c *jsonComparison) added(is, before jsonAt, what, path string) {
	switch {
	case before.nothing():
	case before.everything():
		if !is.everything() {
			c.add(what+"_ADDED_TO_OPEN_CONTENT_MODEL", path, "it was added, and could have been anything before")
		}
	case !c.fits(is, before):
		c.add(what+"_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", path, "it was added, and could have been something else before")
	}
}

// rest compares what is taken beyond what is named.
func (c *jsonComparison) rest(r, w jsonAt, what, path string) {
	switch {
	case r.everything() || w.nothing():
	case r.nothing():
		c.add(what+"_REMOVED", path, "what the schema does not name is not allowed any more")
	case w.everything():
		c.add(what+"_NARROWED", path, "what the schema does not name could be anything")
	default:
		c.compare(r, w, path)
	}
}

func (c *jsonComparison) required(r, w jsonAt, path string) {
	was := stringsOf(w.object()["required"])
	for _, name := range stringsOf(r.object()["required"]) {
		if slices.Contains(was, name) {
			continue
		}
		v, is := r.schemasOf("properties")[name]
		_, known := w.schemasOf("properties")[name]
		property, _ := r.sub(v).resolve()
		own, _ := v.(map[string]any)
		_, fallback := property.object()["default"]
		if _, here := own["default"]; here || fallback {
			continue
		}
		kind := "REQUIRED_ATTRIBUTE_ADDED"
		if is && !known {
			kind = "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL"
			if w.of(name).everything() {
				kind = "REQUIRED_ATTRIBUTE_ADDED"
			}
		}
		c.add(kind, path+"/required/"+name, "'%s' is required now, and has no default", clip(name))
	}
}

func (c *jsonComparison) patterns(r, w jsonAt, path string) {
	is, was := r.schemasOf("patternProperties"), w.schemasOf("patternProperties")
	for _, p := range sortedKeys(is) {
		at := path + "/patternProperties/" + p
		if v, had := was[p]; had {
			c.compare(r.sub(is[p]), w.sub(v), at)
		} else {
			c.added(r.sub(is[p]), w.extra(), "PATTERN_PROPERTY", at)
		}
	}
	for _, p := range sortedKeys(was) {
		if _, kept := is[p]; !kept {
			c.removed(r.extra(), w.sub(was[p]), "PATTERN_PROPERTY", path+"/patternProperties/"+p)
		}
	}
}

// dependencies of draft 7, and those that it was divided into later.
func (c *jsonComparison) dependencies(r, w jsonAt, path string) {
	for _, keyword := range []string{"dependencies", "dependentRequired", "dependentSchemas"} {
		is, was := r.schemasOf(keyword), w.schemasOf(keyword)
		for _, name := range sortedKeys(is) {
			at := path + "/" + keyword + "/" + name
			list, isList := is[name].([]any)
			had, known := was[name]
			before, wasList := had.([]any)
			switch {
			case !known || isList != wasList:
				c.add("DEPENDENCY_ADDED", at, "what '%s' demands was added or changed", clip(name))
			case !isList:
				c.compare(r.sub(is[name]), w.sub(had), at)
			case slices.ContainsFunc(list, func(v any) bool {
				return !slices.ContainsFunc(before, func(b any) bool { return textOf(v) == textOf(b) })
			}):
				c.add("DEPENDENCY_ARRAY_EXTENDED", at, "'%s' demands more than it did", clip(name))
			}
		}
	}
}

// ifBoth compares the schemas under a keyword; one that was added narrows.
func (c *jsonComparison) ifBoth(r, w jsonAt, keyword, path string) {
	is, ok := r.object()[keyword]
	was, had := w.object()[keyword]
	switch {
	case !ok || r.sub(is).everything():
	case had:
		c.compare(r.sub(is), w.sub(was), path+"/"+keyword)
	default:
		c.add(upper(keyword)+"_ADDED", path+"/"+keyword, "%s was added", keyword)
	}
}

// itemsOf are the schemas of an array's first items, and of the others: `items` and `additionalItems` of draft 7, or `prefixItems` and `items`.
func itemsOf(s jsonAt) (prefix []any, rest jsonAt) {
	m := s.object()
	rest = s.sub(true)
	list, tuple := m["items"].([]any)
	if first, ok := m["prefixItems"].([]any); ok {
		prefix = first
	} else if tuple {
		if v, ok := m["additionalItems"]; ok {
			rest = s.sub(v)
		}
		return list, rest
	}
	if v, ok := m["items"]; ok && !tuple {
		rest = s.sub(v)
	}
	return prefix, rest
}

func (c *jsonComparison) arrays(r, w jsonAt, path string) {
	if !typesOf(w)["array"] {
		return
	}
	c.limit(r, w, path, "maxItems", true)
	c.limit(r, w, path, "minItems", false)
	if r.object()["uniqueItems"] == true && w.object()["uniqueItems"] != true {
		c.add("UNIQUE_ITEMS_ADDED", path+"/uniqueItems", "items must differ now")
	}
	is, restIs := itemsOf(r)
	was, restWas := itemsOf(w)
	for i := range max(len(is), len(was)) {
		at := fmt.Sprintf("%s/items/%d", path, i)
		switch {
		case i >= len(is):
			c.removed(restIs, w.sub(was[i]), "ITEM", at)
		case i >= len(was):
			c.added(r.sub(is[i]), restWas, "ITEM", at)
		default:
			c.compare(r.sub(is[i]), w.sub(was[i]), at)
		}
	}
	c.rest(restIs, restWas, "ADDITIONAL_ITEMS", path+"/items")
	c.ifBoth(r, w, "contains", path)
	c.ifBoth(r, w, "unevaluatedItems", path)
	if _, ok := r.object()["contains"]; ok {
		c.limit(r, w, path, "maxContains", true)
		c.limit(r, w, path, "minContains", false)
	}
}
