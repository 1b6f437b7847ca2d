package conformance

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Section 3.3: PUBLISH. What is retained is in retained_test.go, aliases are in alias_test.go.

var publish5 = checks{
	"MQTT-3.3.1-1":  redeliveryHasDup,
	"MQTT-3.3.1-2":  noDupAtQoS0,
	"MQTT-3.3.1-3":  dupIsNotPassedOn,
	"MQTT-3.3.1-4":  qos3,
	"MQTT-3.3.1-5":  retainedStored,
	"MQTT-3.3.1-6":  retainedRemoved,
	"MQTT-3.3.1-7":  emptyIsNotStored,
	"MQTT-3.3.1-8":  notRetainedChangesNothing,
	"MQTT-3.3.1-9":  retainHandling0,
	"MQTT-3.3.1-10": retainHandling1,
	"MQTT-3.3.1-11": retainHandling2,
	"MQTT-3.3.1-12": retainFlagCleared,
	"MQTT-3.3.1-13": retainAsPublished,
	"MQTT-3.3.2-1":  topicText,
	"MQTT-3.3.2-2":  wildcardTopic,
	"MQTT-3.3.2-3":  topicMatchesFilter,
	"MQTT-3.3.2-4":  payloadFormat,
	"MQTT-3.3.2-5":  expired,
	"MQTT-3.3.2-6":  expiryCountsDown,
	"MQTT-3.3.2-7":  aliasesEndWithConnection,
	"MQTT-3.3.2-8":  alias0,
	"MQTT-3.3.2-9":  aliasAboveMaximum,
	"MQTT-3.3.2-11": aliasesWithinMaximum,
	"MQTT-3.3.2-12": aliasesAccepted,
	"MQTT-3.3.2-13": responseTopicText,
	"MQTT-3.3.2-14": responseTopicWildcard,
	"MQTT-3.3.2-15": responseTopicPassedOn,
	"MQTT-3.3.2-16": correlationPassedOn,
	"MQTT-3.3.2-17": userPropertiesPassedOn,
	"MQTT-3.3.2-18": userPropertiesPassedOn,
	"MQTT-3.3.2-19": contentTypeText,
	"MQTT-3.3.2-20": contentTypePassedOn,
	"MQTT-3.3.4-1":  answeredByQoS,
	"MQTT-3.3.4-2":  highestQoS,
	"MQTT-3.3.4-3":  subscriptionIDs,
	"MQTT-3.3.4-4":  subscriptionIDs,
	"MQTT-3.3.4-5":  subscriptionIDs,
	"MQTT-3.3.4-6":  subscriptionIDFromClient,
	"MQTT-3.3.4-7":  receiveMaximumExceeded,
	"MQTT-3.3.4-9":  receiveMaximumKept,
	"MQTT-3.3.4-10": othersNotDelayed,
}

var publish311 = checks{
	"MQTT-3.3.1-1":  redeliveryHasDup,
	"MQTT-3.3.1-2":  noDupAtQoS0,
	"MQTT-3.3.1-3":  dupIsNotPassedOn,
	"MQTT-3.3.1-4":  qos3,
	"MQTT-3.3.1-5":  retainedStored,
	"MQTT-3.3.1-6":  retainHandling0,
	"MQTT-3.3.1-7":  retainedAtQoS0,
	"MQTT-3.3.1-8":  retainHandling0,
	"MQTT-3.3.1-9":  retainFlagCleared,
	"MQTT-3.3.1-10": retainedRemoved,
	"MQTT-3.3.1-11": emptyIsNotStored,
	"MQTT-3.3.1-12": notRetainedChangesNothing,
	"MQTT-3.3.2-1":  topicText,
	"MQTT-3.3.2-2":  wildcardTopic,
	"MQTT-3.3.2-3":  topicMatchesFilter,
	"MQTT-3.3.4-1":  answeredByQoS,
	"MQTT-3.3.5-1":  highestQoS,
	"MQTT-3.3.5-2":  unauthorizedPublish,
}

func redeliveryHasDup(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 2)
	pub := e.connect(hello{})
	for q := byte(1); q <= 2; q++ {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(q), qos: q})
		if p := c.message(); p.dup() {
			e.Fatalf("%s for the first time", p)
		}
	}
	c.cut()
	c = e.connect(h)
	for q := 1; q <= 2; q++ {
		if p := c.want(fmt.Sprint(q)); !p.dup() {
			e.Fatalf("%s for the second time", p)
		}
	}
}

func noDupAtQoS0(e *env) {
	if e.strict {
		e.bad((&message{topic: e.topic("t"), dup: true}).bytes(e.v), 0x81)
	}
	// Nor do deliveries have it, the decoder sees to that.
	sub := e.subscriber(e.topic("t"), 0)
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "x", qos: 2})
	sub.want("x")
}

