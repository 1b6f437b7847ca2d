package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Rights. A handler asks may, or one of its short forms, before it does or tells anything, and nothing else decides. What it
// answers to a no is Kafka's: TOPIC_AUTHORIZATION_FAILED whether or not a topic that was named exists, and no word of it where
// all topics were asked for.

// clusterName is the one resource of its kind, as Kafka calls it.
const clusterName = "kafka-cluster"

// may tells whether the connection's principal may do something to a resource. Any goroutine; it never waits.
func (c *conn) may(op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) bool { return true }

// mayAny tells whether there is a resource of a kind to which the principal may do something.
func (c *conn) mayAny(op kmsg.ACLOperation, kind kmsg.ACLResourceType) bool { return true }

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

// operationsOf are the operations that there are on a kind of resource, in the order of their numbers.
var operationsOf = map[kmsg.ACLResourceType][]kmsg.ACLOperation{
	kmsg.ACLResourceTypeTopic: {
		kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationCreate, kmsg.ACLOperationDelete, kmsg.ACLOperationAlter,
		kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs,
	},
	kmsg.ACLResourceTypeGroup: {
		kmsg.ACLOperationRead, kmsg.ACLOperationDelete, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs,
	},
	kmsg.ACLResourceTypeTransactionalId: {kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe},
	kmsg.ACLResourceTypeCluster: {
		kmsg.ACLOperationCreate, kmsg.ACLOperationAlter, kmsg.ACLOperationDescribe, kmsg.ACLOperationClusterAction,
		kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs, kmsg.ACLOperationIdempotentWrite,
	},
}

// operations are the bits of what the principal may do to a resource.
func (c *conn) operations(kind kmsg.ACLResourceType, name string) (bits int32) {
	for _, op := range operationsOf[kind] {
		if c.may(op, kind, name) {
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
