package conformance

import (
	"slices"
	"strings"
)

// Section 3.2: CONNACK.

var connack5 = checks{
	"MQTT-3.2.0-1":  connackComesFirst,
	"MQTT-3.2.0-2":  oneConnack,
	"MQTT-3.2.2-1":  acknowledgeFlags,
	"MQTT-3.2.2-2":  notPresentAfterCleanStart,
	"MQTT-3.2.2-3":  presentIfThere,
	"MQTT-3.2.2-6":  refusalIsNotPresent,
	"MQTT-3.2.2-7":  refusalCloses,
	"MQTT-3.2.2-8":  connackCodes,
	"MQTT-3.2.2-9":  maximumQoSSaid,
	"MQTT-3.2.2-10": anyQoSSubscribed,
	"MQTT-3.2.2-12": willQoSWithinMaximum,
	"MQTT-3.2.2-13": willRetainIfAvailable,
	"MQTT-3.2.2-15": packetTooLarge,
	"MQTT-3.2.2-16": assignedIsUnique,
	"MQTT-3.2.2-17": aliasAboveMaximum,
	"MQTT-3.2.2-19": connackWithinMaximum,
	"MQTT-3.2.2-20": connackWithinMaximum,
	"MQTT-3.2.2-22": keepAlive,
}

var connack311 = checks{
	"MQTT-3.2.0-1": connackComesFirst,
	"MQTT-3.2.2-1": notPresentAfterCleanStart,
	"MQTT-3.2.2-2": presentIfThere,
	"MQTT-3.2.2-3": createsSession,
	"MQTT-3.2.2-4": refusalIsNotPresent,
	"MQTT-3.2.2-5": refusalCloses,
	"MQTT-3.2.2-6": connectMalformed,
}

// A client that speaks before it is answered, and to whom something is owed, gets CONNACK first.
func connackComesFirst(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	c.leave()
	e.connect(hello{}).put(e.topic("t"), "owed")
	c = e.dial()
	m := message{topic: e.topic("u"), payload: "early", qos: 1, id: 9}
	c.send(h.bytes(e.v), m.bytes(e.v), pkt(tPingreq<<4))
	c.accepted()
	got := map[byte]bool{}
	for len(got) < 3 {
		got[c.next().typ] = true
	}
	if !got[tPublish] || !got[tPuback] || !got[tPingresp] {
		e.Fatalf("got %v", got)
	}
}

func oneConnack(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("t"), 2)
	c.must(message{topic: e.topic("t"), payload: "x", qos: 2})
	c.take()
	c.nothing()
	c.send(pkt(tDisconnect << 4))
	for p := c.read(); p != nil; p = c.read() {
		e.Fatalf("got %s", p)
	}
	// Nor after a second CONNECT.
	h := hello{id: e.clientID()}
	c = e.connect(h)
	c.trySend(h.bytes(e.v))
	c.ended(0x82)
}

func acknowledgeFlags(e *env) {
	h := hello{id: e.clientID(), stay: true}
	for _, want := range []byte{0, 1} {
		c := e.connect(h)
		if c.ack.raw[2] != want {
			e.Fatalf("CONNACK % x", c.ack.raw)
		}
		c.leave()
	}
}

func notPresentAfterCleanStart(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.leave()
	if h.clean = true; e.connect(h).ack.present {
		e.Fatal("session present after a clean start")
	}
}

func presentIfThere(e *env) {
	createsSession(e)
	resumes(e)
}

// refusals are CONNECTs that a server answers with a refusal, by the codes it may have.
func (e *env) refusals() map[string][]byte {
	return map[string][]byte{
		"level":     pkt(tConnect<<4, str("MQTT"), []byte{9, 2}, u16(60), propsIf(e.v), str(e.clientID())),
		"client id": (&hello{id: "a\x01b"}).bytes(e.v),
		"flags":     rawConnect(e.v, 3, str(e.clientID())),
		"will":      (&hello{id: e.clientID(), will: &will{topic: "a/+"}}).bytes(e.v),
	}
}

func refusalIsNotPresent(e *env) {
	// There is a session that a refused CONNECT could find.
	h := hello{id: e.clientID(), stay: true}
	e.connect(h).leave()
	bad := e.refusals()
	bad["of a session"] = (&hello{id: h.id, stay: true, will: &will{topic: "a/+"}}).bytes(e.v)
	for name, b := range bad {
		c := e.dial()
		c.trySend(b)
		if p, err := c.answer(); err == nil && p.code != 0 && p.raw[2] != 0 {
			e.Errorf("%s: CONNACK % x", name, p.raw)
		}
	}
}

