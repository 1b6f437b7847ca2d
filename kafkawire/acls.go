package kafkawire

import (
	"context"
	"encoding/json"
	"fmt"
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
	bindings map[acl.Binding]struct{}
}

// written is an ACL's value: who is to be asked about it.
type written struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
}

func newACLs(ctx context.Context, o *Options) (*acls, error) {
	a := &acls{bindings: map[acl.Binding]struct{}{}}
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

// create adds bindings. Those that are there already are no error.
func (a *acls) create(ctx context.Context, by string, add []acl.Binding) *refusal {
	a.changing.Lock()
	defer a.changing.Unlock()
	value, err := json.Marshal(written{a.book.now().UTC(), by})
	if err != nil {
		return refused(err)
	}
	var entries []entryOf
	for i := range add {
		if _, there := a.bindings[add[i]]; !there {
			entries = append(entries, entryOf{add[i].Key(), value})
		}
	}
	if len(a.bindings)+len(entries) > maxACLs {
		return refuse(kerr.PolicyViolation, fmt.Sprintf("that would make more than %d ACLs", maxACLs))
	}
	return a.change(ctx, entries)
}

// remove deletes the bindings that filters mean, and returns them, filter by filter.
func (a *acls) remove(ctx context.Context, filters []acl.Filter) (removed [][]acl.Binding, refusal *refusal) {
	a.changing.Lock()
	defer a.changing.Unlock()
	gone := once[acl.Binding]{}
	var entries []entryOf
	for i := range filters {
		matching := a.set.Load().Matching(&filters[i])
		removed = append(removed, matching)
		for _, b := range matching {
			if gone.first(b) {
				entries = append(entries, entryOf{b.Key(), nil})
			}
		}
	}
	return removed, a.change(ctx, entries)
}

func (a *acls) change(ctx context.Context, entries []entryOf) *refusal {
	if len(entries) == 0 {
		return nil
	}
	if mutant(mutantUnwritten) {
		return refused(a.forget(entries))
	}
	err := a.book.write(ctx, entries)
	a.compile()
	return refused(err)
}
