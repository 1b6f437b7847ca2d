package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

func (s *scene) infos(chunk int) map[string]Info {
	w := s.core.Walk()
	defer w.Stop()
	found := map[string]Info{}
	for {
		list := w.Next(nil, chunk)
		for _, in := range list {
			if _, twice := found[in.ClientID]; twice {
				s.t.Errorf("%s is visited twice", in.ClientID)
			}
			found[in.ClientID] = in
		}
		if len(list) < chunk {
			return found
		}
	}
}

func TestCensus(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100, withWill("wills/a", "gone", 5))
	s.connect(s.b, 0)
	s.subscribeID(s.a, 7, packet.Filter{Filter: "a/#", QoS: 1}, packet.Filter{Filter: "a/1", QoS: 2, NoLocal: true, RetainAsPublished: true})
	s.subscribe(s.b, packet.Filter{Filter: "#", QoS: 0})
	s.publish("a/1", "one", 1)
	in := s.infos(1)
	if a, b := in[s.a.key.ClientID], in[s.b.key.ClientID]; len(in) != 2 || a.Conn != s.a.conn || a.Will != "wills/a" || a.Subscriptions != 2 || a.Inflight != 1 ||
		a.Expiry != 100 || a.Ends != 0 || a.Behind || b.Will != "" || b.Inflight != 0 {
		t.Errorf("%+v", in)
	}
	info, subs, ok := s.core.Session(s.a.key)
	want := []Subscription{{Filter: "a/#", QoS: 1, ID: 7}, {Filter: "a/1", QoS: 2, NoLocal: true, RetainAsPublished: true, ID: 7}}
	if !ok || info.Inflight != 1 || !slices.Equal(subs, want) {
		t.Errorf("%v %+v %+v", ok, info, subs)
	}
	if !s.core.Subscribed(s.a.conn, "a/1") || s.core.Subscribed(s.a.conn, "a/+") {
		t.Error("Subscribed knows something else")
	}
	s.a.disconnect(Normal, nil)
	s.settle()
	s.publish("a/1", "two", 1)
	s.publish("a/2", "three", 1)
	if a := s.infos(100)[s.a.key.ClientID]; a.Conn != nil || a.Queued != 2 || a.Offline != s.now || a.Ends != s.now+100_000 || a.Will != "" {
		t.Errorf("%+v", a)
	}
	if _, _, ok := s.core.Session(Key{"t", "p", "nobody"}); ok {
		t.Error("nobody has a session")
	}
}

// A walk goes on while sessions come and go, and is of each at most once.
func TestWalkMeanwhile(t *testing.T) {
	s := newScene(t)
	for i := range 50 {
		k := Key{"t", "p", fmt.Sprint("extra", i)}
		s.core.sessions[k] = &session{key: k}
	}
	w := s.core.Walk()
	defer w.Stop()
	seen := map[string]bool{}
	for i := 0; ; i++ {
		list := w.Next(nil, 7)
		for _, in := range list {
			if seen[in.ClientID] || strings.HasPrefix(in.ClientID, "gone") {
				t.Fatalf("%s is visited", in.ClientID)
			}
			seen[in.ClientID] = true
		}
		if len(list) < 7 {
			break
		}
		for k := range s.core.sessions {
			if !seen[k.ClientID] {
				delete(s.core.sessions, k)
				seen[k.ClientID] = true // it must not come
				break
			}
		}
		k := Key{"t", "p", fmt.Sprint("new", i)}
		s.core.sessions[k] = &session{key: k}
	}
	for i := range 50 {
		if !seen[fmt.Sprint("extra", i)] {
			t.Errorf("extra%d is left out", i)
		}
	}
}

func TestReceivers(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 100)
	s.connect(s.b, 0)
	s.subscribe(s.a, packet.Filter{Filter: "a/#", QoS: 2}, packet.Filter{Filter: "a/+", QoS: 1})
	s.subscribe(s.b, packet.Filter{Filter: "a/1", QoS: 0})
	s.denied[s.b.key.ClientID+" a/1"] = true
	s.core.PolicyChanged(s.now)
	list, total := s.core.Receivers("a/1", 10)
	if total != 2 || len(list) != 2 || list[0].Key != s.a.key || list[0].QoS != 2 || len(list[0].Filters) != 2 || list[0].Denied || !list[1].Denied || !list[1].Connected {
		t.Errorf("%d %+v", total, list)
	}
	if list, total := s.core.Receivers("a/1", 1); len(list) != 1 || total != 2 {
		t.Errorf("%d %+v", total, list)
	}
	s.subscribe(s.b, packet.Filter{Filter: "$share/g/b", QoS: 1})
	if list, total := s.core.Receivers("b", 10); total != 1 || list[0].Group != "$share/g/b" || list[0].ClientID != "" || !list[0].Connected || list[0].Denied {
		t.Errorf("%d %+v", total, list)
	}
	if list, total := s.core.Receivers("c", 10); len(list) != 0 || total != 0 {
		t.Errorf("%d %+v", total, list)
	}
}

