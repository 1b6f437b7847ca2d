package group

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The records of a group of the consumer protocol, in Kafka's formats. A key is a version, which is its kind, and strings; a
// value is version 0 with compact arrays and strings, and tagged fields after every structure. Key 4, the subscribed topics'
// partitions, is what Kafka wrote before 4.1; key 16, what expressions match, is found again at any time.
const (
	groupEpochKey    = 3
	partitionsKey    = 4
	memberKey        = 5
	targetEpochKey   = 6
	targetMemberKey  = 7
	currentKey       = 8
	consumerValue    = 0 // the version of every value
	hashTag          = 0 // of the group's epoch: the hash of the subscribed topics
	classicTag       = 0 // of a member: what it says in the classic protocol
	assignmentEpochs = 0 // the tag of a topic in a member's assignment
)

func consumerKey(kind int16, group, member string) []byte {
	b := kbin.AppendString(kbin.AppendInt16(nil, kind), group)
	if kind == memberKey || kind == targetMemberKey || kind == currentKey {
		b = kbin.AppendString(b, member)
	}
	return b
}

// readConsumerKey is the reverse; ok is false for a key of another kind.
func readConsumerKey(key []byte) (kind int16, group, member string, ok bool) {
	r := kbin.Reader{Src: key}
	switch kind = r.Int16(); kind {
	case groupEpochKey, partitionsKey, targetEpochKey:
		group = r.String()
	case memberKey, targetMemberKey, currentKey:
		group, member = r.String(), r.String()
	default:
		return 0, "", "", false
	}
	return kind, group, member, r.Complete() == nil
}

func epochRecord(group string, epoch int32, hash int64) Record {
	v := kbin.AppendInt32(kbin.AppendInt16(nil, consumerValue), epoch)
	if hash == 0 {
		v = append(v, 0)
	} else {
		v = kbin.AppendInt64(append(v, 1, hashTag, 8), hash)
	}
	return Record{consumerKey(groupEpochKey, group, ""), v}
}

func targetEpochRecord(group string, epoch int32) Record {
	v := kbin.AppendInt32(kbin.AppendInt16(nil, consumerValue), epoch)
	return Record{consumerKey(targetEpochKey, group, ""), append(v, 0)}
}

func memberRecord(group string, m *consumerMember) Record {
	v := kbin.AppendInt16(nil, consumerValue)
	v = kbin.AppendCompactNullableString(v, m.instance)
	v = kbin.AppendCompactNullableString(v, m.rack)
	v = kbin.AppendCompactString(v, m.clientID)
	v = kbin.AppendCompactString(v, m.host)
	v = kbin.AppendCompactArrayLen(v, len(m.topics))
	for _, t := range m.topics {
		v = kbin.AppendCompactString(v, t)
	}
	var regex *string
	if m.regex != "" {
		regex = &m.regex
	}
	v = kbin.AppendCompactNullableString(v, regex)
	rebal := int32(-1)
	if m.rebal >= 0 {
		rebal = millis(m.rebal)
	}
	v = kbin.AppendInt32(v, rebal)
	v = kbin.AppendCompactNullableString(v, m.assignor)
	if v = append(v, 0); m.classic != nil {
		tag := m.classic.appendTo(nil)
		v[len(v)-1] = 1
		v = append(kbin.AppendUvarint(append(v, classicTag), uint32(len(tag))), tag...)
	}
	return Record{consumerKey(memberKey, group, m.id), v}
}

// appendTo is Kafka's ClassicMemberMetadata, which may be null and is not.
func (h *hosted) appendTo(v []byte) []byte {
	v = kbin.AppendInt32(append(v, 1), millis(h.session))
	v = kbin.AppendCompactArrayLen(v, len(h.protocols))
	for _, p := range h.protocols {
		v = kbin.AppendCompactBytes(kbin.AppendCompactString(v, p.Name), p.Metadata)
		v = append(v, 0)
	}
	return append(v, 0)
}

// hosted reads it again. Without a protocol there is no member of the classic protocol.
func (r *valueReader) hosted() *hosted {
	if r.Int8() != 1 {
		return nil
	}
	h := &hosted{session: time.Duration(r.Int32()) * time.Millisecond}
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = r.CompactString(), append([]byte{}, r.CompactBytes()...)
		r.noTags()
		h.protocols = append(h.protocols, p)
	}
	if r.noTags(); len(h.protocols) == 0 || !r.Ok() {
		return nil
	}
	return h
}

