// Package policy decides who may do what: whether an account may publish to a topic, subscribe to a filter, receive a message, and read, write
// or manage the log's topics and what else its clients have.
//
// A policy is rules, each of which allows or denies something to somebody; Compile makes trees of them, one for each somebody, so that
// a decision looks only at the rules for the account that asks, and of those only at the ones that its topic leads to: it costs
// the same with ten rules and with a hundred thousand. A policy never changes; who wants another one compiles another one.
//
// The package is pure: no goroutines, nothing on disk, no clock. It knows neither MQTT's packets nor Kafka's requests, so that every server
// can ask it, and it will never hold anything about an account, not even a cache: that is for who asks often, who knows what to
// forget. Whether somebody is who they say is package identity's to find out.
package policy

import "strings"

// Right is what a rule is about.
type Right uint8

const (
	// Publish to a topic, now or by a will.
	Publish Right = iota
	// Subscribe to a filter, and receive on the topics that it matches.
	Subscribe
	// Read a log topic, be a member of a consumer group.
	Read
	// Write to a log topic, use a transactional id.
	Write
	// Manage: make, alter and delete.
	Manage
	rights
)

// Rights are some of them.
type Rights uint8

// Of makes Rights.
func Of(rs ...Right) (all Rights) {
	for _, r := range rs {
		all |= 1 << r
	}
	return all
}

// All are all of them.
var All = Of(Publish, Subscribe, Read, Write, Manage)

// The rights that there are on MQTT's topics, and those on resources of the log's clients.
var (
	onTopics    = Of(Publish, Subscribe)
	onResources = Of(Read, Write, Manage)
)

// Has tells whether r is among them.
func (rs Rights) Has(r Right) bool { return rs&(1<<r) != 0 }

func (r Right) String() string {
	return [...]string{"publish", "subscribe", "read", "write", "manage"}[r]
}

func (rs Rights) String() string {
	for r := range rights {
		if rs == Of(r) {
			return r.String()
		}
	}
	return "all"
}

// Anonymous is the account of whoever did not say who they are.
const Anonymous = "anonymous"

// Subject is who wants something: an account, through a client.
type Subject struct{ Account, Client string }

// Rule allows or denies rights on topics, on resources of the log's clients, or on both.
type Rule struct {
	Who    string // an account; prefix*: accounts that begin so; group:name; anonymous; *: everybody
	Deny   bool
	Rights Rights
	Topics []string // topic filters; ${account} and ${client} in them stand for the subject's own
	Where  string   // it is written, for who asks why
	// Names of resources, or prefix*; ${account} in them stands for the subject's own.
	LogTopics, ConsumerGroups, TransactionalIDs, SchemaSubjects []string
	Cluster                                                     bool
}

// Rules are what a policy is made of.
type Rules struct {
	// Allow is what becomes of topics that no rule speaks of. It does not reach those that begin with $, nor managing the cluster: they take a rule.
	Allow  bool
	Groups map[string][]string // accounts and prefix*, by the group's name
	Rules  []Rule
}

// Policy is compiled rules. It never changes, and any number of goroutines may ask it.
type Policy struct {
	exact    map[string][]*role // by account: its own rules, and those of its groups
	prefixes map[string][]*role // by what accounts begin with
	lengths  []int              // of prefixes, ascending
	rules    []Rule
	groups   map[string][]string
	byClient bool
}

// ByClient tells whether a rule says ${client}: client ids are the clients' own choice, unless somebody binds them to accounts.
func (p *Policy) ByClient() bool { return p.byClient }

// role is the rules for one somebody.
type role struct {
	root  node          // MQTT's topics
	names [kinds]*names // nil: none
}

// grant is one topic filter of a rule.
type grant struct {
	rule   *Rule
	filter string
}

// Verdict is a decision.
type Verdict struct {
	Allowed bool
	Rule    *Rule  // that decided; nil: none did, so what is not allowed is denied
	Filter  string // of the rule
	// Unusable: a rule did not count, because the name that its variable stands for has / + or # in it, or is empty, and could reach
	// topics that the rule does not mean.
	Unusable bool
}

// Decide says whether s has a right on a topic or a valid topic filter. A filter is allowed if one rule allows all that it matches. What
// another rule denies of that, the filter does not bring: everything that is to be received is decided on by its topic. A filter of which
// everything is denied is denied. $share/<name>/ must have been taken off a filter.
//
// A deny beats every allow, wherever it stands, so that the order of rules means nothing.
func (p *Policy) Decide(s Subject, right Right, topicOrFilter string) Verdict {
	m := matcher{subject: s, right: right, hidden: strings.HasPrefix(topicOrFilter, "$")}
	for _, r := range p.exact[s.Account] {
		if m.ask(r, topicOrFilter) {
			return m.verdict()
		}
	}
	for _, n := range p.lengths {
		if n > len(s.Account) || n > 0 && s.Account == Anonymous {
			break
		}
		for _, r := range p.prefixes[s.Account[:n]] {
			if m.ask(r, topicOrFilter) {
				return m.verdict()
			}
		}
	}
	return m.verdict()
}

// matcher is one decision on its way.
type matcher struct {
	subject     Subject
	right       Right
	hidden      bool // the topic begins with $
	unusable    bool
	allow, deny *grant
}

func (m *matcher) verdict() Verdict {
	v := Verdict{Unusable: m.unusable}
	switch {
	case m.deny != nil:
		v.Rule, v.Filter = m.deny.rule, m.deny.filter
	case m.allow != nil:
		v.Allowed, v.Rule, v.Filter = true, m.allow.rule, m.allow.filter
	}
	return v
}

// ask looks at the rules of one role; true: it is denied, and nothing can change that.
func (m *matcher) ask(r *role, topic string) (denied bool) {
	return m.walk(&r.root, topic, true, true)
}
