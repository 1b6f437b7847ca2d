package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// Section 4.7: topic names and filters.

var topic5 = checks{
	"MQTT-4.7.0-1": wildcardTopic,
	"MQTT-4.7.1-1": multiLevelWildcard,
	"MQTT-4.7.1-2": singleLevelWildcard,
	"MQTT-4.7.2-1": dollarTopics,
	"MQTT-4.7.3-1": emptyTopics,
	"MQTT-4.7.3-2": nullCharacter,
	"MQTT-4.7.3-3": longTopics,
	"MQTT-4.7.3-4": nothingNormalised,
}

var topic311 = checks{
	"MQTT-4.7.1-1": wildcardTopic,
	"MQTT-4.7.1-2": multiLevelWildcard,
	"MQTT-4.7.1-3": singleLevelWildcard,
	"MQTT-4.7.2-1": dollarTopics,
	"MQTT-4.7.3-1": emptyTopics,
	"MQTT-4.7.3-2": nullCharacter,
	"MQTT-4.7.3-3": longTopics,
	"MQTT-4.7.3-4": nothingNormalised,
}

// badFilters: each is refused, with a failure in the SUBACK or by the end of the connection.
func (e *env) badFilters(fs ...string) {
	e.Helper()
	for _, f := range fs {
		c := e.connect(hello{})
		c.trySend(subscribe(e.v, 1, nil, filter{f, 0}))
		p := c.read()
		switch {
		case p == nil && (!e.strict || e.v < v5):
		case p == nil:
			e.Errorf("%q: closed without a word", f)
		case p.typ == tSuback && len(p.codes) == 1 && p.codes[0] >= 0x80:
			if e.strict && e.v == v5 && p.codes[0] != 0x8F {
				e.Errorf("%q: %s", f, p)
			}
		case p.typ == tDisconnect && slices.Contains([]byte{0x81, 0x82, 0x8F}, p.code):
		default:
			e.Errorf("%q: %s", f, p)
		}
	}
}

func multiLevelWildcard(e *env) {
	e.badFilters("a#", "a/b#", "a/#/b", "#/a", "##", "a/#b", "+#")
	c := e.connect(hello{})
	c.subscribe(e.topic("#"), 0)
	c.subscribe(e.topic("+/#"), 0)
}

func singleLevelWildcard(e *env) {
	e.badFilters("a+", "+a", "a/b+/c", "a/+b", "++", "a/++/b", "+/+a")
	c := e.connect(hello{})
	for _, f := range []string{"+", "+/a", "a/+", "a/+/b", "+/+", "/+"} {
		c.subscribe(e.topic(f), 0)
	}
}

// dollarTopics: a filter that begins with a wildcard matches no topic that begins with $.
func dollarTopics(e *env) {
	name := "/" + e.topic("t")
	c := e.connect(hello{})
	c.subscribe("+"+name, 1)
	pub := e.connect(hello{})
	m := message{topic: "$cf" + name, payload: "hidden", qos: 1, id: 1}
	pub.trySend(m.bytes(e.v))
	if p := pub.read(); p != nil && p.typ != tPuback && p.typ != tDisconnect {
		e.Fatalf("got %s", p)
	}
	e.connect(hello{}).put("x"+name, "seen")
	c.want("seen")
	c.nothing()
	// Who asks for it by name may.
	if code := c.ask(nil, filter{"$cf" + name, 1})[0]; code > 2 && code != 0x87 && code != 0x80 {
		e.Fatalf("answered %02X", code)
	}
}

func emptyTopics(e *env) {
	c := e.connect(hello{})
	m := message{}
	c.trySend(m.bytes(e.v))
	c.ended(0x81, 0x82, 0x90)
	c = e.connect(hello{})
	c.trySend(unsubscribe(e.v, 1, ""))
	c.ended(0x81, 0x82, 0x8F)
	e.badFilters("")
	if e.strict && e.v == v5 {
		e.badProperty([]byte{0x81, 0x82, 0x90}, prop(propResponseTopic, str("")))
	}
	e.refused((&hello{id: e.clientID(), will: &will{payload: "x"}}).bytes(e.v), 0, 0x81, 0x82, 0x90)
	// One character is enough, and so is one separator; somebody else may have the same.
	c = e.connect(hello{})
	c.subscribe("/", 1)
	c.subscribe("a", 1)
	c.put("/", e.prefix)
	for c.take().payload != e.prefix {
	}
}

func longTopics(e *env) {
	for _, size := range []int{32_767, 65_535} {
		name := e.topic(strings.Repeat("x", size-len(e.topic(""))))
		c := e.connect(hello{})
		if code := c.ask(nil, filter{name, 1})[0]; code != 1 {
			e.Fatalf("a filter of %d bytes was answered %02X", len(name), code)
		}
		e.connect(hello{}).put(name, "x")
		if p := c.want("x"); p.topic != name {
			e.Fatalf("%d bytes became %d", len(name), len(p.topic))
		}
		c.unsubscribe(name)
	}
}

func nothingNormalised(e *env) {
	names := []string{"a\u030a", "\u00e5", "\u212b", "A", "a", "a ", " a", "/a", "a/", "ﬁ", "fi", "a//b", "a/b", "a/./b"}
	subs := map[string]*client{}
	for _, name := range names {
		subs[name] = e.subscriber(e.topic("n/")+name, 1)
	}
	pub := e.connect(hello{})
	for _, name := range names {
		pub.put(e.topic("n/")+name, fmt.Sprintf("%+q", name))
	}
	for name, c := range subs {
		if p := c.want(fmt.Sprintf("%+q", name)); p.topic != e.topic("n/")+name {
			e.Errorf("%+q became %+q", name, p.topic)
		}
		c.nothing()
	}
}
