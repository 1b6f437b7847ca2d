package route

import (
	"fmt"
	"strings"
)

// pattern is the MQTT side of a route: a filter whose wildcards may have names. Its levels are literal, `+` or `{name}` (one
// level, not named or named), and at the end `#` (zero or more levels) or `{name...}` (one or more, named).
//
// As a set of topics a pattern is: its levels, each a literal or anything, and whether more may follow. `{name...}` is one
// level of anything with more after it, and so is a `#` that stands alone, since a topic has at least one level.
type pattern struct {
	text   string
	levels []level
	multi  bool   // more levels may follow
	rest   string // the name of `{name...}`: it binds the last of levels and all that follow
}

type level struct {
	literal string
	wild    bool
	name    string // of `{name}`
}

func parsePattern(text string) (pattern, error) {
	p := pattern{text: text}
	if text == "" {
		return p, fmt.Errorf("the MQTT filter is empty")
	}
	if strings.HasPrefix(text, "$") {
		return p, fmt.Errorf("MQTT filter %q: topics that begin with $ are the broker's own and cannot be routed", text)
	}
	parts := strings.Split(text, "/")
	seen := map[string]bool{}
	for i, s := range parts {
		last := i == len(parts)-1
		name, named := strings.CutPrefix(s, "{")
		if named {
			if name, named = strings.CutSuffix(name, "}"); !named {
				return p, fmt.Errorf("MQTT filter %q: level %q has no closing brace", text, s)
			}
		}
		name, rest := strings.CutSuffix(name, "...")
		switch {
		case named && !validName(name):
			return p, fmt.Errorf("MQTT filter %q: %q is not a name: letters, digits and _, not beginning with a digit", text, s)
		case named && seen[name]:
			return p, fmt.Errorf("MQTT filter %q: {%s} comes twice", text, name)
		case named && rest && !last:
			return p, fmt.Errorf("MQTT filter %q: %s must be the last level", text, s)
		case named:
			seen[name] = true
			p.levels = append(p.levels, level{wild: true, name: name})
			if rest {
				p.multi, p.rest = true, name
			}
		case s == "+":
			p.levels = append(p.levels, level{wild: true})
		case s == "#" && !last:
			return p, fmt.Errorf("MQTT filter %q: # must be the last level", text)
		case s == "#":
			if p.multi = true; i == 0 {
				p.levels = append(p.levels, level{wild: true})
			}
		case strings.ContainsAny(s, "+#{}"):
			return p, fmt.Errorf("MQTT filter %q: a wildcard or name must fill its level, not be part of %q", text, s)
		default:
			for _, r := range s {
				if r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0xfffd {
					return p, fmt.Errorf("MQTT filter %q: character %U cannot be in a topic", text, r)
				}
			}
			p.levels = append(p.levels, level{literal: s})
		}
	}
	return p, nil
}

func validName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// match tells whether a valid topic name belongs to the pattern.
func (p *pattern) match(topic string) bool {
	for i := range p.levels {
		l := &p.levels[i]
		s, rest, more := strings.Cut(topic, "/")
		if l.wild {
			if i == 0 && strings.HasPrefix(s, "$") {
				return false
			}
		} else if s != l.literal {
			return false
		}
		if i == len(p.levels)-1 {
			return !more || p.multi
		}
		if !more {
			return false
		}
		topic = rest
	}
	return false
}

// bind returns what each named level is in a topic that matches. It is the slow way, for a topic seen first.
func (p *pattern) bind(topic string) map[string]string {
	vars := map[string]string{}
	for i := range p.levels {
		l := &p.levels[i]
		s, rest, _ := strings.Cut(topic, "/")
		if i == len(p.levels)-1 && p.rest != "" {
			s = topic
		}
		if l.name != "" {
			vars[l.name] = s
		}
		topic = rest
	}
	return vars
}

// render is the inverse of bind; it works only for a pattern whose wildcards all have names.
func (p *pattern) render(vars map[string]string) string {
	var b strings.Builder
	for i := range p.levels {
		if i > 0 {
			b.WriteByte('/')
		}
		if l := &p.levels[i]; l.wild {
			b.WriteString(vars[l.name])
		} else {
			b.WriteString(l.literal)
		}
	}
	return b.String()
}

// unnamed tells whether some wildcard has no name, so that a topic cannot be rendered.
func (p *pattern) unnamed() bool {
	for i := range p.levels {
		if l := &p.levels[i]; l.wild && l.name == "" {
			return true
		}
	}
	return p.multi && p.rest == ""
}

func (p *pattern) names() (names []string) {
	for i := range p.levels {
		if n := p.levels[i].name; n != "" {
			names = append(names, n)
		}
	}
	return names
}

// within tells whether every topic of p is also one of q.
func (p *pattern) within(q *pattern) bool {
	if len(p.levels) < len(q.levels) || !q.multi && (p.multi || len(p.levels) != len(q.levels)) {
		return false
	}
	for i := range q.levels {
		if a, b := &p.levels[i], &q.levels[i]; !b.wild && (a.wild || a.literal != b.literal) {
			return false
		}
	}
	return true
}

// overlaps tells whether some topic belongs to both.
func (p *pattern) overlaps(q *pattern) bool {
	n := min(len(p.levels), len(q.levels))
	if len(p.levels) > n && !q.multi || len(q.levels) > n && !p.multi {
		return false
	}
	for i := range n {
		if a, b := &p.levels[i], &q.levels[i]; !a.wild && !b.wild && a.literal != b.literal {
			return false
		}
	}
	return true
}

// literals counts the levels that are not wildcards.
func (p *pattern) literals() (n int) {
	for i := range p.levels {
		if !p.levels[i].wild {
			n++
		}
	}
	return n
}
