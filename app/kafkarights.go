package app

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/kafkawire"
	"github.com/millrace-io/millrace/kafkawire/acl"
	"github.com/millrace-io/millrace/policy"
)

// kafkaRights is the policy in the words of Kafka's protocol. A log topic is reached from MQTT and may reach it, so the rules for MQTT's
// topics speak here, too: who may not receive a part of what a route puts into a log topic may not read that topic, and who writes to one whose
// records go on to MQTT needs the right to publish there.
type kafkaRights struct{ n *Node }

// kafkaRights is what the Kafka server asks; nil: there is no policy, and everything is allowed.
func (n *Node) kafkaRights() kafkawire.Rights {
	if n.rights.policy.Load() == nil {
		return nil
	}
	return kafkaRights{n}
}

// Epoch implements kafkawire.Rights.
func (r kafkaRights) Epoch() uint64 { return r.n.rights.epoch.Load() }

var resourceKinds = map[kmsg.ACLResourceType]policy.Kind{
	kmsg.ACLResourceTypeTopic: policy.LogTopic, kmsg.ACLResourceTypeGroup: policy.ConsumerGroup,
	kmsg.ACLResourceTypeTransactionalId: policy.TransactionalID, kmsg.ACLResourceTypeCluster: policy.Cluster,
}

// rightsFor are those of which one is enough for an operation. Who has any right on a thing may know of it.
func rightsFor(op kmsg.ACLOperation) []policy.Right {
	switch op {
	case kmsg.ACLOperationRead:
		return []policy.Right{policy.Read}
	case kmsg.ACLOperationWrite, kmsg.ACLOperationIdempotentWrite:
		return []policy.Right{policy.Write}
	case kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs:
		return []policy.Right{policy.Read, policy.Write, policy.Manage}
	}
	return []policy.Right{policy.Manage}
}

// Decide implements kafkawire.Rights.
func (r kafkaRights) Decide(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) acl.Verdict {
	of, known := resourceKinds[kind]
	if !known {
		return acl.Deny
	}
	if of == policy.Cluster {
		name = ""
	}
	p, s := r.n.rights.policy.Load(), policy.Subject{Account: account}
	if of == policy.LogTopic && op == kmsg.ACLOperationRead && r.withheld(p, s, name) {
		return acl.Deny
	}
	wanted := rightsFor(op)
	denied := 0
	for _, right := range wanted {
		v := p.DecideOn(s, right, of, name)
		if v.Unusable {
			r.n.rights.unusable.Add(1)
		}
		if v.Allowed {
			return acl.Allow
		}
		if v.Rule != nil {
			denied++
		}
	}
	if denied == len(wanted) {
		return acl.Deny
	}
	return acl.None
}

// withheld tells whether a log topic has messages that an account is denied to receive.
func (r kafkaRights) withheld(p *policy.Policy, s policy.Subject, logTopic string) bool {
	for _, filter := range r.n.store.Sources(logTopic) {
		if len(p.Withheld(s, filter)) > 0 {
			return true
		}
	}
	return false
}

// Anywhere implements kafkawire.Rights.
func (r kafkaRights) Anywhere(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType) bool {
	p, s := r.n.rights.policy.Load(), policy.Subject{Account: account}
	for _, right := range rightsFor(op) {
		if p.Anywhere(s, right, resourceKinds[kind]) {
			return true
		}
	}
	return false
}

// Publishing implements kafkawire.Rights.
func (r kafkaRights) Publishing(account, logTopic string) (all bool, key func([]byte) bool) {
	filter, topicOf, reversible := r.n.store.Reverse(logTopic)
	if !reversible {
		return true, nil
	}
	p, s := r.n.rights.policy.Load(), policy.Subject{Account: account}
	if p.Decide(s, policy.Publish, filter).Allowed && len(p.Overlapping(s, policy.Publish, filter)) == 0 {
		return true, nil
	}
	return false, func(key []byte) bool {
		name, err := topicOf(key)
		return err == nil && p.Decide(s, policy.Publish, name).Allowed
	}
}
