package broker

import (
	"hash/maphash"

	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// Whether a client may do what it asks for is decided here, when it publishes, sets a will or subscribes. What is delivered to it, and
// its will when it fires, the session core has decided at that moment (owner.Allowed).

// rights remembers to which topics a connection may publish, and to which not: devices publish to few, and ask again and again. It is
// the reader's. A topic has one place, which another one may take.
type rights []right

type right struct {
	epoch   uint64 // of the policy that said so; 0: nothing is remembered
	topic   []byte
	allowed bool
}

// What rights remembers at most; longer topics are decided on each time.
const (
	fewRights   = 2
	manyRights  = 64
	rightsTopic = 256
)

var rightsSeed = maphash.MakeSeed()

// PolicyChanged says that Options.Authorizer may decide otherwise from now on. What comes in after it has returned, from a client or
// from the log, is decided on anew; only what is already on its way to a socket goes out. Subscriptions stay: who gets the right back
// gets its messages again. Any goroutine.
func (b *Broker) PolicyChanged() { b.policy.Add(1) }

// heedPolicy has the core forget what it was told under an older policy. It is called after something was taken from the tail or the
// mailbox, before that is acted on: whatever came after a change finds it made.
func (o *owner) heedPolicy(now int64) {
	if p := o.b.policy.Load(); p != o.policy {
		o.policy = p
		o.core.PolicyChanged(now)
	}
}

// mayPublish decides on a publish. The name may alias a burst.
func (c *conn) mayPublish(name string) bool {
	a := c.b.o.Authorizer
	if a == nil || mutant("skip-authorization-publish") {
		return true
	}
	if len(name) > rightsTopic {
		return a.Allowed(c.key, Publish, name)
	}
	epoch := c.b.policy.Load() + 1 // read before the question is asked: the answer is at least as new
	r := c.rights.find(name)
	if r != nil && r.epoch == epoch && string(r.topic) == name {
		return r.allowed
	}
	allowed := a.Allowed(c.key, Publish, name)
	c.rights.keep(name, epoch, allowed)
	return allowed
}

// find is the place of a topic, nil if there is none yet.
func (rs rights) find(name string) *right {
	if len(rs) == 0 {
		return nil
	}
	return &rs[maphash.String(rightsSeed, name)%uint64(len(rs))]
}

// keep remembers an answer. Where it would displace one that is still good, room is made, as far as that may go.
func (rs *rights) keep(name string, epoch uint64, allowed bool) {
	r := rs.find(name)
	switch {
	case r == nil:
		*rs = make(rights, fewRights)
		r = rs.find(name)
	case r.epoch == epoch && len(*rs) < manyRights:
		old := *rs
		*rs = make(rights, 2*len(old))
		for _, o := range old {
			if o.epoch == epoch {
				*rs.find(string(o.topic)) = o
			}
		}
		r = rs.find(name)
	}
	r.epoch, r.topic, r.allowed = epoch, append(r.topic[:0], name...), allowed
}

// mayWill decides on a will when it is set.
func (c *conn) mayWill(name string) bool {
	if c.b.o.allowed(c.key, Publish, name) {
		return true
	}
	c.b.stats.denied.add(deniedWill, 1)
	return false
}

// maySubscribe decides on a filter of a SUBSCRIBE. One that is not legal is for the core to refuse, for what it is.
func (o *owner) maySubscribe(k session.Key, filter string) bool {
	filter, _, _ = session.PlainFilter(filter)
	if _, rest, shared, err := topic.ParseShared(filter); err != nil {
		return true
	} else if shared {
		filter = rest
	}
	if topic.ValidateFilter(filter) != nil || o.b.o.allowed(k, Subscribe, filter) || mutant("skip-authorization-subscribe") {
		return true
	}
	o.b.stats.denied.add(deniedSubscribe, 1)
	return false
}

// What is counted as denied; deliveries and wills that do not fire are among the dropped.
const (
	deniedPublish   = "publish"
	deniedWill      = "will"
	deniedSubscribe = "subscribe"
)
