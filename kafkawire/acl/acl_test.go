package acl

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	topic    = kmsg.ACLResourceTypeTopic
	literal  = kmsg.ACLResourcePatternTypeLiteral
	prefixed = kmsg.ACLResourcePatternTypePrefixed
	allow    = kmsg.ACLPermissionTypeAllow
	deny     = kmsg.ACLPermissionTypeDeny
	read     = kmsg.ACLOperationRead
	write    = kmsg.ACLOperationWrite
	describe = kmsg.ACLOperationDescribe
	all      = kmsg.ACLOperationAll
)

func on(pattern Pattern, name, user string, op Operation, p Permission) Binding {
	return Binding{Resource: topic, Pattern: pattern, Name: name, Principal: "User:" + user, Host: "*", Operation: op, Permission: p}
}

// What Kafka's StandardAuthorizer decides.
func TestDecide(t *testing.T) {
	here := on(literal, "hosted", "a", read, allow)
	here.Host = "192.0.2.1"
	s := NewSet([]Binding{
		on(literal, "t", "a", read, allow),
		on(prefixed, "fleet-", "a", write, allow),
		on(literal, "*", "b", all, allow),
		on(literal, "fleet-secret", "b", read, deny),
		on(prefixed, "no", "*", all, deny),
		on(literal, "configs", "a", kmsg.ACLOperationAlterConfigs, allow),
		on(literal, "t", "c", describe, deny),
		on(literal, "t", "c", read, allow),
		on(literal, "deleted", "a", kmsg.ACLOperationDelete, allow),
		here,
	})
	for _, c := range []struct {
		account, host string
		op            Operation
		name          string
		want          Verdict
	}{
		{"a", "h", read, "t", Allow},
		{"a", "h", describe, "t", Allow}, // implied
		{"a", "h", write, "t", None},
		{"a", "h", write, "fleet-1", Allow},
		{"a", "h", write, "fleet", None},
		{"b", "h", read, "anything", Allow},
		{"b", "h", read, "fleet-secret", Deny},
		{"b", "h", describe, "fleet-secret", Allow}, // denying to read does not deny to describe
		{"b", "h", read, "nothing", Deny},
		{"b", "h", describe, "no", Deny},
		{"a", "h", kmsg.ACLOperationDescribeConfigs, "configs", Allow},
		{"a", "h", describe, "configs", None},
		{"a", "h", describe, "deleted", Allow},
		{"c", "h", read, "t", Allow},
		{"c", "h", describe, "t", Deny},
		{"a", "192.0.2.1", read, "hosted", Allow},
		{"a", "192.0.2.2", read, "hosted", None},
		{"d", "h", read, "t", None},
	} {
		if got := s.Decide(c.account, c.host, c.op, topic, c.name); got != c.want {
			t.Errorf("%s at %s, %v %q: %d, want %d", c.account, c.host, c.op, c.name, got, c.want)
		}
	}
	if s.Decide("a", "h", read, kmsg.ACLResourceTypeGroup, "t") != None {
		t.Error("a topic's ACL speaks of a group")
	}
	if !s.Anywhere("a", "h", write, topic) || s.Anywhere("d", "h", write, topic) || !s.Anywhere("b", "h", write, topic) {
		t.Error("anywhere")
	}
	covered := NewSet([]Binding{on(literal, "t", "a", write, allow), on(literal, "*", "a", write, deny)})
	if covered.Anywhere("a", "h", write, topic) {
		t.Error("anywhere, and denied everywhere")
	}
	if Deny.And(Allow) != Deny || Allow.And(None) != Allow || None.And(None) != None {
		t.Error("And")
	}
}

// The indexes decide as a walk over all bindings does.
func TestAgainstAWalk(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "ab", "abc", "b"}
	for range 500 {
		var bs []Binding
		for range rng.IntN(10) {
			b := on(literal, names[rng.IntN(len(names))], []string{"x", "y", "*"}[rng.IntN(3)], []Operation{read, write, describe, all}[rng.IntN(4)], allow)
			switch rng.IntN(4) {
			case 0:
				b.Pattern = prefixed
			case 1:
				b.Name = "*"
			}
			if rng.IntN(3) == 0 {
				b.Permission = deny
			}
			bs = append(bs, b)
		}
		s := NewSet(bs)
		for _, name := range names {
			for _, op := range []Operation{read, write, describe} {
				want := None
				for _, b := range bs {
					speaks := b.Pattern == literal && (b.Name == name || b.Name == "*") || b.Pattern == prefixed && strings.HasPrefix(name, b.Name)
					who := b.Principal == "User:x" || b.Principal == "User:*"
					means := b.Operation == op || b.Operation == all || b.Permission == allow && op == describe && b.Operation != describe
					if speaks && who && means {
						want = max(want, map[Permission]Verdict{allow: Allow, deny: Deny}[b.Permission])
					}
				}
				if got := s.Decide("x", "h", op, topic, name); got != want {
					t.Fatalf("%v %q: %d, want %d of %+v", op, name, got, want, bs)
				}
			}
		}
	}
}

