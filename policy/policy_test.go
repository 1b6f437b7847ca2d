package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// fleetRules are what a small fleet might have.
var fleetRules = Rules{
	Groups: map[string][]string{"operators": {"alice", "ops-*"}, "trucks": {"truck-*"}},
	Rules: []Rule{
		{Who: "group:trucks", Rights: Of(Publish), Topics: []string{"fleet/${client}/telemetry", "fleet/${client}/status"}},
		{Who: "group:trucks", Rights: Of(Subscribe), Topics: []string{"fleet/${client}/cmd/#"}},
		{Who: "group:operators", Rights: Of(Publish, Subscribe), Topics: []string{"fleet/#", "$SYS/#"}},
		{Who: "ops-trainee", Deny: true, Rights: Of(Publish), Topics: []string{"fleet/+/cmd/#"}},
		{Who: "*", Deny: true, Rights: Of(Publish, Subscribe), Topics: []string{"fleet/secret/#"}},
		{Who: "anonymous", Rights: Of(Subscribe), Topics: []string{"public/+"}},
		{Who: "mallory", Deny: true, Rights: Of(Publish, Subscribe), Topics: []string{"#"}},
		{Who: "*", Rights: Of(Subscribe), Topics: []string{"$SYS/broker/version", "news/#"}},
	},
}

