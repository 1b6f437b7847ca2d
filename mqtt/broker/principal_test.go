package broker_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// letIn lets everybody in as the user they say they are, with what change does to that.
func letIn(change func(p *broker.Principal)) func(*broker.Options) {
	return func(o *broker.Options) {
		o.Authenticate = func(_ context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			p := broker.Principal{Name: c.Username}
			change(&p)
			return p, packet.Success
		}
	}
}

// A connection ends with what its client has shown, however lively, silent, or full of a keep-alive it is.
func TestUntil(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, 100 * time.Second, 129 * time.Second, 30 * time.Minute} {
		inBubble(t, letIn(func(p *broker.Principal) { p.Until = time.Now().Add(life) }), func(t *testing.T, b *broker.Broker, dial func() *client) {
			lively, silent := dial(), dial()
			lively.send("CONNECT v5 clean id=a user=u keepalive=60")
			lively.next()
			silent.send("CONNECT v4 clean id=b user=u")
			silent.next()
			began := time.Now()
			for time.Since(began) < life-5*time.Second {
				time.Sleep(min(50*time.Second, life-5*time.Second-time.Since(began)))
				lively.quiet()
			}
			lively.quiet()
			silent.quiet()
			if d := closesWithin(t, silent.nc, time.Minute); time.Since(began) < life || time.Since(began) > life+time.Second {
				t.Errorf("ended after %v, or %v, want %v", time.Since(began), d, life)
			}
			lively.expect("DISCONNECT 0x87")
			lively.nc.Close()
			eventually(t, "two ends counted", func() bool { return b.Stats().Ended["credential_expired"] == 2 })
		})
	}
	// What has ended already is not taken, and what never ends is not looked at.
	inBubble(t, letIn(func(p *broker.Principal) {
		if p.Name == "late" {
			p.Until = time.Now()
		}
	}), func(t *testing.T, b *broker.Broker, dial func() *client) {
		late := dial()
		late.send("CONNECT v5 clean id=a user=late")
		late.expect("CONNACK 0x87")
		c := dial()
		c.send("CONNECT v5 clean id=b user=u")
		c.next()
		time.Sleep(time.Hour)
		c.quiet()
		synctest.Wait()
	})
}

// The clock is asked, not the ticks: a machine that was asleep ends what has run out meanwhile as soon as it looks.
func TestUntilIsOfTheClock(t *testing.T) {
	var ahead atomic.Int64
	inBubble(t, func(o *broker.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		letIn(func(p *broker.Principal) { p.Until = o.Now().Add(24 * time.Hour) })(o)
	}, func(t *testing.T, _ *broker.Broker, dial func() *client) {
		c := dial()
		c.send("CONNECT v5 clean id=a user=u")
		c.next()
		ahead.Store(int64(25 * time.Hour))
		if d := closesWithin(t, c.nc, time.Hour); d > 129*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// Recheck ends the connections of those that do not hold any more, and of nobody else; a new one of theirs is not let in.
func TestRecheckHolds(t *testing.T) {
	var gone sync.Map
	n := newNode(t, letIn(func(p *broker.Principal) {
		name := p.Name
		p.Holds = func() bool { _, is := gone.Load(name); return !is }
	}))
	a, b := n.connected("CONNECT v5 id=a user=a expiry=100"), n.connected("CONNECT v5 id=b user=b")
	old := n.connected("CONNECT v4 clean id=c user=a")
	n.b.Recheck()
	a.quiet()
	gone.Store("a", true)
	n.b.Recheck()
	a.expect("DISCONNECT 0x87")
	a.expectClosed()
	old.expectClosed()
	b.quiet()
	c := n.dial()
	c.send("CONNECT v5 id=a user=a") // what let it in was taken away while it was looked at
	c.expect("CONNACK 0x87")
	c.expectClosed()
	gone.Delete("a")
	c = n.dial()
	c.send("CONNECT v5 id=a user=a expiry=100")
	c.expect("CONNACK present") // the session is the account's, and is there still
	eventually(t, "the counter", func() bool { return n.b.Stats().Ended["credential_revoked"] == 2 })
}

// A bound client id is the account's, or one of the many that begin with it.
func TestBoundClientIDs(t *testing.T) {
	n := newNode(t, letIn(func(p *broker.Principal) {
		if p.Name == "" {
			*p = broker.Anonymous
		}
	}))
	n.connected("CONNECT v5 clean id=any user=truck-7") // a listener says whether
	n.stop()
	n.lis.BoundClientIDs = true
	n.start()
	for _, c := range []struct{ hello, want string }{
		{"id=truck-7 user=truck-7", "CONNACK"},
		{"id=truck-7:app user=truck-7", "CONNACK"},
		{"id=truck-7: user=truck-7", "CONNACK"},
		{"id=truck-8 user=truck-7", "CONNACK 0x85"},
		{"id=truck-77 user=truck-7", "CONNACK 0x85"},
		{"id=truck-7-app user=truck-7", "CONNACK 0x85"},
		{"id=truck- user=truck-7", "CONNACK 0x85"},
		{"id=Truck-7 user=truck-7", "CONNACK 0x85"},
		{"id=:truck-7 user=truck-7", "CONNACK 0x85"},
		{"id=" + strings.Repeat("x", 300) + " user=truck-7", "CONNACK 0x85"},
		{"id=anything", "CONNACK"}, // nobody's
	} {
		d := n.dial()
		d.send("CONNECT v5 clean " + c.hello)
		d.expect(c.want)
	}
	d := n.dial()
	d.send("CONNECT v5 clean user=truck-7")
	if p, _ := d.next().(*packet.Connack); p == nil || !strings.HasPrefix(p.Props.AssignedClientID, "truck-7:auto-") {
		t.Errorf("an assigned client id: %+v", p)
	}
	d = n.dial()
	d.send("CONNECT v5 clean user=" + strings.Repeat("x", 250))
	d.expect("CONNACK 0x85") // there is no room for one
}

// Authentication that takes its time holds up its own client only, and no longer than it may; what was not an answer is none.
func TestAuthenticationThatHangs(t *testing.T) {
	inBubble(t, func(o *broker.Options) {
		o.Authenticate = func(ctx context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			switch c.Username {
			case "slow":
				<-ctx.Done()
				return broker.Principal{}, packet.ServerUnavailable
			case "bug":
				panic("a link with a bug")
			}
			return broker.Principal{Name: c.Username}, packet.Success
		}
	}, func(t *testing.T, b *broker.Broker, dial func() *client) {
		slow := dial()
		slow.send("CONNECT v5 clean id=a user=slow")
		began := time.Now()
		for range 9 {
			c := dial()
			c.send("CONNECT v5 clean id=b user=quick")
			c.expect("CONNACK")
			c.nc.Close()
			time.Sleep(time.Second)
		}
		slow.expect("CONNACK 0x88")
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("after %v, want 10 s", d)
		}
		bug := dial()
		bug.send("CONNECT v5 clean id=c user=bug")
		bug.expectClosed()
	})
}
