package kafkawire

import (
	"fmt"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/acl"
)

// Rights is the configuration's policy, in the words of this protocol. Its methods are safe for concurrent use and never wait.
//
// A no of the policy or of an ACL wins, then a yes of either; what neither speaks of is denied. One right the policy alone gives: to
// alter the cluster, which is to change ACLs and credentials, so that an ACL can make nobody an administrator.
type Rights interface {
	// Epoch is another one whenever an answer may be.
	Epoch() uint64
	Decide(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) acl.Verdict
	// Anywhere tells whether there is a resource of a kind of which Decide would say Allow.
	Anywhere(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType) bool
	// Publishing tells whether an account may send records to wherever those of a log topic go on to: all of them, or, if not, those with
	// certain keys.
	Publishing(account, topic string) (all bool, key func([]byte) bool)
}

// A handler asks may, or one of its short forms, before it does or tells anything, and nothing else decides. What it answers to a
// no is Kafka's: TOPIC_AUTHORIZATION_FAILED whether or not a topic that was named exists, and no word of it where all topics were
// asked for.

// rights are answers that a connection has had. They are forgotten when anything that decides has changed.
type rights struct {
	mu    sync.Mutex
	as    stamp // that known is of
	known map[question]bool
}

// stamp is what answers are as good as: while it is the same, so are they.
type stamp struct {
	policy, acls uint64
	who          *principal
}

func (c *conn) stamp() stamp {
	s := stamp{who: c.who.Load(), acls: c.s.acls.epoch.Load()}
	if c.s.Rights != nil {
		s.policy = c.s.Rights.Epoch()
	}
	return s
}

// question is one that answers are remembered of.
type question struct {
	op   kmsg.ACLOperation
	kind kmsg.ACLResourceType
	name string
}

// opPublish asks for all that a topic's records go on to; it is no operation of the protocol.
const opPublish kmsg.ACLOperation = -1

// Bounds of what is remembered for a connection: answers, and bytes of a name.
const (
	maxKnown     = 4096
	maxKnownName = 256
)

// may tells whether the connection's principal may do something to a resource. Any goroutine; it never waits.
func (c *conn) may(op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) bool {
	if c.s.Rights == nil {
		return true
	}
	yes := c.know(question{op, kind, name}, func(account string) bool { return c.decide(account, op, kind, name) })
	if !yes {
		c.s.denied(c, op, kind)
	}
	return yes
}

// know answers a question, if need be by asking.
func (c *conn) know(q question, ask func(account string) bool) bool {
	r := &c.rights
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := c.stamp(); now != r.as && !(mutant(mutantStale) && r.known != nil) || len(r.known) >= maxKnown {
		clear(r.known)
		r.as = now
	}
	yes, known := r.known[q]
	if known {
		return yes
	}
	if r.as.who != nil {
		yes = ask(r.as.who.account)
	}
	if len(q.name) > maxKnownName {
		return yes
	}
	if r.known == nil {
		r.known = map[question]bool{}
	}
	q.name = strings.Clone(q.name) // it may be a part of a request
	r.known[q] = yes
	return yes
}

func (c *conn) decide(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) bool {
	said := c.s.acls.set.Load().Decide(account, c.address, op, kind, name)
	if said == acl.Allow && kind == kmsg.ACLResourceTypeCluster && op == kmsg.ACLOperationAlter && !mutant(mutantAdmin) {
		said = acl.None
	}
	return c.s.Rights.Decide(account, op, kind, name).And(said) == acl.Allow
}

// mayAny tells whether there is a resource of a kind to which the principal may do something.
func (c *conn) mayAny(op kmsg.ACLOperation, kind kmsg.ACLResourceType) bool {
	if c.s.Rights == nil {
		return true
	}
	return c.know(question{op, kind, ""}, func(account string) bool {
		return c.s.Rights.Anywhere(account, op, kind) || c.s.acls.set.Load().Anywhere(account, c.address, op, kind)
	})
}

