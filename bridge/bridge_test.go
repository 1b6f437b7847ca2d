package bridge

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

func TestTopics(t *testing.T) {
	for _, c := range []struct {
		t             Topic
		local, remote string // "": not of it
	}{
		{Topic{Filter: "a/#"}, "a/b", "a/b"},
		{Topic{Filter: "a/#"}, "a", "a"},
		{Topic{Filter: "a/#", Local: "l/"}, "l/a/b", "a/b"},
		{Topic{Filter: "a/#", Remote: "r/"}, "a/b", "r/a/b"},
		{Topic{Filter: "+/x", Local: "l/", Remote: "r/s/"}, "l/a/x", "r/s/a/x"},
		{Topic{Filter: "+/x", Local: "l/", Remote: "r/s/"}, "l/a/y", ""},
		{Topic{Filter: "", Local: "here", Remote: "there"}, "here", "there"},
		{Topic{Filter: "", Local: "here", Remote: "there"}, "here/x", ""},
		{Topic{Filter: "#"}, "$SYS/x", ""},
		{Topic{Filter: "broker/#", Local: "far/", Remote: "$SYS/"}, "far/broker/uptime", "$SYS/broker/uptime"},
	} {
		if err := c.t.Check(); err != nil {
			t.Errorf("%+v: %v", c.t, err)
		}
		if _, got := outTopic([]Topic{c.t}, c.local); got != c.remote {
			t.Errorf("%+v: %q goes out as %q", c.t, c.local, got)
		}
		if c.remote == "" {
			continue
		}
		if _, got := inTopic([]Topic{c.t}, c.remote); got != c.local {
			t.Errorf("%+v: %q comes in as %q", c.t, c.remote, got)
		}
	}
	for _, bad := range []Topic{{}, {Local: "a"}, {Remote: "a"}, {Filter: "a/#/b"}, {Filter: "$share/g/a"}, {Filter: "a", Local: "+/"}, {Local: "#", Remote: "a"}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func part(i byte) session.Part { return session.Part{Topic: [16]byte{i}, Index: int32(i)} }

func randomSaved(rng *rand.Rand) saved {
	s := saved{positions: session.Vector{}}
	for range rng.IntN(5) {
		s.positions[part(byte(rng.IntN(200)))] = rng.Int64N(1 << 40)
	}
	for range rng.IntN(5) {
		s.flights = append(s.flights, savedFlight{part(byte(rng.IntN(200))), rng.Int64N(1 << 40), rng.Int64N(1 << 40), uint16(1 + rng.IntN(65535)), state(rng.IntN(3))})
	}
	for range rng.IntN(3) {
		s.remote = append(s.remote, "a/b/#")
	}
	for range rng.IntN(3) {
		s.received = append(s.received, uint16(rng.IntN(65536)))
	}
	return s
}

func TestSaved(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := randomSaved(rng)
		b := s.encode()
		got, err := decodeSaved(b)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("%+v became %+v, %v", s, got, err)
		}
		for n := range b {
			if _, err := decodeSaved(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes are a record", n, len(b))
			}
		}
	}
}

