package conformance

import "strings"

// What only explains: reason strings and user properties, where the client wants them and has room for them.

// maximumPacket is a CONNECT property.
func maximumPacket(n uint32) []byte { return prop(propMaximumPacket, u32(n)) }

func neverLargerThanMaximum(e *env) {
	const limit = 100
	c := e.connect(hello{props: [][]byte{maximumPacket(limit)}})
	c.subscribe(e.topic("#"), 2)
	pub := e.connect(hello{})
	for size := 0; size <= 200; size += 10 {
		for q := range byte(3) {
			pub.must(message{topic: e.topic("t"), payload: strings.Repeat("x", size), qos: q})
		}
	}
	pub.put(e.topic("t"), "last")
	for {
		p := c.take()
		if len(p.raw) > limit {
			e.Fatalf("got %d bytes: %s", len(p.raw), p)
		}
		if p.payload == "last" {
			return
		}
	}
}

// A message too large for the client is done with: it takes no place in the window, nor is it sent when the limit is gone.
func tooLargeIsDone(e *env) {
	id := e.clientID()
	c := e.connect(hello{id: id, stay: true, props: [][]byte{maximumPacket(100), prop(propReceiveMaximum, u16(1))}})
	c.subscribe(e.topic("#"), 2)
	pub := e.connect(hello{})
	for i := range 4 {
		pub.must(message{topic: e.topic("t"), payload: strings.Repeat("x", 200), qos: byte(i % 3)})
	}
	pub.put(e.topic("t"), "small")
	c.want("small")
	c.leave()
	c = e.connect(hello{id: id, stay: true})
	c.nothing()
}

// troubles are requests that a server may have something to say about, by the type of the answer.
func (e *env) troubles() map[byte][][]byte {
	system := message{topic: "$SYS/" + e.topic("t"), qos: 1, id: 1}
	exact := system
	exact.qos = 2
	return map[byte][][]byte{
		tPuback: {system.bytes(e.v)}, tPubrec: {exact.bytes(e.v)}, tPubrel: {ack(tPubrec, 999)}, tPubcomp: {ack(tPubrel, 999)},
		tSuback: {subscribe(e.v, 1, nil, filter{"a/#/b", 0}), subscribe(e.v, 1, nil, filter{"a+", 0}, filter{e.topic("t"), 0}),
			subscribe(e.v, 1, nil, filter{"$share//x", 0}), subscribe(e.v, 1, nil, filter{"$share/x", 0})},
		tUnsuback: {unsubscribe(e.v, 1, e.topic("never subscribed"))},
	}
}

// try sends a request and returns all that comes of it. The connection may end with that.
func (c *client) try(b []byte) (ps []*packet) {
	c.e.Helper()
	c.trySend(b, subscribe(c.v, 65535, nil, filter{c.e.topic("nothing"), 0}))
	for p := c.read(); p != nil && (p.typ != tSuback || p.id != 65535); p = c.read() {
		ps = append(ps, p)
	}
	return ps
}

// noProblemInformation: a client that wants no reasons gets none, but with PUBLISH, CONNACK and DISCONNECT.
func noProblemInformation(e *env) {
	for _, troubles := range e.troubles() {
		for _, trouble := range troubles {
			c := e.connect(hello{props: [][]byte{prop(propRequestProblem, u8(0))}})
			for _, p := range c.try(trouble) {
				if p.typ != tDisconnect && (p.has(propReasonString) || p.has(propUser)) {
					e.Errorf("%s", p)
				}
			}
		}
	}
}