func dupIsNotPassedOn(e *env) {
	sub := e.subscriber(e.topic("t"), 2)
	pub := e.connect(hello{})
	for q := byte(1); q <= 2; q++ {
		pub.must(message{topic: e.topic("t"), payload: "again", qos: q, dup: true})
		if p := sub.want("again"); p.dup() {
			e.Fatalf("%s", p)
		}
	}
}

func qos3(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("t"), qos: 3, id: 1}
	c.trySend(m.bytes(e.v))
	c.ended(0x81)
}

func topicText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		c := e.connect(hello{})
		m := message{topic: bad}
		c.trySend(m.bytes(e.v))
		c.ended(0x81)
	}
	c := e.connect(hello{})
	c.trySend(pkt(tPublish<<4, u16(10), raw("short")))
	c.ended(0x81)
}

func wildcardTopic(e *env) {
	for _, bad := range []string{"a/+", "#", "+", "a/#", "a+b", "a/b#"} {
		c := e.connect(hello{})
		m := message{topic: bad, qos: 1, id: 1}
		c.trySend(m.bytes(e.v))
		c.ended(0x81, 0x82, 0x90)
	}
}

func topicMatchesFilter(e *env) {
	pub := e.connect(hello{})
	names := []string{"a", "a/b", "a/b/c", "b", "b/a", "a/", "/a", "a//c"}
	match := map[string][]string{
		"a": {"a"}, "a/#": {"a", "a/b", "a/b/c", "a/", "a//c"}, "a/+": {"a/b", "a/"}, "+/b": {"a/b"}, "a/+/c": {"a/b/c", "a//c"}, "+": {"a", "b"},
		"#": names, "/+": {"/a"}, "+/+": {"a/b", "b/a", "a/", "/a"}, "a/b": {"a/b"}, "+/#": names, "a//c": {"a//c"},
	}
	subs := map[string]*client{}
	for f := range match {
		subs[f] = e.subscriber(e.topic("")+f, 1)
	}
	for _, name := range names {
		pub.put(e.topic("")+name, name)
	}
	for f, c := range subs {
		got := []string{}
		for _, p := range append(c.atLeast(len(match[f])), c.left()...) {
			if p.topic != e.topic("")+p.payload {
				e.Errorf("%q: %s", f, p)
			}
			got = append(got, p.payload)
		}
		want := slices.Sorted(slices.Values(match[f]))
		if slices.Sort(got); !slices.Equal(got, want) {
			e.Errorf("%q: got %q, want %q", f, got, want)
		}
	}
}

// passedOn publishes with a property, and returns what a subscriber, live, retained and queued, gets.
func (e *env) passedOn(ps ...[]byte) (got []*packet) {
	e.Helper()
	t := e.topic("t")
	h := hello{id: e.clientID(), stay: true}
	away := e.connect(h)
	away.subscribe(t, 1)
	away.leave()
	live := e.subscriber(t, 1)
	e.connect(hello{}).must(message{topic: t, payload: "x", qos: 1, retain: true, props: ps})
	got = append(got, live.want("x"), e.subscriber(t, 1).want("x"), e.connect(h).want("x"))
	e.clear(t)
	return got
}

func payloadFormat(e *env) {
	for n := range 2 {
		for _, p := range e.passedOn(prop(propPayloadFormat, u8(n))) {
			if got := p.number(propPayloadFormat, 0); got != n { // absent is as good as 0 (3.3.2.3.2)
				e.Errorf("%d became %s", n, p)
			}
		}
	}
	if e.strict {
		e.badProperty([]byte{0x82}, prop(propPayloadFormat, u8(2)))
	}
}

func expired(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	c.leave()
	pub := e.connect(hello{})
	pub.must(message{topic: e.topic("t"), payload: "short", qos: 1, props: [][]byte{prop(propMessageExpiry, u32(1))}})
	pub.must(message{topic: e.topic("t"), payload: "long", qos: 1, props: [][]byte{prop(propMessageExpiry, u32(1000))}})
	pub.must(message{topic: e.topic("r"), payload: "retained", qos: 1, retain: true, props: [][]byte{prop(propMessageExpiry, u32(1))}})
	e.seconds(2)
	c = e.connect(h)
	c.want("long")
	c.nothing()
	e.nothingRetained(e.topic("r"), 1)
}

