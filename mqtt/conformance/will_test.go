package conformance

import (
	"fmt"
	"time"
)

// The will (3.1.2.5 to 3.1.2.7, 3.1.3.2 to 3.1.3.4).

// mortal is a client with a will.
func (e *env) mortal(w will, h hello) *client {
	e.Helper()
	h.will = &w
	return e.connect(h)
}

func willStored(e *env) {
	sub := e.subscriber(e.topic("will"), 2)
	e.mortal(will{topic: e.topic("will"), payload: "gone", qos: 2}, hello{}).cut()
	if p := sub.want("gone"); p.qos() != 2 {
		e.Fatalf("%s", p)
	}
}

func willPublished(e *env) {
	sub := e.subscriber(e.topic("will/+"), 1)
	// The network fails.
	e.mortal(will{topic: e.topic("will/cut"), payload: "cut"}, hello{}).cut()
	sub.want("cut")
	// The client breaks the protocol.
	c := e.mortal(will{topic: e.topic("will/bad"), payload: "bad"}, hello{})
	c.trySend([]byte{0, 0})
	sub.want("bad")
	c = e.mortal(will{topic: e.topic("will/twice"), payload: "twice"}, hello{})
	c.trySend((&hello{id: c.name}).bytes(e.v))
	sub.want("twice")
	// Another connection takes over: the session ends, and with it the will's delay.
	h := hello{id: e.clientID()}
	e.mortal(will{topic: e.topic("will/over"), payload: "over"}, h)
	e.connect(h)
	sub.want("over")
	if e.v < v5 {
		return
	}
	// The client asks for it.
	c = e.mortal(will{topic: e.topic("will/asked"), payload: "asked"}, hello{})
	c.send(pkt(tDisconnect<<4, u8(4)))
	sub.want("asked")
	// The delay passes.
	began := time.Now()
	delay := prop(propWillDelay, u32(1))
	e.mortal(will{topic: e.topic("will/late"), payload: "late", props: [][]byte{delay}}, hello{stay: true}).cut()
	sub.want("late")
	if d := time.Since(began); d < time.Second {
		e.Fatalf("a will with a delay of one second came after %v", d)
	}
	// The session ends before the delay does.
	began = time.Now()
	long := prop(propWillDelay, u32(3600))
	e.mortal(will{topic: e.topic("will/end"), payload: "end", props: [][]byte{long}}, hello{stay: true, props: [][]byte{prop(propSessionExpiry, u32(1))}}).cut()
	sub.want("end")
	if d := time.Since(began); d < time.Second {
		e.Fatalf("the session ended after %v", d)
	}
	// A session without expiry ends at once, and so does one that a clean start ends.
	e.mortal(will{topic: e.topic("will/now"), payload: "now", props: [][]byte{long}}, hello{}).cut()
	sub.want("now")
	h = hello{id: e.clientID(), stay: true}
	e.mortal(will{topic: e.topic("will/ended"), payload: "ended", props: [][]byte{long}}, h).cut()
	h.clean = true
	e.connect(h)
	sub.want("ended")
}

func willFieldsMissing(e *env) {
	id := str(e.clientID())
	for _, rest := range [][]byte{id, cat(id, propsIf(e.v)), cat(id, propsIf(e.v), str(e.topic("will")))} {
		e.refused(rawConnect(e.v, 6, rest), 0, 0x81)
	}
}

func willFieldsWithoutFlag(e *env) {
	e.refused(rawConnect(e.v, 2, str(e.clientID()), propsIf(e.v), str(e.topic("will")), str("x")), 0, 0x81)
}

func noWillNoMessage(e *env) {
	sub := e.subscriber(e.topic("#"), 1)
	e.connect(hello{id: e.clientID()}).cut()
	e.mortal(will{topic: e.topic("will"), payload: "of somebody else"}, hello{}).cut()
	sub.want("of somebody else")
	sub.nothing()
}

func willRemoved(e *env) {
	sub := e.subscriber(e.topic("will/#"), 1)
	fence := func(name string) {
		e.Helper()
		e.mortal(will{topic: e.topic("will/fence"), payload: name}, hello{}).cut()
		sub.want(name)
	}
	// Published once.
	h := hello{id: e.clientID(), stay: true}
	e.mortal(will{topic: e.topic("will/t"), payload: "once"}, h).cut()
	sub.want("once")
	e.connect(h).cut()
	e.connect(h).leave()
	fence("first")
	// Not at all after DISCONNECT, neither at once nor when the session is lost later.
	h.id = e.clientID()
	e.mortal(will{topic: e.topic("will/t"), payload: "never"}, h).leave()
	e.connect(h).cut()
	e.connect(h).leave()
	fence("second")
}