func TestFilters(t *testing.T) {
	text := func(s string) *string { return &s }
	bs := []Binding{on(literal, "t", "a", read, allow), on(prefixed, "t", "a", read, allow), on(literal, "*", "a", read, allow), on(literal, "u", "b", write, deny)}
	s := NewSet(bs)
	any := Filter{Resource: kmsg.ACLResourceTypeAny, Pattern: kmsg.ACLResourcePatternTypeAny, Operation: kmsg.ACLOperationAny, Permission: kmsg.ACLPermissionTypeAny}
	for i, c := range []struct {
		change func(*Filter)
		want   int
	}{
		{func(*Filter) {}, 4},
		{func(f *Filter) { f.Name = text("t") }, 2},
		{func(f *Filter) { f.Name, f.Pattern = text("t"), literal }, 1},
		{func(f *Filter) { f.Name, f.Pattern = text("tx"), kmsg.ACLResourcePatternTypeMatch }, 2},
		{func(f *Filter) { f.Name, f.Pattern = text("t"), kmsg.ACLResourcePatternTypeMatch }, 3},
		{func(f *Filter) { f.Principal = text("User:b") }, 1},
		{func(f *Filter) { f.Operation = all }, 0},
		{func(f *Filter) { f.Permission = deny }, 1},
		{func(f *Filter) { f.Host = text("192.0.2.1") }, 0},
		{func(f *Filter) { f.Resource = kmsg.ACLResourceTypeGroup }, 0},
	} {
		f := any
		c.change(&f)
		if got := s.Matching(&f); len(got) != c.want || f.Check() != nil {
			t.Errorf("filter %d: %+v", i, got)
		}
	}
	if (&Filter{}).Check() == nil {
		t.Error("a filter of nothing known passes")
	}
}

func TestKeys(t *testing.T) {
	b := on(prefixed, "fleet-", "a b,c=\"ü", write, deny)
	if got, err := ParseKey(b.Key()); err != nil || got != b {
		t.Errorf("%+v %v", got, err)
	}
	for _, key := range []string{"", "{}", `{"resource":"TOPIC"}`, strings.Replace(string(b.Key()), "PREFIXED", "MATCH", 1), strings.Replace(string(b.Key()), "User:", "Group:", 1)} {
		if _, err := ParseKey([]byte(key)); err == nil {
			t.Errorf("%s is a key", key)
		}
	}
	good := on(literal, "t", "a", read, allow)
	for _, spoil := range []func(*Binding){
		func(b *Binding) { b.Resource = kmsg.ACLResourceTypeDelegationToken },
		func(b *Binding) { b.Pattern = kmsg.ACLResourcePatternTypeAny },
		func(b *Binding) { b.Name = "" },
		func(b *Binding) { b.Name = strings.Repeat("x", 250) },
		func(b *Binding) { b.Principal = "User:" },
		func(b *Binding) { b.Host = "localhost" },
		func(b *Binding) { b.Operation = kmsg.ACLOperationAny },
		func(b *Binding) { b.Operation = kmsg.ACLOperationIdempotentWrite },
		func(b *Binding) { b.Permission = kmsg.ACLPermissionTypeAny },
		func(b *Binding) { b.Resource, b.Name = kmsg.ACLResourceTypeCluster, "mine" },
	} {
		b := good
		if spoil(&b); b.Check() == nil {
			t.Errorf("%+v passes", b)
		}
	}
	if !slices.IsSorted(Operations[topic]) {
		t.Error("the operations are not in order")
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte(`{"resource":"TOPIC","pattern":"LITERAL","name":"t","principal":"User:a","host":"*","operation":"READ","permission":"ALLOW"}`))
	f.Fuzz(func(t *testing.T, key []byte) {
		b, err := ParseKey(key)
		if err != nil {
			return
		}
		if again, err := ParseKey(b.Key()); err != nil || again != b {
			t.Errorf("%+v becomes %+v, %v", b, again, err)
		}
		NewSet([]Binding{b}).Decide("a", "h", read, topic, "t")
	})
}
