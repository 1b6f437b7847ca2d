package broker_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// denies is an Authorizer that refuses what its field says.
type denies struct{ publish, subscribe, receive bool }

func (d denies) Allowed(_ session.Key, a broker.Action, topic string) bool {
	switch a {
	case broker.Publish:
		return !d.publish
	case broker.Subscribe:
		return !d.subscribe
	}
	return !d.receive || topic == "free"
}

// TestRefusalsDoNotLog floods every way in which something is refused or dropped: each is counted, and the log does not grow with it. A
// line per refusal would be what brings an overloaded server down.
func TestRefusalsDoNotLog(t *testing.T) {
	plain := newPKI(t, false)
	turned := func(why string) func(broker.Stats) int64 { return func(s broker.Stats) int64 { return s.Turned[why] } }
	refused := func(why string) func(broker.Stats) int64 { return func(s broker.Stats) int64 { return s.Refused[why] } }
	ended := func(why string) func(broker.Stats) int64 { return func(s broker.Stats) int64 { return s.Ended[why] } }
	dropped := func(why string) func(broker.Stats) int64 { return func(s broker.Stats) int64 { return s.Dropped[why] } }
	knock := func(n *node, _ int) { // just a connection
		if nc, err := net.Dial("tcp", n.addr); err == nil {
			nc.Close()
		}
	}
	greet := func(line string) func(n *node, i int) { // a CONNECT
		return func(n *node, i int) {
			c := n.dial()
			c.send(strings.ReplaceAll(line, "%d", fmt.Sprint(i)))
			c.next()
			c.nc.Close()
		}
	}
	raw := func(b string) func(n *node, i int) {
		return func(n *node, i int) {
			c := n.dial()
			c.dec.Version = packet.V5
			c.write([]byte(b))
			c.nc.SetReadDeadline(time.Now().Add(patience))
			c.nc.Read(make([]byte, 100))
			c.nc.Close()
		}
	}
	var mu sync.Mutex
	one := map[*node]*client{}
	the := func(n *node) *client {
		mu.Lock()
		defer mu.Unlock()
		return one[n]
	}
	is := func(n *node, c *client) *client {
		mu.Lock()
		defer mu.Unlock()
		one[n] = c
		return c
	}
	same := func(line string) func(n *node, i int) { // packets of one client
		return func(n *node, i int) {
			c := the(n)
			if c == nil {
				c = is(n, n.connected("CONNECT v5 id=same"))
			}
			c.send(strings.ReplaceAll(line, "%d", fmt.Sprint(i+1)))
			c.quietly()
		}
	}
	fatal := func(lines ...string) func(n *node, i int) { // the end of a connection each
		return func(n *node, i int) {
			c := n.connected(fmt.Sprintf("CONNECT v5 clean id=c%d", i))
			c.send(lines...)
			for c.next() != nil {
			}
			c.nc.Close()
		}
	}
	for _, x := range []struct {
		name  string
		set   func(*broker.Options)
		lis   func(*broker.ListenerOptions)
		ready func(*node)
		hit   func(n *node, i int)
		count func(broker.Stats) int64
	}{
		{"connection limit", func(o *broker.Options) { o.Limits.Connections = 1 }, nil, func(n *node) { n.connected("CONNECT v5 id=a") }, knock, turned("connection_limit")},
		{"half open limit", func(o *broker.Options) { o.Limits.HalfOpenPerIP = 1 }, nil, func(n *node) { n.dial() }, knock, turned("half_open_limit")},
		{"listener limit", nil, func(o *broker.ListenerOptions) { o.Limits.Connections = 1 }, func(n *node) { n.connected("CONNECT v5 id=a") }, knock, turned("listener_connection_limit")},
		{"connect rate", func(o *broker.Options) { o.Limits.Rates.Connects = broker.Rate{PerSecond: 0.01, Burst: 1} }, nil, func(n *node) { n.dial() }, knock, turned("connect_rate")},
		{"address rate", func(o *broker.Options) { o.Limits.Rates.ConnectsPerIP = broker.Rate{PerSecond: 0.01, Burst: 1} }, nil, func(n *node) { n.dial() }, knock, turned("connect_rate_of_address")},
		{"banned address", func(o *broker.Options) { o.Bans = []broker.Ban{{Network: loopback[0]}} }, nil, nil, knock, turned("banned")},
		{"banned client", func(o *broker.Options) { o.Bans = []broker.Ban{{Client: "a"}} }, nil, nil, greet("CONNECT v5 id=a"), turned("banned")},
		{"evacuated", nil, nil, func(n *node) { n.b.Evacuate(context.Background(), "x:1", 0) }, greet("CONNECT v5 id=a"), turned("use_another_server")},
		{"not authenticated", func(o *broker.Options) {
			o.Authenticate = func(context.Context, *packet.Connect, broker.ConnInfo) (broker.Principal, packet.Code) {
				return broker.Principal{}, packet.NotAuthorized
			}
		}, nil, nil, greet("CONNECT v5 id=a"), turned("not_authorized")},
		{"client id", nil, nil, nil, greet("CONNECT v5 id=a\x01%d"), turned("client_identifier_not_valid")},
		{"too many sessions", func(o *broker.Options) { o.Session.MaxSessions = 1 }, nil, func(n *node) { n.connected("CONNECT v5 id=a") }, greet("CONNECT v5 id=b%d"), turned("quota_exceeded")},
		{"too many wills", func(o *broker.Options) { o.Session.MaxWillBytes = 1 }, nil, func(n *node) { n.connected(`CONNECT v5 id=a will=w "x"`) }, greet(`CONNECT v5 id=b%d will=w "x"`), turned("quota_exceeded")},
		{"will denied", func(o *broker.Options) { o.Authorizer = denies{publish: true} }, nil, nil, greet(`CONNECT v5 id=b%d will=w "x"`), turned("not_authorized")},
		{"large CONNECT", nil, nil, nil, raw("\x10\xFF\xFF\x7F"), turned("packet_too_large")},
		{"nonsense", nil, nil, nil, raw("GET / HTTP/1.1\r\n\r\n"), turned("protocol_error")},
		{"nonsense to TLS", nil, func(o *broker.ListenerOptions) { o.Transport.TLS = plain.source }, nil, raw("\x16\x03\x01\x00\x05hello"), turned("tls_handshake_failed")},
		{"no PROXY header", nil, func(o *broker.ListenerOptions) { o.Transport.Proxies = loopback }, nil, raw("nonsense nonsense nonsense"), turned("proxy_header")},
		{"no WebSocket", nil, func(o *broker.ListenerOptions) { o.Transport.WebSocket = &transport.WebSocket{Path: "/mqtt"} }, nil, raw("nonsense\r\n\r\n"), turned("websocket_not_http")},
		{"publish denied", func(o *broker.Options) { o.Authorizer = denies{publish: true} }, nil, nil, same(`PUBLISH q0 t=x "m"`), refused("not_authorized")},
		{"$ topic", nil, nil, nil, same(`PUBLISH q0 t=$x "m"`), refused("topic_name_invalid")},
		{"reserved property", nil, nil, nil, same(`PUBLISH q0 user:mr-x=1 t=x "m"`), refused("implementation_specific_error")},
		{"refused by the log", nil, nil, func(n *node) {
			n.store.refusing(func(*session.Message) error { return refusal(packet.QuotaExceeded, "full") })
		}, same(`PUBLISH q0 t=x "m"`), refused("quota_exceeded")},
		{"too many retained", func(o *broker.Options) { o.Session.MaxRetained = 1 }, nil, func(n *node) {
			c := n.connected("CONNECT v5 id=r")
			c.send(`PUBLISH q1 #1 retain t=x "m"`, "SUBSCRIBE #2 none:0")
			c.expect("PUBACK #1", "SUBACK #2 0x00")
		}, same(`PUBLISH q0 retain t=y%d "m"`), refused("quota_exceeded")},
		{"lenient", nil, func(o *broker.ListenerOptions) { o.Lenient, o.Limits.ReceiveMaximum = true, 1 }, func(n *node) { n.store.hold() }, func(n *node, i int) {
			c := the(n)
			if c == nil {
				c = is(n, n.connected("CONNECT v5 id=same"))
				c.send(`PUBLISH q1 #60000 t=x "m"`)
			}
			c.send(fmt.Sprintf(`PUBLISH q1 #%d t=x "m"`, i+1))
		}, refused("receive_maximum_exceeded_tolerated")},
		{"too many subscriptions", func(o *broker.Options) { o.Session.MaxSubs = 1 }, nil, func(n *node) {}, same("SUBSCRIBE #1 x%d:0 y%d:0"), func(s broker.Stats) int64 { return s.Session.SubsRefused }},
		{"delivery denied", func(o *broker.Options) { o.Authorizer = denies{receive: true} }, nil, func(n *node) {
			c := n.connected("CONNECT v5 id=s")
			c.send("SUBSCRIBE #1 x:1")
			c.expect("SUBACK #1 0x01")
		}, same(`PUBLISH q0 t=x "m"`), dropped(session.DropDenied)},
		{"delivery too large", nil, nil, func(n *node) {
			c := n.connected("CONNECT v5 id=s packet=20")
			c.send("SUBSCRIBE #1 x:1")
			c.expect("SUBACK #1 0x01")
		}, same(`PUBLISH q0 t=x "a message of more than that"`), dropped(session.DropTooLarge)},
		{"receive maximum", nil, func(o *broker.ListenerOptions) { o.Limits.ReceiveMaximum = 1 }, nil,
			fatal(`PUBLISH q2 #1 t=x "m"`, `PUBLISH q2 #2 t=x "m"`), ended("receive_maximum_exceeded")},
		{"topic alias", nil, nil, nil, fatal(`PUBLISH q0 alias=999 t=x "m"`), ended("topic_alias_invalid")},
		{"wildcard in a topic", nil, nil, nil, fatal(`PUBLISH q0 t=x/# "m"`), ended("malformed_packet")},
		{"a second CONNECT", nil, nil, nil, fatal("CONNECT v5 id=again"), ended("protocol_error")},
		{"packet too large", nil, func(o *broker.ListenerOptions) { o.Limits.PacketBytes = 1024 }, nil, fatal(`PUBLISH q0 t=x "` + strings.Repeat("x", 2000) + `"`), ended("packet_too_large")},
		{"taken over", nil, nil, nil, greet("CONNECT v5 id=twin"), func(s broker.Stats) int64 {
			return s.Ended["session_taken_over"] + s.Ended["connection_closed_by_client"]
		}},
		{"flapping", func(o *broker.Options) { o.Flapping.Losses = 1 }, nil, nil, greet("CONNECT v5 id=f%d"), func(s broker.Stats) int64 { return s.Flapping["banned"] }},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			w := way{reach: reach()}
			n := w.over(t, func(o *broker.Options) {
				o.Logger = log.logger()
				if x.set != nil {
					x.set(o)
				}
			}, func(o *broker.ListenerOptions) {
				if x.lis != nil {
					x.lis(o)
				}
			})
			if x.ready != nil {
				x.ready(n)
			}
			const times = 100
			before := log.with("")
			for i := range times {
				x.hit(n, i)
			}
			eventually(t, "the counter", func() bool { return x.count(n.b.Stats()) >= times })
			if said := log.with("") - before; said > 5 {
				t.Errorf("%d refusals made %d lines:\n%s", times, said, log.b.String())
			}
			n.store.release()
		})
	}
}

// quietly reads what the broker has to say until it has answered a PINGREQ.
func (c *client) quietly() {
	c.t.Helper()
	c.send("PINGREQ")
	for {
		switch c.next().(type) {
		case *packet.Ping:
			return
		case nil:
			c.t.Fatal("the connection is closed")
		}
	}
}
