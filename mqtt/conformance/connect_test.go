package conformance

import (
	"fmt"
	"strings"
	"time"
)

// Section 3.1: CONNECT. The will is in will_test.go.

var connect5 = checks{
	"MQTT-3.1.0-1":  connectComesFirst,
	"MQTT-3.1.0-2":  secondConnect,
	"MQTT-3.1.2-1":  protocolName,
	"MQTT-3.1.2-2":  protocolVersion,
	"MQTT-3.1.2-3":  reservedConnectFlag,
	"MQTT-3.1.2-4":  cleanStartDiscards,
	"MQTT-3.1.2-5":  resumes,
	"MQTT-3.1.2-6":  createsSession,
	"MQTT-3.1.2-7":  willStored,
	"MQTT-3.1.2-8":  willPublished,
	"MQTT-3.1.2-9":  willFieldsMissing,
	"MQTT-3.1.2-10": willRemoved,
	"MQTT-3.1.2-11": willQoSWithoutWill,
	"MQTT-3.1.2-12": willQoS,
	"MQTT-3.1.2-13": willRetainWithoutWill,
	"MQTT-3.1.2-14": willNotRetained,
	"MQTT-3.1.2-15": willRetained,
	"MQTT-3.1.2-16": userNameWithoutFlag,
	"MQTT-3.1.2-17": userNameMissing,
	"MQTT-3.1.2-18": passwordWithoutFlag,
	"MQTT-3.1.2-19": passwordMissing,
	"MQTT-3.1.2-22": keepAlive,
	"MQTT-3.1.2-23": sessionStored,
	"MQTT-3.1.2-24": neverLargerThanMaximum,
	"MQTT-3.1.2-25": tooLargeIsDone,
	"MQTT-3.1.2-26": aliasesWithinMaximum,
	"MQTT-3.1.2-27": noAliasesUnasked,
	"MQTT-3.1.2-28": noResponseInformation,
	"MQTT-3.1.2-29": noProblemInformation,
	"MQTT-3.1.3-1":  connectFieldOrder,
	"MQTT-3.1.3-2":  clientIDNamesSession,
	"MQTT-3.1.3-3":  clientIDMissing,
	"MQTT-3.1.3-4":  clientIDText,
	"MQTT-3.1.3-5":  clientIDsAllowed,
	"MQTT-3.1.3-6":  emptyClientID,
	"MQTT-3.1.3-7":  assignedClientID,
	"MQTT-3.1.3-8":  clientIDRejected,
	"MQTT-3.1.3-9":  willDelayCancelled,
	"MQTT-3.1.3-10": willUserProperties,
	"MQTT-3.1.3-11": willTopicText,
	"MQTT-3.1.3-12": userNameText,
	"MQTT-3.1.4-1":  connectMalformed,
	"MQTT-3.1.4-2":  connectChecked,
	"MQTT-3.1.4-3":  takenOver,
	"MQTT-3.1.4-4":  cleanStartDiscards,
	"MQTT-3.1.4-5":  connectAcknowledged,
	"MQTT-3.1.4-6":  nothingAfterRefusal,
}

var connect311 = checks{
	"MQTT-3.1.0-1":  connectComesFirst,
	"MQTT-3.1.0-2":  secondConnect,
	"MQTT-3.1.2-1":  protocolName,
	"MQTT-3.1.2-2":  protocolVersion,
	"MQTT-3.1.2-3":  reservedConnectFlag,
	"MQTT-3.1.2-4":  resumes,
	"MQTT-3.1.2-5":  sessionStored,
	"MQTT-3.1.2-6":  cleanSession,
	"MQTT-3.1.2-7":  retainedOutlivesSession,
	"MQTT-3.1.2-8":  willPublished,
	"MQTT-3.1.2-9":  willFieldsMissing,
	"MQTT-3.1.2-10": willRemoved,
	"MQTT-3.1.2-11": willFieldsWithoutFlag,
	"MQTT-3.1.2-12": noWillNoMessage,
	"MQTT-3.1.2-13": willQoSWithoutWill,
	"MQTT-3.1.2-14": willQoS,
	"MQTT-3.1.2-15": willRetainWithoutWill,
	"MQTT-3.1.2-16": willNotRetained,
	"MQTT-3.1.2-17": willRetained,
	"MQTT-3.1.2-18": userNameWithoutFlag,
	"MQTT-3.1.2-19": userNameMissing,
	"MQTT-3.1.2-20": passwordWithoutFlag,
	"MQTT-3.1.2-21": passwordMissing,
	"MQTT-3.1.2-22": passwordWithoutUserName,
	"MQTT-3.1.2-24": keepAlive,
	"MQTT-3.1.3-1":  connectFieldOrder,
	"MQTT-3.1.3-2":  clientIDNamesSession,
	"MQTT-3.1.3-3":  clientIDMissing,
	"MQTT-3.1.3-4":  clientIDText,
	"MQTT-3.1.3-5":  clientIDsAllowed,
	"MQTT-3.1.3-6":  emptyClientID,
	"MQTT-3.1.3-7":  emptyClientIDToKeep,
	"MQTT-3.1.3-8":  emptyClientIDToKeep,
	"MQTT-3.1.3-9":  clientIDRejected,
	"MQTT-3.1.3-10": willTopicText,
	"MQTT-3.1.3-11": userNameText,
	"MQTT-3.1.4-1":  connectMalformed,
	"MQTT-3.1.4-2":  takenOver,
	"MQTT-3.1.4-3":  cleanSession,
	"MQTT-3.1.4-4":  connectAcknowledged,
	"MQTT-3.1.4-5":  nothingAfterRefusal,
}

