package session

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// scene is a world in which everything the core asks for happens at once, told what to do step by step. The model watches.
type scene struct {
	t *testing.T
	*world
	a, b *simClient
}

func newScene(t *testing.T) *scene {
	w := newWorld(1)
	w.rnd = rand.New(rand.NewPCG(2, 2))
	w.opts, w.twins = Options{}, false
	w.start()
	s := &scene{t: t, world: w, a: w.clients[0], b: w.clients[1]}
	s.settle()
	return s
}

// settle lets everything outstanding happen.
func (s *scene) settle() {
	for range 10_000 {
		if s.idle() {
			break
		}
		s.io()
	}
	if s.err != nil {
		s.t.Fatalf("%v\n%s", s.err, strings.Join(s.trace, "\n"))
	}
}

func (s *scene) connect(c *simClient, expiry uint32, change ...func(*Connect)) {
	s.t.Helper()
	r := &Connect{Key: c.key, Version: packet.V5, Expiry: expiry, ReceiveMaximum: 100}
	for _, f := range change {
		f(r)
	}
	s.model.quiet = true // no random will
	c.connectWith(r, 1000)
	s.settle()
	if c.conn != nil && c.conn.accepted && c.present {
		c.resend()
		s.settle()
	}
}

func clean(r *Connect) { r.CleanStart = true }

func v311(r *Connect) { r.Version = packet.V311 }

func maximum(n uint16) func(*Connect) { return func(r *Connect) { r.ReceiveMaximum = n } }

// withWill gives a CONNECT a will that the model does not watch.
func withWill(topic, payload string, delay uint32) func(*Connect) {
	return func(r *Connect) {
		r.Will = &packet.Will{QoS: 1, Topic: topic, Payload: []byte(payload)}
		r.Will.Props.Has, r.Will.Props.WillDelay = packet.PWillDelay, delay
	}
}

func (s *scene) subscribe(c *simClient, filters ...packet.Filter) []packet.Code {
	s.t.Helper()
	return s.subscribeID(c, 0, filters...)
}

func (s *scene) subscribeID(c *simClient, id uint32, filters ...packet.Filter) []packet.Code {
	s.t.Helper()
	n := c.conn
	n.opID++
	p := &packet.Subscribe{PacketID: n.opID, Filters: filters}
	if id != 0 {
		p.Props.SubscriptionIDs = []uint32{id}
	}
	s.model.subscribe(n, p)
	s.core.Packet(s.now, n, p)
	s.settle()
	return n.codes
}

func (s *scene) unsubscribe(c *simClient, filter string) []packet.Code {
	n := c.conn
	n.opID++
	p := &packet.Unsubscribe{PacketID: n.opID, Filters: []string{filter}}
	s.model.unsubscribe(n, p)
	s.core.Packet(s.now, n, p)
	s.settle()
	return n.codes
}

func (s *scene) publish(name, payload string, qos byte, change ...func(*Message)) {
	s.t.Helper()
	m := Message{Time: s.now, Topic: name, Payload: []byte(payload), QoS: qos, Client: "someone"}
	for _, f := range change {
		f(&m)
	}
	s.append(m)
	s.settle()
}

func retain(m *Message) { m.Retain, m.Clear = true, len(m.Payload) == 0 }

func expires(seconds uint32) func(*Message) {
	return func(m *Message) { m.Props = &Props{HasExpiry: true, Expiry: seconds} }
}

// got is what a client has received since the last call, without acknowledging it.
func (s *scene) got(c *simClient) string {
	s.settle()
	var list []string
	for c.conn != nil && len(c.conn.out) > 0 {
		o := c.conn.out[0]
		if a, ok := o.p.(*packet.Ack); ok {
			text := fmt.Sprintf("%d #%d", a.Kind, a.PacketID)
			if a.Code != 0 {
				text += " " + a.Code.String()
			}
			list = append(list, text)
		} else {
			text := fmt.Sprintf("%s=%s q%d", o.msg.Topic, o.msg.Payload, o.d.QoS)
			if o.d.PacketID != 0 {
				text += fmt.Sprintf(" #%d", o.d.PacketID)
			}
			if o.d.Dup {
				text += " dup"
			}
			if o.d.Retain {
				text += " retain"
			}
			if len(o.d.SubIDs) > 0 {
				text += fmt.Sprint(" ids ", o.d.SubIDs)
			}
			if o.d.Expiry > 0 {
				text += fmt.Sprint(" left ", o.d.Expiry)
			}
			list = append(list, text)
		}
		c.receive()
	}
	return strings.Join(list, "; ")
}

