package group

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Record is one record of the topic __consumer_offsets, in Kafka's own formats, so that tools which read that topic read ours.
// A nil Value is a tombstone.
type Record struct{ Key, Value []byte }

// Versions of what is written. Older ones are read; version 3 is what every tool reads.
const (
	offsetKeyVersion, metadataKeyVersion = 1, 2
	offsetVersion, metadataVersion       = 3, 3
	offsetVersionWithExpiry              = 1 // the only one with a time of its own to go
	maxVersion                           = 3
)

func metadataKey(group string) []byte {
	return (&kmsg.GroupMetadataKey{Version: metadataKeyVersion, Group: group}).AppendTo(nil)
}

func offsetRecord(group, topic string, partition int32, o *Offset) Record {
	k := kmsg.OffsetCommitKey{Version: offsetKeyVersion, Group: group, Topic: topic, Partition: partition}
	r := Record{Key: k.AppendTo(nil)}
	if o != nil {
		v := kmsg.NewOffsetCommitValue()
		v.Version, v.Offset, v.LeaderEpoch, v.Metadata = offsetVersion, o.At, o.LeaderEpoch, o.Metadata
		v.CommitTimestamp = o.Committed.UnixMilli()
		if !o.Expires.IsZero() {
			v.Version, v.ExpireTimestamp = offsetVersionWithExpiry, o.Expires.UnixMilli()
		}
		r.Value = v.AppendTo(nil)
	}
	return r
}

// metadataRecord is the group as it is, or with new assignments if they are given: then a member nobody assigned anything to
// has an empty one.
func (g *Group) metadataRecord(assigned map[string][]byte) Record {
	v := kmsg.NewGroupMetadataValue()
	v.Version, v.ProtocolType, v.Generation = metadataVersion, g.protocolType, g.generation
	v.Protocol, v.CurrentStateTimestamp = g.protocol, g.now.UnixMilli()
	if g.leader != "" {
		v.Leader = &g.leader
	}
	g.each(func(m *member) {
		vm := kmsg.NewGroupMetadataValueMember()
		vm.MemberID, vm.InstanceID, vm.ClientID, vm.ClientHost = m.id, m.instance, m.clientID, m.host
		vm.RebalanceTimeoutMillis, vm.SessionTimeoutMillis = millis(m.rebal), millis(m.session)
		if vm.Assignment = m.assignment; assigned != nil {
			vm.Assignment = assigned[m.id]
		}
		if g.protocol != nil {
			vm.Subscription = m.metadata(*g.protocol)
		}
		v.Members = append(v.Members, vm)
	})
	return Record{Key: metadataKey(g.name), Value: v.AppendTo(nil)}
}

func millis(d time.Duration) int32 { return int32(min(d.Milliseconds(), 1<<31-1)) }

// isOffset tells of a record of ours whether it is of a committed offset.
func (r Record) isOffset() bool {
	return len(r.Key) > 1 && binary.BigEndian.Uint16(r.Key) == offsetKeyVersion
}

// NameOf returns the group that a record belongs to; ok is false for a record of a kind we do not know, as a newer Kafka may
// have written.
func NameOf(key []byte) (name string, ok bool) {
	if len(key) < 2 {
		return "", false
	}
	switch binary.BigEndian.Uint16(key) {
	case 0, offsetKeyVersion:
		var k kmsg.OffsetCommitKey
		err := k.ReadFrom(key)
		return k.Group, err == nil
	case metadataKeyVersion:
		var k kmsg.GroupMetadataKey
		err := k.ReadFrom(key)
		return k.Group, err == nil
	}
	_, name, _, ok = readConsumerKey(key)
	return name, ok
}

// readValue reads a value of the versions that may be there: later ones have tagged fields, which the codec reads without a bound.
func readValue(v interface{ ReadFrom([]byte) error }, b []byte) error {
	if len(b) < 2 || binary.BigEndian.Uint16(b) > maxVersion {
		return fmt.Errorf("value of %d bytes, of an unknown version", len(b))
	}
	return v.ReadFrom(b)
}

// Replay changes the group by one of its records.
func (g *Group) Replay(r Record) error {
	if len(r.Key) < 2 {
		return fmt.Errorf("group %q: record key of %d bytes", g.name, len(r.Key))
	}
	if binary.BigEndian.Uint16(r.Key) == metadataKeyVersion {
		return g.replayMetadata(r)
	}
	if kind, _, member, ok := readConsumerKey(r.Key); ok {
		return g.replayConsumer(kind, member, r.Value)
	}
	return g.replayOffset(r)
}

