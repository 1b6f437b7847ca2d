package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// Sections 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK; 3.12: PINGREQ.

var subscribe5 = checks{
	"MQTT-3.8.1-1":  subscribeFlags,
	"MQTT-3.8.3-1":  filterText,
	"MQTT-3.8.3-2":  noFilter,
	"MQTT-3.8.3-3":  ownMessages,
	"MQTT-3.8.3-4":  noLocalShared,
	"MQTT-3.8.3-5":  reservedOptions,
	"MQTT-3.8.4-1":  subacked,
	"MQTT-3.8.4-2":  subacksRepeatIDs,
	"MQTT-3.8.4-3":  subscriptionReplaced,
	"MQTT-3.8.4-4":  replacedWithoutLoss,
	"MQTT-3.8.4-5":  manyFilters,
	"MQTT-3.8.4-6":  codePerFilter,
	"MQTT-3.8.4-7":  codePerFilter,
	"MQTT-3.8.4-8":  lowerQoS,
	"MQTT-3.9.2-1":  explainedWithinMaximum(tSuback),
	"MQTT-3.9.2-2":  explainedWithinMaximum(tSuback),
	"MQTT-3.9.3-1":  codePerFilter,
	"MQTT-3.9.3-2":  codePerFilter,
	"MQTT-3.10.1-1": unsubscribeFlags,
	"MQTT-3.10.3-1": unsubscribeText,
	"MQTT-3.10.3-2": unsubscribeNothing,
	"MQTT-3.10.4-1": unsubscribeCompares,
	"MQTT-3.10.4-2": unsubscribeStops,
	"MQTT-3.10.4-3": unsubscribeCompletes,
	"MQTT-3.10.4-4": unsubacked,
	"MQTT-3.10.4-5": unsubacked,
	"MQTT-3.10.4-6": unsubscribeMany,
	"MQTT-3.11.2-1": explainedWithinMaximum(tUnsuback),
	"MQTT-3.11.2-2": explainedWithinMaximum(tUnsuback),
	"MQTT-3.11.3-1": unsubscribeMany,
	"MQTT-3.11.3-2": unsubscribeMany,
	"MQTT-3.12.4-1": pinged,
}

var subscribe311 = checks{
	"MQTT-3.8.1-1":  subscribeFlags,
	"MQTT-3.8.3-1":  filterText,
	"MQTT-3.8.3-2":  wildcardsGranted,
	"MQTT-3.8.3-3":  noFilter,
	"MQTT-3.8.3-4":  reservedOptions,
	"MQTT-3.8.4-1":  subacked,
	"MQTT-3.8.4-2":  subacksRepeatIDs,
	"MQTT-3.8.4-3":  replacedWithoutLoss,
	"MQTT-3.8.4-4":  manyFilters,
	"MQTT-3.8.4-5":  codePerFilter,
	"MQTT-3.8.4-6":  lowerQoS,
	"MQTT-3.9.3-1":  codePerFilter,
	"MQTT-3.9.3-2":  codePerFilter,
	"MQTT-3.10.1-1": unsubscribeFlags,
	"MQTT-3.10.3-1": unsubscribeText,
	"MQTT-3.10.3-2": unsubscribeNothing,
	"MQTT-3.10.4-1": unsubscribeCompares,
	"MQTT-3.10.4-2": unsubscribeStops,
	"MQTT-3.10.4-3": unsubscribeCompletes,
	"MQTT-3.10.4-4": unsubacked,
	"MQTT-3.10.4-5": unsubacked,
	"MQTT-3.10.4-6": unsubscribeMany,
	"MQTT-3.12.4-1": pinged,
}

// bad sends a packet that must end the connection.
func (e *env) bad(b []byte, codes ...byte) {
	e.Helper()
	c := e.connect(hello{})
	c.trySend(b)
	c.ended(codes...)
}

func subscribeFlags(e *env) {
	good := subscribe(e.v, 1, nil, filter{e.topic("t"), 0})
	for flags := range byte(16) {
		if flags != 2 {
			good[0] = tSubscribe<<4 | flags
			e.bad(good, 0x81)
		}
	}
}

func filterText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		e.bad(subscribe(e.v, 1, nil, filter{bad, 0}), 0x81)
		e.bad(subscribe(e.v, 1, nil, filter{e.topic("t"), 0}, filter{bad, 0}), 0x81)
	}
}

func noFilter(e *env) {
	e.bad(subscribe(e.v, 1, nil), 0x81, 0x82)
	e.bad(pkt(tSubscribe<<4|2, u16(1), propsIf(e.v), str(e.topic("t"))), 0x81) // no options
}

