package group

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The protocol that consumers embed in the classic one. A classic group passes it on unread, from member to leader and back; it is
// read and spoken where members of both protocols share a group: what a member wants and has is in its metadata, what it gets in
// its assignment.

// embeddedType is the protocol type of classic groups of consumers.
const embeddedType = "consumer"

// lastEmbedded is the newest version of both messages; newer ones are read as this one, as Kafka does.
const lastEmbedded = 3

// embedded is what a consumer says in its metadata.
type embedded struct {
	version int16
	topics  []string
	owned   []kmsg.ConsumerMemberAssignmentTopic // none before version 1: such consumers give up everything before they join
	rack    *string
}

func readEmbedded(metadata []byte) (embedded, error) {
	r := kbin.Reader{Src: metadata}
	e := embedded{version: min(r.Int16(), lastEmbedded)}
	for n := r.ArrayLen(); n > 0 && r.Ok(); n-- {
		e.topics = append(e.topics, r.String())
	}
	r.NullableBytes() // between the assignors
	if e.version >= 1 {
		e.owned = readPartitions(&r)
	}
	if e.version >= 2 {
		r.Int32() // the generation in which it got what it has
	}
	if e.version >= 3 {
		e.rack = r.NullableString()
	}
	if err := r.Complete(); err != nil || e.version < 0 {
		return embedded{}, fmt.Errorf("a consumer's subscription of %d bytes, version %d: malformed", len(metadata), e.version)
	}
	return e, nil
}

// readAssignment reads what a consumer was assigned. A member that never had anything has no bytes.
func readAssignment(b []byte) (parts []kmsg.ConsumerMemberAssignmentTopic, userData bool, err error) {
	if len(b) == 0 {
		return nil, false, nil
	}
	r := kbin.Reader{Src: b}
	version := r.Int16()
	parts = readPartitions(&r)
	userData = len(r.NullableBytes()) > 0
	if err := r.Complete(); err != nil || version < 0 {
		return nil, false, fmt.Errorf("a consumer's assignment of %d bytes, version %d: malformed", len(b), version)
	}
	return parts, userData, nil
}

// readPartitions allocates no more than there are bytes for, whatever the lengths say.
func readPartitions(r *kbin.Reader) (out []kmsg.ConsumerMemberAssignmentTopic) {
	for n := r.ArrayLen(); n > 0 && r.Ok(); n-- {
		t := kmsg.ConsumerMemberAssignmentTopic{Topic: r.String()}
		for k := r.ArrayLen(); k > 0 && r.Ok(); k-- {
			t.Partitions = append(t.Partitions, r.Int32())
		}
		out = append(out, t)
	}
	return out
}

// embeddedAssignment is what a member has, as it reads it. A topic that is gone is left out.
func embeddedAssignment(h held, topics Topics, version int16) []byte {
	a := kmsg.NewConsumerMemberAssignment()
	a.Version = version
	parts := h.partitions()
	for _, id := range parts.sorted() {
		if name := topics.TopicName(id); name != "" {
			a.Topics = append(a.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: name, Partitions: parts[id]})
		}
	}
	return a.AppendTo(nil)
}
