package conformance

import (
	"fmt"
	"slices"
)

// Sections 4.1 to 4.6 and 4.9: sessions, transport, retry, receipt, order, flow control. The exchanges of QoS 1 and 2 are in qos_test.go.

var behaviour5 = checks{
	"MQTT-4.1.0-1":  sessionStaysWhileConnected,
	"MQTT-4.1.0-2":  sessionExpires,
	"MQTT-4.2-1":    streamOfBytes,
	"MQTT-4.3.1-1":  sendsQoS0,
	"MQTT-4.3.2-1":  distinctIDs,
	"MQTT-4.3.2-2":  sendsQoS1,
	"MQTT-4.3.2-3":  unacknowledgedUntilPuback,
	"MQTT-4.3.2-4":  acksRepeatIDs,
	"MQTT-4.3.2-5":  newAfterPuback,
	"MQTT-4.3.3-1":  distinctIDs,
	"MQTT-4.3.3-2":  sendsQoS2,
	"MQTT-4.3.3-3":  unacknowledgedUntilPubrec,
	"MQTT-4.3.3-4":  pubrelAfterPubrec,
	"MQTT-4.3.3-5":  pubrelUntilPubcomp,
	"MQTT-4.3.3-6":  notAgainAfterPubrel,
	"MQTT-4.3.3-7":  expiryEndsWithSending,
	"MQTT-4.3.3-8":  acksRepeatIDs,
	"MQTT-4.3.3-9":  newAfterFailedPubrec,
	"MQTT-4.3.3-10": onceUntilPubrel,
	"MQTT-4.3.3-11": pubcompAfterPubrel,
	"MQTT-4.3.3-12": newAfterPubcomp,
	"MQTT-4.3.3-13": exactlyOnceThoughExpired,
	"MQTT-4.4.0-1":  resent,
	"MQTT-4.4.0-2":  failedIsAcknowledged,
	"MQTT-4.5.0-1":  addedToSessions,
	"MQTT-4.6.0-1":  resentInOrder,
	"MQTT-4.6.0-2":  pubacksInOrder,
	"MQTT-4.6.0-3":  pubrecsInOrder,
	"MQTT-4.6.0-4":  pubrelsInOrder,
	"MQTT-4.6.0-5":  deliveredInOrder,
	"MQTT-4.6.0-6":  deliveredInOrder,
	"MQTT-4.9.0-1":  receiveMaximumKept,
	"MQTT-4.9.0-2":  receiveMaximumKept,
	"MQTT-4.9.0-3":  othersNotDelayed,
}

var behaviour311 = checks{
	"MQTT-4.1.0-1": sessionStored,
	"MQTT-4.1.0-2": sessionStaysWhileConnected,
	"MQTT-4.3.1-1": sendsQoS0,
	"MQTT-4.3.2-1": senderOfQoS1,
	"MQTT-4.3.2-2": receiverOfQoS1,
	"MQTT-4.3.3-1": senderOfQoS2,
	"MQTT-4.3.3-2": receiverOfQoS2,
	"MQTT-4.4.0-1": resent,
	"MQTT-4.5.0-1": addedToSessions,
	"MQTT-4.6.0-1": resentInOrder,
	"MQTT-4.6.0-2": pubacksInOrder,
	"MQTT-4.6.0-3": pubrecsInOrder,
	"MQTT-4.6.0-4": pubrelsInOrder,
	"MQTT-4.6.0-5": deliveredInOrder,
	"MQTT-4.6.0-6": deliveredInOrder,
	"MQTT-7.0.0-2": streamOfBytes,
	"MQTT-7.1.1-1": streamOfBytes,
}

func both(fs ...check) check {
	return func(e *env) {
		for _, f := range fs {
			f(e)
		}
	}
}

var (
	senderOfQoS1   = both(distinctIDs, sendsQoS1, unacknowledgedUntilPuback)
	receiverOfQoS1 = both(acksRepeatIDs, newAfterPuback)
	senderOfQoS2   = both(distinctIDs, sendsQoS2, unacknowledgedUntilPubrec, pubrelAfterPubrec, pubrelUntilPubcomp, notAgainAfterPubrel)
	receiverOfQoS2 = both(acksRepeatIDs, onceUntilPubrel, pubcompAfterPubrel, newAfterPubcomp)
)