// FuzzSaved: bytes from the log never panic, and what is a record encodes to the same.
func FuzzSaved(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		s := randomSaved(rng)
		f.Add(s.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSaved(b)
		if err != nil {
			return
		}
		again, err := decodeSaved(s.encode())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

// TestBooks lets messages begin and end in any order, with crashes between: a position never passes a message that has not ended, and
// a QoS 2 message that has is never begun again.
func TestBooks(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 5))
		const window, n = 8, 100
		b := newBooks(window)
		ends := session.Vector{part(1): n, part(2): n}
		ended := map[session.Position]int{}
		var open []*flight
		at := map[*flight]session.Position{}
		end := func(i int) {
			f := open[i]
			open = append(open[:i], open[i+1:]...)
			b.finish(f)
			ended[at[f]]++
		}
		b.read(part(1), 0)
		b.read(part(2), 0)
		for {
			p := part(byte(1 + rng.IntN(2)))
			switch next, _ := b.place(p); {
			case rng.IntN(20) == 0: // a crash: what is saved is all there is
				s, _ := b.snapshot()
				for p, o := range s.positions {
					for off := int64(0); off < o; off++ {
						if off%3 > 0 && ended[session.Position{Part: p, Offset: off}] == 0 {
							t.Fatalf("seed %d: the position %d of %v has passed %d, which is on its way", seed, o, p.Topic[0], off)
						}
					}
				}
				s, err := decodeSaved(s.encode())
				if err != nil {
					t.Fatal(err)
				}
				b, open = newBooks(window), nil
				flights, parts := s.restore(b, session.Vector{}, ends)
				for i, f := range flights {
					open = append(open, f)
					at[f] = session.Position{Part: parts[i], Offset: f.offset}
				}
			case len(open) > 0 && (rng.IntN(2) == 0 || b.full()):
				end(rng.IntN(len(open)))
			case next < n && !b.full():
				if next%3 > 0 && !b.known(p, next) { // every third is not for the remote; half of the others is QoS 2
					f := b.begin(p, next, 1)
					if next%3 == 2 {
						b.assign(f)
					}
					open = append(open, f)
					at[f] = session.Position{Part: p, Offset: next}
				}
				b.read(p, next+1)
			}
			n1, _ := b.place(part(1))
			n2, _ := b.place(part(2))
			if n1 == n && n2 == n && len(open) == 0 {
				break
			}
		}
		for _, p := range []session.Part{part(1), part(2)} {
			for off := range int64(n) {
				times := ended[session.Position{Part: p, Offset: off}]
				if off%3 > 0 && times == 0 || off%3 == 2 && times != 1 {
					t.Fatalf("seed %d: %d of %v ended %d times", seed, off, p.Topic[0], times)
				}
			}
		}
		if s, _ := b.snapshot(); len(s.flights) > 0 || b.flights != 0 || len(b.ids) != 1<<16-firstID {
			t.Fatalf("seed %d: left over: %+v, %d flights, %d ids", seed, s, b.flights, len(b.ids))
		}
	}
}

func TestLoopGuard(t *testing.T) {
	s := &Set{self: "me"}
	via := func(ids ...string) *session.Props {
		p := &session.Props{}
		for _, id := range ids {
			p.User = append(p.User, packet.UserProperty{Name: viaProperty, Value: id})
		}
		return p
	}
	many := make([]string, maxVia)
	for _, c := range []struct {
		m        session.Message
		returned bool
	}{
		{session.Message{Client: "device"}, false},
		{session.Message{Client: "device", Props: via("other")}, false},
		{session.Message{Client: "device", Props: via("me", "other")}, true},
		{session.Message{Client: "bridge:x", Props: via("other", "me")}, false}, // of this time
		{session.Message{Client: "bridge:x", Props: via("me", "other", "me")}, true},
		{session.Message{Client: "bridge:x"}, false},                           // a device that calls itself so
		{session.Message{Client: "bridge:x", Props: via("me", "other")}, true}, // likewise: it has been here
		{session.Message{Client: "device", Props: via(many...)}, true},
	} {
		if got := s.returned(&c.m); got != c.returned {
			t.Errorf("%+v: %v", c.m.Props, got)
		}
	}
	b := &bridge{set: s, client: ClientID("x"), spec: Spec{Out: []Topic{{Filter: "#"}}}}
	for _, c := range []struct {
		m    session.Message
		loop bool
	}{
		{session.Message{Client: "bridge:x", Props: via("other", "me")}, true},
		{session.Message{Client: "bridge:y", Props: via("other", "me")}, false},
		{session.Message{Client: "bridge:x"}, false},
		{session.Message{Client: "bridge:x", Props: via("other")}, false},
		{session.Message{Client: "device", Props: via("me")}, true},
	} {
		c.m.Topic = "t"
		if topic, _, loop := b.wanted(&c.m); loop != c.loop || (topic == nil) != c.loop {
			t.Errorf("%s %+v: %v", c.m.Client, c.m.Props, loop)
		}
	}
	if u := s.marked(s.marked(nil)); len(u) != 1 {
		t.Errorf("marked twice: %v", u)
	}
	if u := s.marked(via("me", "other").User); len(u) != 3 {
		t.Errorf("not marked again: %v", u)
	}
}

func TestKeys(t *testing.T) {
	if bytes.Equal(bridgeKey(""), selfKey()) {
		t.Error("the keys are one")
	}
}
