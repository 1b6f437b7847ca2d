package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// gate is an Authorizer that lets "root" do everything, and others what is open. It counts how often it is asked.
type gate struct {
	publish, subscribe, receive atomic.Bool
	asked                       [3]atomic.Int64
}

func (g *gate) set(publish, subscribe, receive bool) {
	g.publish.Store(publish)
	g.subscribe.Store(subscribe)
	g.receive.Store(receive)
}

// Topics that end in /open are received by everybody: so that a client can be seen to have had all that comes before.
func (g *gate) Allowed(k session.Key, a broker.Action, topic string) bool {
	g.asked[a].Add(1)
	open := [...]*atomic.Bool{&g.publish, &g.subscribe, &g.receive}[a]
	return open.Load() || k.ClientID == "root" || a == broker.Receive && strings.HasSuffix(topic, "/open")
}

// before returns the payloads that come to c before the one that ends it, acking as it goes.
func (c *client) before(last string) (payloads []string) {
	c.t.Helper()
	for {
		switch p := c.next().(type) {
		case *packet.Publish:
			if string(p.Payload) == last {
				return payloads
			}
			payloads = append(payloads, string(p.Payload))
		case *packet.Ack:
			if p.Kind == packet.PUBREL {
				payloads = append(payloads, "PUBREL")
			}
		case nil:
			c.t.Fatalf("closed before %s", last)
		}
	}
}

// leaks has clients try everything that a right is needed for, without one, and says what got through.
func leaks(n *node, g *gate) error {
	var errs []error
	leak := func(way string, what []string) {
		if len(what) > 0 {
			errs = append(errs, fmt.Errorf("%s: %q", way, what))
		}
	}
	// While everything is allowed: subscribers, one with deliveries on the wire and in its queue, a retained message, a will.
	g.set(true, true, true)
	root := n.connected("CONNECT v5 clean id=root")
	online := n.connected("CONNECT v5 clean id=online")
	online.send("SUBSCRIBE #1 live/#:1 raw/#:1 qos0/#:0")
	online.expect("SUBACK #1 0x01 0x01 0x00")
	away := n.connected("CONNECT v5 id=away expiry=1000")
	away.send("SUBSCRIBE #1 away/#:2")
	away.expect("SUBACK #1 0x02")
	root.send(`PUBLISH q1 #1 t=away/1 "inflight1"`, `PUBLISH q2 #2 t=away/1 "inflight2"`, `PUBLISH q1 retain #3 t=kept/1 "retained"`)
	root.expect("PUBACK #1", "PUBREC #2", "PUBACK #3")
	away.expect(`PUBLISH q1 #1 t=away/1 "inflight1"`, `PUBLISH q2 #2 t=away/1 "inflight2"`)
	away.nc.Close()
	eventually(n.t, "away to be gone", func() bool { return n.b.Stats().Session.Connected == 2 })
	root.send(`PUBLISH q1 #4 t=away/1 "queued"`)
	root.expect("PUBACK #4")
	root.send("PUBREL #2")
	root.expect("PUBCOMP #2")
	dying := n.connected(`CONNECT v5 clean id=dying will=will/1 "will"`)

	// Nothing any more.
	g.set(false, false, false)
	n.b.PolicyChanged()
	dying.nc.Close()
	p := n.connected("CONNECT v5 clean id=p")
	p.send(`PUBLISH q0 t=in/1 "p0"`, `PUBLISH q1 #1 t=in/1 "p1"`, `PUBLISH q2 #2 t=in/1 "p2"`, `PUBLISH q1 retain #3 t=in/1 "p3"`, "SUBSCRIBE #4 live/#:1 $share/g/live/#:1")
	var refused []string
	for answered := false; !answered || len(refused) < 3; {
		switch a := p.next().(type) {
		case *packet.Ack:
			refused = append(refused, fmt.Sprint(a.Code == packet.NotAuthorized))
		case *packet.Suback:
			answered = true
			for _, code := range a.Codes {
				if code != packet.NotAuthorized {
					leak("subscribe", []string{code.String()})
				}
			}
		}
	}
	root.send(`PUBLISH q1 #5 t=live/1 "live"`, `PUBLISH q0 t=qos0/1 "live0"`, `PUBLISH q1 #6 t=raw/1 "unlogged"`, `PUBLISH q1 #7 t=live/open "open"`, `PUBLISH q1 #8 t=away/open "open"`, `PUBLISH q1 retain #9 t=kept/open "open"`)
	root.expect("PUBACK #5", "PUBACK #6", "PUBACK #7", "PUBACK #8", "PUBACK #9")
	leak("live", online.before("open"))
	away = n.dial()
	away.send("CONNECT v5 id=away expiry=1000")
	away.expect("CONNACK present")
	got := away.before("open")
	if i := slices.Index(got, "PUBREL"); i >= 0 {
		got = slices.Delete(got, i, i+1)
	} else {
		away.expect("PUBREL #2") // once it is written that the id of what may not be sent again is released
	}
	leak("queued or sent again", got)
	g.subscribe.Store(true)
	n.b.PolicyChanged()
	late := n.connected("CONNECT v5 clean id=late")
	late.send("SUBSCRIBE #1 kept/#:1")
	late.expect("SUBACK #1 0x01")
	leak("retained", late.before("open"))
	eventually(n.t, "the will to be decided on", func() bool { return n.b.Stats().Dropped[session.DropWillDenied]+n.b.Stats().Wills > 0 })
	for _, topic := range []string{"in/1", "will/1"} {
		leak("publish", n.store.logged(topic))
	}
	if fmt.Sprint(refused) != "[true true true]" {
		leak("publish", refused)
	}
	s := n.dial()
	s.send(`CONNECT v5 clean id=s will=will/2 "will"`)
	if a, ok := s.next().(*packet.Connack); !ok || a.Code != packet.NotAuthorized {
		leak("will set", []string{show(a)})
	}
	return errors.Join(errs...)
}

