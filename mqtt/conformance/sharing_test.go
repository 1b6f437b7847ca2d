package conformance

import (
	"fmt"
	"slices"
	"time"
)

// What operators expect of shared subscriptions beyond the statements, under names of our own.

var sharing = []checks{{
	"online-first":       shareOnlineFirst,
	"kept-offline":       shareKeptOffline,
	"given-on":           shareGivenOn,
	"given-on-2":         shareGivenOnQoS2,
	"qos2-once":          shareQoS2Once,
	"turns":              shareTurns,
	"full-left-out":      shareFullLeftOut,
	"one-member-ordered": shareOrdered,
	"mqtt-3.1.1":         shareOldClients,
	"not-retained":       shareNotRetained,
	"beside-own":         shareBesideOwn,
	"ends-with-last":     shareEndsWithLast,
}}

// group is the shared filter of a check.
func (e *env) group() string { return "$share/g/" + e.topic("+") }

// shareOnlineFirst: a member that is away is not waited for.
func shareOnlineFirst(e *env) {
	h := hello{id: e.clientID(), stay: true}
	e.member(h, 1).leave()
	there := e.member(hello{}, 1)
	pub := e.connect(hello{})
	for i := range 6 {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	for i := range 6 {
		there.want(fmt.Sprint(i))
	}
	there.nothing()
	e.connect(h).nothing()
}

// shareKeptOffline: what comes while all members are away waits for whoever is back first.
func shareKeptOffline(e *env) {
	h1, h2 := hello{id: e.clientID(), stay: true}, hello{id: e.clientID(), stay: true}
	e.member(h1, 2).leave()
	e.member(h2, 1).leave()
	pub := e.connect(hello{})
	for i := range 5 {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: 1 + byte(i)%2})
	}
	back := e.connect(h2)
	for i := range 5 {
		back.want(fmt.Sprint(i))
	}
	back.nothing()
	e.connect(h1).nothing()
}

