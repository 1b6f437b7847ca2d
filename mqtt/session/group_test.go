package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

const shareX, shareXA, shareY = "$share/x/#", "$share/x/a/#", "$share/y/a/+"

// share subscribes a client to a group, with the subscription id by which the model knows its deliveries.
func (s *scene) share(c *simClient, name string, qos byte, change ...func(*packet.Filter)) {
	s.t.Helper()
	f := packet.Filter{Filter: name, QoS: qos}
	for _, g := range change {
		g(&f)
	}
	if codes := s.subscribeID(c, sharedID(name), f); codes[0] != packet.Code(qos) {
		s.t.Fatalf("%s: %v", name, codes)
	}
}

// members connects two clients that share a filter.
func (s *scene) members(name string, qos byte) {
	s.t.Helper()
	for _, c := range []*simClient{s.a, s.b} {
		s.connect(c, 1000)
		s.share(c, name, qos)
	}
}

// payloads is what a client has received since the last call.
func (s *scene) payloads(c *simClient) string {
	var list []string
	for _, d := range strings.Split(s.got(c), "; ") {
		if _, rest, ok := strings.Cut(d, "="); ok {
			payload, _, _ := strings.Cut(rest, " ")
			list = append(list, payload)
		}
	}
	return strings.Join(list, " ")
}

func (s *scene) gets(c *simClient, want string) {
	s.t.Helper()
	if got := s.payloads(c); got != want {
		s.t.Fatalf("%s got  %q\nwant %q\n%s", c.key.ClientID, got, want, strings.Join(s.trace, "\n"))
	}
}

// numbered publishes messages with the numbers from to to.
func (s *scene) numbered(topic string, qos byte, from, to int) {
	s.t.Helper()
	for i := from; i <= to; i++ {
		s.publish(topic, fmt.Sprint(i), qos)
	}
}

// checkpoint makes one, to its end.
func (s *scene) checkpoint() {
	s.core.Checkpoint(s.now)
	s.settle()
}

func (s *scene) hasKind(kd kind) (n int) {
	for _, t := range s.targets {
		last := map[string]bool{}
		for _, r := range t.recs {
			if k, err := decodeKey(r.Key); err == nil && k.kind == kd {
				last[string(r.Key)] = r.Value != nil
			}
		}
		for _, there := range last {
			if there {
				n++
			}
		}
	}
	return n
}

