package schema

import (
	"fmt"
	"slices"
)

// avroComparison follows Avro's rules of schema resolution: what a reader makes of data whose writer had another schema.
type avroComparison struct {
	*differences
	seen  map[[2]*avroType]bool // pairs that were looked at, or are being: a circle is as good as its beginning
	order [][2]*avroType        // in which they were
}

func compareAvro(d *differences, reader, writer *avroType) {
	c := avroComparison{differences: d, seen: map[[2]*avroType]bool{}}
	c.compare(reader, writer, "")
}

// promotions are the types that a reader's type takes beside itself.
var promotions = map[avroKind][]avroKind{
	avroLong: {avroInt}, avroFloat: {avroInt, avroLong}, avroDouble: {avroInt, avroLong, avroFloat},
	avroString: {avroBytes}, avroBytes: {avroString},
}

func (c *avroComparison) compare(r, w *avroType, path string) {
	pair := [2]*avroType{r, w}
	if r == w || c.seen[pair] {
		return
	}
	defer c.leave()
	if !c.enter() {
		return
	}
	c.seen[pair], c.order = true, append(c.order, pair)
	switch {
	case w.kind == avroUnion:
		for i, branch := range w.branches {
			at := fmt.Sprintf("%s/%d", path, i)
			if r.kind == avroUnion {
				c.among(r, branch, at)
			} else {
				c.compare(r, branch, at)
			}
		}
	case r.kind == avroUnion:
		c.among(r, w, path)
	case r.kind != w.kind:
		if !slices.Contains(promotions[r.kind], w.kind) {
			c.add("TYPE_MISMATCH", path, "reader type %s is not compatible with writer type %s", clip(r.String()), clip(w.String()))
		}
	default:
		c.alike(r, w, path)
	}
}

// among looks for a branch of the reader's union that takes the writer's type.
func (c *avroComparison) among(r, w *avroType, path string) {
	for _, branch := range r.branches {
		if c.fits(branch, w) {
			return
		}
	}
	c.add("MISSING_UNION_BRANCH", path, "the union of the reader lacks the writer's type %s", clip(w.String()))
}

// fits tells whether a comparison finds nothing. What was looked at on the way to something is looked at again when it matters.
func (c *avroComparison) fits(r, w *avroType) bool {
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

// alike compares two types of one kind.
func (c *avroComparison) alike(r, w *avroType, path string) {
	switch r.kind {
	case avroArray, avroMap:
		c.compare(r.of, w.of, path+map[avroKind]string{avroArray: "/items", avroMap: "/values"}[r.kind])
	case avroFixed:
		c.names(r, w, path)
		if r.size != w.size {
			c.add("FIXED_SIZE_MISMATCH", path+"/size", "expected: %d, found: %d", w.size, r.size)
		}
		c.decimals(r, w, path)
	case avroBytes:
		c.decimals(r, w, path)
	case avroEnum:
		c.names(r, w, path)
		c.enums(r, w, path)
	case avroRecord:
		c.names(r, w, path)
		c.records(r, w, path)
	}
}

// names match if they are the same without namespaces, or the reader has the writer's as an alias.
func (c *avroComparison) names(r, w *avroType, path string) {
	if short(r.name) != short(w.name) && !slices.Contains(r.aliases, w.name) {
		c.add("NAME_MISMATCH", path+"/name", "expected: %s", clip(w.name))
	}
}

// decimals of different precision or scale are not the same numbers; bytes that one of the two does not take for a decimal are bytes.
func (c *avroComparison) decimals(r, w *avroType, path string) {
	if r.decimal != nil && w.decimal != nil && *r.decimal != *w.decimal {
		c.add("DECIMAL_MISMATCH", path, "decimal(%d, %d) cannot be read as decimal(%d, %d)", w.decimal.precision, w.decimal.scale, r.decimal.precision, r.decimal.scale)
	}
}

func (c *avroComparison) enums(r, w *avroType, path string) {
	if r.hasFall {
		return
	}
	c.charge((len(r.symbols) + len(w.symbols)) / 8)
	have := map[string]bool{}
	for _, s := range r.symbols {
		have[s] = true
	}
	for _, s := range w.symbols {
		if !have[s] {
			c.add("MISSING_ENUM_SYMBOLS", path+"/symbols", "the enum %s of the reader lacks %s, and has no default", clip(r.name), clip(s))
			return
		}
	}
}

func (c *avroComparison) records(r, w *avroType, path string) {
	c.charge((len(r.fields) + len(w.fields)) / 8)
	written := make(map[string]*avroField, len(w.fields))
	for i := range w.fields {
		written[w.fields[i].name] = &w.fields[i]
	}
	for i := range r.fields {
		f, at := &r.fields[i], fmt.Sprintf("%s/fields/%d", path, i)
		from := written[f.name]
		for n := 0; from == nil && n < len(f.aliases); n++ {
			from = written[f.aliases[n]]
		}
		switch {
		case from != nil:
			c.compare(f.typ, from.typ, at+"/type")
		case !f.hasFall:
			c.add("READER_FIELD_MISSING_DEFAULT_VALUE", at, "the field '%s' of the reader is not in the writer's schema, and has no default", clip(f.name))
		}
	}
}