func sessionStaysWhileConnected(e *env) {
	ps := [][]byte{prop(propSessionExpiry, u32(1))}
	c := e.connect(hello{id: e.clientID(), stay: true, props: ps})
	c.subscribe(e.topic("t"), 2)
	pub := e.connect(hello{})
	pub.must(message{topic: e.topic("t"), payload: "half way", qos: 2})
	p := c.message()
	c.must(message{topic: e.topic("u"), qos: 1})
	if e.v == v5 {
		e.seconds(3) // the expiry counts from the end of the connection only
	}
	c.finish(p)
	pub.put(e.topic("t"), "still there")
	c.want("still there")
}

func sessionExpires(e *env) {
	h := hello{id: e.clientID(), stay: true, props: [][]byte{prop(propSessionExpiry, u32(1))}}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	c.leave()
	e.connect(hello{}).put(e.topic("t"), "x")
	e.seconds(3)
	if c = e.connect(h); c.ack.present {
		e.Fatal("the session is present after its expiry")
	}
	c.nothing()
	// 0, or no property, ends it with the connection.
	for _, ps := range [][][]byte{{prop(propSessionExpiry, u32(0))}, {prop(propReceiveMaximum, u16(5)), prop(propSessionExpiry, u32(0))}} {
		h := hello{id: e.clientID(), stay: true, props: ps}
		e.connect(h).leave()
		if e.connect(h).ack.present {
			e.Fatal("a session without expiry is present")
		}
	}
	// So does one that was resumed with 0.
	h = hello{id: e.clientID(), stay: true}
	e.connect(h).leave()
	h.props = [][]byte{prop(propSessionExpiry, u32(0))}
	c = e.connect(h)
	if !c.ack.present {
		e.Fatal("the session is not present")
	}
	c.leave()
	if e.connect(h).ack.present {
		e.Fatal("a session that was resumed without expiry is present")
	}
}

// streamOfBytes: packets are cut out of the stream wherever they begin and end.
func streamOfBytes(e *env) {
	sub := e.subscriber(e.topic("t"), 1)
	m := message{topic: e.topic("t"), payload: "in pieces", qos: 1, id: 1}
	c := e.dial()
	for _, b := range cat((&hello{id: e.clientID()}).bytes(e.v), m.bytes(e.v), pkt(tPingreq<<4)) {
		c.send([]byte{b})
	}
	c.accepted()
	sub.want("in pieces")
	got := []byte{c.next().typ, c.next().typ}
	if slices.Sort(got); got[0] != tPuback || got[1] != tPingresp {
		e.Fatalf("got types %v", got)
	}
	var b []byte
	n := e.burst(100)
	for i := range n {
		m.id, m.payload = i+10, fmt.Sprint(i)
		b = append(b, m.bytes(e.v)...)
	}
	c.send(b)
	for i := range n {
		sub.want(fmt.Sprint(i))
		c.acked(tPuback, i+10)
	}
}

// keeper is a client whose session stays, subscribed to t.
func (e *env) keeper(ps ...[]byte) (*client, hello) {
	e.Helper()
	h := hello{id: e.clientID(), stay: true, props: ps}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 2)
	return c, h
}

// again cuts a client off, and has it come back.
func (e *env) again(c *client, h hello) *client {
	e.Helper()
	c.cut()
	c = e.connect(h)
	if e.v > v31 && !c.ack.present {
		e.Fatal("the session is not present")
	}
	return c
}

// resent: what is not acknowledged comes again under its id when the client comes back, and at no other time.
func resent(e *env) {
	c, h := e.keeper()
	pub := e.connect(hello{})
	ids := map[string]int{}
	for i := range 6 {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: byte(1 + i%2)})
		ids[fmt.Sprint(i)] = c.message().id
	}
	c.send(ack(tPubrec, ids["5"])) // one is half way
	c.released(ids["5"])
	c.send(ack(tPuback, ids["0"])) // and one is done
	c.nothing()
	c = e.again(c, h)
	for _, p := range c.atLeast(len(ids) - 1) {
		switch {
		case p.typ == tPubrel && p.id == ids["5"]:
			delete(ids, "5")
		case p.typ == tPublish && p.payload != "5" && p.payload != "0" && p.dup() && p.id == ids[p.payload]:
			delete(ids, p.payload)
		default:
			e.Errorf("got %s", p)
		}
	}
	if delete(ids, "0"); len(ids) > 0 {
		e.Errorf("did not come again: %v", ids)
	}
	c.nothing()
}

