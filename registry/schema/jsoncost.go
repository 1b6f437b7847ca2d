package schema

import (
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// maxUnfolded is how many schemas one value may have to be looked at with: those that apply to the same place of a payload, unfolded. Thirty
// lines can make it a billion.
const maxUnfolded = 5000

// affordable refuses schemas with which one small payload keeps a processor busy.
func affordable(root *jsonschema.Schema) error {
	c := jsonCost{at: map[*jsonschema.Schema]int{}, open: map[*jsonschema.Schema]bool{}}
	todo := []*jsonschema.Schema{root}
	seen := map[*jsonschema.Schema]bool{root: true}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if c.of(s) > maxUnfolded {
			return fmt.Errorf("one value would have to be looked at with more than %d schemas: use fewer of anyOf, oneOf, allOf and $ref within one another", maxUnfolded)
		}
		for _, next := range append(inPlace(s), below(s)...) {
			if next != nil && !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return nil
}

// jsonCost counts, for each schema, those that apply where it does, as often as they do.
type jsonCost struct {
	at   map[*jsonschema.Schema]int
	open map[*jsonschema.Schema]bool
}

func (c *jsonCost) of(s *jsonschema.Schema) int {
	if n, known := c.at[s]; known {
		return n
	}
	if c.open[s] {
		return 1 // a circle in one place, which the validator refuses itself
	}
	c.open[s] = true
	n := 1
	for _, next := range inPlace(s) {
		if next != nil {
			n = min(n+c.of(next), maxUnfolded+1)
		}
	}
	delete(c.open, s)
	c.at[s] = n
	return n
}

// inPlace are the schemas that apply to the same value.
func inPlace(s *jsonschema.Schema) (list []*jsonschema.Schema) {
	list = append(list, s.Ref, s.RecursiveRef, s.Not, s.If, s.Then, s.Else)
	if s.DynamicRef != nil {
		list = append(list, s.DynamicRef.Ref)
	}
	list = append(append(append(list, s.AllOf...), s.AnyOf...), s.OneOf...)
	for _, d := range s.DependentSchemas {
		list = append(list, d)
	}
	for _, d := range s.Dependencies {
		if sub, ok := d.(*jsonschema.Schema); ok {
			list = append(list, sub)
		}
	}
	return list
}

// below are those that apply to what a value holds.
func below(s *jsonschema.Schema) (list []*jsonschema.Schema) {
	list = append(list, s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems, s.ContentSchema)
	list = append(list, s.PrefixItems...)
	for _, p := range s.Properties {
		list = append(list, p)
	}
	for _, p := range s.PatternProperties {
		list = append(list, p)
	}
	for _, v := range []any{s.AdditionalProperties, s.Items, s.AdditionalItems} {
		switch v := v.(type) {
		case *jsonschema.Schema:
			list = append(list, v)
		case []*jsonschema.Schema:
			list = append(list, v...)
		}
	}
	return list
}
