package conformance

import (
	"fmt"
	"slices"
	"time"
)

// Section 4.8.2: shared subscriptions.

var shared5 = checks{
	"MQTT-4.8.2-1": shareName,
	"MQTT-4.8.2-2": shareName,
	"MQTT-4.8.2-3": sharedQoS,
	"MQTT-4.8.2-4": sharedCompletes,
	"MQTT-4.8.2-5": sharedEndsWithSession,
	"MQTT-4.8.2-6": sharedRefused,
}

// shareName: a share name has a character at least, no wildcard, and a filter after it.
func shareName(e *env) {
	e.badFilters("$share//a", "$share/g", "$share/g/", "$share/", "$share/+/a", "$share/#/a", "$share/g+/a", "$share/g#/a")
}

// member is a client with a shared subscription.
func (e *env) member(h hello, options int) *client {
	e.Helper()
	c := e.connect(h)
	if c.ack.number(propSharedAvail, 1) == 0 {
		panic(nothingToSee("the broker has no shared subscriptions"))
	}
	c.subscribe("$share/g/"+e.topic("+"), options)
	return c
}

// sharedQoS: each message goes to one member, at the lower of its own and the member's QoS.
func sharedQoS(e *env) {
	low, high := e.member(hello{}, 0), e.member(hello{}, 1)
	other := e.subscriber(e.topic("+"), 2) // not of the group
	pub := e.connect(hello{})
	const n = 20
	for i := range n {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: 2})
	}
	got := map[string]int{}
	for total, end := 0, time.Now().Add(e.patience); total < n && time.Now().Before(end); {
		for _, c := range []*client{low, high} {
			for _, p := range c.waiting() {
				total++
				got[p.payload]++
				if want := map[*client]int{low: 0, high: 1}[c]; p.qos() != want {
					e.Errorf("got %s, want QoS %d", p, want)
				}
				c.finish(p)
			}
		}
	}
	low.nothing()
	high.nothing()
	if len(got) != n {
		e.Errorf("%d of %d messages came", len(got), n)
	}
	for payload, copies := range got {
		if copies != 1 {
			e.Errorf("%s came %d times", payload, copies)
		}
	}
	for i := range n {
		if p := other.want(fmt.Sprint(i)); p.qos() != 2 {
			e.Errorf("%s", p)
		}
	}
	// A member that leaves gets no more, and the one that stays gets all.
	low.unsubscribe("$share/g/" + e.topic("+"))
	for i := range n {
		pub.put(e.topic("t"), fmt.Sprint("again", i))
	}
	low.nothing()
	for i := range n {
		high.want(fmt.Sprint("again", i))
	}
}

// half publishes at QoS 2 until one message is half way to the first member, and returns it. The second one has the rest.
func (e *env) half(first, second *client, q byte) *packet {
	e.Helper()
	pub := e.connect(hello{})
	for i := range 20 {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: q})
		for end := time.Now().Add(e.patience); ; {
			if ps := first.waiting(); len(ps) > 0 {
				return ps[0]
			}
			if ps := second.waiting(); len(ps) > 0 {
				second.finish(ps[0])
				break
			}
			if time.Now().After(end) {
				e.Fatal("neither member gets the message")
			}
		}
	}
	e.Fatal("the group has no use for one of its members")
	return nil
}

// kept is a member whose session stays, and another one.
func (e *env) kept() (h hello, first, second *client) {
	e.Helper()
	h = hello{id: e.clientID(), stay: true}
	return h, e.member(h, 2), e.member(hello{}, 2)
}

func sharedCompletes(e *env) {
	h, first, second := e.kept()
	p := e.half(first, second, 2)
	first.cut()
	second.nothing()
	first = e.connect(h)
	i := slices.IndexFunc(first.atLeast(1), func(q *packet) bool { return q.id == p.id && q.payload == p.payload && q.dup() })
	if i < 0 {
		e.Fatalf("%s did not come again", p)
	}
	first.finish(p)
	second.nothing()
}

func sharedEndsWithSession(e *env) {
	h, first, second := e.kept()
	e.half(first, second, 2)
	first.cut()
	h.clean = true
	e.connect(h) // which ends the session
	second.nothing()
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "next", qos: 2})
	second.want("next")
}

func sharedRefused(e *env) {
	for q := byte(1); q <= 2; q++ {
		first, second := e.member(hello{}, 2), e.member(hello{}, 2)
		p := e.half(first, second, q)
		first.send(pkt((3+q)<<4, u16(p.id), u8(0x80), props())) // PUBACK, PUBREC
		first.nothing()
		second.nothing()
		first.leave()
		second.nothing()
		second.leave()
	}
}
