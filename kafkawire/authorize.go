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