func (s *scene) expect(c *simClient, want string) {
	s.t.Helper()
	if got := s.got(c); got != want {
		s.t.Fatalf("%s got  %q\nwant %q\n%s", c.key.ClientID, got, want, strings.Join(s.trace, "\n"))
	}
}

func (s *scene) acks(c *simClient) {
	for len(c.acks) > 0 || c.conn != nil && len(c.conn.out) > 0 {
		s.got(c)
		for len(c.acks) > 0 {
			c.ack(0)
		}
		s.settle()
	}
}

func (s *scene) later(seconds int64) {
	for range seconds {
		s.tick(1000)
		s.settle()
	}
}

func (s *scene) logHas(payload string) (n int) {
	for _, p := range s.parts {
		for _, m := range p.recs {
			if string(m.Payload) == payload {
				n++
			}
		}
	}
	return n
}

func (s *scene) want(ok bool, format string, args ...any) {
	s.t.Helper()
	if !ok {
		s.t.Fatalf(format+"\n%s", append(args, strings.Join(s.trace, "\n"))...)
	}
}

func sub1(filter string) packet.Filter { return packet.Filter{Filter: filter, QoS: 1} }

var scenarios = map[string]func(s *scene){
	"a session whose removal is refused comes back whole from a crash": func(s *scene) {
		s.connect(s.a, 5)
		s.model.watching = false
		s.raw(s.a, sub1("a/1"))
		s.a.disconnect(Lost, nil)
		s.checkpoint()
		s.publish("a/1", "one", 1)
		s.core.every = time.Hour // no checkpoint by itself: the next write is the removal
		s.refuseNext()
		s.now += 6000
		s.core.Tick(s.now)
		s.settle()
		s.want(s.core.sessions[s.a.key] == nil && s.refusals > 0, "it did not end, or its removal was not refused")
		s.checkpoint()
		s.crash()
		s.settle()
		s.connect(s.a, 5)
		s.expect(s.a, "a/1=one q1 #1")
	},
	"a live message goes straight out at the lower QoS": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, packet.Filter{Filter: "a/1"}, sub1("b/#"), packet.Filter{Filter: "c", QoS: 2})
		for qos := range byte(3) {
			s.publish("a/1", "x", qos)
			s.publish("b/1", "x", qos)
			s.publish("c", "x", qos)
		}
		s.expect(s.a, "a/1=x q0; b/1=x q0; c=x q0; a/1=x q0; b/1=x q1 #1; c=x q1 #2; a/1=x q0; b/1=x q1 #3; c=x q2 #4")
	},
	"overlapping subscriptions are one delivery": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribeID(s.a, 1, packet.Filter{Filter: "#", QoS: 0, RetainAsPublished: true})
		s.subscribeID(s.a, 2, sub1("a/1"))
		s.publish("a/1", "x", 2, retain)
		s.expect(s.a, "a/1=x q1 #1 retain ids [1 2]")
	},
	"no local": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, packet.Filter{Filter: "a/1", QoS: 1, NoLocal: true})
		s.publish("a/1", "own", 1, func(m *Message) { m.Client = s.a.key.ClientID })
		s.publish("a/1", "other", 1)
		s.expect(s.a, "a/1=other q1 #1")
	},
	"offline sessions keep QoS 1 and 2, not QoS 0": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, packet.Filter{Filter: "#", QoS: 2})
		s.a.disconnect(Lost, nil)
		for qos := range byte(3) {
			s.publish("a/1", fmt.Sprint(qos), qos)
		}
		s.connect(s.a, 100)
		s.expect(s.a, "a/1=1 q1 #1; a/1=2 q2 #2")
	},
	"in flight is sent again, in order, with DUP; released is released again": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, packet.Filter{Filter: "a/1", QoS: 2})
		s.publish("a/1", "one", 2)
		s.publish("a/1", "two", 1)
		s.publish("a/1", "three", 2)
		s.expect(s.a, "a/1=one q2 #1; a/1=two q1 #2; a/1=three q2 #3")
		s.a.ack(0) // PUBREC of one
		s.settle()
		s.a.disconnect(Lost, nil)
		s.connect(s.a, 100)
		s.expect(s.a, "6 #1; a/1=two q1 #2 dup; a/1=three q2 #3 dup")
	},
	"the receive maximum is kept": func(s *scene) {
		s.connect(s.a, 100, maximum(2))
		s.subscribe(s.a, sub1("a/1"))
		for i := range 4 {
			s.publish("a/1", fmt.Sprint(i), 1)
		}
		s.expect(s.a, "a/1=0 q1 #1; a/1=1 q1 #2")
		s.a.ack(0)
		s.expect(s.a, "a/1=2 q1 #3")
		s.acks(s.a)
		s.want(s.core.Stats().Behind == 0, "not at the frontier again: %+v", s.core.Stats())
	},
	"QoS 0 does not overtake what is queued": func(s *scene) {
		s.connect(s.a, 100, maximum(1))
		s.subscribe(s.a, sub1("a/1"))
		s.publish("a/1", "1", 1)
		s.publish("a/1", "2", 1)
		s.publish("a/1", "3", 0)
		s.expect(s.a, "a/1=1 q1 #1")
		s.a.ack(0)
		s.expect(s.a, "a/1=2 q1 #2; a/1=3 q0")
	},
	"take-over closes the old connection and keeps the session": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		old := s.a.conn
		s.connect(s.a, 100)
		s.want(old.dead && old.code == packet.SessionTakenOver, "old connection: %v", old.code)
		s.publish("a/1", "x", 1)
		s.expect(s.a, "a/1=x q1 #1")
	},
	"take-over of a session without expiry ends it": func(s *scene) {
		s.connect(s.a, 0)
		s.subscribe(s.a, sub1("a/1"))
		s.connect(s.a, 0)
		s.want(!s.a.present && s.core.Stats().Subscriptions == 0, "the session goes on")
	},
	"clean start drops queue and subscriptions": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.a.disconnect(Lost, nil)
		s.publish("a/1", "x", 1)
		s.connect(s.a, 100, clean)
		s.publish("a/1", "y", 1)
		s.expect(s.a, "")
		s.want(s.counts[DropSessionEnded] == 1, "counted %v", s.counts)
		s.crash()
		s.settle()
		s.connect(s.a, 100)
		s.publish("a/1", "z", 1)
		s.expect(s.a, "")
	},
	"a session expires, and its will fires first": func(s *scene) {
		s.connect(s.a, 5, withWill("c", "gone", 60))
		s.a.disconnect(Lost, nil)
		s.later(4)
		s.want(s.logHas("gone") == 0 && s.core.Stats().Sessions == 1, "too early")
		s.later(2)
		s.want(s.logHas("gone") == 1 && s.core.Stats().Sessions == 0, "not ended: %+v", s.core.Stats())
	},
	"expiry at DISCONNECT": func(s *scene) {
		zero, five := uint32(0), uint32(5)
		s.connect(s.a, 100)
		s.a.disconnect(Normal, &five)
		s.settle()
		s.later(6)
		s.want(s.core.Stats().Sessions == 0, "shortened expiry ignored")
		s.connect(s.a, 100)
		s.a.disconnect(Normal, &zero)
		s.settle()
		s.want(s.core.Stats().Sessions == 0, "0 does not end the session")
		s.connect(s.a, 0)
		n := s.a.conn
		n.closing = true
		s.core.Disconnected(s.now, n, Normal, &five)
		s.want(n.code == packet.ProtocolError, "0 to 5 answered %v", n.code)
	},
	"will: DISCONNECT removes it before the socket closes": func(s *scene) {
		s.connect(s.a, 0, withWill("c", "w", 0))
		n := s.a.conn
		n.closing, n.dead = true, true
		s.core.Disconnected(s.now, n, Normal, nil)
		s.want(n.closing, "closed before the removal is durable")
		s.settle()
		s.want(!n.closing, "never closed")
		s.crash()
		s.settle()
		s.want(s.logHas("w") == 0, "fired")
	},
	"will: fires at once without delay, later with one, not if the client is back": func(s *scene) {
		s.connect(s.a, 100, withWill("c", "now", 0))
		s.a.disconnect(Lost, nil)
		s.settle()
		s.want(s.logHas("now") == 1, "not at once")
		s.connect(s.a, 100, withWill("c", "late", 5))
		s.a.disconnect(WithWill, nil)
		s.later(4)
		s.want(s.logHas("late") == 0, "too early")
		s.later(2)
		s.want(s.logHas("late") == 1, "not after its delay")
		s.connect(s.a, 100, withWill("c", "back", 5))
		s.a.disconnect(Lost, nil)
		s.later(4)
		s.connect(s.a, 100)
		s.later(10)
		s.want(s.logHas("back") == 0, "fired although the client is back")
	},
	"will: take-over fires one without delay; with delay only if the session ends": func(s *scene) {
		s.connect(s.a, 100, withWill("c", "zero", 0))
		s.connect(s.a, 100, withWill("c", "delayed", 50))
		s.want(s.logHas("zero") == 1, "without delay not fired")
		s.connect(s.a, 100, withWill("c", "last", 50))
		s.want(s.logHas("delayed") == 0, "with delay fired though the session goes on")
		s.connect(s.a, 100, clean)
		s.want(s.logHas("last") == 1, "not fired though the session ended")
	},
	"will: a crash is a lost connection; fired once": func(s *scene) {
		s.connect(s.a, 0, withWill("c", "w", 0))
		s.crash()
		s.settle()
		s.want(s.logHas("w") == 1, "fired %d times", s.logHas("w"))
		s.crash()
		s.settle()
		s.want(s.logHas("w") == 1, "fired %d times", s.logHas("w"))
	},
	"will: does not fire while the node drains, but after": func(s *scene) {
		s.connect(s.a, 100, withWill("c", "w", 0))
		s.core.Disconnected(s.now, s.a.conn, Draining, nil)
		s.later(3)
		s.want(s.logHas("w") == 0, "fired")
		s.a.conn = nil
		s.crash()
		s.settle()
		s.tick(1)
		s.settle()
		s.want(s.logHas("w") == 1, "lost")
	},
	"will: authorised when set and when fired": func(s *scene) {
		key := s.a.key.ClientID + " c"
		s.denied[key] = true
		s.connect(s.a, 100, withWill("c", "w", 0))
		s.want(s.a.conn == nil, "accepted")
		delete(s.denied, key)
		s.connect(s.a, 100, withWill("c", "w", 0))
		s.denied[key] = true
		s.core.PolicyChanged(s.now)
		s.a.disconnect(Lost, nil)
		s.settle()
		s.want(s.logHas("w") == 0 && s.counts[DropWillDenied] == 1, "fired: %v", s.counts)
	},
	"will: authorised again when it is tried again": func(s *scene) {
		s.connect(s.a, 100, withWill("c", "w", 0))
		s.a.disconnect(Lost, nil)
		s.want(len(s.pubs) == 1, "not published")
		token := s.pubs[0].token
		s.pubs = nil
		s.core.Published(s.now, token, Result{Err: errors.New("no room")})
		s.denied[s.a.key.ClientID+" c"] = true
		s.core.PolicyChanged(s.now)
		s.tick(redoEvery)
		s.settle()
		s.want(len(s.pubs) == 0 && s.logHas("w") == 0 && s.counts[DropWillDenied] == 1, "fired: %v", s.counts)
	},
	"retain handling": func(s *scene) {
		s.publish("a/1", "old", 1, retain)
		s.publish("a/1", "r", 1, retain)
		s.publish("a/2", "r", 0, retain)
		s.publish("b/1", "r", 1, retain)
		s.publish("b/1", "", 1, retain)
		s.connect(s.a, 100)
		s.subscribe(s.a, packet.Filter{Filter: "a/+", QoS: 1, RetainHandling: 2})
		s.expect(s.a, "")
		s.subscribe(s.a, packet.Filter{Filter: "a/+", QoS: 1, RetainHandling: 1})
		s.expect(s.a, "")
		s.subscribe(s.a, packet.Filter{Filter: "#", QoS: 1, RetainHandling: 1})
		got := strings.Split(s.got(s.a), "; ")
		slices.Sort(got)
		s.want(slices.Equal(got, []string{"a/1=r q1 #1 retain", "a/2=r q0 retain"}), "%q", got)
		s.acks(s.a)
		s.subscribe(s.a, packet.Filter{Filter: "a/1", QoS: 0})
		s.expect(s.a, "a/1=r q1 #2 retain")
	},
	"retained: restored, cleared, expired": func(s *scene) {
		s.publish("a/1", "kept", 1, retain)
		s.publish("a/2", "gone", 1, retain)
		s.publish("b/1", "expired", 1, retain, expires(5))
		s.later(1)
		s.publish("a/2", "", 1, retain)
		s.later(10)
		s.crash()
		s.settle()
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("#"))
		s.expect(s.a, "a/1=kept q1 #1 retain")
		s.later(5)
		s.later(60) // the sweep is slow
		s.want(s.core.Stats().Retained == 1 && s.core.retained.names.Len() == 1, "marks are never removed: %+v", s.core.Stats())
	},
	"retained: a Kafka client's record from the future is no later than it is": func(s *scene) {
		future := func(m *Message) { m.Client, m.Time = "", m.Time+1_000_000 }
		s.publish("a/1", "old", 1, retain)
		s.publish("a/1", "", 1, retain, future)
		s.want(s.core.Stats().Retained == 0, "not cleared")
		for _, crash := range []bool{false, true} {
			s.publish("a/1", "new", 1, retain)
			if crash {
				s.crash()
				s.settle()
			}
			s.connect(s.b, 0, clean)
			s.subscribe(s.b, sub1("a/1"))
			s.expect(s.b, "a/1=new q1 #1 retain")
			s.publish("a/1", "", 1, retain, future)
		}
		// From another partition it is compared by time, and its time is now.
		part := (s.partOf("a/1") + 1) % len(s.parts)
		p := s.parts[part]
		other := Message{Offset: p.next, Time: s.now + 1_000_000, Topic: "a/1", Retain: true, Clear: true}
		p.next++
		p.recs = append(p.recs, other)
		s.model.watching = false
		s.core.Tail(s.now, &Batch{Part: p.part, Base: other.Offset, Next: p.next, Msgs: []Message{other}})
		s.fed[part] = p.next
		s.tick(1000)
		s.publish("a/1", "newest", 1, retain)
		r, ok := s.core.retained.get("a/1")
		s.want(ok && !r.cleared && s.core.Stats().Retained == 1, "%+v", r)
	},
	"a Kafka client's record from the future does not hold up its partition": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("#"))
		s.a.disconnect(Lost, nil)
		s.settle()
		s.publish("a/1", "future", 1, func(m *Message) { m.Client, m.Time = "", m.Time+1_000_000 })
		other := "b/1"
		for _, name := range []string{"a/2", "a/b/c", "b/1", "b/2", "c"} {
			if s.partOf(name) != s.partOf("a/1") {
				other = name
			}
		}
		s.later(1)
		for i := range 20 {
			s.publish(other, fmt.Sprint(i), 1)
			s.later(1)
		}
		s.connect(s.a, 100, maximum(1))
		var order []string
		for i := range 40 { // others go on, as many as are delivered
			next, _, _ := strings.Cut(s.got(s.a), " ")
			order = append(order, next)
			s.publish(other, fmt.Sprint(20+i), 1)
			for len(s.a.acks) > 0 {
				s.a.ack(0)
			}
			s.later(1)
		}
		s.want(slices.Contains(order, "a/1=future"), "it did not come: %v", order)
	},
	"many retained messages come in pages": func(s *scene) {
		for i := range 1000 {
			s.append(Message{Time: s.now, Topic: fmt.Sprintf("a/%04d", i), Payload: fmt.Appendf(nil, "r%d", i), QoS: 1, Retain: true})
		}
		s.settle()
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/#"))
		n := 0
		for range 2000 {
			s.settle()
			for len(s.a.conn.out) > 0 {
				s.a.receive()
				n++
			}
			for len(s.a.acks) > 0 {
				s.a.ack(0)
			}
		}
		s.want(n == 1000, "%d of 1000 arrived", n)
	},
	"filters that match few of many retained messages make way": func(s *scene) {
		s.core.look = 20
		for i := range 200 {
			s.append(Message{Time: s.now, Topic: fmt.Sprintf("a/%03d/%d", i, i), Payload: []byte("r"), QoS: 1, Retain: true})
		}
		s.settle()
		s.later(1)
		s.connect(s.b, 100)
		s.subscribe(s.b, sub1("live"))
		s.connect(s.a, 100)
		filters := make([]packet.Filter, 50)
		for i := range filters {
			filters[i] = sub1(fmt.Sprintf("+/+/%d", 4*i))
		}
		s.subscribe(s.a, filters...)
		n, calls := 0, 0
		for ; n < len(filters); calls++ {
			s.want(calls < 10_000, "%d messages in %d calls", n, calls)
			if calls == 5 {
				s.publish("live", "x", 1)
				s.expect(s.b, "live=x q1 #1")
			}
			s.core.Tick(s.now)
			s.settle()
			for len(s.a.conn.out) > 0 {
				s.a.receive()
				n++
			}
			for len(s.a.acks) > 0 {
				s.a.ack(0)
			}
		}
		s.want(calls > 50*200/20/2, "%d calls did it", calls)
	},
	"message expiry": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.a.disconnect(Lost, nil)
		s.publish("a/1", "short", 1, expires(5))
		s.publish("a/1", "long", 1, expires(20))
		s.later(8)
		s.connect(s.a, 100)
		s.expect(s.a, "a/1=long q1 #1 left 12")
		s.want(s.counts[DropExpired] == 1, "counted %v", s.counts)
	},
	"larger than the client takes": func(s *scene) {
		s.connect(s.a, 100, func(r *Connect) { r.MaximumPacket = 40 })
		s.subscribe(s.a, sub1("a/1"))
		s.publish("a/1", strings.Repeat("x", 50), 1)
		s.publish("a/1", "fits", 1)
		s.expect(s.a, "a/1=fits q1 #1")
		s.want(s.counts[DropTooLarge] == 1, "counted %v", s.counts)
	},
	"wrong filters are refused": func(s *scene) {
		s.connect(s.a, 100)
		codes := s.raw(s.a, sub1("$share/g/a"), sub1("$share/g"), sub1("$share/+/a"), sub1("a/#/b"), sub1("ok"))
		s.want(slices.Equal(codes, []packet.Code{1, packet.TopicFilterInvalid, packet.TopicFilterInvalid, packet.TopicFilterInvalid, 1}), "%v", codes)
		s.connect(s.b, 100, v311)
		codes = s.raw(s.b, sub1("$share/g/a"), sub1("$share//a"), sub1("ok"))
		s.want(slices.Equal(codes, []packet.Code{1, 0x80, 1}), "%v", codes)
	},
	"a refused SUBSCRIBE leaves nothing": func(s *scene) {
		s.connect(s.a, 100)
		s.refuseNext()
		codes := s.subscribe(s.a, sub1("a/1"))
		s.want(codes[0] == 0x80 && s.core.Stats().Subscriptions == 0, "%v %+v", codes, s.core.Stats())
		s.publish("a/1", "x", 1)
		s.expect(s.a, "")
	},
	"a refused UNSUBSCRIBE leaves the subscription": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.refuseNext()
		s.want(s.unsubscribe(s.a, "a/1")[0] == 0x80, "not told")
		s.publish("a/1", "x", 1)
		s.expect(s.a, "a/1=x q1 #1")
	},
	"a refused CONNECT leaves the old session": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.a.disconnect(Lost, nil)
		s.refuseNext()
		s.connect(s.a, 100, clean)
		s.want(s.a.conn == nil, "accepted")
		s.a.unsure = false
		s.publish("a/1", "x", 1)
		s.connect(s.a, 100)
		s.expect(s.a, "a/1=x q1 #1")
	},
	"a fenced write ends the core": func(s *scene) {
		s.connect(s.a, 100)
		s.a.conn.opID++
		s.core.Packet(s.now, s.a.conn, &packet.Subscribe{PacketID: 9, Filters: []packet.Filter{sub1("a/1")}})
		for _, st := range s.targets {
			for _, wr := range st.writes {
				s.core.Written(s.now, wr.token, []Result{{Err: fmt.Errorf("append: %w", ErrFenced)}})
			}
			st.writes = nil
		}
		s.want(s.crashed && !s.core.Busy(), "it goes on")
	},
	"a gap is counted and does not stop the rest": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.a.disconnect(Lost, nil)
		for i := range 5 {
			s.publish("a/1", fmt.Sprint(i), 1)
		}
		p := s.parts[s.partOf("a/1")]
		p.start = p.recs[3].Offset
		s.model.trimmed(s.partOf("a/1"), p.start)
		p.recs = p.recs[3:]
		s.connect(s.a, 100)
		s.expect(s.a, "a/1=3 q1 #1; a/1=4 q1 #2")
		s.want(s.counts[DropGap] == 3, "counted %v", s.counts)
	},
	"a deleted topic is counted and forgotten": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.a.disconnect(Lost, nil)
		s.publish("a/1", "x", 1)
		s.core.Deleted(s.now, s.parts[s.partOf("a/1")].part.Topic)
		s.model.trimmed(s.partOf("a/1"), 1<<40)
		s.connect(s.a, 100)
		s.expect(s.a, "")
		s.want(s.counts[DropTopicDeleted] == 1, "counted %v", s.counts)
	},
	"rights are asked for at every delivery": func(s *scene) {
		key := s.a.key.ClientID + " a/1"
		deny := func(on bool) {
			s.denied[key] = on
			s.model.deny(s.a, "a/1")
			s.core.PolicyChanged(s.now)
		}
		s.publish("a/1", "retained", 1, retain)
		s.connect(s.a, 100)
		deny(true)
		s.subscribe(s.a, packet.Filter{Filter: "#", QoS: 2})
		s.publish("a/1", "live", 1)
		s.expect(s.a, "")
		deny(false)
		s.publish("a/1", "flight", 2)
		s.expect(s.a, "a/1=flight q2 #1")
		s.a.acks = nil
		s.a.disconnect(Lost, nil)
		s.publish("a/1", "queued", 1)
		deny(true)
		s.connect(s.a, 100)
		s.expect(s.a, "6 #1") // the message is not sent again; the client is freed of its id
		s.want(s.counts[DropDenied] == 4, "counted %v", s.counts)
	},
	"unlogged messages reach connected sessions at QoS 0": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, packet.Filter{Filter: "a/1", QoS: 2})
		m := Message{Offset: -1, Time: s.now, Topic: "a/1", Payload: []byte("u"), QoS: 2}
		s.model.watching = false
		s.core.Unlogged(s.now, &m)
		s.expect(s.a, "a/1=u q0")
		s.a.disconnect(Lost, nil)
		s.core.Unlogged(s.now, &m)
		s.connect(s.a, 100)
		s.expect(s.a, "")
	},
	"acks of what was never sent": func(s *scene) {
		s.connect(s.a, 100)
		for _, k := range []packet.Type{packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP} {
			s.core.Packet(s.now, s.a.conn, &packet.Ack{Kind: k, PacketID: 7})
		}
		s.expect(s.a, "6 #7 Packet Identifier not found (0x92); 7 #7 Packet Identifier not found (0x92)")
	},
	"QoS 2 in survives a crash between PUBREC and PUBREL": func(s *scene) {
		s.connect(s.a, 100)
		p := &simPub{msg: Message{Offset: -1, Topic: "a/1", Payload: []byte("once"), QoS: 2, Client: s.a.key.ClientID}}
		s.model.pub(p)
		s.a.sent[1], s.a.order = p, []uint16{1}
		s.a.publish2(1, p)
		s.settle()
		s.crash()
		s.settle()
		s.connect(s.a, 100) // publishes again
		s.expect(s.a, "5 #1")
		s.acks(s.a)
		s.want(s.logHas("once") == 1 && len(s.a.sent) == 0, "%d times in the log, %d open", s.logHas("once"), len(s.a.sent))
	},
	"a clean stop needs no replay": func(s *scene) {
		s.connect(s.a, 100)
		s.subscribe(s.a, sub1("a/1"))
		s.publish("a/1", "x", 1)
		s.core.Disconnected(s.now, s.a.conn, Draining, nil)
		s.core.Checkpoint(s.now)
		s.settle()
		s.want(!s.core.Busy(), "still busy")
		s.a.conn.dead = true
		s.a.conn = nil
		s.crash()
		for i, p := range s.parts {
			s.want(s.fed[i] == p.next, "part %d replays from %d of %d", i, s.fed[i], p.next)
		}
		s.connect(s.a, 100)
		s.expect(s.a, "a/1=x q1 #1")
	},
}

// raw subscribes past the model.
func (s *scene) raw(c *simClient, filters ...packet.Filter) []packet.Code {
	s.model.watching = false
	c.conn.opID++
	s.core.Packet(s.now, c.conn, &packet.Subscribe{PacketID: c.conn.opID, Filters: filters})
	s.settle()
	return c.conn.codes
}

// refuseNext refuses all writes of the sessions topic until one has been.
func (s *scene) refuseNext() { s.refuseWrites = true }

func TestScenarios(t *testing.T) {
	names := make([]string, 0, len(scenarios))
	for name := range scenarios {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			scenarios[name](s)
			s.settle()
		})
	}
}
