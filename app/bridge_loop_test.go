package app

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// both sides of a bridge publish; each message is in each log once, however many bridges there are: copies allows for more.
func bridgedOnce(t *testing.T, a, b *site, copies int) {
	t.Helper()
	const n = 20
	at, bt := a.client("device-a", packet.V5), b.client("device-b", packet.V5)
	for i := range n {
		publishOn(t, at, "fleet/1/telemetry", fmt.Sprint("a", i), byte(1+i%2))
		publishOn(t, bt, "fleet/1/telemetry", fmt.Sprint("b", i), byte(1+i%2))
	}
	drainOf(t, at)
	drainOf(t, bt)
	settledAt := func() (total int) {
		return len(logged(t, a.node)["fleet/1/telemetry"]) + len(logged(t, b.node)["fleet/1/telemetry"])
	}
	eventually(t, "everything is on both sides", func() bool {
		for _, s := range []*site{a, b} {
			seen := map[string]bool{}
			for _, text := range logged(t, s.node)["fleet/1/telemetry"] {
				seen[text] = true
			}
			if len(seen) != 2*n {
				return settledAt() > 20*n // a loop
			}
		}
		return true
	})
	// A loop would go round at once; it is given time for that.
	for quiet, was := 0, settledAt(); quiet < 20; time.Sleep(20 * time.Millisecond) {
		quiet++
		if now := settledAt(); now != was {
			if was, quiet = now, 0; now > 20*n {
				t.Fatalf("%d records of %d messages: they go round", now, 2*n)
			}
		}
	}
	for name, s := range map[string]*site{"a": a, "b": b} {
		count := map[string]int{}
		for _, text := range logged(t, s.node)["fleet/1/telemetry"] {
			count[text]++
		}
		for text, c := range count {
			if c > copies {
				t.Errorf("%s is %d times in the log of %s", text, c, name)
			}
		}
	}
}

// TestBridgeBothWays: one bridge carries a topic both ways, and nothing comes back.
func TestBridgeBothWays(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			b := newSite(t, "").start()
			a := newSite(t, bridgeTo(b.port, version, `  both: [{filter: "#", qos: 2}]`)).start().connected()
			bridgedOnce(t, a, b, 1)
		})
	}
}

// TestBridgesOfBoth: each of two nodes has a bridge to the other, and each carries everything both ways. A message then crosses twice,
// and no more.
func TestBridgesOfBoth(t *testing.T) {
	a, b := newSite(t, "").reserve(), newSite(t, "").reserve()
	a.text += bridgeTo(b.port, "5", `  both: [{filter: "#", qos: 2}]`)
	b.text += bridgeTo(a.port, "5", `  both: [{filter: "#", qos: 2}]`)
	a.start()
	b.start()
	a.connected()
	b.connected()
	bridgedOnce(t, a, b, 3)
	loops := uint64(0)
	for _, s := range []*site{a, b} {
		loops += s.status().Dropped["loop"]
	}
	if loops == 0 {
		t.Error("the loop guard had nothing to do")
	}
}

// TestBridgeRing: three nodes in a ring, each sending on to the next what it has, forward everything to everybody, once.
func TestBridgeRing(t *testing.T) {
	var ring [3]*site
	for i := range ring {
		ring[i] = newSite(t, "").reserve()
	}
	for i, s := range ring {
		s.text += bridgeTo(ring[(i+1)%3].port, "5", `  out: [{filter: "#", qos: 2}]`)
		s.start()
	}
	for _, s := range ring {
		s.connected()
	}
	for i, s := range ring {
		c := s.client("device", packet.V5)
		publishOn(t, c, "t", fmt.Sprint(i), 1)
		drainOf(t, c)
	}
	for i, s := range ring {
		eventually(t, fmt.Sprintf("node %d has everything", i), func() bool { return len(logged(t, s.node)["t"]) >= 4 }) // its own comes back once
	}
	time.Sleep(300 * time.Millisecond)
	for i, s := range ring {
		if got := logged(t, s.node)["t"]; len(got) != 4 {
			t.Errorf("node %d has %v", i, got)
		}
	}
}

