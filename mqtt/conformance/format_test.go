package conformance

import (
	"strings"
	"testing"
)

// Sections 1 and 2: strings, integers, fixed headers, packet identifiers, properties.

var format5 = checks{
	"MQTT-1.5.4-1": illFormedUTF8,
	"MQTT-1.5.4-2": nullCharacter,
	"MQTT-1.5.4-3": byteOrderMark,
	"MQTT-1.5.5-1": shortestVarint,
	"MQTT-1.5.7-1": stringPairs,
	"MQTT-2.1.3-1": reservedFlags,
	"MQTT-2.2.1-2": noIDAtQoS0,
	"MQTT-2.2.1-3": zeroIDs,
	"MQTT-2.2.1-4": distinctIDs,
	"MQTT-2.2.1-5": acksRepeatIDs,
	"MQTT-2.2.1-6": subacksRepeatIDs,
	"MQTT-2.2.2-1": emptyProperties,
}

var format311 = checks{
	"MQTT-1.5.3-1": illFormedUTF8,
	"MQTT-1.5.3-2": nullCharacter,
	"MQTT-1.5.3-3": byteOrderMark,
	"MQTT-2.2.2-1": reservedFlags,
	"MQTT-2.2.2-2": reservedFlags,
	"MQTT-2.3.1-1": zeroIDs,
	"MQTT-2.3.1-4": distinctIDs,
	"MQTT-2.3.1-5": noIDAtQoS0,
	"MQTT-2.3.1-6": acksRepeatIDs,
	"MQTT-2.3.1-7": subacksRepeatIDs,
}

// What is not UTF-8: surrogates, stray and missing continuations, overlong forms, beyond the last code point.
var illFormed = []string{"\xed\xa0\x80", "\xed\xbf\xbf", "\x80", "a\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xf4\x90\x80\x80", "\xff"}

func illFormedUTF8(e *env) {
	for _, bad := range illFormed {
		c := e.connect(hello{})
		m := message{topic: e.topic(bad), payload: "x", qos: 1, id: 1}
		c.trySend(m.bytes(e.v))
		c.ended(0x81)
		c = e.connect(hello{})
		c.trySend(subscribe(e.v, 1, nil, filter{e.topic(bad), 0}))
		c.ended(0x81)
	}
	// Non-characters may be refused; we take them.
	names := []string{"gut ε 丹 \U0002A6D4"}
	if e.strict {
		names = append(names, "\uffff", "\ufdd0", "\U0001fffe", "\u00ad\u200b")
	}
	for _, name := range names {
		c := e.subscriber(e.topic(name), 0)
		e.connect(hello{}).put(e.topic(name), "well-formed")
		if p := c.want("well-formed"); p.topic != e.topic(name) {
			e.Errorf("%q became %q", name, p.topic)
		}
	}
}

func nullCharacter(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("a\x00b"), qos: 1, id: 1}
	c.trySend(m.bytes(e.v))
	c.ended(0x81)
	c = e.connect(hello{})
	c.trySend(subscribe(e.v, 1, nil, filter{e.topic("a\x00b"), 0}))
	c.ended(0x81)
	c = e.connect(hello{})
	c.trySend(unsubscribe(e.v, 1, e.topic("a\x00b")))
	c.ended(0x81)
}

func byteOrderMark(e *env) {
	name := e.topic("a\ufeffb\ufeff")
	c := e.subscriber(name, 1)
	e.connect(hello{}).put(name, "x")
	if p := c.want("x"); p.topic != name {
		e.Fatalf("%q became %q", name, p.topic)
	}
	stripped := e.subscriber(e.topic("ab"), 1)
	e.connect(hello{}).put(name, "y")
	stripped.nothing()
}

func shortestVarint(e *env) {
	// What the server sends is in its shortest form; the decoder sees to that. Around where a byte more is needed:
	c := e.subscriber(e.topic("#"), 0)
	pub := e.connect(hello{})
	for size := 128 - len(e.topic("t")) - 8; size < 132; size++ {
		pub.must(message{topic: e.topic("t"), payload: strings.Repeat("x", size), qos: 1})
		c.want(strings.Repeat("x", size))
	}
	// What is longer than it need be is malformed: here the length of the properties.
	c = e.connect(hello{})
	c.trySend(pkt(tSubscribe<<4|2, u16(1), []byte{0x80, 0x00}, str(e.topic("a")), u8(0)))
	c.ended(0x81)
	// Five bytes are malformed everywhere.
	c = e.connect(hello{})
	c.trySend([]byte{tPublish << 4, 0x80, 0x80, 0x80, 0x80, 0x01})
	c.ended(0x81)
}

