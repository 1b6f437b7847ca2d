package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// replay subscribes with history, and returns the SUBACK.
func (s *scene) replay(c *simClient, from string, id uint32, filters ...packet.Filter) *packet.Suback {
	s.t.Helper()
	n := c.conn
	n.opID++
	p := &packet.Subscribe{PacketID: n.opID, Filters: filters}
	p.Props.SubscriptionIDs = []uint32{id}
	if from != "" {
		p.Props.User = []packet.UserProperty{{Name: ReplayFrom, Value: from}}
	}
	s.model.watching = false // what it has to be stands in the test
	s.core.Packet(s.now, n, p)
	s.settle()
	return n.suback
}

func filter(name string, qos byte) packet.Filter {
	return packet.Filter{Filter: name, QoS: qos, RetainHandling: 2}
}

// What another subscription of the session has had is not delivered again for it, and what both are to have comes once.
func TestReplayIsOfItsSubscriptionAlone(t *testing.T) {
	for _, expiry := range []uint32{0, 100} {
		s := newScene(t)
		s.connect(s.a, expiry, clean)
		s.model.watching = false
		s.subscribeID(s.a, 1, filter("a/+", 1))
		s.publish("a/1", "one", 1)
		s.publish("a/2", "other", 1)
		s.got(s.a)
		s.acks(s.a)
		s.replay(s.a, "earliest", 2, filter("a/1", 2))
		s.expect(s.a, "a/1=one q1 #3 ids [2]")
		s.acks(s.a)
		s.publish("a/1", "two", 2)
		s.expect(s.a, "a/1=two q2 #4 ids [2 1]")
		s.acks(s.a)
		if s.core.Stats().Replays != 0 && expiry == 0 {
			t.Errorf("%d replays are left", s.core.Stats().Replays)
		}
	}
}

// A session that is behind: positions that are owed lie within the history, and come once, for both.
func TestReplayMeetsTheQueue(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100, clean, func(r *Connect) { r.ReceiveMaximum = 1 })
	s.model.watching = false
	s.publish("a/1", "before", 1)
	s.subscribeID(s.a, 1, filter("a/#", 1))
	for _, text := range []string{"one", "two", "three"} {
		s.publish("a/1", text, 1)
	}
	s.expect(s.a, "a/1=one q1 #1 ids [1]")
	s.replay(s.a, "earliest", 2, filter("a/1", 1))
	s.publish("a/1", "live", 1)
	var got []string
	for range 6 {
		s.a.ack(0)
		got = append(got, s.got(s.a))
	}
	want := "a/1=before q1 #2 ids [2]|a/1=one q1 #3 ids [2]|a/1=two q1 #4 ids [1 2]|a/1=three q1 #5 ids [1 2]|a/1=live q1 #6 ids [1 2]|"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
}

// A gap is told in the SUBACK, and once more in the first message after it; so is one that opens while history is under way, in a live
// message if there is no history left.
func TestReplayTellsOfGaps(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100, clean, func(r *Connect) { r.ReceiveMaximum = 1 })
	s.model.watching = false
	place := s.partOf("a/1")
	for _, text := range []string{"gone", "one", "two", "three"} {
		s.publish("a/1", text, 1)
	}
	cut := func(payload string) int64 {
		p := s.parts[place]
		i := slices.IndexFunc(p.recs, func(m Message) bool { return string(m.Payload) == payload })
		p.start = p.recs[i].Offset + 1
		p.recs = p.recs[i+1:]
		return p.start
	}
	start := cut("gone")
	a := s.replay(s.a, "offset:0", 1, filter("a/1", 1))
	if !strings.Contains(a.Props.ReasonString, "retention may have removed") || len(a.Props.User) != 1 || a.Props.User[0].Name != GapProperty || a.Codes[0] != 1 {
		t.Errorf("%+v", a)
	}
	lost := int64(0)
	for _, p := range s.parts {
		lost += p.start
	}
	if gap := s.a.conn.out[0].d; gap.Gap != lost || !gap.Replayed || start > lost {
		t.Errorf("first message: %+v, want a gap of %d", gap, lost)
	}
	s.expect(s.a, "a/1=one q1 #1 ids [1]")
	s.core.dropBuffers(s.core.links[s.a.conn]) // as a busy node does
	s.core.links[s.a.conn].session.queue.find(s.core.index[s.parts[place].part]).timed = 0
	cut("three")
	s.a.ack(0)
	s.settle()
	s.expect(s.a, "")
	s.publish("a/1", "live", 1)
	if gap := s.a.conn.out[0].d; gap.Gap != 2 || gap.Replayed {
		t.Errorf("the live message after it: %+v", gap)
	}
	s.expect(s.a, "a/1=live q1 #2 ids [1]")
	if s.counts[DropReplayGap] != 2 {
		t.Errorf("counted: %v", s.counts)
	}
	s.a.ack(0)
	s.publish("a/1", "next", 1)
	if gap := s.a.conn.out[0].d; gap.Gap != 0 {
		t.Errorf("told twice: %+v", gap)
	}
}