func targetRecord(group, member string, target Partitions) Record {
	v := kbin.AppendCompactArrayLen(kbin.AppendInt16(nil, consumerValue), len(target))
	for _, topic := range target.sorted() {
		v = append(append(v, topic[:]...), appendIndexes(nil, target[topic])...)
		v = append(v, 0)
	}
	return Record{consumerKey(targetMemberKey, group, member), append(v, 0)}
}

func currentRecord(group string, m *consumerMember) Record {
	v := kbin.AppendInt32(kbin.AppendInt16(nil, consumerValue), m.epoch)
	v = append(kbin.AppendInt32(v, m.previous), byte(m.state))
	revoke := m.revoke
	if mutant(mutantForgetRevoke) {
		revoke = nil
	}
	v = appendHeld(appendHeld(v, m.assigned), revoke)
	return Record{consumerKey(currentKey, group, m.id), append(v, 0)}
}

func appendHeld(v []byte, h held) []byte {
	v = kbin.AppendCompactArrayLen(v, len(h))
	for _, topic := range slices.SortedFunc(maps.Keys(h), compareIDs) {
		indexes := slices.Sorted(maps.Keys(h[topic]))
		epochs := make([]int32, len(indexes))
		for i, index := range indexes {
			epochs[i] = h[topic][index]
		}
		v = appendIndexes(append(v, topic[:]...), indexes)
		tag := appendIndexes(nil, epochs)
		v = append(v, 1, assignmentEpochs)
		v = append(kbin.AppendUvarint(v, uint32(len(tag))), tag...)
	}
	return v
}

func appendIndexes(v []byte, indexes []int32) []byte {
	v = kbin.AppendCompactArrayLen(v, len(indexes))
	for _, i := range indexes {
		v = kbin.AppendInt32(v, i)
	}
	return v
}

// valueReader reads a value. After the first error everything is zero.
type valueReader struct{ kbin.Reader }

func newValueReader(b []byte) (*valueReader, error) {
	r := &valueReader{kbin.Reader{Src: b}}
	if v := r.Int16(); !r.Ok() || v != consumerValue {
		return nil, fmt.Errorf("value of %d bytes, of an unknown version", len(b))
	}
	return r, nil
}

// tags reads tagged fields; f gets the ones it may know.
func (r *valueReader) tags(f func(tag uint32, r *valueReader)) {
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		tag, size := r.Uvarint(), r.Uvarint()
		if int64(size) > int64(len(r.Src)) {
			r.Src = nil
			r.Int8() // which fails
			return
		}
		f(tag, &valueReader{kbin.Reader{Src: r.Span(int(size))}})
	}
}

func (r *valueReader) noTags() { r.tags(func(uint32, *valueReader) {}) }

func (r *valueReader) indexes() []int32 {
	n := r.CompactArrayLen()
	if int64(n)*4 > int64(len(r.Src)) {
		r.Src = nil
		r.Int8()
		return nil
	}
	out := make([]int32, 0, max(n, 0))
	for range n {
		out = append(out, r.Int32())
	}
	return out
}

// held reads partitions with their epochs; those without one have had it since the member's.
func (r *valueReader) held(epoch int32) held {
	h := held{}
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		topic, indexes := r.Uuid(), r.indexes()
		var epochs []int32
		r.tags(func(tag uint32, t *valueReader) {
			if tag == assignmentEpochs {
				epochs = t.indexes()
			}
		})
		for i, index := range indexes {
			since := max(epoch, 0)
			if len(epochs) == len(indexes) {
				since = epochs[i]
			}
			h.put(part{topic, index}, since)
		}
	}
	return h
}

// replayConsumer changes the group by a record of one of the kinds above.
func (g *Group) replayConsumer(kind int16, member string, value []byte) error {
	if g.consumer == nil {
		if value == nil {
			return nil
		}
		g.consumer = newConsumer()
		g.forgetMembers()
		g.forgetGeneration()
		g.protocolType = embeddedType
	}
	if value == nil {
		g.replayGone(kind, member)
		return nil
	}
	r, err := newValueReader(value)
	if err != nil {
		return fmt.Errorf("group %q, record of kind %d: %w", g.name, kind, err)
	}
	change := g.read(kind, member, r)
	if err := r.Complete(); err != nil {
		return fmt.Errorf("group %q, record of kind %d: %w", g.name, kind, err)
	}
	change()
	return nil
}