// mosquitto starts Eclipse Mosquitto with an address of its own, and more in its configuration.
func mosquitto(t *testing.T, more string) (address string) {
	t.Helper()
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/mosquitto")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mosquitto is not installed")
		}
		t.Skip("SKIPPED: mosquitto is not installed, so no bridge was checked against it")
	}
	s := newSite(t, "").reserve()
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	var port int
	fmt.Sscanf(s.port, "127.0.0.1:%d", &port)
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nlog_dest none\n%s", port, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-c", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return s.port
}

// TestForeignBridgeToMosquitto carries topics both ways between a node and Mosquitto, which is away for a while.
func TestForeignBridgeToMosquitto(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			port := mosquitto(t, "")
			p := newProxy(t, func() string { return port })
			a := newSite(t, bridgeTo(p.address(), version, `  both: [{filter: "fleet/#", qos: 2}]`)).start().connected()
			there, here := watchAt(t, port, "there", "fleet/#", packet.V5), watchAt(t, a.port, "here", "fleet/#", packet.V5)
			device, app := a.client("device", packet.V5), joinAt(t, port, "app", packet.V5)
			const n = 300
			for i := range n {
				switch i {
				case 100:
					p.down.Store(true)
					p.cut()
				case 200:
					p.down.Store(false)
				}
				publishOn(t, device, "fleet/1/telemetry", fmt.Sprint(i), 2)
				publishOn(t, app, "fleet/2/telemetry", fmt.Sprint(i), 2)
			}
			drainOf(t, device)
			drainOf(t, app)
			eventually(t, "all is on both sides", func() bool { return there.len() >= 2*n && here.len() >= 2*n })
			time.Sleep(200 * time.Millisecond)
			for side, x := range map[string]*inbox{"there": there, "here": here} {
				for _, topic := range []string{"fleet/1/telemetry", "fleet/2/telemetry"} {
					var got []string
					for _, text := range x.texts() {
						var name, payload string
						if fmt.Sscan(text, &name, &payload); name == topic {
							got = append(got, payload)
						}
					}
					if err := inOrder(got, n, true); err != nil {
						t.Errorf("%s %s: %v", topic, side, err)
					}
				}
			}
		})
	}
}

// TestForeignMosquittosBridge has Mosquitto's own bridge come to a node that has one to Mosquitto too, for other topics; and nothing
// that Mosquitto has published comes back to it.
func TestForeignMosquittosBridge(t *testing.T) {
	a := newSite(t, "").start()
	port := mosquitto(t, fmt.Sprintf("connection edge\naddress %s\ntopic # both 1\nnotifications false\nrestart_timeout 1\n", a.port))
	here := watchAt(t, a.port, "here", "#", packet.V5)
	var there *inbox
	eventually(t, "Mosquitto is there", func() bool {
		l, err := newProbe(port)
		if err == nil {
			l.Close()
		}
		return err == nil
	})
	there = watchAt(t, port, "there", "#", packet.V5)
	device, app := a.client("device", packet.V5), joinAt(t, port, "app", packet.V5)
	eventually(t, "the bridge is there", func() bool {
		publishOn(t, app, "probe", "x", 1)
		return here.len() > 0
	})
	for i := range 50 {
		publishOn(t, device, "from/node", fmt.Sprint(i), 1)
		publishOn(t, app, "from/mosquitto", fmt.Sprint(i), 1)
	}
	drainOf(t, device)
	drainOf(t, app)
	count := func(x *inbox, topic string) (n int) {
		for _, text := range x.texts() {
			var name string
			if fmt.Sscan(text, &name); name == topic {
				n++
			}
		}
		return n
	}
	eventually(t, "all is on both sides", func() bool { return count(there, "from/node") >= 50 && count(here, "from/mosquitto") >= 50 })
	time.Sleep(300 * time.Millisecond)
	for _, c := range []struct {
		x     *inbox
		topic string
	}{{there, "from/node"}, {there, "from/mosquitto"}, {here, "from/node"}, {here, "from/mosquitto"}} {
		if n := count(c.x, c.topic); n != 50 {
			t.Errorf("%s came %d times", c.topic, n)
		}
	}
}
