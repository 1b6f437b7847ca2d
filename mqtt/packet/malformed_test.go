package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

var badCases = []struct {
	name    string
	version Version // 0: the first packet of a connection
	server  bool
	wire    string
	code    Code
}{
	// Fixed header.
	{"type 0", V5, true, "00 00", MalformedPacket},
	{"type 0 first", 0, true, "00 00", MalformedPacket},
	{"five length bytes", V311, true, "30 8080808001", MalformedPacket},
	{"five length bytes, as far as they go", V311, true, "30 80808080", MalformedPacket},
	{"length not minimal in 5", V5, true, "c0 8000", MalformedPacket},
	{"connect length not minimal in 5", 0, true, "10 8d00 0004 4d515454 05 00 0000 00 0000", MalformedPacket},
	{"pingreq flags", V311, true, "c1 00", MalformedPacket},
	{"pingreq with a body", V311, true, "c0 01 00", MalformedPacket},
	{"puback flags", V5, true, "42 02 0001", MalformedPacket},
	{"pubrel flags", V5, true, "60 02 0001", MalformedPacket},
	{"subscribe flags", V311, true, "80 06 0001 0001 61 00", MalformedPacket},
	{"unsubscribe flags", V311, true, "a0 05 0001 0001 61", MalformedPacket},
	{"disconnect flags", V5, true, "e4 00", MalformedPacket},

	// Who sends what, and when.
	{"first packet not connect", 0, true, "c0 00", ProtocolError},
	{"second connect", V311, true, "10 0c 0004 4d515454 04 02 0000 0000", ProtocolError},
	{"connack from client", V5, true, "20 03 00 00 00", ProtocolError},
	{"suback from client", V5, true, "90 04 0001 00 00", ProtocolError},
	{"unsuback from client", V311, true, "b0 02 0001", ProtocolError},
	{"pingresp from client", V311, true, "d0 00", ProtocolError},
	{"connect from server", V311, false, "10 0c 0004 4d515454 04 02 0000 0000", ProtocolError},
	{"subscribe from server", V5, false, "82 07 0001 00 0001 61 00", ProtocolError},
	{"pingreq from server", V5, false, "c0 00", ProtocolError},
	{"disconnect from server in 3.1.1", V311, false, "e0 00", ProtocolError},
	{"auth in 3.1.1", V311, true, "f0 00", ProtocolError},

	// CONNECT.
	{"connect unknown name", 0, true, "10 0c 0004 4d515455 04 02 0000 0000", UnsupportedProtocolVersion},
	{"connect level 6", 0, true, "10 0c 0004 4d515454 06 02 0000 0000", UnsupportedProtocolVersion},
	{"connect bridge level", 0, true, "10 0c 0004 4d515454 85 02 0000 0000", UnsupportedProtocolVersion},
	{"connect MQTT at level 3", 0, true, "10 0c 0004 4d515454 03 02 0000 0000", UnsupportedProtocolVersion},
	{"connect flag bits", 0, true, "11 0c 0004 4d515454 04 02 0000 0000", MalformedPacket},
	{"connect reserved flag", 0, true, "10 0c 0004 4d515454 04 03 0000 0000", MalformedPacket},
	{"connect will qos without will", 0, true, "10 0c 0004 4d515454 04 0a 0000 0000", MalformedPacket},
	{"connect will retain without will", 0, true, "10 0c 0004 4d515454 04 22 0000 0000", MalformedPacket},
	{"connect will qos 3", 0, true, "10 11 0004 4d515454 04 1e 0000 0000 0001 77 0000", MalformedPacket},
	{"connect password without user name in 3.1.1", 0, true, "10 0f 0004 4d515454 04 42 0000 0000 0001 70", MalformedPacket},
	{"connect empty client id, not clean", 0, true, "10 0c 0004 4d515454 04 00 0000 0000", ClientIDNotValid},
	{"connect empty client id in 3.1", 0, true, "10 0e 0006 4d5149736470 03 02 003c 0000", ClientIDNotValid},
	{"connect client id with U+0000", 0, true, "10 0d 0004 4d515454 04 02 0000 0001 00", MalformedPacket},
	{"connect user name missing", 0, true, "10 0c 0004 4d515454 04 82 0000 0000", MalformedPacket},
	{"connect bytes left over", 0, true, "10 0d 0004 4d515454 04 02 0000 0000 00", MalformedPacket},
	{"connect empty will topic", 0, true, "10 10 0004 4d515454 04 06 0000 0000 0000 0000", MalformedPacket},
	{"connect auth data without method", 0, true, "10 11 0004 4d515454 05 02 0000 04 16 0001 61 0000", ProtocolError},
	{"connect receive maximum 0", 0, true, "10 10 0004 4d515454 05 02 0000 03 21 0000 0000", ProtocolError},
	{"connect maximum packet size 0", 0, true, "10 12 0004 4d515454 05 02 0000 05 27 00000000 0000", ProtocolError},
	{"connect request problem 2", 0, true, "10 0f 0004 4d515454 05 02 0000 02 17 02 0000", ProtocolError},
	{"connect session expiry twice", 0, true, "10 17 0004 4d515454 05 02 0000 0a 11 00000000 11 00000000 0000", ProtocolError},
	{"connect with a topic alias", 0, true, "10 10 0004 4d515454 05 02 0000 03 23 0001 0000", MalformedPacket},
	{"connect unknown property", 0, true, "10 0f 0004 4d515454 05 02 0000 02 7f 00 0000", MalformedPacket},
	{"connect with a will delay outside of the will", 0, true, "10 12 0004 4d515454 05 02 0000 05 18 00000000 0000", MalformedPacket},
	{"connect property cut", 0, true, "10 0f 0004 4d515454 05 02 0000 02 11 00 0000", MalformedPacket},
	{"connect property block longer than the packet", 0, true, "10 0d 0004 4d515454 05 02 0000 7f 0000", MalformedPacket},
	{"connect property length of five bytes", 0, true, "10 11 0004 4d515454 05 02 0000 8080808000 0000", MalformedPacket},
	{"connect property length not minimal", 0, true, "10 0e 0004 4d515454 05 02 0000 8000 0000", MalformedPacket},

	// CONNACK.
	{"connack flags", V311, false, "20 02 02 00", MalformedPacket},
	{"connack return code 6", V311, false, "20 02 00 06", MalformedPacket},
	{"connack session present in a refusal", V311, false, "20 02 01 05", ProtocolError},
	{"connack code of another packet", V5, false, "20 03 00 8b 00", ProtocolError},
	{"connack maximum qos 2", V5, false, "20 05 00 00 02 2402", ProtocolError},
	{"connack too short", V311, false, "20 01 00", MalformedPacket},

	// PUBLISH.
	{"publish qos 3", V311, true, "36 05 0001 61 0001", MalformedPacket},
	{"publish dup with qos 0", V311, true, "38 03 0001 61", MalformedPacket},
	{"publish packet id 0", V311, true, "32 05 0001 61 0000", ProtocolError},
	{"publish without packet id", V311, true, "32 03 0001 61", MalformedPacket},
	{"publish empty", V311, true, "30 00", MalformedPacket},
	{"publish topic longer than the packet", V311, true, "30 03 0002 61", MalformedPacket},
	{"publish empty topic", V311, true, "30 03 0000 61", MalformedPacket},
	{"publish empty topic without alias", V5, true, "30 04 0000 00 61", ProtocolError},
	{"publish topic with U+0000", V311, true, "30 05 0003 610062", MalformedPacket},
	{"publish long topic with U+0000", V311, true, "30 0d 000b 6162636465666768 610062", MalformedPacket},
	{"publish topic not utf-8", V311, true, "30 04 0002 61ff", MalformedPacket},
	{"publish topic with a surrogate", V311, true, "30 05 0003 eda080", MalformedPacket},
	{"publish topic overlong", V311, true, "30 04 0002 c0af", MalformedPacket},
	{"publish topic U+0000 overlong", V311, true, "30 04 0002 c080", MalformedPacket},
	{"publish topic beyond U+10FFFF", V311, true, "30 06 0004 f4908080", MalformedPacket},
	{"publish topic cut in a character", V311, true, "30 03 0001 c3", MalformedPacket},
	{"publish properties missing", V5, true, "30 03 0001 61", MalformedPacket},
	{"publish topic alias 0", V5, true, "30 07 0001 61 03 23 0000", TopicAliasInvalid},
	{"publish topic alias twice", V5, true, "30 0a 0001 61 06 23 0001 23 0001", ProtocolError},
	{"publish subscription identifier from client", V5, true, "30 06 0001 61 02 0b 01", ProtocolError},
	{"publish subscription identifier 0", V5, false, "30 06 0001 61 02 0b 00", ProtocolError},
	{"publish subscription identifier too long", V5, false, "30 09 0001 61 05 0b ffffffff", MalformedPacket},
	{"publish payload format 2", V5, true, "30 06 0001 61 02 01 02", ProtocolError},
	{"publish response topic with wildcard", V5, true, "30 0a 0001 61 06 08 0003 612f23", ProtocolError},
	{"publish response topic empty", V5, true, "30 07 0001 61 03 08 0000", ProtocolError},
	{"publish content type not utf-8", V5, true, "30 08 0001 61 04 03 0001 80", MalformedPacket},
	{"publish user property with U+0000", V5, true, "30 0a 0001 61 06 26 0001 00 0000", MalformedPacket},
	{"publish user property without value", V5, true, "30 08 0001 61 04 26 0001 61", MalformedPacket},
	{"publish user property beyond its block", V5, true, "30 0b 0001 61 04 26 0001 61 0001 62", MalformedPacket},
	{"publish session expiry", V5, true, "30 09 0001 61 05 11 00000000", MalformedPacket},

	// Acks.
	{"puback too short", V311, true, "40 01 00", MalformedPacket},
	{"puback packet id 0", V311, true, "40 02 0000", ProtocolError},
	{"puback code in 3.1.1", V311, true, "40 03 0001 00", MalformedPacket},
	{"puback code of another packet", V5, true, "40 03 0001 92", ProtocolError},
	{"pubrel code of another packet", V5, true, "62 03 0001 87", ProtocolError},
	{"pubcomp property of another packet", V5, true, "70 09 0001 00 05 11 00000000", MalformedPacket},
	{"pubrec reason string twice", V5, true, "50 0a 0001 00 06 1f 0000 1f 0000", ProtocolError},
	{"pubrec bytes left over", V5, true, "50 05 0001 00 00 00", MalformedPacket},

	// SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
	{"subscribe empty", V311, true, "82 02 0001", ProtocolError},
	{"subscribe empty in 5", V5, true, "82 03 0001 00", ProtocolError},
	{"subscribe packet id 0", V311, true, "82 06 0000 0001 61 00", ProtocolError},
	{"subscribe without options", V5, true, "82 06 0001 00 0001 61", MalformedPacket},
	{"subscribe truncated second filter", V5, true, "82 0a 0001 00 0001 61 00 00ff 61", MalformedPacket},
	{"subscribe empty filter", V311, true, "82 05 0001 0000 00", MalformedPacket},
	{"subscribe qos 3", V311, true, "82 06 0001 0001 61 03", ProtocolError},
	{"subscribe qos 3 in 5", V5, true, "82 07 0001 00 0001 61 03", ProtocolError},
	{"subscribe options in 3.1.1", V311, true, "82 06 0001 0001 61 04", MalformedPacket},
	{"subscribe reserved options", V5, true, "82 07 0001 00 0001 61 40", MalformedPacket},
	{"subscribe retain handling 3", V5, true, "82 07 0001 00 0001 61 30", ProtocolError},
	{"subscribe shared no local", V5, true, "82 10 0001 00 000a 2473686172652f672f61 04", ProtocolError},
	{"subscribe identifier 0", V5, true, "82 09 0001 02 0b 00 0001 61 00", ProtocolError},
	{"subscribe identifier twice", V5, true, "82 0b 0001 04 0b 01 0b 02 0001 61 00", ProtocolError},
	{"subscribe filter not utf-8", V5, true, "82 07 0001 00 0001 ff 00", MalformedPacket},
	{"suback without codes", V311, false, "90 02 0001", MalformedPacket},
	{"suback code 3", V311, false, "90 03 0001 03", ProtocolError},
	{"suback code of 5 in 3.1.1", V311, false, "90 03 0001 87", ProtocolError},
	{"suback code of another packet", V5, false, "90 04 0001 00 11", ProtocolError},
	{"unsubscribe empty", V5, true, "a2 03 0001 00", ProtocolError},
	{"unsubscribe empty filter", V311, true, "a2 04 0001 0000", MalformedPacket},
	{"unsubscribe with subscription identifier", V5, true, "a2 08 0001 02 0b 01 0001 61", MalformedPacket},
	{"unsuback codes in 3.1.1", V311, false, "b0 03 0001 00", MalformedPacket},
	{"unsuback without codes in 5", V5, false, "b0 03 0001 00", MalformedPacket},

	// DISCONNECT and AUTH.
	{"disconnect code in 3.1.1", V311, true, "e0 01 00", MalformedPacket},
	{"disconnect code of another packet", V5, true, "e0 01 85", ProtocolError},
	{"disconnect expiry from server", V5, false, "e0 07 00 05 11 00000000", MalformedPacket},
	{"disconnect server reference from client", V5, true, "e0 06 00 04 1c 0001 61", MalformedPacket},
	{"auth code only", V5, true, "f0 01 18", MalformedPacket},
	{"auth without method", V5, true, "f0 02 18 00", ProtocolError},
	{"auth code of another packet", V5, true, "f0 06 80 04 15 0001 61", ProtocolError},
}