func refusalCloses(e *env) {
	for name, b := range e.refusals() {
		c := e.dial()
		c.trySend(b)
		if p, err := c.answer(); err == nil && p.code != 0 {
			if p, err := c.answer(); err == nil {
				e.Errorf("%s: got % x after the refusal", name, p.raw)
			}
		}
	}
}

func connackCodes(e *env) {
	for name, b := range e.refusals() {
		c := e.dial()
		c.trySend(b)
		p, err := c.answer()
		if err == nil && !slices.Contains(serverCodes[tConnack], p.code) && !(name == "level" && p.code == 1) {
			e.Errorf("%s: CONNACK % x", name, p.raw)
		}
	}
}

func maximumQoSSaid(e *env) {
	c := e.connect(hello{})
	top := byte(c.ack.number(propMaximumQoS, 2))
	for q := range top + 1 {
		c.must(message{topic: e.topic("t"), qos: q})
	}
	if top < 2 {
		m := message{topic: e.topic("t"), qos: top + 1, id: 1}
		c.trySend(m.bytes(e.v))
		c.ended(0x9B)
	}
}

func anyQoSSubscribed(e *env) {
	for q := range 3 {
		if code := e.connect(hello{}).ask(nil, filter{e.topic("t"), q})[0]; code > byte(q) {
			e.Fatalf("QoS %d was answered %02X", q, code)
		}
	}
}

func willQoSWithinMaximum(e *env) {
	top := byte(e.connect(hello{}).ack.number(propMaximumQoS, 2))
	for q := range byte(3) {
		h := hello{id: e.clientID(), will: &will{topic: e.topic("will"), qos: q}}
		if q <= top {
			e.connect(h)
		} else {
			e.refused(h.bytes(e.v), 0, 0x9B)
		}
	}
}

func willRetainIfAvailable(e *env) {
	h := hello{id: e.clientID(), will: &will{topic: e.topic("will"), retain: true}}
	if e.connect(hello{}).ack.number(propRetainAvailable, 1) == 1 {
		e.connect(h).leave()
	} else {
		e.refused(h.bytes(e.v), 0, 0x9A)
	}
}

// packetTooLarge: a packet as large as the server takes, and one that is a byte larger.
func packetTooLarge(e *env) {
	c := e.connect(hello{})
	limit := c.ack.number(propMaximumPacket, 0)
	if limit == 0 || limit > 64<<20 {
		e.choice("the broker's maximum is %d", limit)
	}
	m := message{topic: e.topic("t"), qos: 1, id: 1}
	m.payload = strings.Repeat("x", limit-len(m.bytes(e.v))-len(varint(limit))+1)
	if size := len(m.bytes(e.v)); size != limit {
		e.Fatalf("%d bytes, want %d", size, limit)
	}
	c.must(m)
	m.payload += "x"
	c.trySend(m.bytes(e.v)[:100]) // the length says it
	c.ended(0x95)
}

func assignedIsUnique(e *env) {
	seen := map[string]bool{}
	for range 5 {
		c := e.connect(hello{noID: true})
		x, ok := c.ack.prop(propAssignedID)
		if !ok || x.s == "" || seen[x.s] {
			e.Fatalf("%s", c.ack)
		}
		seen[x.s] = true
	}
}

// connackWithinMaximum: what only explains is left out where it would be too much.
func connackWithinMaximum(e *env) {
	bad := hello{id: e.clientID(), will: &will{topic: "a/+"}}
	c := e.dial()
	c.trySend(bad.bytes(e.v))
	if p := c.read(); e.strict && (p == nil || !p.has(propReasonString)) {
		e.Fatalf("no reason was given where there was room: %v", p)
	}
	for _, limit := range []uint32{1, 5, 10, 20, 30} {
		h := bad
		h.props = [][]byte{maximumPacket(limit)}
		c := e.dial()
		c.trySend(h.bytes(e.v))
		for p, err := c.answer(); err == nil; p, err = c.answer() {
			if len(p.raw) > int(limit) {
				e.Errorf("limit %d: % x", limit, p.raw)
			}
		}
	}
}