func addedToSessions(e *env) {
	pub := e.connect(hello{})
	here, away, elsewhere := e.subscriber(e.topic("+"), 1), hello{id: e.clientID(), stay: true}, e.subscriber(e.topic("u"), 1)
	c := e.connect(away)
	c.subscribe(e.topic("t"), 1)
	c.leave()
	for i := range 20 {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	c = e.connect(away)
	for i := range 20 {
		here.want(fmt.Sprint(i))
		c.want(fmt.Sprint(i))
	}
	here.nothing()
	c.nothing()
	elsewhere.nothing()
}

func resentInOrder(e *env) {
	c, h := e.keeper()
	pub := e.connect(hello{})
	const n = 15
	for i := range n {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: byte(1 + i%2)})
		c.message()
	}
	c = e.again(c, h)
	for i := range n {
		if p := c.message(); p.payload != fmt.Sprint(i) || !p.dup() {
			e.Fatalf("got %s, want %d", p, i)
		}
	}
}

// burst is how many publishes may be sent without waiting for an answer; other brokers close on more, before 5.0 unannounced.
func (e *env) burst(n int) int {
	if e.strict {
		return n
	}
	return 15
}

// inOrder sends many publishes at once, and wants the answers in their order.
func (e *env) inOrder(q byte, typ byte) {
	e.Helper()
	c := e.connect(hello{})
	n := e.burst(100)
	var b []byte
	id := func(i int) int { return (i*37)%n + 1 } // not in the order of ids
	for i := range n {
		m := message{topic: e.topic(fmt.Sprint("t", i%7)), payload: "x", qos: q, id: id(i)}
		b = append(b, m.bytes(e.v)...)
	}
	c.send(b)
	for i := range n {
		if p := c.expect(typ); p.id != id(i) {
			e.Fatalf("answer %d is %s, want #%d", i, p, id(i))
		}
	}
}

func pubacksInOrder(e *env) { e.inOrder(1, tPuback) }
func pubrecsInOrder(e *env) { e.inOrder(2, tPubrec) }

func pubrelsInOrder(e *env) {
	c, _ := e.keeper()
	pub := e.connect(hello{})
	var b []byte
	var ids []int
	for range 15 {
		pub.must(message{topic: e.topic("t"), qos: 2})
		p := c.message()
		ids = append(ids, p.id)
		b = append(b, ack(tPubrec, p.id)...)
	}
	c.send(b)
	for _, id := range ids {
		if p := c.expect(tPubrel); p.id != id {
			e.Fatalf("got %s, want #%d", p, id)
		}
	}
}

// deliveredInOrder: the messages of one client on one topic reach each subscriber in the order in which it sent them: at each
// QoS, who is there, who was away, and who is slow.
func deliveredInOrder(e *env) {
	n := e.burst(60)
	for q := range byte(3) {
		t := e.topic(fmt.Sprint("q", q))
		live, slow := e.subscriber(t, int(q)), e.connect(hello{props: [][]byte{prop(propReceiveMaximum, u16(3))}})
		slow.subscribe(t, int(q))
		h := hello{id: e.clientID(), stay: true}
		away := e.connect(h)
		away.subscribe(t, int(q))
		away.leave()
		pub := e.connect(hello{})
		var b []byte
		for i := range n {
			m := message{topic: t, payload: fmt.Sprint(i), qos: q, id: i + 1}
			b = append(b, m.bytes(e.v)...)
		}
		pub.send(b)
		subs := []*client{live, slow}
		if q > 0 {
			for i := range n {
				pub.acked(tPuback+q-1, i+1)
				if q == 2 {
					pub.send(ack(tPubrel, i+1))
				}
			}
			for i := range n {
				if q == 2 {
					pub.acked(tPubcomp, i+1)
				}
			}
			subs = append(subs, e.connect(h))
		}
		for _, c := range subs {
			for i := range n {
				c.want(fmt.Sprint(i))
			}
		}
	}
}