// What cannot be is refused, with what to write instead; what else the packet asks for is granted.
func TestReplayRefusals(t *testing.T) {
	s := newScene(t)
	s.opts.MaxReplays = 2
	s.start()
	s.settle()
	s.connect(s.a, 0, clean)
	s.model.watching = false
	refused := func(want packet.Code, reason, from string, filters ...packet.Filter) {
		t.Helper()
		a := s.replay(s.a, from, 1, filters...)
		if a.Codes[0] != want || !strings.Contains(a.Props.ReasonString, reason) {
			t.Errorf("%s %v: %v %q", from, filters, a.Codes, a.Props.ReasonString)
		}
	}
	refused(packet.ImplementationSpecificError, "write earliest", "yesterday", filter("a/#", 1))
	refused(packet.ImplementationSpecificError, "such are 90s", "-x", filter("a/#", 1))
	refused(packet.TopicFilterInvalid, "write earliest", "", filter("$replay/x/a/#", 1), filter("b/#", 1))
	refused(packet.TopicFilterInvalid, "$replay/<from>/<filter>", "", filter("$replay/earliest", 1))
	refused(packet.TopicFilterInvalid, "", "", filter("$replay/earliest/a/#/b", 1))
	refused(packet.ImplementationSpecificError, "Kafka", "earliest", filter("$share/g/a/#", 1))
	refused(packet.TopicFilterInvalid, "Kafka", "", filter("$replay/earliest/$share/g/a", 1))
	refused(packet.ImplementationSpecificError, "Kafka", "", filter("$share/g/$replay/earliest/a", 1))
	for _, f := range []string{"a/1", "a/2", "b/1"} {
		s.publish(f, "old", 1)
	}
	s.a.conn.room = 0 // nothing is read
	s.core.links[s.a.conn].room = false
	a := s.replay(s.a, "earliest", 1, filter("a/1", 1), filter("a/2", 1), filter("b/1", 1))
	if !slices.Equal(a.Codes, []packet.Code{1, 1, packet.QuotaExceeded}) || !strings.Contains(a.Props.ReasonString, "as many replays") {
		t.Errorf("%v %q", a.Codes, a.Props.ReasonString)
	}
	if n := s.core.Stats().Replays; n != 2 {
		t.Errorf("%d replays", n)
	}
	if codes := s.unsubscribe(s.a, "$replay/-15m/a/1"); codes[0] != packet.Success {
		t.Errorf("UNSUBSCRIBE: %v", codes)
	}
	if n := s.core.Stats().Replays; n != 1 {
		t.Errorf("%d replays after UNSUBSCRIBE", n)
	}
	s.a.disconnect(Lost, nil)
	s.settle()
	if n := s.core.Stats().Replays; n != 0 {
		t.Errorf("%d replays after the end of the session", n)
	}
	off := newScene(t)
	off.opts.MaxReplays = -1
	off.start()
	off.settle()
	off.connect(off.a, 0, clean, func(r *Connect) { r.Version = packet.V311 })
	off.model.watching = false
	if codes := off.replay(off.a, "", 0, filter("$replay/earliest/a", 1)).Codes; codes[0] != packet.UnspecifiedError {
		t.Errorf("switched off, to 3.1.1: %v", codes)
	}
}

// SUBSCRIBE and UNSUBSCRIBE behind one that asks for history wait for it, in order, and not without end.
func TestReplayKeepsTheOrderOfPackets(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100, clean)
	s.model.watching = false
	n := s.a.conn
	send := func(p packet.Packet) { s.core.Packet(s.now, n, p) }
	send(&packet.Subscribe{PacketID: 1, Filters: []packet.Filter{filter("$replay/earliest/a/1", 1)}})
	send(&packet.Unsubscribe{PacketID: 2, Filters: []string{"a/1"}})
	send(&packet.Subscribe{PacketID: 3, Filters: []packet.Filter{filter("a/1", 2)}})
	if len(s.core.sessions[s.a.key].queue.subs.list) != 1 || len(s.histories) != 1 {
		t.Fatal("it did not wait")
	}
	s.settle()
	if b := s.core.sessions[s.a.key].queue.subs.get("a/1"); b == nil || b.opts.qos != 2 || b.history != nil || n.suback.PacketID != 3 {
		t.Errorf("%+v %+v", b, n.suback)
	}
	send(&packet.Subscribe{PacketID: 4, Filters: []packet.Filter{filter("$replay/earliest/a/1", 1)}})
	for i := range 3 {
		send(&packet.Unsubscribe{PacketID: uint16(5 + i), Filters: make([]string, 500)})
	}
	if n.code != packet.QuotaExceeded {
		t.Errorf("closed with %v", n.code)
	}
	s.settle()
}