func TestMalformedPackets(t *testing.T) {
	for _, c := range badCases {
		t.Run(c.name, func(t *testing.T) {
			d := &Decoder{Version: c.version, Server: c.server}
			p, n, _, err := d.Next(unhex(t, c.wire))
			var e *Error
			if !errors.As(err, &e) || e.Code != c.code || p != nil || n != 0 {
				t.Fatalf("%+v, %d, %v; want %v", p, n, err, c.code)
			}
		})
	}
}

// The version is known before a CONNECT is refused for another reason, so that the refusal can be encoded.
func TestVersionOfRefusedConnect(t *testing.T) {
	d := &Decoder{Server: true}
	if _, _, _, err := d.Next(unhex(t, "10 0c 0004 4d515454 04 00 0000 0000")); err == nil || d.Version != V311 {
		t.Fatalf("version %v after %v", d.Version, err)
	}
}

func TestMaxSize(t *testing.T) {
	d := &Decoder{Version: V311, Server: true, MaxSize: 10}
	if _, n, _, err := d.Next(unhex(t, "30 08 0001 61 0000000000")); n != 10 || err != nil {
		t.Fatalf("a packet of the largest size: %d, %v", n, err)
	}
	var e *Error
	if _, _, _, err := d.Next(unhex(t, "30 09")); !errors.As(err, &e) || e.Code != PacketTooLarge {
		t.Fatalf("a larger one is refused at its fixed header: %v", err)
	}
	if _, _, need, err := d.Next(unhex(t, "30 08 00")); need != 10 || err != nil {
		t.Fatalf("needs %d, %v", need, err)
	}
}