var groupScenarios = map[string]func(s *scene){
	"members take turns, each at its own QoS": func(s *scene) {
		s.connect(s.a, 100)
		s.connect(s.b, 100, v311)
		s.share(s.a, shareXA, 1, func(f *packet.Filter) { f.RetainAsPublished = true })
		s.share(s.b, shareXA, 0)
		s.publish("a/1", "1", 2, retain)
		s.numbered("a/1", 2, 2, 4)
		s.expect(s.a, "a/1=1 q1 #1 retain ids [100]; a/1=3 q1 #2 ids [100]")
		s.expect(s.b, "a/1=2 q0 ids [100]; a/1=4 q0 ids [100]")
	},
	"a group is beside what its members subscribe to themselves, and beside other groups": func(s *scene) {
		s.connect(s.a, 100)
		s.connect(s.b, 100)
		s.share(s.a, shareXA, 1)
		s.share(s.a, shareX, 1)
		s.subscribe(s.a, sub1("a/#"))
		s.share(s.b, shareY, 1)
		s.publish("a/1", "1", 1)
		s.gets(s.a, "1 1 1")
		s.gets(s.b, "1")
	},
	"retained messages are not sent": func(s *scene) {
		s.publish("a/1", "old", 1, retain)
		s.connect(s.a, 100)
		s.share(s.a, shareXA, 1)
		s.expect(s.a, "")
	},
	"online members first": func(s *scene) {
		s.members(shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.numbered("a/1", 1, 1, 4)
		s.gets(s.b, "1 2 3 4")
		s.connect(s.a, 1000)
		s.expect(s.a, "")
	},
	"a group without anybody online keeps what it is owed": func(s *scene) {
		s.members(shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.b.disconnect(Lost, nil)
		s.numbered("a/1", 1, 1, 3)
		s.publish("a/1", "none", 0)
		s.want(s.core.Stats().GroupQueue == 3, "%+v", s.core.Stats())
		s.connect(s.b, 1000)
		s.gets(s.b, "1 2 3")
		s.acks(s.b)
		s.want(s.core.Stats().GroupQueue == 0, "%+v", s.core.Stats())
	},
	"members that are full are left out": func(s *scene) {
		s.connect(s.a, 100, maximum(1))
		s.connect(s.b, 100, maximum(2))
		s.share(s.a, shareXA, 1)
		s.share(s.b, shareXA, 1)
		s.numbered("a/1", 1, 1, 5)
		s.gets(s.a, "1")
		s.gets(s.b, "2 3")
		s.b.ack(0)
		s.gets(s.b, "4")
		s.gets(s.a, "")
		s.a.ack(0)
		s.gets(s.a, "5")
	},
	"what a lost member had is given to others, in order and as new": func(s *scene) {
		s.members(shareXA, 1)
		s.numbered("a/1", 1, 1, 6)
		s.gets(s.a, "1 3 5")
		s.gets(s.b, "2 4 6")
		s.a.ack(0)
		s.a.disconnect(Lost, nil)
		s.expect(s.b, "a/1=3 q1 #4 ids [100]; a/1=5 q1 #5 ids [100]")
		s.connect(s.a, 1000)
		s.expect(s.a, "")
	},
	"a member that is taken over gives back what it had": func(s *scene) {
		s.members(shareXA, 1)
		s.numbered("a/1", 1, 1, 2)
		s.gets(s.a, "1")
		s.connect(s.a, 1000)
		s.gets(s.b, "2")
		s.expect(s.a, "a/1=1 q1 #2 ids [100]") // it is its turn
	},
	"a draining node sends nothing to others": func(s *scene) {
		s.members(shareXA, 1)
		s.publish("a/1", "1", 1)
		s.gets(s.a, "1")
		s.core.Disconnected(s.now, s.a.conn, Draining, nil)
		s.expect(s.b, "")
		s.want(s.core.Stats().GroupQueue == 1, "%+v", s.core.Stats())
	},
	"QoS 2 belongs to the member, who completes it when it is back": func(s *scene) {
		s.members(shareXA, 2)
		s.numbered("a/1", 2, 1, 2)
		s.expect(s.a, "a/1=1 q2 #1 ids [100]")
		s.a.disconnect(Lost, nil)
		s.gets(s.b, "2")
		s.connect(s.a, 1000)
		s.expect(s.a, "a/1=1 q2 #1 dup ids [100]")
		s.acks(s.a)
		s.gets(s.b, "")
	},
	"QoS 2 ends with the member's session": func(s *scene) {
		s.members(shareXA, 2)
		s.numbered("a/1", 2, 1, 1)
		s.gets(s.a, "1")
		s.a.disconnect(Lost, nil)
		s.connect(s.a, 1000, clean)
		s.gets(s.a, "")
		s.gets(s.b, "")
		s.want(s.counts[DropSessionEnded] == 1, "%v", s.counts)
		s.crash()
		s.settle()
		s.connect(s.a, 1000)
		s.connect(s.b, 1000)
		s.gets(s.a, "")
		s.gets(s.b, "")
	},
	"QoS 2 that has not left goes to another member": func(s *scene) {
		s.members(shareXA, 2)
		n := len(s.b.conn.out)
		s.append(Message{Time: s.now, Topic: "a/1", Payload: []byte("1"), QoS: 2})
		for i, p := range s.parts {
			if s.fed[i] < p.next {
				s.feed(i)
			}
		}
		s.want(len(s.a.conn.out)+len(s.b.conn.out) == n, "left before its out/id was durable")
		s.a.disconnect(Lost, nil)
		s.gets(s.b, "1")
		s.acks(s.b)
		s.checkpoint()
		s.want(s.hasKind(kindOut) == 0, "%d out/ids are left", s.hasKind(kindOut))
	},
	"QoS 2 of a session without expiry survives nobody's crash twice": func(s *scene) {
		s.connect(s.a, 0)
		s.connect(s.b, 1000)
		s.share(s.a, shareXA, 2)
		s.share(s.b, shareXA, 2)
		s.numbered("a/1", 2, 1, 1)
		s.gets(s.a, "1")
		s.crash()
		s.settle()
		s.connect(s.b, 1000)
		s.gets(s.b, "")
		s.checkpoint()
		s.want(s.hasKind(kindOut) == 0, "%d out/ids are left", s.hasKind(kindOut))
		s.crash()
		s.settle()
		s.connect(s.b, 1000)
		s.gets(s.b, "")
	},
	"QoS 2 of a topic that is deleted leaves nothing": func(s *scene) {
		s.connect(s.a, 0)
		s.connect(s.b, 1000)
		s.share(s.a, shareXA, 2)
		s.share(s.b, shareXA, 2)
		s.numbered("a/1", 2, 1, 1)
		s.gets(s.a, "1")
		gone := s.parts[s.partOf("a/1")].part.Topic
		s.parts = slices.DeleteFunc(s.parts, func(p *simPart) bool { return p.part.Topic == gone })
		s.model.watching = false
		s.crash()
		s.settle()
		s.connect(s.b, 1000)
		s.gets(s.b, "")
		s.checkpoint()
		s.want(s.hasKind(kindOut) == 0, "%d out/ids are left", s.hasKind(kindOut))
	},
	"a message that a member refuses goes to nobody": func(s *scene) {
		s.members(shareXA, 2)
		for q := byte(1); q <= 2; q++ {
			c := s.a
			if q == 2 {
				c = s.b
			}
			s.publish("a/1", "x", q)
			s.gets(c, "x")
			c.acks[0].Code = packet.ImplementationSpecificError
			delete(c.received, c.acks[0].PacketID)
			c.ack(0)
			c.disconnect(Lost, nil)
			s.connect(c, 1000)
			s.gets(s.a, "")
			s.gets(s.b, "")
		}
		s.want(s.counts[DropRefused] == 2, "%v", s.counts)
	},
	"a member without the right is passed over": func(s *scene) {
		s.members(shareXA, 1)
		s.denied[s.a.key.ClientID+" a/1"] = true
		s.core.PolicyChanged(s.now)
		s.numbered("a/1", 1, 1, 2)
		s.gets(s.a, "")
		s.gets(s.b, "1 2")
		s.want(s.counts[DropDenied] == 0, "%v", s.counts)
	},
	"what nobody has the right to is dropped": func(s *scene) {
		s.members(shareXA, 1)
		for _, c := range []*simClient{s.a, s.b} {
			s.denied[c.key.ClientID+" a/1"] = true
		}
		s.core.PolicyChanged(s.now)
		s.numbered("a/1", 1, 1, 2)
		s.numbered("a/2", 1, 3, 4)
		s.gets(s.a, "3")
		s.gets(s.b, "4")
		s.want(s.counts[DropDenied] == 2, "%v", s.counts)
	},
	"what only a member who is away has the right to waits for it, and holds up nothing": func(s *scene) {
		s.members(shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.denied[s.b.key.ClientID+" a/1"] = true
		s.core.PolicyChanged(s.now)
		s.numbered("a/1", 1, 1, 2)
		s.numbered("a/2", 1, 3, 4)
		s.gets(s.b, "3 4")
		s.want(s.core.Stats().GroupQueue == 2 && s.counts[DropDenied] == 0, "%+v %v", s.core.Stats(), s.counts)
		s.connect(s.a, 1000)
		s.gets(s.a, "1 2")
	},
	"what was set aside is looked at again when the policy changes": func(s *scene) {
		s.members(shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.denied[s.b.key.ClientID+" a/1"] = true
		s.core.PolicyChanged(s.now)
		s.numbered("a/1", 1, 1, 2)
		s.gets(s.b, "")
		delete(s.denied, s.b.key.ClientID+" a/1")
		s.core.PolicyChanged(s.now)
		s.gets(s.b, "1 2")
	},
	"what was set aside for a member that is full reaches it": func(s *scene) {
		s.connect(s.a, 1000, maximum(1))
		s.connect(s.b, 1000)
		s.share(s.a, shareXA, 1)
		s.share(s.b, shareXA, 1)
		s.denied[s.b.key.ClientID+" a/1"] = true
		s.core.PolicyChanged(s.now)
		s.numbered("a/1", 1, 1, 3)
		s.numbered("a/2", 1, 4, 5)
		s.gets(s.a, "1")
		s.gets(s.b, "4 5")
		s.a.ack(0)
		s.gets(s.a, "2")
		s.a.ack(0)
		s.gets(s.a, "3")
	},
	"what is set aside is bounded": func(s *scene) {
		s.core.o.MaxQueueBytes = 64
		s.members(shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.denied[s.b.key.ClientID+" a/b/c"] = true
		s.core.PolicyChanged(s.now)
		other := "a/x"
		for s.partOf(other) != s.partOf("a/b/c") {
			other += "x"
		}
		for i := range 400 {
			s.publish("a/b/c", fmt.Sprint("no", i), 1)
			s.publish(other, fmt.Sprint(i), 1)
			s.acks(s.b)
		}
		st := s.core.Stats()
		s.want(st.QueueBytes < 400 && s.counts[DropDenied] > 100 && st.GroupQueue+int64(s.counts[DropDenied]) == 400, "%+v %v", st, s.counts)
		for _, g := range s.model.groups {
			for _, e := range g.entries {
				e.must = false
			}
		}
	},
	"expired, and larger than some or all members take": func(s *scene) {
		small := func(r *Connect) { r.MaximumPacket = 40 }
		s.connect(s.a, 1000, small)
		s.share(s.a, shareXA, 1)
		s.publish("a/1", strings.Repeat("x", 50), 1)
		s.want(s.counts[DropTooLarge] == 1, "%v", s.counts)
		s.connect(s.b, 1000)
		s.share(s.b, shareXA, 1)
		s.publish("a/1", strings.Repeat("y", 50), 1)
		s.gets(s.b, strings.Repeat("y", 50))
		s.a.disconnect(Lost, nil)
		s.b.disconnect(Lost, nil)
		s.publish("a/1", "short", 1, expires(5))
		s.publish("a/1", "long", 1, expires(50))
		s.later(8)
		s.connect(s.b, 1000)
		s.gets(s.b, strings.Repeat("y", 50)+" long")
		s.want(s.counts[DropExpired] == 1, "%v", s.counts)
	},
	"a group ends with its last subscription and begins anew": func(s *scene) {
		s.members(shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.b.disconnect(Lost, nil)
		s.numbered("a/1", 1, 1, 2)
		s.checkpoint()
		s.connect(s.a, 1000, maximum(1))
		s.gets(s.a, "1")
		s.a.ack(0)
		s.gets(s.a, "2")
		s.unsubscribe(s.a, shareXA)
		s.want(s.core.Stats().Groups == 1, "%+v", s.core.Stats())
		s.numbered("a/1", 1, 3, 4)
		s.connect(s.b, 1000, clean)
		s.want(s.core.Stats().Groups == 0 && s.counts[DropGroupEnded] == 2, "%+v %v", s.core.Stats(), s.counts)
		s.share(s.b, shareXA, 1)
		s.numbered("a/1", 1, 5, 5)
		s.gets(s.b, "5")
		s.acks(s.b)
		s.crash()
		s.settle()
		s.connect(s.b, 1000)
		s.gets(s.b, "5") // its ack was not in a checkpoint; 3 and 4 were another group's
	},
	"what a group leaves in the log is removed with it": func(s *scene) {
		s.members(shareXA, 2)
		s.numbered("a/1", 2, 1, 4)
		s.acks(s.a)
		s.b.disconnect(Lost, nil)
		s.numbered("a/1", 1, 5, 5)
		s.checkpoint()
		s.connect(s.a, 1000, clean)
		s.connect(s.b, 1000, clean)
		s.want(s.core.Stats().Groups == 0, "%+v", s.core.Stats())
		s.checkpoint()
		s.want(s.hasKind(kindGroup)+s.hasKind(kindOut)+s.hasKind(kindSub) == 0, "%d groups, %d out/ids, %d subscriptions", s.hasKind(kindGroup),
			s.hasKind(kindOut), s.hasKind(kindSub))
		s.want(len(s.core.spent) == 0, "ids are kept: %v", s.core.spent)
	},
	"a group whose members do not persist ends with them": func(s *scene) {
		s.connect(s.a, 0)
		s.share(s.a, shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.settle()
		s.want(s.core.Stats().Groups == 0, "%+v", s.core.Stats())
		s.numbered("a/1", 1, 1, 1)
		s.connect(s.a, 0)
		s.share(s.a, shareXA, 1)
		s.gets(s.a, "")
		s.crash()
		s.settle()
		s.want(s.core.Stats().Groups == 0, "%+v", s.core.Stats())
	},
	"after a crash the queue and the leases of QoS 1 are there": func(s *scene) {
		s.connect(s.a, 1000, maximum(2))
		s.share(s.a, shareXA, 1)
		s.numbered("a/1", 1, 1, 2)
		s.checkpoint()
		s.numbered("a/1", 1, 3, 5)
		s.gets(s.a, "1 2")
		s.crash()
		s.settle()
		s.connect(s.b, 1000)
		s.share(s.b, shareXA, 1)
		s.gets(s.b, "1 2 3 4 5")
	},
	"the second member does not hide where the group begins": func(s *scene) {
		s.connect(s.a, 1000)
		s.share(s.a, shareXA, 1)
		s.a.disconnect(Lost, nil)
		s.numbered("a/1", 1, 1, 2)
		s.connect(s.b, 0, maximum(1))
		s.share(s.b, shareXA, 1)
		s.gets(s.b, "1")
		s.crash()
		s.settle()
		s.connect(s.a, 1000)
		s.gets(s.a, "1 2")
	},
	"QoS 0 goes to whoever is there, and is not kept for the others": func(s *scene) {
		s.members(shareXA, 0)
		s.numbered("a/1", 1, 1, 2)
		s.gets(s.a, "1")
		s.gets(s.b, "2")
		s.a.disconnect(Lost, nil)
		s.b.disconnect(Lost, nil)
		s.numbered("a/1", 1, 3, 3)
		s.connect(s.a, 1000)
		s.gets(s.a, "")
	},
	"unlogged messages go to one member": func(s *scene) {
		s.members(shareXA, 1)
		for range 4 {
			s.core.Unlogged(s.now, &Message{Offset: -1, Time: s.now, Topic: "a/1", Payload: []byte("u")})
		}
		s.gets(s.a, "u u")
		s.gets(s.b, "u u")
	},
	"neither a member's own queue nor its groups go without": func(s *scene) {
		s.connect(s.a, 1000, maximum(2))
		s.share(s.a, shareXA, 1)
		s.subscribe(s.a, sub1("b/1"))
		s.a.disconnect(Lost, nil)
		for i := range 20 {
			s.publish("a/1", fmt.Sprint("g", i), 1)
			s.publish("b/1", fmt.Sprint("o", i), 1)
		}
		s.connect(s.a, 1000, maximum(2))
		var got []string
		for range 20 {
			got = append(got, strings.Fields(s.payloads(s.a))...)
			s.a.ack(0)
		}
		shared := len(slices.DeleteFunc(got, func(p string) bool { return p[0] == 'o' }))
		s.want(shared > 5 && shared < 15, "%d of %d are the group's", shared, 20)
	},
	"groups and members count to the quotas": func(s *scene) {
		s.core.o.MaxAllSubs, s.core.o.MaxSubs = 4, 3
		s.connect(s.a, 1000)
		s.connect(s.b, 1000)
		s.share(s.a, shareXA, 1) // two: the group counts, too
		s.share(s.b, shareXA, 1)
		codes := s.raw(s.b, sub1(shareX))
		s.want(codes[0] == packet.QuotaExceeded && s.core.Stats().SubsRefused == 1, "%v", codes)
		codes = s.raw(s.b, sub1("b/1"))
		s.want(codes[0] == 1, "%v", codes)
		s.connect(s.a, 1000, clean)
		s.connect(s.b, 1000, clean)
		s.want(s.core.weight == 0, "%d is left", s.core.weight)
	},
	"groups are listed": func(s *scene) {
		s.members(shareXA, 2)
		s.b.disconnect(Lost, nil)
		s.numbered("a/1", 2, 1, 3)
		s.connect(s.a, 1000)
		s.numbered("a/1", 1, 4, 4)
		want := Group{Tenant: "t", Name: "x", Filter: "a/#", Leased: 4, Members: []Member{{s.a.key, 2, true, 4}, {s.b.key, 2, false, 0}}}
		got := s.core.Groups()
		s.want(len(got) == 1 && fmt.Sprint(got[0]) == fmt.Sprint(want), "%+v\nwant %+v", got, want)
		s.a.disconnect(Lost, nil)
		got = s.core.Groups()
		s.want(got[0].Queued == 1 && got[0].Leased == 3, "%+v", got)
		st := s.core.Stats()
		s.want(st.Groups == 1 && st.GroupQueue == 1 && st.Subscriptions == 2, "%+v", st)
	},
}

func TestGroupScenarios(t *testing.T) {
	for name, run := range groupScenarios {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.tick(1) // the books begin
			run(s)
			s.settle()
			for range 3 {
				s.tick(1)
				s.settle()
			}
			if s.err != nil {
				t.Errorf("%v\n%s", s.err, strings.Join(s.trace, "\n"))
			}
		})
	}
}
