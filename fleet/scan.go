package fleet

import "strconv"

// node says what is wanted of a JSON object or array, by name (of array elements: index, decimal). Built by Compile, then immutable.
type node struct {
	children []child
	hint     uint64 // a bit for what begins and is as long as some child's name, so that most other names are seen not to be one
	other    *node  // of a member that is not among the children; nil: nothing is wanted of it
}

type child struct {
	name  string
	takes []take
	below *node
}

// take is a field that a member may be the value of. The lower rank wins, of equal ones the first in the text.
type take struct {
	field field
	rank  uint8
}

// want adds a field at a path below n.
func (n *node) want(path []string, t take) {
	c := n.child(path[0])
	if len(path) == 1 {
		c.takes = append(c.takes, t)
		return
	}
	if c.below == nil {
		c.below = &node{}
	}
	c.below.want(path[1:], t)
}

// child finds or makes the child of a name. It is valid until the next one is made.
func (n *node) child(name string) *child {
	for i := range n.children {
		if n.children[i].name == name {
			return &n.children[i]
		}
	}
	n.children = append(n.children, child{name: name})
	n.hint |= hint(name)
	return &n.children[len(n.children)-1]
}

// scanner goes once over a JSON text and keeps the values that are wanted, as they stand in the text. It believes nothing that it does
// not need: a text with a mistake is read up to the mistake, names with escapes match nothing.
type scanner struct {
	text  []byte
	at    int
	found [fields]found
	open  int // fields not found at their best rank yet; 0: the rest of the text cannot matter
}

type found struct {
	raw  []byte // nil: nothing
	rank uint8
}

// value passes over the value at the place, and takes what n wants of it. false: the text ends or is wrong, or nothing is open any more.
// It calls itself for what is wanted only, so the depth is that of the paths.
func (s *scanner) value(n *node) bool {
	if !s.space() {
		return false
	}
	switch c := s.text[s.at]; {
	case n == nil || c != '{' && c != '[':
		return s.skip()
	case c == '{':
		return s.object(n)
	default:
		return s.array(n)
	}
}

func (s *scanner) object(n *node) bool {
	s.at++
	for first := true; ; first = false {
		if !s.space() {
			return false
		}
		if s.text[s.at] == '}' {
			s.at++
			return true
		}
		if !first && (!s.eat(',') || !s.space()) {
			return false
		}
		name, ok := s.name()
		if !ok || !s.space() || !s.eat(':') || !s.space() || !s.member(n, name) {
			return false
		}
	}
}

func (s *scanner) array(n *node) bool {
	s.at++
	var digits [20]byte
	for i := 0; ; i++ {
		if !s.space() {
			return false
		}
		if s.text[s.at] == ']' {
			s.at++
			return true
		}
		if i > 0 && (!s.eat(',') || !s.space()) || !s.member(n, strconv.AppendInt(digits[:0], int64(i), 10)) {
			return false
		}
	}
}

// member passes over one member of what n describes.
func (s *scanner) member(n *node, name []byte) bool {
	if n.hint&hint(name) != 0 {
		for i := range n.children {
			if c := &n.children[i]; c.name == string(name) {
				from := s.at
				return s.value(c.below) && s.keep(c.takes, s.text[from:s.at])
			}
		}
	}
	return s.value(n.other)
}

func hint[S string | []byte](name S) uint64 {
	if len(name) == 0 {
		return 0
	}
	return 1 << ((int(name[0]) + 7*len(name)) % 64)
}

// keep notes a value for the fields it is one of, if it is neither object nor array; false: that was the last.
func (s *scanner) keep(takes []take, raw []byte) bool {
	if raw[0] == '{' || raw[0] == '[' {
		return true
	}
	for _, t := range takes {
		f := &s.found[t.field]
		if f.raw != nil && f.rank <= t.rank {
			continue
		}
		f.raw, f.rank = raw, t.rank
		if t.rank == 0 {
			s.open--
		}
	}
	return s.open > 0
}

// space passes over white space; false: the text is over.
func (s *scanner) space() bool {
	for ; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
		default:
			return true
		}
	}
	return false
}

func (s *scanner) eat(c byte) bool {
	if s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

// name passes over a string and returns what is between the quotes.
func (s *scanner) name() ([]byte, bool) {
	from := s.at + 1
	if s.text[s.at] != '"' || !s.quoted() {
		return nil, false
	}
	return s.text[from : s.at-1], true
}

// quoted passes over a string.
func (s *scanner) quoted() bool {
	for s.at++; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return true
		}
	}
	return false
}

// skip passes over any value, however deep.
func (s *scanner) skip() bool {
	depth := 0
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case '"':
			if !s.quoted() {
				return false
			}
		case '{', '[':
			depth++
			s.at++
		case '}', ']':
			depth--
			s.at++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return false // a value was to be here
			}
			s.at++
			continue
		default:
			if !s.bare() {
				return false
			}
		}
		if depth <= 0 {
			return depth == 0
		}
	}
	return false
}

// bare passes over a number or a word. One that the text ends with may be cut off, and is none.
func (s *scanner) bare() bool {
	for ; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case ',', ':', '}', ']', '{', '[', '"', ' ', '\t', '\n', '\r':
			return true
		}
	}
	return false
}
