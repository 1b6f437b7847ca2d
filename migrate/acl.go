package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// rule is one of the policy that is written.
type rule struct {
	at     place
	who    string
	deny   bool
	right  string // publish, subscribe, all
	topics []string
}

// anonymous is the policy's name of whoever has no account.
const anonymous = "anonymous"

// rights are Mosquitto's words.
var rights = map[string]string{"read": "subscribe", "write": "publish", "readwrite": "all", "deny": "all"}

// acl reads an acl_file. What it has before the first `user` is about anonymous clients, `pattern` is about everybody.
func (m *mosquitto) acl(path string, text []byte) (rules []rule) {
	who, number := anonymous, 0
	for text := range strings.Lines(string(text)) {
		number++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(text, " ")
		at := place{path, number, word}
		rest = strings.TrimSpace(rest)
		switch word {
		case "user":
			if who = rest; !account(who) {
				m.add(at, Dropped, "%q is no account here: names have no / + # and no control characters, are not anonymous, have no * and do not begin with group: — its rules are left out", clip(who))
				who = ""
			}
		case "topic", "pattern":
			r := rule{at: at, who: who, right: "all"}
			if first, other, ok := strings.Cut(rest, " "); ok && rights[first] != "" {
				r.right, r.deny, rest = rights[first], first == "deny", strings.TrimSpace(other)
			}
			literal := strings.Contains(rest, "${") // Mosquitto knows no such variables
			if word == "pattern" {
				r.who = "*"
				rest = strings.NewReplacer("%c", "${client}", "%u", "${account}").Replace(rest)
			}
			if r.who == "" {
				continue // of a user that is left out
			}
			if literal || slices.ContainsFunc(strings.Split(rest, "/"), variable) {
				level := Dropped
				if r.deny {
					level = Unsafe
				}
				m.add(at, level, "%q has a level that is a variable in a policy here, and a plain text there: it is left out", clip(rest))
				continue
			}
			if err := topic.ValidateFilter(strings.NewReplacer("${client}", "c", "${account}", "a").Replace(rest)); err != nil {
				m.add(at, Dropped, "%q is no topic filter: %v", clip(rest), err)
				continue
			}
			r.topics = []string{rest}
			if n := len(rules); n > 0 && rules[n-1].who == r.who && rules[n-1].right == r.right && rules[n-1].deny == r.deny {
				rules[n-1].topics = append(rules[n-1].topics, rest)
				continue
			}
			rules = append(rules, r)
		default:
			m.fail(fmt.Errorf("%s: %q is neither user, topic nor pattern", at, clip(word)))
		}
	}
	return rules
}

// variable tells whether a policy takes a level for somebody's way to write a variable.
func variable(level string) bool {
	return level == "%c" || level == "%u" || strings.HasPrefix(level, "{") && strings.HasSuffix(level, "}")
}

// account tells whether the policy takes a name as that of an account.
func account(name string) bool {
	return identity.CheckName(name) == nil && name != anonymous && !strings.Contains(name, "*") && !strings.HasPrefix(name, "group:")
}

// policy reads the ACL files of all listeners, and is nil if there is none.
func (m *mosquitto) policy() (rules []rule, there bool) {
	var seen []string
	open := 0
	for _, l := range m.carried() {
		s := m.of(l)
		if s.acl == "" {
			open++
			continue
		}
		if slices.Contains(seen, s.acl) {
			continue
		}
		seen = append(seen, s.acl)
		text, err := m.read(s.acl)
		if err != nil {
			m.fail(fmt.Errorf("%s: %w", s.aclAt, err))
			continue
		}
		rules = append(rules, m.acl(s.acl, text)...)
		m.add(s.aclAt, Changed, "Mosquitto grants every subscription and withholds messages; here a subscription's filter must be allowed as a whole, or it is refused. A client that subscribes to # needs a rule for #, and gets of it what it is allowed all the same")
	}
	if len(seen) > 1 || len(seen) == 1 && open > 0 {
		m.add(place{file: seen[0], option: "acl_file"}, Unsafe, "the listeners have different rules; there is one policy for all of them. The rules of all files are put together: look at them")
	}
	return rules, len(seen) > 0
}
