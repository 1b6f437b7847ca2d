package group

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The bytes of the records are those of Kafka's schemas (ConsumerGroup*Key and *Value), field by field.
func TestConsumerRecordBytes(t *testing.T) {
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	const uuid = "0102030405060708090a0b0c0d0e0f10"
	m := &consumerMember{
		id: "m", instance: kmsg.StringPtr("i"), clientID: "c", host: "/h", topics: []string{"t"}, rebal: 5 * time.Second, assignor: kmsg.StringPtr("range"),
		epoch: 7, previous: 6, state: unrevoked, assigned: held{id: {0: 5, 2: 7}}, revoke: held{id: {1: 5}},
	}
	classic := *m
	classic.classic = &hosted{session: 6 * time.Second, protocols: []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte{1, 2}}}}
	for _, tc := range []struct {
		name       string
		r          Record
		key, value string
	}{
		{"group epoch", epochRecord("g", 7, 0), "0003 0001 67", "0000 00000007 00"},
		{"group epoch with a hash", epochRecord("g", 7, 9), "0003 0001 67", "0000 00000007 01 00 08 0000000000000009"},
		{"member", memberRecord("g", m), "0005 0001 67 0001 6d", "0000 02 69 00 02 63 03 2f68 02 02 74 00 00001388 06 72616e6765 00"},
		{"member of the classic protocol", memberRecord("g", &classic), "0005 0001 67 0001 6d", "0000 02 69 00 02 63 03 2f68 02 02 74 00 00001388 06 72616e6765 " +
			"01 00 11 01 00001770 02 06 72616e6765 03 0102 00 00"}, // as Kafka 4.3.1 writes it
		{"target epoch", targetEpochRecord("g", 7), "0006 0001 67", "0000 00000007 00"},
		{"target", targetRecord("g", "m", Partitions{id: {0, 2}}), "0007 0001 67 0001 6d", "0000 02 " + uuid + " 03 00000000 00000002 00 00"},
		{"current", currentRecord("g", m), "0008 0001 67 0001 6d", "0000 00000007 00000006 01" +
			"02 " + uuid + " 03 00000000 00000002 01 00 09 03 00000005 00000007" +
			"02 " + uuid + " 02 00000001 01 00 05 02 00000005 00"},
	} {
		if got, want := hex.EncodeToString(tc.r.Key), strings.ReplaceAll(tc.key, " ", ""); got != want {
			t.Errorf("%s: key %s, want %s", tc.name, got, want)
		}
		if got, want := hex.EncodeToString(tc.r.Value), strings.ReplaceAll(tc.value, " ", ""); got != want {
			t.Errorf("%s: value %s, want %s", tc.name, got, want)
		}
	}
}

// What another coordinator may have written: fields we do not write, and assignments without epochs.
func TestConsumerRecordsOfOthers(t *testing.T) {
	g := New("g", &Config{ConsumerSession: time.Minute})
	value := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	id := "01010101010101010101010101010101"
	for _, r := range []Record{
		{consumerKey(partitionsKey, "g", ""), value("0000 01 00")},
		{consumerKey(memberKey, "g", "m"), value("0000 00 00 01 01 01 00 ffffffff 00 02 00 01 00 05 01 ff")},
		{consumerKey(currentKey, "g", "m"), value("0000 00000004 00000003 00 02" + id + "02 00000000 00 01 00")},
	} {
		if err := g.Replay(r); err != nil {
			t.Fatal(err)
		}
	}
	if m := g.consumer.members["m"]; m == nil || !m.known || m.assigned[[16]byte(value(id))][0] != 4 || m.rebal >= 0 {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{"", "00", "0001 00", "0000 00000004", "0000 00000004 00000003 00 ffffffff0f", "0000 00000004 00000003 00 01 01 01 00 ffffffff0f"} {
		if err := g.Replay(Record{consumerKey(currentKey, "g", "m"), value(bad)}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzConsumerRecords: no bytes of the topic stop a start, and what is taken is written as it was read.
func FuzzConsumerRecords(f *testing.F) {
	m := &consumerMember{id: "m", instance: kmsg.StringPtr("i"), topics: []string{"t", "u"}, regex: "a.*", rebal: time.Second, assigned: held{{1}: {0: 1}}, revoke: held{{2}: {3: 4}}}
	for _, r := range []Record{
		epochRecord("g", 1, 2), targetEpochRecord("g", 1), memberRecord("g", m), targetRecord("g", "m", Partitions{{1}: {0, 1}}), currentRecord("g", m),
		{Key: consumerKey(memberKey, "g", "m")},
		memberRecord("g", &consumerMember{id: "m", topics: []string{"t"}, classic: &hosted{time.Second, []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("m")}}}}),
	} {
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		name, ok := NameOf(key)
		if !ok {
			return
		}
		g := New(name, &Config{ConsumerSession: time.Minute})
		if g.Replay(Record{key, value}) != nil || g.consumer == nil {
			return
		}
		g.Restored(time.UnixMilli(1e12))
		for _, m := range g.consumer.members {
			r := memberRecord(name, m)
			again := New(name, g.cfg)
			if err := again.Replay(r); err != nil {
				t.Fatalf("cannot read what it wrote: %v", err)
			}
			if b := memberRecord(name, again.consumer.members[m.id]); !bytes.Equal(b.Value, r.Value) {
				t.Fatalf("%x was read and written as %x", r.Value, b.Value)
			}
		}
	})
}

// Groups that others wrote and that cannot change their protocol say so: members without a protocol, and an assignor that tells them
// more than partitions.
func TestUpgradeOfForeignGroups(t *testing.T) {
	cfg := &Config{ConsumerSession: time.Minute, MaxMembers: 9, MaxBytes: 1000, Topics: topicTable{"t": {"t", [16]byte{1}, 2}}}
	said, got := kmsg.NewConsumerMemberMetadata(), kmsg.NewConsumerMemberAssignment()
	said.Topics, got.UserData = []string{"t"}, []byte("more")
	own := kmsg.GroupMetadataValueMember{MemberID: "m", SessionTimeoutMillis: 10_000, RebalanceTimeoutMillis: 10_000}
	custom := own
	custom.Subscription, custom.Assignment = said.AppendTo(nil), got.AppendTo(nil)
	for why, v := range map[string]kmsg.GroupMetadataValue{
		"malformed":         {ProtocolType: embeddedType, Generation: 4, Members: []kmsg.GroupMetadataValueMember{own}},
		"custom assignor":   {ProtocolType: embeddedType, Generation: 4, Leader: &own.MemberID, Protocol: kmsg.StringPtr("mine"), Members: []kmsg.GroupMetadataValueMember{custom}},
		"embedded protocol": {ProtocolType: "connect", Generation: 4, Leader: &own.MemberID, Protocol: kmsg.StringPtr("mine"), Members: []kmsg.GroupMetadataValueMember{custom}},
	} {
		v.Version = 3
		g := New("g", cfg)
		if err := g.Replay(Record{metadataKey("g"), v.AppendTo(nil)}); err != nil {
			t.Fatal(err)
		}
		now := time.UnixMilli(1e12)
		g.Restored(now)
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.MemberID, req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = "c", 1000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		out := g.ConsumerHeartbeat(now, Caller{}, req)
		r := out.Replies[0].Response.(*kmsg.ConsumerGroupHeartbeatResponse)
		if r.ErrorCode != kerr.GroupIDNotFound.Code || !strings.Contains(*r.ErrorMessage, why) || len(out.Records) != 0 {
			t.Errorf("%s: %v, %d records", why, kerr.ErrorForCode(r.ErrorCode), len(out.Records))
		}
	}
}
