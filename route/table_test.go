package route

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/topic"
)

func TestFindTakesTheMostSpecificRoute(t *testing.T) {
	table, err := Compile([]Spec{
		{MQTT: "fleet/#", Topic: "fleet"},
		{MQTT: "fleet/{vehicle}/telemetry", Topic: "telemetry", Key: "{vehicle}"},
		{MQTT: "fleet/special/telemetry", Topic: "special"},
		{MQTT: "fleet/{vehicle}/can/{rest...}", Topic: "can", Key: "{vehicle}"},
		{MQTT: "live/{x}", Discard: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"fleet":                   "fleet",
		"fleet/7":                 "fleet",
		"fleet/7/telemetry":       "telemetry",
		"fleet//telemetry":        "telemetry",
		"fleet/special/telemetry": "special",
		"fleet/7/can":             "fleet", // {rest...} is one or more levels
		"fleet/7/can/":            "can",
		"fleet/7/can/a/b":         "can",
		"fleet/7/telemetry/x":     "fleet",
		"live/a":                  "",
		"live/a/b":                "mqtt",
		"other":                   "mqtt",
		"/":                       "mqtt",
	} {
		if r := table.find(name); r == nil || r.Topic != want {
			t.Errorf("find(%q) = %v, want log topic %q", name, r, want)
		}
	}
	if r := table.find("$SYS/uptime"); r != nil {
		t.Errorf("find($SYS/uptime) = %v, want none", r)
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct {
		why   string
		specs []Spec
		want  []string // all in the message
	}{
		{"ambiguous", []Spec{{MQTT: "a/+/c", Topic: "x"}, {MQTT: "a/b/{n}", Topic: "y"}}, []string{`"a/+/c"`, `"a/b/{n}"`, "narrower"}},
		{"the same twice", []Spec{{MQTT: "a/+", Topic: "x"}, {MQTT: "a/{n}", Topic: "y"}}, []string{`"a/+"`, `"a/{n}"`, "same topics"}},
		{"# and a name overlap", []Spec{{MQTT: "a/#", Topic: "x"}, {MQTT: "{r...}", Topic: "z"}, {MQTT: "+/b", Topic: "y"}}, []string{`"a/#"`, `"+/b"`}},
		{"key of an unknown level", []Spec{{MQTT: "a/{b}", Topic: "x", Key: "{c}"}}, []string{"{c}", `"a/{b}"`}},
		{"key with a level twice", []Spec{{MQTT: "a/{b}", Topic: "x", Key: "{b}{b}"}}, []string{"twice"}},
		{"key not closed", []Spec{{MQTT: "a/{b}", Topic: "x", Key: "{b"}}, []string{"without }"}},
		{"key closed only", []Spec{{MQTT: "a/{b}", Topic: "x", Key: "b}"}}, []string{"without {"}},
		{"both, by client id", []Spec{{MQTT: "a/{b}", Topic: "x", Both: true}}, []string{"client id", `"{b}"`}},
		{"both, unnamed", []Spec{{MQTT: "a/+", Topic: "x", Both: true}}, []string{"without a name", "direction: in"}},
		{"both, #", []Spec{{MQTT: "a/{b}/#", Topic: "x", Key: "{b}", Both: true}}, []string{"without a name"}},
		{"both, a level left out", []Spec{{MQTT: "a/{b}/{c}", Topic: "x", Key: "{b}", Both: true}}, []string{"leaves out {c}", "{b}/{c}"}},
		{"both, not told apart", []Spec{{MQTT: "a/{b}/{c}", Topic: "x", Key: "{b}-{c}", Both: true}}, []string{"told apart", "{b}/{c}"}},
		{"both, stolen", []Spec{{MQTT: "a/{b}", Topic: "x", Key: "{b}", Both: true}, {MQTT: "a/1", Topic: "y"}}, []string{"narrower", `"a/1"`}},
		{"both twice on a topic", []Spec{{MQTT: "a/{b}", Topic: "x", Key: "{b}", Both: true}, {MQTT: "c/{b}", Topic: "x", Key: "{b}", Both: true}}, []string{"does not tell"}},
		{"both without records", []Spec{{MQTT: "a/{b}", Discard: true, Both: true}}, []string{"store: false", "direction: both"}},
		{"key without records", []Spec{{MQTT: "a/{b}", Discard: true, Key: "{b}"}}, []string{"store: false"}},
		{"shared topic, other partitions", []Spec{{MQTT: "a", Topic: "x", Partitions: 3}, {MQTT: "b", Topic: "x"}}, []string{`"a"`, `"b"`, "differ"}},
		{"shared topic, other retention", []Spec{{MQTT: "a", Topic: "x", Retention: time.Hour}, {MQTT: "b", Topic: "x"}}, []string{"differ"}},
		{"no topic", []Spec{{MQTT: "a"}}, []string{"topic is missing"}},
		{"internal topic", []Spec{{MQTT: "a", Topic: "__millrace_sessions"}}, []string{"internal"}},
		{"dead-letter topic", []Spec{{MQTT: "a", Topic: "x.dlq"}}, []string{"dead-letter"}},
		{"bad topic", []Spec{{MQTT: "a", Topic: "x/y"}}, []string{"only letters"}},
		{"no filter", []Spec{{Topic: "x"}}, []string{"empty"}},
		{"the broker's own", []Spec{{MQTT: "$SYS/#", Topic: "x"}}, []string{"$"}},
		{"# in the middle", []Spec{{MQTT: "a/#/b", Topic: "x"}}, []string{"last level"}},
		{"rest in the middle", []Spec{{MQTT: "a/{r...}/b", Topic: "x"}}, []string{"last level"}},
		{"half a wildcard", []Spec{{MQTT: "a+/b", Topic: "x"}}, []string{"fill its level"}},
		{"half a name", []Spec{{MQTT: "a/x{b}", Topic: "x"}}, []string{"fill its level"}},
		{"open brace", []Spec{{MQTT: "a/{b", Topic: "x"}}, []string{"closing brace"}},
		{"bad name", []Spec{{MQTT: "a/{1}", Topic: "x"}}, []string{"is not a name"}},
		{"name twice", []Spec{{MQTT: "{a}/{a}", Topic: "x"}}, []string{"twice"}},
		{"control character", []Spec{{MQTT: "a\nb", Topic: "x"}}, []string{"U+000A"}},
		{"two errors", []Spec{{MQTT: "a"}, {MQTT: "b/#/c", Topic: "x"}}, []string{"topic is missing", "last level"}},
	} {
		_, err := Compile(c.specs)
		if err == nil {
			t.Errorf("%s: no error", c.why)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", c.why, err, w)
			}
		}
	}
}

func TestCompileTakes(t *testing.T) {
	for _, specs := range [][]Spec{
		nil,
		{{MQTT: "#", Topic: "all"}},
		{{MQTT: "{all...}", Topic: "all", Key: "{all}", Both: true}},
		{{MQTT: "x", Topic: "mqtt", Partitions: 3}}, // shares the catch-all's topic
		{{MQTT: "a/{b}", Topic: "x", Key: "{b}", Both: true}, {MQTT: "a/1", Topic: "x"}},
		{{MQTT: "a/{b}/{c}", Topic: "x", Key: "v-{c}/n-{b}!", Both: true}},
		{{MQTT: "state", Topic: "x", Both: true, Compact: true}},
	} {
		if _, err := Compile(specs); err != nil {
			t.Errorf("%+v: %v", specs, err)
		}
	}
}

// Against the topic package's own matching, and against each other, the set operations of patterns hold on random patterns.
func TestPatternSets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	randomPattern := func() string {
		var ls []string
		for range 1 + rng.IntN(3) {
			ls = append(ls, []string{"a", "b", "+", ""}[rng.IntN(4)])
		}
		if rng.IntN(3) == 0 {
			ls = append(ls, "#")
		}
		if len(ls) == 1 && ls[0] == "" {
			return "a"
		}
		return strings.Join(ls, "/")
	}
	var names []string
	for _, a := range []string{"a", "b", "c", ""} {
		for _, b := range []string{"", "/a", "/b", "/"} {
			for _, c := range []string{"", "/a", "/b/c", "/"} {
				if a+b+c != "" {
					names = append(names, a+b+c)
				}
			}
		}
	}
	for range 2000 {
		x, y := randomPattern(), randomPattern()
		p, err := parsePattern(x)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parsePattern(y)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			in, also := p.match(n), q.match(n)
			if in != topic.Match(x, n) {
				t.Fatalf("pattern %q matches %q: %v, the filter says %v", x, n, in, !in)
			}
			if in && !also && p.within(&q) {
				t.Fatalf("%q is not within %q: %q", x, y, n)
			}
			if in && also && !p.overlaps(&q) {
				t.Fatalf("%q and %q overlap in %q", x, y, n)
			}
		}
		if p.within(&q) && !p.overlaps(&q) {
			t.Fatalf("%q is within %q but does not overlap", x, y)
		}
	}
}

