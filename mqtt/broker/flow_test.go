package broker_test

import (
	"context"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// flow is a named transcript; see node.transcript.
type flow struct{ name, script string }

func run(t *testing.T, change func(*broker.Options), flows []flow) {
	for _, f := range flows {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			newNode(t, change).transcript(f.script)
		})
	}
}

func TestConnect(t *testing.T) {
	run(t, nil, []flow{
		{"3.1", `
			a> CONNECT v3 clean id=a
			a< CONNACK
			a> PUBLISH q1 #9 t=x "m"
			a< PUBACK #9
			a> PINGREQ
			a< PINGRESP`},
		{"3.1.1, the session is there again", `
			a> CONNECT v4 id=a
			a< CONNACK
			a> DISCONNECT
			a<!
			a> CONNECT v4 id=a
			a< CONNACK present
			a x
			a> CONNECT v4 clean id=a
			a< CONNACK
			a> DISCONNECT
			a<!
			a> CONNECT v4 id=a
			a< CONNACK`},
		{"5.0, the session expires at once by default", `
			a> CONNECT v5 id=a
			a< CONNACK
			a> DISCONNECT
			a<!
			a> CONNECT v5 id=a expiry=100
			a< CONNACK
			a> DISCONNECT
			a<!
			a> CONNECT v5 id=a expiry=100
			a< CONNACK present`},
		{"session expiry is capped, and the client is told", `
			a> CONNECT v5 clean id=a expiry=0xFFFFFFFF
			a< CONNACK expiry=604800`},
		{"3.1.1 without a client id", `
			a> CONNECT v4 clean
			a< CONNACK
			b> CONNECT v4
			b< CONNACK 0x85
			b<!`},
		{"control character in the client id", `
			// CONNECT v4 clean, client id "a\nb"
			a>! 10 0f 00 04 4d 51 54 54 04 02 00 00 00 03 61 0a 62
			a< CONNACK 0x85
			a<!`},
		{"enhanced authentication is refused", `
			a> CONNECT v5 clean id=a auth=SCRAM-SHA-256
			a< CONNACK 0x8C
			a<!`},
		{"AUTH without a method", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> AUTH
			a< DISCONNECT 0x82
			a<!`},
		{"a protocol level that nobody knows", `
			// return code 1, as 3.1.1 has it
			a>! 10 0d 00 04 4d 51 54 54 09 02 00 00 00 01 61
			a< CONNACK 0x84
			a<!`},
		{"malformed CONNECT", `
			// reserved flag
			a>! 10 0d 00 04 4d 51 54 54 04 03 00 00 00 01 61
			a<!
			b>! 10 0e 00 04 4d 51 54 54 05 03 00 00 00 00 01 61
			b< CONNACK 0x81
			b<!`},
		{"first packet is not CONNECT", `
			a>! c0 00
			a<!`},
		{"second CONNECT", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a>! 10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 61
			a< DISCONNECT 0x82
			a<!`},
		{"packets in one write with CONNECT", `
			// CONNECT v4 clean id=a, PINGREQ, PUBLISH q1 #1 t "m", and half a PINGREQ
			a>! 10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 61 c0 00 32 06 00 01 74 00 01 6d c0
			a< CONNACK
			a< PINGRESP
			a< PUBACK #1
			a>! 00
			a< PINGRESP`},
		{"will to a $ topic", `
			a> CONNECT v5 clean id=a will=$SYS/x "gone"
			a< CONNACK 0x90
			a<!`},
		{"will with a property name that is ours", `
			a> CONNECT v5 clean id=a will=w will-user:mr-qos2 "gone"
			a< CONNACK 0x83
			a<!`},
		{"DISCONNECT cannot give an expiry to a session without one", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> DISCONNECT expiry=10
			a< DISCONNECT 0x82
			a<!`},
		{"a packet that only servers send", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a>! 20 03 00 00 00
			a< DISCONNECT 0x82
			a<!`},
		{"malformed after CONNECT, 3.1.1", `
			a> CONNECT v4 clean id=a
			a< CONNACK
			a>! 3f 00
			a<!`},
	})
}

