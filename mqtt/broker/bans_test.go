package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// named lets everybody in as the user they say they are, and counts how often it was asked.
func named(asked *atomic.Int64) func(*broker.Options) {
	return func(o *broker.Options) {
		o.Authenticate = func(_ context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			asked.Add(1)
			return broker.Principal{Name: c.Username}, packet.Success
		}
	}
}

func TestBan(t *testing.T) {
	for _, x := range []struct {
		name string
		ban  broker.Ban
		asks int64 // a CONNECT that is refused costs so many authentications
	}{
		{"client", broker.Ban{Client: "a"}, 0},
		{"principal", broker.Ban{Principal: "alice"}, 1},
		{"client of a principal", broker.Ban{Client: "a", Principal: "alice"}, 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			var asked atomic.Int64
			n := newNode(t, named(&asked))
			v5 := n.connected("CONNECT v5 id=a user=alice expiry=1000")
			other := n.connected("CONNECT v5 id=b user=bob")
			same := n.connected("CONNECT v5 id=a user=carol")
			if err := n.b.Ban(x.ban); err != nil {
				t.Fatal(err)
			}
			v5.expect("DISCONNECT 0x98")
			v5.expectClosed()
			before := asked.Load()
			c := n.dial()
			c.send("CONNECT v5 id=a user=alice")
			c.expect("CONNACK 0x8A")
			c.expectClosed()
			c = n.dial()
			c.send("CONNECT v4 clean id=a user=alice")
			c.expect("CONNACK 0x87") // 5, not authorised
			c.expectClosed()
			if got := asked.Load() - before; got != 2*x.asks {
				t.Errorf("two refused CONNECTs were authenticated %d times", got)
			}
			other.quiet()
			ended := int64(1)
			if x.ban.Principal == "" {
				same.expect("DISCONNECT 0x98")
				ended++
			} else {
				same.quiet()
			}
			same.nc.Close()
			if !n.b.Unban(x.ban) || n.b.Unban(x.ban) {
				t.Error("lifted not once")
			}
			c = n.dial()
			c.send("CONNECT v5 id=a user=alice expiry=1000")
			c.expect("CONNACK present")
			v5.nc.Close()
			eventually(t, "the counters", func() bool {
				s := n.b.Stats()
				return s.Ended["banned"] == ended && s.Turned["banned"] == 2
			})
		})
	}
}

// TestBanNetwork: an address in a banned network gets no answer, and costs nothing but its accept.
func TestBanNetwork(t *testing.T) {
	for _, network := range []string{"127.0.0.1/32", "127.0.0.0/8", "::ffff:127.0.0.0/104", "0.0.0.0/0"} {
		n := newNode(t, nil)
		c := n.connected("CONNECT v5 id=a")
		if err := n.b.Ban(broker.Ban{Network: netip.MustParsePrefix(network)}); err != nil {
			t.Fatal(err)
		}
		c.expect("DISCONNECT 0x98")
		c.expectClosed()
		n.dial().expectClosed()
		if s := n.b.Stats(); s.Turned["banned"] != 1 {
			t.Errorf("%s: turned away: %v", network, s.Turned)
		}
		other := broker.Ban{Network: netip.MustParsePrefix("10.0.0.0/8")}
		if err := n.b.Ban(other); err != nil {
			t.Fatal(err)
		}
		if got := n.b.Bans(); len(got) != 2 {
			t.Errorf("%s: %v", network, got)
		}
		if !n.b.Unban(broker.Ban{Network: netip.MustParsePrefix(network)}) {
			t.Errorf("%s: not lifted", network)
		}
		n.connected("CONNECT v5 id=a")
	}
}