// Properties cost the sender more than us: their number and size are bounded.
func TestPropertyLimits(t *testing.T) {
	publish := func(props []byte) []byte {
		body := append(appendVarint([]byte{0, 1, 'a'}, len(props)), props...)
		return append(appendVarint([]byte{0x30}, len(body)), body...)
	}
	decode := func(wire []byte) (*Publish, error) {
		p, _, _, err := (&Decoder{Version: V5, Server: true}).Next(wire)
		if err != nil {
			return nil, err
		}
		return p.(*Publish), nil
	}
	var e *Error
	user := []byte{userProperty, 0, 0, 0, 0}
	if p, err := decode(publish(bytes.Repeat(user, MaxUserProperties))); err != nil || len(p.Props.User) != MaxUserProperties {
		t.Fatalf("as many user properties as may be: %v", err)
	}
	if _, err := decode(publish(bytes.Repeat(user, MaxUserProperties+1))); !errors.As(err, &e) || e.Code != QuotaExceeded {
		t.Fatalf("one more: %v", err)
	}
	long := append([]byte{0x09, 0xFF, 0xFF}, make([]byte, 65535)...)
	if _, err := decode(publish(long)); !errors.As(err, &e) || e.Code != QuotaExceeded {
		t.Fatalf("a block that is too long: %v", err)
	}
	if _, err := decode(publish(binary.BigEndian.AppendUint16([]byte{0x03}, 65530))); !errors.As(err, &e) || e.Code != MalformedPacket {
		t.Fatalf("a string that is not there: %v", err)
	}
}