// rawConnect is a CONNECT with any flags, and whatever follows the properties.
func rawConnect(v, flags byte, rest ...[]byte) []byte {
	return pkt(tConnect<<4, str("MQTT"), []byte{v, flags}, u16(60), propsIf(v), cat(rest...))
}

func connectComesFirst(e *env) {
	m := message{topic: e.topic("t"), payload: "x", qos: 1, id: 1}
	for _, b := range [][]byte{m.bytes(e.v), pkt(tPingreq << 4), pkt(tDisconnect << 4), subscribe(e.v, 1, nil, filter{"#", 0}), pkt(tAuth<<4, u8(0x18), props())} {
		c := e.dial()
		c.trySend(b)
		if p := c.read(); p != nil {
			e.Fatalf("got %s without a CONNECT", p)
		}
	}
}

func secondConnect(e *env) {
	h := hello{id: e.clientID()}
	c := e.connect(h)
	c.trySend(h.bytes(e.v))
	c.ended(0x82)
}

func protocolName(e *env) {
	for _, name := range []string{"MQTx", "mqtt", "", "MQTTMQTT"} {
		b := pkt(tConnect<<4, str(name), []byte{e.v, 2}, u16(60), propsIf(e.v), str(e.clientID()))
		c := e.dial()
		c.v = v311 // a server that cannot tell the version answers in that of 3.1.1, if at all
		c.trySend(b)
		p, err := c.answer()
		if err == nil && p.typ == tConnack && (p.code == 0x84 || p.code == 1) {
			p, err = c.answer()
		}
		if err == nil {
			e.Fatalf("%q: got % x", name, p.raw)
		}
	}
}

// answer returns a packet of which only type and code are understood: a refusal of who has not said in which version to answer.
func (c *client) answer() (*packet, error) {
	c.nc.SetReadDeadline(time.Now().Add(c.e.patience))
	b, err := readRaw(c.r)
	if err != nil {
		return nil, err
	}
	p := &packet{raw: b, typ: b[0] >> 4}
	if p.typ == tConnack && len(b) > 3 {
		p.code = b[3]
	}
	return p, nil
}

func protocolVersion(e *env) {
	for _, level := range []byte{0, 1, 2, 6, 7, 0x80, 255} {
		c := e.dial()
		c.trySend(pkt(tConnect<<4, str("MQTT"), []byte{level, 2}, u16(60), propsIf(e.v), str(e.clientID())))
		p, err := c.answer()
		switch {
		case err != nil && (e.strict || e.v < v5):
			e.Fatalf("level %d: closed without CONNACK: %v", level, err)
		case err != nil:
			continue
		case p.typ != tConnack || p.code != 0x84 && p.code != 1:
			e.Fatalf("level %d: got % x", level, p.raw)
		}
		if p, err := c.answer(); err == nil {
			e.Fatalf("level %d: got % x after the refusal", level, p.raw)
		}
	}
}

func reservedConnectFlag(e *env) {
	e.refused(rawConnect(e.v, 3, str(e.clientID())), 0, 0x81)
}

