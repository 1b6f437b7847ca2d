package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is the kind of a resource of the log's clients.
type Kind uint8

// Kinds of resources.
const (
	LogTopic Kind = iota
	ConsumerGroup
	TransactionalID
	SchemaSubject
	Cluster // there is one, without a name: who may administer the server
	kinds
)

func (k Kind) String() string {
	return [...]string{"log topic", "consumer group", "transactional id", "schema subject", "cluster"}[k]
}

// DecideOn says whether s has a right (Read, Write or Manage) on a resource. A deny beats every allow.
func (p *Policy) DecideOn(s Subject, right Right, kind Kind, name string) Verdict {
	m := matcher{subject: s, right: right}
	for r := range p.rolesOf(s.Account) {
		if n := r.names[kind]; n != nil && n.ask(&m, name) {
			break
		}
	}
	return m.verdict()
}

// Anywhere tells whether there is a resource of a kind on which s has a right: one rule allows it for some, and none denies it for all.
func (p *Policy) Anywhere(s Subject, right Right, kind Kind) bool {
	allowed := false
	for r := range p.rolesOf(s.Account) {
		n := r.names[kind]
		if n == nil {
			continue
		}
		if all := n.prefixes[""]; all != nil && all.deny[right] != nil {
			return false
		}
		allowed = allowed || n.allows[right]
	}
	return allowed
}

// rolesOf gives the roles that an account has.
func (p *Policy) rolesOf(account string) func(yield func(*role) bool) {
	return func(yield func(*role) bool) {
		for _, r := range p.exact[account] {
			if !yield(r) {
				return
			}
		}
		for _, n := range p.lengths {
			if n > len(account) || n > 0 && account == Anonymous {
				return
			}
			for _, r := range p.prefixes[account[:n]] {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// names are the grants of a role on resources of one kind.
type names struct {
	exact    map[string]*ends
	prefixes map[string]*ends // by what names begin with
	lengths  []int            // of prefixes, ascending
	own      []ownName
	allows   [rights]bool
}

// ownName is a name with the account's in it.
type ownName struct {
	pattern pattern
	prefix  bool
	ends    *ends
}

// insert adds a name of a rule, which may end in *.
func (n *names) insert(g *grant) {
	for r := range rights {
		n.allows[r] = n.allows[r] || !g.rule.Deny && g.rule.Rights.Has(r)
	}
	text, prefix := strings.CutSuffix(g.filter, "*")
	if strings.Contains(text, "${") {
		o := ownName{compilePattern(text), prefix, &ends{}}
		o.ends.add(g)
		n.own = append(n.own, o)
		return
	}
	in := &n.exact
	if prefix {
		in = &n.prefixes
	}
	if *in == nil {
		*in = map[string]*ends{}
	}
	e := (*in)[text]
	if e == nil {
		e = &ends{}
		(*in)[text] = e
		if prefix {
			n.lengths = append(n.lengths, len(text))
			slices.Sort(n.lengths)
			n.lengths = slices.Compact(n.lengths)
		}
	}
	e.add(g)
}

// ask looks for what names a resource; true: it is denied.
func (n *names) ask(m *matcher, name string) (denied bool) {
	if e := n.exact[name]; e != nil && m.note(e, false) {
		return true
	}
	for _, l := range n.lengths {
		if l > len(name) {
			break
		}
		if e := n.prefixes[name[:l]]; e != nil && m.note(e, false) {
			return true
		}
	}
	for i := range n.own {
		o := &n.own[i]
		if rest, ok := m.begins(&o.pattern, name); ok && (o.prefix || rest == "") && m.note(o.ends, false) {
			return true
		}
	}
	return false
}

// resources are those that a rule names.
func (r *Rule) resources() (by [kinds][]string) {
	by[LogTopic], by[ConsumerGroup], by[TransactionalID], by[SchemaSubject] = r.LogTopics, r.ConsumerGroups, r.TransactionalIDs, r.SchemaSubjects
	if r.Cluster {
		by[Cluster] = []string{""}
	}
	return by
}

var resourceFields = [kinds]string{"log_topics", "consumer_groups", "transactional_ids", "schema_subjects", "cluster"}

// resourcesOf checks a rule's resources and gives them to its role.
func (c *compiler) resourcesOf(path string, r *Rule) {
	to := c.role(r.Who)
	for kind, list := range r.resources() {
		for i, name := range list {
			if text, fix := checkName(name); text != "" && Kind(kind) != Cluster {
				c.problem(fmt.Sprintf("%s.%s[%d]", path, resourceFields[kind], i), text, fix)
				continue
			}
			if to.names[kind] == nil {
				to.names[kind] = &names{}
			}
			to.names[kind].insert(&grant{r, name})
		}
	}
}

// checkName says what is wrong with the name of a resource in a rule; "": nothing is.
func checkName(name string) (text, fix string) {
	plain := strings.TrimSuffix(name, "*")
	switch {
	case name == "":
		return "missing", `write a name, prefix*, or "*" for all`
	case strings.Contains(plain, "*"):
		return fmt.Sprintf("%q: * stands at the end only", name), "write prefix*, or several names"
	case strings.ContainsAny(plain, "#/"):
		return fmt.Sprintf("%q looks like an MQTT topic filter", name), "write the log topic's name, or prefix*; MQTT's topics are written in topics"
	}
	for _, after := range strings.Split(plain, "${")[1:] {
		if !strings.HasPrefix(after, "account}") {
			return fmt.Sprintf("%q has a variable that is not known here", name), "write ${account}"
		}
	}
	return "", ""
}

// Overlapping lists the rules that deny s a right on a part of what an MQTT topic filter matches.
func (p *Policy) Overlapping(s Subject, right Right, filter string) (by []Verdict) {
	for i := range p.rules {
		r := &p.rules[i]
		if !r.Deny || !r.Rights.Has(right) || !p.speaks(r, s.Account) {
			continue
		}
		for _, f := range r.Topics {
			if own, ok := expand(f, s); ok && overlap(own, filter) {
				by = append(by, Verdict{Rule: r, Filter: f})
			}
		}
	}
	return by
}

// SpeaksOf tells whether a rule is about resources of a kind.
func (p *Policy) SpeaksOf(kind Kind) bool {
	return slices.ContainsFunc(p.rules, func(r Rule) bool { return len(r.resources()[kind]) > 0 })
}

// SpeaksOfLog tells whether a rule is about resources of the log's clients.
func (p *Policy) SpeaksOfLog() bool {
	return slices.ContainsFunc(p.rules, func(r Rule) bool {
		return r.Cluster || len(r.LogTopics)+len(r.ConsumerGroups)+len(r.TransactionalIDs) > 0
	})
}