// seconds lets time pass where the standard measures in it: a will with that delay tells when it has, by the broker's clock.
func (e *env) seconds(n uint32) {
	e.Helper()
	clock := e.topic("clock/" + e.clientID())
	c := e.subscriber(clock, 0)
	if e.v < v5 {
		e.Fatal("there are no delays before 5.0")
	}
	e.mortal(will{topic: clock, props: [][]byte{prop(propWillDelay, u32(n))}}, hello{stay: true}).cut()
	c.message()
}

func expiryCountsDown(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(e.topic("t"), 1)
	live := e.subscriber(e.topic("t"), 1)
	c.leave()
	began := time.Now()
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "x", qos: 1, retain: true, props: [][]byte{prop(propMessageExpiry, u32(100))}})
	if p := live.want("x"); p.number(propMessageExpiry, 0) != 100 && time.Since(began) < time.Second {
		e.Fatalf("%s", p)
	}
	e.seconds(2)
	for _, c := range []*client{e.connect(h), e.subscriber(e.topic("t"), 1)} { // queued, and retained
		p := c.want("x")
		waited := int(time.Since(began)/time.Second) + 1
		if left := p.number(propMessageExpiry, 0); left > 99 || left < 100-waited {
			e.Errorf("%s after %d seconds", p, waited)
		}
	}
	e.clear(e.topic("t"))
}

func (e *env) badProperty(codes []byte, ps ...[]byte) {
	e.Helper()
	c := e.connect(hello{})
	m := message{topic: e.topic("t"), qos: 1, id: 1, props: ps}
	c.trySend(m.bytes(e.v))
	c.ended(codes...)
}

func responseTopicText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		e.badProperty([]byte{0x81}, prop(propResponseTopic, str(bad)))
	}
}

func responseTopicWildcard(e *env) {
	for _, bad := range []string{"a/+", "#"} {
		e.badProperty([]byte{0x81, 0x82, 0x90}, prop(propResponseTopic, str(bad)))
	}
}

func responseTopicPassedOn(e *env) {
	for _, p := range e.passedOn(prop(propResponseTopic, str("answer/ε/1"))) {
		if x, ok := p.prop(propResponseTopic); !ok || x.s != "answer/ε/1" {
			e.Errorf("%s", p)
		}
	}
}

func correlationPassedOn(e *env) {
	for _, data := range []string{"\x00\xff\xfe binary", ""} {
		for _, p := range e.passedOn(prop(propCorrelation, str(data))) {
			if x, ok := p.prop(propCorrelation); !ok || x.s != data {
				e.Errorf("%q became %s", data, p)
			}
		}
	}
}

func userPropertiesPassedOn(e *env) {
	pairs := []string{"b=1", "a=2", "b=1", "=empty name", "empty value=", "ε=丹", "b=0"}
	if e.strict { // control characters are taken here
		pairs = append(pairs, "c\x01=\u0085\uffff")
	}
	var ps [][]byte
	for _, x := range pairs {
		name, value, _ := strings.Cut(x, "=")
		ps = append(ps, prop(propUser, str(name), str(value)))
	}
	for _, p := range e.passedOn(ps...) {
		if got := p.all(propUser); !slices.Equal(got, pairs) {
			e.Errorf("got %q, want %q", got, pairs)
		}
	}
}

func contentTypeText(e *env) {
	for _, bad := range append(illFormed, "a\x00b") {
		e.badProperty([]byte{0x81}, prop(propContentType, str(bad)))
	}
}

func contentTypePassedOn(e *env) {
	for _, p := range e.passedOn(prop(propContentType, str("text/ε; charset=x"))) {
		if x, ok := p.prop(propContentType); !ok || x.s != "text/ε; charset=x" {
			e.Errorf("%s", p)
		}
	}
}

func answeredByQoS(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("t")}
	c.send(m.bytes(e.v))
	c.alive() // nothing for QoS 0
	m.qos, m.id = 1, 5
	c.send(m.bytes(e.v))
	c.expect(tPuback)
	m.qos, m.id = 2, 6
	c.send(m.bytes(e.v))
	c.expect(tPubrec)
}

func highestQoS(e *env) {
	c := e.connect(hello{})
	c.subscribe(e.topic("+"), 0)
	c.subscribe(e.topic("t"), 2)
	c.subscribe(e.topic("#"), 1)
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "x", qos: 2})
	top, copies := 0, append(c.atLeast(1), c.left()...)
	for _, p := range copies {
		top = max(top, p.qos())
	}
	if top != 2 || e.strict && len(copies) != 1 {
		e.Fatalf("got %v", copies)
	}
}