func TestRetainedPage(t *testing.T) {
	s := newScene(t)
	for i := range 10 {
		s.publish(fmt.Sprintf("a/%d", i), "x", 1, retain)
	}
	s.publish("a/3", "", 1, retain)
	s.publish("b", "xyz", 0, retain, expires(5))
	var names []string
	after, pages := "", 0
	for done := false; !done; pages++ {
		var list []RetainedInfo
		list, after, done = s.core.RetainedPage("a/+", after, 4, 3+pages%4)
		if len(list) > 4 {
			t.Fatalf("%d on a page", len(list))
		}
		for _, r := range list {
			names = append(names, r.Topic)
		}
	}
	if want := []string{"a/0", "a/1", "a/2", "a/4", "a/5", "a/6", "a/7", "a/8", "a/9"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	list, _, done := s.core.RetainedPage("b", "", 10, 100)
	if !done || len(list) != 1 || list[0].Bytes != 4 || list[0].QoS != 0 || list[0].Time != s.now || list[0].Expires != s.now+5000 {
		t.Errorf("%+v", list)
	}
}

func counts(c *Core) map[string]TopicCount {
	w := c.Topics()
	defer w.Stop()
	found := map[string]TopicCount{}
	for _, k := range w.Next(nil, 1<<20) {
		found[k.Topic] = k
	}
	return found
}

// Topics are counted without being asked for, and what the cache forgets is kept if it is much, and else summed up.
func TestTopicCounts(t *testing.T) {
	s := newScene(t)
	s.publish("a/1", "12345", 1)
	s.publish("a/1", "123", 0)
	s.publish("a/2", "", 0)
	s.core.Unlogged(s.now, &Message{Topic: "u", Payload: []byte("xx")})
	s.core.Receivers("nothing/came", 1)
	got := counts(s.core)
	if len(got) != 3 || got["a/1"] != (TopicCount{"a/1", 2, 8, s.now}) || got["u"] != (TopicCount{"u", 1, 2, s.now}) {
		t.Fatalf("%+v", got)
	}
	for range 5 { // one round keeps a/1 and u, which have most, or come last
		for i := range cachedTopics {
			s.core.match(fmt.Sprint("t/", i)).met(&Message{}, s.now)
		}
		s.publish("a/1", "1", 1)
		s.publish("a/1", "1", 1)
	}
	got = counts(s.core)
	if got["a/1"].Messages != 12 || got["a/1"].Bytes != 18 {
		t.Errorf("%+v", got["a/1"])
	}
	sum, topics := s.core.OtherTopics()
	for _, k := range got {
		sum.add(k)
	}
	if want := int64(3 + 1 + 5*cachedTopics + 10); sum.Messages != want || topics == 0 {
		t.Errorf("%d messages of %d, %d topics forgotten", sum.Messages, want, topics)
	}
	if len(got) > cachedTopics+keptTopics {
		t.Errorf("%d topics are kept", len(got))
	}
}

// endSession ends one, and returns what the core said.
func (s *scene) endSession(k Key) (given int64, err error) {
	s.t.Helper()
	called := 0
	s.core.EndSession(s.now, k, packet.AdministrativeAction, func(n int64, e error) { given, err = n, e; called++ })
	s.settle()
	if called != 1 {
		s.t.Fatalf("told %d times", called)
	}
	return given, err
}

func TestEndSession(t *testing.T) {
	s := newScene(t)
	if _, err := s.endSession(Key{"t", "p", "nobody"}); !errors.Is(err, ErrNoSession) {
		t.Error(err)
	}
	// Offline, with a queue.
	k := Key{"t", "p", "manual"}
	n := s.quietly(k, 100)
	s.core.Packet(s.now, n, &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{{Filter: "c", QoS: 1}}})
	s.settle()
	s.core.Disconnected(s.now, n, Lost, nil)
	for range 3 {
		s.publish("c", "x", 1)
	}
	if in, _, _ := s.core.Session(k); in.Queued != 3 {
		t.Fatalf("%+v", in)
	}
	given, err := s.endSession(k)
	if _, _, there := s.core.Session(k); given != 3 || err != nil || there || s.counts[DropSessionEnded] != 3 {
		t.Errorf("%d %v, still there %v", given, err, there)
	}
	// Connected, with a will.
	n = s.quietly(k, 100, withWill("wills/manual", "ended", 1000))
	before := s.parts[s.partOf("wills/manual")].next
	if given, err := s.endSession(k); given != 0 || err != nil {
		t.Errorf("%d %v", given, err)
	}
	if n.code != packet.AdministrativeAction || s.parts[s.partOf("wills/manual")].next == before {
		t.Errorf("closed with %v; the will fired: %v", n.code, s.parts[s.partOf("wills/manual")].next > before)
	}
	// A crash does not bring it back.
	s.crash()
	s.settle()
	if _, _, there := s.core.Session(k); there {
		t.Error("a restart brings the session back")
	}
	// One that nothing of is written.
	n = s.quietly(k, 0)
	if _, err := s.endSession(k); err != nil || n.code != packet.AdministrativeAction {
		t.Errorf("%v %v", err, n.code)
	}
}

