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