// subscriptionIDs: a delivery names the subscriptions that it is for; one copy all of them, several copies each its own.
func subscriptionIDs(e *env) {
	c := e.connect(hello{})
	id := func(n int) []byte { return prop(propSubscriptionID, varint(n)) }
	c.subscribe(e.topic("t"), 1, id(1))
	c.subscribe(e.topic("+"), 1, id(268_435_455))
	c.subscribe(e.topic("#"), 1)
	c.subscribe(e.topic("u"), 1, id(300))
	pub := e.connect(hello{})
	pub.put(e.topic("t"), "x")
	got := []string{}
	for _, p := range append(c.atLeast(1), c.left()...) {
		got = append(got, p.all(propSubscriptionID)...)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"1", "268435455"}) {
		e.Fatalf("got %q", got)
	}
	// Another SUBSCRIBE replaces the id, or takes it away.
	c.subscribe(e.topic("t"), 1, id(2))
	c.subscribe(e.topic("+"), 1)
	pub.put(e.topic("t"), "y")
	got = nil
	for _, p := range append(c.atLeast(1), c.left()...) {
		got = append(got, p.all(propSubscriptionID)...)
	}
	if !slices.Equal(got, []string{"2"}) {
		e.Fatalf("got %q", got)
	}
	// 0 is none.
	c.trySend(subscribe(e.v, 99, [][]byte{id(0)}, filter{e.topic("t"), 0}))
	c.ended(0x82)
}

func subscriptionIDFromClient(e *env) {
	e.badProperty([]byte{0x81, 0x82}, prop(propSubscriptionID, varint(1)))
}

// receiveMaximumExceeded: more exactly-once publishes under way than the server has allowed.
func receiveMaximumExceeded(e *env) {
	c := e.connect(hello{})
	top := c.ack.number(propReceiveMaximum, 65535)
	if top > 5000 {
		e.choice("the broker allows %d publishes at once", top)
	}
	var b []byte
	for id := 1; id <= top+1; id++ {
		m := message{topic: e.topic("t"), qos: 2, id: id}
		b = append(b, m.bytes(e.v)...)
	}
	c.trySend(b)
	recs := 0
	for p := c.read(); p != nil; p = c.read() {
		switch {
		case p.typ == tPubrec && recs < top:
			recs++
		case p.typ != tDisconnect || p.code != 0x93:
			e.Fatalf("got %s after %d PUBRECs, want 0x93", p, recs)
		}
	}
}

func receiveMaximumKept(e *env) {
	for q := byte(1); q <= 2; q++ {
		c := e.connect(hello{props: [][]byte{prop(propReceiveMaximum, u16(2))}})
		c.subscribe(e.topic("t"), 2)
		pub := e.connect(hello{})
		for i := range 5 {
			pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: q})
		}
		open := []*packet{c.message(), c.message()}
		c.quiet()
		for i := 2; i < 5; i++ { // one done makes room for one
			c.finish(open[0])
			open = append(open[1:], c.message())
			c.quiet()
		}
		for i, p := range open {
			if p.payload != fmt.Sprint(3+i) {
				e.Fatalf("got %s, want %d", p, 3+i)
			}
		}
		// What is sent again counts too, and another connection may have another maximum.
		h := hello{id: e.clientID(), stay: true}
		c = e.connect(h)
		c.subscribe(e.topic("u"), 2)
		for i := range 5 {
			pub.must(message{topic: e.topic("u"), payload: fmt.Sprint(i), qos: q})
			c.message()
		}
		c.cut()
		h.props = [][]byte{prop(propReceiveMaximum, u16(1))}
		c = e.connect(h)
		for i := range 5 {
			p := c.message()
			if p.payload != fmt.Sprint(i) || !p.dup() {
				e.Fatalf("got %s, want %d again", p, i)
			}
			c.quiet()
			c.finish(p)
		}
		c.nothing()
	}
}

func othersNotDelayed(e *env) {
	c := e.connect(hello{props: [][]byte{prop(propReceiveMaximum, u16(1))}})
	c.subscribe(e.topic("t"), 2)
	pub := e.connect(hello{})
	for range 3 {
		pub.must(message{topic: e.topic("t"), qos: 2})
	}
	p := c.message() // now the window is full
	c.alive()
	c.must(message{topic: e.topic("u"), qos: 1})
	c.must(message{topic: e.topic("u"), qos: 2})
	c.subscribe(e.topic("v"), 1)
	c.unsubscribe(e.topic("v"))
	c.send(ack(tPubrec, p.id))
	c.released(p.id)
}

func unauthorizedPublish(e *env) {
	c := e.connect(hello{})
	m := message{topic: "$SYS/" + e.topic("t"), qos: 1, id: 1}
	c.trySend(m.bytes(e.v))
	if p := c.read(); p != nil && (p.typ != tPuback || p.id != 1) {
		e.Fatalf("got %s", p)
	}
}
