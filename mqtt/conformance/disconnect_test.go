package conformance

import (
	"fmt"
	"time"
)

// Sections 3.14: DISCONNECT; 3.15 and 4.12: AUTH; 4.13: errors.

var disconnect5 = checks{
	"MQTT-3.14.0-1": noDisconnectBeforeConnack,
	"MQTT-3.14.1-1": disconnectFlags,
	"MQTT-3.14.2-1": disconnectCodes,
	"MQTT-3.14.2-2": sessionExpiryInDisconnect,
	"MQTT-3.14.2-3": disconnectWithinMaximum,
	"MQTT-3.14.2-4": disconnectWithinMaximum,
	"MQTT-3.14.4-1": nothingAfterDisconnect,
	"MQTT-3.14.4-2": nothingAfterDisconnect,
	"MQTT-3.14.4-3": willDiscarded,
	"MQTT-3.15.1-1": authFlags,
	"MQTT-3.15.2-1": authCodes,
	"MQTT-4.12.0-1": authMethodUnsupported,
	"MQTT-4.12.0-4": authMethodUnsupported,
	"MQTT-4.12.0-6": noAuthUnasked,
	"MQTT-4.12.0-7": authUnasked,
	"MQTT-4.12.1-2": reauthUnasked,
	"MQTT-4.13.1-1": errorsClose,
	"MQTT-4.13.2-1": failuresClose,
}

var disconnect311 = checks{
	"MQTT-3.14.1-1": disconnectFlags,
	"MQTT-3.14.4-1": closesAfterDisconnect,
	"MQTT-3.14.4-3": willDiscarded,
	"MQTT-4.8.0-1":  errorsClose,
}

func noDisconnectBeforeConnack(e *env) {
	for name, b := range e.refusals() {
		c := e.dial()
		c.trySend(b)
		for p, err := c.answer(); err == nil; p, err = c.answer() {
			if p.typ == tDisconnect {
				e.Errorf("%s: % x", name, p.raw)
			}
		}
	}
	c := e.dial()
	c.trySend(pkt(tPingreq << 4))
	if p, err := c.answer(); err == nil {
		e.Errorf("got % x without a CONNECT", p.raw)
	}
}

func disconnectFlags(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	for _, flags := range []byte{1, 2, 4, 8, 15} {
		c := e.mortal(will{topic: e.topic("will"), payload: fmt.Sprint(flags)}, hello{})
		c.trySend(pkt(tDisconnect<<4 | flags))
		c.ended(0x81)
		sub.want(fmt.Sprint(flags)) // it does not count as a DISCONNECT
	}
}

func disconnectCodes(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	for _, code := range []int{0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
		c := e.mortal(will{topic: e.topic("will"), payload: fmt.Sprint(code)}, hello{})
		c.send(pkt(tDisconnect<<4, u8(code), props(prop(propReasonString, str("why")), prop(propUser, str("a"), str("b")))))
		for p := c.read(); p != nil; p = c.read() {
			e.Fatalf("got %s", p)
		}
		sub.want(fmt.Sprint(code)) // only code 0 takes it back
	}
	for _, code := range []int{0x01, 0x10, 0x92, 0xFF} {
		c := e.connect(hello{})
		c.trySend(pkt(tDisconnect<<4, u8(code), props()))
		for p := c.read(); p != nil; p = c.read() {
			if p.typ != tDisconnect || p.code != 0x81 && p.code != 0x82 {
				e.Fatalf("code %02X: got %s", code, p)
			}
		}
	}
}

// sessionExpiryInDisconnect: a client may change the expiry of its session when it goes, but not from 0. (That a server sends no
// such property, the decoder sees to.)
func sessionExpiryInDisconnect(e *env) {
	bye := func(seconds uint32) []byte {
		return pkt(tDisconnect<<4, u8(0), props(prop(propSessionExpiry, u32(seconds))))
	}
	end := func(c *client) {
		e.Helper()
		for p := c.read(); p != nil; p = c.read() {
			e.Fatalf("got %s", p)
		}
	}
	// To 0: the session ends at once.
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.send(bye(0))
	end(c)
	if e.connect(h).ack.present {
		e.Fatal("the session outlives an expiry of 0")
	}
	// From a second to an hour: it is there later.
	h = hello{id: e.clientID(), stay: true, props: [][]byte{prop(propSessionExpiry, u32(1))}}
	c = e.connect(h)
	c.send(bye(3600))
	end(c)
	// And from an hour to a second: it is not.
	short := hello{id: e.clientID(), stay: true, props: [][]byte{prop(propSessionExpiry, u32(3600))}}
	c = e.connect(short)
	c.send(bye(1))
	end(c)
	e.seconds(3)
	if !e.connect(h).ack.present {
		e.Fatal("the session is gone that was to stay for an hour")
	}
	if e.connect(short).ack.present {
		e.Fatal("the session is there that was to stay for a second")
	}
	// From 0: no.
	c = e.connect(hello{})
	c.trySend(bye(10))
	c.ended(0x82)
}