func ownMessages(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("t"), 1|noLocal)
	c.subscribe(e.topic("u"), 1)
	c.put(e.topic("t"), "mine")
	c.put(e.topic("u"), "mine, wanted")
	c.want("mine, wanted")
	c.nothing()
	e.connect(hello{}).put(e.topic("t"), "another's")
	c.want("another's")
	// A persistent session that was away does not get its own either.
	h := hello{id: e.clientID(), stay: true}
	c = e.connect(h)
	c.subscribe(e.topic("t"), 1|noLocal)
	c.put(e.topic("t"), "mine")
	c.leave()
	c = e.connect(h)
	c.nothing()
}

func noLocalShared(e *env) {
	e.bad(subscribe(e.v, 1, nil, filter{"$share/g/" + e.topic("t"), noLocal}), 0x81, 0x82)
}

func reservedOptions(e *env) {
	for _, options := range []int{0x40, 0x80, 0xC0, 3} {
		e.bad(subscribe(e.v, 1, nil, filter{e.topic("t"), options}), 0x81, 0x82)
	}
	if e.v == v5 {
		e.bad(subscribe(e.v, 1, nil, filter{e.topic("t"), 0x30}), 0x81, 0x82)
		return
	}
	for _, options := range []int{4, 8, 0x10, 0x20} {
		e.bad(subscribe(e.v, 1, nil, filter{e.topic("t"), options}))
	}
}

func wildcardsGranted(e *env) {
	c := e.connect(hello{})
	for _, f := range []string{"#", "+/x"} {
		if code := c.ask(nil, filter{e.topic(f), 1})[0]; code == 0x80 {
			e.choice("the broker refuses wildcards")
		}
	}
}

func subacked(e *env) {
	c := e.connect(hello{})
	for q := range 3 {
		c.subscribe(e.topic(fmt.Sprint("t", q)), q)
	}
	c.alive() // one answer each
}

func subscriptionReplaced(e *env) {
	c := e.connect(hello{})
	pub := e.connect(hello{})
	for _, q := range []int{2, 0, 1} {
		c.subscribe(e.topic("t"), q)
		pub.must(message{topic: e.topic("t"), payload: "x", qos: 2})
		if p := c.want("x"); p.qos() != q {
			e.Fatalf("QoS %d: %s", q, p)
		}
		c.nothing() // not one for each
	}
	if code := c.unsubscribe(e.topic("t")); e.v == v5 && code[0] != 0 {
		e.Fatalf("UNSUBSCRIBE was answered % x", code)
	}
	pub.put(e.topic("t"), "y")
	c.nothing()
}

// replacedWithoutLoss: while subscriptions are replaced, what is retained comes again and what is published comes once.
func replacedWithoutLoss(e *env) {
	t := e.topic("t")
	e.connect(hello{}).must(message{topic: e.topic("r"), payload: "retained", qos: 1, retain: true})
	c := e.connect(hello{})
	c.subscribe(e.topic("#"), 1)
	c.want("retained")
	pub := e.connect(hello{})
	const rounds, n = 8, 10
	next := 0
	for round := range rounds {
		var b []byte
		for i := range n {
			m := message{topic: t, payload: fmt.Sprint(round*n + i), qos: 1, id: i + 1}
			b = append(b, m.bytes(e.v)...)
		}
		pub.send(b)
		c.send(subscribe(e.v, 1000, nil, filter{e.topic("#"), 1}))
		for suback, again := 0, 0; next < (round+1)*n || suback < 1 || again < 1; {
			switch p := c.next(); {
			case p.typ == tSuback:
				suback++
			case p.payload == "retained" && p.retain() && again == 0:
				again++
				c.finish(p)
			case p.payload == fmt.Sprint(next):
				next++
				c.finish(p)
			default:
				e.Fatalf("got %s, want %d", p, next)
			}
		}
		for range n {
			pub.await(tPuback)
		}
	}
	e.clear(e.topic("r"))
}

func manyFilters(e *env) {
	c := e.connect(hello{})
	for i, code := range c.ask(nil, filter{e.topic("a"), 1}, filter{e.topic("b"), 0}, filter{e.topic("a"), 2}) {
		if int(code) != []int{1, 0, 2}[i] {
			e.Fatalf("filter %d was answered %02X", i, code)
		}
	}
	pub := e.connect(hello{})
	pub.must(message{topic: e.topic("a"), payload: "a", qos: 2})
	if p := c.want("a"); p.qos() != 2 { // the last one counts
		e.Fatalf("%s", p)
	}
	pub.put(e.topic("b"), "b")
	c.want("b")
	c.nothing()
}

func codePerFilter(e *env) {
	c := e.connect(hello{})
	codes := c.ask(nil, filter{e.topic("a"), 2}, filter{e.topic("b"), 0}, filter{e.topic("c"), 1})
	if !slices.Equal(codes, []byte{2, 0, 1}) {
		e.Fatalf("got % x", codes)
	}
	// One that fails takes its own place.
	c.trySend(subscribe(e.v, 77, nil, filter{e.topic("a"), 2}, filter{e.topic("x/#/y"), 0}, filter{e.topic("c"), 1}))
	p := c.read()
	if p == nil || p.typ == tDisconnect {
		e.choice("the broker ends the connection over a bad filter: %v", p)
	}
	if p.typ != tSuback || p.id != 77 || len(p.codes) != 3 || p.codes[0] != 2 || p.codes[1] < 0x80 || p.codes[2] != 1 {
		e.Fatalf("got %s", p)
	}
}