func stringPairs(e *env) {
	for _, pair := range [][2]string{{"\xed\xa0\x80", "v"}, {"n", "\xff"}, {"n\x00", "v"}, {"n", "\x00"}} {
		c := e.connect(hello{})
		m := message{topic: e.topic("t"), qos: 1, id: 1, props: [][]byte{prop(propUser, str(pair[0]), str(pair[1]))}}
		c.trySend(m.bytes(e.v))
		c.ended(0x81)
	}
}

func reservedFlags(e *env) {
	bad := (&hello{id: e.clientID()}).bytes(e.v)
	bad[0] |= 1
	e.refused(bad, 0, 0x81)
	for name, b := range map[string][]byte{
		"PUBACK": pkt(tPuback<<4|1, u16(1)), "PUBREC": pkt(tPubrec<<4|2, u16(1)), "PUBREL": pkt(tPubrel<<4, u16(1)),
		"PUBCOMP": pkt(tPubcomp<<4|8, u16(1)), "SUBSCRIBE": pkt(tSubscribe<<4, subscribe(e.v, 1, nil, filter{e.topic("a"), 0})[2:]),
		"UNSUBSCRIBE": pkt(tUnsubscribe<<4|3, unsubscribe(e.v, 1, e.topic("a"))[2:]), "PINGREQ": pkt(tPingreq<<4 | 1),
		"DISCONNECT": pkt(tDisconnect<<4 | 4),
	} {
		e.Log(name)
		e.bad(b, 0x81)
	}
}

func noIDAtQoS0(e *env) {
	c := e.subscriber(e.topic("t"), 1)
	e.connect(hello{}).publish(message{topic: e.topic("t"), payload: "xyz"})
	p := c.want("xyz")
	// Byte by byte: nothing stands between topic and payload but, in 5.0, the length of no properties.
	want := pkt(tPublish<<4, str(e.topic("t")), propsIf(e.v), raw("xyz"))
	if string(p.raw) != string(want) {
		e.Fatalf("got  % x\nwant % x", p.raw, want)
	}
}

func zeroIDs(e *env) {
	for _, b := range [][]byte{
		(&message{topic: e.topic("t"), qos: 1}).bytes(e.v), (&message{topic: e.topic("t"), qos: 2}).bytes(e.v),
		subscribe(e.v, 0, nil, filter{e.topic("t"), 0}), unsubscribe(e.v, 0, e.topic("t")),
	} {
		c := e.connect(hello{})
		c.trySend(b)
		c.ended(0x81, 0x82)
	}
}

// The ids of deliveries under way are distinct (and not 0, which the decoder sees to).
func distinctIDs(e *env) {
	c := e.subscriber(e.topic("#"), 2)
	pub := e.connect(hello{})
	seen := map[int]bool{}
	for i := range 10 {
		pub.must(message{topic: e.topic("t"), qos: byte(1 + i%2)})
		p := c.message()
		if seen[p.id] {
			e.Fatalf("%s: the id is taken", p)
		}
		seen[p.id] = true
	}
}

func acksRepeatIDs(e *env) {
	c := e.connect(hello{})
	for _, id := range []int{1, 0x0102, 0x8000, 65535} {
		c.must(message{topic: e.topic("t"), qos: 1, id: id})
		c.must(message{topic: e.topic("t"), qos: 2, id: id})
	}
	// PUBREL for a delivery.
	c = e.subscriber(e.topic("t"), 2)
	e.connect(hello{}).must(message{topic: e.topic("t"), qos: 2})
	c.take()
}

func subacksRepeatIDs(e *env) {
	c := e.connect(hello{})
	for _, id := range []int{1, 0x0102, 0x8000, 65535} {
		c.send(subscribe(e.v, id, nil, filter{e.topic("t"), 1}))
		c.acked(tSuback, id)
		c.send(unsubscribe(e.v, id, e.topic("t")))
		c.acked(tUnsuback, id)
	}
}