func willQoSWithoutWill(e *env) {
	e.refused(rawConnect(e.v, 2|1<<3, str(e.clientID())), 0, 0x81)
	e.refused(rawConnect(e.v, 2|2<<3, str(e.clientID())), 0, 0x81)
}

func willQoS(e *env) {
	e.refused(rawConnect(e.v, 6|3<<3, str(e.clientID()), propsIf(e.v), str(e.topic("will")), str("x")), 0, 0x81)
	sub := e.subscriber(e.topic("will"), 2)
	for q := range byte(3) {
		e.mortal(will{topic: e.topic("will"), payload: fmt.Sprint(q), qos: q}, hello{}).cut()
		if p := sub.want(fmt.Sprint(q)); p.qos() != int(q) {
			e.Fatalf("a will of QoS %d came as %s", q, p)
		}
	}
}

func willRetainWithoutWill(e *env) {
	e.refused(rawConnect(e.v, 2|0x20, str(e.clientID())), 0, 0x81)
}

func willNotRetained(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	e.mortal(will{topic: e.topic("will"), payload: "gone"}, hello{}).cut()
	if p := sub.want("gone"); p.retain() {
		e.Fatalf("%s", p)
	}
	e.nothingRetained(e.topic("will"), 1)
}

func willRetained(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	e.mortal(will{topic: e.topic("will"), payload: "gone", retain: true}, hello{}).cut()
	if p := sub.want("gone"); p.retain() {
		e.Fatalf("%s", p)
	}
	if p := e.subscriber(e.topic("will"), 1).want("gone"); !p.retain() {
		e.Fatalf("%s", p)
	}
	e.clear(e.topic("will"))
}

// willDelayCancelled: a session that is resumed in time keeps its will to itself.
func willDelayCancelled(e *env) {
	sub := e.subscriber(e.topic("will/#"), 1)
	w := will{topic: e.topic("will/resumed"), payload: "resumed", props: [][]byte{prop(propWillDelay, u32(3))}}
	// Nor when the session is taken over.
	over := hello{id: e.clientID(), stay: true}
	e.mortal(will{topic: e.topic("will/over"), payload: "over", props: w.props}, over)
	e.connect(over)
	h := hello{id: e.clientID(), stay: true}
	e.mortal(w, h).cut()
	c := e.connect(h) // in time, and without a will
	// A will that is due after the first one shows that that does not come.
	e.mortal(will{topic: e.topic("will/fence"), payload: "fence", props: [][]byte{prop(propWillDelay, u32(4))}}, hello{stay: true}).cut()
	sub.want("fence")
	sub.nothing()
	c.alive()
}

func willUserProperties(e *env) {
	sub := e.subscriber(e.topic("will"), 1)
	w := will{topic: e.topic("will"), payload: "gone", props: [][]byte{
		prop(propUser, str("b"), str("1")), prop(propUser, str("a"), str("2")), prop(propUser, str("b"), str("1")), prop(propUser, str(""), str(""))}}
	e.mortal(w, hello{}).cut()
	if got := fmt.Sprint(sub.want("gone").all(propUser)); got != "[b=1 a=2 b=1 =]" {
		e.Fatalf("got %s", got)
	}
	// What else a will has is passed on as that of any message.
	w.props = [][]byte{prop(propPayloadFormat, u8(1)), prop(propMessageExpiry, u32(100)), prop(propContentType, str("type")),
		prop(propResponseTopic, str("answer")), prop(propCorrelation, str("\x00\x01"))}
	e.mortal(w, hello{}).cut()
	p := sub.want("gone")
	for id, want := range map[byte]string{propContentType: "type", propResponseTopic: "answer", propCorrelation: "\x00\x01"} {
		if x, _ := p.prop(id); x.s != want {
			e.Errorf("%s", p)
		}
	}
	if left := p.number(propMessageExpiry, 0); p.number(propPayloadFormat, 0) != 1 || left < 80 || left > 100 {
		e.Errorf("%s", p)
	}
}

func willTopicText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		h := hello{id: e.clientID(), will: &will{topic: e.topic(bad), payload: "x"}}
		e.refused(h.bytes(e.v), 0, 0x81, 0x90)
	}
}