// A topic that is deleted takes its history with it, and the session goes on.
func TestReplayOfADeletedTopic(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 0, clean, func(r *Connect) { r.ReceiveMaximum = 1 })
	s.model.watching = false
	s.publish("a/1", "one", 1)
	s.publish("a/1", "two", 1)
	s.replay(s.a, "earliest", 1, filter("a/1", 1))
	s.expect(s.a, "a/1=one q1 #1 ids [1]")
	s.core.Deleted(s.now, s.parts[s.partOf("a/1")].part.Topic)
	s.a.ack(0)
	s.expect(s.a, "")
	if s.counts[DropReplayDeleted] == 0 || s.core.Stats().Replays != 0 {
		t.Errorf("%v, %d replays", s.counts, s.core.Stats().Replays)
	}
}

// Sessions that wait for their turn to read history all get it, also those that have several partitions to read and stop for acknowledgements
// in between.
func TestReplayReadersAllGetTheirTurn(t *testing.T) {
	s := newScene(t)
	const each = 30
	for i := range each {
		for _, name := range simTopics {
			s.publish(name, string(rune('a'+i)), 1)
		}
	}
	s.model.watching = false
	for _, c := range s.clients {
		s.connect(c, 0, clean, maximum(1))
	}
	for _, c := range s.clients {
		s.core.Packet(s.now, c.conn, &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{filter("$replay/earliest/#", 1), filter("$replay/earliest/$x/1", 1)}})
	}
	for len(s.histories) > 0 {
		s.historyOne(0)
	}
	got := map[*simClient]int{}
	for range 50_000 {
		c := s.clients[s.rnd.IntN(len(s.clients))]
		switch {
		case len(s.reads) > historyReads:
			t.Fatalf("%d reads for history at a time", len(s.reads))
		case len(s.reads) > 0 && s.chance(3):
			s.readOne(s.rnd.IntN(len(s.reads)))
		case len(c.conn.out) > 0:
			c.receive()
		case len(c.acks) > 0:
			got[c]++
			c.ack(0)
		}
	}
	for _, c := range s.clients {
		if got[c] != each*len(simTopics) {
			t.Errorf("%s has %d of %d messages", c.key.ClientID, got[c], each*len(simTopics))
		}
	}
	if st := s.core.Stats(); st.Replays != 0 {
		t.Errorf("%d replays are left", st.Replays)
	}
}

// A SUBSCRIBE whose connection is lost while the log is asked has asked for nothing: what the next connection subscribes to is not replayed
// after a crash, either.
func TestReplayEndsWithTheConnectionThatAsked(t *testing.T) {
	for _, answered := range []bool{false, true} {
		s := newScene(t)
		s.publish("a/1", "old", 1)
		s.connect(s.a, 100, clean)
		s.model.watching = false
		s.core.Packet(s.now, s.a.conn, &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{filter("$replay/earliest/a/1", 1)}})
		asked := s.histories
		s.histories = nil
		s.a.disconnect(Lost, nil)
		s.connect(s.a, 100)
		if codes := s.subscribe(s.a, filter("a/1", 1)); codes[0] != 1 {
			t.Fatal(codes)
		}
		if s.histories = asked; answered {
			s.settle()
		} else {
			s.histories = nil
		}
		s.crash()
		s.settle()
		s.connect(s.a, 100)
		s.publish("a/1", "live", 1)
		s.expect(s.a, "a/1=live q1 #1")
		if st := s.core.Stats(); st.Replays != 0 {
			t.Errorf("%d replays", st.Replays)
		}
	}
}