// Whatever topic an invertible route takes, its key tells that topic again.
func TestKeyTellsTopic(t *testing.T) {
	table, err := Compile([]Spec{
		{MQTT: "fleet/{vehicle}/cmd", Topic: "commands", Key: "{vehicle}", Both: true},
		{MQTT: "t/{tenant}/{site}/do/{what...}", Topic: "do", Key: "{site}/t={tenant}/{what}", Both: true},
		{MQTT: "x/{a}/{b}", Topic: "x", Key: "<{b}/-/{a}>", Both: true},
		{MQTT: "y/{r...}", Topic: "y", Key: "{r}", Both: true},
		{MQTT: "z/{r...}", Topic: "z", Key: "z/{r}/", Both: true},
		{MQTT: "one", Topic: "one", Both: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range tier.N(20000) {
		r := table.routes[rng.IntN(len(table.routes))]
		if !r.Both {
			continue
		}
		name := strings.NewReplacer("{", "", "}", "").Replace(r.MQTT)
		for _, v := range []string{"vehicle", "tenant", "site", "what...", "a", "b", "r..."} {
			value := randomLevel(rng)
			for strings.HasSuffix(v, "...") && rng.IntN(2) == 0 {
				value += "/" + randomLevel(rng)
			}
			name = strings.Replace("/"+name+"/", "/"+v+"/", "/"+value+"/", 1)
			name = name[1 : len(name)-1]
		}
		key := r.key.render(r.pattern.bind(name))
		back, err := r.topicOf([]byte(key))
		if err != nil || back != name {
			t.Fatalf("%v: topic %q has the key %q, which tells %q, %v", r, name, key, back, err)
		}
		if table.find(name) != r {
			t.Fatalf("%v: topic %q belongs to %v", r, name, table.find(name))
		}
	}
}

func randomLevel(rng *rand.Rand) string {
	return []string{"", "7", "truck 8", "é", "a<b>c", "t=", "-", "x-y", "{v}", "<>"}[rng.IntN(10)]
}

func TestPartitionIsKafkaClients(t *testing.T) {
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rng := rand.New(rand.NewPCG(5, 6))
	for n := range tier.N(10000) {
		key := make([]byte, n%70)
		for i := range key {
			key[i] = byte(rng.Uint32())
		}
		parts := 1 + rng.IntN(100)
		if got, want := partition(key, int32(parts)), theirs.Partition(&kgo.Record{Key: key}, parts); int(got) != want {
			t.Fatalf("key %x of %d partitions: %d, Kafka's clients say %d", key, parts, got, want)
		}
	}
}

func TestPartitionIsKafkas(t *testing.T) {
	// From Kafka's own test of Utils.murmur2.
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}
