package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// lines is a log that tests count the lines of.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// with counts the lines that contain a text.
func (l *lines) with(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// TestFlapping: who loses connection after connection is kept out for a while, and let in again. Others with the same client id are not
// concerned, nor is who disconnects.
func TestFlapping(t *testing.T) {
	flapping := func(o *broker.Options) {
		o.Flapping = broker.Flapping{Losses: 5, Window: 10 * time.Second, Ban: time.Minute}
		o.Authenticate = func(_ context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			if c.Username == "" {
				return broker.Principal{}, packet.NotAuthorized
			}
			return broker.Principal{Name: c.Username}, packet.Success
		}
	}
	inBubble(t, flapping, func(t *testing.T, b *broker.Broker, dial func() *client) {
		connect := func(line, want string, end func(c *client)) {
			t.Helper()
			c := dial()
			c.send(line)
			c.expect(want)
			end(c)
			c.nc.Close()
			time.Sleep(100 * time.Millisecond)
		}
		lose := func(*client) {}
		leave := func(c *client) { c.send("DISCONNECT"); c.expectClosed() }
		for range 20 { // short visits are no flapping
			connect("CONNECT v5 id=a user=alice", "CONNACK", leave)
		}
		for range 20 { // a stranger has nobody banned
			connect("CONNECT v5 id=a", "CONNACK 0x87", lose)
		}
		for range 4 {
			connect("CONNECT v5 id=slow user=alice", "CONNACK", lose)
		}
		time.Sleep(10 * time.Second)
		for range 4 { // not within one window
			connect("CONNECT v5 id=slow user=alice", "CONNACK", lose)
		}
		if got := b.Bans(); len(got) != 0 {
			t.Fatalf("banned: %+v", got)
		}
		for range 5 {
			connect("CONNECT v5 id=a user=alice", "CONNACK", lose)
		}
		connect("CONNECT v5 id=a user=alice", "CONNACK 0x8A", lose)
		connect("CONNECT v5 id=a user=bob", "CONNACK", leave)
		connect("CONNECT v5 id=b user=alice", "CONNACK", leave)
		if got := b.Bans(); len(got) != 1 || got[0].Client != "a" || got[0].Principal != "alice" || got[0].By != broker.ByFlapping {
			t.Errorf("banned: %+v", got)
		}
		time.Sleep(time.Minute)
		connect("CONNECT v5 id=a user=alice", "CONNACK", lose)
		if got := b.Stats().Flapping["banned"]; got != 1 {
			t.Errorf("%d bans counted", got)
		}
	})
}

// TestExemptFromFlapping: an account that is named is not banned, and its address is not, however often it loses its connection.
func TestExemptFromFlapping(t *testing.T) {
	n := newNode(t, func(o *broker.Options) {
		o.Flapping = broker.Flapping{Losses: 5, Failures: 10, Exempt: map[string]bool{"bridge": true}}
		o.Authenticate = func(_ context.Context, c *packet.Connect, _ broker.ConnInfo) (broker.Principal, packet.Code) {
			return broker.Principal{Name: c.Username}, packet.Success
		}
	})
	for i := range 20 {
		c := n.connected("CONNECT v5 id=a user=bridge")
		c.nc.Close()
		eventually(t, "the loss", func() bool { return n.b.Stats().Flapping["exempt"] == int64(i)+1 })
	}
	if len(n.b.Bans()) != 0 {
		t.Errorf("banned: %v", n.b.Bans())
	}
	for range 5 {
		n.connected("CONNECT v5 id=a user=alice").nc.Close()
	}
	eventually(t, "the ban of another", func() bool { return len(n.b.Bans()) == 1 })
}

// TestAddressFlapping: an address is banned only where that was asked for.
func TestAddressFlapping(t *testing.T) {
	for failures, want := range map[int]int{0: 0, 5: 1} {
		n := newNode(t, func(o *broker.Options) {
			o.Flapping.Failures = failures
			o.Authenticate = func(context.Context, *packet.Connect, broker.ConnInfo) (broker.Principal, packet.Code) {
				return broker.Principal{}, packet.BadUsernameOrPassword
			}
		})
		for range 5 {
			c := n.dial()
			c.send("CONNECT v5 id=a")
			c.expect("CONNACK 0x86")
			c.nc.Close()
		}
		eventually(t, "the counter", func() bool { return n.b.Stats().Turned["bad_user_name_or_password"] == 5 })
		eventually(t, "the ban", func() bool { return len(n.b.Bans()) == want })
		if want == 1 {
			n.dial().expectClosed()
		}
	}
}

// TestTakeOverLoop: two clients that use the same id are counted, and named in the log once.
func TestTakeOverLoop(t *testing.T) {
	var log lines
	n := newNode(t, func(o *broker.Options) { o.Logger = log.logger() })
	var last *client
	for i := range 40 {
		c := n.connected(fmt.Sprintf("CONNECT v5 clean id=twin keepalive=%d", i%2))
		if last != nil {
			last.expect("DISCONNECT 0x8E")
			last.expectClosed()
			last.nc.Close()
		}
		last = c
	}
	eventually(t, "the take-overs", func() bool { return n.b.Stats().Ended["session_taken_over"] == 39 })
	if s := n.b.Stats(); s.Flapping["take_over_loop"] != 1 || len(n.b.Bans()) != 0 {
		t.Errorf("%v; banned: %v", s.Flapping, n.b.Bans())
	}
	if got := log.with("twin"); got != 1 {
		t.Errorf("%d lines name the client", got)
	}
}
