package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// wireCase is one packet as bytes and as a struct. Comments and blanks in wire are for the reader.
type wireCase struct {
	name    string
	version Version
	server  bool // the decoder is a server's
	wire    string
	want    Packet
	encoded string // what Append makes of want, if it is not wire
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatalf("bad hex in a test: %v", err)
	}
	return b
}

func decoderFor(c *wireCase) *Decoder {
	d := &Decoder{Version: c.version, Server: c.server}
	if _, ok := c.want.(*Connect); ok {
		d.Version = 0
	}
	return d
}

var goodCases = []wireCase{
	{"connect 3.1", V31, true, "10 13 0006 4d5149736470 03 02 003c 0005 6d79636c69",
		&Connect{Version: V31, CleanStart: true, KeepAlive: 60, ClientID: "mycli"}, ""},
	{"connect 3.1 with flag bits", V31, true, "1f 13 0006 4d5149736470 03 03 003c 0005 6d79636c69",
		&Connect{Version: V31, CleanStart: true, KeepAlive: 60, ClientID: "mycli"}, "10 13 0006 4d5149736470 03 02 003c 0005 6d79636c69"},
	{"connect 3.1 user name announced but not there", V31, true, "10 0f 0006 4d5149736470 03 c2 0000 0001 61",
		&Connect{Version: V31, CleanStart: true, ClientID: "a"}, "10 0f 0006 4d5149736470 03 02 0000 0001 61"},
	{"connect 3.1.1 minimal", V311, true, "10 0c 0004 4d515454 04 02 0000 0000",
		&Connect{Version: V311, CleanStart: true}, ""},
	{"connect 3.1.1 full", V311, true, "10 23 0004 4d515454 04 f4 000a 0003 646576 0001 77 0003 627965 0004 75736572 0004 70617373",
		&Connect{Version: V311, KeepAlive: 10, ClientID: "dev", Will: &Will{QoS: 2, Retain: true, Topic: "w", Payload: []byte("bye")},
			HasUser: true, Username: "user", HasPass: true, Password: []byte("pass")}, ""},
	{"connect 3.1.1 length not minimal", V311, true, "10 8c00 0004 4d515454 04 02 0000 0000",
		&Connect{Version: V311, CleanStart: true}, "10 0c 0004 4d515454 04 02 0000 0000"},
	{"connect 5 minimal", V5, true, "10 0d 0004 4d515454 05 00 0000 00 0000", &Connect{Version: V5}, ""},
	{"connect 5 password without user name", V5, true, "10 11 0004 4d515454 05 40 0000 00 0001 61 0001 70",
		&Connect{Version: V5, ClientID: "a", HasPass: true, Password: []byte("p")}, ""},
	{"connect 5 every property", V5, true, `10 64 0004 4d515454 05 06 003c
		26 1700 1901 21000a 220005 11ffffffff 2700010000 15 0003 58 4f 52 16 0002 0102 26 0001 6b 0001 76
		0001 63
		29 0101 0200000e10 1800000005 03 0001 74 08 0002 722f 09 0003 636f72 26 0001 61 0001 62 26 0001 61 0001 62
		0002 772f 0000`,
		&Connect{Version: V5, CleanStart: true, KeepAlive: 60, ClientID: "c",
			Props: Properties{Has: PRequestProblem | PRequestResponse | PReceiveMaximum | PTopicAliasMax | PSessionExpiry | PMaximumPacket | PAuthMethod | PAuthData,
				RequestResponse: 1, ReceiveMaximum: 10, TopicAliasMax: 5, SessionExpiry: 0xFFFFFFFF, MaximumPacket: 65536,
				AuthMethod: "XOR", AuthData: []byte{1, 2}, User: []UserProperty{{"k", "v"}}},
			Will: &Will{Topic: "w/", Payload: []byte{},
				Props: Properties{Has: PPayloadFormat | PMessageExpiry | PWillDelay | PContentType | PResponseTopic | PCorrelation,
					PayloadFormat: 1, MessageExpiry: 3600, WillDelay: 5, ContentType: "t", ResponseTopic: "r/", Correlation: []byte("cor"),
					User: []UserProperty{{"a", "b"}, {"a", "b"}}}}}, ""},
	{"connack 3.1.1 accepted", V311, false, "20 02 01 00", &Connack{SessionPresent: true}, ""},
	{"connack 3.1.1 not authorized", V311, false, "20 02 00 05", &Connack{Code: NotAuthorized}, ""},
	{"connack 3.1 reserved byte", V31, false, "20 02 01 02", &Connack{Code: ClientIDNotValid}, "20 02 00 02"},
	{"connack 5 accepted", V5, false, "20 03 00 00 00", &Connack{}, ""},
	{"connack 5 every property", V5, false, `20 47 01 00 44
		2400 2501 2800 2901 2a00 13001e 210014 22000a 1100000e10 2700100000
		12 0003 616263 15 0001 6d 1a 0001 69 1c 0001 73 1f 0002 6f6b 16 0001 64
		26 0001 61 0000 26 0000 0001 62`,
		&Connack{SessionPresent: true, Props: Properties{
			Has: PMaximumQoS | PRetainAvailable | PWildcardAvail | PSubIDAvail | PSharedAvail | PServerKeepAlive | PReceiveMaximum | PTopicAliasMax |
				PSessionExpiry | PMaximumPacket | PAssignedClientID | PAuthMethod | PResponseInfo | PServerReference | PReasonString | PAuthData,
			RetainAvailable: 1, SubIDAvail: 1, ServerKeepAlive: 30, ReceiveMaximum: 20, TopicAliasMax: 10, SessionExpiry: 3600,
			MaximumPacket: 1 << 20, AssignedClientID: "abc", AuthMethod: "m", ResponseInfo: "i", ServerReference: "s", ReasonString: "ok",
			AuthData: []byte("d"), User: []UserProperty{{"a", ""}, {"", "b"}}}}, ""},
	{"publish 3.1.1 qos 0", V311, true, "30 07 0003 612f62 6869", &Publish{Topic: []byte("a/b"), Payload: []byte("hi")}, ""},
	{"publish 3.1 qos 0 with dup", V31, true, "38 07 0003 612f62 6869", &Publish{Dup: true, Topic: []byte("a/b"), Payload: []byte("hi")},
		"30 07 0003 612f62 6869"},
	{"publish 3.1.1 qos 1 dup retain, no payload", V311, true, "3b 07 0003 612f62 0007",
		&Publish{Dup: true, QoS: 1, Retain: true, Topic: []byte("a/b"), PacketID: 7, Payload: []byte{}}, ""},
	{"publish 3.1.1 length not minimal", V311, true, "30 878000 0003 612f62 6869", &Publish{Topic: []byte("a/b"), Payload: []byte("hi")},
		"30 07 0003 612f62 6869"},
	{"publish 5 no properties", V5, true, "34 0a 0003 612f62 ffff 00 6869", &Publish{QoS: 2, Topic: []byte("a/b"), PacketID: 65535, Payload: []byte("hi")}, ""},
	{"publish 5 length of properties", V5, true, "30 08 0003 612f62 00 6869", &Publish{Topic: []byte("a/b"), Payload: []byte("hi")}, ""},
	{"publish 5 alias only", V5, true, "30 07 0000 03 230001 78", &Publish{Topic: []byte{},
		Props: Properties{Has: PTopicAlias, TopicAlias: 1}, Payload: []byte("x")}, ""},
	{"publish 5 every property", V5, false, `32 35 0003 c3a462 0001 2c
		0100 230002 020000003c 03 0002 7474 08 0002 722f 09 0002 00ff 0b 01 0b 8001 26 0001 61 0002 c3a4 26 0001 61 0000 31`,
		&Publish{QoS: 1, Topic: []byte("äb"), PacketID: 1, Payload: []byte("1"), Props: Properties{
			Has:        PPayloadFormat | PTopicAlias | PMessageExpiry | PContentType | PResponseTopic | PCorrelation,
			TopicAlias: 2, MessageExpiry: 60, ContentType: "tt", ResponseTopic: "r/", Correlation: []byte{0, 255},
			SubscriptionIDs: []uint32{1, 128}, User: []UserProperty{{"a", "ä"}, {"a", ""}}}}, ""},
	{"publish topic with BOM, control and non-characters", V311, true, "30 0b 0009 efbbbf 01 7f efbfbf 61",
		&Publish{Topic: []byte("\ufeff\x01\x7f\uffffa"), Payload: []byte{}}, ""},
	{"puback 3.1.1", V311, true, "40 02 0001", &Ack{Kind: PUBACK, PacketID: 1}, ""},
	{"puback 5 short", V5, true, "40 02 0001", &Ack{Kind: PUBACK, PacketID: 1}, ""},
	{"puback 5 with success spelled out", V5, true, "40 04 0001 00 00", &Ack{Kind: PUBACK, PacketID: 1}, "40 02 0001"},
	{"puback 5 code", V5, true, "40 03 0001 10", &Ack{Kind: PUBACK, PacketID: 1, Code: NoMatchingSubscribers}, ""},
	{"pubrec 5 code, empty properties", V5, true, "50 04 0001 97 00", &Ack{Kind: PUBREC, PacketID: 1, Code: QuotaExceeded}, "50 03 0001 97"},
	{"pubrel 3.1 with dup", V31, true, "6a 02 0003", &Ack{Kind: PUBREL, PacketID: 3}, "62 02 0003"},
	{"pubrel 5", V5, true, "62 03 0003 92", &Ack{Kind: PUBREL, PacketID: 3, Code: PacketIDNotFound}, ""},
	{"pubcomp 5 properties", V5, true, "70 0f 0003 00 0b 1f 0001 72 26 0001 61 0001 62",
		&Ack{Kind: PUBCOMP, PacketID: 3, Props: Properties{Has: PReasonString, ReasonString: "r", User: []UserProperty{{"a", "b"}}}}, ""},
	{"subscribe 3.1.1", V311, true, "82 0b 000a 0001 61 02 0002 2b2f 00", &Subscribe{PacketID: 10, Filters: []Filter{{Filter: "a", QoS: 2}, {Filter: "+/"}}}, ""},
	{"subscribe 3.1 dup", V31, true, "8a 06 000a 0001 61 01", &Subscribe{PacketID: 10, Filters: []Filter{{Filter: "a", QoS: 1}}}, "82 06 000a 0001 61 01"},
	{"subscribe 5", V5, true, "82 15 000a 0a 0b ffffff7f 26 0000 0000 0001 61 2d 0001 23 12",
		&Subscribe{PacketID: 10, Props: Properties{SubscriptionIDs: []uint32{maxVarint}, User: []UserProperty{{}}},
			Filters: []Filter{{Filter: "a", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}, {Filter: "#", QoS: 2, RetainHandling: 1}}}, ""},
	{"subscribe 5 shared", V5, true, "82 10 0001 00 000a 2473686172652f672f61 09",
		&Subscribe{PacketID: 1, Filters: []Filter{{Filter: "$share/g/a", QoS: 1, RetainAsPublished: true}}}, ""},
	{"suback 3.1.1", V311, false, "90 06 000a 00 01 02 80", &Suback{Kind: SUBACK, PacketID: 10, Codes: []Code{0, 1, 2, 0x80}}, ""},
	{"suback 5", V5, false, "90 09 000a 04 1f 0001 6f 01 87", &Suback{Kind: SUBACK, PacketID: 10,
		Props: Properties{Has: PReasonString, ReasonString: "o"}, Codes: []Code{1, NotAuthorized}}, ""},
	{"unsubscribe 3.1.1", V311, true, "a2 08 0002 0001 61 0001 62", &Unsubscribe{PacketID: 2, Filters: []string{"a", "b"}}, ""},
	{"unsubscribe 5", V5, true, "a2 0b 0002 05 26 0000 0000 0001 61", &Unsubscribe{PacketID: 2, Props: Properties{User: []UserProperty{{}}}, Filters: []string{"a"}}, ""},
	{"unsuback 3.1.1", V311, false, "b0 02 0002", &Suback{Kind: UNSUBACK, PacketID: 2}, ""},
	{"unsuback 5", V5, false, "b0 05 0002 00 00 11", &Suback{Kind: UNSUBACK, PacketID: 2, Codes: []Code{0, NoSubscriptionExisted}}, ""},
	{"pingreq", V311, true, "c0 00", &Ping{PINGREQ}, ""},
	{"pingresp", V5, false, "d0 00", &Ping{PINGRESP}, ""},
	{"disconnect 3.1.1", V311, true, "e0 00", &Disconnect{}, ""},
	{"disconnect 5", V5, true, "e0 00", &Disconnect{}, ""},
	{"disconnect 5 with will", V5, true, "e0 01 04", &Disconnect{Code: DisconnectWithWill}, ""},
	{"disconnect 5 expiry", V5, true, "e0 07 00 05 11 00000000", &Disconnect{Props: Properties{Has: PSessionExpiry}}, ""},
	{"disconnect 5 from server", V5, false, "e0 0a 9c 08 1c 0001 73 1f 0001 72", &Disconnect{Code: UseAnotherServer,
		Props: Properties{Has: PServerReference | PReasonString, ServerReference: "s", ReasonString: "r"}}, ""},
	{"auth success", V5, false, "f0 00", &Auth{}, ""},
	{"auth continue", V5, true, "f0 0b 18 09 15 0002 6d65 16 0001 64", &Auth{Code: ContinueAuthentication,
		Props: Properties{Has: PAuthMethod | PAuthData, AuthMethod: "me", AuthData: []byte("d")}}, ""},
}

