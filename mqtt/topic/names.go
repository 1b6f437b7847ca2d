package topic

import (
	"math"
	"slices"
	"sort"
	"strings"
)

// Names holds values by topic name and finds them by filter (retained messages). One goroutine writes and reads. The zero Names
// is empty and ready for use.
//
// The names stand in one sorted sequence, cut into short blocks. A scan leaps over the names that cannot match: with
// fleet/+/status it looks at two names per vehicle, however many topics a vehicle has.
type Names[V any] struct {
	blocks [][]named[V] // none is empty
	len    int
	edits  uint64 // so that a scan notices a change made by its yield
}

type named[V any] struct {
	name  string
	value V
}

const blockSize = 256 // names in a full block

// Len is how many names there are.
func (n *Names[V]) Len() int { return n.len }

// Set gives a name a value. The name is kept.
func (n *Names[V]) Set(name string, v V) (old V, replaced bool) {
	b, i, found := n.find(name)
	if found {
		at := &n.blocks[b][i]
		old, at.value = at.value, v
		return old, true
	}
	n.len++
	n.edits++
	if len(n.blocks) == 0 {
		n.blocks = [][]named[V]{{{name, v}}}
		return old, false
	}
	if b == len(n.blocks) { // behind all: into the last block
		b--
		i = len(n.blocks[b])
	}
	block := slices.Insert(n.blocks[b], i, named[V]{name, v})
	n.blocks[b] = block
	if len(block) >= blockSize {
		upper := append(make([]named[V], 0, blockSize), block[blockSize/2:]...)
		clear(block[blockSize/2:])
		n.blocks[b] = block[:blockSize/2]
		n.blocks = slices.Insert(n.blocks, b+1, upper)
	}
	return old, false
}

// Get returns the value of a name.
func (n *Names[V]) Get(name string) (v V, ok bool) {
	if b, i, found := n.find(name); found {
		return n.blocks[b][i].value, true
	}
	return v, false
}

// Delete removes a name.
func (n *Names[V]) Delete(name string) (old V, ok bool) {
	b, i, found := n.find(name)
	if !found {
		return old, false
	}
	n.len--
	n.edits++
	old = n.blocks[b][i].value
	n.blocks[b] = slices.Delete(n.blocks[b], i, i+1)
	n.shrink(b)
	return old, true
}

// shrink removes block b if it is empty, or joins the next one to it if both are small.
func (n *Names[V]) shrink(b int) {
	switch {
	case len(n.blocks[b]) == 0:
		n.blocks = slices.Delete(n.blocks, b, b+1)
	case b+1 < len(n.blocks) && len(n.blocks[b])+len(n.blocks[b+1]) < blockSize/2:
		n.blocks[b] = append(n.blocks[b], n.blocks[b+1]...)
		n.blocks = slices.Delete(n.blocks, b+1, b+2)
	}
}

// find returns the place of the first name that is not below name: block and index, which is a place to insert too unless it
// is behind the last block.
func (n *Names[V]) find(name string) (b, i int, found bool) {
	b = sort.Search(len(n.blocks), func(b int) bool {
		block := n.blocks[b]
		return block[len(block)-1].name >= name
	})
	if b == len(n.blocks) {
		return b, 0, false
	}
	block := n.blocks[b]
	i = sort.Search(len(block), func(i int) bool { return block[i].name >= name })
	return b, i, block[i].name == name
}

// Scan visits the names that a valid filter matches and that come after after ("" = from the start), in the order of their
// bytes, until yield returns false. A paced cursor resumes with the last name visited, which need not be there any more. yield
// may change n.
func (n *Names[V]) Scan(filter, after string, yield func(name string, v V) bool) {
	looks := math.MaxInt
	n.ScanN(filter, after, &looks, yield)
}

// ScanN is Scan that also stops once it has looked at so many names, matched or not, and counts looks down, so that filters that
// match few of many do not hold up their caller. done tells that nothing is left; else last is what to resume after.
func (n *Names[V]) ScanN(filter, after string, looks *int, yield func(name string, v V) bool) (last string, done bool) {
	from := literalPrefix(filter)
	if after != "" && after >= from {
		from = after + "\x00"
	}
	last = after
	b, i, _ := n.find(from)
	for b < len(n.blocks) {
		if i == len(n.blocks[b]) {
			b, i = b+1, 0
			continue
		}
		if *looks <= 0 {
			return last, false
		}
		*looks--
		at := &n.blocks[b][i]
		last = at.name
		if !Match(filter, last) {
			next, ok := leap(filter, last)
			if !ok {
				return last, true
			}
			if i++; i == len(n.blocks[b]) || n.blocks[b][i].name < next {
				b, i, _ = n.find(next)
			}
			continue
		}
		edits := n.edits
		if !yield(last, at.value) {
			return last, false
		}
		if i++; edits != n.edits {
			b, i, _ = n.find(last + "\x00")
		}
	}
	return last, true
}

// literalPrefix is what all names that a filter matches begin with. (a/# matches a, so the prefix is a.)
func literalPrefix(filter string) string {
	i := strings.IndexAny(filter, "+#")
	switch {
	case i < 0:
		return filter
	case filter[i] == '#' && i > 0:
		return filter[:i-1]
	}
	return filter[:i]
}

// leap returns a bound above name, which the filter does not match, such that no name from name up to the bound is matched; ok
// is false if no name above is matched.
func leap(filter, name string) (bound string, ok bool) {
	if hidden(name) && leadsWild(filter) {
		return "%", true // the byte after $
	}
	plus := -1 // where in name the last level that a + matched ends
	for f, at := filter, 0; ; {
		level, rest, more := cut(f)
		end := len(name)
		if i := strings.IndexByte(name[at:], '/'); i >= 0 {
			end = at + i
		}
		if level == "+" {
			plus = end
		} else if level != name[at:end] {
			// Names that match and share what is before this level have level in its place.
			if wanted := name[:at] + level; wanted > name {
				return wanted, true
			} else if wanted += "/"; more && wanted > name {
				return wanted, true
			}
			return behind(name, plus)
		}
		switch {
		case !more: // name goes on where the filter ends
			return behind(name, plus)
		case end == len(name): // the filter goes on where name ends
			return name + "\x00", true
		}
		f, at = rest, end+1
	}
}

// behind is the bound above all names that have the same levels as name up to end, the end of the last level that a + matched.
// Without one nothing is left.
func behind(name string, end int) (bound string, ok bool) {
	if end < 0 {
		return "", false
	}
	return name[:end] + "0", true // the byte after /
}