// A packet that has room for properties and has none says so with a length of 0.
func emptyProperties(e *env) {
	c := e.subscriber(e.topic("t"), 1)
	c.send(subscribe(e.v, 7, nil, filter{e.topic("u"), 1}))
	if p := c.expect(tSuback); len(p.props) == 0 && string(p.raw) != string([]byte{tSuback << 4, 4, 0, 7, 0, 1}) {
		e.Fatalf("SUBACK % x", p.raw)
	}
	e.connect(hello{}).put(e.topic("t"), "x")
	if p := c.message(); len(p.props) > 0 || p.raw[len(p.raw)-2] != 0 {
		e.Fatalf("PUBLISH % x", p.raw)
	}
	if len(c.ack.props) == 0 && c.ack.raw[len(c.ack.raw)-1] != 0 {
		e.Fatalf("CONNACK % x", c.ack.raw)
	}
}

// The decoder refuses what a server must not send; every check above and below leans on it.
func TestDecoderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		v byte
		b []byte
	}{
		"reserved flags":                  {v5, pkt(tPuback<<4|1, u16(1))},
		"PUBREL without its flags":        {v5, pkt(tPubrel<<4, u16(1))},
		"packet id 0":                     {v5, pkt(tPuback<<4, u16(0))},
		"reason code of another packet":   {v5, pkt(tPuback<<4, u16(1), u8(0x92))},
		"session present and refused":     {v5, pkt(tConnack<<4, u8(1), u8(0x80), props())},
		"reserved acknowledge flags":      {v5, pkt(tConnack<<4, u8(2), u8(0), props())},
		"return code of 5.0":              {v311, pkt(tConnack<<4, u8(0), u8(0x80))},
		"properties before 5.0":           {v311, pkt(tConnack<<4, u8(0), u8(0), props())},
		"property of another packet":      {v5, pkt(tPuback<<4, u16(1), u8(0), props(prop(propTopicAlias, u16(1))))},
		"property twice":                  {v5, pkt(tPuback<<4, u16(1), u8(0), props(prop(propReasonString, str("a")), prop(propReasonString, str("b"))))},
		"alias 0":                         {v5, pkt(tPublish<<4, str("a"), props(prop(propTopicAlias, u16(0))))},
		"no topic":                        {v5, pkt(tPublish<<4, str(""), props())},
		"wildcard topic":                  {v5, pkt(tPublish<<4, str("a/+"), props())},
		"QoS 3":                           {v5, pkt(tPublish<<4|6, str("a"), u16(1), props())},
		"DUP at QoS 0":                    {v5, pkt(tPublish<<4|8, str("a"), props())},
		"ill-formed topic":                {v5, pkt(tPublish<<4, str("\xff"), props())},
		"null in a string":                {v5, pkt(tPublish<<4, str("a"), props(prop(propContentType, str("\x00"))))},
		"session expiry in DISCONNECT":    {v5, pkt(tDisconnect<<4, u8(0), props(prop(propSessionExpiry, u32(1))))},
		"DISCONNECT before 5.0":           {v311, pkt(tDisconnect << 4)},
		"something left over":             {v311, pkt(tUnsuback<<4, u16(1), u8(0))},
		"too short":                       {v5, pkt(tSuback<<4, u8(1))},
		"property length not in its form": {v5, pkt(tSuback<<4, u16(1), []byte{0x80, 0})},
		"failure of 5.0 in SUBACK":        {v311, pkt(tSuback<<4, u16(1), u8(0x87))},
		"what only a client sends":        {v5, pkt(tPingreq << 4)},
	} {
		if p, err := decode(c.b, c.v); err == nil {
			t.Errorf("%s: %s was let through", name, p)
		}
	}
	for _, b := range [][]byte{
		pkt(tPublish<<4|0x0d, str("a"), u16(1), props(prop(propTopicAlias, u16(3)), prop(propUser, str("a"), str("b")), prop(propUser, str("a"), str("b"))), raw("x")),
		pkt(tConnack<<4, u8(1), u8(0), props(prop(propServerKeepAlive, u16(3)))), pkt(tPubrel<<4|2, u16(1), u8(0x92)), pkt(tPingresp << 4),
	} {
		if _, err := decode(b, v5); err != nil {
			t.Error(err)
		}
	}
}
