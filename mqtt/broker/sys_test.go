package broker_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

func nobody(context.Context, *packet.Connect, broker.ConnInfo) (broker.Principal, packet.Code) {
	return broker.Principal{}, packet.NotAuthorized
}

func withSys(every time.Duration) func(*broker.Options) {
	return func(o *broker.Options) { o.SysInterval, o.Version = every, "1.2.3" }
}

// collect reads PUBLISHes until what was asked for has come.
func (c *client) collect(until func(map[string]string) bool) map[string]string {
	c.t.Helper()
	got := map[string]string{}
	for !until(got) {
		p, ok := c.next().(*packet.Publish)
		if !ok {
			c.t.Fatalf("%v is no PUBLISH", p)
		}
		if p.QoS != 0 {
			c.t.Errorf("%s at QoS %d", p.Topic, p.QoS)
		}
		got[string(p.Topic)] = string(p.Payload)
	}
	return got
}

// Who subscribes gets the values of now at once, as retained messages, whatever the interval; # is no subscription to them.
func TestSysNow(t *testing.T) {
	n := newNode(t, withSys(time.Hour))
	eventually(t, "there are values", func() bool { _, ok := n.b.Sys()["$SYS/broker/version"]; return ok })
	a := n.connected("CONNECT v5 id=a expiry=100")
	a.send("SUBSCRIBE #1 #:1")
	a.expect("SUBACK #1 0x01")
	a.quiet()
	a.send("SUBSCRIBE #2 sid=9 $SYS/broker/version:1")
	a.expect("SUBACK #2 0x01", "PUBLISH q0 retain sid=9 t=$SYS/broker/version \"millrace version 1.2.3\"")
	a.send("SUBSCRIBE #3 $SYS/#:1")
	a.expect("SUBACK #3 0x01")
	got := a.collect(func(m map[string]string) bool { return len(m) == len(n.b.Sys()) })
	for _, name := range []string{"uptime", "clients/connected", "clients/disconnected", "clients/total", "clients/maximum", "clients/expired", "messages/received",
		"messages/sent", "publish/messages/received", "publish/messages/sent", "publish/messages/dropped", "bytes/received", "bytes/sent", "subscriptions/count",
		"retained messages/count", "load/messages/received/1min", "load/bytes/sent/5min", "load/connections/15min"} {
		if _, ok := got["$SYS/broker/"+name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	// Retain handling 1 gives them to a new subscription only, 2 never.
	a.send("SUBSCRIBE #4 $SYS/broker/version:1,rh1")
	a.expect("SUBACK #4 0x01")
	a.quiet()
	a.send("SUBSCRIBE #5 $SYS/broker/+:1,rh2")
	a.expect("SUBACK #5 0x01")
	a.quiet()
	if logged := n.store.logged("$SYS/broker/version"); len(logged) != 0 {
		t.Errorf("in the log: %q", logged)
	}
	// A device may not say such things.
	a.send("PUBLISH q1 #7 t=$SYS/broker/version \"mine\"")
	a.expect("PUBACK #7 0x90")
}

// What changes comes by itself, and agrees with the counters.
func TestSysChanges(t *testing.T) {
	n := newNode(t, withSys(10*time.Millisecond))
	a := n.connected("CONNECT v4 clean id=a")
	a.send("SUBSCRIBE #1 $SYS/broker/publish/messages/received:0")
	b := n.connected("CONNECT v5 id=b")
	b.send("PUBLISH q1 #1 t=x \"m\"", "PUBLISH q1 #2 t=x \"m\"", "PUBLISH q0 t=x \"m\"")
	b.expect("PUBACK #1", "PUBACK #2")
	if p, ok := a.next().(*packet.Suback); !ok {
		t.Fatalf("%v", p)
	}
	a.collect(func(m map[string]string) bool { return m["$SYS/broker/publish/messages/received"] == "3" })
	eventually(t, "the values are the counters'", func() bool {
		s, v := n.b.Stats(), n.b.Sys()
		return v["$SYS/broker/publish/messages/received"] == itoa(s.Received[0]+s.Received[1]+s.Received[2]) && v["$SYS/broker/clients/connected"] == itoa(int64(s.Session.Connected)) &&
			s.Session.Connected == 2 && v["$SYS/broker/subscriptions/count"] == "1" && v["$SYS/broker/clients/maximum"] == "2"
	})
	if up := n.b.Sys()["$SYS/broker/uptime"]; !strings.HasSuffix(up, " seconds") {
		t.Errorf("uptime %q", up)
	}
}

func TestSysOff(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a")
	a.send("SUBSCRIBE #1 $SYS/#:0")
	a.expect("SUBACK #1 0x00")
	a.quiet()
}

// The policy decides on these as on others.
func TestSysDenied(t *testing.T) {
	n := newNode(t, func(o *broker.Options) {
		withSys(time.Hour)(o)
		o.Authorizer = noReceiving{}
	})
	eventually(t, "there are values", func() bool { return len(n.b.Sys()) > 0 })
	a := n.connected("CONNECT v5 id=a")
	a.send("SUBSCRIBE #1 $SYS/#:0")
	a.expect("SUBACK #1 0x00")
	a.quiet()
}

// What was refused of a SUBSCRIBE is not had by way of another one with the same packet id, which is answered first.
func TestSysRefused(t *testing.T) {
	n := newNode(t, func(o *broker.Options) {
		withSys(time.Hour)(o)
		o.Authorizer = rules{map[string]bool{"a subscribe $SYS/#": true}}
	})
	eventually(t, "there are values", func() bool { return len(n.b.Sys()) > 0 })
	a := n.connected("CONNECT v5 id=a expiry=100")
	a.send("SUBSCRIBE #1 x:1 y:1")
	a.expect("SUBACK #1 0x01 0x01")
	a.send("SUBSCRIBE #2 z:1 $SYS/#:1", "SUBSCRIBE #2 x:1 y:1") // the first waits for the log, the second changes nothing
	a.expect("SUBACK #2 0x01 0x01", "SUBACK #2 0x01 0x87")
	a.quiet()
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

type noReceiving struct{}

func (noReceiving) Allowed(_ session.Key, a broker.Action, _ string) bool { return a != broker.Receive }

// Every packet is one, however many came or went at once.
func TestPacketsAreCounted(t *testing.T) {
	n := newNode(t, nil)
	a := n.connected("CONNECT v5 id=a")
	a.send("PUBLISH q1 #1 t=x \"m\"", "PUBLISH q2 #2 t=x \"m\"", "PUBLISH q1 #3 t=$SYS/x \"m\"", "PUBLISH q1 #4 t=x \"m\"", "PUBLISH q0 t=x \"m\"")
	a.expect("PUBACK #1", "PUBREC #2", "PUBACK #3 0x90", "PUBACK #4")
	a.send("SUBSCRIBE #5 y:0")
	a.expect("SUBACK #5 0x00")
	a.send("PUBLISH q0 t=y \"m\"")
	a.expect("PUBLISH q0 t=y \"m\"")
	a.quiet()
	eventually(t, "all are counted", func() bool { s := n.b.Stats(); return s.PacketsIn == 9 && s.PacketsOut == 8 })
}