func cleanStartDiscards(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	c.leave()
	pub := e.connect(hello{})
	pub.put(e.topic("t"), "of the old session")
	h.clean = true
	c = e.connect(h)
	if c.ack.present {
		e.Fatal("the session is present after a clean start")
	}
	pub.put(e.topic("t"), "of the old subscription")
	c.nothing()
	c.leave()
	h.clean = false
	if c = e.connect(h); c.ack.present != (e.v == v5) {
		e.Fatalf("session present is %t", c.ack.present)
	}
	c.nothing()
}

// cleanSession: a session of 3.1.1 that is clean is new, and is nobody's afterwards.
func cleanSession(e *env) {
	cleanStartDiscards(e)
	h := hello{id: e.clientID()}
	c := e.connect(h)
	c.subscribe(e.topic("u"), 1)
	c.leave()
	h.stay = true
	pub := e.connect(hello{})
	pub.put(e.topic("u"), "x")
	c = e.connect(h)
	if c.ack.present {
		e.Fatal("a clean session is present later")
	}
	pub.put(e.topic("u"), "y")
	c.nothing()
}

func resumes(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	c.leave()
	e.connect(hello{}).put(e.topic("t"), "while away")
	c = e.connect(h)
	if e.v > v31 && !c.ack.present {
		e.Fatal("the session is not present")
	}
	c.want("while away")
	e.connect(hello{}).put(e.topic("t"), "back")
	c.want("back")
	// Without a session there is a new one.
	if c := e.connect(hello{stay: true}); c.ack.present {
		e.Fatal("a session is present that never was")
	}
}

func createsSession(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	if c.ack.present {
		e.Fatal("a session is present that never was")
	}
	c.leave()
	if c = e.connect(h); !c.ack.present {
		e.Fatal("the session that was made is not present")
	}
}

func sessionStored(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("one"), 1)
	c.subscribe(e.topic("two"), 2)
	c.leave()
	pub := e.connect(hello{})
	pub.must(message{topic: e.topic("one"), payload: "1", qos: 1})
	pub.must(message{topic: e.topic("two"), payload: "2", qos: 2})
	c = e.connect(h)
	got := map[string]int{}
	for range 2 {
		p := c.take()
		got[p.payload] = p.qos()
	}
	if got["1"] != 1 || got["2"] != 2 {
		e.Fatalf("got %v", got)
	}
}

func retainedOutlivesSession(e *env) {
	c := e.connect(hello{})
	c.must(message{topic: e.topic("t"), payload: "kept", qos: 1, retain: true})
	c.leave()
	e.subscriber(e.topic("t"), 1).want("kept")
	e.clear(e.topic("t"))
}

// clear removes a retained message.
func (e *env) clear(topic string) {
	e.Helper()
	e.connect(hello{}).must(message{topic: topic, qos: 1, retain: true})
}

func userNameWithoutFlag(e *env) {
	e.refused(rawConnect(e.v, 2, str(e.clientID()), str("user")), 0, 0x81)
}

func userNameMissing(e *env) {
	e.refused(rawConnect(e.v, 2|0x80, str(e.clientID())), 0, 0x81)
}

func passwordWithoutFlag(e *env) {
	e.refused(rawConnect(e.v, 2|0x80, str(e.clientID()), str("user"), str("pass")), 0, 0x81)
}

func passwordMissing(e *env) {
	e.refused(rawConnect(e.v, 2|0xC0, str(e.clientID()), str("user")), 0, 0x81)
}

func passwordWithoutUserName(e *env) {
	e.refused(rawConnect(e.v, 2|0x40, str(e.clientID()), str("pass")), 0, 0x81)
}

func keepAlive(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	began := time.Now()
	c := e.mortal(will{topic: e.topic("will"), payload: "silent"}, hello{keep: 1})
	keep := time.Duration(c.ack.number(propServerKeepAlive, 1)) * time.Second
	limit := keep * 3 / 2
	lively := e.connect(hello{keep: 1})
	stop := make(chan struct{})
	over := make(chan struct{})
	go func() { // another client with the same keep-alive says something in time, and stays
		defer close(over)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				lively.nc.Write(pkt(tPingreq << 4))
			}
		}
	}()
	c.cutOff(0x8D)
	if d := time.Since(began); d < keep-50*time.Millisecond || e.strict && d < limit-50*time.Millisecond || d > limit+5*time.Second {
		e.Errorf("a silent client was cut off after %v, want about %v", d, limit)
	}
	sub.want("silent")
	close(stop)
	<-over
	for lively.r.Buffered() > 0 {
		lively.expect(tPingresp)
	}
	id := lively.packetID()
	lively.send(subscribe(e.v, id, nil, filter{e.topic("nothing"), 0}))
	for p := lively.next(); p.typ != tSuback; p = lively.next() {
		if p.typ != tPingresp {
			e.Fatalf("got %s", p)
		}
	}
	// A keep-alive of 0 turns it off: nothing has cut this one off meanwhile.
	quiet := e.dial()
	b := (&hello{id: e.clientID()}).bytes(e.v)
	b[2+len(str(protocol(e.v)))+3] = 0 // the lower byte of the keep-alive
	quiet.send(b)
	quiet.accepted()
	quiet.alive()
}

