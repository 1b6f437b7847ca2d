package route

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// keyTemplate makes a record's key from the named levels of a topic: text with `{name}` in it. The empty template is the
// client id.
type keyTemplate struct {
	text    string
	parts   []keyPart
	inverse *regexp.Regexp // one group per name, in order of parts
}

// keyPart is one piece: literal text, or a named level.
type keyPart struct{ literal, name string }

func parseKey(text string, p *pattern) (keyTemplate, error) {
	k := keyTemplate{text: text}
	inverse := &strings.Builder{}
	inverse.WriteString(`(?s)\A`)
	names, used := p.names(), []string(nil)
	for s := text; s != ""; {
		literal, tail, open := strings.Cut(s, "{")
		if strings.Contains(literal, "}") {
			return k, fmt.Errorf("key %q: a } without {", text)
		}
		if literal != "" {
			k.parts = append(k.parts, keyPart{literal: literal})
			inverse.WriteString(regexp.QuoteMeta(literal))
		}
		if !open {
			break
		}
		name, tail, closed := strings.Cut(tail, "}")
		switch {
		case !closed:
			return k, fmt.Errorf("key %q: a { without }", text)
		case !slices.Contains(names, name):
			return k, fmt.Errorf("key %q: the MQTT filter %q has no level {%s}", text, p.text, name)
		case slices.Contains(used, name):
			return k, fmt.Errorf("key %q: {%s} comes twice", text, name)
		}
		k.parts, used = append(k.parts, keyPart{name: name}), append(used, name)
		if name == p.rest {
			inverse.WriteString(`(.*)`)
		} else {
			inverse.WriteString(`([^/]*)`)
		}
		s = tail
	}
	inverse.WriteString(`\z`)
	var err error
	if k.inverse, err = regexp.Compile(inverse.String()); err != nil {
		return k, fmt.Errorf("key %q: %w", text, err)
	}
	return k, nil
}

// fromClient tells that the key is the publisher's client id.
func (k *keyTemplate) fromClient() bool { return k.text == "" }

func (k *keyTemplate) render(vars map[string]string) string {
	var b strings.Builder
	for _, part := range k.parts {
		if part.name != "" {
			b.WriteString(vars[part.name])
		} else {
			b.WriteString(part.literal)
		}
	}
	return b.String()
}

// invertible says why a key does not tell the topic it came from, or nil. A level's value never holds a slash (but for the one
// `{name...}`), so two levels of a key are told apart exactly when a slash stands between them.
func (k *keyTemplate) invertible(p *pattern) error {
	names := p.names()
	switch {
	case p.unnamed():
		return fmt.Errorf("the MQTT filter %q has a wildcard without a name; write {name} for + and {name...} for #", p.text)
	case len(names) == 0:
		return nil // one topic only: any key tells it
	case k.fromClient():
		return fmt.Errorf("the key is the client id, which does not tell the topic; set key: %q", suggestKey(names))
	}
	for _, n := range names {
		if !slices.Contains(k.parts, keyPart{name: n}) {
			return fmt.Errorf("the key %q leaves out {%s}, so it does not tell the topic; use %q", k.text, n, suggestKey(names))
		}
	}
	slash := true
	for _, part := range k.parts {
		if part.name == "" {
			slash = slash || strings.Contains(part.literal, "/")
			continue
		}
		if !slash {
			return fmt.Errorf("in the key %q no slash separates {%s} from the level before it, so they cannot be told apart; use %q",
				k.text, part.name, suggestKey(names))
		}
		slash = false
	}
	return nil
}

func suggestKey(names []string) string { return "{" + strings.Join(names, "}/{") + "}" }

// parse is the inverse of render for an invertible template. For a pattern without names every key is right.
func (k *keyTemplate) parse(key string) (vars map[string]string, ok bool) {
	vars = map[string]string{}
	if k.fromClient() {
		return vars, true
	}
	m := k.inverse.FindStringSubmatch(key)
	if m == nil {
		return nil, false
	}
	m = m[1:]
	for _, part := range k.parts {
		if part.name != "" {
			vars[part.name], m = m[0], m[1:]
		}
	}
	return vars, true
}