func compile(t testing.TB, rs Rules) *Policy {
	t.Helper()
	p, err := Compile(rs)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDecisions(t *testing.T) {
	p := compile(t, fleetRules)
	for _, c := range []struct {
		account, client string
		right           Right
		topic           string
		allowed         bool
		why             int // rule that decided; -1: none
	}{
		{"truck-7", "truck-7", Publish, "fleet/truck-7/telemetry", true, 0},
		{"truck-7", "truck-7", Publish, "fleet/truck-8/telemetry", false, -1},
		{"truck-7", "truck-7", Publish, "fleet/truck-7/telemetry/x", false, -1},
		{"truck-7", "truck-7", Subscribe, "fleet/truck-7/cmd/#", true, 1},
		{"truck-7", "truck-7", Subscribe, "fleet/truck-7/cmd", true, 1},
		{"truck-7", "truck-7", Subscribe, "fleet/+/cmd/#", false, -1},
		{"truck-7", "truck-7", Subscribe, "#", false, -1},
		{"truck-7", "truck-7", Publish, "news/x", false, -1},
		{"truck-7", "truck-7", Subscribe, "news/x", true, 7},
		{"alice", "a", Subscribe, "fleet/#", true, 2},
		{"alice", "a", Subscribe, "fleet/+/telemetry", true, 2},
		{"alice", "a", Subscribe, "fleet/secret/x", false, 4},
		{"alice", "a", Subscribe, "fleet/secret/#", false, 4},
		{"alice", "a", Subscribe, "#", false, -1},
		{"alice", "a", Subscribe, "$SYS/#", true, 2},
		{"ops-trainee", "a", Publish, "fleet/truck-7/cmd/stop", false, 3},
		{"ops-2", "a", Publish, "fleet/truck-7/cmd/stop", true, 2},
		{"anonymous", "a", Subscribe, "public/x", true, 5},
		{"anonymous", "a", Subscribe, "news/#", true, 7}, // * is everybody
		{"mallory", "a", Subscribe, "news/#", false, 6},
		{"mallory", "a", Subscribe, "$SYS/broker/version", false, 6}, // who is denied everything is denied that, too
		{"nobody", "a", Subscribe, "$SYS/broker/version", true, 7},
		{"nobody", "a", Subscribe, "$SYS/+/version", false, -1},
	} {
		v := p.Decide(Subject{c.account, c.client}, c.right, c.topic)
		why := -1
		if v.Rule != nil {
			why = slices.IndexFunc(p.rules, func(r Rule) bool { return r.Who == v.Rule.Who && slices.Equal(r.Topics, v.Rule.Topics) })
		}
		if v.Allowed != c.allowed || why != c.why {
			t.Errorf("%s (%s) %v %s: allowed %v by rule %d, want %v by %d", c.account, c.client, c.right, c.topic, v.Allowed, why, c.allowed, c.why)
		}
	}
	if w := p.Withheld(Subject{"alice", "a"}, "fleet/#"); len(w) != 1 || w[0].Filter != "fleet/secret/#" {
		t.Errorf("of fleet/# withheld: %v", w)
	}
	if w := p.Withheld(Subject{"alice", "a"}, "fleet/truck-7/#"); len(w) != 0 {
		t.Errorf("of fleet/truck-7/# withheld: %v", w)
	}
	if g := p.GroupsOf("ops-2"); !slices.Equal(g, []string{"operators"}) {
		t.Errorf("groups of ops-2: %v", g)
	}
}

// What is allowed where no rule speaks does not reach topics that begin with $.
func TestDefaultAllow(t *testing.T) {
	p := compile(t, Rules{Allow: true, Rules: []Rule{{Who: "eve", Deny: true, Rights: Of(Publish), Topics: []string{"fleet/#"}}}})
	for topic, want := range map[string]bool{"a": true, "#": true, "fleet/x": true, "$SYS/x": false, "$SYS/#": false} {
		if got := p.Decide(Subject{"bob", "b"}, Subscribe, topic).Allowed; got != want {
			t.Errorf("subscribe to %s: %v", topic, got)
		}
	}
	if p.Decide(Subject{"eve", "e"}, Publish, "fleet/x").Allowed {
		t.Error("a deny does not beat the default")
	}
	empty := compile(t, Rules{})
	if empty.Decide(Subject{"bob", "b"}, Publish, "a").Allowed {
		t.Error("no rules, and something is allowed")
	}
}

// A name that is not one plain level never stands for a variable: the names are the clients' own choice, and would widen the rule.
func TestClass06WildcardsInNames(t *testing.T) {
	p := compile(t, Rules{Rules: []Rule{
		{Who: "*", Rights: Of(Publish, Subscribe), Topics: []string{"own/${client}/#", "own/x-${account}", "${client}/free/#"}},
	}})
	for _, name := range []string{"+", "#", "a/b", "a+", "+/+", "", "$SYS"} {
		for _, topic := range []string{"own/+/#", "own/#/#", "own/a/b/#", "own/a/x", "own/a+/#", "own/+/+/#", "own//#", "own/x-+", "own/x-#", "own/x-", "own/x-a/b", "$SYS/free/#", "+/free/#"} {
			s := Subject{name, name}
			if name == "$SYS" {
				if p.Decide(s, Subscribe, "$SYS/free/#").Allowed {
					t.Error("a client called $SYS reads $SYS")
				}
				continue
			}
			v := p.Decide(s, Subscribe, topic)
			if v.Allowed {
				t.Errorf("a client called %q gets %s", name, topic)
			}
			if strings.HasPrefix(topic, "own/") && !v.Unusable {
				t.Errorf("that %q does not count is not said for %s", name, topic)
			}
		}
	}
	if v := p.Decide(Subject{"a", "b"}, Subscribe, "own/b/#"); !v.Allowed || v.Unusable {
		t.Errorf("a plain name: %+v", v)
	}
	if v := p.Decide(Subject{"a", "b"}, Publish, "own/x-a"); !v.Allowed {
		t.Errorf("a variable in a part of a level: %+v", v)
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		rs   Rules
		want string
	}{
		{Rules{Rules: []Rule{{Who: "a*b", Rights: 1, Topics: []string{"x"}}}}, "rules[0].who"},
		{Rules{Rules: []Rule{{Rights: 1, Topics: []string{"x"}}}}, "rules[0].who: missing"},
		{Rules{Rules: []Rule{{Who: "group:none", Rights: 1, Topics: []string{"x"}}}}, "there is no group"},
		{Rules{Rules: []Rule{{Who: "a", Topics: []string{"x"}}}}, "says nothing"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1}}}, "rules[0].topics: missing"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{"x", "a/#/b"}}}}, "rules[0].topics[1]"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{"a/%c"}}}}, "write ${client}"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{"a/{client}"}}}}, "write ${client}"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{"a/${user}"}}}}, "no variable that is known"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{"a/${client"}}}}, "no variable that is known"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{"$share/g/a"}}}}, "write what comes after"},
		{Rules{Rules: []Rule{{Who: "a", Rights: 1, Topics: []string{""}}}}, "is no topic filter"},
		{Rules{Groups: map[string][]string{"g": {"group:h"}}}, "groups.g[0]"},
		{Rules{Groups: map[string][]string{"g": {""}}}, "groups.g[0]"},
	} {
		p, err := Compile(c.rs)
		if err == nil || p != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.rs, err, c.want)
		}
	}
}