// A list costs a small multiple of the bytes that came, however short its entries are.
func TestDecodeAllocatesInProportion(t *testing.T) {
	for typ, entry := range map[byte]string{0x82: "\x00\x01a\x00", 0xA2: "\x00\x01a"} {
		body := append([]byte{0, 1}, strings.Repeat(entry, 50_000)...)
		wire := append(appendVarint([]byte{typ}, len(body)), body...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, n, _, err := (&Decoder{Version: V311, Server: true}).Next(wire)
		runtime.ReadMemStats(&after)
		if times := (after.TotalAlloc - before.TotalAlloc) / uint64(len(wire)); n != len(wire) || err != nil || times > 12 {
			t.Errorf("%#x: %d bytes, %v, %d times the packet", typ, n, err, times)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	ids := Properties{SubscriptionIDs: []uint32{1, 2}}
	for _, c := range []struct {
		p    Packet
		v    Version
		want error
	}{
		{&Connect{Version: 6}, V5, ErrInvalid},
		{&Connect{ClientID: long}, V5, ErrTooLarge},
		{&Connect{HasPass: true}, V311, ErrInvalid},
		{&Connect{HasUser: true, Username: long}, V311, ErrTooLarge},
		{&Connect{Will: &Will{QoS: 3, Topic: "a"}}, V311, ErrInvalid},
		{&Connect{Will: &Will{Topic: "a", Payload: []byte(long)}}, V311, ErrTooLarge},
		{&Connect{Props: Properties{Has: PTopicAlias}}, V5, ErrInvalid},
		{&Connect{Will: &Will{Topic: "a", Props: Properties{Has: PTopicAlias}}}, V5, ErrInvalid},
		{&Connack{Props: Properties{Has: 1 << 30}}, V5, ErrInvalid},
		{&Publish{QoS: 3, Topic: []byte("a")}, V5, ErrInvalid},
		{&Publish{Topic: []byte(long)}, V311, ErrTooLarge},
		{&Publish{Topic: []byte("a"), Payload: make([]byte, maxVarint-2)}, V311, ErrTooLarge},
		{&Publish{Topic: []byte("a"), Props: Properties{Has: PWillDelay}}, V5, ErrInvalid},
		{&Publish{Topic: []byte("a"), Props: Properties{SubscriptionIDs: []uint32{0}}}, V5, ErrInvalid},
		{&Publish{Topic: []byte("a"), Props: Properties{User: []UserProperty{{"a", long}}}}, V5, ErrTooLarge},
		{&Ack{Kind: SUBACK}, V5, ErrInvalid},
		{&Ack{Kind: PUBACK, Props: Properties{SubscriptionIDs: []uint32{1}}}, V5, ErrInvalid},
		{&Subscribe{PacketID: 1}, V5, ErrInvalid},
		{&Subscribe{PacketID: 1, Filters: []Filter{{Filter: ""}}}, V5, ErrInvalid},
		{&Subscribe{PacketID: 1, Filters: []Filter{{Filter: "a", QoS: 3}}}, V5, ErrInvalid},
		{&Subscribe{PacketID: 1, Filters: []Filter{{Filter: "a"}}, Props: ids}, V5, ErrInvalid},
		{&Subscribe{PacketID: 1, Filters: []Filter{{Filter: long}}}, V311, ErrTooLarge},
		{&Suback{Kind: PUBACK}, V5, ErrInvalid},
		{&Unsubscribe{PacketID: 1}, V5, ErrInvalid},
		{&Unsubscribe{PacketID: 1, Filters: []string{""}}, V5, ErrInvalid},
		{&Unsubscribe{PacketID: 1, Filters: []string{long}}, V5, ErrTooLarge},
		{&Ping{Kind: PUBACK}, V5, ErrInvalid},
		{&Disconnect{Props: Properties{Has: PReasonString, ReasonString: long}}, V5, ErrTooLarge},
		{&Auth{}, V311, ErrInvalid},
	} {
		out, err := c.p.Append([]byte{1}, c.v)
		if !errors.Is(err, c.want) || len(out) != 1 {
			t.Errorf("%T %+v: %d bytes, %v", c.p, c.p, len(out), err)
		}
	}
}

// What a property says about itself agrees with the standard's table, and every one survives the way there and back.
func TestPropertyTable(t *testing.T) {
	var all Properties
	seen := map[byte]bool{subscriptionID: true, userProperty: true}
	for i, p := range properties {
		if seen[p.id] || int(bitOf[p.id]) != i+1 || all.field(i) == nil {
			t.Errorf("%s: %#x", p.name, p.id)
		}
		seen[p.id] = true
		switch f := all.field(i).(type) {
		case *byte:
			*f = 1
		case *uint16:
			*f = 0x1234
		case *uint32:
			*f = 0x12345678
		case *string:
			*f = p.name
		case *[]byte:
			*f = []byte(p.name)
		}
	}
	if all.field(len(properties)) != nil || PropSet(1)<<(len(properties)-1) != PAuthData || len(seen) != 27 {
		t.Errorf("%d properties of 27", len(seen))
	}
	places := []place{inConnect, inWill, inConnack, inPublish, inAck, inSubscribe, inSuback, inUnsubscribe, inAuth,
		inDisconnect | inClientDisconnect, inDisconnect | inServerDisconnect}
	for i, p := range properties {
		for _, in := range places {
			one := all
			one.Has = 1 << i
			size, err := one.size(in)
			if (err == nil) != (p.in&in != 0) {
				t.Errorf("%s at %b: %v", p.name, in, err)
			}
			if err != nil {
				continue
			}
			wire := one.append(nil, size)
			if len(wire) != size+varintSize(size) {
				t.Errorf("%s: %d bytes, said %d", p.name, len(wire), size)
			}
			var back Properties
			r := reader{b: wire}
			if r.properties(&back, in); r.end() != nil || fmt.Sprint(deref(back.field(i))) != fmt.Sprint(deref(all.field(i))) {
				t.Errorf("%s: %v after %v", p.name, deref(back.field(i)), r.err)
			}
		}
	}
}

func deref(f any) any {
	switch f := f.(type) {
	case *byte:
		return *f
	case *uint16:
		return *f
	case *uint32:
		return *f
	case *string:
		return *f
	case *[]byte:
		return *f
	}
	return nil
}

func TestCodes(t *testing.T) {
	if got := NotAuthorized.String(); got != "Not authorized (0x87)" {
		t.Error(got)
	}
	if got := Code(0x77).String(); got != "0x77" {
		t.Error(got)
	}
	for typ, set := range codesOf {
		for c := range 256 {
			if set.has(Code(c)) && codeNames[c] == "" {
				t.Errorf("%v may carry %#x, which has no name", Type(typ), c)
			}
		}
	}
	for code, want := range map[Code]byte{
		Success: 0, UnsupportedProtocolVersion: 1, ClientIDNotValid: 2, ServerUnavailable: 3, ServerBusy: 3, QuotaExceeded: 3,
		BadUsernameOrPassword: 4, NotAuthorized: 5, Banned: 5, UnspecifiedError: 3, NoMatchingSubscribers: 0,
	} {
		if got := code.ReturnCode(); got != want {
			t.Errorf("%v is return code %d, want %d", code, got, want)
		}
	}
	for i, code := range fromReturnCode {
		if int(code.ReturnCode()) != i {
			t.Errorf("return code %d does not come back", i)
		}
	}
	if got := (&Error{PacketTooLarge, "packet"}).Error(); got != "packet: Packet too large (0x95)" {
		t.Error(got)
	}
	if AUTH.String() != "AUTH" || Type(99).String() != "packet type 99" || V31.String() != "3.1" {
		t.Error("names of types or versions")
	}
}
