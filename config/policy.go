package config

import "fmt"

// Policy says who may do what. Package policy gives it its meaning, and finds what is wrong with its names and filters.
type Policy struct {
	Default string              `yaml:"default"` // deny | allow: what no rule speaks of; empty: deny
	Groups  map[string][]string `yaml:"groups"`  // accounts, by the group's name
	Rules   []Rule              `yaml:"rules"`
	File    File                `yaml:"file"` // has all of these instead
}

// Rule allows or denies something to somebody. One of Allow and Deny is set.
type Rule struct {
	Who    string   `yaml:"who"`   // an account, prefix*, group:NAME, anonymous, or * for everybody
	Allow  string   `yaml:"allow"` // publish | subscribe | read | write | manage | all
	Deny   string   `yaml:"deny"`
	Topics []string `yaml:"topics"` // MQTT's, by filters
	// What Kafka clients use: names, or prefix*.
	LogTopics        []string `yaml:"log_topics"`
	ConsumerGroups   []string `yaml:"consumer_groups"`
	TransactionalIDs []string `yaml:"transactional_ids"`
	SchemaSubjects   []string `yaml:"schema_subjects"` // of the schema registry
	Cluster          bool     `yaml:"cluster"`         // the server itself: manage is who may change ACLs and credentials
}

// Configured tells whether there is a policy. Without one everything is allowed.
func (p *Policy) Configured() bool {
	return p.Default != "" || len(p.Groups) > 0 || len(p.Rules) > 0 || p.File != ""
}

const (
	emptyPolicy    = "there is nothing in it, and without a policy everything is allowed"
	emptyPolicyFix = "write default: deny, or rules, or remove policy"
)

// ParsePolicy reads the text of a policy file, under a name for messages. Of the configuration that it returns only Policy counts, and
// Where says where it was written.
func ParsePolicy(text, name string) (*Config, error) {
	c := Default()
	c.origin = origins{}
	problems := c.mergeUpTo(maxPolicy, "policy", text, name)
	if len(problems) == 0 {
		ck := checker{c: c}
		if !c.Policy.Configured() { // a file that is just being written is not a policy yet
			problems = Problems{{Where: name, Path: "policy", Text: emptyPolicy, Fix: "write default: deny, or rules"}}
		}
		if c.Policy.File != "" {
			ck.problem("policy.file", "a policy file names no other", "remove it")
		} else {
			ck.policy()
		}
		problems = append(problems, ck.problems...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

func (ck *checker) policy() {
	p := &ck.c.Policy
	if p.Default != "" {
		ck.oneOf("policy.default", p.Default, "deny", "allow")
	}
	if p.File != "" && (p.Default != "" || len(p.Groups) > 0 || len(p.Rules) > 0) {
		ck.problem("policy.file", "the policy is in the file and here", "move all of it into the file, or remove file")
	}
	for i, r := range p.Rules {
		path := fmt.Sprintf("policy.rules[%d]", i)
		switch {
		case r.Allow == "" && r.Deny == "":
			ck.problem(path, "neither allows nor denies anything", "write allow: or deny: and publish, subscribe, read, write, manage or all")
		case r.Allow != "" && r.Deny != "":
			ck.problem(path, "allows and denies", "make two rules of it")
		case r.Allow != "":
			ck.right(path+".allow", r.Allow, &r)
		default:
			ck.right(path+".deny", r.Deny, &r)
		}
	}
}

// foreignRights are what other brokers call rights.
var foreignRights = map[string]string{
	"read": "subscribe", "write": "publish", "readwrite": "all", "sub": "subscribe", "pub": "publish", "pubsub": "all", "receive": "subscribe",
}

func (ck *checker) right(path, value string, r *Rule) {
	if ours, ok := foreignRights[value]; ok && (len(r.Topics) > 0 || value != "read" && value != "write") {
		ck.problem(path, fmt.Sprintf("%q is not one of publish, subscribe, all, which are the rights on MQTT's topics", value), "write "+ours)
		return
	}
	ck.oneOf(path, value, "publish", "subscribe", "read", "write", "manage", "all")
}