func TestGoodPackets(t *testing.T) {
	for _, c := range goodCases {
		t.Run(c.name, func(t *testing.T) {
			wire := unhex(t, c.wire)
			p, n, _, err := decoderFor(&c).Next(append(bytes.Clone(wire), 0xEE))
			if err != nil || n != len(wire) {
				t.Fatalf("decoded %d of %d bytes: %v", n, len(wire), err)
			}
			if !reflect.DeepEqual(p, c.want) {
				t.Fatalf("decoded\n%+v\nwant\n%+v", p, c.want)
			}
			want := wire
			if c.encoded != "" {
				want = unhex(t, c.encoded)
			}
			got, err := p.Append([]byte{0xAA}, c.version)
			if err != nil || !bytes.Equal(got[1:], want) || got[0] != 0xAA {
				t.Fatalf("encoded\n% x\nwant\n% x\n%v", got, want, err)
			}
		})
	}
}

// A packet that is cut asks for more bytes until it is whole, wherever it is cut; one whose body is cut (the Remaining Length
// says so) is malformed, or another packet, but never a panic.
func TestTruncation(t *testing.T) {
	for _, c := range goodCases {
		wire := unhex(t, c.wire)
		for i := range wire {
			p, n, need, err := decoderFor(&c).Next(wire[:i])
			if p != nil || n != 0 || err != nil || need != 0 && need != len(wire) {
				t.Fatalf("%s cut at %d: %v %d %d %v", c.name, i, p, n, need, err)
			}
		}
		_, width := varint(wire[1:])
		body := wire[1+width:]
		for i := range body {
			short := append(appendVarint([]byte{wire[0]}, i), body[:i]...)
			p, n, _, err := decoderFor(&c).Next(short)
			var e *Error
			if err == nil && (p == nil || n != len(short)) || err != nil && !errors.As(err, &e) {
				t.Fatalf("%s with a body of %d: %v %d %v", c.name, i, p, n, err)
			}
		}
	}
}

// TestBridgeLevel: a bridge of version 3.1 or 3.1.1 says so by the high bit of the level, as Mosquitto's do, and is of that version.
func TestBridgeLevel(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		wire, err := (&Connect{Version: v, Bridge: true, CleanStart: true, ClientID: "b"}).Append(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		d := Decoder{Server: true}
		p, _, _, err := d.Next(wire)
		if err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		if c := p.(*Connect); c.Version != v || d.Version != v || c.Bridge != (v < V5) {
			t.Errorf("%v: %+v", v, c)
		}
	}
}