// TestNothingPassesUnauthorized: whatever ends in Conn.Deliver or Store.Append is decided on at that moment, and every denial is counted.
// Class 5 and 8 of the bugs that brokers have had: rights that outlive their grant.
func TestNothingPassesUnauthorized(t *testing.T) {
	g := &gate{}
	n := newNode(t, func(o *broker.Options) { o.Authorizer = g })
	if err := leaks(n, g); err != nil {
		t.Error(err)
	}
	st := n.b.Stats()
	for what, got := range map[string][2]int64{
		"publish": {st.Denied["publish"], 4}, "subscribe": {st.Denied["subscribe"], 2}, "will": {st.Denied["will"], 1},
		"receive": {st.Dropped[session.DropDenied], 7}, "will fired": {st.Dropped[session.DropWillDenied], 1},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d denials are counted, want %d", what, got[0], got[1])
		}
	}
}

// A connection asks once for each topic until the policy changes, however many it has taken turns with; what it remembers is bounded,
// and remembering allocates nothing once there is room.
func TestRightsAreRemembered(t *testing.T) {
	g := &gate{}
	g.set(true, true, true)
	n := newNode(t, func(o *broker.Options) { o.Authorizer = g })
	p := n.connected("CONNECT v5 clean id=p")
	long := strings.Repeat("x", 300)
	publish := func(topics ...string) (asked int64) {
		t.Helper()
		before := g.asked[broker.Publish].Load()
		for i, topic := range topics {
			p.send(fmt.Sprintf(`PUBLISH q1 #%d t=%s "m"`, i+1, topic))
			if a, ok := p.next().(*packet.Ack); !ok || a.Code.Failed() == g.publish.Load() {
				t.Fatalf("%s: %v", topic, show(a))
			}
		}
		return g.asked[broker.Publish].Load() - before
	}
	few := []string{"a/1", "a/2", "a/3"}
	for range 20 {
		publish(few...) // they find places of their own, for sure once there are as many as there may be
	}
	if asked := publish("a/1", "a/1", "a/1", "a/1"); asked > 1 {
		t.Errorf("asked %d times about one topic", asked)
	}
	if asked := publish(long, long); asked != 2 {
		t.Errorf("a long topic was asked for %d times", asked)
	}
	g.publish.Store(false)
	n.b.PolicyChanged()
	if asked := publish("a/1"); asked != 1 { // and is denied, or publish fails
		t.Errorf("after the policy has changed it was asked %d times", asked)
	}
	if asked := publish("a/1", "a/1"); asked != 0 {
		t.Errorf("a denial was not remembered: asked %d times", asked)
	}
	g.publish.Store(true)
	n.b.PolicyChanged()
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("many/%d", i)
	}
	publish(many...)
	publish(many...)
}

