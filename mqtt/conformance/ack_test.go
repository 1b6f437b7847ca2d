package conformance

import (
	"slices"
	"strings"
)

// Sections 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.

var ack5 = checks{
	"MQTT-3.4.2-1": pubackCodes,
	"MQTT-3.4.2-2": explainedWithinMaximum(tPuback),
	"MQTT-3.4.2-3": explainedWithinMaximum(tPuback),
	"MQTT-3.5.2-1": pubrecCodes,
	"MQTT-3.5.2-2": explainedWithinMaximum(tPubrec),
	"MQTT-3.5.2-3": explainedWithinMaximum(tPubrec),
	"MQTT-3.6.1-1": pubrelFlags,
	"MQTT-3.6.2-1": pubrelCodes,
	"MQTT-3.6.2-2": explainedWithinMaximum(tPubrel),
	"MQTT-3.6.2-3": explainedWithinMaximum(tPubrel),
	"MQTT-3.7.2-1": pubcompCodes,
	"MQTT-3.7.2-2": explainedWithinMaximum(tPubcomp),
	"MQTT-3.7.2-3": explainedWithinMaximum(tPubcomp),
}

var ack311 = checks{
	"MQTT-3.6.1-1": pubrelFlags,
}

// explainedWithinMaximum: where an answer would be larger than the client takes, it goes without reason string and user
// properties. The codes that come are the same.
func explainedWithinMaximum(typ byte) check {
	return func(e *env) {
		for _, trouble := range e.troubles()[typ] {
			var told []*packet
			for _, limit := range []uint32{0, 30} {
				var ps [][]byte
				if limit > 0 {
					ps = append(ps, maximumPacket(limit))
				}
				c := e.connect(hello{props: ps})
				got := c.try(trouble)
				for _, p := range got {
					if limit > 0 && len(p.raw) > int(limit) {
						e.Errorf("limit %d: %d bytes: %s", limit, len(p.raw), p)
					}
				}
				if i := slices.IndexFunc(got, func(p *packet) bool { return p.typ == typ }); i >= 0 {
					told = append(told, got[i])
				}
			}
			if len(told) == 2 && told[0].code != told[1].code {
				e.Errorf("%s became %s", told[0], told[1])
			}
			if e.strict && (typ == tPuback || typ == tPubrec) && (len(told) < 2 || !told[0].has(propReasonString)) {
				e.Errorf("no reason was given where there was room: %v", told)
			}
		}
	}
}

// Which codes may come, the decoder sees to; here are those that must.

func pubackCodes(e *env) {
	c := e.connect(hello{})
	if p := c.publish(message{topic: e.topic("t"), qos: 1}); p.code != 0 && p.code != 0x10 {
		e.Fatalf("%s", p)
	}
	if e.strict {
		for _, topic := range []string{"$SYS/" + e.topic("t"), e.topic("a\x01b"), e.topic("\u0080"), e.topic(strings.Repeat("/", 128))} {
			if p := c.publish(message{topic: topic, qos: 1}); p.code != 0x90 {
				e.Errorf("%q: %s", topic, p)
			}
		}
		for _, name := range []string{"mr-x", "mqtt.topic"} {
			if p := c.publish(message{topic: e.topic("t"), qos: 1, props: [][]byte{prop(propUser, str(name), str("v"))}}); p.code != 0x83 {
				e.Errorf("%q: %s", name, p)
			}
		}
	}
	// The server takes every code that a client may send, and none that it may not.
	for _, code := range []byte{0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99} {
		c.send(pkt(tPuback<<4, u16(500), u8(int(code)), props()))
	}
	c.alive()
	e.badCode(tPuback<<4, 0x92)
}

func pubrecCodes(e *env) {
	c := e.connect(hello{})
	if p := c.publish(message{topic: e.topic("t"), qos: 2}); p.code != 0 && p.code != 0x10 {
		e.Fatalf("%s", p)
	}
	if e.strict {
		if p := c.publish(message{topic: "$SYS/" + e.topic("t"), qos: 2}); p.code != 0x90 {
			e.Fatalf("%s", p)
		}
	}
	for _, code := range []byte{0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99} {
		c.send(pkt(tPubrec<<4, u16(500), u8(int(code)), props()))
	}
	c.alive()
	e.badCode(tPubrec<<4, 0x92)
}

// badCode sends an ack with a code that it cannot have, which other brokers may overlook.
func (e *env) badCode(first byte, code int) {
	e.Helper()
	if e.strict {
		e.bad(pkt(first, u16(500), u8(code), props()), 0x82)
	}
}

func pubrelFlags(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("t"), qos: 2, id: 1}
	c.send(m.bytes(e.v))
	c.acked(tPubrec, 1)
	c.trySend(pkt(tPubrel<<4, u16(1)))
	c.ended(0x81)
	// And its own PUBREL has them, the decoder sees to that.
	c = e.subscriber(e.topic("t"), 2)
	e.connect(hello{}).must(message{topic: e.topic("t"), qos: 2})
	c.take()
}

func pubrelCodes(e *env) {
	c := e.subscriber(e.topic("t"), 2)
	e.connect(hello{}).must(message{topic: e.topic("t"), qos: 2})
	c.take() // which wants a PUBREL of code 0
	// A PUBREC for what was never sent.
	c.send(ack(tPubrec, 999))
	if p := c.expect(tPubrel); p.id != 999 || e.strict && p.code != 0x92 {
		e.Fatalf("%s", p)
	}
	c.send(pkt(tPubrel<<4|2, u16(500), u8(0x92), props()))
	c.await(tPubcomp)
	e.badCode(tPubrel<<4|2, 0x80)
}

func pubcompCodes(e *env) {
	c := e.connect(hello{})
	c.must(message{topic: e.topic("t"), qos: 2, id: 3})
	c.send(ack(tPubrel, 999))
	if p := c.expect(tPubcomp); p.id != 999 || e.strict && p.code != 0x92 {
		e.Fatalf("%s", p)
	}
	c.send(pkt(tPubcomp<<4, u16(500), u8(0x92), props()))
	c.alive()
	e.badCode(tPubcomp<<4, 0x80)
}