func TestConnack(t *testing.T) {
	n := newNode(t, nil)
	c := n.dial()
	c.send("CONNECT v5 clean")
	ack := c.next().(*packet.Connack)
	p := &ack.Props
	if p.AssignedClientID == "" || p.Has&packet.PSharedAvail != 0 || p.ReceiveMaximum != 1024 ||
		p.TopicAliasMax != 32 || p.MaximumPacket != 1_000_000 {
		t.Errorf("CONNACK properties: %+v", p)
	}
	d := n.dial()
	d.send("CONNECT v5 clean")
	if again := d.next().(*packet.Connack).Props.AssignedClientID; again == p.AssignedClientID {
		t.Errorf("client id %q assigned twice", again)
	}
}

func TestPublish(t *testing.T) {
	run(t, nil, []flow{
		{"QoS 0, 1 and 2 in", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q0 t=x/1 "zero"
			a> PUBLISH q1 #1 t=x/1 "one"
			a< PUBACK #1
			a> PUBLISH q2 #2 t=x/1 "two"
			a< PUBREC #2
			a> PUBLISH q2 #2 dup t=x/1 "two"
			a< PUBREC #2
			a> PUBREL #2
			a< PUBCOMP #2
			a> DISCONNECT
			a<!`},
		{"PUBREL of an id that is not open", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBREL #7
			a< PUBCOMP #7 0x92`},
		{"out, 3.1.1", `
			s> CONNECT v4 clean id=s
			s< CONNACK
			s> SUBSCRIBE #1 x/+:2 y/#:1 z:0
			s< SUBACK #1 0x02 0x01 0x00
			p> CONNECT v4 clean id=p
			p< CONNACK
			p> PUBLISH q2 #1 t=x/1 "two"
			p< PUBREC #1
			p> PUBREL #1
			p< PUBCOMP #1
			s< PUBLISH q2 #1 t=x/1 "two"
			s> PUBREC #1
			s< PUBREL #1
			s> PUBCOMP #1
			p> PUBLISH q2 #2 t=y/1/2 "one"
			p< PUBREC #2
			s< PUBLISH q1 #2 t=y/1/2 "one"
			s> PUBACK #2
			p> PUBLISH q1 #3 t=z "zero"
			p< PUBACK #3
			s< PUBLISH q0 t=z "zero"
			s<-`},
		{"properties travel", `
			s> CONNECT v5 clean id=s
			s< CONNACK
			s> SUBSCRIBE #1 x:1 sid=5
			s< SUBACK #1 0x01
			p> CONNECT v5 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x type=text/plain user:k=v "m"
			p< PUBACK #1
			s< PUBLISH q1 #1 type=text/plain user:k=v sid=5 t=x "m"`},
		{"topic alias", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q1 #1 alias=32 t=x "1"
			a> PUBLISH q1 #2 alias=32 "2"
			a> PUBLISH q1 #3 alias=32 t=y "3"
			a> PUBLISH q1 #4 alias=32 "4"
			a< PUBACK #1
			a< PUBACK #2
			a< PUBACK #3
			a< PUBACK #4
			a x
			// an alias does not survive its connection
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q1 #1 alias=32 "5"
			a< DISCONNECT 0x82
			a<!`},
		{"topic alias above the maximum", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q0 alias=33 t=x "1"
			a< DISCONNECT 0x94
			a<!`},
		{"wildcard in a topic name", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q1 #1 t=x/# "1"
			a< DISCONNECT 0x81
			a<!`},
		{"$ topics are not for clients", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q0 t=$SYS/x "0"
			a> PUBLISH q1 #1 t=$SYS/x "1"
			a< PUBACK #1 0x90
			a> PUBLISH q2 #2 t=$SYS/x "2"
			a< PUBREC #2 0x90
			a> PUBLISH q1 #3 t=x "3"
			a< PUBACK #3
			b> CONNECT v4 clean id=b
			b< CONNACK
			b> PUBLISH q0 t=$SYS/x "0"
			b<-
			b> PUBLISH q1 #1 t=$SYS/x "1"
			b<!`},
		{"answers fit into what the client takes", `
			a> CONNECT v5 clean id=a packet=20
			a< CONNACK
			a> PUBLISH q1 #1 t=$SYS "x"
			a< PUBACK #1 0x90
			b> CONNECT v5 clean id=b packet=5
			b<!`},
		{"property names that are ours", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q1 #1 t=x user:mqtt.topic=y "1"
			a< PUBACK #1 0x83
			a> PUBLISH q2 #2 t=x user:mr-qos2=y "1"
			a< PUBREC #2 0x83
			a> PUBLISH q1 #3 t=x user:mqtt=y "1"
			a< PUBACK #3`},
	})
}

// TestAliasTopics checks that an aliased message is logged under the topic of the alias.
func TestAliasTopics(t *testing.T) {
	n := newNode(t, nil)
	n.transcript(`
		a> CONNECT v5 clean id=a
		a< CONNACK
		a> PUBLISH q1 #1 alias=1 t=x "1"
		a> PUBLISH q1 #2 alias=1 "2"
		a> PUBLISH q1 #3 alias=1 t=y "3"
		a> PUBLISH q1 #4 alias=1 "4"
		a< PUBACK #1
		a< PUBACK #2
		a< PUBACK #3
		a< PUBACK #4`)
	if x, y := strings.Join(n.store.logged("x"), " "), strings.Join(n.store.logged("y"), " "); x != "1 2" || y != "3 4" {
		t.Errorf("logged on x: %s; on y: %s", x, y)
	}
}

func TestSubscribe(t *testing.T) {
	run(t, nil, []flow{
		{"shared subscriptions", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> SUBSCRIBE #1 x:1 $share/g/y:1 z:2
			a< SUBACK #1 0x01 0x01 0x02
			a> SUBSCRIBE #3 $share//y:1 $share/g:1 $share/+/y:1
			a< SUBACK #3 0x8F 0x8F 0x8F
			b> CONNECT v4 clean id=b
			b< CONNACK
			b> SUBSCRIBE #1 x:1 $share/g/y:1 $share//y:1
			b< SUBACK #1 0x01 0x01 0x80`},
		{"invalid filter", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> SUBSCRIBE #1 x/#/y:1 x:1
			a< SUBACK #1 0x8F 0x01`},
		{"unsubscribe", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> SUBSCRIBE #1 x:0
			a< SUBACK #1 0x00
			a> UNSUBSCRIBE #2 x y
			a< UNSUBACK #2 0x00 0x11
			a> PUBLISH q1 #3 t=x "m"
			a< PUBACK #3
			a<-`},
		{"no local", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> SUBSCRIBE #1 x:0,nl
			a< SUBACK #1 0x00
			a> PUBLISH q1 #2 t=x "m"
			a< PUBACK #2
			a<-`},
	})
}

func TestRetained(t *testing.T) {
	run(t, nil, []flow{
		{"before, after and cleared", `
			p> CONNECT v5 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 retain t=x "r"
			p< PUBACK #1
			s> CONNECT v5 clean id=s
			s< CONNACK
			s> SUBSCRIBE #1 x:1
			s< SUBACK #1 0x01
			s< PUBLISH q1 #1 retain t=x "r"
			s> PUBACK #1
			p> PUBLISH q1 #2 retain t=x "r2"
			p< PUBACK #2
			s< PUBLISH q1 #2 t=x "r2"
			s> PUBACK #2
			p> PUBLISH q1 #3 retain t=x
			p< PUBACK #3
			s< PUBLISH q1 #3 t=x
			s> PUBACK #3
			u> CONNECT v5 clean id=u
			u< CONNACK
			u> SUBSCRIBE #1 x:1
			u< SUBACK #1 0x01
			u<-`},
		{"publish and subscribe at once, on one connection", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			// PUBLISH retain q0 x "r" and SUBSCRIBE #1 x:0 in one write
			a>! 31 05 00 01 78 00 72 82 07 00 01 00 00 01 78 00
			a< SUBACK #1 0x00
			a< PUBLISH q0 retain t=x "r"`},
		{"over a restart", `
			p> CONNECT v4 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 retain t=x/1 "a"
			p< PUBACK #1
			p> PUBLISH q1 #2 retain t=x/1 "b"
			p< PUBACK #2
			restart
			s> CONNECT v4 clean id=s
			s< CONNACK
			s> SUBSCRIBE #1 x/+:0
			s< SUBACK #1 0x00
			s< PUBLISH q0 retain t=x/1 "b"`},
	})
}

func TestSessions(t *testing.T) {
	run(t, nil, []flow{
		{"messages wait for a client that is away", `
			s> CONNECT v4 id=s
			s< CONNACK
			s> SUBSCRIBE #1 x/#:1
			s< SUBACK #1 0x01
			s> DISCONNECT
			s<!
			p> CONNECT v4 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x/1 "1"
			p< PUBACK #1
			p> PUBLISH q1 #2 t=x/1 "2"
			p< PUBACK #2
			s> CONNECT v4 id=s
			s< CONNACK present
			s< PUBLISH q1 #1 t=x/1 "1"
			s< PUBLISH q1 #2 t=x/1 "2"
			s> PUBACK #1
			s> PUBACK #2
			s<-`},
		{"and over a restart", `
			s> CONNECT v5 id=s expiry=1000
			s< CONNACK
			s> SUBSCRIBE #1 x/#:2
			s< SUBACK #1 0x02
			s> DISCONNECT
			s<!
			p> CONNECT v4 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x/1 "1"
			p< PUBACK #1
			restart
			p> CONNECT v4 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x/1 "2"
			p< PUBACK #1
			s> CONNECT v5 id=s expiry=1000
			s< CONNACK present
			s< PUBLISH q1 #1 t=x/1 "1"
			s< PUBLISH q1 #2 t=x/1 "2"
			s> PUBACK #1
			s> PUBACK #2
			s<-`},
		{"an open QoS 2 publish survives a restart", `
			p> CONNECT v5 id=p expiry=1000
			p< CONNACK
			p> PUBLISH q2 #5 t=x "once"
			p< PUBREC #5
			restart
			p> CONNECT v5 id=p expiry=1000
			p< CONNACK present
			p> PUBLISH q2 #5 dup t=x "once"
			p< PUBREC #5
			p> PUBREL #5
			p< PUBCOMP #5`},
		{"an unacked delivery comes again", `
			s> CONNECT v4 id=s
			s< CONNACK
			s> SUBSCRIBE #1 x:1
			s< SUBACK #1 0x01
			p> CONNECT v4 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x "1"
			p< PUBACK #1
			s< PUBLISH q1 #1 t=x "1"
			s x
			s> CONNECT v4 id=s
			s< CONNACK present
			s< PUBLISH q1 #1 dup t=x "1"
			s> PUBACK #1
			s<-`},
		{"take-over", `
			a> CONNECT v5 id=c expiry=1000
			a< CONNACK
			a> SUBSCRIBE #1 x:0
			a< SUBACK #1 0x00
			b> CONNECT v5 id=c expiry=1000
			b< CONNACK present
			a< DISCONNECT 0x8E
			a<!
			b> PUBLISH q1 #1 t=x "m"
			b< PUBACK #1
			b< PUBLISH q0 t=x "m"`},
		{"receive maximum of the client", `
			s> CONNECT v5 clean id=s receive=2
			s< CONNACK
			s> SUBSCRIBE #1 x:1
			s< SUBACK #1 0x01
			p> CONNECT v5 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x "1"
			p< PUBACK #1
			p> PUBLISH q1 #2 t=x "2"
			p< PUBACK #2
			p> PUBLISH q1 #3 t=x "3"
			p< PUBACK #3
			s< PUBLISH q1 #1 t=x "1"
			s< PUBLISH q1 #2 t=x "2"
			s<-
			s> PUBACK #1
			s< PUBLISH q1 #3 t=x "3"`},
		{"maximum packet size of the client", `
			s> CONNECT v5 clean id=s packet=30
			s< CONNACK
			s> SUBSCRIBE #1 x:1
			s< SUBACK #1 0x01
			p> CONNECT v5 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=x "a payload that does not fit into it"
			p< PUBACK #1
			p> PUBLISH q1 #2 t=x "short"
			p< PUBACK #2
			s< PUBLISH q1 #1 t=x "short"`},
	})
}

func TestWills(t *testing.T) {
	run(t, nil, []flow{
		{"fires when the connection is lost", `
			w> CONNECT v4 clean id=w
			w< CONNACK
			w> SUBSCRIBE #1 will:1
			w< SUBACK #1 0x01
			a> CONNECT v5 clean id=a will=will will-q1 "gone"
			a< CONNACK
			a x
			w< PUBLISH q1 #1 t=will "gone"`},
		{"not after DISCONNECT", `
			w> CONNECT v4 clean id=w
			w< CONNACK
			w> SUBSCRIBE #1 will:1
			w< SUBACK #1 0x01
			a> CONNECT v5 clean id=a will=will "gone"
			a< CONNACK
			a> DISCONNECT
			a<!
			w<-`},
		{"after DISCONNECT 0x04, and after a protocol error", `
			w> CONNECT v4 clean id=w
			w< CONNACK
			w> SUBSCRIBE #1 will:0
			w< SUBACK #1 0x00
			a> CONNECT v5 clean id=a will=will "gone"
			a< CONNACK
			a> DISCONNECT 0x04
			a<!
			w< PUBLISH q0 t=will "gone"
			b> CONNECT v4 clean id=b will=will "broken"
			b< CONNACK
			b>! 00 00
			b<!
			w< PUBLISH q0 t=will "broken"`},
		{"not when the node stops", `
			w> CONNECT v4 id=w
			w< CONNACK
			w> SUBSCRIBE #1 will:1
			w< SUBACK #1 0x01
			a> CONNECT v5 id=a expiry=1000 will=will will-delay=500 "gone"
			a< CONNACK
			restart
			w> CONNECT v4 id=w
			w< CONNACK present
			w<-`},
	})
}

// rules is an Authorizer: "client action topic" lines that are denied.
type rules struct{ denied map[string]bool }

func (r rules) Allowed(k session.Key, a broker.Action, topic string) bool {
	return !r.denied[k.ClientID+" "+[]string{"publish", "subscribe", "receive"}[a]+" "+topic]
}

func TestAuthorization(t *testing.T) {
	change := func(o *broker.Options) {
		o.Authorizer = rules{map[string]bool{"p publish no": true, "s subscribe no": true, "s receive x/no": true}}
		o.Authenticate = func(_ context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			if c.Username == "nobody" {
				return broker.Principal{}, packet.BadUsernameOrPassword
			}
			return broker.Principal{Name: c.Username}, packet.Success
		}
	}
	run(t, change, []flow{
		{"authentication", `
			a> CONNECT v5 clean id=a user=nobody
			a< CONNACK 0x86
			a<!
			b> CONNECT v4 clean id=b user=nobody password=x
			b< CONNACK 0x86
			b<!`},
		{"a client id under another principal is another session", `
			a> CONNECT v5 id=c user=one expiry=100
			a< CONNACK
			b> CONNECT v5 id=c user=two expiry=100
			b< CONNACK
			a<-`},
		{"publish", `
			p> CONNECT v5 clean id=p
			p< CONNACK
			p> PUBLISH q1 #1 t=no "x"
			p< PUBACK #1 0x87
			p> PUBLISH q2 #2 t=no "x"
			p< PUBREC #2 0x87
			p> PUBLISH q0 t=no "x"
			p<-`},
		{"will", `
			p> CONNECT v5 clean id=p will=no "x"
			p< CONNACK 0x87
			p<!`},
		{"subscribe and receive", `
			s> CONNECT v5 clean id=s
			s< CONNACK
			s> SUBSCRIBE #1 no:1 x/#:1
			s< SUBACK #1 0x87 0x01
			p> CONNECT v5 clean id=q
			p< CONNACK
			p> PUBLISH q1 #1 t=x/no "n"
			p< PUBACK #1
			p> PUBLISH q1 #2 t=x/yes "y"
			p< PUBACK #2
			s< PUBLISH q1 #1 t=x/yes "y"`},
	})
}

// TestUnlogged is about `store: false` routes: live subscribers get the message, at QoS 0; the publisher is acked.
func TestUnlogged(t *testing.T) {
	n := newNode(t, nil)
	n.transcript(`
		s> CONNECT v5 clean id=s
		s< CONNACK
		s> SUBSCRIBE #1 raw/#:1
		s< SUBACK #1 0x01
		p> CONNECT v5 clean id=p
		p< CONNACK
		p> PUBLISH q1 #1 t=raw/1 user:k=v "m"
		p< PUBACK #1
		s< PUBLISH q0 user:k=v t=raw/1 "m"
		s<-`)
	if got := n.b.Stats().Unreceipted; got != 1 {
		t.Errorf("publishes acked without a receipt: %d, want 1", got)
	}
	if got := n.store.logged("raw/1"); len(got) != 0 {
		t.Errorf("logged: %q", got)
	}
}