// TestBanMapped: a network that would keep nobody out is refused, however it is written; one of IPv6 is not.
func TestBanMapped(t *testing.T) {
	n := newNode(t, nil)
	for _, network := range []string{"::ffff:127.0.0.1/95", "::ffff:0:0/90", "::ffff:0:0/81", "::ffff:10.0.0.0/64", "::ffff:10.0.0.0/0"} {
		x := broker.Ban{Network: netip.MustParsePrefix(network)}
		if err := n.b.Ban(x); !errors.Is(err, broker.ErrMappedNetwork) {
			t.Errorf("%s: %v", network, err)
		}
		if x.Network = x.Network.Masked(); x.Network.Bits() > 80 {
			if err := n.b.Ban(x); !errors.Is(err, broker.ErrMappedNetwork) {
				t.Errorf("%s: %v", x.Network, err)
			}
		}
	}
	for _, network := range []string{"::/0", "::/64", "2001:db8::/32", "::1/128"} {
		if err := n.b.Ban(broker.Ban{Network: netip.MustParsePrefix(network)}); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
	n.connected("CONNECT v5 id=a") // over IPv4
}

// TestBanProxied: behind a proxy the client's own address counts, not the proxy's.
func TestBanProxied(t *testing.T) {
	w := way{reach: reach(behind("PROXY TCP4 192.0.2.7 192.0.2.1 4000 1883\r\n"))}
	w.options.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	n := w.over(t, nil)
	c := n.connected("CONNECT v5 id=a")
	if err := n.b.Ban(broker.Ban{Network: netip.MustParsePrefix("192.0.2.7/32")}); err != nil {
		t.Fatal(err)
	}
	c.expect("DISCONNECT 0x98")
	c = n.dial()
	c.send("CONNECT v5 id=a")
	c.expectClosed()
	eventually(t, "the counter", func() bool { return n.b.Stats().Turned["banned"] == 1 })
}

// TestBanWhileConnecting: a ban that comes while a CONNECT is being checked holds for it.
func TestBanWhileConnecting(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	n := newNode(t, func(o *broker.Options) {
		o.Authenticate = func(context.Context, *packet.Connect, broker.ConnInfo) (broker.Principal, packet.Code) {
			close(began)
			<-goOn
			return broker.Anonymous, packet.Success
		}
	})
	c := n.dial()
	c.send("CONNECT v5 id=a")
	<-began
	if err := n.b.Ban(broker.Ban{Client: "a"}); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	c.expect("CONNACK", "DISCONNECT 0x98")
	c.expectClosed()
}

func TestBanExpires(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *broker.Broker, dial func() *client) {
		if err := b.Ban(broker.Ban{Client: "a", Until: time.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		c := dial()
		c.send("CONNECT v5 id=a")
		c.expect("CONNACK 0x8A")
		time.Sleep(time.Minute)
		c = dial()
		c.send("CONNECT v5 id=a")
		c.expect("CONNACK")
		if got := b.Bans(); len(got) != 0 {
			t.Errorf("still banned: %v", got)
		}
	})
}

// TestBanList: what is in the list, its bound, and who is told.
func TestBanList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		o := broker.Options{Store: newMemStore(), Limits: broker.Limits{Bans: 3}, OnBan: func(x broker.Ban, begins bool) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(x.Client, x.Principal, begins))
		}}
		defer o.Store.(*memStore).close()
		o.Bans = []broker.Ban{{Client: "old", Until: time.Now()}, {Client: "kept", Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}}
		b := broker.New(o)
		for _, bad := range []broker.Ban{{}, {Principal: "a", Network: netip.MustParsePrefix("10.0.0.0/8")}, {Client: "a", Network: netip.MustParsePrefix("10.0.0.0/8")}} {
			if err := b.Ban(bad); !errors.Is(err, broker.ErrNobodyBanned) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		time.Sleep(time.Second)
		soon := time.Now().Add(time.Second)
		for _, x := range []broker.Ban{{Client: "a", Until: soon}, {Principal: "p"}} {
			if err := b.Ban(x); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Ban(broker.Ban{Client: "c"}); !errors.Is(err, broker.ErrTooManyBans) {
			t.Errorf("a fourth: %v", err)
		}
		if err := b.Ban(broker.Ban{Principal: "p", Reason: "again"}); err != nil {
			t.Errorf("one that is there: %v", err)
		}
		time.Sleep(time.Second) // there is room again
		if err := b.Ban(broker.Ban{Client: "c"}); err != nil {
			t.Error(err)
		}
		var names []string
		for _, x := range b.Bans() {
			names = append(names, x.Client+x.Principal+x.Reason)
		}
		if got := fmt.Sprint(names); got != "[c pagain kept]" {
			t.Errorf("listed: %s", got)
		}
		if got := fmt.Sprint(told); got != "[atrue ptrue ptrue afalse ctrue]" {
			t.Errorf("told: %s", got)
		}
	})
}