func lowerQoS(e *env) {
	pub := e.connect(hello{})
	for sub := range 3 {
		c := e.subscriber(e.topic("t"), sub)
		for q := range 3 {
			pub.must(message{topic: e.topic("t"), payload: "x", qos: byte(q)})
			if p := c.want("x"); p.qos() != min(q, sub) {
				e.Errorf("published at %d, subscribed at %d: %s", q, sub, p)
			}
		}
		c.leave()
	}
	// Retained messages too.
	for q := byte(1); q < 3; q++ {
		pub.must(message{topic: e.topic("r"), payload: "kept", qos: q, retain: true})
		for sub := range 3 {
			if p := e.subscriber(e.topic("r"), sub).want("kept"); p.qos() != min(int(q), sub) {
				e.Errorf("retained at %d, subscribed at %d: %s", q, sub, p)
			}
		}
	}
	e.clear(e.topic("r"))
}

func unsubscribeFlags(e *env) {
	good := unsubscribe(e.v, 1, e.topic("t"))
	for flags := range byte(16) {
		if flags != 2 {
			good[0] = tUnsubscribe<<4 | flags
			e.bad(good, 0x81)
		}
	}
}

func unsubscribeText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		e.bad(unsubscribe(e.v, 1, bad), 0x81)
	}
	e.bad(pkt(tUnsubscribe<<4|2, u16(1), propsIf(e.v), u16(9), raw("short")), 0x81)
}

func unsubscribeNothing(e *env) {
	e.bad(unsubscribe(e.v, 1), 0x81, 0x82)
}

// unsubscribeCompares: a filter is compared character by character, not matched.
func unsubscribeCompares(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("a/b"), 1)
	c.subscribe(e.topic("+/c"), 1)
	codes := c.unsubscribe(e.topic("a/+"), e.topic("#"), e.topic("a/B"), e.topic("a/b/"), e.topic("a/c"))
	for _, code := range codes {
		if code != 0x11 {
			e.Fatalf("got % x", codes)
		}
	}
	pub := e.connect(hello{})
	pub.put(e.topic("a/b"), "1")
	c.want("1")
	pub.put(e.topic("a/c"), "2")
	c.want("2")
	if codes := c.unsubscribe(e.topic("+/c")); e.v == v5 && codes[0] != 0 {
		e.Fatalf("got % x", codes)
	}
	pub.put(e.topic("a/c"), "3")
	c.nothing()
}

func unsubscribeStops(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("t"), 1)
	c.unsubscribe(e.topic("t"))
	e.connect(hello{}).put(e.topic("t"), "x")
	c.nothing()
}

// unsubscribeCompletes: what was begun to be sent is brought to its end.
func unsubscribeCompletes(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 2)
	pub := e.connect(hello{})
	pub.must(message{topic: e.topic("t"), payload: "exactly", qos: 2})
	p := c.message()
	pub.must(message{topic: e.topic("t"), payload: "at least", qos: 1})
	c.message()
	c.unsubscribe(e.topic("t"))
	c.finish(p)
	c.alive() // so that PUBCOMP is not lost with the connection
	c.cut()
	c = e.connect(h)
	c.want("at least") // not acknowledged yet, so it comes again
	c.nothing()
}

func unsubacked(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("t"), 0)
	for _, want := range []byte{0, 0x11} { // with a subscription and without
		c.send(unsubscribe(e.v, 4321, e.topic("t")))
		p := c.expect(tUnsuback)
		if p.id != 4321 || e.v == v5 && (len(p.codes) != 1 || p.codes[0] != want) {
			e.Fatalf("got %s", p)
		}
	}
}

func unsubscribeMany(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("a"), 1)
	c.subscribe(e.topic("c"), 1)
	c.subscribe(e.topic("d"), 1)
	codes := c.unsubscribe(e.topic("a"), e.topic("b"), e.topic("c"), e.topic("a"))
	if e.v == v5 && !slices.Equal(codes[:3], []byte{0, 0x11, 0}) {
		e.Fatalf("got % x", codes)
	}
	pub := e.connect(hello{})
	for _, name := range strings.Split("abcd", "") {
		pub.put(e.topic(name), name)
	}
	c.want("d")
	c.nothing()
}

func pinged(e *env) {
	c := e.connect(hello{})
	c.send(pkt(tPingreq<<4), pkt(tPingreq<<4))
	c.expect(tPingresp)
	c.expect(tPingresp)
}
