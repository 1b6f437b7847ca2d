package acl

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Verdict is what rules say to a question.
type Verdict uint8

// Verdicts.
const (
	None  Verdict = iota // they do not speak of it
	Allow                // one allows it
	Deny                 // one denies it, whatever others say
)

// And is what two bodies of rules say together: a no of either wins, then a yes of either.
func (v Verdict) And(other Verdict) Verdict { return max(v, other) }

// Set is bindings, made ready to decide. It never changes, and any number of goroutines may ask it.
type Set struct {
	bindings []Binding
	of       map[Resource]*names
}

// names are the bindings on one kind of resource.
type names struct {
	literal  map[string][]*Binding // the wildcard among them
	prefixed map[string][]*Binding
	lengths  []int // of prefixes, ascending
}

// NewSet makes a set. The order of bindings means nothing.
func NewSet(bindings []Binding) *Set {
	s := &Set{bindings: slices.Clone(bindings), of: map[Resource]*names{}}
	slices.SortFunc(s.bindings, func(a, b Binding) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pattern, b.Pattern), cmp.Compare(a.Principal, b.Principal),
			cmp.Compare(a.Host, b.Host), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Permission, b.Permission))
	})
	for i := range s.bindings {
		s.add(&s.bindings[i])
	}
	for _, n := range s.of {
		for prefix := range n.prefixed {
			n.lengths = append(n.lengths, len(prefix))
		}
		slices.Sort(n.lengths)
		n.lengths = slices.Compact(n.lengths)
	}
	return s
}

func (s *Set) add(b *Binding) {
	n := s.of[b.Resource]
	if n == nil {
		n = &names{literal: map[string][]*Binding{}, prefixed: map[string][]*Binding{}}
		s.of[b.Resource] = n
	}
	in := n.literal
	if b.Pattern == kmsg.ACLResourcePatternTypePrefixed && !mutant(mutantLiteral) {
		in = n.prefixed
	}
	in[b.Name] = append(in[b.Name], b)
}

// All are the bindings, in an order of their own. They must not be altered.
func (s *Set) All() []Binding { return s.bindings }

// Matching are the bindings that a filter means.
func (s *Set) Matching(f *Filter) (out []Binding) {
	for i := range s.bindings {
		if f.Matches(&s.bindings[i]) {
			out = append(out, s.bindings[i])
		}
	}
	return out
}

// Decide says what the bindings say of an account at a host that wants to do something to a resource. A denial beats everything; an
// allowance of reading, writing, deleting or altering implies describing, that of altering configs describing them.
func (s *Set) Decide(account, host string, op Operation, kind Resource, name string) Verdict {
	n := s.of[kind]
	if n == nil {
		return None
	}
	q := question{account: account, host: host, op: op}
	q.ask(n.literal[name])
	if name != Wildcard {
		q.ask(n.literal[Wildcard])
	}
	for _, l := range n.lengths {
		if l > len(name) {
			break
		}
		q.ask(n.prefixed[name[:l]])
	}
	return q.verdict
}

// Anywhere tells whether there is a resource of a kind on which an account may do something: an allowance that no denial covers as a whole.
func (s *Set) Anywhere(account, host string, op Operation, kind Resource) bool {
	n := s.of[kind]
	if n == nil {
		return false
	}
	for _, in := range [...]map[string][]*Binding{n.literal, n.prefixed} {
		for name, bs := range in {
			q := question{account: account, host: host, op: op}
			if q.ask(bs); q.verdict == Allow && s.Decide(account, host, op, kind, name) != Deny {
				return true
			}
		}
	}
	return false
}

type question struct {
	account, host string
	op            Operation
	verdict       Verdict
}

func (q *question) ask(bs []*Binding) {
	for _, b := range bs {
		if !q.means(b) {
			continue
		}
		v := Allow
		if b.Permission == kmsg.ACLPermissionTypeDeny {
			if v = Deny; mutant(mutantDeny) {
				continue
			}
		}
		if q.verdict = q.verdict.And(v); mutant(mutantOrder) {
			q.verdict = v
		}
	}
}

// means tells whether a binding speaks of who asks for what.
func (q *question) means(b *Binding) bool {
	who := b.Principal[len(UserPrefix):]
	if who != Wildcard && who != q.account || b.Host != Wildcard && b.Host != q.host && !mutant(mutantHost) {
		return false
	}
	return b.Operation == q.op || b.Operation == kmsg.ACLOperationAll ||
		(b.Permission == kmsg.ACLPermissionTypeAllow || mutant(mutantImplied)) && implies(b.Operation, q.op)
}

// implies tells whether who may do one thing may do another by it.
func implies(op, wanted Operation) bool {
	switch wanted {
	case kmsg.ACLOperationDescribe:
		return op == kmsg.ACLOperationRead || op == kmsg.ACLOperationWrite || op == kmsg.ACLOperationDelete || op == kmsg.ACLOperationAlter
	case kmsg.ACLOperationDescribeConfigs:
		return op == kmsg.ACLOperationAlterConfigs
	}
	return false
}
