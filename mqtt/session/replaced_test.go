package session

import (
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// changeMind unsubscribes and subscribes again before the log has answered, and has it refuse so many of the writes. What is published
// meanwhile waits.
func (s *scene) changeMind(filter string, again byte, refuse int, meanwhile ...string) {
	s.t.Helper()
	n := s.a.conn
	u := &packet.Unsubscribe{PacketID: n.opID + 1, Filters: []string{filter}}
	p := &packet.Subscribe{PacketID: n.opID + 2, Filters: []packet.Filter{{Filter: filter, QoS: again}}}
	n.opID += 2
	if isShared(filter) {
		p.Props.SubscriptionIDs = []uint32{sharedID(filter)}
	}
	s.model.unsubscribe(n, u)
	s.core.Packet(s.now, n, u)
	s.model.subscribe(n, p)
	s.core.Packet(s.now, n, p)
	for _, payload := range meanwhile {
		s.append(Message{Time: s.now, Topic: "a/1", Payload: []byte(payload), QoS: 1, Client: "someone"})
		s.feed(s.partOf("a/1"))
	}
	for ; refuse > 0; refuse-- {
		for _, t := range s.targets {
			if !t.target.Retained && len(t.writes) > 0 {
				s.refuseNext()
				s.writeOne(t)
				break
			}
		}
	}
	s.settle()
}

// TestRefusedReplacement has the log refuse an UNSUBSCRIBE and the SUBSCRIBE of the same filter that came behind it: the subscription is
// there as it was, with what came meanwhile, at once and after a restart.
func TestRefusedReplacement(t *testing.T) {
	for _, filter := range []string{"a/#", "$share/x/a/#"} {
		t.Run(filter, func(t *testing.T) {
			s := newScene(t)
			s.connect(s.a, 100)
			id, ids := uint32(0), ""
			if isShared(filter) {
				id, ids = sharedID(filter), " ids [100]"
			}
			s.subscribeID(s.a, id, packet.Filter{Filter: filter, QoS: 1})
			s.changeMind(filter, 0, 2, "meanwhile")
			s.want(s.refusals == 2 && s.a.conn.codes[0] == packet.UnspecifiedError, "%d refused, answered %v", s.refusals, s.a.conn.codes)
			s.publish("a/1", "after", 1)
			s.expect(s.a, "a/1=meanwhile q1 #1"+ids+"; a/1=after q1 #2"+ids)
			s.acks(s.a)
			s.crash()
			s.connect(s.a, 100)
			s.acks(s.a)
			s.publish("a/1", "restarted", 1)
			s.want(s.got(s.a) != "", "nothing comes after the restart")
			s.acks(s.a)
			if codes := s.unsubscribe(s.a, filter); codes[0] != packet.Success {
				t.Fatalf("UNSUBACK %v", codes)
			}
			s.publish("a/1", "over", 1)
			s.expect(s.a, "")
		})
	}
}

// TestReplacementAfterRefusal has only one of the two refused.
func TestReplacementAfterRefusal(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100)
	s.subscribe(s.a, sub1("a/#"))
	s.changeMind("a/#", 0, 1, "meanwhile") // the UNSUBSCRIBE: the new one takes the place of the old one
	s.publish("a/1", "after", 1)
	s.expect(s.a, "a/1=meanwhile q0; a/1=after q0")
	for _, b := range s.core.sessions[s.a.key].queue.subs.list {
		s.want(b.old == nil, "what was replaced is still remembered")
	}
}

// TestReplacementsAreBounded: a client cannot have the core remember any number of them.
func TestReplacementsAreBounded(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100)
	s.subscribe(s.a, sub1("a/#"))
	s.model.watching = false
	n := s.a.conn
	for range 2 * maxReplaced {
		n.opID += 2
		s.core.Packet(s.now, n, &packet.Unsubscribe{PacketID: n.opID, Filters: []string{"a/#"}})
		s.core.Packet(s.now, n, &packet.Subscribe{PacketID: n.opID + 1, Filters: []packet.Filter{sub1("a/#")}})
	}
	b := s.core.sessions[s.a.key].queue.subs.get("a/#")
	s.want(b.depth() == maxReplaced && s.a.conn.codes[0] == packet.QuotaExceeded, "%d are remembered, answered %v", b.depth(), s.a.conn.codes)
	s.settle()
}
