package conformance

import (
	"fmt"
	"slices"
)

// Retained messages (3.3.1.3).

func retainedStored(e *env) {
	pub := e.connect(hello{})
	t := e.topic("t")
	for q := byte(1); q <= 2; q++ {
		pub.must(message{topic: t, payload: fmt.Sprint(q), qos: q, retain: true})
	}
	for range 2 { // for whoever comes, and comes again
		if p := e.subscriber(t, 2).want("2"); !p.retain() || p.qos() != 2 {
			e.Fatalf("%s", p)
		}
	}
	e.clear(t)
}

// retainedAtQoS0: a retained message of QoS 0 takes the place of the one before; it may be forgotten, but not the other kept.
func retainedAtQoS0(e *env) {
	pub := e.connect(hello{})
	t := e.topic("t")
	pub.must(message{topic: t, payload: "old", qos: 1, retain: true})
	pub.must(message{topic: t, payload: "new", retain: true})
	pub.put(e.topic("after"), "x")
	fence := e.topic("fence")
	pub.must(message{topic: fence, payload: "fence", qos: 1, retain: true})
	c := e.subscriber(t, 2)
	c.subscribe(fence, 1)
	if p := c.take(); p.payload == "new" {
		c.want("fence")
	} else if p.payload != "fence" || e.strict {
		e.Fatalf("got %s", p)
	}
	e.clear(t)
	e.clear(fence)
}

func retainedRemoved(e *env) {
	t := e.topic("t")
	pub := e.connect(hello{})
	pub.must(message{topic: t, payload: "old", qos: 1, retain: true})
	sub := e.subscriber(t, 1)
	sub.want("old")
	pub.must(message{topic: t, qos: 1, retain: true})
	if p := sub.want(""); p.retain() {
		e.Fatalf("%s", p)
	}
	e.nothingRetained(t, 1)
}

func emptyIsNotStored(e *env) {
	t := e.topic("t")
	e.clear(t)
	e.nothingRetained(t, 1)
}

func notRetainedChangesNothing(e *env) {
	t := e.topic("t")
	pub := e.connect(hello{})
	pub.put(t, "not stored")
	e.nothingRetained(t, 1)
	pub.must(message{topic: t, payload: "stored", qos: 1, retain: true})
	pub.put(t, "not in its place")
	pub.put(t, "")
	sub := e.subscriber(t, 1)
	sub.want("stored")
	sub.nothing()
	e.clear(t)
}

func retainHandling0(e *env) {
	t := e.topic("t")
	pub := e.connect(hello{})
	pub.must(message{topic: t, payload: "a", qos: 1, retain: true})
	pub.must(message{topic: t + "/u", payload: "b", qos: 1, retain: true})
	c := e.connect(hello{})
	for range 2 { // a subscription that is there already is owed them again
		c.subscribe(t+"/#", 1)
		got := []string{}
		for _, p := range []*packet{c.take(), c.take()} {
			if !p.retain() {
				e.Fatalf("%s", p)
			}
			got = append(got, p.payload)
		}
		if slices.Sort(got); got[0]+got[1] != "ab" {
			e.Fatalf("got %q", got)
		}
		c.nothing()
	}
	e.clear(t)
	e.clear(t + "/u")
}

func retainHandling1(e *env) {
	t := e.topic("t")
	e.connect(hello{}).must(message{topic: t, payload: "a", qos: 1, retain: true})
	h := hello{id: e.clientID(), stay: true}
	c := e.connect(h)
	c.subscribe(t, 1|sendIfNew)
	c.want("a")
	c.subscribe(t, 1|sendIfNew)
	c.nothing()
	c.leave()
	c = e.connect(h)
	c.subscribe(t, 1|sendIfNew)
	c.nothing()
	c.unsubscribe(t)
	c.subscribe(t, 1|sendIfNew)
	c.want("a")
	e.clear(t)
}

func retainHandling2(e *env) {
	t := e.topic("t")
	e.connect(hello{}).must(message{topic: t, payload: "a", qos: 1, retain: true})
	e.nothingRetained(t, 1|sendNever)
	c := e.subscriber(t, 1)
	c.want("a")
	c.subscribe(t, 1|sendNever)
	c.nothing()
	e.clear(t)
}

func retainFlagCleared(e *env) {
	t := e.topic("t")
	c := e.subscriber(t, 1)
	e.connect(hello{}).must(message{topic: t, payload: "a", qos: 1, retain: true})
	if p := c.want("a"); p.retain() {
		e.Fatalf("%s", p)
	}
	e.clear(t)
}

func retainAsPublished(e *env) {
	t := e.topic("t")
	c := e.subscriber(t, 1|asPublished)
	pub := e.connect(hello{})
	for _, flag := range []bool{true, false} {
		pub.must(message{topic: t, payload: fmt.Sprint(flag), qos: 1, retain: flag})
		if p := c.want(fmt.Sprint(flag)); p.retain() != flag {
			e.Fatalf("%s", p)
		}
	}
	e.clear(t)
}