// unacked is two members, of whom the first one has n messages without an acknowledgement, and the second one nothing.
func (e *env) unacked(h hello, q byte, n int) (first, second *client, payloads []string) {
	e.Helper()
	first, second = e.member(h, int(q)), e.member(hello{}, int(q))
	pub := e.connect(hello{})
	for i := 0; len(payloads) < n; i++ {
		if i > 100*n {
			e.Fatal("the group has no use for one of its members")
		}
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: q})
		for end := time.Now().Add(e.patience); ; {
			if ps := first.waiting(); len(ps) > 0 {
				payloads = append(payloads, ps[0].payload)
				break
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
	return first, second, payloads
}

// shareGivenOn: what a lost member has not acknowledged at QoS 1 goes to another one, in order, and not as a duplicate.
func shareGivenOn(e *env) {
	h := hello{id: e.clientID(), stay: true}
	first, second, payloads := e.unacked(h, 1, 3)
	first.cut()
	for _, payload := range payloads {
		if p := second.want(payload); p.dup() {
			e.Errorf("%s was not sent to this client before", p)
		}
	}
	second.nothing()
	e.connect(h).nothing()
}

// shareGivenOnQoS2: at QoS 2 what was sent is not given on, whatever becomes of the others.
func shareGivenOnQoS2(e *env) {
	h := hello{id: e.clientID(), stay: true}
	first, second, payloads := e.unacked(h, 2, 3)
	first.cut()
	second.nothing()
	second.leave()
	first = e.connect(h)
	for _, payload := range payloads {
		if p := first.want(payload); !p.dup() {
			e.Errorf("%s was sent before", p)
		}
	}
	first.nothing()
}

// shareQoS2Once: each message arrives once in the whole group, though its members are cut off at any point and come back.
func shareQoS2Once(e *env) {
	hs := []hello{{id: e.clientID(), stay: true}, {id: e.clientID(), stay: true}}
	cs := []*client{e.member(hs[0], 2), e.member(hs[1], 2)}
	pub := e.connect(hello{})
	const n = 30
	got := map[string]int{}
	// take finishes some of what a member has, and leaves some half way.
	open := []map[int]bool{{}, {}}
	take := func(i int, all bool) {
		for k, p := range cs[i].waiting() {
			switch {
			case p.typ == tPubrel:
				delete(open[i], p.id)
				cs[i].send(ack(tPubcomp, p.id))
			case p.typ == tPublish && (all || k%3 != 2):
				if !open[i][p.id] {
					open[i][p.id] = true
					got[p.payload]++
				}
				cs[i].send(ack(tPubrec, p.id))
			}
		}
	}
	for i := range n {
		pub.must(message{topic: e.topic("t"), payload: fmt.Sprint(i), qos: 2})
		take(i%2, false)
		if i%5 == 4 {
			cs[i%2].cut()
			cs[i%2] = e.connect(hs[i%2])
		}
	}
	for i := range cs {
		cs[i].cut()
		cs[i] = e.connect(hs[i])
	}
	for end := time.Now().Add(e.patience); len(got) < n && time.Now().Before(end); {
		take(0, true)
		take(1, true)
	}
	if len(got) != n {
		e.Errorf("%d of %d messages came", len(got), n)
	}
	for payload, times := range got {
		if times != 1 {
			e.Errorf("%s came %d times", payload, times)
		}
	}
}

// shareTurns: members that keep up get equal shares.
func shareTurns(e *env) {
	cs := []*client{e.member(hello{}, 1), e.member(hello{}, 1), e.member(hello{}, 1)}
	pub := e.connect(hello{})
	const n = 30
	counts := make([]int, len(cs))
	for i := range n {
		pub.put(e.topic("t"), fmt.Sprint(i))
		for end, found := time.Now().Add(e.patience), false; !found; {
			for k, c := range cs {
				if ps := c.waiting(); len(ps) > 0 {
					c.finish(ps[0])
					counts[k]++
					found = true
				}
			}
			if time.Now().After(end) {
				e.Fatalf("%d never came", i)
			}
		}
	}
	if !slices.Equal(counts, []int{n / 3, n / 3, n / 3}) {
		e.choice("of %d messages the members had %v", n, counts)
	}
}

// shareFullLeftOut: a member whose Receive Maximum is reached is not waited for.
func shareFullLeftOut(e *env) {
	full := e.member(hello{props: [][]byte{prop(propReceiveMaximum, u16(1))}}, 1)
	other := e.member(hello{}, 1)
	pub := e.connect(hello{})
	for i := range 8 {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	held := full.atLeast(1)
	if len(held) != 1 {
		e.Fatalf("%v in a window of one", held)
	}
	if ps := other.atLeast(7); len(ps) != 7 {
		e.Fatalf("%v", ps)
	}
}

// shareOrdered: a member that is alone gets a publisher's messages in order, those that it had been sent before too.
func shareOrdered(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.member(h, 1)
	pub := e.connect(hello{})
	for i := range 5 {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	c.atLeast(5)
	c.cut()
	for i := 5; i < 10; i++ {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	c = e.connect(h)
	for i := range 10 {
		c.want(fmt.Sprint(i))
	}
	c.nothing()
}

// shareOldClients: clients of MQTT 3.1.1 are members like others.
func shareOldClients(e *env) {
	e.v = v311
	old := e.connect(hello{})
	old.subscribe(e.group(), 1)
	e.v = v5
	young := e.member(hello{}, 1)
	pub := e.connect(hello{})
	for i := range 10 {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	n := len(old.atLeast(1)) + len(young.atLeast(1))
	for end := time.Now().Add(e.patience); n < 10 && time.Now().Before(end); {
		n += len(old.waiting()) + len(young.waiting())
	}
	if n != 10 {
		e.Errorf("%d of 10 messages came", n)
	}
}

// shareNotRetained: a shared subscription brings no retained messages.
func shareNotRetained(e *env) {
	e.connect(hello{}).must(message{topic: e.topic("t"), payload: "kept", qos: 1, retain: true})
	defer e.clear(e.topic("t"))
	e.member(hello{}, 1).nothing()
}

// shareBesideOwn: a subscription of a client's own, and other groups, have their own copies.
func shareBesideOwn(e *env) {
	c := e.member(hello{}, 1)
	c.subscribe("$share/other/"+e.topic("#"), 1)
	c.subscribe(e.topic("t"), 1)
	e.connect(hello{}).put(e.topic("t"), "x")
	for range 3 {
		c.want("x")
	}
	c.nothing()
}

// shareEndsWithLast: nothing is kept for a group that has no subscription any more.
func shareEndsWithLast(e *env) {
	h := hello{id: e.clientID(), stay: true}
	c := e.member(h, 1)
	c.unsubscribe(e.group())
	c.leave()
	pub := e.connect(hello{})
	pub.put(e.topic("t"), "to nobody")
	c = e.member(h, 1)
	pub.put(e.topic("t"), "to this one")
	c.want("to this one")
	c.nothing()
}
