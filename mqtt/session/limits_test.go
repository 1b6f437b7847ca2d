package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// limited is a scene whose core has other limits.
func limited(t *testing.T, change func(*Options)) *scene {
	s := newScene(t)
	change(&s.opts)
	s.crash()
	s.settle()
	return s
}

func TestSessionLimit(t *testing.T) {
	s := limited(t, func(o *Options) { o.MaxSessions = 1 })
	s.connect(s.a, 100)
	for _, expiry := range []uint32{0, 100} {
		s.connect(s.b, expiry)
		s.want(s.b.conn == nil && s.b.refused == packet.QuotaExceeded, "a second session: %v", s.b.refused)
	}
	s.a.disconnect(Lost, nil)
	life := s.core.sessions[s.a.key]
	s.connect(s.a, 100)
	s.want(s.a.conn != nil && s.core.sessions[s.a.key] == life, "a session that is there is not resumed")
	s.connect(s.a, 100, clean)
	s.want(s.a.conn != nil && s.core.sessions[s.a.key] != life, "a session that is there is not replaced")
	s.a.disconnect(Normal, new(uint32))
	s.settle()
	s.connect(s.b, 100)
	s.want(s.b.conn != nil, "no room after a session has ended")
	s.crash()
	s.settle()
	s.connect(s.a, 100)
	s.want(s.a.conn == nil, "after a restart there is room")
}

// Sessions whose record is still being written count.
func TestSessionLimitCountsWhoComes(t *testing.T) {
	s := limited(t, func(o *Options) { o.MaxSessions = 1 })
	s.model.quiet = true
	for _, c := range []*simClient{s.a, s.b} {
		c.connectWith(&Connect{Key: c.key, Version: packet.V5, Expiry: 100, ReceiveMaximum: 100}, 1000)
	}
	s.want(s.b.refused == packet.QuotaExceeded && s.a.refused == 0, "%v, %v", s.a.refused, s.b.refused)
	s.settle()
	s.want(s.a.conn != nil && s.core.coming == 0, "the first one is not there")
}

func TestSubscriptionLimits(t *testing.T) {
	s := limited(t, func(o *Options) { o.MaxSubs, o.MaxAllSubs = 3, 4 })
	codes := func(c *simClient, want packet.Code, filters ...string) {
		t.Helper()
		for _, f := range filters {
			if got := s.subscribe(c, sub1(f)); len(got) != 1 || got[0] != want {
				t.Fatalf("%.20s: %v, want %v", f, got, want)
			}
		}
	}
	s.connect(s.a, 100)
	s.connect(s.b, 100)
	codes(s.a, 1, "x/1", "x/2", "x/3")
	codes(s.a, packet.QuotaExceeded, "x/4")
	codes(s.a, 1, "x/3") // it is there
	codes(s.b, 1, "x/1")
	codes(s.b, packet.QuotaExceeded, "x/2")
	s.want(s.core.Stats().SubsRefused == 2, "%+v", s.core.Stats())
	s.unsubscribe(s.a, "x/1")
	codes(s.b, 1, "x/2")
	s.crash()
	s.settle()
	s.connect(s.a, 100)
	s.connect(s.b, 100)
	codes(s.a, packet.QuotaExceeded, "x/4")
	s.connect(s.b, 100, clean)
	codes(s.b, packet.QuotaExceeded, "y/"+strings.Repeat("y", 600)) // it counts as three
	codes(s.a, 1, "x/1")
	codes(s.b, 1, "x/1")
	codes(s.b, packet.QuotaExceeded, "x/2")
	s.connect(s.b, 0, clean)
	codes(s.b, 1, "y")
	s.b.disconnect(Lost, nil)
	s.settle()
	s.want(s.core.weight == 3 && s.core.filter.Len() == 3, "weight %d of %d", s.core.weight, s.core.filter.Len())
}

