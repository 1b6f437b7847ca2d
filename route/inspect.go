package route

import (
	"errors"
	"strconv"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// What follows lets package verify look at records as the store does, without one.

// Place tells where a message of client on an MQTT topic goes; false if no route takes it.
func (t *Table) Place(mqttTopic, client string) (Place, bool) {
	if topic.ValidateName(bytesOf(mqttTopic)) != nil {
		return Place{}, false
	}
	r := t.find(mqttTopic)
	if r == nil {
		return Place{}, false
	}
	p := Place{Route: r.index, Topic: r.Topic, Key: client}
	if !r.Discard && !r.key.fromClient() {
		p.Key = r.key.render(r.pattern.bind(mqttTopic))
	}
	return p, true
}

// Topics are the log topics that the routes lead to.
func (t *Table) Topics() (names []string) {
	for _, p := range t.topics {
		names = append(names, p.name)
	}
	return names
}

// Decode makes the message of a record of ours. Its strings and slices alias the record.
func Decode(r *eventlog.Record, m *session.Message) error { return decode(r, m) }

// OriginsTopic remembers where in each partition MQTT began to look; see origin.go.
const OriginsTopic = routesTopic

// SessionsTopic and RetainedTopic are the node's own topics of what their names say.
const (
	SessionsTopic = sessionsTopic
	RetainedTopic = retainedTopic
)

// Partition is where every Kafka client's default partitioner puts a key.
func Partition(key []byte, partitions int32) int32 { return partition(key, partitions) }

// ErrSkipped is why a record of a Kafka client is for Kafka clients only.
var ErrSkipped = errors.New("not for MQTT")

// Foreign says what becomes of a record that a Kafka client has put into a routed topic: nil, it reaches MQTT; ErrSkipped, it does not
// have to; any other error, it is a dead letter.
func (t *Table) Foreign(logTopic string, r *eventlog.Record) error {
	for _, plan := range t.topics {
		if plan.name != logTopic {
			continue
		}
		if plan.reverse == nil {
			return ErrSkipped
		}
		var m session.Message
		err := decodeForeign(r, plan, &m)
		if errors.Is(err, errNullValue) {
			return ErrSkipped
		}
		return err
	}
	return ErrSkipped
}

// DeadSource tells where a dead letter came from.
func DeadSource(r *eventlog.Record) (topicID string, partition int32, offset int64, ok bool) {
	n := 0
	for i := range r.Headers {
		v := stringOf(r.Headers[i].Value)
		switch r.Headers[i].Key {
		case hDeadTopicID:
			topicID, n = v, n+1
		case hDeadPartition:
			p, err := strconv.ParseInt(v, 10, 32)
			if err == nil {
				partition, n = int32(p), n+1
			}
		case hDeadOffset:
			o, err := strconv.ParseInt(v, 10, 64)
			if err == nil {
				offset, n = o, n+1
			}
		}
	}
	return topicID, partition, offset, n == 3
}

// DeadOnArrival tells whether a dead letter is a message that a device sent, and that was never anywhere else.
func DeadOnArrival(r *eventlog.Record) bool {
	why, from := false, false
	for i := range r.Headers {
		why = why || r.Headers[i].Key == hDeadReason
		from = from || r.Headers[i].Key == hDeadOffset
	}
	return why && !from
}

// Filters gives, for each route, its plain MQTT filter and whether its messages are kept. The first that matches a topic decides.
func (t *Table) Filters(f func(filter string, stored bool)) {
	for _, r := range t.routes {
		f(r.pattern.filter(), !r.Discard)
	}
}

// filter is the pattern without names.
func (p *pattern) filter() string {
	var b []byte
	for i, l := range p.levels {
		if i > 0 {
			b = append(b, '/')
		}
		if l.wild {
			b = append(b, '+')
		} else {
			b = append(b, l.literal...)
		}
	}
	switch {
	case p.multi && len(p.levels) > 0:
		b = append(b, "/#"...)
	case p.multi:
		b = append(b, '#')
	}
	return string(b)
}