// naive decides as Decide does, by looking at every rule and comparing level by level.
func naive(rs Rules, s Subject, right Right, name string) (allowed bool) {
	rules := rs.Rules
	if rs.Allow {
		rules = append(slices.Clone(rules), Rule{Who: "*", Rights: Of(Publish, Subscribe), Topics: []string{"#"}})
	}
	for _, r := range rules {
		who := []string{r.Who}
		if g, ok := strings.CutPrefix(r.Who, "group:"); ok {
			who = rs.Groups[g]
		}
		if !r.Rights.Has(right) || !slices.ContainsFunc(who, func(w string) bool {
			if s.Account == "anonymous" {
				return w == "*" || w == "anonymous"
			}
			return w == s.Account || strings.HasSuffix(w, "*") && strings.HasPrefix(s.Account, w[:len(w)-1])
		}) {
			continue
		}
		for _, f := range r.Topics {
			if !naiveCovers(strings.Split(f, "/"), strings.Split(name, "/"), s, r.Deny) {
				continue
			}
			if r.Deny {
				return false
			}
			allowed = true
		}
	}
	return allowed
}

func naiveCovers(f, name []string, s Subject, deny bool) bool {
	if strings.HasPrefix(name[0], "$") && !deny && !strings.HasPrefix(f[0], "$") {
		return false
	}
	for i, l := range f {
		if l == "#" {
			return true
		}
		if i == len(name) || name[i] == "#" {
			return false
		}
		if strings.HasPrefix(name[i], "$") && i == 0 && l != "+" && !strings.HasPrefix(l, "$") {
			return false
		}
		if strings.Contains(l, "${") {
			for v, is := range map[string]string{"${account}": s.Account, "${client}": s.Client} {
				if strings.Contains(l, v) && (is == "" || strings.ContainsAny(is, "/+#")) {
					return false
				}
			}
			if (strings.HasPrefix(l, "${")) && i == 0 && strings.HasPrefix(name[0], "$") {
				return false
			}
			l = strings.NewReplacer("${account}", s.Account, "${client}", s.Client).Replace(l)
			if l != name[i] {
				return false
			}
			continue
		}
		if l != "+" && l != name[i] {
			return false
		}
	}
	return len(name) == len(f)
}

var (
	someNames  = []string{"a", "b", "ab", "+", "#", "a/b", "", "$x", "anonymous", "a${client}"}
	someWho    = []string{"a", "b", "ab", "a*", "*", "anonymous", "group:g", "group:h", "an*"}
	someLevels = []string{"a", "b", "ab", "$x", "", "$xa"}
	ruleLevels = append([]string{"+", "+", "${account}", "${client}", "x${client}", "${account}-${client}", "$x${client}"}, someLevels...)
)

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func randomFilter(r *rand.Rand, levels []string) string {
	ls := make([]string, 1+r.IntN(3))
	for i := range ls {
		ls[i] = pick(r, levels)
	}
	if r.IntN(3) == 0 {
		ls[len(ls)-1] = "#"
	}
	if len(ls) == 1 && ls[0] == "" {
		return "/"
	}
	return strings.Join(ls, "/")
}

func randomRules(r *rand.Rand) Rules {
	rs := Rules{Allow: r.IntN(4) == 0, Groups: map[string][]string{"g": {"a", "b*"}, "h": {pick(r, []string{"*", "ab", "anonymous"})}}}
	for range r.IntN(8) {
		rule := Rule{Who: pick(r, someWho), Deny: r.IntN(3) == 0, Rights: Rights(1 + r.IntN(3))}
		for range 1 + r.IntN(3) {
			rule.Topics = append(rule.Topics, randomFilter(r, ruleLevels))
		}
		rs.Rules = append(rs.Rules, rule)
	}
	return rs
}

