package conformance

import "fmt"

// The exchanges of QoS 0, 1 and 2 (4.3).

func sendsQoS0(e *env) {
	c := e.subscriber(e.topic("t"), 0)
	pub := e.connect(hello{})
	for q := range byte(3) {
		pub.must(message{topic: e.topic("t"), payload: "x", qos: q})
		if p := c.message(); p.flags != 0 {
			e.Fatalf("%s", p)
		}
	}
}

func sendsQoS1(e *env) {
	c := e.subscriber(e.topic("t"), 1)
	e.connect(hello{}).put(e.topic("t"), "x")
	if p := c.message(); p.flags != 2 || p.id == 0 {
		e.Fatalf("%s", p)
	}
}

func sendsQoS2(e *env) {
	c := e.subscriber(e.topic("t"), 2)
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "x", qos: 2})
	if p := c.message(); p.flags != 4 || p.id == 0 {
		e.Fatalf("%s", p)
	}
}

func unacknowledgedUntilPuback(e *env) {
	c, h := e.keeper()
	e.connect(hello{}).put(e.topic("t"), "x")
	p := c.message()
	for range 2 {
		c = e.again(c, h)
		q := c.message()
		if q.id != p.id || !q.dup() || q.payload != "x" {
			e.Fatalf("%s became %s", p, q)
		}
	}
	c.send(ack(tPuback, p.id))
	c.alive()
	c.nothing()
	c = e.again(c, h)
	c.nothing()
}

func newAfterPuback(e *env) {
	sub := e.subscriber(e.topic("t"), 2)
	pub := e.connect(hello{})
	for i := range 3 {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: 1, id: 7, dup: i > 0})
		sub.want(fmt.Sprint(i))
	}
}

func unacknowledgedUntilPubrec(e *env) {
	c, h := e.keeper()
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "x", qos: 2})
	p := c.message()
	for range 2 {
		c = e.again(c, h)
		q := c.message()
		if q.id != p.id || !q.dup() || q.qos() != 2 || q.payload != "x" {
			e.Fatalf("%s became %s", p, q)
		}
	}
	c.finish(p)
	c.nothing()
}

func pubrelAfterPubrec(e *env) {
	c, _ := e.keeper()
	e.connect(hello{}).must(message{topic: e.topic("t"), qos: 2})
	p := c.message()
	c.send(ack(tPubrec, p.id))
	if rel := c.expect(tPubrel); rel.id != p.id {
		e.Fatalf("%s was followed by %s", p, rel)
	}
}

func pubrelUntilPubcomp(e *env) {
	c, h := e.keeper()
	e.connect(hello{}).must(message{topic: e.topic("t"), qos: 2})
	p := c.message()
	c.send(ack(tPubrec, p.id))
	c.expect(tPubrel)
	for range 2 {
		c = e.again(c, h)
		if rel := c.expect(tPubrel); rel.id != p.id {
			e.Fatalf("%s was followed by %s", p, rel)
		}
	}
	c.send(ack(tPubcomp, p.id))
	c.nothing()
	c = e.again(c, h)
	c.nothing()
}

func notAgainAfterPubrel(e *env) {
	c, h := e.keeper()
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "once", qos: 2})
	p := c.message()
	c.send(ack(tPubrec, p.id))
	c.expect(tPubrel)
	c = e.again(c, h)
	c.released(p.id)
	c.nothing() // no PUBLISH
}

// expiryEndsWithSending: a message that has been sent is sent again though it has expired.
func expiryEndsWithSending(e *env) {
	c, h := e.keeper()
	pub := e.connect(hello{})
	for q := byte(1); q <= 2; q++ {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(q), qos: q, props: [][]byte{prop(propMessageExpiry, u32(1))}})
		c.message()
	}
	e.seconds(3)
	c = e.again(c, h)
	c.want("1")
	c.want("2")
}

func exactlyOnceThoughExpired(e *env) {
	c, _ := e.keeper()
	sub := e.subscriber(e.topic("u"), 2)
	expiry := [][]byte{prop(propMessageExpiry, u32(1))}
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "x", qos: 2, props: expiry})
	p := c.message()
	m := message{topic: e.topic("u"), payload: "y", qos: 2, id: 9, props: expiry}
	c.send(m.bytes(e.v))
	c.acked(tPubrec, 9)
	e.seconds(3)
	c.finish(p)
	c.send(ack(tPubrel, 9))
	if comp := c.acked(tPubcomp, 9); comp.code != 0 {
		e.Fatalf("%s", comp)
	}
	sub.want("y")
	sub.nothing()
}

func newAfterFailedPubrec(e *env) {
	sub := e.subscriber(e.topic("t"), 2)
	c := e.connect(hello{})
	refused := message{topic: "$SYS/" + e.topic("t"), qos: 2, id: 5}
	c.trySend(refused.bytes(e.v))
	if rec := c.read(); rec == nil || rec.typ != tPubrec || rec.code < 0x80 {
		e.choice("the broker refuses no publish in this way: %v", rec)
	}
	m := message{topic: e.topic("t"), payload: "new", qos: 2, id: 5}
	c.trySend(m.bytes(e.v))
	if rec := c.read(); rec == nil {
		e.choice("the broker has closed the connection after the refusal")
	} else if rec.typ != tPubrec || rec.code >= 0x80 {
		e.Fatalf("got %s", rec)
	}
	c.send(ack(tPubrel, 5))
	c.acked(tPubcomp, 5)
	sub.want("new")
	sub.nothing()
}

func onceUntilPubrel(e *env) {
	sub := e.subscriber(e.topic("t"), 2)
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	m := message{topic: e.topic("t"), payload: "once", qos: 2, id: 5}
	for range 3 {
		c.send(m.bytes(e.v))
		c.acked(tPubrec, 5)
		m.dup = true
		c = e.again(c, h)
	}
	c.send(m.bytes(e.v))
	c.acked(tPubrec, 5)
	c.send(ack(tPubrel, 5))
	c.acked(tPubcomp, 5)
	sub.want("once")
	sub.nothing()
}

func pubcompAfterPubrel(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("t"), qos: 2, id: 0xABCD}
	c.send(m.bytes(e.v))
	c.acked(tPubrec, 0xABCD)
	for range 2 { // and again, should the first have been lost
		c.send(ack(tPubrel, 0xABCD))
		c.acked(tPubcomp, 0xABCD)
	}
}

func newAfterPubcomp(e *env) {
	sub := e.subscriber(e.topic("t"), 2)
	c := e.connect(hello{})
	for i := range 3 {
		c.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: 2, id: 5, dup: i > 0})
		sub.want(fmt.Sprint(i))
	}
}

func failedIsAcknowledged(e *env) {
	c, h := e.keeper()
	pub := e.connect(hello{})
	for q := byte(1); q <= 2; q++ {
		pub.must(message{topic: e.topic("t"), payload: "x", qos: q})
		p := c.message()
		c.send(pkt((3+q)<<4, u16(p.id), u8(0x80), props())) // PUBACK, PUBREC
		c.nothing()
	}
	c = e.again(c, h)
	c.nothing()
}
