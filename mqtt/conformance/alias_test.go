package conformance

import "fmt"

// Topic aliases (3.3.2.3.4).

// aliasMaximum is how many aliases the server takes.
func (c *client) aliasMaximum() int { return c.ack.number(propTopicAliasMax, 0) }

func alias(n int) [][]byte { return [][]byte{prop(propTopicAlias, u16(n))} }

func aliasesEndWithConnection(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	if c.aliasMaximum() == 0 {
		e.choice("the broker takes no aliases")
	}
	c.must(message{topic: e.topic("t"), qos: 1, props: alias(1)})
	c.must(message{qos: 1, props: alias(1)})
	c.cut()
	c = e.connect(h)
	m := message{qos: 1, id: 1, props: alias(1)}
	c.trySend(m.bytes(e.v))
	c.ended(0x82, 0x94)
}

func alias0(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("t"), qos: 1, id: 1, props: alias(0)}
	c.trySend(m.bytes(e.v))
	if e.strict {
		c.ended(0x94)
	} else {
		c.ended(0x94, 0x82)
	}
}

func aliasAboveMaximum(e *env) {
	c := e.connect(hello{})
	m := message{topic: e.topic("t"), qos: 1, id: 1, props: alias(c.aliasMaximum() + 1)}
	c.trySend(m.bytes(e.v))
	c.ended(0x94)
}

func aliasesAccepted(e *env) {
	sub := e.subscriber(e.topic("#"), 1)
	c := e.connect(hello{})
	top := c.aliasMaximum()
	if top == 0 {
		e.choice("the broker takes no aliases")
	}
	for _, n := range []int{1, top, 1} {
		name := e.topic(fmt.Sprint("t", n))
		c.must(message{topic: name, payload: "with topic", qos: 1, props: alias(n)})
		c.must(message{payload: "without", qos: 1, props: alias(n)})
		for _, want := range []string{"with topic", "without"} {
			if p := sub.want(want); p.topic != name {
				e.Fatalf("%s, want the topic %s", p, name)
			}
		}
	}
	// An alias is given another topic.
	c.must(message{topic: e.topic("other"), payload: "x", qos: 1, props: alias(1)})
	c.must(message{payload: "y", qos: 1, props: alias(1)})
	sub.want("x")
	if p := sub.want("y"); p.topic != e.topic("other") {
		e.Fatalf("%s", p)
	}
	for n := 1; n <= top; n++ {
		c.must(message{topic: e.topic("all"), qos: 0, props: alias(n)})
	}
	c.alive()
}

// aliasesWithinMaximum: a server may use aliases up to the client's maximum, each of them set on the connection on which it is used.
func aliasesWithinMaximum(e *env) {
	const limit = 3
	h := hello{id: e.clientID(), stay: true, props: [][]byte{prop(propTopicAliasMax, u16(limit))}}
	c := e.connect(h)
	c.subscribe(e.topic("#"), 1)
	pub := e.connect(hello{})
	used := 0
	for round := range 2 {
		topics := map[int]string{}
		named := func(p *packet, want string) {
			e.Helper()
			alias := p.number(propTopicAlias, 0)
			if alias > limit {
				e.Fatalf("%s: the alias is above %d", p, limit)
			}
			if p.topic == "" {
				used++
				p.topic = topics[alias]
			} else if alias > 0 {
				topics[alias] = p.topic
			}
			if p.topic != want {
				e.Fatalf("%s stands for %q, want %q", p, p.topic, want)
			}
		}
		if round > 0 {
			named(c.want("unacknowledged"), e.topic("t1"))
		}
		for i := range 20 {
			name := e.topic(fmt.Sprint("t", i%5))
			pub.put(name, fmt.Sprint(i))
			named(c.want(fmt.Sprint(i)), name)
		}
		// What was sent under an alias comes again on a connection that knows none.
		pub.put(e.topic("t1"), "unacknowledged")
		named(c.message(), e.topic("t1"))
		c.cut()
		c = e.connect(h)
	}
	if e.strict && used == 0 {
		e.Fatal("no alias was used")
	}
}