// The trees decide what a look at every rule decides; the order of the rules means nothing; and what a filter that is granted brings
// is allowed topic by topic, but for what a rule denies.
func TestAgainstNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(tier.Seed(), 6))
	allowed, granted := 0, 0
	for range tier.N(20_000) {
		rs := randomRules(r)
		p := compile(t, rs)
		shuffled := rs
		shuffled.Rules = slices.Clone(rs.Rules)
		r.Shuffle(len(shuffled.Rules), func(i, j int) {
			shuffled.Rules[i], shuffled.Rules[j] = shuffled.Rules[j], shuffled.Rules[i]
		})
		q := compile(t, shuffled)
		for range 20 {
			s := Subject{pick(r, someNames), pick(r, someNames)}
			right := Right(r.IntN(2))
			name := randomFilter(r, someLevels)
			if r.IntN(2) == 0 {
				name = randomFilter(r, append([]string{"+"}, someLevels...))
			}
			v := p.Decide(s, right, name)
			if want := naive(rs, s, right, name); v.Allowed != want {
				t.Fatalf("%+v\n%+v %v %q: %v, want %v (by %+v)", rs, s, right, name, v.Allowed, want, v.Rule)
			}
			if w := q.Decide(s, right, name); w.Allowed != v.Allowed {
				t.Fatalf("%+v\n%+v %v %q: the order of rules decides", rs, s, right, name)
			}
			if v.Rule != nil && (v.Allowed == v.Rule.Deny || !v.Rule.Rights.Has(right) || !slices.Contains(v.Rule.Topics, v.Filter)) {
				t.Fatalf("%+v %v %q: %v because of %+v", s, right, name, v.Allowed, v.Rule)
			}
			if v.Allowed {
				allowed++
			}
			if !v.Allowed || right != Subscribe {
				continue
			}
			granted++
			withheld := p.Withheld(s, name)
			for range 10 {
				one := randomFilter(r, someLevels)
				if strings.Contains(one, "#") || !topic.Match(name, one) {
					continue
				}
				switch got := p.Decide(s, right, one); {
				case !got.Allowed && got.Rule == nil:
					t.Fatalf("%+v\n%+v may subscribe to %q, and %q is nowhere allowed", rs, s, name, one)
				case !got.Allowed && !slices.ContainsFunc(withheld, func(w Verdict) bool { return w.Rule == got.Rule }):
					t.Fatalf("%+v\n%+v: that %q is withheld from %q is not told", rs, s, one, name)
				}
			}
		}
	}
	if allowed == 0 || granted == 0 {
		t.Fatal("nothing was allowed: the test is about nothing")
	}
}

// FuzzDecide has names and topics of any kind: no panic, no verdict that a look at every rule does not give, and no topic allowed through a
// name that is more than one plain level.
func FuzzDecide(f *testing.F) {
	f.Add("truck-7", "truck-7", "fleet/truck-7/telemetry", uint64(1))
	f.Add("+", "#", "own/+/#", uint64(2))
	f.Add("anonymous", "a/b", "$SYS/a", uint64(3))
	f.Add("a", "$x", "$x/#", uint64(4))
	f.Fuzz(func(t *testing.T, account, client, name string, seed uint64) {
		if topic.ValidateFilter(name) != nil {
			return
		}
		rs := randomRules(rand.New(rand.NewPCG(seed, 6)))
		rs.Rules = append(rs.Rules, fleetRules.Rules[0], fleetRules.Rules[4])
		rs.Groups["trucks"] = []string{"truck-*"}
		p := compile(t, rs)
		for _, right := range []Right{Publish, Subscribe} {
			v := p.Decide(Subject{account, client}, right, name)
			if want := naive(rs, Subject{account, client}, right, name); v.Allowed != want {
				t.Fatalf("%+v: %v, want %v (by %+v)", rs, v.Allowed, want, v.Rule)
			}
		}
	})
}

// FuzzCompile has filters of any kind in rules: no panic, and what is compiled is only what is legal.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"a/+/#", "${client}", "a/${account}-${client}/b", "${", "${}", "$share/g/a", "#/#", "a/%c"} {
		f.Add(s, "a")
	}
	f.Add("#", "group:")
	f.Fuzz(func(t *testing.T, filter, who string) {
		p, err := Compile(Rules{Groups: map[string][]string{"g": {who}}, Rules: []Rule{{Who: who, Rights: 3, Topics: []string{filter}}}})
		if err != nil {
			return
		}
		plain := strings.NewReplacer("${client}", "x", "${account}", "x").Replace(filter)
		if topic.ValidateFilter(plain) != nil {
			t.Fatalf("%q is compiled", filter)
		}
		p.Decide(Subject{"a", "b"}, Subscribe, plain)
		p.Withheld(Subject{"a", "b"}, "#")
	})
}

// A decision allocates nothing, and costs the same with a thousand times the rules.
func TestDecideAllocatesNothing(t *testing.T) {
	p := compile(t, manyRules(1000))
	s := Subject{"truck-500", "truck-500"}
	if n := testing.AllocsPerRun(100, func() {
		if !p.Decide(s, Publish, "fleet/truck-500/engine/temperature").Allowed {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func manyRules(n int) Rules {
	rs := fleetRules
	rs.Rules = slices.Clone(rs.Rules)
	for i := range n {
		name := fmt.Sprintf("truck-%d", i)
		rs.Rules = append(rs.Rules, Rule{Who: name, Rights: 3, Topics: []string{"fleet/" + name + "/#"}})
	}
	return rs
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n, " rules"), func(b *testing.B) {
			p := compile(b, manyRules(n))
			s := Subject{"truck-5", "truck-5"}
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(s, Publish, "fleet/truck-5/engine/temperature")
			}
		})
	}
}
