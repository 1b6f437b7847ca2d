package conformance

import (
	"fmt"
	"testing"
)

// MQTT 3.1, whose specification has no numbered statements: what its clients need, under names of our own.

var parts31 = []checks{{
	"connect":         connect31,
	"publish":         publish31,
	"session":         resumes,
	"will":            willStored,
	"keep-alive":      keepAlive,
	"client-id":       clientID31,
	"several-filters": manyFilters,
}}

var parts5 = []checks{format5, connect5, connack5, publish5, ack5, subscribe5, disconnect5, behaviour5, topic5, shared5,
	websocket}

var parts311 = []checks{format311, connect311, connack311, publish311, ack311, subscribe311, disconnect311, behaviour311, topic311,
	websocket}

// connect31: the protocol name tells it from its successors.
func connect31(e *env) {
	c := e.connect(hello{user: "user", pass: "pass"})
	if want := []byte{tConnack << 4, 2, 0, 0}; string(c.ack.raw) != string(want) {
		e.Fatalf("CONNACK % x", c.ack.raw)
	}
	c.alive()
	// Its name with another's level, and the reverse, are no protocol.
	for _, b := range [][]byte{
		pkt(tConnect<<4, str("MQIsdp"), []byte{4, 2}, u16(60), str(e.clientID())),
		pkt(tConnect<<4, str("MQTT"), []byte{3, 2}, u16(60), str(e.clientID())),
	} {
		e.refused(b, 1)
	}
}

func publish31(e *env) {
	sub := e.subscriber(e.topic("t"), 2)
	pub := e.connect(hello{})
	for q := range byte(3) {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(q), qos: q})
		if p := sub.want(fmt.Sprint(q)); p.qos() != int(q) {
			e.Fatalf("%s", p)
		}
	}
	pub.must(message{topic: e.topic("t"), payload: "kept", qos: 1, retain: true})
	if p := e.subscriber(e.topic("t"), 1).want("kept"); !p.retain() {
		e.Fatalf("%s", p)
	}
	e.clear(e.topic("t"))
}

// A session is the same whichever version its client speaks.
func TestVersionsShareSessions(t *testing.T) {
	if *broker != "" {
		t.Skip("another broker is being checked")
	}
	t.Parallel()
	e := &env{TB: t, addr: boot(t, "").addr, v: v5, prefix: "cfv" + session, strict: true, patience: patience}
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 2, prop(propSubscriptionID, varint(7)))
	props := [][]byte{prop(propUser, str("name"), str("value")), prop(propContentType, str("type"))}
	for round, v := range []byte{v311, v5, v31, v5} {
		c.leave()
		e.v = v5
		e.connect(hello{}).must(message{topic: e.topic("t"), payload: "sent, not acknowledged", qos: 2, props: props})
		e.connect(hello{}).must(message{topic: e.topic("t"), payload: "queued", qos: 1, props: props})
		e.v = v
		c = e.connect(h)
		if v > v31 && !c.ack.present {
			t.Fatalf("round %d: the session is not present", round)
		}
		p := c.message()
		c.cut()
		e.v = v311 + v5 - max(v, v311) // the other one
		c = e.connect(h)
		if again := c.want("sent, not acknowledged"); again.id != p.id || !again.dup() || c.v == v5 && fmt.Sprint(again.all(propSubscriptionID)) != "[7]" {
			t.Fatalf("round %d: %s became %s", round, p, again)
		}
		if q := c.want("queued"); c.v == v5 && (fmt.Sprint(q.all(propUser)) != "[name=value]" || fmt.Sprint(q.all(propSubscriptionID)) != "[7]") {
			t.Fatalf("round %d: %s", round, q)
		}
		c.nothing()
	}
}

// clientID31: 1 to 23 characters; we take longer ones too, but none that is empty.
func clientID31(e *env) {
	e.refused((&hello{}).bytes(e.v), 2)
	e.connect(hello{id: e.clientID() + "-which-is-longer-than-it-may-be"})
}