func (g *Group) replayGone(kind int16, member string) {
	c := g.consumer
	switch kind {
	case groupEpochKey:
		if len(c.members) == 0 {
			g.consumer, g.protocolType = nil, ""
		}
	case targetMemberKey:
		delete(c.target, member)
	case currentKey:
		if m := c.members[member]; m != nil {
			c.hold(m, nil, nil)
		}
	case memberKey:
		if m := c.members[member]; m != nil {
			c.hold(m, nil, nil)
			c.countClassic(m, -1)
			delete(c.members, member)
			if m.instance != nil && c.static[*m.instance] == member {
				delete(c.static, *m.instance)
			}
			if len(c.members) == 0 {
				g.since = g.now
			}
		}
	}
	c.seen = nil
}

// read reads a value and returns what to do if it is whole.
func (g *Group) read(kind int16, id string, r *valueReader) (change func()) {
	c := g.consumer
	switch kind {
	case groupEpochKey:
		epoch, hash := r.Int32(), int64(0)
		r.tags(func(tag uint32, t *valueReader) {
			if tag == hashTag {
				hash = t.Int64()
			}
		})
		return func() { c.epoch, c.hash = epoch, hash }
	case targetEpochKey:
		epoch := r.Int32()
		r.noTags()
		return func() { c.targetEpoch = epoch }
	case targetMemberKey:
		target := Partitions{}
		for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
			topic := r.Uuid()
			target[topic] = r.indexes()
			r.noTags()
		}
		r.noTags()
		return func() { c.target[id] = target }
	case memberKey:
		m := r.member()
		r.tags(func(tag uint32, t *valueReader) {
			if tag == classicTag {
				m.classic = t.hosted()
			}
		})
		return func() { g.replayConsumerMember(id, m) }
	case currentKey:
		epoch, previous, state := r.Int32(), r.Int32(), memberState(r.Int8())
		assigned, revoke := r.held(epoch), r.held(epoch)
		r.noTags()
		return func() {
			m := c.member(id, g)
			m.epoch, m.previous, m.state = epoch, previous, state
			c.hold(m, assigned, revoke)
			if m.owes = (time.Time{}); m.state == unrevoked || m.classic != nil {
				g.owe(m)
			}
		}
	}
	r.Src = nil // partitionsKey: read by nobody
	return func() {}
}

func (r *valueReader) member() *consumerMember {
	m := &consumerMember{instance: r.CompactNullableString(), rack: r.CompactNullableString(), clientID: r.CompactString(), host: r.CompactString()}
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		m.topics = append(m.topics, r.CompactString())
	}
	if regex := r.CompactNullableString(); regex != nil {
		m.regex = *regex
	}
	m.rebal = time.Duration(r.Int32()) * time.Millisecond // negative: none
	m.assignor = r.CompactNullableString()
	return m
}

// replayConsumerMember takes over what a member said of itself; a member that is here keeps the rest.
func (g *Group) replayConsumerMember(id string, said *consumerMember) {
	m := g.consumer.member(id, g)
	m.instance, m.rack, m.clientID, m.host = said.instance, said.rack, said.clientID, said.host
	m.rebal, m.assignor = said.rebal, said.assignor
	m.subscribe(said.topics, said.regex)
	m.known = true
	g.consumer.countClassic(m, -1)
	m.classic = said.classic
	g.consumer.countClassic(m, 1)
	if m.instance != nil {
		g.consumer.static[*m.instance] = id
	}
	g.aliveConsumer(m)
}

func (c *consumer) countClassic(m *consumerMember, n int) {
	if m.classic != nil {
		c.classics += n
	}
}

// member finds a member or makes it: compaction may leave its assignment's record before its own.
func (c *consumer) member(id string, g *Group) *consumerMember {
	m := c.members[id]
	if m == nil {
		m = &consumerMember{id: id, previous: -1}
		c.members[id] = m
		g.aliveConsumer(m)
	}
	return m
}