func (g *Group) replayOffset(r Record) error {
	topic, partition, o, err := g.readOffset(r)
	if err != nil {
		return err
	}
	g.supersede(topic, partition, g.pended)
	if o == nil {
		if delete(g.offsets[topic], partition); len(g.offsets[topic]) == 0 {
			delete(g.offsets, topic)
		}
		return nil
	}
	if g.offsets[topic] == nil {
		g.offsets[topic] = map[int32]Offset{}
	}
	g.offsets[topic][partition] = *o
	return nil
}

// readOffset takes a committed offset's record apart; no offset is a tombstone.
func (g *Group) readOffset(r Record) (topic string, partition int32, o *Offset, err error) {
	var k kmsg.OffsetCommitKey
	if err := k.ReadFrom(r.Key); err != nil {
		return "", 0, nil, fmt.Errorf("group %q: offset key: %w", g.name, err)
	}
	if r.Value == nil {
		return k.Topic, k.Partition, nil, nil
	}
	v := kmsg.NewOffsetCommitValue()
	if err := readValue(&v, r.Value); err != nil {
		return "", 0, nil, fmt.Errorf("group %q: offset of %s/%d: %w", g.name, k.Topic, k.Partition, err)
	}
	o = &Offset{At: v.Offset, LeaderEpoch: -1, Metadata: v.Metadata, Committed: time.UnixMilli(v.CommitTimestamp)}
	if v.Version >= 3 {
		o.LeaderEpoch = v.LeaderEpoch
	}
	if v.Version == offsetVersionWithExpiry && v.ExpireTimestamp >= 0 {
		o.Expires = time.UnixMilli(v.ExpireTimestamp)
	}
	return k.Topic, k.Partition, o, nil
}

func (g *Group) replayMetadata(r Record) error {
	if r.Value == nil && g.consumer != nil {
		return nil // it was a classic group before
	}
	if r.Value == nil {
		g.forgetMembers()
		g.forgetGeneration()
		return nil
	}
	v := kmsg.NewGroupMetadataValue()
	if err := readValue(&v, r.Value); err != nil {
		return fmt.Errorf("group %q: metadata: %w", g.name, err)
	}
	g.stored, g.consumer = true, nil
	g.generation, g.protocolType, g.protocol, g.leader = v.Generation, v.ProtocolType, v.Protocol, ""
	if v.Leader != nil {
		g.leader = *v.Leader
	}
	g.unled = v.Leader == nil && len(v.Members) > 0
	live := g.members
	g.forgetMembers()
	for i := range v.Members {
		g.replayMember(&v.Members[i], live)
	}
	g.since = time.UnixMilli(v.CurrentStateTimestamp)
	if g.state = Stable; len(v.Members) == 0 {
		g.state = Empty
	}
	return nil
}

// forgetGeneration makes the group one of which there is no metadata record.
func (g *Group) forgetGeneration() {
	g.stored, g.unled, g.state, g.generation, g.protocolType, g.protocol, g.leader = false, false, Empty, 0, "", nil, ""
}

func (g *Group) forgetMembers() {
	g.members, g.order, g.static = map[string]*member{}, nil, map[string]string{}
}

// replayMember makes a member of the record; one that is here keeps what the log does not know of it.
func (g *Group) replayMember(vm *kmsg.GroupMetadataValueMember, live map[string]*member) {
	m := live[vm.MemberID]
	if m == nil {
		m = &member{
			id: vm.MemberID, instance: vm.InstanceID, clientID: vm.ClientID, host: vm.ClientHost,
			session: time.Duration(vm.SessionTimeoutMillis) * time.Millisecond,
			rebal:   time.Duration(vm.RebalanceTimeoutMillis) * time.Millisecond,
		}
		if g.protocol != nil {
			p := kmsg.NewJoinGroupRequestProtocol()
			p.Name, p.Metadata = *g.protocol, append([]byte{}, vm.Subscription...)
			m.protocols = append(m.protocols, p)
		}
	}
	m.assignment = append([]byte{}, vm.Assignment...)
	g.add(m)
}