// publishesAll tells whether the principal may publish to all that a topic's records go on to on MQTT.
func (c *conn) publishesAll(topic string) bool {
	return c.s.Rights == nil || c.know(question{opPublish, kmsg.ACLResourceTypeTopic, topic}, func(account string) bool {
		all, _ := c.s.Rights.Publishing(account, topic)
		return all
	})
}

// mayPublish refuses a batch of which a record would go on to MQTT where the principal may not publish; nil: it may go into the log. Only
// who may not publish to all that the topic's records reach has their keys looked at.
func (c *conn) mayPublish(topic string, records []byte) *refusal {
	if c.publishesAll(topic) {
		return nil
	}
	all, key := c.s.Rights.Publishing(c.account(), topic)
	if all {
		return nil
	}
	raw, err := eventlog.CheckBatch(records)
	if err != nil {
		return refused(err)
	}
	c.s.unpacking <- struct{}{}
	defer func() { <-c.s.unpacking }()
	err = eventlog.NewRawBatch(eventlog.Part{}, raw).Each(func(r *eventlog.Record) error {
		if !key(r.Key) && !mutant(mutantPublish) {
			return fmt.Errorf("the account may not publish to where a record with the key %.100q goes on to", r.Key)
		}
		return nil
	})
	if err != nil {
		c.s.denied(c, opPublish, kmsg.ACLResourceTypeTopic)
		return refuse(kerr.TopicAuthorizationFailed, err.Error())
	}
	return nil
}

// unpackers is how many batches are unpacked at once to look at their keys: each may be large.
const unpackers = 2

func (c *conn) mayTopic(op kmsg.ACLOperation, topic string) bool {
	return c.may(op, kmsg.ACLResourceTypeTopic, topic)
}

func (c *conn) mayGroup(op kmsg.ACLOperation, group string) bool {
	return c.may(op, kmsg.ACLResourceTypeGroup, group)
}

// mayTransact is about a transactional id.
func (c *conn) mayTransact(op kmsg.ACLOperation, id string) bool {
	return c.may(op, kmsg.ACLResourceTypeTransactionalId, id)
}

// clusterName is the one resource of its kind.
const clusterName = acl.ClusterName

func (c *conn) mayCluster(op kmsg.ACLOperation) bool {
	return c.may(op, kmsg.ACLResourceTypeCluster, clusterName)
}

// mayJoin refuses who may not be a member of a group; nil: come in.
func (c *conn) mayJoin(group string) *kerr.Error {
	switch {
	case group == "":
		return kerr.InvalidGroupID
	case !c.mayGroup(kmsg.ACLOperationRead, group):
		return kerr.GroupAuthorizationFailed
	}
	return nil
}

// operations are the bits of what the principal may do to a resource.
func (c *conn) operations(kind kmsg.ACLResourceType, name string) (bits int32) {
	for _, op := range acl.Operations[kind] {
		if c.s.Rights == nil || c.know(question{op, kind, name}, func(account string) bool { return c.decide(account, op, kind, name) }) {
			bits |= 1 << op
		}
	}
	return bits
}

// mayCreate: topics are created by who may create this one, or any in the cluster.
func (c *conn) mayCreate(topic string) bool {
	return c.mayCluster(kmsg.ACLOperationCreate) || c.mayTopic(kmsg.ACLOperationCreate, topic)
}

// mayConfigure refuses who may not see or change a resource's configs; nil: go on.
func (c *conn) mayConfigure(op kmsg.ACLOperation, kind kmsg.ConfigResourceType, name string) *refusal {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !c.mayTopic(op, name) {
			return refuse(kerr.TopicAuthorizationFailed, "the account may not do this to the topic's configs")
		}
	case kmsg.ConfigResourceTypeGroupConfig:
		if !c.mayGroup(op, name) {
			return refuse(kerr.GroupAuthorizationFailed, "the account may not do this to the group's configs")
		}
	default:
		if !c.mayCluster(op) {
			return refuse(kerr.ClusterAuthorizationFailed, "the account may not do this to the server's configs")
		}
	}
	return nil
}
