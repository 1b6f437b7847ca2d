package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// Problem is one thing that is wrong with rules.
type Problem struct {
	Path string // rules[3].topics[0]
	Text string
	Fix  string // what to write instead; "": that is plain
}

// Problems is everything that is wrong.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = strings.TrimSuffix(p.Path+": "+p.Text+"; "+p.Fix, "; ")
	}
	return strings.Join(lines, "\n")
}

const groupPrefix = "group:"

// Compile makes a policy. The error, if any, is Problems.
func Compile(rs Rules) (*Policy, error) {
	c := compiler{
		policy: &Policy{exact: map[string][]*role{}, prefixes: map[string][]*role{}, groups: rs.Groups},
		roles:  map[string]*role{},
	}
	for _, name := range slices.Sorted(maps.Keys(rs.Groups)) {
		c.group(name, rs.Groups[name])
	}
	c.policy.rules = slices.Clone(rs.Rules)
	if rs.Allow {
		c.policy.rules = append(c.policy.rules, Rule{Who: "*", Rights: All, Topics: []string{"#"}, Where: "default: allow",
			LogTopics: []string{"*"}, ConsumerGroups: []string{"*"}, TransactionalIDs: []string{"*"}, SchemaSubjects: []string{"*"}},
			Rule{Who: "*", Rights: Of(Read, Write), Cluster: true, Where: "default: allow"})
	}
	for i := range c.policy.rules {
		c.rule(fmt.Sprintf("rules[%d]", i), &c.policy.rules[i], rs.Groups)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	c.policy.lengths = slices.Sorted(maps.Keys(c.lengths()))
	return c.policy, nil
}

type compiler struct {
	policy   *Policy
	roles    map[string]*role // by who
	problems Problems
}

func (c *compiler) problem(path, text, fix string) {
	c.problems = append(c.problems, Problem{path, text, fix})
}

func (c *compiler) lengths() map[int]bool {
	ls := map[int]bool{}
	for prefix := range c.policy.prefixes {
		ls[len(prefix)] = true
	}
	return ls
}

// group checks a group and puts its role where its members are looked for.
func (c *compiler) group(name string, members []string) {
	path := "groups." + name
	if name == "" || strings.ContainsAny(name, "* ") {
		c.problem(path, fmt.Sprintf("%q is not the name of a group", name), "write a name without blanks and *")
	}
	for i, m := range members {
		at := fmt.Sprintf("%s[%d]", path, i)
		if strings.HasPrefix(m, groupPrefix) {
			c.problem(at, "a group has accounts, not groups", "list the accounts")
			continue
		}
		if c.account(at, m) {
			c.place(m, c.role(groupPrefix+name))
		}
	}
}

// account checks an account or pattern of accounts.
func (c *compiler) account(path, name string) bool {
	switch {
	case name == "":
		c.problem(path, "missing", "write an account, prefix*, group:NAME, anonymous, or \"*\" for everybody")
	case strings.Contains(strings.TrimSuffix(name, "*"), "*"):
		c.problem(path, fmt.Sprintf("%q: * stands at the end only", name), "write prefix*, or make a group of the accounts")
	default:
		return true
	}
	return false
}

// role is the rules of one somebody.
func (c *compiler) role(who string) *role {
	r := c.roles[who]
	if r == nil {
		r = &role{}
		c.roles[who] = r
	}
	return r
}

// place has an account or a pattern of accounts find a role.
func (c *compiler) place(who string, r *role) {
	in, key := c.policy.exact, who
	if prefix, ok := strings.CutSuffix(who, "*"); ok {
		in, key = c.policy.prefixes, prefix
	}
	if !slices.Contains(in[key], r) {
		in[key] = append(in[key], r)
	}
}

func (c *compiler) rule(path string, r *Rule, groups map[string][]string) {
	if name, ok := strings.CutPrefix(r.Who, groupPrefix); ok {
		if _, there := groups[name]; !there {
			c.problem(path+".who", fmt.Sprintf("there is no group %q", name), "list its accounts in groups: "+name+": […]")
			return
		}
	} else if !c.account(path+".who", r.Who) {
		return
	} else {
		c.place(r.Who, c.role(r.Who))
	}
	if r.Rights == 0 {
		c.problem(path, "says nothing", "write allow: or deny: and publish, subscribe, read, write, manage or all")
	}
	named := r.Cluster || len(r.LogTopics)+len(r.ConsumerGroups)+len(r.TransactionalIDs)+len(r.SchemaSubjects) > 0
	switch {
	case len(r.Topics) == 0 && !named && r.Rights&onTopics == 0:
		c.problem(path+".log_topics", "missing", `list log topics, such as ["orders", "fleet-*"], or consumer_groups, transactional_ids, schema_subjects, cluster: true`)
	case len(r.Topics) == 0 && !named:
		c.problem(path+".topics", "missing", `list topic filters, such as ["fleet/${account}/#"], or ["#"] for all topics`)
	case len(r.Topics) > 0 && r.Rights != 0 && r.Rights&onTopics == 0:
		c.problem(path+".topics", fmt.Sprintf("%s is about log topics, and these are MQTT's", r.Rights), "write publish, subscribe or all, or log_topics instead of topics")
	case named && r.Rights != 0 && r.Rights&onResources == 0:
		c.problem(path, fmt.Sprintf("%s is about MQTT's topics, and the rule names what Kafka clients use", r.Rights), "write read, write, manage or all")
	}
	c.resourcesOf(path, r)
	tree := &c.role(r.Who).root
	for i, f := range r.Topics {
		if text, fix := checkTopic(f); text != "" {
			c.problem(fmt.Sprintf("%s.topics[%d]", path, i), text, fix)
			continue
		}
		tree.insert(&grant{r, f})
		c.policy.byClient = c.policy.byClient || strings.Contains(f, "${client}")
	}
}

// foreign are other brokers' ways to write variables.
var foreign = map[string]string{
	"%c": "${client}", "%u": "${account}", "${clientid}": "${client}", "${username}": "${account}", "${principal}": "${account}",
	"{client}": "${client}", "{account}": "${account}", "{clientid}": "${client}", "{username}": "${account}", "{principal}": "${account}",
}

// checkTopic says what is wrong with a topic filter of a rule; "": nothing is.
func checkTopic(filter string) (text, fix string) {
	if strings.HasPrefix(filter, "$share/") {
		return "a rule is about topics, however they are subscribed to", "write what comes after $share/NAME/"
	}
	plain := filter
	for level := range strings.SplitSeq(filter, "/") {
		if ours, ok := foreign[level]; ok {
			return fmt.Sprintf("%s is not a variable here", level), "write " + ours
		}
		if !strings.Contains(level, "${") {
			continue
		}
		if text := checkPattern(level); text != "" {
			return text, "write ${account} or ${client}"
		}
	}
	for name := range variables {
		plain = strings.ReplaceAll(plain, "${"+name+"}", "x")
	}
	if err := topic.ValidateFilter(plain); err != nil {
		return fmt.Sprintf("%q is no topic filter: %s", filter, strings.TrimPrefix(err.Error(), "topic: ")), ""
	}
	return "", ""
}

func checkPattern(level string) string {
	for _, after := range strings.Split(level, "${")[1:] {
		name, _, closed := strings.Cut(after, "}")
		if _, known := variables[name]; !known || !closed {
			return fmt.Sprintf("%q has no variable that is known", level)
		}
	}
	return ""
}

// GroupsOf lists the groups that an account is in.
func (p *Policy) GroupsOf(name string) (in []string) {
	for group, members := range p.groups {
		if slices.ContainsFunc(members, func(m string) bool { return speaksOf(m, name) }) {
			in = append(in, group)
		}
	}
	slices.Sort(in)
	return in
}

// speaksOf tells whether an account, or prefix*, means an account. Only * and its own name mean the anonymous one.
func speaksOf(who, name string) bool {
	prefix, pattern := strings.CutSuffix(who, "*")
	switch {
	case !pattern:
		return who == name
	case name == Anonymous:
		return prefix == ""
	}
	return strings.HasPrefix(name, prefix)
}

// Withheld lists what denies a part of a filter that s may subscribe to: messages there do not reach s.
func (p *Policy) Withheld(s Subject, filter string) []Verdict {
	return p.Overlapping(s, Subscribe, filter)
}

func (p *Policy) speaks(r *Rule, name string) bool {
	if group, ok := strings.CutPrefix(r.Who, groupPrefix); ok {
		return slices.ContainsFunc(p.groups[group], func(m string) bool { return speaksOf(m, name) })
	}
	return speaksOf(r.Who, name)
}

// expand puts a subject's names into a filter of a rule.
func expand(filter string, s Subject) (own string, ok bool) {
	var b strings.Builder
	for _, p := range compilePattern(filter).parts {
		text := p.text
		if p.variable != none {
			if text = s.value(p.variable); !usable(text) {
				return "", false
			}
		}
		b.WriteString(text)
	}
	return b.String(), true
}

// overlap tells whether a topic may match a filter of a deny and another filter.
func overlap(deny, filter string) bool {
	if strings.HasPrefix(deny, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		a, resta, morea := cut(deny)
		b, restb, moreb := cut(filter)
		switch {
		case a == "#" || b == "#":
			return true
		case a != "+" && b != "+" && a != b:
			return false
		case !morea || !moreb:
			return !morea && !moreb || resta == "#" || restb == "#" // a/# matches a
		}
		deny, filter = resta, restb
	}
}
