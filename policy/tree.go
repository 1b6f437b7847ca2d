package policy

import "strings"

// node is one level of the filters of a role.
type node struct {
	children map[string]*node
	plus     *node
	own      []ownLevel // levels with variables
	here     ends       // filters that end here
	all      ends       // filters that go on with #
}

// ends are the filters that end at one place, by right; nil: none does.
type ends struct{ allow, deny [rights]*grant }

func (e *ends) add(g *grant) {
	at := &e.allow
	if g.rule.Deny {
		at = &e.deny
	}
	for r := range rights {
		if g.rule.Rights.Has(r) && at[r] == nil {
			at[r] = g
		}
	}
}

// ownLevel is a level with variables, and what comes below it.
type ownLevel struct {
	pattern pattern
	below   *node
}

// insert puts a filter of a rule below n. Equal patterns have one node, as equal texts have.
func (n *node) insert(g *grant) {
	for rest, more := g.filter, true; more; {
		var level string
		if level, rest, more = cut(rest); level == "#" {
			n.all.add(g)
			return
		}
		n = n.grow(level)
	}
	n.here.add(g)
}

func (n *node) grow(level string) *node {
	if level == "+" {
		if n.plus == nil {
			n.plus = &node{}
		}
		return n.plus
	}
	if strings.Contains(level, "${") {
		for _, o := range n.own {
			if o.pattern.text == level {
				return o.below
			}
		}
		o := ownLevel{compilePattern(level), &node{}}
		n.own = append(n.own, o)
		return o.below
	}
	child := n.children[level]
	if child == nil {
		child = &node{}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		n.children[level] = child
	}
	return child
}

// walk looks for filters that match all that topic matches, which is a topic or a filter: a wildcard of it is matched by wildcards
// only. top: at the first level, where a wildcard of an allow does not match what begins with $, but one of a deny does, for who denies
// everything means everything. It visits each node at most once, and returns true once something denies.
func (m *matcher) walk(n *node, topic string, more, top bool) (denied bool) {
	shy := top && m.hidden
	if m.note(&n.all, shy) {
		return true
	}
	if !more {
		return m.note(&n.here, false)
	}
	level, rest, more := cut(topic)
	if level == "#" {
		return false // matched by # only
	}
	if child := n.children[level]; child != nil && m.walk(child, rest, more, false) {
		return true
	}
	for i := range n.own {
		o := &n.own[i]
		if m.matches(&o.pattern, level, shy) && m.walk(o.below, rest, more, false) {
			return true
		}
	}
	if n.plus == nil {
		return false
	}
	if !shy {
		return m.walk(n.plus, rest, more, false)
	}
	allow := m.allow
	denied = m.walk(n.plus, rest, more, false)
	m.allow = allow
	return denied
}

// note takes in filters that match; shy: it is by a wildcard at a level that begins with $. True: one denies.
func (m *matcher) note(e *ends, shy bool) (denied bool) {
	if g := e.deny[m.right]; g != nil {
		m.deny = g
		return true
	}
	if g := e.allow[m.right]; g != nil && m.allow == nil && !shy {
		m.allow = g
	}
	return false
}

// pattern is a level with variables.
type pattern struct {
	text  string
	parts []part
}

// part is a text, or a variable.
type part struct {
	text     string
	variable variable
}

type variable uint8

const (
	none variable = iota
	account
	client
)

// variables are written ${name}.
var variables = map[string]variable{"account": account, "client": client}

// compilePattern takes a level apart, whose variables are known.
func compilePattern(level string) pattern {
	p := pattern{text: level}
	for rest := level; rest != ""; {
		text, after, found := strings.Cut(rest, "${")
		if text != "" {
			p.parts = append(p.parts, part{text: text})
		}
		if !found {
			break
		}
		name, behind, _ := strings.Cut(after, "}")
		p.parts = append(p.parts, part{variable: variables[name]})
		rest = behind
	}
	return p
}

// value is what a variable stands for.
func (s *Subject) value(v variable) string {
	if v == account {
		return s.Account
	}
	return s.Client
}

// matches tells whether a level is what a pattern stands for; shy: it begins with $, which no value may bring about.
func (m *matcher) matches(p *pattern, level string, shy bool) bool {
	if shy && p.parts[0].variable != none {
		return false
	}
	rest, ok := m.begins(p, level)
	return ok && rest == ""
}

// begins takes what a pattern stands for off the beginning of s.
func (m *matcher) begins(p *pattern, s string) (rest string, ok bool) {
	for i := range p.parts {
		text := p.parts[i].text
		if v := p.parts[i].variable; v != none {
			if text = m.subject.value(v); !usable(text) {
				m.unusable = true
				return "", false
			}
		}
		if len(s) < len(text) || s[:len(text)] != text {
			return "", false
		}
		s = s[len(text):]
	}
	return s, true
}

// usable tells whether a name may stand for a variable: it is one level, and nothing but itself.
func usable(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '/', '+', '#':
			return false
		}
	}
	return name != ""
}

// cut takes the first level off s. more tells whether others follow.
func cut(s string) (level, rest string, more bool) {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