// quietConn is a connection that the model does not watch.
type quietConn struct {
	code     packet.Code // of Close
	accepted bool
	got      []string // payloads
}

func (c *quietConn) Accept(Accepted)               { c.accepted = true }
func (c *quietConn) Refuse(packet.Code, string)    {}
func (c *quietConn) Send(packet.Packet)            {}
func (c *quietConn) Close(k packet.Code, _ string) { c.code = k }

func (c *quietConn) Deliver(d *Delivery) bool {
	c.got = append(c.got, string(d.Msg.Payload))
	return true
}

func (s *scene) quietly(k Key, expiry uint32, change ...func(*Connect)) *quietConn {
	s.t.Helper()
	r := &Connect{Key: k, Version: packet.V5, Expiry: expiry, ReceiveMaximum: 100}
	for _, f := range change {
		f(r)
	}
	c := &quietConn{}
	s.core.Connect(s.now, c, r)
	s.settle()
	if !c.accepted {
		s.t.Fatal("not accepted")
	}
	return c
}

// Who counts expired sessions hears of those that the clock ends, with a will or without, and of no others.
func TestExpiredIsTold(t *testing.T) {
	s := newScene(t)
	var expired []string
	s.core.o.Expired = func(k Key) { expired = append(expired, k.ClientID) }
	for i, id := range []string{"plain", "will", "ended", "away"} {
		k := Key{"t", "p", id}
		n := s.quietly(k, []uint32{5, 5, 5, 100}[i], withWill("wills/x", "x", uint32(10*(i%2))))
		s.core.Disconnected(s.now, n, Lost, nil)
		s.settle()
	}
	s.endSession(Key{"t", "p", "ended"})
	s.later(6)
	slices.Sort(expired)
	if !slices.Equal(expired, []string{"plain", "will"}) {
		t.Errorf("%q", expired)
	}
}

// What a member of a group had is not given up with its session: another member gets it.
func TestEndSessionOfMember(t *testing.T) {
	s := newScene(t)
	ka, kb := Key{"t", "p", "member a"}, Key{"t", "p", "member b"}
	conns := map[Key]*quietConn{}
	for _, k := range []Key{ka, kb} {
		conns[k] = s.quietly(k, 100)
		s.core.Packet(s.now, conns[k], &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{{Filter: "$share/g/c", QoS: 1}}})
		s.settle()
	}
	for i := range 10 {
		s.publish("c", fmt.Sprint(i), 1)
	}
	if n := len(conns[ka].got); n == 0 || n == 10 {
		t.Fatalf("one member has %d", n)
	}
	if given, err := s.endSession(ka); given != 0 || err != nil {
		t.Errorf("%d %v", given, err)
	}
	s.settle()
	got := slices.Compact(slices.Sorted(slices.Values(conns[kb].got)))
	if len(got) != 10 {
		t.Errorf("the other member has %q", got)
	}
}
