package kafkawire

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/acl"
)

// aclsTopic has the ACLs; see docs/formats/acls.md.
const aclsTopic = eventlog.InternalPrefix + "acls"

// maxACLs bounds what administrators can make all decisions cost.
const maxACLs = 20_000

// acls are the bindings in force. A change is in the log before it is in force, and nothing is decided by the old ones once its
// request is answered.
type acls struct {
	book  book
	set   atomic.Pointer[acl.Set]
	epoch atomic.Uint64 // counts changes

	changing sync.Mutex // one change at a time
	most     int
	bindings map[acl.Binding]struct{}
}

// written is an ACL's value: who is to be asked about it.
type written struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
}

func newACLs(ctx context.Context, o *Options) (*acls, error) {
	a := &acls{most: maxACLs, bindings: map[acl.Binding]struct{}{}}
	a.book = book{log: o.Engine, name: aclsTopic, now: o.Now, learn: a.learn}
	if err := a.book.open(ctx); err != nil {
		return nil, err
	}
	a.compile()
	return a, nil
}

func (a *acls) learn(key, value []byte) error {
	b, err := acl.ParseKey(key)
	if err != nil {
		return err
	}
	if value == nil {
		delete(a.bindings, b)
	} else {
		a.bindings[b] = struct{}{}
	}
	return nil
}

// compile puts the bindings in force.
func (a *acls) compile() {
	all := make([]acl.Binding, 0, len(a.bindings))
	for b := range a.bindings {
		all = append(all, b)
	}
	a.set.Store(acl.NewSet(all))
	a.epoch.Add(1)
}

// create adds bindings, and says of each why it was not. Those that are there already are no error.
func (a *acls) create(ctx context.Context, by string, add []acl.Binding) []*refusal {
	a.changing.Lock()
	defer a.changing.Unlock()
	refusals := make([]*refusal, len(add))
	value, err := json.Marshal(written{a.book.now().UTC(), by})
	if err != nil {
		return slices.Repeat([]*refusal{refused(err)}, len(add))
	}
	fresh := map[acl.Binding]int{} // where their entries are
	var entries []entryOf
	full := refuse(kerr.PolicyViolation, fmt.Sprintf("there are %d ACLs, which is all there may be", a.most))
	for i, b := range add {
		_, there := a.bindings[b]
		if _, twice := fresh[b]; there || twice {
			continue
		}
		if len(a.bindings)+len(entries) >= a.most {
			refusals[i] = full
			continue
		}
		fresh[b] = len(entries)
		entries = append(entries, entryOf{b.Key(), value})
	}
	done, failed := a.change(ctx, entries)
	for i, b := range add {
		if at, ok := fresh[b]; ok && at >= done && refusals[i] == nil {
			refusals[i] = failed
		}
	}
	return refusals
}

// Bounds of one removal: filters that have to be compared with each ACL, and ACLs that are named in the answer, by each filter that means them.
const (
	maxComparisons = 1000
	maxNamed       = 100_000
)

// removal is what became of a filter.
type removal struct {
	bindings []acl.Binding
	refusal  *refusal
}

// remove deletes the bindings that filters mean, and returns them, filter by filter.
func (a *acls) remove(ctx context.Context, filters []acl.Filter) []removal {
	a.changing.Lock()
	defer a.changing.Unlock()
	gone := map[acl.Binding]int{}
	out := make([]removal, len(filters))
	var entries []entryOf
	compared, named := 0, 0
	for i := range filters {
		b, one := filters[i].One()
		switch _, there := a.bindings[b]; {
		case one && there:
			out[i].bindings = []acl.Binding{b}
		case one:
		case compared >= maxComparisons || named >= maxNamed:
			out[i].refusal = refuse(kerr.InvalidRequest, "too many ACLs are asked for in one request: send this filter in another one")
		default:
			compared++
			out[i].bindings = a.set.Load().Matching(&filters[i])
		}
		named += len(out[i].bindings)
		for _, b := range out[i].bindings {
			if _, twice := gone[b]; !twice {
				gone[b] = len(entries)
				entries = append(entries, entryOf{b.Key(), nil})
			}
		}
	}
	done, failed := a.change(ctx, entries)
	if failed == nil {
		return out
	}
	for i := range out {
		if slices.ContainsFunc(out[i].bindings, func(b acl.Binding) bool { return gone[b] >= done }) {
			out[i] = removal{refusal: failed}
		}
	}
	return out
}

// change writes entries and has them be in force: those that are durable, if not all are.
func (a *acls) change(ctx context.Context, entries []entryOf) (done int, failed *refusal) {
	if len(entries) == 0 {
		return 0, nil
	}
	if mutant(mutantUnwritten) {
		return len(entries), refused(a.forget(entries))
	}
	done, err := a.book.write(ctx, entries)
	a.compile()
	return done, refused(err)
}