// A policy that changes while a client publishes as fast as it can: what is sent after PolicyChanged has returned is decided on by the new
// one, on its way in and on its way out.
func TestPolicyChangesUnderLoad(t *testing.T) {
	g := &gate{}
	n := newNode(t, func(o *broker.Options) { o.Authorizer = g })
	root := n.connected("CONNECT v5 clean id=root")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	c := n.connected("CONNECT v5 clean id=p")
	busy := n.connected("CONNECT v5 clean id=busy")
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			busy.nc.SetWriteDeadline(time.Now().Add(patience))
			b, err := (&packet.Publish{Topic: []byte("busy"), Payload: []byte("x")}).Append(nil, packet.V5)
			if _, werr := busy.nc.Write(b); err != nil || werr != nil && !errors.Is(werr, net.ErrClosed) {
				t.Error(err, werr)
				return
			}
		}
	})
	g.set(true, true, true)
	sub := n.connected("CONNECT v5 clean id=sub")
	sub.send("SUBSCRIBE #1 x/#:0")
	sub.expect("SUBACK #1 0x00")
	for i := range 200 {
		allowed := i%2 == 0
		g.set(allowed, true, allowed)
		n.b.PolicyChanged()
		c.send(`PUBLISH q1 #1 t=x "m"`)
		if a, ok := c.next().(*packet.Ack); !ok || a.Code.Failed() == allowed {
			t.Fatalf("publish %d: %v", i, show(a))
		}
		root.send(fmt.Sprintf(`PUBLISH q1 #1 t=x/1 "%v"`, allowed), `PUBLISH q1 #2 t=x/open "open"`)
		for acks := 0; acks < 2; {
			if _, ok := root.next().(*packet.Ack); ok {
				acks++
			}
		}
		for _, got := range sub.before("open") {
			if got == "false" {
				t.Fatalf("delivery %d: what was published after the right was taken away has come", i)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// A filter is decided on without its $share/<name>/, and one that is not legal is refused for that.
func TestClass06ShareIsTakenOff(t *testing.T) {
	var asked atomic.Value
	n := newNode(t, func(o *broker.Options) {
		o.Authorizer = asks(func(a broker.Action, topic string) bool {
			if a == broker.Subscribe {
				asked.Store(topic)
			}
			return topic != "secret/#"
		})
		o.Authenticate = func(context.Context, *packet.Connect, broker.ConnInfo) (broker.Principal, packet.Code) {
			return broker.Principal{Name: "a"}, packet.Success
		}
	})
	c := n.connected("CONNECT v5 clean id=c")
	c.send("SUBSCRIBE #1 $share/g/secret/#:1")
	c.expect("SUBACK #1 0x87")
	if asked.Load() != "secret/#" {
		t.Errorf("asked about %q", asked.Load())
	}
	c.send("SUBSCRIBE #2 $share/g:1 a/#/b:1")
	c.expect("SUBACK #2 0x8F 0x8F")
	old := n.connected("CONNECT v4 clean id=d")
	old.send("SUBSCRIBE #1 secret/#:1")
	old.expect("SUBACK #1 0x80")
}

type asks func(a broker.Action, topic string) bool

func (f asks) Allowed(_ session.Key, a broker.Action, topic string) bool { return f(a, topic) }

// A will that is refused leaves nothing behind, however often it is tried.
func TestClass07RefusedWillsAreForgotten(t *testing.T) {
	g := &gate{}
	n := newNode(t, func(o *broker.Options) { o.Authorizer = g; o.Limits.ConnectBytes = 64 << 10 })
	try := func(times int) {
		t.Helper()
		for i := range times {
			c := n.dial()
			c.send(fmt.Sprintf(`CONNECT v5 id=c%d expiry=1000 will=w "%s"`, i, strings.Repeat("x", 32<<10)))
			if a, ok := c.next().(*packet.Connack); !ok || a.Code != packet.NotAuthorized {
				t.Fatal("a will without a right was taken")
			}
			c.nc.Close()
		}
		eventually(t, "the connections to be gone", func() bool { return n.b.Stats().Connections == 0 })
	}
	try(50) // what is pooled is pooled now
	before := heap()
	try(300)
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("300 refused wills of 32 KiB have left %d bytes", grown)
	}
	if s := n.b.Stats().Session.Sessions; s != 0 {
		t.Errorf("%d sessions are left", s)
	}
}

// What is refused of a SUBSCRIBE stays with it, also where a client has several under way with one packet id.
func TestRefusedFiltersStayWithTheirSubscribe(t *testing.T) {
	for _, version := range []string{"v5", "v4"} {
		n := newNode(t, func(o *broker.Options) { o.Authorizer = rules{map[string]bool{"s subscribe no": true}} })
		c := n.connected("CONNECT " + version + " id=s" + map[string]string{"v5": " expiry=100"}[version])
		c.send("SUBSCRIBE #1 x:1 no:1", "SUBSCRIBE #1 no:1", "SUBSCRIBE #1 no:1 y:1 z:0", "SUBSCRIBE #1 x:1", "SUBSCRIBE #1 no:1 no:1")
		no := map[string]string{"v5": " 0x87", "v4": " 0x80"}[version]
		var got []string
		for range 5 {
			got = append(got, show(c.next()))
		}
		slices.Sort(got)
		want := []string{"SUBACK #1" + no, "SUBACK #1" + no + " 0x01 0x00", "SUBACK #1" + no + no, "SUBACK #1 0x01", "SUBACK #1 0x01" + no}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got  %q\nwant %q", version, got, want)
		}
	}
}