// What the log says of a subscription is what it has: the record of a SUBSCRIBE that follows one with history says that, too, and brings
// it when the record before it was refused.
func TestReplayComesWithTheRecordThatSaysIt(t *testing.T) {
	s := newScene(t)
	s.publish("a/1", "old", 1)
	s.connect(s.a, 100, clean)
	s.model.watching = false
	s.core.Packet(s.now, s.a.conn, &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{filter("$replay/earliest/a/1", 1)}})
	s.historyOne(0) // its record is being written
	s.a.disconnect(Lost, nil)
	n := &simConn{w: s.world, client: s.a, r: &Connect{Key: s.a.key, Version: packet.V5, Expiry: 100, ReceiveMaximum: 100}, room: 1000, wire: map[uint16]byte{}, ops: map[uint16]*modelOp{}}
	s.a.conn = n
	s.core.Connect(s.now, n, n.r)
	if !n.accepted {
		t.Fatal("CONNECT waits for a write")
	}
	s.core.Packet(s.now, n, &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{filter("a/1", 2)}})
	s.refuseNext()
	s.settle()
	s.expect(s.a, "a/1=old q1 #1")
	s.acks(s.a)
	if st := s.core.Stats(); st.Replays != 0 {
		t.Errorf("%d replays", st.Replays)
	}
}

// The replays of one account, in however many sessions, leave room for another's; the counts come back to nothing.
func TestReplaysOfOneAccount(t *testing.T) {
	s := newScene(t)
	s.opts.MaxAllReplays = 8
	s.start()
	s.settle()
	s.publish("a/1", "one", 1)
	other := s.clients[2]
	other.key.Principal = "another"
	clients := []*simClient{s.a, s.b, other}
	for _, c := range clients {
		s.connect(c, 0, func(r *Connect) { r.ReceiveMaximum = 1 })
		s.model.watching = false
		s.subscribe(c, filter("b/1", 1))
	}
	s.publish("b/1", "in the way", 1) // no session gets on with its history
	ask := func(c *simClient, filters ...string) (granted int) {
		t.Helper()
		for _, f := range filters {
			if code := s.replay(c, "earliest", 1, filter(f, 1)).Codes[0]; !code.Failed() {
				granted++
			} else if code != packet.QuotaExceeded {
				t.Fatalf("%s: %v", f, code)
			}
		}
		return granted
	}
	all := []string{"a/1", "a/#", "#", "+/1", "a/+"}
	if n := ask(s.a, all...) + ask(s.b, all...); n != 6 {
		t.Errorf("one account has %d replays of 8", n)
	}
	if n := ask(other, all...); n != 1 {
		t.Errorf("the other account has %d", n)
	}
	if r := s.core.Stats().ReplaysRefused; r != (ReplaysRefused{Account: 8}) {
		t.Errorf("refused %+v", r)
	}
	for _, c := range clients {
		c.disconnect(Lost, nil)
		s.settle()
	}
	if s.core.replays.all != 0 || len(s.core.replays.of) != 0 {
		t.Errorf("left are %+v", s.core.replays)
	}
}

// However often a client loses its connection while records say of histories, and asks for more on the next: there is a bit for each.
func TestReplaysOfManyConnections(t *testing.T) {
	s := newScene(t)
	s.publish("a/1", "old", 1)
	s.connect(s.a, 100, clean)
	s.model.watching = false
	for i := range 6 {
		if i > 0 {
			s.a.disconnect(Lost, nil)
			n := &simConn{w: s.world, client: s.a, r: &Connect{Key: s.a.key, Version: packet.V5, Expiry: 100, ReceiveMaximum: 100}, room: 1000, wire: map[uint16]byte{}, ops: map[uint16]*modelOp{}}
			s.a.conn = n
			s.core.Connect(s.now, n, n.r)
		}
		p := &packet.Subscribe{PacketID: 1}
		for k := range 8 {
			p.Filters = append(p.Filters, filter(fmt.Sprintf("$replay/earliest/a/+/%d/%d", i, k), 1))
		}
		s.core.Packet(s.now, s.a.conn, p)
		if len(s.histories) > 0 {
			s.historyOne(0) // the records are being written
		}
	}
	of := s.core.sessions[s.a.key]
	s.settle()
	var taken askers
	for _, h := range of.histories {
		if h.bit <= byQueue || h.bit >= wasPast || taken&h.bit != 0 {
			t.Fatalf("the bits of %d histories are %b, and %b", len(of.histories), taken, h.bit)
		}
		taken |= h.bit
	}
	granted, refused := len(of.histories), int(s.core.Stats().ReplaysRefused.Session)
	if granted < 16 || granted > maxHistories {
		t.Errorf("%d histories", granted)
	}
	if granted+refused != 48 {
		t.Errorf("%d are granted, %d refused", granted, refused)
	}
	if of.coming != 0 {
		t.Errorf("%d are still coming", of.coming)
	}
}