func disconnectWithinMaximum(e *env) {
	const limit = 30
	c := e.connect(hello{})
	c.trySend(subscribe(e.v, 1, nil))
	if p := c.read(); e.strict && (p == nil || !p.has(propReasonString)) {
		e.Fatalf("no reason was given where there was room: %v", p)
	}
	for _, bad := range [][]byte{
		subscribe(e.v, 1, nil), pkt(tSubscribe<<4|2, u16(1), []byte{0x80, 0}), pkt(tPublish<<4|6, str("a")),
		(&message{topic: "a/+"}).bytes(e.v), (&message{topic: "a", props: alias(60_000)}).bytes(e.v), pkt(tAuth<<4, u8(0x18), props()),
	} {
		c := e.connect(hello{props: [][]byte{maximumPacket(limit)}})
		c.trySend(bad)
		for _, p := range c.try(nil) {
			if len(p.raw) > limit {
				e.Errorf("%d bytes: %s", len(p.raw), p)
			}
			if p.typ != tDisconnect {
				e.Errorf("% x was answered with %s", bad, p)
			}
		}
	}
	// One who takes over has the other one told why.
	h := hello{id: e.clientID(), props: [][]byte{maximumPacket(limit)}}
	c = e.connect(h)
	e.connect(h)
	for p := c.read(); p != nil; p = c.read() {
		if len(p.raw) > limit {
			e.Errorf("%d bytes: %s", len(p.raw), p)
		}
	}
}

// nothingAfterDisconnect: a server that says DISCONNECT says no more, and closes.
func nothingAfterDisconnect(e *env) {
	h := hello{id: e.clientID()}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	stop, over := make(chan struct{}), make(chan struct{})
	pub := e.connect(hello{})
	go func() {
		defer close(over)
		m := message{topic: e.topic("t"), payload: "x"}
		for {
			select {
			case <-stop:
				return
			default:
				pub.nc.Write(m.bytes(e.v))
				time.Sleep(time.Millisecond)
			}
		}
	}()
	c.message()
	e.connect(h)
	said := false
	for p := c.read(); p != nil; p = c.read() {
		if said {
			e.Fatalf("got %s after DISCONNECT", p)
		}
		said = p.typ == tDisconnect
	}
	close(stop)
	<-over
	if !said {
		e.choice("the broker closes without DISCONNECT")
	}
}

// closesAfterDisconnect: a client's to do, but a server must not wait for it for ever.
func closesAfterDisconnect(e *env) {
	c := e.connect(hello{})
	c.send(pkt(tDisconnect << 4))
	for p := c.read(); p != nil; p = c.read() {
		e.Fatalf("got %s", p)
	}
}

func willDiscarded(e *env) {
	sub := e.subscriber(e.topic("will/#"), 1)
	e.mortal(will{topic: e.topic("will/t"), payload: "never"}, hello{}).leave()
	e.mortal(will{topic: e.topic("will/t"), payload: "never"}, hello{stay: true}).leave()
	if e.v == v5 {
		c := e.mortal(will{topic: e.topic("will/t"), payload: "never"}, hello{})
		c.send(pkt(tDisconnect<<4, u8(0), props()))
		for c.read() != nil {
		}
	}
	e.mortal(will{topic: e.topic("will/fence"), payload: "fence"}, hello{}).cut()
	sub.want("fence")
	sub.nothing()
}

func authFlags(e *env) {
	e.bad(pkt(tAuth<<4|1, u8(0x18), props(prop(propAuthMethod, str("x")))), 0x81, 0x82)
}

func authCodes(e *env) {
	e.bad(pkt(tAuth<<4, u8(0x01), props(prop(propAuthMethod, str("x")))), 0x81, 0x82)
}