func TestRetainedLimits(t *testing.T) {
	s := limited(t, func(o *Options) { o.MaxRetained, o.MaxRetainedBytes = 3, 1000 })
	x := s.core.Retained()
	check := func(name string, payload int, want bool) {
		t.Helper()
		if x.Admits(name, payload) != want {
			t.Fatalf("%s with %d bytes: %v; %+v", name, payload, !want, s.core.Stats())
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		check(name, 10, true)
		s.publish(name, "0123456789", 1, retain)
	}
	check("d", 10, false)
	check("a", 500, true)
	s.publish("b", "", 1, retain)
	check("b", 10, true)
	check("d", 10, true)
	s.publish("d", strings.Repeat("d", 989), 1, retain)
	st := s.core.Stats()
	s.want(st.Retained == 3 && st.RetainedBytes == 11+11+990, "%+v", st)
	check("a", 10, true)
	check("a", 11, false) // the bytes are used up
	check("d", 989, true)
	check("e", 1, false)
	s.crash()
	s.settle()
	x = s.core.Retained()
	check("a", 11, false)
	check("e", 1, false)

	s.connect(s.a, 0, withWill("f", "gone", 0), func(r *Connect) { r.Will.Retain = true })
	s.a.disconnect(Lost, nil)
	s.settle()
	st = s.core.Stats()
	s.want(s.logHas("gone") == 1 && st.Retained == 3 && s.counts[DropRetainedFull] == 1, "%+v, %v", st, s.counts)
	s.publish("d", "", 1, retain)
	check("e", 1, true)
}

// What has expired is removed, from memory and from the log, and nothing older comes back for it.
func TestRetainedSweep(t *testing.T) {
	s := newScene(t)
	s.publish("a", "older", 1, retain)
	s.publish("a", "expires", 1, retain, expires(5))
	s.publish("b", "stays", 1, retain)
	for i := range 3 {
		s.publish(fmt.Sprintf("c/%d", i), "expires", 1, retain, expires(5))
	}
	s.later(70)
	st := s.core.Stats()
	s.want(st.Retained == 1 && s.core.retained.names.Len() == 1 && s.counts[DropRetainedExpired] == 4, "%+v, %v", st, s.counts)
	records := func() (n int) {
		for _, x := range s.targets {
			x.compact()
			for _, r := range x.recs {
				if k, _ := decodeKey(r.Key); k.kind == kindRetained {
					n++
				}
			}
		}
		return n
	}
	s.want(records() == 1, "%d records", records())
	s.crash()
	s.settle()
	s.connect(s.a, 0)
	s.subscribe(s.a, packet.Filter{Filter: "#", QoS: 1})
	s.expect(s.a, "b=stays q1 #1 retain")
	s.publish("a", "again", 1, retain)
	s.want(s.core.Stats().Retained == 2, "%+v", s.core.Stats())
}

// Who subscribes to what it has writes nothing.
func TestSubscribeAgain(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100)
	writes := func(f ...packet.Filter) int {
		t.Helper()
		count := func() (n int) {
			for _, x := range s.targets {
				if !x.target.Retained {
					n += int(x.next)
				}
			}
			return n
		}
		before := count()
		for i, code := range s.subscribe(s.a, f...) {
			if code != packet.Code(f[i].QoS) {
				t.Fatalf("%s: %v", f[i].Filter, code)
			}
		}
		return count() - before
	}
	if n := writes(sub1("x/1"), sub1("y/+")); n != 2 {
		t.Fatalf("new: %d records", n)
	}
	if n := writes(sub1("x/1"), sub1("y/+")); n != 0 {
		t.Errorf("again: %d records", n)
	}
	if n := writes(sub1("x/1"), packet.Filter{Filter: "y/+", QoS: 2}); n != 1 {
		t.Errorf("another QoS: %d records", n)
	}
	s.publish("x/1", "kept", 1, retain)
	s.got(s.a)
	s.acks(s.a)
	if n := writes(sub1("x/1")); n != 1 { // it is owed the retained message again
		t.Errorf("with a retained message: %d records", n)
	}
	s.expect(s.a, "x/1=kept q1 #2 retain")
	if n := writes(packet.Filter{Filter: "x/1", QoS: 1, RetainHandling: 1}); n != 0 {
		t.Errorf("without the retained message: %d records", n)
	}
	s.expect(s.a, "")
}

// Connections' readers ask while the core changes what they ask about (the race detector looks), and the sums stay right.
func TestRetainedIndexIsShared(t *testing.T) {
	s := limited(t, func(o *Options) { o.MaxRetained = 3 })
	x := s.core.Retained()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				x.Admits(simTopics[n%len(simTopics)], n%100)
			}
		}
	}()
	for i := range 300 {
		payload := strings.Repeat("m", s.rnd.IntN(50))
		if i%4 == 3 {
			payload = ""
		}
		s.publish(simTopics[s.rnd.IntN(6)], payload, 1, retain, expires(uint32(1+s.rnd.IntN(100))))
		if i%10 == 0 {
			s.later(3)
		}
	}
	close(stop)
	<-done
	live, size := 0, int64(0)
	x.names.Scan("#", "", func(_ string, r *retained) bool {
		if !r.cleared {
			live, size = live+1, size+int64(r.size)
		}
		return true
	})
	if st := s.core.Stats(); st.Retained != live || st.RetainedBytes != size || x.full.Load() != (live >= 3) {
		t.Errorf("%+v, but there are %d with %d bytes, full %v", st, live, size, x.full.Load())
	}
}

// What wills take is counted from CONNECT until they have fired, or never will.
func TestWillLimit(t *testing.T) {
	s := limited(t, func(o *Options) { o.MaxWillBytes = 1000 })
	long := strings.Repeat("w", 800)
	s.connect(s.a, 100, withWill("c", long, 50))
	held := s.core.Stats().WillBytes
	s.want(held > 1000, "%d bytes are counted", held)
	s.connect(s.b, 100, withWill("c", "short", 0))
	s.want(s.b.conn == nil && s.b.refused == packet.QuotaExceeded, "a second will: %v", s.b.refused)
	s.connect(s.b, 100)
	s.want(s.b.conn != nil, "without a will: %v", s.b.refused)
	s.connect(s.a, 100, withWill("c", long, 50))
	s.want(s.a.conn != nil && s.core.Stats().WillBytes == held, "in the place of its own: %v, %d bytes", s.a.refused, s.core.Stats().WillBytes)
	s.connect(s.a, 100, withWill("c", long+"w", 50))
	s.want(s.a.refused == packet.QuotaExceeded, "a larger one in its place: %v", s.a.refused)
	s.crash()
	s.settle()
	s.want(s.core.Stats().WillBytes == held, "%d bytes after a restart, %d before", s.core.Stats().WillBytes, held)
	s.connect(s.a, 100, withWill("c", "x", 0))
	s.a.disconnect(Lost, nil)
	s.settle()
	s.want(s.core.Stats().WillBytes == 0, "%d bytes after it has fired", s.core.Stats().WillBytes)
	s.connect(s.a, 100, withWill("c", "x", 0))
	s.a.disconnect(Normal, nil)
	s.settle()
	s.want(s.core.Stats().WillBytes == 0, "%d bytes after a DISCONNECT", s.core.Stats().WillBytes)
}
