package registry

import (
	"fmt"
	"slices"

	"github.com/millrace-io/millrace/registry/schema"
)

const (
	maxParsed     = 512 // schemas kept parsed
	maxReferences = 200 // of one schema, those of its references too
)

// importsOf gathers what a schema refers to, each after what it needs itself. Versions that are deleted still count for schemas that are
// there already.
func (st *state) importsOf(refs []Reference, deleted bool) ([]schema.Import, error) {
	g := gathering{st: st, deleted: deleted, names: map[string]*content{}, open: map[*content]bool{}}
	if err := g.all(refs, 0); err != nil {
		return nil, err
	}
	return g.list, nil
}

type gathering struct {
	st      *state
	deleted bool
	names   map[string]*content
	open    map[*content]bool
	list    []schema.Import
}

func (g *gathering) all(refs []Reference, depth int) error {
	if depth > 50 {
		return fmt.Errorf("references are more than 50 deep")
	}
	for _, ref := range refs {
		v := g.st.find(ref.Subject, ref.Version, g.deleted || depth > 0)
		switch {
		case ref.Name == "":
			return fmt.Errorf("a reference to version %d of %q has no name", ref.Version, clip(ref.Subject))
		case v == nil:
			return fmt.Errorf("the reference %q: there is no version %d of subject %q", clip(ref.Name), ref.Version, clip(ref.Subject))
		case g.open[v.content]:
			return fmt.Errorf("the reference %q leads back to itself", clip(ref.Name))
		}
		if have := g.names[ref.Name]; have != nil {
			if have != v.content {
				return fmt.Errorf("the reference %q is to two schemas", clip(ref.Name))
			}
			continue
		}
		if len(g.names) >= maxReferences {
			return fmt.Errorf("more than %d references", maxReferences)
		}
		g.names[ref.Name] = v.content
		g.open[v.content] = true
		if err := g.all(v.refs, depth+1); err != nil {
			return err
		}
		delete(g.open, v.content)
		g.list = append(g.list, schema.Import{Name: ref.Name, Text: v.text})
	}
	return nil
}

// latest is the number that stands for a subject's latest version.
const latest = -1

// find is a version of a subject; nil: there is none.
func (st *state) find(subject string, number int, deleted bool) *version {
	list := st.live(subject, deleted)
	if number == latest && len(list) > 0 {
		return list[len(list)-1]
	}
	for _, v := range list {
		if v.number == number {
			return v
		}
	}
	return nil
}

// parse parses a schema that is kept, or remembers it.
func (r *Registry) parse(st *state, c *content) (*schema.Schema, error) {
	r.parsing.Lock()
	s := r.parsed[c]
	r.parsing.Unlock()
	if s != nil {
		return s, nil
	}
	imports, err := st.importsOf(c.refs, true)
	if err != nil {
		return nil, err
	}
	if s, err = schema.Parse(c.typ, c.text, imports); err != nil {
		return nil, err
	}
	r.parsing.Lock()
	defer r.parsing.Unlock()
	if len(r.parsed) >= maxParsed {
		clear(r.parsed)
	}
	r.parsed[c] = s
	return s, nil
}

// parseNew parses what a client has sent. References to a latest version are to that of now.
func (st *state) parseNew(n *Schema) (*schema.Schema, error) {
	n.References = slices.Clone(n.References)
	for i, ref := range n.References {
		if v := st.find(ref.Subject, ref.Version, false); v != nil {
			n.References[i].Version = v.number
		}
	}
	typ, err := schema.ParseType(n.Type)
	if err != nil {
		return nil, invalidSchema(err)
	}
	imports, err := st.importsOf(n.References, false)
	if err != nil {
		return nil, invalidSchema(err)
	}
	s, err := schema.Parse(typ, n.Text, imports)
	if err == nil && n.Normalise {
		s, err = s.Normalised()
	}
	if err != nil {
		return nil, invalidSchema(err)
	}
	return s, nil
}
