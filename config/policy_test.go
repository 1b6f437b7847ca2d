package config

import (
	"reflect"
	"strings"
	"testing"
)

const policyText = `
default: deny
groups:
  operators: [alice, "ops-*"]
  "night shift": [bob]
rules:
  - {who: group:operators, allow: all, topics: ["fleet/#"]}
  - who: "*"
    deny: publish
    topics:
      - fleet/secret/#
`

// A policy stands in the configuration or in a file of its own, and means the same; what `config show` writes is read as the same again.
func TestPolicy(t *testing.T) {
	own, err := ParsePolicy(policyText, "acl.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Policy{Default: "deny", Groups: map[string][]string{"operators": {"alice", "ops-*"}, "night shift": {"bob"}}, Rules: []Rule{
		{Who: "group:operators", Allow: "all", Topics: []string{"fleet/#"}}, {Who: "*", Deny: "publish", Topics: []string{"fleet/secret/#"}},
	}}
	if !reflect.DeepEqual(own.Policy, want) {
		t.Errorf("got  %+v\nwant %+v", own.Policy, want)
	}
	for path, where := range map[string]string{"policy.rules[1].topics[0]": "acl.yaml:11", "policy.rules[0]": "acl.yaml:7", "policy.groups.operators[1]": "acl.yaml:4"} {
		if got := own.Where(path); got != where {
			t.Errorf("%s comes from %s, want %s", path, got, where)
		}
	}
	c, err := Parse("policy:"+strings.ReplaceAll(policyText, "\n", "\n  "), "f")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.Policy, want) {
		t.Errorf("got  %+v\nwant %+v", c.Policy, want)
	}
	again, err := Parse(string(c.YAML()), "shown")
	if err != nil || !reflect.DeepEqual(again.Policy, want) {
		t.Errorf("what is shown is read as %+v, %v:\n%s", again, err, c.YAML())
	}
	found := false
	for _, e := range c.Effective() {
		found = found || e == Entry{"policy.groups.operators[1]", "ops-*", "f:4"}
	}
	if !found {
		t.Errorf("a member of a group is not among %v", c.Effective())
	}
	none, err := Parse(string(Default().YAML()), "shown")
	if err != nil || none.Policy.Configured() {
		t.Errorf("no policy is shown as %+v, %v", none, err)
	}
	if c, err = Parse("policy: {file: file:acl.yaml}", "f"); err != nil || c.Policy.File != "acl.yaml" || !c.Policy.Configured() {
		t.Errorf("%+v %v", c, err)
	}
	if c, err = Load(Source{Environ: []string{"MILLRACE_POLICY_FILE=acl.yaml"}}); err != nil || c.Policy.File != "acl.yaml" {
		t.Errorf("%+v %v", c, err)
	}
	if c, err = Load(Source{Environ: []string{"MILLRACE_POLICY_DEFAULT=deny", "MILLRACE_POLICY_GROUPS={g: [a]}"}}); err != nil || len(c.Policy.Groups["g"]) != 1 {
		t.Errorf("%+v %v", c, err)
	}
}

// A policy that is written and empty never means that everything is allowed.
func TestClass11EmptyPolicy(t *testing.T) {
	for _, text := range []string{"policy:", "policy: {}", "policy:\n  rules:\n", "policy: ~", "policy: {groups: {}, rules: []}", "policy: {default: }"} {
		if _, err := Parse(text, "f"); err == nil || !strings.Contains(err.Error(), "without a policy everything is allowed") || !strings.Contains(err.Error(), "f:") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", "# nothing", "rules: []", "~", "rules:"} {
		if _, err := ParsePolicy(text, "f"); err == nil {
			t.Errorf("a policy file %q is a policy", text)
		}
	}
	if c, err := Parse("policy: {default: deny}", "f"); err != nil || !c.Policy.Configured() {
		t.Errorf("a policy that denies everything: %v", err)
	}
}

func TestPolicyProblems(t *testing.T) {
	for text, want := range map[string]string{
		"policy: {default: maybe}":                                           `f:1: policy.default: "maybe" is not one of deny, allow`,
		"policy:\n  rules:\n  - {who: a, topics: [x]}":                       "f:3: policy.rules[0]: neither allows nor denies",
		"policy:\n  rules:\n  - {who: a, allow: all, deny: all}":             "f:3: policy.rules[0]: allows and denies",
		"policy:\n  rules:\n  - {who: a, allow: readwrite, topics: [x]}":     "write all",
		"policy:\n  rules:\n  - {who: a, deny: everything, topics: [x]}":     `f:3: policy.rules[0].deny: "everything" is not one of publish, subscribe, read, write, manage, all`,
		"policy:\n  rules:\n  - {who: a, alow: all, topics: [x]}":            "f:3: policy.rules[0].alow: unknown key; did you mean allow?",
		"policy: {groups: [a]}":                                              "policy.groups: a mapping belongs here",
		"policy: {groups: {g: a}}":                                           "policy.groups.g: a list belongs here",
		"policy: {file: acl.yaml, default: deny}":                            "policy.file: the policy is in the file and here",
		"policy:\n  rules:\n  - {who: *, allow: all, topics: [x]}":           "f:",
		"policy:\n  default: deny\n  groups:\n    g: [a]\n    g: [b]\n":      "f:5",
		"policy:\n  default: deny\n  rules:\n  - {who: a, allow: [all]}":     "policy.rules[0].allow: a single value belongs here",
		"policy:\n  default: deny\n  rules:\n  - {who: a, allow: x, o: [1}}": "f:",
	} {
		if _, err := Parse(text, "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := ParsePolicy("file: other.yaml", "f"); err == nil || !strings.Contains(err.Error(), "names no other") {
		t.Errorf("a policy file that names another: %v", err)
	}
}