// authMethodUnsupported: a method that no server has.
func authMethodUnsupported(e *env) {
	h := hello{id: e.clientID(), props: [][]byte{prop(propAuthMethod, str("no such method"))}}
	e.refused(h.bytes(e.v), 0, 0x8C, 0x87)
	h.props = append(h.props, prop(propAuthData, str("\x00\x01")))
	e.refused(h.bytes(e.v), 0, 0x8C, 0x87)
}

func noAuthUnasked(e *env) {
	c := e.connect(hello{user: "user", pass: "pass"})
	if c.ack.has(propAuthMethod) || c.ack.has(propAuthData) {
		e.Fatalf("%s", c.ack)
	}
	c.subscribe(e.topic("t"), 1)
	c.alive()
}

func authUnasked(e *env) {
	for _, b := range [][]byte{
		pkt(tAuth << 4), pkt(tAuth<<4, u8(0), props()), pkt(tAuth<<4, u8(0x18), props(prop(propAuthMethod, str("x")))),
	} {
		e.bad(b, 0x81, 0x82)
	}
}

func reauthUnasked(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	c := e.mortal(will{topic: e.topic("will"), payload: "gone"}, hello{})
	c.trySend(pkt(tAuth<<4, u8(0x19), props(prop(propAuthMethod, str("x")))))
	c.ended(0x81, 0x82, 0x87, 0x8C)
	sub.want("gone")
}

// wrongs are packets that no client may send, with the code that 5.0 has for each.
func (e *env) wrongs() map[string]struct {
	b    []byte
	code byte
} {
	type wrong = struct {
		b    []byte
		code byte
	}
	t := e.topic("t")
	m := map[string]wrong{
		"type 0":                  {pkt(0), 0x81},
		"CONNACK":                 {pkt(tConnack<<4, u8(0), u8(0), propsIf(e.v)), 0x82},
		"SUBACK":                  {pkt(tSuback<<4, u16(1), propsIf(e.v), u8(0)), 0x82},
		"UNSUBACK":                {pkt(tUnsuback<<4, u16(1), propsIf(e.v)), 0x82},
		"PINGRESP":                {pkt(tPingresp << 4), 0x82},
		"PINGREQ with a body":     {pkt(tPingreq<<4, u8(0)), 0x81},
		"PUBACK too short":        {pkt(tPuback<<4, u8(0)), 0x81},
		"PUBLISH without a topic": {pkt(tPublish << 4), 0x81},
		"PUBLISH without an id":   {pkt(tPublish<<4|2, str(t)), 0x81},
		"length of five bytes":    {[]byte{tPublish << 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, 0x81},
	}
	if e.v == v5 {
		m["PUBLISH without properties"] = wrong{pkt(tPublish<<4, str(t)), 0x81}
		m["properties too long"] = wrong{pkt(tPublish<<4, str(t), varint(9), raw("x")), 0x81}
		m["unknown property"] = wrong{pkt(tPublish<<4, str(t), props(prop(0x7F, u8(0)))), 0x81}
		m["property elsewhere"] = wrong{pkt(tPublish<<4, str(t), props(prop(propSessionExpiry, u32(0)))), 0x81}
		m["property twice"] = wrong{pkt(tPublish<<4, str(t), props(prop(propContentType, str("a")), prop(propContentType, str("a")))), 0x82}
		m["neither topic nor alias"] = wrong{pkt(tPublish<<4, str(""), props()), 0x82}
		m["SUBSCRIBE with two ids"] = wrong{subscribe(e.v, 1, [][]byte{prop(propSubscriptionID, varint(1)), prop(propSubscriptionID, varint(2))}, filter{t, 0}), 0x82}
	} else {
		m["AUTH"] = wrong{pkt(tAuth << 4), 0}
		m["type 15 with a body"] = wrong{pkt(tAuth<<4, u8(0x18), u8(0)), 0}
		m["empty topic"] = wrong{pkt(tPublish<<4, str("")), 0}
	}
	return m
}

func errorsClose(e *env) {
	for name, w := range e.wrongs() {
		e.Log(name)
		codes := []byte{w.code}
		if !e.strict { // which of the two it is is often a matter of taste
			codes = []byte{0x81, 0x82}
		}
		e.bad(w.b, codes...)
	}
	if e.strict && e.v == v5 {
		propertyPlaces(e)
	}
}

func failuresClose(e *env) {
	refusalCloses(e)
	nothingAfterDisconnect(e)
}
