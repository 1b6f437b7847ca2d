package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

var logRules = Rules{
	Groups: map[string][]string{"analysts": {"anna", "bi-*"}},
	Rules: []Rule{
		{Who: "group:analysts", Rights: Of(Read), LogTopics: []string{"fleet-*", "orders"}, ConsumerGroups: []string{"${account}-*", "shared"}},
		{Who: "etl", Rights: Of(Write), LogTopics: []string{"orders"}, TransactionalIDs: []string{"etl-*"}},
		{Who: "*", Deny: true, Rights: All, LogTopics: []string{"fleet-secret*"}},
		{Who: "root", Rights: All, LogTopics: []string{"*"}, ConsumerGroups: []string{"*"}, TransactionalIDs: []string{"*"}, Cluster: true},
		{Who: "bi-new", Deny: true, Rights: Of(Read), LogTopics: []string{"orders"}},
		{Who: "mqtt", Rights: All, Topics: []string{"#"}},
	},
}

func TestDecisionsOnResources(t *testing.T) {
	p := compile(t, logRules)
	for _, c := range []struct {
		account string
		right   Right
		kind    Kind
		name    string
		allowed bool
		why     int // rule that decided; -1: none
	}{
		{"anna", Read, LogTopic, "fleet-telemetry", true, 0},
		{"anna", Read, LogTopic, "orders", true, 0},
		{"anna", Read, LogTopic, "orders2", false, -1},
		{"anna", Write, LogTopic, "orders", false, -1},
		{"anna", Read, LogTopic, "fleet-secret", false, 2},
		{"anna", Read, LogTopic, "fleet-secrets", false, 2},
		{"anna", Read, ConsumerGroup, "anna-1", true, 0},
		{"anna", Read, ConsumerGroup, "bi-1-1", false, -1},
		{"anna", Read, ConsumerGroup, "shared", true, 0},
		{"anna", Read, ConsumerGroup, "fleet-telemetry", false, -1},
		{"bi-1", Read, ConsumerGroup, "bi-1-1", true, 0},
		{"bi-new", Read, LogTopic, "orders", false, 4},
		{"bi-new", Read, LogTopic, "fleet-x", true, 0},
		{"etl", Write, TransactionalID, "etl-1", true, 1},
		{"etl", Write, TransactionalID, "x", false, -1},
		{"etl", Manage, LogTopic, "orders", false, -1},
		{"root", Manage, Cluster, "", true, 3},
		{"root", Write, LogTopic, "fleet-secret", false, 2},
		{"anna", Manage, Cluster, "", false, -1},
		{"anonymous", Read, LogTopic, "orders", false, -1},
		{"mqtt", Read, LogTopic, "orders", false, -1},
	} {
		v := p.DecideOn(Subject{Account: c.account}, c.right, c.kind, c.name)
		want := (*Rule)(nil)
		if c.why >= 0 {
			want = &p.rules[c.why]
		}
		if v.Allowed != c.allowed || v.Rule != want {
			t.Errorf("%s %v %v %q: %+v", c.account, c.right, c.kind, c.name, v)
		}
	}
	// A name that could be more than itself stands for nothing.
	if v := p.DecideOn(Subject{Account: "bi-/x"}, Read, ConsumerGroup, "bi-/x-1"); v.Allowed || !v.Unusable {
		t.Errorf("%+v", v)
	}
}

func TestAnywhere(t *testing.T) {
	p := compile(t, Rules{Rules: []Rule{
		{Who: "a", Rights: Of(Write), LogTopics: []string{"x"}},
		{Who: "b", Rights: Of(Write), LogTopics: []string{"x"}},
		{Who: "b", Deny: true, Rights: Of(Write), LogTopics: []string{"*"}},
	}})
	for account, want := range map[string]bool{"a": true, "b": false, "c": false} {
		if got := p.Anywhere(Subject{Account: account}, Write, LogTopic); got != want {
			t.Errorf("%s: %v", account, got)
		}
	}
	if p.Anywhere(Subject{Account: "a"}, Read, LogTopic) {
		t.Error("a may read nothing")
	}
}

func TestDefaultAllowReachesTheLogButNotItsAdministration(t *testing.T) {
	p := compile(t, Rules{Allow: true})
	s := Subject{Account: "a"}
	for _, right := range []Right{Read, Write, Manage} {
		for kind := range Cluster {
			if !p.DecideOn(s, right, kind, "x").Allowed {
				t.Errorf("%v of a %v", right, kind)
			}
		}
	}
	if p.DecideOn(s, Manage, Cluster, "").Allowed {
		t.Error("everybody manages the cluster")
	}
}

func TestRulesAboutResourcesThatAreWrong(t *testing.T) {
	for want, r := range map[string]Rule{
		"is about log topics, and these are MQTT's":    {Who: "a", Rights: Of(Read), Topics: []string{"x"}},
		"is about MQTT's topics":                       {Who: "a", Rights: Of(Publish), LogTopics: []string{"x"}},
		"log_topics: missing":                          {Who: "a", Rights: Of(Write)},
		"looks like an MQTT topic filter":              {Who: "a", Rights: Of(Read), LogTopics: []string{"fleet/#"}},
		"stands at the end only":                       {Who: "a", Rights: Of(Read), ConsumerGroups: []string{"*-x"}},
		"has a variable that is not known here":        {Who: "a", Rights: Of(Read), LogTopics: []string{"${client}-x"}},
		`transactional_ids[0]: missing; write a name,`: {Who: "a", Rights: Of(Write), TransactionalIDs: []string{""}},
	} {
		if _, err := Compile(Rules{Rules: []Rule{r}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", r, err, want)
		}
	}
}

// The compiled names decide as a walk over all rules does.
func TestResourcesAgainstAWalk(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	names := []string{"", "a", "ab", "abc", "b", "ba", "bb"}
	for range 300 {
		var rs Rules
		for range 1 + rng.IntN(8) {
			r := Rule{Who: []string{"a", "a*", "*", "ab"}[rng.IntN(4)], Deny: rng.IntN(3) == 0, Rights: Of(Read + Right(rng.IntN(3)))}
			name := names[rng.IntN(len(names))]
			if rng.IntN(2) == 0 || name == "" {
				name += "*"
			}
			r.LogTopics = []string{name}
			rs.Rules = append(rs.Rules, r)
		}
		p := compile(t, rs)
		for _, account := range []string{"a", "ab", "b"} {
			for _, name := range names[1:] {
				for _, right := range []Right{Read, Write, Manage} {
					allow, deny := false, false
					for i := range rs.Rules {
						r := &rs.Rules[i]
						if !speaksOf(r.Who, account) || !r.Rights.Has(right) {
							continue
						}
						prefix, pattern := strings.CutSuffix(r.LogTopics[0], "*")
						if name == r.LogTopics[0] || pattern && strings.HasPrefix(name, prefix) {
							allow, deny = allow || !r.Deny, deny || r.Deny
						}
					}
					if got := p.DecideOn(Subject{Account: account}, right, LogTopic, name).Allowed; got != (allow && !deny) {
						t.Fatalf("%s %v %s: %v of\n%s", account, right, name, got, fmt.Sprintf("%+v", rs.Rules))
					}
				}
			}
		}
	}
}