func noAliasesUnasked(e *env) {
	pub := e.connect(hello{})
	for _, ps := range [][][]byte{nil, {prop(propTopicAliasMax, u16(0))}} {
		c := e.connect(hello{props: ps})
		c.subscribe(e.topic("t"), 1)
		for i := range 3 {
			pub.put(e.topic("t"), fmt.Sprint(i))
			if p := c.want(fmt.Sprint(i)); p.has(propTopicAlias) || p.topic == "" {
				e.Fatalf("%s", p)
			}
		}
	}
}

func noResponseInformation(e *env) {
	for _, ps := range [][][]byte{nil, {prop(propRequestResponse, u8(0))}} {
		if c := e.connect(hello{props: ps}); c.ack.has(propResponseInfo) {
			e.Fatalf("%s", c.ack)
		}
	}
	// Asked for, it may come or not.
	e.connect(hello{props: [][]byte{prop(propRequestResponse, u8(1))}}).alive()
}

func connectFieldOrder(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	h := hello{id: e.clientID(), user: "user", pass: "pass", will: &will{topic: e.topic("will"), payload: "in order"}}
	e.connect(h).cut()
	sub.want("in order")
	if e.v == v5 { // which allows a password alone
		e.connect(hello{pass: "pass"})
	}
}

func clientIDNamesSession(e *env) {
	one, two := hello{id: e.clientID(), stay: true}, hello{id: e.clientID(), stay: true}
	c := e.connect(one)
	c.subscribe(e.topic("one"), 1)
	c.leave()
	c = e.connect(two)
	if c.ack.present {
		e.Fatal("another client's session is present")
	}
	e.connect(hello{}).put(e.topic("one"), "x")
	c.nothing()
	c = e.connect(one)
	c.want("x")
}

func clientIDMissing(e *env) {
	e.refused(rawConnect(e.v, 2), 0, 0x81)
	e.refused(rawConnect(e.v, 2, []byte{0}), 0, 0x81)
}

func clientIDText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		e.refused((&hello{id: bad}).bytes(e.v), 0, 0x81, 0x85)
	}
	e.connect(hello{id: e.clientID() + " ε丹"})
}

func clientIDsAllowed(e *env) {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := 0; i < len(letters); i += 20 {
		e.connect(hello{id: letters[i:min(i+20, len(letters))] + "cfx"}).leave()
	}
	long := e.prefix + "AbZ0123456789abcdefghij"
	e.connect(hello{id: long[:23]}).leave()
	// One letter; somebody else may use the same just now.
	c := e.dial()
	c.send((&hello{id: string(letters[len(letters)-1])}).bytes(e.v))
	c.accepted()
}

func emptyClientID(e *env) {
	a, b := e.connect(hello{noID: true}), e.connect(hello{noID: true})
	a.subscribe(e.topic("t"), 1)
	a.alive()
	b.alive() // neither has taken over the other
	if a.ack.present {
		e.Fatal("a session is present")
	}
}

func assignedClientID(e *env) {
	c := e.connect(hello{noID: true, stay: true, clean: true})
	id, ok := c.ack.prop(propAssignedID)
	if !ok || id.s == "" {
		e.Fatalf("%s", c.ack)
	}
	c.subscribe(e.topic("t"), 1)
	c.leave()
	e.connect(hello{}).put(e.topic("t"), "x")
	c = e.connect(hello{id: id.s, stay: true})
	if !c.ack.present || c.ack.has(propAssignedID) {
		e.Fatalf("%s", c.ack)
	}
	c.want("x")
}

