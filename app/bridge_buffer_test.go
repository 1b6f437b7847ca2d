package app

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// named is the status of one of several bridges.
func (s *site) named(name string) bridge.Status {
	s.t.Helper()
	list, err := s.node.Bridges(s.t.Context())
	i := slices.IndexFunc(list, func(b bridge.Status) bool { return b.Name == name })
	if err != nil || i < 0 {
		s.t.Fatalf("%v, %v", list, err)
	}
	return list[i]
}

// TestBridgeBuffer: what waits for a remote that is away is bounded as the buffer says, expires as its sender says, and is counted.
func TestBridgeBuffer(t *testing.T) {
	b := newSite(t, "").start()
	p := newProxy(t, func() string { return b.port })
	p.down.Store(true)
	text := "bridges:\n"
	for _, name := range []string{"age", "bytes", "plain"} {
		text += fmt.Sprintf("- {name: %s, remote: {url: \"mqtt://%s\"}, out: [{filter: \"t/#\", remote_prefix: \"%s/\"}]}\n", name, p.address(), name)
	}
	a := newSite(t, text)
	a.tune = func(s *bridge.Spec) {
		switch s.Name {
		case "age":
			s.MaxAge = 400 * time.Millisecond
		case "bytes":
			s.MaxBytes = 1000
		}
	}
	a.start()
	there := watchAt(t, b.port, "there", "#", packet.V5)
	device := a.client("device", packet.V5)
	send := func(from, to int, change ...func(*packet.Publish)) {
		for i := from; i < to; i++ {
			publishOn(t, device, "t/x", fmt.Sprintf("%-100d", i), 1, change...)
		}
		drainOf(t, device)
	}
	send(0, 20)
	send(20, 30, func(p *packet.Publish) { p.Props.Has, p.Props.MessageExpiry = packet.PMessageExpiry, 1 })
	time.Sleep(1100 * time.Millisecond)
	send(30, 50)
	for _, name := range []string{"age", "bytes", "plain"} {
		if s := a.named(name); s.State == bridge.Connected || s.LastError == "" || s.Behind == 0 {
			t.Errorf("while the remote is away: %+v", s)
		}
	}
	p.down.Store(false)
	got := func(name string) (list []int) {
		for _, text := range there.texts() {
			if topic, payload, _ := strings.Cut(text, " "); topic == name+"/t/x" {
				var n int
				fmt.Sscan(payload, &n)
				list = append(list, n)
			}
		}
		return list
	}
	upTo := func(from, to int) (list []int) {
		for i := from; i < to; i++ {
			list = append(list, i)
		}
		return list
	}
	for _, name := range []string{"age", "bytes", "plain"} {
		eventually(t, name+" is through", func() bool { s := a.named(name); return s.Behind == 0 && s.InFlight == 0 })
	}
	eventually(t, "the last one is there", func() bool {
		return slices.Contains(got("plain"), 49) && slices.Contains(got("age"), 49) && slices.Contains(got("bytes"), 49)
	})
	if l := got("plain"); !slices.Equal(l, append(upTo(0, 20), upTo(30, 50)...)) || a.named("plain").Dropped[bridge.DropExpired] != 10 {
		t.Errorf("plain: %v, %+v", l, a.named("plain"))
	}
	if l := got("age"); !slices.Equal(l, upTo(30, 50)) || a.named("age").Dropped[bridge.DropAge] != 30 {
		t.Errorf("age: %v, %+v", l, a.named("age"))
	}
	l := got("bytes")
	dropped := a.named("bytes").Dropped
	if !slices.Equal(l, upTo(50-len(l), 50)) || len(l) < 9 || len(l) > 12 || dropped[bridge.DropBytes]+dropped[bridge.DropExpired] != uint64(50-len(l)) {
		t.Errorf("bytes: %v, %v", l, dropped)
	}
}

// TestBridgeGap: retention that overtakes a bridge is counted, and the bridge goes on behind it.
func TestBridgeGap(t *testing.T) {
	b := newSite(t, "").start()
	p := newProxy(t, func() string { return b.port })
	p.down.Store(true)
	a := newSite(t, bridgeTo(p.address(), "5", `  out: [{filter: "fleet/#"}]
  window: 1`)).start()
	device := a.client("device", packet.V5)
	const n = 400
	for i := range n {
		publishOn(t, device, "fleet/1/telemetry", fmt.Sprintf("%-4000d", i), 1)
	}
	drainOf(t, device)
	starts, ends, err := a.node.store.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for part, end := range ends {
		if end-starts[part] == n {
			pos := eventlog.Position{Part: eventlog.Part{Topic: part.Topic, Index: part.Index}, Offset: end - 3}
			if err := a.node.log.Trim(t.Context(), pos); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.stop() // what was in memory is not there any more
	p.down.Store(false)
	a.start()
	eventually(t, "the bridge is through", func() bool { s := a.status(); return s.Behind == 0 && s.InFlight == 0 && s.Connects > 0 })
	if got := logged(t, b.node)["fleet/1/telemetry"]; len(got) != 3 || a.status().Dropped[bridge.DropGap] != n-3 {
		t.Errorf("%d arrived, %+v", len(got), a.status())
	}
}

// TestBridgeRefused: what a remote refuses, by an answer or by ending the connection, is counted, and does not stop what comes after.
func TestBridgeRefused(t *testing.T) {
	for version, reason := range map[string]string{"5": bridge.DropRefused, "3.1.1": bridge.DropPoison} {
		t.Run(version, func(t *testing.T) {
			b := newSite(t, "").start()
			a := newSite(t, bridgeTo(b.port, version, `  out: [{filter: "bad", remote_prefix: "$"}, {filter: "good"}]
  window: 4`))
			a.impatient = true
			a.start().connected()
			device := a.client("device", packet.V5)
			var want []string
			for i := range 30 {
				if i == 10 {
					publishOn(t, device, "bad", "x", 1)
				}
				publishOn(t, device, "good", fmt.Sprint(i), 1)
				want = append(want, fmt.Sprint(i))
			}
			drainOf(t, device) // what is not in the log yet is not what the bridge is behind
			eventually(t, "the good ones are there", func() bool { s := a.status(); return s.Behind == 0 && s.InFlight == 0 && s.Dropped[reason] == 1 })
			if err := inOrder(logged(t, b.node)["good"], len(want), false); err != nil {
				t.Errorf("%v: %+v", err, a.status())
			}
			if s := a.status(); len(s.Dropped) != 1 || s.LastError == "" {
				t.Errorf("%+v", s)
			}
		})
	}
}
