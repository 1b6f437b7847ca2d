package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What a node is configured not to allow, clients are told in CONNACK where the standard has a word for it, and held to.
func TestConfiguredLimits(t *testing.T) {
	if *broker != "" {
		t.Skip("another broker is being checked")
	}
	t.Parallel()
	addr := boot(t, `limits: {keep_alive: 2s, session_expiry: 1s, receive_maximum: 3, packet_bytes: 4096, subscriptions: 3, inflight: 2}`).addr
	for i, c := range []struct {
		name    string
		version byte
		check   check
	}{
		{"keep-alive", v5, serverKeepAlive}, {"keep-alive of 3.1.1", v311, serverKeepAlive}, {"session expiry", v5, serverSessionExpiry},
		{"receive maximum", v5, receiveMaximumExceeded}, {"packet size", v5, packetTooLarge}, {"packet size of 3.1.1", v311, packetTooLarge311},
		{"subscriptions", v5, subscriptionQuota}, {"subscriptions of 3.1.1", v311, subscriptionQuota}, {"in flight", v5, inflightQuota},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.check(&env{TB: t, addr: addr, v: c.version, prefix: fmt.Sprintf("cfl%s%d", session, i), strict: true, patience: patience})
		})
	}
}

func serverKeepAlive(e *env) {
	// A client that asks for less gets what it asks for; one that asks for more, or for none, gets ours.
	for asked, want := range map[int]int{1: -1, 60: 2} {
		c := e.connect(hello{keep: asked})
		if got := c.ack.number(propServerKeepAlive, -1); e.v == v5 && got != want {
			e.Errorf("asked for %d s: %s", asked, c.ack)
		}
	}
	began := time.Now()
	c := e.connect(hello{keep: 60})
	c.cutOff(0x8D)
	if d := time.Since(began); d < 2900*time.Millisecond || d > 8*time.Second {
		e.Errorf("cut off after %v, want about 3 s", d)
	}
}

func serverSessionExpiry(e *env) {
	h := hello{id: e.clientID(), stay: true, props: [][]byte{prop(propSessionExpiry, u32(1000))}}
	c := e.connect(h)
	if c.ack.number(propSessionExpiry, -1) != 1 {
		e.Errorf("%s", c.ack)
	}
	will := e.mortal(will{topic: e.topic("will"), payload: "ended", props: [][]byte{prop(propWillDelay, u32(1000))}}, hello{stay: true})
	sub := e.subscriber(e.topic("will"), 1)
	c.leave()
	will.cut() // later, so its session ends later, and with it the wait for the will
	sub.want("ended")
	if e.connect(h).ack.present {
		e.Fatal("the session outlives the limit")
	}
}

func packetTooLarge311(e *env) {
	m := message{topic: e.topic("t"), qos: 1, id: 1}
	m.payload = strings.Repeat("x", 4096-len(m.bytes(e.v))-1) // the length takes two bytes
	if size := len(m.bytes(e.v)); size != 4096 {
		e.Fatalf("%d bytes", size)
	}
	e.connect(hello{}).must(m)
	m.payload += "x"
	e.bad(m.bytes(e.v)[:100])
}

func subscriptionQuota(e *env) {
	c := e.connect(hello{})
	for i := range 3 {
		c.subscribe(e.topic(fmt.Sprint(i)), 1)
	}
	want := byte(0x97)
	if e.v < v5 {
		want = 0x80
	}
	if codes := c.ask(nil, filter{e.topic("0"), 2}, filter{e.topic("3"), 1}); codes[0] != 2 || codes[1] != want {
		e.Fatalf("got % x", codes)
	}
	c.unsubscribe(e.topic("1"))
	c.subscribe(e.topic("3"), 1)
}

func inflightQuota(e *env) {
	c := e.subscriber(e.topic("t"), 1)
	pub := e.connect(hello{})
	for i := range 4 {
		pub.put(e.topic("t"), fmt.Sprint(i))
	}
	first := c.message()
	c.message()
	c.alive() // and no more
	c.finish(first)
	c.want("2")
}