func emptyClientIDToKeep(e *env) {
	e.refused(pkt(tConnect<<4, str("MQTT"), []byte{e.v, 0}, u16(60), str("")), 2)
}

func clientIDRejected(e *env) {
	for _, id := range []string{strings.Repeat("x", 60_000), "a\x01b", "a\u0080b"} {
		c := e.dial()
		c.trySend((&hello{id: id}).bytes(e.v))
		if p, err := c.answer(); err == nil && p.code == 0 {
			c.leave()
			continue
		} else if err == nil {
			if want := map[byte]byte{v5: 0x85, v311: 2}[e.v]; p.typ != tConnack || p.code != want && p.code != 0x95 && p.code != 0x81 {
				e.Errorf("%.20q: % x", id, p.raw)
			}
			if p, err := c.answer(); err == nil {
				e.Errorf("%.20q: got % x after the refusal", id, p.raw)
			}
		}
	}
	// An id that the server rejects as such, not as a packet that is too large.
	c := e.dial()
	c.trySend((&hello{id: "a\x01b"}).bytes(e.v))
	switch p, err := c.answer(); {
	case err == nil && p.code == 0:
		e.choice("the broker accepts every client identifier")
	case err != nil:
		e.choice("the broker takes a control character for a malformed packet")
	}
	e.refused((&hello{id: "a\x01b"}).bytes(e.v), 2, 0x85)
}

func userNameText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		e.refused((&hello{id: e.clientID(), user: bad}).bytes(e.v), 0, 0x81)
	}
}

func connectMalformed(e *env) {
	good := (&hello{id: e.clientID(), user: "user"}).bytes(e.v)[2:]
	for n := range len(good) { // every way to end too early
		if n > len(str("MQTT")) {
			e.refused(pkt(tConnect<<4, good[:n]), 0, 0x81)
			continue
		}
		c := e.dial() // nobody knows in which version to answer
		c.trySend(pkt(tConnect<<4, good[:n]))
		if p := c.read(); p != nil {
			e.Fatalf("%d bytes of a CONNECT: got %s", n, p)
		}
	}
	e.refused(pkt(tConnect<<4, good, []byte{0}), 0, 0x81)
	if e.v < v5 {
		return
	}
	// Properties that cannot be.
	for _, ps := range [][]byte{
		prop(propReceiveMaximum, u16(0)), cat(prop(propReceiveMaximum, u16(1)), prop(propReceiveMaximum, u16(1))),
		prop(propMaximumPacket, u32(0)), prop(propRequestProblem, u8(2)), prop(propRequestResponse, u8(2)),
		prop(propAuthData, str("x")), prop(propTopicAlias, u16(1)), prop(propSubscriptionID, varint(1)), {0x7F}, {0x1F, 0},
		cat(prop(propSessionExpiry, u32(1)), prop(propSessionExpiry, u32(1))),
	} {
		e.Logf("% x", ps)
		e.refused(pkt(tConnect<<4, str("MQTT"), []byte{e.v, 2}, u16(60), props(ps), str(e.clientID())), 0, 0x81, 0x82)
	}
}

// connectChecked: what is well-formed but not acceptable is refused too.
func connectChecked(e *env) {
	h := hello{id: e.clientID(), will: &will{topic: e.topic("a/+"), payload: "x"}}
	e.refused(h.bytes(e.v), 0, 0x90, 0x81, 0x82)
}

func takenOver(e *env) {
	h := hello{id: e.clientID()}
	old := e.connect(h)
	c := e.connect(h)
	old.ended(0x8E)
	c.alive()
}

func connectAcknowledged(e *env) {
	c := e.connect(hello{})
	want := []byte{tConnack << 4, 2, 0, 0}
	if e.v < v5 && string(c.ack.raw) != string(want) {
		e.Fatalf("CONNACK % x, want % x", c.ack.raw, want)
	}
	c.alive()
}

// nothingAfterRefusal: what follows a refused CONNECT is not acted on.
func nothingAfterRefusal(e *env) {
	sub := e.subscriber(e.topic("t"), 1)
	for _, bad := range [][]byte{rawConnect(e.v, 3, str(e.clientID())), rawConnect(e.v, 6|3<<3, str(e.clientID()))} {
		c := e.dial()
		m := message{topic: e.topic("t"), payload: "smuggled", qos: 1, id: 1}
		c.trySend(bad, m.bytes(e.v))
		c.turnedAway(0, 0x81)
	}
	sub.nothing()
}
